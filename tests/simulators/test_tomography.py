"""Several redshift bins and masks: against dense normal densities, finite differences, moments."""

import json

import numpy as np
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

from simulators.cosmology import ConvergenceMaps
from simulators.sky_masks import MASKS, mask_of

TRUTH = (0.3, 0.8, -1.0)
OTHER = (0.22, 0.95, -0.7)
BOTH = np.array([TRUTH, OTHER])
# So few galaxies that C_l crosses 2 N_l within the map's multipoles.
SMALL = {"pixels": 16, "side_deg": 5.0, "n_gal": 12.0, "bins": 3}
FIELDS = pytest.mark.parametrize("field", ["gaussian", "lognormal"])


def latents_of(simulator, theta, rng):
    """White noise and maps of one theta each, in double precision."""
    shape = (len(theta), simulator.bins, simulator.pixels, simulator.pixels)
    white = rng.standard_normal(shape)
    x = simulator.signal(theta, white) + simulator.sigma_pix * rng.standard_normal(shape)
    return x if simulator.observed is None else x * simulator.observed, white


def central_difference(function, theta, step=1e-4):
    """Of fourth order: the columns of the gradient by theta."""
    columns = []
    for h in step * np.eye(3):
        near, far = function(theta + h) - function(theta - h), function(theta + 2 * h)
        columns.append((8 * near - far + function(theta - 2 * h)) / (12 * step))
    return np.stack(columns, -1)


def dense_covariance(simulator, theta):
    """The covariance (b N^2, b N^2) of kappa, from direct sums of cosines over all modes."""
    N, sky, b = simulator.pixels, simulator.sky, simulator.bins
    k = np.fft.fftfreq(N, 1 / N)
    fundamental = 2 * np.pi / sky.side
    multipoles = fundamental * np.hypot(k[:, None], k).ravel()
    multipoles[0] = fundamental
    pairs = simulator.emulator(multipoles, np.array([theta]))[0]
    y, x = (axis.ravel() for axis in np.mgrid[:N, :N])
    modes = np.stack(np.meshgrid(k, k, indexing="ij"), -1).reshape(-1, 2)
    phase = (y[:, None] - y)[..., None] * modes[:, 0] + (x[:, None] - x)[..., None] * modes[:, 1]
    cosines = np.cos(2 * np.pi / N * phase) / sky.side**2
    out = np.empty((b, N * N, b, N * N))
    for C, i, j in zip(pairs, *np.tril_indices(b)):
        out[i, :, j] = out[j, :, i] = cosines @ C
    return out.reshape(b * N * N, -1)


def dense(simulator, theta):
    """The normal density of all pixels that are observed, and which they are."""
    seen = np.ones((simulator.pixels,) * 2, bool) if simulator.mask is None else simulator.observed
    where = np.tile(seen.ravel(), simulator.bins)
    covariance = dense_covariance(simulator, theta)[np.ix_(where, where)]
    if simulator.field == "lognormal":
        shift = np.repeat(simulator._field.shift, seen.sum())
        covariance = np.log1p(covariance / np.outer(shift, shift))
        return multivariate_normal(-np.diag(covariance) / 2, covariance), where
    noise = simulator.noise * simulator.sigma_pix**2 * np.eye(len(covariance))
    return multivariate_normal(np.zeros(len(covariance)), covariance + noise), where


@pytest.mark.parametrize("mask", [None, "stars"])
@pytest.mark.parametrize("bins", [2, 5])
@pytest.mark.parametrize("noise", [True, False])
def test_gaussian_likelihood_is_the_dense_one(bins, mask, noise):
    simulator = ConvergenceMaps(pixels=8, bins=bins, noise=noise, mask=mask)
    x = simulator(BOTH, seed=0)["x"].astype(float)
    x[0] += 0.01  # a mean, which has a mode of its own
    for theta in BOTH:
        law, where = dense(simulator, theta)
        expected = law.logpdf(x.reshape(2, -1)[:, where])
        np.testing.assert_allclose(simulator.log_likelihood(x, theta), expected, rtol=1e-10)


