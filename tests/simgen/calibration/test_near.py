"""Near an observation: the right pairs, one row from anything, clear errors."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from simgen.calibration import calibrate
from simgen.calibration.near import nearest, one_row
from simgen.calibration.pairs import Pairs


def narrow_at_high_x(factor: float):
    """theta ~ N(0, 1), x ~ N(theta, 1): theta | x ~ N(x / 2, 1 / 2), but too narrow at x > 1."""

    def q(x: torch.Tensor) -> Independent:
        sd = torch.where(x > 1, factor, 1.0) * 0.5**0.5
        return Independent(Normal(x / 2, sd), 1)

    return q


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((1000, 1))
    return {"theta": theta, "x": theta + rng.standard_normal((1000, 1))}


def test_fails_near_where_it_is_wrong_and_holds_elsewhere(data) -> None:
    q = narrow_at_high_x(0.6)
    there = calibrate(q, data, near=np.array([2.0]), progress=False)
    here = calibrate(q, data, near={"x": np.array([-1.5])}, progress=False)
    assert not there.row("near", "theta")["passed"] and not there.row("near")["passed"]
    assert "too narrow: 0.6" in there.row("near", "theta")["finding"]
    assert here.row("near", "theta")["passed"] and here.row("near")["passed"]
    assert "too narrow where" in here.row("local", "theta")["finding"]
    assert "high" in here.row("local", "theta")["finding"]
    assert here.row("local")["finding"].startswith("overconfident where")
    assert any("near: the 200 pairs" in note for note in there.notes)
    assert len(there.ranks["near"]["theta"]) == 200


def test_says_when_the_observation_lies_apart(data) -> None:
    q = narrow_at_high_x(1.0)
    far = calibrate(q, data, near=torch.tensor([9.0]), progress=False)
    assert far.passed and any("lies apart" in note for note in far.notes)
    at_home = calibrate(q, data, near=torch.tensor([0.3]), progress=False)
    assert not any("lies apart" in note for note in at_home.notes)


def test_the_nearest_are_the_nearest() -> None:
    rng = np.random.default_rng(1)
    mean, sd = rng.standard_normal((400, 2)), np.exp(rng.standard_normal((400, 2)))
    x = {"x": rng.standard_normal((400, 8))}  # too many numbers: posteriors alone tell
    found = nearest((mean, sd), x, (mean[:1], sd[:1]), {"x": x["x"][5:6]})
    assert len(found.rows) == 80 and 0 in found.rows and not found.far
    h = np.concatenate([mean, np.log(sd)], 1) / np.concatenate([mean, np.log(sd)], 1).std(0)
    distance = ((h - h[0]) ** 2).sum(1)
    assert set(found.rows) == set(np.argsort(distance)[:80])


def pairs_of(**given: np.ndarray) -> Pairs:
    return Pairs(np.zeros((4, 1)), given, ("t",), "")


def test_one_row_of_a_variable_length() -> None:
    pairs = pairs_of(x=np.zeros((4, 5, 2), np.float32), x_length=np.full(4, 3))
    row = one_row(np.ones((2, 2)), pairs)
    assert row["x"].shape == (1, 5, 2) and row["x"].sum() == 4 and row["x_length"].tolist() == [2]
    row = one_row({"x": np.ones((5, 2)), "x_length": 4}, pairs)
    assert row["x_length"].tolist() == [4]


def test_bad_observations_are_one_sentence() -> None:
    one = pairs_of(x=np.zeros((4, 2)))
    assert one_row(np.ones((1, 2)), one)["x"].shape == (1, 2)
    with pytest.raises(ValueError, match=r"'x' of shape \(3,\); the pairs have \(2,\)"):
        one_row(np.ones(3), one)
    with pytest.raises(ValueError, match="not finite"):
        one_row(np.array([1.0, np.nan]), one)
    with pytest.raises(ValueError, match="given field 'x'; it has y"):
        one_row({"y": np.ones(2)}, one)
    with pytest.raises(ValueError, match="dict of the given fields x, y"):
        one_row(np.ones(2), pairs_of(x=np.zeros((4, 2)), y=np.zeros((4, 2))))
    with pytest.raises(ValueError, match="nothing is given"):
        one_row(np.ones(2), pairs_of())
