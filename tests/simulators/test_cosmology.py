"""Convergence maps against dense Gaussian densities, finite differences and moments."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

from simulators.cosmology import ConvergenceMaps
from simulators.map_summaries import power_spectrum

TRUTH = (0.3, 0.8, -1.0)
OTHER = (0.22, 0.95, -0.7)
BOTH = np.array([TRUTH, OTHER])
# So few galaxies that C_l crosses 2 N_l within the map's multipoles.
SMALL = {"pixels": 16, "side_deg": 5.0, "n_gal": 4.0}
KINDS = [
    {"field": field, "latents": latents}
    for field in ("gaussian", "lognormal")
    for latents in ("white", "field", "mixed")
]


def latents_of(simulator, theta, rng):
    """White noise and maps of one theta each, in double precision."""
    shape = (len(theta), simulator.bins, simulator.pixels, simulator.pixels)
    white = rng.standard_normal(shape)
    x = simulator.signal(theta, white) + simulator.sigma_pix * rng.standard_normal(shape)
    return x, white


def central_difference(function, theta, step=1e-4):
    """Of fourth order: the columns of the gradient by theta."""
    columns = []
    for h in step * np.eye(3):
        near, far = function(theta + h) - function(theta - h), function(theta + 2 * h)
        columns.append((8 * near - far + function(theta - 2 * h)) / (12 * step))
    return np.stack(columns, -1)


def dense_covariance(simulator, theta):
    """The covariance of the pixels of kappa, from direct sums of cosines over all modes."""
    N, sky = simulator.pixels, simulator.sky
    k = np.fft.fftfreq(N, 1 / N)
    fundamental = 2 * np.pi / sky.side
    multipoles = fundamental * np.hypot(k[:, None], k).ravel()
    multipoles[0] = fundamental
    C = simulator.emulator(multipoles, np.array([theta]))[0, 0]
    y, x = (axis.ravel() for axis in np.mgrid[:N, :N])
    lag_y, lag_x = y[:, None] - y, x[:, None] - x
    modes = np.stack(np.meshgrid(k, k, indexing="ij"), -1).reshape(-1, 2)
    phase = lag_y[..., None] * modes[:, 0] + lag_x[..., None] * modes[:, 1]
    return (np.cos(2 * np.pi / N * phase) @ C) / sky.side**2


def test_fields_are_as_declared_and_repeat():
    simulator = ConvergenceMaps(pixels=8, record=("joint_score", "z_kappa", "z_white"))
    theta = simulator.prior.sample((5,), seed=0).numpy()
    fields = simulator(theta, seed=3)
    assert {name: value.shape[1:] for name, value in fields.items()} == {
        "x": (1, 8, 8),
        "joint_score": (3,),
        "z_kappa": (1, 8, 8),
        "z_white": (1, 8, 8),
    }
    assert {name: field.shape for name, field in simulator.fields.items()} == {
        name: value.shape[1:] for name, value in fields.items()
    }
    assert all(value.dtype == np.float32 for value in fields.values())
    again = simulator(theta, seed=3)
    for name, value in fields.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(simulator(theta, seed=4)["x"], fields["x"])
    # What is recorded changes nothing else.
    alone = ConvergenceMaps(pixels=8, record=())(theta, seed=3)
    assert list(alone) == ["x"]
    np.testing.assert_array_equal(alone["x"], fields["x"])
    kappa = simulator.signal(theta, fields["z_white"])
    np.testing.assert_allclose(kappa, fields["z_kappa"], rtol=1e-5, atol=1e-8)


def test_prior_is_the_box_with_labels():
    prior = ConvergenceMaps(pixels=8).prior
    assert prior.names == ("Omega_m", "sigma_8", "w_0")
    assert prior.labels == (r"$\Omega_m$", r"$\sigma_8$", "$w_0$")
    np.testing.assert_allclose(prior.low, [0.15, 0.5, -1.6], rtol=1e-6)
    np.testing.assert_allclose(prior.high, [0.45, 1.1, -0.4], rtol=1e-6)


def test_a_worker_needs_no_torch():
    simulator = ConvergenceMaps(pixels=8, field="lognormal")
    assert simulator.prior is not None
    expected = simulator([TRUTH], seed=1)["x"].sum(dtype=float)
    code = (
        "import pickle, sys\n"
        "simulator = pickle.load(sys.stdin.buffer)\n"
        "import numpy as np\n"
        "from simgen.forward import BLOCK, stream\n"
        f"x = simulator.run(np.array([{TRUTH}]), stream(1, BLOCK, 0))['x']\n"
        "assert 'torch' not in sys.modules\n"
        "print(repr(float(x.sum(dtype=float))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(simulator),
        capture_output=True,
        check=True,
    )
    assert float(run.stdout) == expected


@pytest.mark.parametrize("noise", [True, False])
def test_gaussian_likelihood_is_the_dense_one(noise):
    simulator = ConvergenceMaps(pixels=8, noise=noise)
    x = simulator(BOTH, seed=0)["x"].astype(float)
    x[0] += 0.01  # a mean, which has a mode of its own
    for theta in BOTH:
        covariance = dense_covariance(simulator, theta)
        covariance += noise * simulator.sigma_pix**2 * np.eye(64)
        dense = multivariate_normal(np.zeros(64), covariance)
        found = simulator.log_likelihood(x, theta)
        np.testing.assert_allclose(found, dense.logpdf(x.reshape(2, 64)), rtol=1e-10)


def test_lognormal_likelihood_is_the_dense_one_with_its_jacobian():
    simulator = ConvergenceMaps(pixels=8, field="lognormal", noise=False)
    x = simulator(BOTH, seed=0)["x"].astype(float)
    for theta in BOTH:
        covariance = np.log1p(dense_covariance(simulator, theta) / simulator.shift**2)
        dense = multivariate_normal(np.full(64, -covariance[0, 0] / 2), covariance)
        y = np.log1p(x.reshape(2, 64) / simulator.shift)
        expected = dense.logpdf(y) - np.log(x.reshape(2, 64) + simulator.shift).sum(-1)
        np.testing.assert_allclose(simulator.log_likelihood(x, theta), expected, rtol=1e-10)
    x[1, 0, 3, 3] = -simulator.shift
    found = simulator.log_likelihood(x, TRUTH)
    assert np.isfinite(found[0]) and found[1] == -np.inf


def test_log_likelihood_broadcasts():
    simulator = ConvergenceMaps(pixels=8)
    x = simulator(np.array([TRUTH] * 3), seed=0)["x"]
    table = simulator.log_likelihood(x[:, None], BOTH)
    assert table.shape == (3, 2) and table.dtype == np.float64
    single = [[simulator.log_likelihood(map_, theta) for theta in BOTH] for map_ in x]
    np.testing.assert_allclose(table, single, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"noise": False}, {"field": "lognormal", "noise": False}], ids=str
)
def test_score_is_the_slope_of_the_likelihood(options):
    simulator = ConvergenceMaps(**SMALL, **options)
    x = simulator(BOTH, seed=1)["x"].astype(float)
    slope = central_difference(lambda theta: simulator.log_likelihood(x, theta), BOTH)
    np.testing.assert_allclose(simulator.score(x, BOTH), slope, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("field", ["gaussian", "lognormal"])
def test_white_joint_score_is_the_slope_of_the_joint_density(field):
    """Of log N(x; kappa(theta, w), sigma^2) at fixed x and w."""
    simulator = ConvergenceMaps(**SMALL, field=field)
    x, white = latents_of(simulator, BOTH, np.random.default_rng(5))

    def log_joint(theta):
        residual = (x - simulator.signal(theta, white)) / simulator.sigma_pix
        return -(residual**2).sum((1, 2, 3)) / 2

    slope = central_difference(log_joint, BOTH)
    found = simulator.joint_score(x, white, BOTH)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("field", ["gaussian", "lognormal"])
def test_field_joint_score_is_the_slope_of_the_fields_density(field):
    """x | kappa does not depend on theta: the density of the noise-free map is left."""
    simulator = ConvergenceMaps(**SMALL, field=field, latents="field")
    x, white = latents_of(simulator, BOTH, np.random.default_rng(6))
    kappa = simulator.signal(BOTH, white)
    exact = ConvergenceMaps(**SMALL, field=field, noise=False)
    found = simulator.joint_score(x, white, BOTH)
    np.testing.assert_allclose(found, exact.score(kappa, BOTH), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("field", ["gaussian", "lognormal"])
def test_mixed_joint_score_is_the_slope_of_the_mixed_density(field):
    """Modes of log(1 + kappa / lambda), or of kappa, held fixed where the field is the latent."""
    simulator = ConvergenceMaps(**SMALL, field=field, latents="mixed")
    assert 0.1 < simulator._white.mean() < 0.9
    x, white = latents_of(simulator, BOTH, np.random.default_rng(7))
    sky, shift = simulator.sky, simulator.shift
    chosen = sky.expand(simulator._white)

    def gaussian_modes(theta):
        """Fourier modes of G, less its s^2 / 2 for a lognormal, whose log it is."""
        kappa = simulator.signal(theta, white)[:, 0]
        return np.fft.rfft2(np.log1p(kappa / shift) if field == "lognormal" else kappa)

    held = gaussian_modes(BOTH)

    def log_joint(theta):
        modes = np.where(chosen, gaussian_modes(theta), held)
        y = np.fft.irfft2(modes)
        kappa = shift * np.expm1(y) if field == "lognormal" else y
        residual = (x[:, 0] - kappa) / simulator.sigma_pix
        spectra = simulator._field.spectra(theta)
        centred = held.copy()
        centred[:, 0, 0] += simulator.pixels**2 * spectra.s2[:, 0] / 2
        power = sky.fold(np.abs(centred) ** 2) * sky.pixel_area / simulator.pixels**2
        P = spectra.P[:, 0, 0]
        prior = power / P + sky.counts * np.log(P)
        return -(residual**2).sum((1, 2)) / 2 - (prior * ~simulator._white).sum(-1) / 2

    slope = central_difference(log_joint, BOTH)
    found = simulator.joint_score(x, white, BOTH)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_joint_score_of_simulate_is_the_public_one_and_averages_to_zero(kind):
    simulator = ConvergenceMaps(**SMALL, **kind, record=("joint_score", "z_white"))
    fields = simulator(np.tile(TRUTH, (3000, 1)), seed=8)
    scores = fields["joint_score"].astype(float)
    z = scores.mean(0) / scores.std(0) * 3000**0.5
    assert np.abs(z).max() < 4
    part = {name: value[:20].astype(float) for name, value in fields.items()}
    again = simulator.joint_score(part["x"], part["z_white"], np.tile(TRUTH, (20, 1)))
    np.testing.assert_allclose(part["joint_score"], again, atol=2e-3 * scores.std())


@pytest.mark.parametrize("latents", ["white", "field", "mixed"])
def test_joint_score_given_the_map_averages_to_the_score(latents):
    """E[t | x] is the score t_x, so that E[(t - t_x) t_x] = 0, and its variance is no smaller."""
    simulator = ConvergenceMaps(**SMALL, latents=latents)
    theta = np.tile(TRUTH, (4000, 1))
    fields = simulator(theta, seed=9)
    t, t_x = fields["joint_score"].astype(float), simulator.score(fields["x"], theta)
    product = (t - t_x)[:, :, None] * t_x[:, None]
    z = product.mean(0) / product.std(0) * 4000**0.5
    assert np.abs(z).max() < 4.5
    assert (t.std(0) > t_x.std(0)).all()


def test_without_noise_the_joint_score_is_the_score():
    for field in ("gaussian", "lognormal"):
        simulator = ConvergenceMaps(**SMALL, field=field, noise=False)
        fields = simulator(BOTH, seed=10)
        score = simulator.score(fields["x"], BOTH)
        np.testing.assert_allclose(fields["joint_score"], score, rtol=2e-3)


@pytest.mark.parametrize("field", ["gaussian", "lognormal"])
def test_power_of_the_maps_is_C_l_plus_N_l(field):
    """Each band's power agrees within its standard error, which is 2 % at most."""
    simulator = ConvergenceMaps(pixels=32, field=field)
    x = simulator(np.tile(OTHER, (1500, 1)), seed=11)["x"]
    sky = simulator.sky
    S = simulator.C_l(np.array([OTHER]))[0, 0, 0] + simulator.N_l
    edges = np.geomspace(71, 72 * 23, 9)
    found = power_spectrum(x, simulator.side_deg, edges).astype(float)
    band = np.searchsorted(edges, sky.multipoles, side="right") - 1
    counts = np.where(np.arange(len(S)) > 0, sky.counts, 0)
    expected = [np.average(S[band == b], weights=counts[band == b]) for b in range(8)]
    z = (found.mean(0) - expected) / found.std(0) * 1500**0.5
    assert np.abs(z).max() < 4
    assert (found.std(0) / 1500**0.5 / expected < 0.02).all()


