import numpy as np
import pytest
from scipy.stats import kstest, norm

from simulators.calorimeter_image import Calorimeter


def partons(energy, eta, phi, n):
    """n events of one parton each."""
    pt = energy / np.cosh(eta)
    p = np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy])
    return np.tile(p, (n, 1, 1)), np.ones(n, dtype=int)


@pytest.mark.parametrize("energy", [1.0, 10.0, 45.0])
def test_all_energy_is_deposited_where_the_parton_points(energy):
    n, calorimeter = 4000, Calorimeter()
    hits = calorimeter.deposit(*partons(energy, 0.4, -2.0, n), np.random.default_rng(0))
    total = 0.25 * hits.sum((1, 2, 3))
    assert abs(total.mean() - energy) < 4 * np.sqrt(0.25 * energy / n)
    assert total.var() == pytest.approx(0.25 * energy, rel=5 * np.sqrt(2 / n) + 0.05)
    eta = -3 + (np.arange(32) + 0.5) * 6 / 32
    phi = (np.arange(32) + 0.5) * 2 * np.pi / 32
    mean = hits.sum((0, 1)) / hits.sum()
    width = 6 / 32 / 12**0.5
    assert mean.sum(1) @ eta == pytest.approx(0.4, abs=width / 4)
    assert mean.sum(0) @ phi == pytest.approx(2 * np.pi - 2, abs=width / 4)


def test_layers_and_their_shares():
    """A mean over f ~ Beta(2, 3) of the first layer's share is what the layers show."""
    n, energy, calorimeter = 20_000, 20.0, Calorimeter()
    hits = calorimeter.deposit(*partons(energy, 0.0, 1.0, n), np.random.default_rng(1))
    f = (np.arange(4000) + 0.5) / 4000
    expected = (12 * f * (1 - f) ** 2 * calorimeter.first_layer(energy, f)).mean()
    share = hits[:, 0].sum((1, 2)) / hits.sum((1, 2, 3))
    assert abs(share.mean() - expected) < 4 * share.std() / n**0.5
    assert share.std() > 0.05


def test_depth_of_showers():
    calorimeter, energy = Calorimeter(), np.geomspace(1, 500, 30)
    electron, hadron = (calorimeter.first_layer(energy, f) for f in (1.0, 0.0))
    assert (electron > 0.9).all() and (hadron < electron - 0.2).all()
    for share in (electron, hadron):
        assert (np.diff(share) < 0).all() and (share > 0).all() and (share < 1).all()
    deeper = Calorimeter(radiation=40.0, interaction=3.0)
    assert (deeper.first_layer(energy, 0.3) > calorimeter.first_layer(energy, 0.3)).all()
    # Longo and Sestili: the maximum of b (bX)^(a-1) e^(-bX) is at ln(E / E_c) - 1/2
    depth = np.linspace(1, 15, 1401)
    profile = np.diff([Calorimeter(radiation=X).first_layer(20.0, 1.0) for X in depth])
    assert depth[profile.argmax()] == pytest.approx(np.log(20 / 0.0075) - 0.5, abs=0.05)


def test_lateral_spread_and_the_seam_in_phi():
    calorimeter = Calorimeter(pixels=256, eta_max=1.0, hit=0.02)
    hits = calorimeter.deposit(*partons(40.0, 0.0, 0.0, 20), np.random.default_rng(2))
    for layer, sigma in enumerate((0.05, 0.12)):
        share = hits[:, layer].sum((0, 2)) / hits[:, layer].sum()
        eta = -1 + (np.arange(256) + 0.5) / 128
        assert share @ eta**2 == pytest.approx(sigma**2, rel=0.05)
        around = hits[:, layer].sum((0, 1)) / hits[:, layer].sum()
        phi = (np.arange(256) + 0.5) * 2 * np.pi / 256
        phi = np.where(phi > np.pi, phi - 2 * np.pi, phi)
        assert around @ phi**2 == pytest.approx(sigma**2, rel=0.05)


def test_what_leaves_the_detector_is_lost():
    rng = np.random.default_rng(3)
    calorimeter = Calorimeter()
    for eta, share in ((3.0, 0.5), (-3.0, 0.5), (4.5, 0.0), (-9.0, 0.0)):
        hits = calorimeter.deposit(*partons(30.0, eta, 1.0, 2000), rng)
        assert 0.25 * hits.sum() / 2000 / 30 == pytest.approx(share, abs=0.02)
    beam = np.tile([0.0, 0.0, 5.0, 5.0], (3, 1, 1)), np.ones(3, dtype=int)
    assert not calorimeter.deposit(*beam, rng).any()


def test_padding_and_neighbours_leave_no_hits():
    momenta, counts = partons(20.0, 0.0, 1.0, 6)
    momenta = np.concatenate([momenta, 5 * momenta], 1)
    counts = np.array([1, 2, 0, 1, 2, 0])
    hits = Calorimeter().deposit(momenta, counts, np.random.default_rng(4))
    total = 0.25 * hits.sum((1, 2, 3))
    assert hits.shape == (6, 2, 32, 32) and hits.dtype.kind == "i"
    np.testing.assert_allclose(total, [20, 120, 0, 20, 120, 0], atol=25)
    assert not total[counts == 0].any()


def test_resolution_of_a_cell():
    calorimeter = Calorimeter()
    rng = np.random.default_rng(5)
    for hits in (0, 4, 100):
        energy = 0.25 * hits
        sigma = np.sqrt(0.25 * energy + (0.03 * energy) ** 2 + 0.05**2)
        x = calorimeter.image(np.full((200, 100), hits), rng)
        assert x.dtype == np.float32
        assert kstest(x.ravel(), norm(energy, sigma).cdf).pvalue > 1e-3


def test_measured_momenta():
    n, energy = 20_000, 16.0
    momenta, _ = partons(energy, 0.7, 2.0, n)
    momenta = np.concatenate([momenta, np.zeros_like(momenta)], 1)
    calorimeter = Calorimeter()
    p = calorimeter.measure(momenta, np.random.default_rng(6))
    assert p.shape == (n, 2, 3) and not p[:, 1].any()
    measured = np.linalg.norm(p[:, 0], axis=-1)
    sigma = np.sqrt(0.25 / energy + 0.03**2)
    assert calorimeter.resolution(np.float64(energy)) == pytest.approx(sigma)
    assert kstest(np.log(measured / energy) / sigma, "norm").pvalue > 1e-3
    cosine = (p[:, 0] @ momenta[0, 0, :3]) / measured / energy
    assert np.arccos(cosine).std() < 0.03
    assert ((1 - cosine) * 2).mean() == pytest.approx(2 * 0.02**2, rel=0.05)
