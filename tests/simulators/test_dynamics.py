"""Laws of stochastic dynamics, of each system and solver."""

import pickle
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal, norm

from simulators.dynamics import SOLVERS, StochasticDynamics
from simulators.linear_drift import LinearDrift
from simulators.lorenz import CLASSICAL, Lorenz63

SYSTEMS = {Lorenz63: CLASSICAL, LinearDrift: (0.4, 2.5)}
CASES = [(system, solver) for system in SYSTEMS for solver in SOLVERS]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def case(request) -> tuple[type[StochasticDynamics], str]:
    return request.param


def prior_draws(simulator, n):
    return simulator.prior.sample((n,), seed=0).double().numpy()


def test_joint_score_is_the_gradient_of_the_joint_likelihood(case):
    system, solver = case
    simulator = system(solver=solver, steps=40, burn_in=3, every=5)
    theta = prior_draws(simulator, 50)
    fields = simulator.simulate(theta, np.random.default_rng(0))
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, i] = h = 1e-3
        a, b, c, d = (
            simulator.joint_log_likelihood(fields, theta + k * step) for k in (-2, -1, 1, 2)
        )
        slope, t = (a - 8 * b + 8 * c - d) / (12 * h), fields["joint_score"][:, i]
        np.testing.assert_allclose(slope, t, atol=1e-6 * t.std())


def test_score_has_mean_zero_and_the_score_identity_holds(case):
    """The same noise at theta ± h: paths are smooth in theta, and d E[h] = E[h t].

    Less what h would be without noise, a function of z_0 alone: E[t | z_0] = 0.
    """
    system, solver = case
    n, simulator = 20_000, system(solver=solver, steps=12, every=4, sd=0.1)
    theta = np.tile(SYSTEMS[system], (n, 1))
    fields = simulator.simulate(theta, np.random.default_rng(1))
    t = fields["joint_score"]
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / n**0.5).all()

    def statistics(x):
        return np.stack([x[:, -1].prod(-1), x[:, 0, 0] * x[:, 2, 0], x[:, -1, -1] ** 2], -1)

    quiet = [torch.tensor(fields["z_path"][:, 0])]
    for _ in range(12):
        quiet.append(simulator.step(quiet[-1], torch.tensor(theta)))
    scored = statistics(fields["x"]) - statistics(torch.stack(quiet[::4], 1).numpy())
    noticed = 0
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, i] = 1e-4
        up, down = (
            statistics(simulator.simulate(theta + s * step, np.random.default_rng(1))["x"])
            for s in (1, -1)
        )
        pathwise, products = (up - down) / 2e-4, scored * t[:, i : i + 1]
        error = np.hypot(pathwise.std(0), products.std(0)) / n**0.5
        assert (np.abs(pathwise.mean(0) - products.mean(0)) < 4 * error).all()
        noticed += (np.abs(pathwise.mean(0)) > 8 * error).sum()
    assert noticed >= theta.shape[1]


def test_joint_ratio_has_mean_one(case):
    system, solver = case
    n, simulator = 10_000, system(solver=solver, steps=20, record=["z_path"])
    theta = np.array(SYSTEMS[system])
    fields = simulator.simulate(np.tile(theta, (n, 1)), np.random.default_rng(2))
    ratio = np.exp(
        simulator.joint_log_likelihood(fields, theta * 1.02)
        - simulator.joint_log_likelihood(fields, theta)
    )
    assert ratio.std() > 0.01
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / n**0.5


def test_a_path_seen_whole_has_an_exact_likelihood(case):
    """Against scipy's Gaussians, one transition at a time; the score is the joint score."""
    system, solver = case
    simulator = system(solver=solver, steps=9, every=1, sd=0.0)
    theta = prior_draws(simulator, 5)
    fields = simulator.simulate(theta, np.random.default_rng(3))
    assert (fields["x"] == fields["z_path"]).all()
    for row, (path, at) in enumerate(zip(fields["x"], theta)):
        log_p = multivariate_normal(system.start_mean, system.start_covariance).logpdf(path[0])
        for before, after in pairwise(path):
            mean = simulator.step(torch.tensor(before), torch.tensor(at)).numpy()
            log_p += norm.logpdf(after, mean, simulator.diffusion * simulator.dt**0.5).sum()
        value = simulator.log_likelihood(fields["x"], theta)[row]
        assert value == pytest.approx(log_p, abs=1e-9)
    score = simulator.score(fields["x"], theta)
    np.testing.assert_allclose(score, fields["joint_score"], rtol=1e-9, atol=1e-9)
    grid = simulator.log_likelihood(fields["x"][:, None], theta[:3])
    assert grid.shape == (5, 3)
    assert grid[1, 2] == pytest.approx(simulator.log_likelihood(fields["x"][1], theta[2]))


@pytest.mark.parametrize("solver, order", [("euler", 1), ("rk4", 4)])
@pytest.mark.parametrize("system", SYSTEMS)
def test_steps_converge_to_the_flow_at_their_order(system, solver, order):
    theta = torch.tensor(SYSTEMS[system], dtype=torch.float64)
    start = torch.tensor(system.start_mean, dtype=torch.float64) + 1
    span = 0.2

    def velocity(_, z):
        return system().drift(torch.tensor(z), theta).numpy()

    exact = solve_ivp(velocity, (0, span), start.numpy(), "DOP853", rtol=1e-13, atol=1e-13)
    errors = []
    for steps in (20, 40):
        simulator, z = system(solver=solver, dt=span / steps), start
        for _ in range(steps):
            z = simulator.step(z, theta)
        errors.append(np.linalg.norm(z.numpy() - exact.y[:, -1]))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25


