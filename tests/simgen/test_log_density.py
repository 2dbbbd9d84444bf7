"""LogDensity: a surrogate of a linear Gaussian, which a flow knows in closed form, against it."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.log_density import LogDensity

SIGMA = 0.5
X = np.array([0.5, 2.0])
FLOW = simgen.Flow(transforms=2, hidden=(32, 32))


def linear(path, n=3000, prior=True):
    """x = theta + N(0, SIGMA^2)."""
    rng = np.random.default_rng(0)
    box = simgen.Prior(
        a=Uniform(-3.0, 3.0), b=Uniform(0.1, 4.0), labels=[r"\alpha", "b"], units=["GeV", ""]
    )
    theta = box.sample((n,), seed=0).numpy()
    x = (theta + SIGMA * rng.standard_normal((n, 2))).astype(np.float32)
    z = rng.standard_normal((n, 3)).astype(np.float32)
    said = {"prior": box} if prior else {}
    return simgen.Dataset.create(path, theta=theta, x=x, z_odd=z, **said)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return linear(tmp_path_factory.mktemp("linear") / "d")


@pytest.fixture(scope="module")
def surrogate(dataset):
    return simgen.fit("x | theta", dataset, FLOW, max_epochs=3, progress=False)


def exact(theta, x=X):
    return -0.5 * (((theta - x) / SIGMA) ** 2).sum(-1) - np.log(2 * np.pi * SIGMA**2)


def rows(n=40, seed=1):
    """Parameters within three deviations of X."""
    rng = np.random.default_rng(seed)
    return np.clip(X + SIGMA * rng.uniform(-3, 3, (n, 2)), [-3, 0.11], [3, 3.99])


def test_value_and_gradient_are_those_of_the_gaussian(surrogate):
    # The fit's own error, about 1e-2 of a deviation over the box, is what the tolerances allow.
    f, theta = surrogate.log_likelihood(X), rows()
    value, slope = f.value_and_gradient(theta)
    assert value.dtype == slope.dtype == np.float64
    np.testing.assert_allclose(value, exact(theta), atol=0.5, rtol=0.05)
    np.testing.assert_allclose(slope, -(theta - X) / SIGMA**2, atol=0.6)
    np.testing.assert_array_equal(f.gradient(theta), slope)
    # The gradient is the value's own: differences over steps that float32 resolves.
    step = 0.02 * np.eye(2)
    differences = np.stack([(f(theta + h) - f(theta - h)) / 0.04 for h in step], -1)
    inner = (np.abs(theta - [0, 2.05]) < [2.9, 1.9]).all(-1)
    np.testing.assert_allclose(differences[inner], slope[inner], atol=0.05, rtol=0.02)


def test_shapes_names_and_rows_do_not_mix(surrogate):
    f, theta = surrogate.log_likelihood(X), rows(6)
    assert (f.names, f.labels, f.units) == (("a", "b"), (r"\alpha", "b"), ("GeV", ""))
    one = f(theta[0])
    assert isinstance(one, float) and f.gradient(theta[0]).shape == (2,)
    assert f(theta.reshape(2, 3, 2)).shape == (2, 3)
    assert f.gradient(theta.reshape(2, 3, 2)).shape == (2, 3, 2)
    assert f(a=theta[0, 0], b=theta[0, 1]) == one
    assert f(a=theta[:, 0], b=1.0).shape == (6,)
    np.testing.assert_allclose(f(theta)[0], one, rtol=1e-5)
    assert f(theta[:0]).shape == (0,)
    f.rows = 4  # chunks change nothing
    np.testing.assert_allclose(f(theta), surrogate.log_likelihood(X)(theta), rtol=1e-5)
    for wrong, message in [((np.zeros(3),), r"\(\.\.\., 2\): a, b"), ((1.0,), "got shape ()")]:
        with pytest.raises(ValueError, match=message):
            f(*wrong)
    with pytest.raises(ValueError, match="all of a, b by name; got a"):
        f(a=1.0)


@pytest.mark.parametrize(
    "theta", [[-3.01, 2.0], [0.0, 4.1], [np.nan, 2.0], [np.inf, 2.0], [0.0, 0.05]]
)
def test_outside_of_where_it_was_trained_it_says_so(surrogate, theta):
    f = surrogate.log_likelihood(X)
    value, slope = f.value_and_gradient([theta, [0.0, 2.0]])
    assert value[0] == -np.inf and np.isfinite(value[1])
    assert (slope[0] == 0).all() and (slope[1] != 0).all()
    narrow = surrogate.log_likelihood(X, bounds={"a": (-1, 1)})
    assert narrow([-2.0, 2.0]) == -np.inf < narrow([0.0, 2.0])
    assert narrow.bounds.tolist() == [[-1, 1], [0.1, 4]]


def test_a_model_that_knows_no_prior_asks_for_bounds(tmp_path):
    bare = linear(tmp_path / "d", 600, prior=False)
    c = simgen.fit("x | theta", bare, FLOW, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"say bounds=\{'theta_0': \(low, high\)\}"):
        c.log_likelihood(X)
    f = c.log_likelihood(X, bounds={"theta_0": (-3, 3), "theta_1": (0.1, np.inf)})
    assert np.isfinite(f([0.0, 9.0])) and f([0.0, 0.0]) == -np.inf
    with pytest.raises(ValueError, match="trained without a prior"):
        f.with_prior()
    wide = Independent(Normal(torch.zeros(2), 1.0), 1)
    with pytest.raises(ValueError, match=r"'theta_0' is on \[-inf, inf\].* trained on \[-3, 3\]"):
        f.with_prior(wide)


def test_events_add_up(surrogate):
    events = X + SIGMA * np.random.default_rng(3).standard_normal((30, 2))
    theta = rows(5)
    whole = surrogate.log_likelihood(events, iid=True)
    parts = [surrogate.log_likelihood(x).value_and_gradient(theta) for x in events]
    np.testing.assert_allclose(whole(theta), sum(v for v, _ in parts), rtol=1e-5)
    np.testing.assert_allclose(whole.gradient(theta), sum(g for _, g in parts), rtol=1e-3)
    with pytest.raises(ValueError, match=r"must be \(2\); got \(30, 2\): .* needs iid=True"):
        surrogate.log_likelihood(events)


def test_a_prior_is_added_where_it_may_be(surrogate):
    f, theta = surrogate.log_likelihood(X), rows()
    np.testing.assert_allclose(f.with_prior()(theta) - f(theta), -np.log(6 * 3.9), atol=1e-5)
    narrow = simgen.Prior(b=Uniform(1.0, 2.0), a=Uniform(-1.0, 1.0))
    g = f.with_prior(narrow)  # found by name
    assert g.bounds.tolist() == [[-1, 1], [1, 2]] and g([0.0, 2.5]) == -np.inf
    assert g([0.0, 1.5]) - f([0.0, 1.5]) == pytest.approx(-np.log(2.0), abs=1e-5)
    boxed = Independent(Uniform(torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 2.0])), 1)
    assert not np.isnan(f.with_prior(boxed)([1.0, 2.0]))  # on its bound it must not raise
    assert f.with_prior(boxed)([0.0, 1.5]) == pytest.approx(g([0.0, 1.5]))
    with pytest.raises(ValueError, match="says nothing of 'b' alone"):
        f.with_prior(simgen.Prior(a=Uniform(0.0, 1.0)))


def test_some_parameters_by_name_and_others_held(dataset):
    c = simgen.fit("x | b, a, z_odd", dataset, FLOW, max_epochs=2, progress=False)
    f = c.log_likelihood(X, z_odd=np.zeros(3))
    assert f.names == ("b", "a") and f.bounds.tolist() == [[0.1, 4], [-3, 3]]
    theta = rows()
    np.testing.assert_allclose(f(theta[:, ::-1]), exact(theta), atol=0.8, rtol=0.1)
    with pytest.raises(ValueError, match="where 'z_odd_0' was trained is not known"):
        c.log_likelihood(X)
    with pytest.raises(ValueError, match="'z_no' is not given"):
        c.log_likelihood(X, z_no=0.0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.5, 2.0, 1.0], r"must be \(2\); got \(3,\)"),
        ([np.nan, 1.0], "NaN or infinite"),
        (0.5, r"must be \(2\); got \(\)"),
    ],
)
def test_a_wrong_observation_is_refused(surrogate, x, message):
    with pytest.raises(ValueError, match=message):
        surrogate.log_likelihood(x)


def test_any_torch_function_of_rows_will_do():
    f = LogDensity(lambda t: -(t**2).sum(-1), ("u", "v"), np.array([[-1, 1], [-np.inf, np.inf]]))
    value, slope = f.value_and_gradient([[0.5, 3.0], [2.0, 0.0]])
    assert value.tolist() == [-9.25, -np.inf] and slope.tolist() == [[-1.0, -6.0], [0.0, 0.0]]
    flat = LogDensity(lambda t: torch.zeros(len(t)), ("u",), np.array([[0, 1]]))
    assert flat.gradient([0.5]).tolist() == [0.0]  # nothing to differentiate


def forked(theta):
    return SHARED["f"].value_and_gradient(theta)


SHARED: dict = {}


def test_a_fork_may_call_it(surrogate):
    """The parent's threads are not in a child: used there, they would never answer."""
    f = SHARED["f"] = surrogate.log_likelihood(X)
    theta = np.tile(rows(2000), (10, 1))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = f.value_and_gradient(theta)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            there = pool.map_async(forked, [theta, theta]).get(timeout=120)
    finally:
        torch.set_num_threads(threads)
    for value, slope in there:
        np.testing.assert_allclose(value, here[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(slope, here[1], rtol=1e-3, atol=1e-3)


def test_scipy_finds_the_maximum_and_its_errors(surrogate):
    from scipy.optimize import minimize

    f = surrogate.log_likelihood(X)
    best = minimize(
        lambda t: tuple(-v for v in f.value_and_gradient(t)),
        [-1.0, 1.0],
        jac=True,
        bounds=f.bounds,
    )
    np.testing.assert_allclose(best.x, X, atol=0.1 * SIGMA)
    steps = 0.5 * SIGMA * np.eye(2)  # the flow's slope is off by a few per cent of one deviation
    curvature = [(f.gradient(best.x + h) - f.gradient(best.x - h)) / SIGMA for h in steps]
    errors = np.sqrt(np.diag(np.linalg.inv(-np.array(curvature))))
    np.testing.assert_allclose(errors, SIGMA, rtol=0.15)


def test_emcee_draws_the_posterior(surrogate):
    emcee = pytest.importorskip("emcee")
    f = surrogate.log_likelihood(X).with_prior()
    sampler = emcee.EnsembleSampler(32, 2, f, vectorize=True)
    sampler.random_state = np.random.RandomState(0).get_state()
    start = X + 0.3 * np.random.default_rng(0).standard_normal((32, 2))
    sampler.run_mcmc(start, 200)
    draws = sampler.get_chain(discard=50, flat=True)
    # About 150 * 32 / 30 independent draws: means to 0.1 deviations.
    np.testing.assert_allclose(draws.mean(0), X, atol=0.4 * SIGMA)
    np.testing.assert_allclose(draws.std(0), SIGMA, rtol=0.2)
