"""The marginal layer: makes any field of one curve Gaussian, at the start."""

import torch

from simgen.models.marginal import Marginal


def test_the_start_undoes_a_lognormal_curve():
    torch.manual_seed(0)
    g = torch.randn(600, 2, 16, 16)
    x = torch.stack((g[:, 0].mul(0.8).exp(), -2 + 3 * g[:, 1]), 1)
    layer = Marginal(2, 0)
    layer.initialise(x, (None, None))
    with torch.no_grad():
        y, ladj = layer.call_and_ladj(x, (None, None))
        back = layer.inverse(y[None], (None, None))[0]
    assert (y - g).abs().mean() < 0.02  # a spline of 16 pieces through exact quantiles
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    exact = (
        -(x[:, 0].log() + torch.tensor(0.8).log()).flatten(1).sum(1)
        - 256 * torch.tensor(3.0).log()
    )
    # of log-likelihood of 256 pixels each
    normal = -0.5 * (y.square() - g.square()).flatten(1).sum(1)
    assert abs(float((exact - ladj - normal).mean())) < 0.01 * 512


def test_the_context_moves_the_curve():
    torch.manual_seed(0)
    layer = Marginal(1, 2)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
        x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
        c = torch.randn(2, 2)
        y, _ = layer.call_and_ladj(x, (c, None))
        alone, _ = layer.call_and_ladj(x[1:], (c[1:], None))
    assert (y[0] - y[1]).abs().min() > 1e-3
    torch.testing.assert_close(y[1:], alone)
