"""The linear-Gaussian layer: its start is the exact posterior."""

import pytest
import torch

from simgen.models.layer import Part
from simgen.models.linear_gaussian import LinearGaussian


@pytest.mark.parametrize("angles", [0, 1])
def test_start_is_the_exact_posterior(angles):
    torch.manual_seed(0)
    n = 20_000
    c = torch.randn(n, 3)
    a = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, -1.0]])
    factor = torch.tensor([[0.3, 0.0], [0.2, 0.1]])
    z = c @ a + 1.0 + torch.randn(n, 2) @ factor.T
    layer = LinearGaussian(2, 3)
    if angles:
        angle = torch.rand(n, 1)
        z = torch.cat((z[:, :1], angle, z[:, 1:]), 1)
        layer = Part(layer, [0, 2], 3)
    layer.initialise(z, (c, None))
    with torch.no_grad():
        noise, ladj = layer.call_and_ladj(z, (c, None))
        back = layer.inverse(noise, (c, None))
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-4)
    if angles:
        assert torch.equal(noise[:, 1:2], angle)
        noise = noise[:, [0, 2]]
    assert (noise.T.cov() - torch.eye(2)).abs().max() < 1e-3 and noise.mean(0).abs().max() < 1e-4
    # four standard errors of half a log-determinant of two variances
    assert (ladj + factor.diagonal().log().sum()).abs().max() < 4 / n**0.5


def test_without_context_it_is_a_gaussian():
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    z = torch.randn(20_000, 2) @ factor.T
    layer = LinearGaussian(2, 0)
    layer.initialise(z, (None, None))
    with torch.no_grad():
        noise, ladj = layer.call_and_ladj(z, (None, None))
    assert (noise.T.cov() - torch.eye(2)).abs().max() < 1e-3
    assert abs(float(ladj[0] + factor.diagonal().log().sum())) < 0.03