def test_modes_of_a_gaussian_map_are_chi_squared():
    simulator = ConvergenceMaps(pixels=32)
    x = simulator(np.tile(TRUTH, (200, 1)), seed=12)["x"][:, 0].astype(float)
    d = simulator.sky.fold(np.abs(np.fft.rfft2(x)) ** 2) * simulator.sky.pixel_area / 32**2
    S = simulator.C_l(np.array([TRUTH]))[0, 0, 0] + simulator.N_l
    total = (d / S).sum()
    assert 1e-4 < chi2(200 * 32**2).cdf(total) < 1 - 1e-4
    assert kstest((d / S).sum(-1), chi2(32**2).cdf).pvalue > 1e-3
    assert kstest(d[:, 0] / S[0], chi2(1).cdf).pvalue > 1e-3


def test_lognormal_pixels_are_lognormal_of_mean_zero():
    simulator = ConvergenceMaps(pixels=32, field="lognormal", noise=False)
    kappa = simulator(np.tile(OTHER, (3000, 1)), seed=13)["x"][:, 0].astype(float)
    assert kappa.min() > -simulator.shift
    means = kappa.mean((1, 2))
    assert abs(means.mean()) < 4 * means.std() / 3000**0.5
    variance = simulator.sky.correlation(simulator.C_l(np.array([OTHER])))[0, 0, 0, 0]
    s2 = np.log1p(variance / simulator.shift**2)
    # One pixel a map: independent draws.
    y = np.log1p(kappa[:, 5, 9] / simulator.shift)
    assert kstest((y + s2 / 2) / s2**0.5, "norm").pvalue > 1e-3
    skewness = ((kappa / variance**0.5) ** 3).mean((1, 2))
    ratio = variance**0.5 / simulator.shift
    assert abs(skewness.mean() - ratio * (3 + ratio**2)) < 4 * skewness.std() / 3000**0.5


