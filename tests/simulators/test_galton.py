"""Galton's board against every path written out, finite differences and symmetry."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom, chi2, kstest

from simgen.diagnosis import diagnose
from simulators.galton import Galton

THETAS = [-1.0, -0.4, 0.0, 0.7]
N = 200_000


def right(level, k, theta, levels):
    """The nail's rule, written anew."""
    y = (2 * k - level) / levels
    return 0.5 + np.sin(np.pi * level / levels) * (1 / (1 + np.exp(10 * theta * y)) - 0.5)


def every_path(levels, theta):
    """All 2^levels paths and their probabilities."""
    paths, probabilities = [], []
    for path in itertools.product((0, 1), repeat=levels):
        p = 1.0
        for level, step in enumerate(path):
            r = right(level, sum(path[:level]), theta, levels)
            p *= r if step else 1 - r
        paths.append(path)
        probabilities.append(p)
    return np.array(paths), np.array(probabilities)


@pytest.fixture(scope="module", params=THETAS, ids=str)
def many(request):
    """Many balls at one theta."""
    board = Galton()
    theta = np.full((N, 1), request.param)
    return request.param, board, board.simulate(theta, np.random.default_rng(1))


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("levels", [1, 2, 7])
def test_recursion_sums_every_path(levels, theta):
    board = Galton(levels)
    paths, p = every_path(levels, theta)
    bins = np.bincount(paths.sum(1), p, levels + 1)
    np.testing.assert_allclose(board.probabilities([theta]), bins, rtol=1e-12)
    np.testing.assert_allclose(bins.sum(), 1, rtol=1e-13)
    joint = board.joint_log_likelihood({"z_path": paths}, np.array([theta]))
    np.testing.assert_allclose(joint, np.log(p), rtol=1e-11)


@pytest.mark.parametrize("theta", THETAS)
def test_a_bin_averages_the_joint_scores_of_its_paths(theta):
    """E[joint score | x] = score, and E[joint ratio | x] = ratio, over all paths of a bin."""
    board, h, other = Galton(7), 1e-5, -0.2
    paths, p = every_path(7, theta)
    k = paths.sum(1)
    log_p = [board.joint_log_likelihood({"z_path": paths}, np.array([theta + s])) for s in (-h, h)]
    joint = (log_p[1] - log_p[0]) / (2 * h)
    mean = np.bincount(k, p * joint) / np.bincount(k, p)
    x = np.arange(8)[:, None]
    exact = board.score(x, np.array([theta]))[:, 0]
    np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-8)
    ratio = np.exp(board.joint_log_likelihood({"z_path": paths}, np.array([other]))) / p
    mean = np.bincount(k, p * ratio) / np.bincount(k, p)
    log_r = board.log_likelihood(x, [other]) - board.log_likelihood(x, [theta])
    np.testing.assert_allclose(mean, np.exp(log_r), rtol=1e-10)


def test_scores_are_gradients():
    board, h = Galton(), 1e-4
    theta = np.random.default_rng(0).uniform(-1, 1, (500, 1))
    fields = board.simulate(theta, np.random.default_rng(2))
    for function, score in (
        (lambda t: board.joint_log_likelihood(fields, t), fields["joint_score"]),
        (lambda t: board.log_likelihood(fields["x"], t), board.score(fields["x"], theta)),
    ):
        f = [function(theta + k * h) for k in (-2, -1, 1, 2)]
        slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
        np.testing.assert_allclose(slope, score[:, 0], rtol=1e-6, atol=1e-7)


def test_gold_of_simulated_balls(many):
    """In each bin the joint scores average to the exact score, and scatter about it."""
    theta, board, fields = many
    x, t = fields["x"][:, 0], fields["joint_score"][:, 0]
    exact = board.score(fields["x"], np.array([theta]))[:, 0]
    deviations = []
    for k in range(1, 20):  # the outermost bins have but one path each
        here = t[x == k]
        if len(here) > 100:
            assert here.std() > 0.01
            deviations.append((here.mean() - exact[x == k][0]) / (here.std() / len(here) ** 0.5))
    assert len(deviations) > 5
    assert np.abs(deviations).max() < 4
    assert chi2.sf((np.array(deviations) ** 2).sum(), len(deviations)) > 1e-3
    assert abs(t.mean()) < 4 * t.std() / N**0.5


