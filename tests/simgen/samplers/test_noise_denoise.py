"""Chains that noise and denoise: what switches the likelihood on."""

import pytest
import torch

import simgen.samplers.noise_denoise as module
from simgen.gaussian import GaussianPrior
from simgen.samplers.denoising import ClosedForm
from simgen.samplers.noise_denoise import noise_denoise


def test_a_likelihood_that_is_not_whole_is_no_answer(monkeypatch):
    """Nothing says of chains that they are at a power of the likelihood: so there are none."""
    monkeypatch.setattr(module, "_MOST", 20)
    prior = ClosedForm(GaussianPrior(torch.zeros(2).double(), 1.0))
    generator = torch.Generator().manual_seed(0)

    def likelihood(x):
        return -0.5 * ((x - 1e6) / 1e-3).square().sum(-1)

    with pytest.raises(ValueError, match="far from what the prior predicts"):
        noise_denoise(prior, likelihood, prior.draw(64, generator), 4, 4, generator)