@pytest.mark.parametrize("shift", [0.01, 0.02, 0.04])
def test_lognormal_spectra_are_positive_in_every_corner(shift):
    simulator = ConvergenceMaps(field="lognormal", shift=shift)
    low, high = simulator.emulator.low, simulator.emulator.high
    corners = np.stack(np.meshgrid(*zip(low, high)), -1).reshape(-1, 3)
    spectra = simulator._field.spectra(corners)
    assert (spectra.P > 0).all() and spectra.ratio.min() > 0.9


def test_exact_posterior_covers_the_truth():
    """Simulation-based calibration of the grid, which sees the prior's draws."""
    simulator = ConvergenceMaps(pixels=16)
    theta = simulator.prior.sample((250,), seed=14).double().numpy()
    posterior = simulator.exact_posterior(simulator(theta, seed=15)["x"], points=16)
    below = posterior.sample(200, seed=16) < theta
    for ranks in below.mean(0).T:
        assert kstest(ranks, "uniform").pvalue > 1e-3
    prior_sd = (simulator.emulator.high - simulator.emulator.low) / 12**0.5
    contraction = posterior.sd.mean(0) / prior_sd
    assert contraction[1] < 0.8 and contraction[2] > 0.8  # w_0 is hardly seen


def test_exact_posterior_is_the_likelihood_on_its_grid():
    for options in ({}, {"field": "lognormal", "noise": False}):
        simulator = ConvergenceMaps(pixels=8, **options)
        x = simulator(BOTH, seed=17)["x"]
        posterior = simulator.exact_posterior(x, points=5)
        log_p = simulator.log_likelihood(x[:, None], posterior.theta)
        expected = np.exp(log_p - log_p.max(-1, keepdims=True))
        expected /= expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(posterior.weights, expected, rtol=1e-8)
        single = simulator.exact_posterior(x[0], points=5)
        np.testing.assert_allclose(single.weights, expected[0], rtol=1e-8)


