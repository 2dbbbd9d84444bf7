r"""Exact Gaussian posteriors pass, every classical mistake fails.

theta ~ N(0, I), x ~ N(theta, s^2): theta | x ~ N(x / (1 + s^2), s^2 / (1 + s^2)).
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
)

import simgen
from simgen.calibration import Verdict, calibrate
from simgen.models.categorical import Categorical

NOISE = 0.5
SD = (NOISE**2 / (1 + NOISE**2)) ** 0.5


def pairs(n: int, d: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, d])
    theta = rng.standard_normal((n, d)).astype(np.float32)
    return {"theta": theta, "x": theta + NOISE * rng.standard_normal((n, d)).astype(np.float32)}


def posterior(kind: str):
    def q(x: torch.Tensor) -> Distribution:
        mean = x / (1 + NOISE**2)
        sd = torch.full_like(mean, SD)
        if kind == "shifted":
            mean = mean + 0.3 * SD
        elif kind == "swapped":
            mean = mean.flip(-1)
        elif kind == "prior":
            mean, sd = torch.zeros_like(mean), torch.ones_like(sd)
        elif kind == "prior of one":
            first = torch.arange(x.shape[-1]) == 0
            mean, sd = torch.where(first, 0.0, mean), torch.where(first, 1.0, sd)
        elif kind.startswith("width"):
            sd = float(kind.split()[1]) * sd
        return Independent(Normal(mean, sd), 1)

    return q


def judge(kind: str, n: int = 500, d: int = 2, seed: int = 0) -> Verdict:
    return calibrate(posterior(kind), pairs(n, d, seed), n=n, seed=seed, progress=False)


def smallest(verdict: Verdict) -> float:
    return min(row["p_corrected"] for row in verdict.table if row["p_value"] is not None)


def test_exact_posteriors_pass_as_often_as_promised() -> None:
    failed = sum(not judge("exact", n=200, d=2, seed=seed).passed for seed in range(100))
    assert failed <= 5  # at 1 %, more than 5 of 100 has probability 5e-4


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("kind", ["width 0.7", "width 1.4", "shifted", "swapped", "prior"])
def test_mistakes_fail_with_every_seed(kind: str, d: int) -> None:
    for seed in range(5):
        verdict = judge(kind, d=d, seed=seed)
        assert not verdict.passed
        assert smallest(verdict) < 1e-3, (kind, d, seed, str(verdict))


def test_mistakes_are_called_by_their_name() -> None:
    assert "too narrow: 0.7" in judge("width 0.7").row("ranks", "theta_0")["finding"]
    assert "too wide" in judge("width 1.4").row("ranks", "theta_1")["finding"]
    assert judge("width 0.7").row("coverage")["finding"] == "overconfident"
    assert judge("width 1.4").row("coverage")["finding"] == "underconfident"
    assert "high by 0.3" in judge("shifted", n=2000).row("ranks", "theta_0")["finding"]


@pytest.mark.parametrize("d", [2, 5])
def test_a_wrong_correlation_passes_every_rank_of_a_parameter_and_fails_two_checks(d: int) -> None:
    def q(x: torch.Tensor) -> Distribution:
        covariance = SD**2 * torch.eye(d)
        covariance[0, 1] = covariance[1, 0] = 0.5 * SD**2
        return MultivariateNormal(x / (1 + NOISE**2), covariance)

    for seed in range(3):
        verdict = calibrate(q, pairs(1000, d, seed), seed=seed, progress=False)
        assert not verdict.row("correlation")["passed"] and not verdict.row("c2st")["passed"]
        assert verdict.row("ranks", "theta_0")["passed"]
        assert verdict.row("correlation")["statistic"] == pytest.approx(-0.5, abs=0.12)
        text = verdict.row("correlation")["finding"]
        assert text.startswith("theta_0 and theta_1: true values correlate by")
        assert "the product of theta_0 and theta_1" in verdict.row("c2st")["finding"]


def test_what_is_wrong_in_one_region_alone_is_found_there() -> None:
    def q(x: torch.Tensor) -> Distribution:
        scale = torch.where(x[:, :1] > 0, 0.75, 1 / 0.75)
        return Independent(Normal(x / (1 + NOISE**2), SD * scale.expand_as(x)), 1)

    verdict = calibrate(q, pairs(1000, 2, 0), progress=False)
    row, text = verdict.row("local", "theta_0"), verdict.row("local", "theta_0")["finding"]
    assert not row["passed"] and not verdict.row("c2st")["passed"]
    assert ("too narrow where" in text) == ("is high" in text) and "_0 is" in text
    assert "how that depends on x" in verdict.row("c2st")["finding"]


def test_the_prior_passes_sbc_and_is_flagged() -> None:
    verdict = judge("prior")
    assert verdict.row("ranks", "theta_0")["passed"] and verdict.row("coverage")["passed"]
    assert not verdict.row("tarp")["passed"] and verdict.row("tarp")["p_value"] < 1e-10
    assert verdict.uninformative == ("theta_0", "theta_1")
    assert "Uninformative" in verdict.headline


def test_the_prior_of_one_parameter_is_flagged_for_that_one() -> None:
    verdict = judge("prior of one", d=3)
    assert not verdict.row("dependence", "theta_0")["passed"]
    assert verdict.row("dependence", "theta_1")["passed"]
    assert verdict.uninformative == ("theta_0",)
    assert verdict.row("contraction", "theta_1")["statistic"] == pytest.approx(1 - SD**2, abs=0.05)


def test_an_honest_posterior_that_x_does_not_inform_passes_but_says_so() -> None:
    rng = np.random.default_rng(0)
    data = {"theta": rng.standard_normal((400, 1)), "x": rng.standard_normal((400, 2))}
    q = lambda x: Independent(Normal(torch.zeros(len(x), 1).double(), 1.0), 1)  # noqa: E731
    verdict = calibrate(q, data, progress=False)
    assert verdict.passed and verdict.uninformative == ("theta",)


def test_discrete_targets_are_ranked_with_random_ties() -> None:
    rng = np.random.default_rng(1)
    rate = rng.gamma(2.0, 1.0, (400, 1)).astype(np.float32)
    data = {"n": rng.poisson(rate), "rate": rate}

    def q(rate: torch.Tensor, factor: float = 1.0) -> Distribution:
        return Independent(Poisson(factor * rate), 1)

    assert calibrate(q, data, expression="n | rate", progress=False).passed
    wrong = calibrate(lambda r: q(r, 1.5), data, expression="n | rate", progress=False)
    assert not wrong.passed


def test_without_given_draws_are_compared_with_rows() -> None:
    data = {"x": pairs(400, 3, 0)["theta"]}
    good = calibrate(
        lambda: Independent(Normal(torch.zeros(3), 1.0), 1), data, expression="x", progress=False
    )
    bad = calibrate(
        lambda: Independent(Normal(torch.zeros(3), 1.4), 1), data, expression="x", progress=False
    )
    assert good.passed and not bad.passed
    assert not any(row["check"] == "contraction" for row in good.table)


def test_large_targets_are_ranked_through_projections_or_given_statistics() -> None:
    rng = np.random.default_rng(2)
    theta = rng.standard_normal((300, 1)).astype(np.float32)
    images = (theta[:, :, None, None] + rng.standard_normal((300, 1, 8, 8))).astype(np.float32)
    data = {"theta": theta, "x": images}

    def q(theta: torch.Tensor, width: float = 1.0) -> Distribution:
        mean = theta[..., None, None].expand(-1, 1, 8, 8)
        return Independent(Normal(mean, width), 3)

    kwargs = {"expression": "x | theta", "progress": False, "draws": 63}
    verdict = calibrate(q, data, **kwargs)
    assert verdict.passed and "64 numbers" in verdict.notes[0]
    assert not calibrate(lambda t: q(t, 0.8), data, **kwargs).passed
    power = {"power": lambda x: x.square().sum((-3, -2, -1))}
    verdict = calibrate(lambda t: q(t, 0.95), data, statistics=power, **kwargs)
    assert not verdict.row("ranks", "power")["passed"]
    with pytest.raises(ValueError, match=r"'flat' must map \(\.\.\., \*event\)"):
        calibrate(q, data, statistics={"flat": lambda x: x.flatten()}, **kwargs)


def test_information_is_reported_where_the_prior_is_known() -> None:
    q = posterior("exact")

    class Model:
        expression, names = "theta | x", ("a", "b")
        provenance: dict = {}  # noqa: RUF012
        prior = SimpleNamespace(
            log_prob=lambda theta: Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(theta)
        )

        def __call__(self, x: torch.Tensor) -> Distribution:
            return q(x)

    verdict = calibrate(Model(), pairs(2000, 2, 0), n=2000, progress=False)
    row = verdict.row("information")
    # Mutual information of two independent Gaussian channels: log(1 + 1 / s^2).
    assert row["statistic"] == pytest.approx(np.log(1 + 1 / NOISE**2), abs=0.1)
    assert verdict.row("ranks", "a")["passed"]


def test_a_density_is_not_needed() -> None:
    class Draws(Distribution):
        density = None
        arg_constraints: dict = {}  # noqa: RUF012

        def __init__(self, base: Distribution) -> None:
            self.base = base
            super().__init__(base.batch_shape, base.event_shape, validate_args=False)

        def sample(self, sample_shape=()):
            return self.base.sample(sample_shape)

    q = posterior("width 0.7")
    verdict = calibrate(lambda x: Draws(q(x)), pairs(300, 2, 0), progress=False)
    assert not verdict.passed and "no density" in verdict.notes[0]
    assert "coverage" not in {row["check"] for row in verdict.table}


def test_the_same_seed_gives_the_same_verdict_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert judge("exact", n=100) == judge("exact", n=100)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bad_input_is_one_sentence() -> None:
    q, data = posterior("exact"), pairs(50, 2, 0)
    with pytest.raises(ValueError, match=r"no field .y..*theta, x"):
        calibrate(q, data, expression="theta | y", progress=False)
    with pytest.raises(ValueError, match="at least 20 pairs"):
        calibrate(q, {k: v[:10] for k, v in data.items()}, progress=False)
    with pytest.raises(ValueError, match="number of rows"):
        calibrate(q, {"theta": data["theta"], "x": data["x"][:40]}, progress=False)
    with pytest.raises(ValueError, match="draws >= 20"):
        calibrate(q, data, draws=5, progress=False)


@pytest.mark.parametrize("family", [Categorical(), simgen.Ensemble(Categorical(), 2)])
def test_probabilities_of_classes_are_for_another_judge(family):
    """They have no ranks: said before anything is drawn, with the name of who judges them."""
    rows = {"model": np.eye(2)[[0, 1] * 50], "x": np.zeros((100, 1))}
    classifier = SimpleNamespace(expression="model | x", family=family)
    with pytest.raises(ValueError, match=r"have no ranks.*Models\.calibrate.*reliability"):
        calibrate(classifier, rows)
