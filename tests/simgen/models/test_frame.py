"""The frame: least squares, axes, inverses."""

import pytest
import torch

from simgen.models.frame import Frame


def data(n=20_000):
    torch.manual_seed(0)
    c = torch.randn(n, 2)
    root = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.1, 0.0], [0.0, 0.2, 0.4]])
    shift = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])
    return c @ shift + 0.7 + torch.randn(n, 3) @ root.T, c, shift, root @ root.T


@pytest.mark.parametrize("rotate", [True, False])
def test_least_squares_and_axes(rotate):
    z, c, shift, covariance = data()
    frame = Frame(3, 2, rotate)
    frame.initialise(z, c)
    torch.testing.assert_close(frame.weight, shift, rtol=0, atol=0.02)
    torch.testing.assert_close(frame.bias, torch.full((3,), 0.7), rtol=0, atol=0.02)
    u = frame.into(z, torch.ones(()), frame.mean(c)).detach()
    torch.testing.assert_close(u.var(0), frame.variance, rtol=1e-3, atol=1e-4)
    if rotate:
        back = frame.axes @ torch.diag(frame.variance) @ frame.axes.T
        torch.testing.assert_close(back, covariance, rtol=0, atol=0.02)
        torch.testing.assert_close(u.T.cov(), torch.diag(frame.variance), rtol=0, atol=1e-4)
    else:
        assert torch.equal(frame.axes, torch.eye(3))


def test_noise_stays_isotropic_and_the_map_is_undone():
    z, c, _, _ = data(200)
    frame = Frame(3, 2)
    frame.initialise(z, c)
    alpha, eps = torch.tensor(0.3), torch.randn(200, 3)
    mean = frame.mean(c)
    noisy = frame.into(alpha * z + 0.9 * eps, alpha, mean)
    clean = alpha * frame.into(z, torch.ones(()), mean)
    torch.testing.assert_close((noisy - clean).norm(dim=1), 0.9 * eps.norm(dim=1))
    torch.testing.assert_close(
        frame.back(noisy, alpha, mean), alpha * z + 0.9 * eps, rtol=1e-4, atol=1e-5
    )


def test_without_context():
    z, _, _, _ = data()
    frame = Frame(3)
    frame.initialise(z, None)
    torch.testing.assert_close(frame.mean(None), z.mean(0))
    assert not list(frame.parameters())