@pytest.mark.parametrize("mask", [None, "disc"])
def test_lognormal_likelihood_is_the_dense_one_with_its_jacobian(mask):
    simulator = ConvergenceMaps(pixels=8, bins=2, field="lognormal", noise=False, mask=mask)
    x = simulator(BOTH, seed=0)["x"].astype(float)
    shift = np.repeat(simulator._field.shift, 64)
    for theta in BOTH:
        law, where = dense(simulator, theta)
        seen = x.reshape(2, -1)[:, where]
        y = np.log1p(seen / shift[where])
        expected = law.logpdf(y) - np.log(seen + shift[where]).sum(-1)
        np.testing.assert_allclose(simulator.log_likelihood(x, theta), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"bins": 3},
        {"bins": 2, "noise": False, "field": "lognormal"},
        {"mask": "disc"},
        {"bins": 2, "mask": "stars"},
        {"bins": 2, "mask": "stars", "noise": False, "field": "lognormal"},
    ],
    ids=str,
)
def test_score_is_the_slope_of_the_likelihood(options):
    simulator = ConvergenceMaps(pixels=8, n_gal=12.0, **options)
    x = simulator(BOTH, seed=1)["x"].astype(float)
    slope = central_difference(lambda theta: simulator.log_likelihood(x, theta), BOTH)
    np.testing.assert_allclose(simulator.score(x, BOTH), slope, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("mask", [None, "stars"])
@FIELDS
def test_white_joint_score_is_the_slope_of_the_joint_density(field, mask):
    """Of log N(x; kappa(theta, w), sigma^2) at fixed x and w, where the sky is observed."""
    simulator = ConvergenceMaps(**SMALL, field=field, mask=mask)
    x, white = latents_of(simulator, BOTH, np.random.default_rng(5))
    seen = 1 if mask is None else simulator.observed

    def log_joint(theta):
        residual = (x - simulator.signal(theta, white)) / simulator.sigma_pix
        return -(seen * residual**2).sum((1, 2, 3)) / 2

    slope = central_difference(log_joint, BOTH)
    found = simulator.joint_score(x, white, BOTH)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-5)


@FIELDS
def test_field_joint_score_is_the_slope_of_the_fields_density(field):
    """x | kappa does not depend on theta: the density of the noise-free map is left."""
    simulator = ConvergenceMaps(**SMALL, field=field, latents="field", mask="disc")
    x, white = latents_of(simulator, BOTH, np.random.default_rng(6))
    kappa = simulator.signal(BOTH, white)
    exact = ConvergenceMaps(**SMALL, field=field, noise=False)
    found = simulator.joint_score(x, white, BOTH)
    np.testing.assert_allclose(found, exact.score(kappa, BOTH), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{}, {"latents": "mixed"}, {"mask": "stars"}, {"field": "lognormal", "latents": "mixed"}],
    ids=str,
)
def test_joint_score_of_simulate_averages_to_zero(options):
    simulator = ConvergenceMaps(**SMALL, **options, record=("joint_score", "z_white"))
    if options.get("latents") == "mixed":
        assert 0.1 < simulator._white.mean() < 0.9
    n = 1500
    fields = simulator(np.tile(TRUTH, (n, 1)), seed=8)
    scores = fields["joint_score"].astype(float)
    z = scores.mean(0) / scores.std(0) * n**0.5
    assert np.abs(z).max() < 4
    part = {name: value[:20].astype(float) for name, value in fields.items()}
    again = simulator.joint_score(part["x"], part["z_white"], np.tile(TRUTH, (20, 1)))
    np.testing.assert_allclose(part["joint_score"], again, atol=2e-3 * scores.std())


@pytest.mark.parametrize("latents", ["white", "mixed"])
def test_joint_score_given_the_maps_averages_to_the_score(latents):
    """E[(t - t_x) t_x] = 0, and t has no smaller variance."""
    n = 2000
    simulator = ConvergenceMaps(**SMALL, latents=latents)
    theta = np.tile(TRUTH, (n, 1))
    fields = simulator(theta, seed=9)
    t, t_x = fields["joint_score"].astype(float), simulator.score(fields["x"], theta)
    product = (t - t_x)[:, :, None] * t_x[:, None]
    assert np.abs(product.mean(0) / product.std(0) * n**0.5).max() < 4.5
    assert (t.std(0) > t_x.std(0)).all()


