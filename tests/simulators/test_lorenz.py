"""Lorenz-63 against its fixed points, its contraction and its attractor."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from simulators.lorenz import CLASSICAL, Lorenz63

THETA = torch.tensor(CLASSICAL, dtype=torch.float64)


def test_fixed_points():
    """Rest, and the two rolls at (±q, ±q, rho - 1), q^2 = beta (rho - 1)."""
    q = (CLASSICAL[2] * 27) ** 0.5
    points = torch.tensor([[0, 0, 0], [q, q, 27], [-q, -q, 27]], dtype=torch.float64)
    assert Lorenz63().drift(points, THETA).abs().max() < 1e-12
    for solver in ("euler", "rk4"):
        assert (Lorenz63(solver=solver).step(points, THETA) - points).abs().max() < 1e-12


def test_volumes_shrink_at_the_same_rate_everywhere():
    torch.manual_seed(0)
    for state in 10 * torch.randn(5, 3, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda z: Lorenz63().drift(z, THETA), state)
        assert jacobian.trace() == pytest.approx(-(10 + 1 + 8 / 3))


def test_mirror_symmetry():
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    state = torch.tensor([3.0, -2.0, 20.0], dtype=torch.float64)
    simulator = Lorenz63()
    assert torch.equal(simulator.step(flip * state, THETA), flip * simulator.step(state, THETA))


def test_the_start_is_that_of_the_benchmark():
    start = Lorenz63(steps=8).simulate(np.tile(CLASSICAL, (20_000, 1)), np.random.default_rng(0))
    z_0 = start["z_path"][:, 0]
    covariance = np.array(Lorenz63.start_covariance)
    np.testing.assert_allclose(z_0.mean(0), [0, 0, 25], atol=4 * (81 / 20_000) ** 0.5)
    np.testing.assert_allclose(np.cov(z_0.T), covariance, atol=4 * 81 * (2 / 20_000) ** 0.5)


def test_stationary_paths_are_stationary_and_on_the_attractor():
    simulator = Lorenz63.stationary(65)
    x = simulator(1500, seed=0)["x"].astype(float)
    assert x.shape == (1500, 65, 3) and simulator.prior is None
    for i in range(3):
        assert ks_2samp(x[:750, 0, i], x[750:, -1, i]).pvalue > 1e-3
    # mean, and the mean of every drift, with each path as one draw
    paths = np.concatenate([x[..., :2], x[..., :1] * x[..., 1:2] - 8 / 3 * x[..., 2:]], -1).mean(1)
    assert (np.abs(paths.mean(0)) < 4 * paths.std(0) / len(paths) ** 0.5).all()
    assert x[..., 2].mean() == pytest.approx(23.6, abs=0.3)
    assert x[..., 0].std() == pytest.approx(7.9, abs=0.2)


def test_stationary_paths_have_the_entropy_of_their_noise():
    """E[log p(z_1.. | z_0)] of 64 steps of 3 Gaussians: 81.7 nats, as SDA's exact dynamics."""
    simulator = Lorenz63.stationary(65)
    x = torch.from_numpy(simulator.simulate(np.empty((500, 0)), np.random.default_rng(1))["x"])
    log_p = simulator.transition_log_prob(x[:, :-1], x[:, 1:]).sum(-1)
    expected = -192 / 2 * (1 + np.log(2 * np.pi * 0.025))
    assert expected == pytest.approx(81.7, abs=0.1)
    assert float(log_p.mean()) == pytest.approx(expected, abs=4 * (96 / 500) ** 0.5)


@pytest.mark.parametrize("solver", ["rk4", "euler"])
def test_paths_are_finite_all_over_the_prior(solver):
    simulator = Lorenz63(solver, record=[])
    low, high = simulator.prior.low.numpy(), simulator.prior.high.numpy()
    corners = np.array([[(low, high)[b >> i & 1][i] for i in range(3)] for b in range(8)])
    x = simulator.simulate(np.tile(corners, (250, 1)), np.random.default_rng(0))["x"]
    assert np.abs(x).max() < 150