def test_noise_of_a_pixel():
    simulator = ConvergenceMaps()
    per_pixel = 27.0 * (5 * 60 / 64) ** 2
    assert simulator.sigma_pix == pytest.approx(0.26 / per_pixel**0.5)
    fields = ConvergenceMaps(record=("z_kappa",))(np.tile(TRUTH, (50, 1)), seed=18)
    noise = fields["x"] - fields["z_kappa"]
    assert noise.std() == pytest.approx(simulator.sigma_pix, rel=0.01)


def test_wrong_settings_and_inputs_are_refused():
    for options, message in (
        ({"field": "loggaussian"}, "field must be one of gaussian, lognormal"),
        ({"latents": "pink"}, "latents must be one of"),
        ({"record": ("kappa",)}, "record must be one of joint_score"),
        ({"n_gal": 0}, "n_gal must be positive"),
        ({"sigma_e": -0.1}, "sigma_e must be positive"),
        ({"pixels": 9}, "pixels must be even"),
        ({"side_deg": 60.0}, "multipoles 6 to"),
        ({"spectrum": "nowhere.npz"}, "no emulator of C_l at nowhere.npz"),
    ):
        with pytest.raises(ValueError, match=message):
            ConvergenceMaps(**options)
    simulator = ConvergenceMaps(pixels=8)
    with pytest.raises(ValueError, match=r"w_0 = -2 is outside"):
        simulator([[0.3, 0.8, -2.0]])
    with pytest.raises(ValueError, match=r"x must be \(..., 1, 8, 8\)"):
        simulator.log_likelihood(np.zeros((8, 8)), TRUTH)
    noisy = ConvergenceMaps(pixels=8, field="lognormal")
    with pytest.raises(ValueError, match="no closed form"):
        noisy.log_likelihood(np.zeros((1, 8, 8)), TRUTH)
    tight = ConvergenceMaps(field="lognormal", shift=1e-4)
    with pytest.raises(ValueError, match="no lognormal field of shift"):
        tight([OTHER])
