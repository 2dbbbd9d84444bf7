"""Supernovae against adaptive quadrature, closed forms and the published analysis."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, multivariate_normal, norm

from simulators.supernovae import GridPosterior, Supernovae, distance_modulus

DATA = Path(__file__).parents[3] / "shared" / "data" / "supernovae" / "pantheon"
PUBLIC = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no {DATA}: the Pantheon files are not here"
)

Z = np.array([0.02, 0.1, 0.4, 0.9, 1.6])


def small(**kwargs: float) -> Supernovae:
    covariance = np.diag([0.02, 0.015, 0.02, 0.03, 0.05]) ** 2 + 1e-4
    return Supernovae(z=Z, covariance=covariance, **kwargs)


@pytest.mark.parametrize("omega_m", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("w_0", [-3.0, -1.0, -0.4, 0.0])
def test_distance_modulus_agrees_with_adaptive_quadrature(omega_m: float, w_0: float) -> None:
    def inverse_e(z: float) -> float:
        dark = (1 - omega_m) * (1 + z) ** (3 * (1 + w_0))
        return (omega_m * (1 + z) ** 3 + dark) ** -0.5

    z_hel = Z + 0.001
    distance = [quad(inverse_e, 0, z, epsabs=1e-12, epsrel=1e-12)[0] for z in Z]
    expected = 5 * np.log10((1 + z_hel) * distance * 299792.458 / 70 * 1e6 / 10)
    mu = distance_modulus(Z, np.array(omega_m), np.array(w_0), z_hel)
    np.testing.assert_allclose(mu, expected, atol=1e-6)


def test_closed_form_distances() -> None:
    """de Sitter: D = z; Einstein-de Sitter: D = 2 (1 - 1 / sqrt(1 + z)), in units of c / H_0."""
    mu = distance_modulus(Z, np.array([0.0, 1.0]), np.array([-1.0, -1.0]))
    distance = 10 ** ((mu - 25) / 5) * 70 / 299792.458 / (1 + Z)
    np.testing.assert_allclose(distance, [Z, 2 * (1 - (1 + Z) ** -0.5)], rtol=1e-9)


def test_simulations_have_the_mean_and_covariance_of_the_likelihood() -> None:
    simulator, n = small(), 100_000
    theta = np.array([0.3, -1.1])
    fields = simulator.simulate(np.repeat(theta[None], n, 0), np.random.default_rng(0))
    x, offset = fields["x"], fields["z_M"]
    mean = simulator.modulus(theta) - 19.3
    covariance = simulator.covariance + 0.25
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * (0.26 / n) ** 0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=5 * 0.26 * (2 / n) ** 0.5)
    # without the common offset, the scatter is the measured covariance
    np.testing.assert_allclose(
        np.cov((x - offset[:, None]).T), simulator.covariance, atol=5 * 3e-3 * (2 / n) ** 0.5
    )
    expected = multivariate_normal(mean, covariance).logpdf(x[:100])
    np.testing.assert_allclose(simulator.log_likelihood(x[:100], theta), expected, rtol=1e-9)


def test_likelihood_broadcasts() -> None:
    simulator = small()
    theta = np.random.default_rng(0).uniform([0, -3], [1, 0], (4, 3, 2))
    x = simulator.modulus(theta[:, :1]) - 19.0
    value = simulator.log_likelihood(x, theta)
    assert value.shape == (4, 3)
    assert value[2, 1] == pytest.approx(simulator.log_likelihood(x[2, 0], theta[2, 1]), rel=1e-12)


def test_a_common_shift_of_the_magnitudes_hardly_matters() -> None:
    """M is marginalised: 0.05 mag more on every supernova is another M, not another universe."""
    simulator = small(w_0=-1.0)
    x = simulator.modulus(np.array([0.3])) - 19.3
    a, b = (simulator.exact_posterior(x + shift) for shift in (0.0, 0.05))
    assert abs(a.mean - b.mean) < 0.02 * a.sd


def test_workers_need_no_prior_and_settings_tell_samples_apart() -> None:
    simulator = small()
    assert simulator.names == ("Omega_m", "w_0")
    theta = simulator.prior.sample((3,), seed=0).numpy()
    worker = pickle.loads(pickle.dumps(simulator))
    assert "prior" not in vars(worker)
    np.testing.assert_array_equal(worker(theta)["x"], simulator(theta)["x"])
    other = Supernovae(z=Z, covariance=2 * simulator.covariance)
    assert simulator.settings == small().settings != other.settings
    assert small(w_0=-1.0).names == ("Omega_m",)
    assert small(w_0=-1.0).settings != simulator.settings


def test_fixing_w_0_is_the_same_universe() -> None:
    np.testing.assert_array_equal(
        small(w_0=-1.0).modulus(np.array([[0.3]])), small().modulus(np.array([[0.3, -1.0]]))
    )


def test_grid_posterior_of_a_gaussian() -> None:
    """Moments, draws and contours are those of the density."""
    axes = (np.linspace(-4.99, 4.99, 500), np.linspace(-9.96, 9.96, 250))
    density = norm.pdf(axes[0])[:, None] * norm.pdf(axes[1], 1.0, 1.5)
    posterior = GridPosterior(axes, density / density.sum())
    np.testing.assert_allclose(posterior.mean, [0.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(posterior.sd, [1.0, 1.5], atol=1e-4)
    draws = posterior.sample(20_000, np.random.default_rng(0))
    assert kstest(draws[:, 0], norm.cdf).pvalue > 1e-4
    assert kstest(draws[:, 1], norm(1.0, 1.5).cdf).pvalue > 1e-4
    inside = posterior.mass[posterior.mass >= posterior.level(0.68)].sum()
    assert inside == pytest.approx(0.68, abs=0.001)


def test_exact_posterior_ranks_the_truth_uniformly() -> None:
    simulator, rng = small(w_0=-1.0), np.random.default_rng(1)
    truth = simulator.prior.sample((300,), seed=2).numpy()
    x = simulator.simulate(truth, rng)["x"]
    below = [
        (p.mass.cumsum() - p.mass / 2)[np.argmin(np.abs(p.axes[0] - t))]
        for p, t in zip((simulator.exact_posterior(row) for row in x), truth)
    ]
    assert kstest(below, "uniform").pvalue > 1e-3


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs data, or z and covariance.*github.com/dscolnic"):
        Supernovae()
    with pytest.raises(ValueError, match=r"there is no .*lcparam_DS17f.txt.*Scolnic et al. 2018"):
        Supernovae(tmp_path)
    with pytest.raises(ValueError, match=r"covariance must be \(2, 2\).*got \(3, 3\)"):
        Supernovae(z=[0.1, 0.2], covariance=np.eye(3))
    with pytest.raises(ValueError, match="not positive definite"):
        Supernovae(z=[0.1, 0.2], covariance=np.ones((2, 2)) - 2 * np.eye(2))
    with pytest.raises(ValueError, match="redshifts must be positive"):
        Supernovae(z=[0.1, -0.2], covariance=np.eye(2))
    with pytest.raises(ValueError, match="not both"):
        Supernovae(tmp_path, z=[0.1], covariance=np.eye(1))
    (tmp_path / "lcparam_DS17f.txt").write_text("#name zcmb zhel dz mb dmb\n0 0.1 0.1 0 16 0.02\n")
    (tmp_path / "sys_DS17f.txt").write_text("2\n1\n0\n0\n1\n")
    with pytest.raises(ValueError, match=r"has 1 supernovae, but .* is for 2"):
        Supernovae(tmp_path)
    (tmp_path / "sys_DS17f.txt").write_text("2\n1\n0\n")
    with pytest.raises(ValueError, match="are not Pantheon's"):
        Supernovae(tmp_path)


@PUBLIC
def test_the_exact_posterior_reproduces_the_published_analysis() -> None:
    """Scolnic et al. (2018), table 8, from Markov chains."""
    simulator = Supernovae(DATA)
    assert simulator.observed.shape == (40,)
    wcdm = simulator.exact_posterior(simulator.observed, cells=200)
    assert abs(wcdm.mean - [0.316, -1.090]) == pytest.approx([0, 0], abs=0.005)
    np.testing.assert_allclose(wcdm.sd, [0.072, 0.220], rtol=0.06)
    flat = Supernovae(DATA, w_0=-1.0)
    lcdm = flat.exact_posterior(flat.observed)
    assert lcdm.mean == pytest.approx([0.298], abs=0.002)
    np.testing.assert_allclose(lcdm.sd, [0.022], rtol=0.05)


@PUBLIC
def test_the_prior_of_the_offset_is_wide_enough_to_be_flat() -> None:
    simulator = Supernovae(DATA)
    ours = simulator.exact_posterior(simulator.observed, cells=100)
    simulator.M_sd = 50.0
    flat = simulator.exact_posterior(simulator.observed, cells=100)
    np.testing.assert_allclose((ours.mean - flat.mean) / flat.sd, 0.0, atol=0.01)
    np.testing.assert_allclose(ours.sd, flat.sd, rtol=0.01)
