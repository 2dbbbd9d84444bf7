"""Which simulator: evidences, and a classifier, against two Gaussian models in closed form."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import simgen
from simgen.answers.posterior import Evidence
from simgen.calibration.reliability import reliability
from simgen.model_choice import fit_models, load_models
from simgen.model_comparison import compare

ROWS = {"narrow": 6_000, "wide": 3_000}
SD = {"narrow": 0.5, "wide": 2.0}  # of the prior of the mean of two measurements


def simulated(name: str, n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    theta = SD[name] * rng.standard_normal((n, 1))
    x = theta + rng.standard_normal((n, 2))
    return {"theta": theta.astype(np.float32), "x": x.astype(np.float32)}


def exact(x: torch.Tensor) -> torch.Tensor:
    """log p(x | M) (n, 2): x ~ N(0, I + sd^2 1 1^T)."""
    out = []
    for sd in SD.values():
        covariance = torch.eye(2, dtype=torch.float64) + sd**2
        normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
        out.append(normal.log_prob(x.double()))
    return torch.stack(out, -1)


# Evidences


def test_bayes_factors_of_posteriors_in_closed_form():
    x = torch.tensor([1.5, 0.7])
    found = {}
    for name, sd in SD.items():
        prior = simgen.Prior(mu=Normal(0.0, sd))
        found[name] = simgen.infer(
            prior,
            lambda x, theta: Normal(theta, 1.0).log_prob(x).sum(-1),
            x,
            proposal=Independent(Normal(torch.tensor([0.7]), 0.8), 1),
        )
    result = compare(found)
    truth = exact(x[None])[0]
    factor = result.log_bayes_factor("narrow", "wide")
    assert abs(factor - float(truth[0] - truth[1])) < 4 * factor.error
    p = truth.softmax(0)
    assert abs(result["narrow"] - float(p[0])) < 4 * float(result.errors[0])
    assert result.best == ("narrow" if p[0] > 0.5 else "wide")
    tilted = compare(found, prior={"wide": 9.0, "narrow": 1.0})
    expected = (truth + torch.tensor([0.1, 0.9]).log()).softmax(0)
    assert abs(tilted["wide"] - float(expected[1])) < 4 * float(tilted.errors[1])
    assert tilted.log_bayes_factor("narrow", "wide") == factor


def test_errors_of_probabilities_are_those_of_repetition():
    values, errors = torch.tensor([0.0, -1.0, -0.5]), torch.tensor([0.05, 0.1, 0.2])
    found = compare({k: Evidence(float(v), float(e)) for k, v, e in zip("abc", values, errors)})
    torch.manual_seed(0)
    repeated = (values + errors * torch.randn(20_000, 3)).softmax(-1)
    torch.testing.assert_close(found.errors.float(), repeated.std(0), rtol=0.05, atol=0)
    assert float(found.probabilities.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("gap", "word"), [(0.5, "mention"), (2, "positive"), (4, "is strong"), (9, "very strong")]
)
def test_words(gap, word):
    assert word in compare({"a": gap, "b": 0.0}).verdict
    assert word in repr(compare({"b": 0.0, "a": gap}))
    assert "which is ahead" in compare({"a": (gap, gap), "b": 0.0}).verdict


def test_what_is_refused():
    with pytest.raises(ValueError, match="two models or more"):
        compare({"a": 0.0})
    with pytest.raises(ValueError, match="must be finite"):
        compare({"a": math.nan, "b": 0.0})
    with pytest.raises(ValueError, match="gives odds of a, b"):
        compare({"a": 1.0, "b": 0.0}, prior={"a": 1.0})
    with pytest.raises(ValueError, match="positive"):
        compare({"a": 1.0, "b": 0.0}, prior={"a": 1.0, "b": 0.0})
    with pytest.raises(KeyError, match="no model 'c'"):
        compare({"a": 1.0, "b": 0.0})["c"]


# Reliability


def _classes(p: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((len(p), 1)) > p.cumsum(1)).sum(1).clip(max=p.shape[1] - 1)


def _random(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([0.7, 0.7, 0.7], n)


def test_right_probabilities_pass_as_often_as_they_should():
    values = []
    for seed in range(60):
        p = _random(200, seed)
        values.append(reliability(p, _classes(p, 1_000 + seed), seed=seed).p_value)
    below = (np.array(values) <= 0.1).mean()
    assert below < 0.1 + 4 * math.sqrt(0.09 / 60) and min(values) > 1e-3
    assert 0.3 < np.mean(values) < 0.7


@pytest.mark.parametrize(("power", "word"), [(2.0, "overconfident"), (0.5, "too cautious")])
def test_wrong_probabilities_fail(power, word):
    p = _random(2_000, 0)
    wrong = p**power / (p**power).sum(1, keepdims=True)
    found = reliability(wrong, _classes(p, 1), "abc")
    assert not found.passed and word in found.headline
    right = reliability(p, _classes(p, 1), "abc")
    assert right.passed and right.log_score > found.log_score
    assert abs(right.accuracy - right.confidence) < 4 * math.sqrt(0.25 / 2_000)
    inside = [row["low"] <= row["happened"] <= row["high"] for row in right.table]
    assert len(inside) == 30 and sum(inside) >= 25
    figure = found.plot()
    assert len(figure.axes) == 3


def test_reliability_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="sum to one"):
        reliability(np.ones((200, 2)), np.zeros(200, int))
    with pytest.raises(ValueError, match="100 cases"):
        reliability(np.full((50, 2), 0.5), np.zeros(50, int))


# The classifier


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    datasets = {
        name: simgen.Dataset.create(
            folder / name, prior=simgen.Prior(mu=Normal(0.0, SD[name])), **simulated(name, n, 1)
        )
        for name, n in ROWS.items()
    }
    return datasets, fit_models(datasets, max_epochs=20, progress=False)


def test_the_classifier_knows_the_bayes_factor(learned):
    _, models = learned
    assert models.names == ("narrow", "wide")
    assert models.shares[0] == pytest.approx(2 / 3, abs=0.01)
    x = torch.as_tensor(np.concatenate([simulated(k, 500, 7)["x"] for k in ROWS]))
    found, truth = models(x), exact(x)
    off = (found.probabilities - truth.softmax(-1)).abs()[:, 0]
    assert float(off.mean()) < 0.03 and float(off.quantile(0.95)) < 0.1
    one = models(x[0])
    assert one["narrow"] == pytest.approx(float(found["narrow"][0]), abs=1e-6)
    assert one.log_bayes_factor("narrow", "wide") == pytest.approx(
        float(found.log_bayes_factor("narrow", "wide")[0]), abs=1e-5
    )
    assert "ln B" in one.verdict and len(found.best) == 1000


def test_odds_are_said_when_it_is_called(learned):
    _, models = learned
    x = torch.tensor([0.3, -0.2])
    even, tilted = models(x), models(x, prior={"narrow": 1.0, "wide": 4.0})
    assert tilted["narrow"] / tilted["wide"] == pytest.approx(
        even["narrow"] / even["wide"] / 4, rel=1e-6
    )
    assert tilted.log_bayes_factor("wide", "narrow") == even.log_bayes_factor("wide", "narrow")


@pytest.mark.parametrize("prior", [None, {"narrow": 1.0, "wide": 3.0}])
def test_its_probabilities_are_reliable(learned, prior):
    _, models = learned
    fresh = {k: simulated(k, 2_000, 11) for k in ROWS}
    found = models.calibrate(fresh, prior, n=1_500)
    assert found.passed, found.headline
    assert found.n >= 1_000 and found.accuracy > 0.6
    swapped = {"narrow": fresh["wide"], "wide": fresh["narrow"]}
    assert not models.calibrate(swapped, prior, n=1_500).passed


def test_it_is_a_conditional_like_any_other(learned, tmp_path):
    _, models = learned
    q = models.conditional(torch.tensor([[0.1, 0.2], [3.0, 4.0]]))
    rows = q.sample((4_000,), seed=0)
    assert rows.shape == (4_000, 2, 2) and bool((rows.sum(-1) - 1).abs().max() < 1e-5)
    p = q.log_prob(torch.eye(2)[:, None]).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.mean(0), p.T, atol=0.04, rtol=0)
    assert bool((q.log_prob(torch.tensor([0.5, 0.5])) == -math.inf).all())
    models.save(tmp_path / "models.safetensors")
    again = load_models(tmp_path / "models.safetensors")
    x = torch.tensor([1.0, 2.0])
    assert again(x)["wide"] == pytest.approx(models(x)["wide"], abs=1e-7)
    assert again.shares == models.shares


def test_models_that_cannot_be_told_apart(learned, tmp_path):
    datasets, _ = learned
    with pytest.raises(ValueError, match="two models or more"):
        fit_models({"narrow": datasets["narrow"]})
    rows = simulated("wide", 300, 1)
    other = simgen.Dataset.create(tmp_path / "o", theta=rows["theta"], x=rows["x"][:, :1])
    with pytest.raises(ValueError, match="same observable"):
        fit_models({"narrow": datasets["narrow"], "other": other})
    with pytest.raises(ValueError, match="no field 'y'"):
        fit_models(datasets, "y")
    weighted = simgen.Dataset.create(tmp_path / "w", **rows, weight=np.ones(300, np.float32))
    with pytest.raises(ValueError, match="weights"):
        fit_models({"narrow": datasets["narrow"], "weighted": weighted})
    with pytest.raises(ValueError, match=r"give rows of each of narrow, wide"):
        learned[1].calibrate({"narrow": rows})