def test_score_identity(many):
    """d E[h] / d theta = E[h t] for the squared distance from the middle."""
    theta, board, fields = many
    h = 1e-4
    distance = (np.arange(21) - 10.0) ** 2
    mean = [board.probabilities([theta + s]) @ distance for s in (-h, h)]
    exact = (mean[1] - mean[0]) / (2 * h)
    value = distance[fields["x"][:, 0]] - board.probabilities([theta]) @ distance
    product = value * fields["joint_score"][:, 0]
    error = product.std() / N**0.5
    assert abs(product.mean() - exact) < 4 * error
    assert abs(exact) > 20 * error


def test_balls_fill_the_bins(many):
    theta, board, fields = many
    expected = N * board.probabilities([theta])
    counts = np.bincount(fields["x"][:, 0], minlength=21)
    good = expected > 5
    chi_2 = ((counts - expected)[good] ** 2 / expected[good]).sum()
    assert chi2.sf(chi_2, good.sum() - 1) > 1e-3
    assert (fields["z_path"].sum(1) == fields["x"][:, 0]).all()


def test_the_unbiased_board_is_binomial_and_every_board_symmetric():
    board = Galton(20)
    np.testing.assert_allclose(board.probabilities([0.0]), binom.pmf(np.arange(21), 20, 0.5))
    P = board.probabilities(np.linspace(-1, 1, 9)[:, None])
    np.testing.assert_allclose(P, P[:, ::-1], rtol=1e-10)
    width = P @ (np.arange(21) - 10) ** 2
    assert (np.diff(width) < 0).all()


def test_what_is_no_bin_has_no_probability():
    board = Galton(4)
    x = np.array([[-1], [5], [2.5], [2]])
    assert (board.log_likelihood(x, [0.3]) > -np.inf).tolist() == [False, False, False, True]
    assert board.log_likelihood(x, np.zeros((3, 1, 1))).shape == (3, 4)
    with pytest.raises(ValueError, match=r"theta must be \(..., 1\); got \(2,\)"):
        board.log_likelihood(x, [0.3, 0.3])


def test_exact_posterior_is_calibrated():
    board = Galton()
    theta = board.prior.sample((1000,), seed=0).double().numpy()
    posterior = board.exact_posterior(board(theta, seed=1)["x"], points=400)
    rank = (posterior.sample(200, seed=2)[..., 0] < theta[:, 0]).mean(0)
    assert kstest(rank + 1e-4 * np.random.default_rng(0).random(1000), "uniform").pvalue > 1e-3
    assert posterior.sd.mean() < 0.8 * 2 / 12**0.5
    single = board.exact_posterior(np.array([3]), points=400)
    grid = board.log_likelihood([3], single.theta)
    np.testing.assert_allclose(single.weights, np.exp(grid) / np.exp(grid).sum(), rtol=1e-10)


def test_it_keeps_the_rules(capsys):
    found = diagnose(Galton(), rows=5_000)
    assert found.passed, [f for f in found.findings if f.passed is False]
    with capsys.disabled():
        print(f"\n20 levels: {1 / found.seconds:,.0f} rows per CPU-second")


def test_fields_and_settings():
    board = Galton(levels=6)
    assert board.settings == {"levels": 6}
    assert board.prior.names == board.names == ("pull",)
    fields = board([[0.2], [0.9]], seed=0)
    assert {k: v.shape[1:] for k, v in fields.items()} == {
        k: f.shape for k, f in board.fields.items()
    }
    assert fields["x"].dtype.kind == fields["z_path"].dtype.kind == "i"
    for levels in (0, 2.5):
        with pytest.raises(ValueError, match="positive whole number"):
            Galton(levels)


def test_workers_need_no_torch():
    code = (
        "import pickle, sys, numpy as np\n"
        "board = pickle.load(sys.stdin.buffer)\n"
        "x = board.run(np.zeros((4, 1)), np.random.default_rng(1))['x']\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    board = Galton()
    assert len(board.prior.names) == 1
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(board), capture_output=True, check=True
    )
    assert done.stdout == board.run(np.zeros((4, 1)), np.random.default_rng(1))["x"].tobytes()
