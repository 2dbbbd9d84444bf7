"""Local checks: exact under the null, right about where and what."""

import numpy as np
import pytest

from simgen.calibration.local import about_local, assess_local, thirds
from simgen.calibration.places import Places, describe


def places(n: int, rng: np.random.Generator) -> Places:
    x = rng.gamma(2.0, 1.0, (n, 3))
    return describe({"x": x}, {"x": ("a", "b", "c")}, np.zeros((n, 1)), ("theta",))


def test_no_test_is_below_its_level_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    where = places(150, rng)
    p = np.array([assess_local(rng.standard_normal(150), where).p_value for _ in range(800)])
    for level in (0.05, 0.2):
        assert (p < level).mean() < level + 3 * np.sqrt(level / 800)
    # Four tests of one place are all but independent, and Bonferroni loses next to nothing.
    one = Places(("a",), where.values[:, :1])
    p = np.array([assess_local(rng.standard_normal(150), one).p_value for _ in range(1500)])
    assert (p < 0.2).mean() == pytest.approx(1 - 0.95**4, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("narrow at high b", "too narrow where b is high: 0.6"),
        ("wide at low b", "too wide where b is low: 1."),
        ("shift at high b", "low by 0.4"),
        ("middle of b", "too narrow in the middle of b: 0.6"),
    ],
)
def test_says_where_and_what(kind: str, words: str) -> None:
    rng = np.random.default_rng(1)
    where = places(1500, rng)
    z, side = rng.standard_normal(1500), thirds(where.values[:, where.names.index("b")])
    if kind == "narrow at high b":
        z = np.where(side == 2, z / 0.65, z)
    elif kind == "wide at low b":
        z = np.where(side == 0, z / 1.5, z)
    elif kind == "shift at high b":
        z = np.where(side == 2, z + 0.5, z)
    else:
        z = np.where(side == 1, z / 0.65, z)
    result = assess_local(z, where)
    assert result.p_value < 1e-6
    assert words in about_local(result, where)


def test_a_width_that_is_wrong_everywhere_alike_is_no_local_matter() -> None:
    rng = np.random.default_rng(2)
    where = places(1000, rng)
    z = 1.5 * rng.standard_normal((100, 1000)) + 0.3
    assert sum(assess_local(row, where).p_value < 0.01 for row in z) <= 5


def test_places_of_vectors_sets_and_images() -> None:
    rng = np.random.default_rng(3)
    means = rng.standard_normal((50, 1))
    found = describe({"x": rng.standard_normal((50, 2)), "n": np.arange(50)}, {}, means, ("t",))
    assert found.names == ("the posterior mean of t", "x_0", "x_1", "n")
    assert np.allclose(found.values.mean(0), 0, atol=1e-9) and found.values[-1, 3] > 0.97
    images = describe({"x": rng.standard_normal((50, 2, 16, 16))}, {}, means, ("t",))
    assert "the spread of x[1]" in images.names and len(images.names) == 7
    sets = describe({"x": rng.standard_normal((50, 30, 3))}, {}, means, ("t",))
    assert "the mean of x[2]" in sets.names
    gaps = np.where(rng.random((50, 2)) < 0.3, np.nan, 1.0 + means)
    assert np.isfinite(describe({"x": gaps}, {}, means, ("t",)).values).all()
    assert describe({"x": np.ones((50, 2))}, {}, np.ones((50, 1)), ("t",)).names == ()
