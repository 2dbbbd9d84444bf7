r"""Is N enough? Against a family whose learning curve is known in closed form.

Ordinary least squares with p regressors and the variance of its residuals falls short of the
exact log-density by (p + 1) / (2 N) nats a row to first order: b = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import simgen
from simgen.calibration import Verdict
from simgen.learning import LearningCurve, learning_curve, nested
from simgen.power_law import fit_power_law

NOISE = 0.5
ROWS = 4000
COLUMNS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> simgen.Dataset:
    """theta ~ N(0, 1); of x only the first column is theta plus noise."""
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((ROWS, 1))
    x = rng.standard_normal((ROWS, COLUMNS))
    x[:, :1] = theta + NOISE * x[:, :1]
    path = tmp_path_factory.mktemp("learning") / "d"
    return simgen.Dataset.create(path, theta=theta, x=x)


def test_nested_subsets_keep_their_rows_and_sides(dataset: simgen.Dataset) -> None:
    small, half = nested(dataset, 500), nested(dataset, 2000)
    for side in ("train", "validation"):
        rows = [getattr(d, side).rows for d in (small, half, dataset)]
        assert rows[0].max() < 500 and set(rows[0]) < set(rows[1]) < set(rows[2])
        assert np.array_equal(rows[1], rows[2][rows[2] < 2000])
    assert dataset.chosen is None and len(dataset.train) > 3000


def test_the_price_of_a_gain_is_that_of_the_closed_form(
    dataset: simgen.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fit() is replaced by least squares: what is tested is subsets, judging and extrapolation."""

    class Regression:
        expression, names = "theta | x", ("theta",)

        def __init__(self, data: simgen.Dataset) -> None:
            rows = data.train.rows
            self.provenance = {
                "dataset": {
                    "identity": data.identity,
                    "rows": len(data),
                    "split": list(data.split),
                }
            }
            x, y = (torch.as_tensor(data.read_rows(k, rows)).double() for k in ("x", "theta"))
            self.weights = torch.linalg.lstsq(x, y).solution
            self.sd = (y - x @ self.weights).square().mean().sqrt()

        def __call__(self, x: Tensor) -> Independent:
            return Independent(Normal(x.double() @ self.weights, self.sd), 1)

    monkeypatch.setattr(
        "simgen.learning.fit", lambda expression, data, model, **_: Regression(data)
    )
    sizes = (125, 250, 500, 1000, 2000, 4000)
    curve = learning_curve("theta | x", dataset, sizes=sizes, gain=0.001, progress=False)
    short = [(COLUMNS + 1) / (2 * 0.8 * n) for n in sizes]  # four of five rows train
    drop = curve.log_prob.mean(0) - curve.log_prob[:, -1].mean()
    known = short[-1] - np.array(short)
    error = (curve.log_prob - curve.log_prob[:, -1:]).std(0) / len(curve.log_prob) ** 0.5
    assert (np.abs(drop - known) < 4 * error + 0.3 * np.abs(known) + 1e-6).all()
    worth, error = curve.worth(4000)
    assert abs(worth - short[-1] / 2) < 3 * error + 1e-4 and error < 0.005
    left, error = curve.left()
    assert abs(left - short[-1]) < 3 * error + 1e-4
    assert "more simulations" in curve.sentence.lower() and str(curve).count("\n") >= 8
    assert [row["simulations"] for row in curve.table] == list(sizes)
    assert curve.table[-1]["coverage"] == pytest.approx(0.9, abs=0.05)


@dataclass(frozen=True)
class Options:
    """What a made-up curve looks like."""

    left: float = 0.1
    gain: float = 0.05


def made_up(options: Options) -> LearningCurve:
    rng = np.random.default_rng(2)
    sizes = (1000, 2000, 4000, 8000)
    share = np.array([s / 8000 for s in sizes])
    log_prob = rng.standard_normal((500, 1)) - options.left / share**0.8
    log_prob = log_prob + 0.01 * rng.standard_normal((500, 4))
    covered = (rng.random((500, 1)) < 0.9 - 0.02 / share**0.5).astype(float)
    verdict = Verdict(True, [], 500, 255, "test rows")
    c, d = (np.cov(v.T) / 500 for v in (log_prob, covered))
    return LearningCurve(
        "theta | x",
        sizes,
        log_prob,
        covered,
        (verdict,) * 4,
        options.gain,
        fit_power_law(sizes, log_prob.mean(0), c),
        fit_power_law(sizes, covered.mean(0), d, increasing=False),
    )


def test_says_in_a_sentence_what_more_is_worth() -> None:
    curve = made_up(Options())
    middle, low, high = curve.needed()
    assert low <= middle <= high
    assert middle == pytest.approx(8000 * (0.5 ** (-1 / 0.8) - 1), rel=0.2)
    worth, error = curve.worth(round(middle))
    assert worth == pytest.approx(0.05, abs=0.01) and error < 0.01
    assert "more simulations are worth 0.05" in curve.sentence and "nats" in curve.sentence
    assert "hardly give 0.5 nats" in replace(curve, gain=0.5).sentence


def test_draws_what_it_says() -> None:
    curve = made_up(Options())
    figure = curve.plot()
    left, right = figure.axes
    assert left.get_xscale() == "log" and left.get_xlim()[1] > 8 * 8000
    assert left.get_legend() is not None and right.get_xlabel() == "simulations"
    figure.canvas.draw()


def test_a_flow_learns_and_is_returned(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    theta = rng.standard_normal((800, 1))
    x = theta + NOISE * rng.standard_normal((800, 1))
    data = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x)
    curve = learning_curve(
        "theta | x",
        data,
        simgen.Flow(transforms=1, hidden=(8,)),
        sizes=(200, 400, 800),
        max_epochs=2,
        progress=False,
    )
    variance = NOISE**2 / (1 + NOISE**2)
    assert len(curve.log_prob) > 50 and curve.conditional is not None
    exact = -0.5 * np.log(2 * np.pi * np.e * variance)
    assert curve.log_prob[:, -1].mean() == pytest.approx(exact, abs=0.3)
    provenance = curve.conditional.provenance
    assert provenance["dataset"]["split"] == [0.8, 0.1, 0.1]


def test_bad_settings_are_one_sentence(dataset: simgen.Dataset) -> None:
    with pytest.raises(ValueError, match="gain must be positive"):
        learning_curve("theta | x", dataset, gain=0)
    with pytest.raises(ValueError, match="three sizes or more between 100 and the 4000 rows"):
        learning_curve("theta | x", dataset, sizes=(500, 9000, 1000))
    with pytest.raises(ValueError, match="three sizes or more"):
        learning_curve("theta | x", dataset, sizes=(500, 1000))
