"""Distributions of noise levels: quantile against density, strata, marginals."""

import math

import pytest
import torch

from simgen.models.noise_levels import NOISES, NoiseLevels, stratified
from simgen.models.process import PROCESSES


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("name", list(PROCESSES))
def test_density_is_the_slope_of_the_quantile(kind, name):
    process = PROCESSES[name](1e-3, 80.0, 0.5)
    noise = NoiseLevels(process, kind, -0.5, 1.3)
    u = torch.linspace(0.001, 0.999, 50, dtype=torch.float64).requires_grad_()
    ell = noise.quantile(u)
    (slope,) = torch.autograd.grad(ell.sum(), u)
    torch.testing.assert_close(noise.log_density(ell.detach()).exp(), 1 / slope)
    ends = noise.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1e-3, 80.0]).double().log())


def test_the_logistic_distribution_is_centred_on_the_scale():
    for scale in (0.1, 1.0):
        noise = NoiseLevels(PROCESSES["edm"](1e-3, 80.0, scale), location=-1.0)
        below, peak, above = noise.log_density(math.log(scale) - 1 + torch.tensor([-1.0, 0, 1]))
        assert peak > below and abs(float(below - above)) < 1e-5


def test_strata():
    torch.manual_seed(0)
    u = stratified(64, 4, torch.device("cpu"))
    assert u.shape == (4, 64)
    # a level of each row in each quarter; the rows divide a quarter evenly
    assert torch.equal((4 * u).long(), torch.arange(4)[:, None].expand(4, 64))
    cells = ((4 * u) % 1 * 64).long().sort(1).values
    assert (cells - torch.arange(64)).abs().max() <= 1
    # every number by itself is uniform in its quarter
    first = torch.stack([stratified(8, 2, torch.device("cpu"))[0, 0] for _ in range(4000)])
    assert abs(float(first.mean()) - 0.25) < 4 * 0.5 / math.sqrt(12 * 4000)
