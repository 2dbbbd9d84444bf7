"""Chains: what counts as converged, and what does not."""

import pytest
import torch

from simgen.samplers.chains import Chains


def chains_of(draws, divergences=0):
    return Chains(draws, torch.zeros(draws.shape[:2]), 1.0, divergences, draws.numel(), 1)


def independent(chains=8, n=250, d=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(chains, n, d, generator=generator)


def test_independent_draws_count_once_each():
    chains = chains_of(independent())
    assert chains.converged and chains.problem is None
    assert chains.flat.shape == (2000, 2)
    assert chains.rhat.shape == (2,) and bool((chains.rhat < 1.01).all())
    for ess in (chains.ess_bulk, chains.ess_tail):
        assert bool(((ess > 1500) & (ess < 2500)).all())


def test_an_autoregression_counts_by_its_autocorrelation():
    """x' = 0.8 x + noise has 1 + 2 sum 0.8^t = 9 draws for one effective."""
    noise = independent(8, 4000, 1)
    draws = noise.clone()
    for i in range(1, 4000):
        draws[:, i] = 0.8 * draws[:, i - 1] + 0.6 * noise[:, i]
    ess = float(chains_of(draws).ess_bulk[0])
    assert ess == pytest.approx(32_000 / 9, rel=0.15)


def shifted(draws):
    draws = draws.clone()
    draws[0, :, 1] += 3
    return draws


def wider(draws):
    return draws * torch.tensor([4.0] * 4 + [1.0] * 4)[:, None, None]


def drifting(draws):
    return draws + torch.linspace(0, 2, draws.shape[1])[:, None]


@pytest.mark.parametrize(
    "spoil, says",
    [
        (shifted, "R-hat of column 1"),
        (wider, "R-hat of column"),
        (drifting, "R-hat of column"),
        (lambda x: x[:, :40], "effective sample size of column"),
        (lambda x: x[:1], "2 chains of 4 draws"),
        (lambda x: x[:, :3], "2 chains of 4 draws"),
        (lambda x: torch.where(x > 3, torch.inf, x), "not finite"),
        (lambda x: x[:1, :1].expand(8, 100, 2), "never moved"),
    ],
)
def test_what_speaks_against_draws(spoil, says):
    chains = chains_of(spoil(independent()))
    assert not chains.converged and says in chains.problem


def test_many_divergences_speak_against_draws():
    assert chains_of(independent(), divergences=20).converged
    assert "diverged" in chains_of(independent(), divergences=21).problem