@FIELDS
def test_spectra_between_bins_are_those_of_the_theory(field):
    n = 800
    simulator = ConvergenceMaps(pixels=16, bins=3, field=field)
    x = simulator(np.tile(OTHER, (n, 1)), seed=11)["x"].astype(float)
    sky = simulator.sky
    S = simulator.C_l(np.array([OTHER]))[0] + simulator.N_l * np.eye(3)[..., None]
    x_k = np.fft.rfft2(x)
    band = np.digitize(sky.multipoles, np.geomspace(72, 600, 5)[1:-1])
    use = np.arange(len(band)) > 0
    for i, j in zip(*np.tril_indices(3)):
        cross = sky.fold((x_k[:, i].conj() * x_k[:, j]).real) * sky.pixel_area / 16**2
        for b in range(4):
            inside = use & (band == b)
            found = cross[:, inside].sum(1) / sky.counts[inside].sum()
            expected = np.average(S[i, j, inside], weights=sky.counts[inside])
            assert abs(found.mean() - expected) < 4.5 * found.std() / n**0.5
            assert found.std() / n**0.5 < 0.05 * expected


def test_modes_of_gaussian_maps_are_chi_squared():
    simulator = ConvergenceMaps(pixels=16, bins=4)
    x = simulator(np.tile(TRUTH, (200, 1)), seed=12)["x"]
    log_p = simulator.log_likelihood(x, np.array(TRUTH))
    at_peak = simulator.log_likelihood(np.zeros_like(x[0]), np.array(TRUTH))
    total = 2 * (at_peak - log_p)
    assert 1e-4 < chi2(200 * 4 * 256).cdf(total.sum()) < 1 - 1e-4
    assert kstest(total, chi2(4 * 256).cdf).pvalue > 1e-3


@pytest.mark.parametrize("bins", [2, 3, 4, 5])
@pytest.mark.parametrize("options", [{"pixels": 64}, {"pixels": 128, "side_deg": 10.0}], ids=str)
def test_spectra_are_positive_definite_in_every_corner(bins, options):
    simulator = ConvergenceMaps(bins=bins, **options)
    low, high = simulator.emulator.low, simulator.emulator.high
    corners = np.stack(np.meshgrid(*zip(low, high)), -1).reshape(-1, 3)
    assert np.isfinite(simulator._field.spectra(corners).L).all()
    lognormal = ConvergenceMaps(bins=bins, field="lognormal", **options)
    assert lognormal._field.spectra(corners).ratio.min() > 0.98


def test_more_bins_say_more():
    """Contraction by tomography; the galaxies are the same. Also coverage of the grid."""
    sd, n = [], 100
    for bins in (1, 3):
        simulator = ConvergenceMaps(pixels=16, bins=bins)
        theta = simulator.prior.sample((n,), seed=14).double().numpy()
        posterior = simulator.exact_posterior(simulator(theta, seed=15)["x"], points=14)
        for ranks in (posterior.sample(100, seed=16) < theta).mean(0).T:
            assert kstest(ranks, "uniform").pvalue > 1e-3
        sd.append(posterior.sd.mean(0))
    assert (sd[1] < sd[0]).all() and sd[1][0] < 0.9 * sd[0][0]


