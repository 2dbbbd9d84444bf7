import numpy as np

from simgen.calibration.dependence import rank_dependence

S = 127


def test_size_under_the_null() -> None:
    rng = np.random.default_rng(0)
    side = rng.standard_normal(60)
    p = [rank_dependence(rng.integers(0, S + 1, 60), S, side, rng)[1] for _ in range(2000)]
    share = np.mean(np.array(p) < 0.05)
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_uniform_ranks_that_follow_x_are_found() -> None:
    rng = np.random.default_rng(1)
    theta = rng.standard_normal(300)
    x = theta + rng.standard_normal(300)
    ranks = (rng.standard_normal((S, 300)) < theta).sum(0)  # draws of the prior
    mean, p = rank_dependence(ranks, S, x, rng)
    # E[theta sign(x)] = corr(theta, x) sqrt(2 / pi)
    assert abs(mean - np.sqrt(0.5) * np.sqrt(2 / np.pi)) < 0.2
    assert p < 1e-10


def test_a_wrong_width_alone_is_no_dependence() -> None:
    rng = np.random.default_rng(2)
    p = []
    for _ in range(400):
        truth = rng.standard_normal(100)
        ranks = (0.6 * rng.standard_normal((S, 100)) < truth).sum(0)
        p.append(rank_dependence(ranks, S, rng.standard_normal(100), rng)[1])
    assert np.mean(np.array(p) < 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400)