def test_a_step_differentiates(case):
    system, solver = case
    torch.manual_seed(0)
    state = torch.randn(2, 3, len(system.states), dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([SYSTEMS[system]] * 2, dtype=torch.float64)[:, None].requires_grad_()
    assert torch.autograd.gradcheck(system(solver=solver).step, (state, theta))


def test_observations_are_the_path_with_noise(case):
    system, solver = case
    simulator = system(solver=solver, steps=23, every=4, burn_in=5, sd=0.7)
    fields = simulator.simulate(prior_draws(simulator, 2000), np.random.default_rng(4))
    residual = (fields["x"] - fields["z_path"][:, 5::4]) / 0.7
    assert residual.shape[1] == 6
    assert abs(residual.mean()) < 4 / residual.size**0.5
    assert abs(residual.var() - 1) < 4 * (2 / residual.size) ** 0.5
    path, theta = torch.tensor(fields["z_path"]), torch.tensor(prior_draws(simulator, 2000))
    increments = path[:, 1:] - simulator.step(path[:, :-1], theta[:, None])
    assert float(increments.var()) / simulator.variance == pytest.approx(1, abs=0.02)


def test_rows_know_nothing_of_each_other(case):
    system, solver = case
    simulator = system(solver=solver, steps=20)
    theta = prior_draws(simulator, 6)
    other = theta[::-1].copy()[::-1]  # strides of its own
    other[3:] = theta[0]
    a, b, c = (simulator(at, seed=seed) for at, seed in ((theta, 0), (other, 0), (theta, 1)))
    assert set(a) == set(simulator.fields) == {"x", "z_path", "joint_score"}
    for name, value in a.items():
        assert value.shape[1:] == simulator.fields[name].shape
        assert (value[:3] == b[name][:3]).all() and (value[4:] != b[name][4:]).any()
        assert (value != c[name]).any()
        np.testing.assert_array_equal(value, simulator(theta, seed=0)[name])


def test_fixed_parameters_make_it_unconditional(case):
    system, solver = case
    theta = SYSTEMS[system]
    free = system(solver=solver, steps=16, record=[])
    fixed = system(solver=solver, steps=16, fixed=theta)
    assert fixed.prior is None and fixed.names == () and set(fixed.fields) == {"x"}
    assert fixed.settings["fixed"] == list(theta)
    x = free(np.tile(theta, (5, 1)), seed=3)["x"]
    np.testing.assert_array_equal(fixed(5, seed=3)["x"], x)
    whole = {"solver": solver, "steps": 16, "every": 1, "sd": 0.0}
    path = system(**whole, fixed=theta)(2, seed=0)["x"]
    known = system(**whole).log_likelihood(path, theta)
    np.testing.assert_array_equal(
        system(**whole, fixed=theta).log_likelihood(path, np.empty((2, 0))), known
    )
    state = torch.zeros(len(system.states), dtype=torch.float64)
    assert torch.equal(fixed.step(state), free.step(state, torch.tensor(theta).double()))
    with pytest.raises(ValueError, match="not fixed"):
        free.step(state)


def test_workers_need_no_prior(case):
    system, solver = case
    simulator = system(solver=solver, steps=8)
    theta = prior_draws(simulator, 3)
    worker = pickle.loads(pickle.dumps(simulator))
    assert "prior" not in vars(worker)
    np.testing.assert_array_equal(worker(theta)["x"], simulator(theta)["x"])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"solver": "heun"}, "solver must be one of euler, rk4; got 'heun'"),
        ({"dt": -0.1}, "dt must be positive"),
        ({"diffusion": -1.0}, "diffusion must be positive"),
        ({"sd": -0.1}, "sd must be 0 or positive"),
        ({"every": 300}, "every at most steps"),
        ({"burn_in": -1}, "burn_in not negative"),
        ({"fixed": [1.0]}, "fixed must be"),
        ({"record": "z_p"}, "record must be names among z_path, joint_score"),
    ],
)
def test_bad_settings(system, arguments, message):
    with pytest.raises(ValueError, match=message):
        system(**arguments)


def test_a_fixed_theta_has_no_score():
    with pytest.raises(ValueError, match=r"record must be names among z_path; got \['joint_sc"):
        Lorenz63(fixed=CLASSICAL, record=["joint_score"])


def test_they_say_what_is_exact():
    assert Lorenz63().answers == Lorenz63.stationary().answers == ()
    assert Lorenz63(every=1, sd=0.0).answers == ("log_likelihood",)
    assert LinearDrift().answers == ("log_likelihood", "exact_posterior")
    assert LinearDrift(fixed=(0.4, 2.5)).answers == ("log_likelihood",)


def test_what_is_not_known_is_refused():
    simulator = Lorenz63(steps=8, record=[])
    fields = simulator([CLASSICAL], seed=0)
    with pytest.raises(ValueError, match=r"every=1, sd=0, burn_in=0; here every=8, sd=1.0"):
        simulator.log_likelihood(fields["x"], CLASSICAL)
    with pytest.raises(ValueError, match="needs z_path, and there are x"):
        simulator.joint_log_likelihood(fields, CLASSICAL)
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., 2, 3\); got \(1, 2, 2\)"):
        simulator.log_likelihood(fields["x"][..., :2], CLASSICAL)


@pytest.mark.parametrize("record", [[], ["joint_score"]])
def test_throughput(case, record):
    system, solver = case
    simulator = system(solver=solver, record=record)
    theta = np.tile(SYSTEMS[system], (1024, 1))
    start = time.process_time()
    fields = simulator.simulate(theta, np.random.default_rng(0))
    rate = len(theta) / (time.process_time() - start)
    print(f"{system.__name__} {solver} {record}: {rate:,.0f} paths of 200 steps a CPU-second")
    assert np.isfinite(fields["x"]).all()
