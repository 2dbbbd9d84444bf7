"""Noise levels: even for a Gaussian, dense where a mixture decides between its components."""

import math

import pytest
import torch

from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.samplers.denoising import ClosedForm
from simgen.samplers.levels import Levels, levels


def two(gap):
    means = torch.tensor([[-gap / 2], [gap / 2]], dtype=torch.float64)
    return ClosedForm(MixturePrior(torch.tensor([0.3, 0.7]), means, torch.eye(1).double()))


def test_a_gaussian_has_levels_of_equal_factors():
    prior = ClosedForm(
        GaussianPrior(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4, 9])))
    )
    chosen = torch.tensor(prior.levels.choose(9))
    ratios = chosen[1:] / chosen[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(8))
    assert chosen[0] == pytest.approx(prior.largest) and chosen[-1] == pytest.approx(0.05)
    assert not prior.levels.bent(1.0) and not prior.levels.bent(math.inf)


@pytest.mark.parametrize("gap", [4.0, 40.0, 400.0])
def test_a_mixture_has_most_levels_where_its_components_part(gap):
    """Two components part where the noise is about a third to all of their distance."""
    prior = two(gap)
    chosen = torch.tensor(prior.levels.choose(200))
    assert (chosen.diff() < 0).all()
    assert chosen[0] == pytest.approx(prior.largest) and chosen[-1] == pytest.approx(
        prior.smallest
    )
    middle = ((chosen > gap / 10) & (chosen < gap)).double().mean()
    even = math.log(10) / math.log(prior.largest / prior.smallest)
    assert middle > 1.4 * even
    assert prior.levels.bent(gap / 4) and not prior.levels.bent(prior.smallest)
    assert not prior.levels.bent(math.inf) and not prior.levels.bent(0.0)


@pytest.mark.parametrize("gap", [8.0, 20.0])
def test_the_same_steps_make_a_smaller_error(gap):
    """The largest difference of distribution functions after 12 steps: about half of that of even
    levels; of 40,000 exact draws it would be .004.
    """
    prior, n = two(gap), 40_000
    means, weights = prior.prior.means.flatten(), prior.prior.log_weights.exp()

    def error(grid):
        generator = torch.Generator().manual_seed(0)
        x = torch.full((n, 1), float(weights @ means), dtype=torch.float64)
        for high, low in grid:
            mean, V = prior.moments(x, min(high, prior.farthest))
            tau = (low / high) ** 2
            noise, fresh = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
            x_0 = mean + V.root(noise)
            x = (1 - tau) * x_0 + tau * x + low * math.sqrt(1 - tau) * fresh
        x = x.sort(0).values
        exact = torch.special.ndtr(x - means) @ weights
        return float((exact - torch.arange(1, n + 1) / n).abs().max())

    even = Levels.even(prior).choose(11)
    assert error(levels(prior, 12)) < 0.8 * error(zip([math.inf, *even], [*even, 0.0]))


def test_a_prior_of_which_nothing_is_known_has_even_levels():
    class Bare:
        size, smallest, largest, farthest, evaluations = 2, 0.1, 10.0, 100.0, 0

    grid = levels(Bare(), 4)
    assert [low for _, low in grid] == pytest.approx([10.0, 1.0, 0.1, 0.0])