@pytest.mark.parametrize(
    "options",
    [{"bins": 2}, {"mask": "disc"}, {"bins": 2, "mask": "stars"}],
    ids=str,
)
def test_exact_posterior_is_the_likelihood_on_its_grid(options):
    simulator = ConvergenceMaps(pixels=8, **options)
    x = simulator(BOTH, seed=17)["x"]
    posterior = simulator.exact_posterior(x, points=4)
    log_p = simulator.log_likelihood(x[:, None], posterior.theta)
    expected = np.exp(log_p - log_p.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(posterior.weights, expected, rtol=1e-7)
    single = simulator.exact_posterior(x[0], points=4)
    np.testing.assert_allclose(single.weights, expected[0], rtol=1e-7)


def test_a_mask_of_everything_is_no_mask():
    whole = ConvergenceMaps(pixels=8, bins=2)
    simulator = ConvergenceMaps(pixels=8, bins=2, mask=np.ones((8, 8)))
    x = whole(BOTH, seed=2)["x"]
    np.testing.assert_array_equal(simulator(BOTH, seed=2)["x"], x)
    expected = whole.log_likelihood(x[:, None], BOTH)
    np.testing.assert_allclose(simulator.log_likelihood(x[:, None], BOTH), expected, rtol=1e-9)


@pytest.mark.parametrize("name", MASKS)
def test_masked_pixels_are_zero_and_not_looked_at(name):
    simulator = ConvergenceMaps(pixels=16, mask=name, record=("z_kappa",))
    fields = simulator(BOTH, seed=3)
    observed = mask_of(name, 16)
    assert 0.5 < observed.mean() < 0.95
    assert (fields["x"][..., ~observed] == 0).all() and (fields["x"][..., observed] != 0).all()
    assert (fields["z_kappa"] != 0).all()
    changed = fields["x"] + ~observed
    np.testing.assert_array_equal(
        simulator.log_likelihood(changed, BOTH), simulator.log_likelihood(fields["x"], BOTH)
    )


def test_masks_by_pixel_survive_json():
    observed = np.random.default_rng(0).random((8, 8)) < 0.7
    simulator = ConvergenceMaps(pixels=8, mask=observed)
    settings = json.loads(json.dumps(simulator.settings))
    again = ConvergenceMaps(**settings)
    np.testing.assert_array_equal(again.observed, observed)
    assert again.settings == simulator.settings


def test_noise_is_shared_among_the_bins():
    one, five = ConvergenceMaps(pixels=8), ConvergenceMaps(pixels=8, bins=5)
    assert five.sigma_pix == pytest.approx(one.sigma_pix * 5**0.5)
    fields = ConvergenceMaps(pixels=32, bins=5, record=("z_kappa",))(BOTH, seed=4)
    noise = fields["x"] - fields["z_kappa"]
    expected = ConvergenceMaps(pixels=32, bins=5).sigma_pix
    np.testing.assert_allclose(noise.std((0, 2, 3)), expected, rtol=0.1)


def test_fields_have_the_bins_as_channels():
    simulator = ConvergenceMaps(
        pixels=8, bins=3, field="lognormal", record=("z_kappa", "z_white"), noise=False
    )
    fields = simulator(BOTH, seed=5)
    assert all(value.shape == (2, 3, 8, 8) for value in fields.values())
    assert simulator.fields["x"].shape == (3, 8, 8)
    low = np.array(simulator.fields["x"].support[0])
    np.testing.assert_allclose(low, -simulator._field.shift)
    assert (fields["x"] > low[:, None, None]).all() and (np.diff(low) < 0).all()


def test_wrong_bins_and_masks_are_refused():
    for options, message in (
        ({"bins": 6}, "bins must be one of 1, 2, 3, 4, 5; got 6"),
        ({"bins": 2, "shift": [0.1, 0.2, 0.3]}, "one for each of 2 bins"),
        ({"bins": 2, "shift": [0.1, -0.1]}, "shift must be positive"),
        ({"mask": "moon"}, "mask must be one of disc, stars, or an array; got 'moon'"),
        ({"pixels": 8, "mask": np.ones((4, 4))}, r"mask must be \(8, 8\)"),
        ({"pixels": 8, "mask": np.zeros((8, 8))}, "with observed pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            ConvergenceMaps(**options)
    large = ConvergenceMaps(pixels=64, mask="disc")
    with pytest.raises(ValueError, match=r"3228 numbers a map; it goes to 2304 \(48 x 48"):
        large.log_likelihood(large([TRUTH])["x"], np.array(TRUTH))
    noisy = ConvergenceMaps(pixels=8, bins=2, field="lognormal", mask="stars")
    with pytest.raises(ValueError, match="no closed form"):
        noisy.log_likelihood(np.zeros((2, 8, 8)), np.array(TRUTH))
    with pytest.raises(ValueError, match="no lognormal field of shift"):
        ConvergenceMaps(bins=5, field="lognormal", shift=[0.01] * 5)([OTHER])
