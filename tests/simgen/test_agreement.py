"""The spread of log p(x | theta) + log p(theta) - log q(theta | x), against closed forms."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.agreement import cross_check

D, X = 3, torch.tensor([0.5, -1.0, 2.0])
SD = 1 / math.sqrt(5.0)  # of the posterior under N(0, 1) and noise of 0.5


def prior(sd: float = 1.0) -> simgen.Prior:
    return simgen.Prior(a=Normal(0.0, sd), b=Normal(0.0, sd), c=Normal(0.0, sd))


def likelihood(x, theta):
    return Normal(theta, 0.5).log_prob(x).sum(-1)


def posterior(ratio: float = 1.0, shift: float = 0.0):
    return lambda x: Independent(Normal(0.8 * x + shift * SD, ratio * SD), 1)


EVIDENCE = float(Normal(0.0, math.sqrt(1.25)).log_prob(X).sum())


def test_the_right_posterior_has_no_spread():
    found = cross_check(posterior(), likelihood, X, prior())
    assert found.spread < 1e-4 and found.agrees and found.correctable
    assert abs(found.evidence - EVIDENCE) < 1e-4 and found.evidence.error < 1e-4
    assert found.efficiency > 0.9999 and found.divergence < 1e-4 and found.outside == 0
    assert max(map(abs, found.shifts)) < 1e-3 and "either may be used" in found.verdict


@pytest.mark.parametrize("ratio", [0.8, 1.1, 1.25])
def test_spread_of_a_wrong_width(ratio):
    """c = const - (r^2 - 1) chi^2_d / 2, and KL = d (r^2 - 1 - log r^2) / 2."""
    found = cross_check(posterior(ratio), likelihood, X, prior(), draws=20_000)
    expected = math.sqrt(D / 2) * abs(ratio**2 - 1)
    assert found.spread == pytest.approx(expected, rel=0.05)
    assert abs(found.evidence - EVIDENCE) < 4 * found.evidence.error
    kl = D / 2 * (ratio**2 - 1 - math.log(ratio**2))
    assert found.divergence == pytest.approx(kl, abs=4 * expected / math.sqrt(20_000))
    for width in found.widths:
        assert width == pytest.approx(1 / ratio, rel=0.06)


@pytest.mark.parametrize("shift", [0.1, 0.5])
def test_spread_of_a_wrong_mean(shift):
    found = cross_check(posterior(shift=shift), likelihood, X, prior(), draws=20_000)
    assert found.spread == pytest.approx(shift * math.sqrt(D), rel=0.03)
    for moved in found.shifts:
        assert moved == pytest.approx(-shift, abs=0.05)
    # E[w^2] = exp(delta^2) a column
    assert found.efficiency == pytest.approx(math.exp(-D * shift**2), rel=0.1)


@pytest.mark.parametrize(
    ("ratio", "shift", "word"),
    [(1.0, 0.1, "they agree"), (1.2, 0.0, "a little"), (1.5, 0.5, "much"), (0.3, 0, "contradict")],
)
def test_the_sentence(ratio, shift, word):
    found = cross_check(posterior(ratio, shift), likelihood, X, prior())
    assert word in found.verdict and word in str(found)
    assert found.agrees == (word == "they agree")
    assert found.correctable == (word != "contradict")
    assert found.contradicts == (word in ("much", "contradict"))
    if word == "contradict":
        assert "trust neither" in found.verdict


def test_draws_outside_the_prior_are_counted_and_said():
    box = simgen.Prior(a=Uniform(0.0, 1.0))
    wide = lambda x: Independent(Normal(x, 0.5), 1)  # noqa: E731
    flat = lambda x, theta: 0 * theta[:, 0]  # noqa: E731
    found = cross_check(wide, flat, torch.tensor([0.0]), box, draws=20_000)
    share = 1 - (0.9772499 - 0.5)
    assert found.outside == pytest.approx(share, abs=0.02)
    assert abs(found.evidence) < 4 * found.evidence.error and not found.agrees
    assert "no" in found.verdict and "of the draws" in found.verdict


def test_a_surrogate_as_a_callable_of_theta_and_what_is_refused():
    def surrogate(theta):
        return Independent(Normal(theta, 0.5), 1)

    surrogate.expression, surrogate.given = "x | theta", ("theta",)  # type: ignore[attr-defined]
    found = cross_check(posterior(), surrogate, X, prior())
    assert found.spread < 1e-4
    with pytest.raises(ValueError, match="give prior="):
        cross_check(posterior(), likelihood, X)
    with pytest.raises(ValueError, match="100 draws"):
        cross_check(posterior(), likelihood, X, prior(), draws=10)
    with pytest.raises(ValueError, match="batch"):
        cross_check(posterior(), likelihood, X.expand(2, 3), prior())
    with pytest.raises(ValueError, match="one number a row"):
        cross_check(posterior(), lambda x, theta: theta, X, prior())
    inner = lambda x: Independent(Uniform(x - 1.0, x + 1.0), 1)  # noqa: E731
    with pytest.raises(ValueError, match="wider than the posterior"):
        cross_check(inner, likelihood, X, prior())
