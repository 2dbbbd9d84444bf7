"""Active allocation: draws of known density, weights that undo it, regions where q is off."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.rounds.allocation import Allocation, allocate, gather, regional_scores
from simgen.rounds.boxes import Boxes

PRIOR = simgen.Prior(a=Normal(0.0, 1.0), b=Uniform(-1.0, 2.0))
INF = math.inf
# three boxes: a < 0; a >= 0 with b < 1, and with b >= 1
BOXES = Boxes([[-INF, -INF], [0.0, -INF], [0.0, 1.0]], [[0.0, INF], [INF, 1.0], [INF, INF]])
SIZES = np.array([1 / 2, 1 / 3, 1 / 6])
RATIO = np.array([0.5, 1.0, 2.5])
NOISE = 0.5


def proposal():
    return Allocation(PRIOR, BOXES, RATIO)


@simgen.simulator(prior=PRIOR, batched=True)
def noisy(theta, rng):
    return theta + NOISE * rng.standard_normal(theta.shape)


def test_boxes_divide_the_space():
    theta = torch.tensor([[-1.0, 5.0], [0.0, 0.0], [3.0, 1.0], [1.0, 0.99]])
    assert BOXES(theta).tolist() == [0, 1, 2, 1]
    words = [BOXES.describe(c, PRIOR.names) for c in range(3)]
    assert words == ["a < 0", "a >= 0, b < 1", "a >= 0, b >= 1"]
    assert Boxes([[-INF]], [[INF]]).describe(0, "a") == "everywhere"


def test_draws_have_the_density_that_is_said():
    q, n = proposal(), 20_000
    theta = q.sample((n,), seed=0)
    share = torch.bincount(BOXES(theta), minlength=3).double().numpy() / n
    assert (abs(share - SIZES * RATIO) < 4 * np.sqrt(SIZES * RATIO / n)).all()
    inner = theta[BOXES(theta) == 2].double().numpy()  # in a box they are the prior's
    assert kstest(inner[:, 0], lambda a: 2 * norm.cdf(a) - 1).pvalue > 1e-3
    assert kstest(inner[:, 1], lambda b: b - 1).pvalue > 1e-3
    a = torch.linspace(-8, 8, 1601, dtype=torch.float64) + 0.005
    b = torch.linspace(-1, 2, 301, dtype=torch.float64)[:-1] + 0.005
    grid = torch.cartesian_prod(a, b)
    assert abs(float(q.log_prob(grid).exp().sum()) * 1e-4 - 1) < 1e-3
    torch.testing.assert_close(
        (q.log_prob(grid) - PRIOR.log_prob(grid)).exp(), q.density_ratio(grid)
    )
    assert torch.equal(q.sample((9,), seed=3), q.sample((9,), seed=3))
    assert q.sample((2, 3)).shape == (2, 3, 2) and q.log_prob(torch.tensor([0.0, 5.0])) == -INF


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    path = tmp_path_factory.mktemp("allocated")
    first = simgen.simulate(noisy, 4_000, path / "first", seed=0, progress=False)
    more = simgen.simulate(proposal().of(noisy), 8_000, path / "more", seed=1, progress=False)
    assert simgen.simulate(proposal().of(noisy), 8_000, path / "more", seed=1, progress=False)
    return first, more, gather(path / "both", [first, simgen.Dataset(path / "more")])


def test_weighted_rows_follow_the_prior_exactly(gathered):
    _, more, both = gathered
    w, origin = both["weight"][:].astype(float).reshape(-1), both["origin"][:].reshape(-1)
    theta, x = both["theta"][:].astype(float), both["x"][:].astype(float)
    assert (origin == np.repeat([0, 1], [4_000, 8_000])).all()
    assert np.array_equal(both["x"][4_000:], more["x"][:])
    assert w.max() <= 12_000 / 4_000 * (1 + 1e-6)  # one over the share of the prior
    box = BOXES(torch.from_numpy(theta)).numpy()
    assert np.allclose(w, (3 / (1 + 2 * RATIO))[box], rtol=1e-6)
    a, b = theta.T
    wanted = {
        "1": (np.ones_like(a), 1.0),
        "a": (a, 0.0),
        "a^2": (a**2, 1.0),
        "b": (b, 0.5),
        "b > 1, a > 0": ((a > 0) & (b > 1), 1 / 6),
        "x^2": (x[:, 0] ** 2, 1 + NOISE**2),
        "x b": (x[:, 1] * b, 1.0 + 0.0),
    }
    for name, (f, value) in wanted.items():
        # rows of two laws: the mean of w f is that of the prior, its variance that within each
        error = math.sqrt(sum((w * f)[origin == r].var() * (origin == r).sum() for r in (0, 1)))
        assert abs((w * f).mean() - value) < 4 * error / len(w) + 1e-9, name
    assert abs(b.mean() - 0.5) > 0.1  # and without weights it is another


def test_the_target_of_a_weighted_fit_is_that_of_the_prior(gathered):
    """The best linear estimate of theta given x, as if nothing were allocated."""
    both = gathered[2]
    theta, x = (both[k][:].astype(float) for k in ("theta", "x"))
    w, n = both["weight"][:].reshape(-1).astype(float), len(both)
    for column, value, variance in ((0, 0.8, 1.0), (1, 0.75, 0.75)):
        slope, centre = np.polyfit(x[:, column], theta[:, column], 1, w=np.sqrt(w))
        error = math.sqrt(w.max() * NOISE**2 * value / (variance + NOISE**2) / n)
        assert abs(slope - value) < 4 * error
        assert abs(centre - (1 - value) * (0.0, 0.5)[column]) < 4 * error * (1 + abs(x).max() / 4)
    flow = simgen.Flow(transforms=1, hidden=(8,))
    posterior = simgen.fit("theta | x", both, flow, max_epochs=1, progress=False)
    assert posterior.prior.log_prob(torch.zeros(2)) == PRIOR.log_prob(torch.zeros(2))


def test_datasets_that_cannot_be_gathered(gathered, tmp_path):
    first, more, _ = gathered
    with pytest.raises(simgen.DatasetError, match="none of the datasets follows the prior"):
        gather(tmp_path / "a", [more])
    with pytest.raises(simgen.DatasetError, match="does not hold its prior"):
        simgen.Dataset(more.path).prior  # noqa: B018
    other = simgen.Dataset.create(
        tmp_path / "b",
        theta=np.zeros((5, 2)),
        x=np.zeros((5, 2)),
        prior=simgen.Prior(a=Normal(0.0, 1.0), b=Uniform(-1.0, 3.0)),
    )
    with pytest.raises(simgen.DatasetError, match="other priors"):
        gather(tmp_path / "c", [first, other])


FLAT = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))


def posterior(width):
    """That of theta + 0.5 noise, with its width multiplied where x points to a > 1."""

    def q(x):
        scale = torch.where(x[..., :1] > 1.25, width, 1.0) * math.sqrt(0.2)
        return Independent(Normal(0.8 * x, scale.expand_as(x)), 1)

    return q


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((4_000, 2)).astype(np.float32)
    x = (theta + NOISE * rng.standard_normal(theta.shape)).astype(np.float32)
    path = tmp_path_factory.mktemp("checks") / "d"
    return simgen.Dataset.create(path, theta=theta, x=x, prior=FLAT)


def test_regions_where_a_posterior_is_too_narrow_get_the_rows(checks):
    found = allocate(posterior(0.5), checks, 2_000, pairs=4_000)
    table = sorted(found.table, key=lambda row: row["score"] / row["error"])
    worst = table[-1]
    assert worst["score"] > 5 * worst["error"] and worst["region"].startswith("a >=")
    here = found.ratio[found.boxes(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))]
    assert here[0] > 2.5 and here[1] < 0.6 and found.ratio.min() >= 0.25 - 1e-6
    assert abs(sum(row["new"] for row in found.table) - 2_000) <= len(table)
    n = 10_000
    share = torch.bincount(found.boxes(found.sample((n,), seed=1)), minlength=len(table)) / n
    wanted = torch.tensor([row["new"] / 2_000 for row in found.table])
    assert (share - wanted).abs().max() < 0.02
    assert all(row["region"] in str(found) for row in found.table)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_posterior_scores_nothing(checks, seed):
    found = allocate(posterior(1.0), checks, 2_000, pairs=4_000, seed=seed)
    for row in found.table:
        assert abs(row["score"]) < 4 * row["error"]
    fresh = regional_scores(posterior(1.0), checks, found, seed=9)
    assert [row["region"] for row in fresh] == [row["region"] for row in found.table]
    assert all(abs(row["score"]) < 4 * row["error"] for row in fresh)


def test_no_new_rows_where_there_are_enough(checks):
    """Neyman's numbers are filled up: with few new rows, all but the prior's share go to one."""
    found = allocate(posterior(0.5), checks, 40, pairs=4_000, share=0.5)
    assert found.ratio.min() == pytest.approx(0.5, abs=0.01)


def test_settings_that_make_no_sense(checks):
    for settings in ({"n": 0}, {"n": 9, "regions": 0}, {"n": 9, "share": 0.0}):
        with pytest.raises(ValueError, match="allocate needs n >= 1"):
            allocate(posterior(1.0), checks, **settings)
    with pytest.raises(ValueError, match="too few"):
        allocate(posterior(1.0), checks, 10, pairs=50)


# A corner where noise is a sixth and a posterior has many more details to learn

SQUARE = simgen.Prior(a=Uniform(-3.0, 3.0), b=Uniform(-3.0, 3.0))
CORNER = Boxes([[-INF, -INF], [1.5, -INF], [1.5, 1.5]], [[1.5, INF], [INF, 1.5], [INF, INF]])
JUDGED = Allocation(SQUARE, CORNER, [1, 1, 1], [{"prior": p} for p in (12 / 16, 3 / 16, 1 / 16)])


@simgen.simulator(prior=SQUARE, batched=True)
def cornered(theta, rng):
    corner = (theta >= 1.5).all(1, keepdims=True)
    return theta + np.where(corner, 0.05, 0.3) * rng.standard_normal(theta.shape)


def learned(data):
    """A Gaussian in each cell of x, from weighted moments; cells of the corner are small."""
    theta, x = (data[k][:].astype(float) for k in ("theta", "x"))
    w = data["weight"][:].reshape(-1).astype(float) if "weight" in data.fields else np.ones(len(x))

    def cell(x):
        fine = (x > 1.5).all(1)
        coarse, small = ((np.clip(x, -3.5, 3.49) + 3.5) // step for step in (0.5, 0.1))
        return np.where(
            fine, 1_000 + 100 * small[:, 0] + small[:, 1], 20 * coarse[:, 0] + coarse[:, 1]
        )

    at = cell(x).astype(int)
    total = np.bincount(at, w, 10_000) + 1e-9
    mean, square = (
        np.stack([np.bincount(at, w * column, 10_000) for column in part.T], 1) / total[:, None]
        for part in (theta, theta**2)
    )
    sd = np.sqrt(np.maximum(square - mean**2, 0.02**2))
    mean, sd = (torch.from_numpy(v) for v in (mean, sd))

    def q(x):
        k = torch.from_numpy(cell(x.double().numpy()).astype(int))
        return Independent(Normal(mean[k], sd[k]), 1)

    return q


@pytest.mark.parametrize("seed", range(3))
def test_a_hard_corner_gains_more_than_by_rows_of_the_prior(tmp_path, seed):
    n = 6_000
    path = tmp_path / "d"
    theta = SQUARE.sample((20_000,), seed=50 + seed).numpy()
    checks = {"theta": theta, **cornered(theta, seed=60 + seed)}
    first = simgen.simulate(cornered, n, path / "first", seed=seed, progress=False)
    before = learned(first)
    found = allocate(before, first, n, checks=checks, pairs=4_000, seed=seed)
    more = simgen.simulate(found.of(cornered), n, path / "more", seed=70 + seed, progress=False)
    allocated = learned(gather(path / "both", [first, more]))
    twice = learned(simgen.simulate(cornered, 2 * n, path / "twice", seed=seed, progress=False))
    scores = [regional_scores(q, checks, JUDGED, seed=1) for q in (before, twice, allocated)]
    there = [(row["score"], row["error"]) for row in (s[2] for s in scores)]
    assert there[0][0] - there[1][0] > 3 * there[1][1]
    assert there[1][0] - there[2][0] > 3 * there[1][1] and there[2][0] < 0.6 * there[1][0]
    for c in (0, 1):  # and elsewhere nothing is lost
        assert scores[2][c]["score"] < scores[0][c]["score"] + 3 * scores[0][c]["error"]
