import json
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import kstest, poisson

from simulators.galaxies import SLOTS, GalaxySources, _arms
from simulators.lensing import grid
from simulators.sersic import sersic


def test_the_recorded_galaxy_gives_its_image():
    simulator = GalaxySources(pixels=24)
    fields = simulator(40, seed=1)
    again = simulator.render(fields["z_galaxy"], fields["z_clumps"])
    np.testing.assert_allclose(fields["x"], again, rtol=2e-4, atol=1e-6)
    assert (fields["x"] > 0).all()
    assert simulator.names == () and simulator.prior is None


def test_without_arms_and_clumps_it_is_two_sersic_profiles():
    simulator = GalaxySources(pixels=16, side=1.0)
    galaxy = np.array([[0.05, -0.1, 0.2, 0.1, -0.2, 1.5, 0.7, 0.08, 1.7, 0, 2, 0.4, 0.3]])
    image = simulator.render(galaxy, np.zeros((1, SLOTS, 4)))
    x, y = grid(16, 1.0)
    shape = torch.tensor([0.2, 1.0, 0.1, -0.2, 1.5], dtype=torch.float64)
    bulge = torch.tensor([0.08, 1.7, 0.1, -0.2, 0.7], dtype=torch.float64)
    expected = sersic(x - 0.05, y + 0.1, *shape) + sersic(x - 0.05, y + 0.1, *bulge)
    np.testing.assert_allclose(image[0, 0], expected, rtol=1e-12)


def test_a_clump_is_a_gaussian_at_its_place():
    simulator = GalaxySources(pixels=64, side=1.2)
    galaxy = np.array([[0, 0, 0.2, 0, 0, 0.0, 0.0, 0.1, 1, 0, 2, 0.4, 0.3]])
    clumps = np.zeros((1, SLOTS, 4))
    clumps[0, 0] = 0.2, -0.3, 0.05, 2.0
    image = simulator.render(galaxy, clumps)[0, 0]
    x, y = (a.numpy() for a in grid(64, 1.2))
    expected = 2 * np.exp(-((x - 0.2) ** 2 + (y + 0.3) ** 2) / 2 / 0.05**2)
    np.testing.assert_allclose(image, expected, atol=1e-12)


@pytest.mark.parametrize("arms", [2, 3, 4])
def test_spiral_arms(arms):
    """m-fold symmetric, one on average around a circle, wound by ln r / tan p."""
    pitch = 0.4
    galaxy = np.array([[0, 0, 0.2, 0, 0, 1, 1, 0.1, 1, 0.8, arms, pitch, 0.3]])
    phi = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    for r in (0.1, 0.3):
        wave = _arms(r * np.cos(phi)[None], r * np.sin(phi)[None], galaxy)[0, 0]
        np.testing.assert_allclose(wave, np.roll(wave, 240 // arms), atol=1e-12)
        assert wave.mean() == pytest.approx(1, abs=1e-12)
        crest = 0.3 + np.log(r / 0.2) / np.tan(pitch)
        top = _arms(r * np.cos([[crest]]), r * np.sin([[crest]]), galaxy)
        u = (r / 0.2) ** 2
        assert top.item() == pytest.approx(1 + 0.8 * u / (1 + u)) and wave.max() <= top + 1e-12


def test_an_inclined_disc_is_the_face_on_one_squeezed():
    q, angle, arms = 0.5, 0.6, [0.8, 3, 0.4, 0.3]
    e = (1 - q) / (1 + q)
    flat = np.array([[0, 0, 0.2, 0, 0, 1, 1, 0.1, 1, *arms]])
    shape = e * np.cos(2 * angle), e * np.sin(2 * angle)
    tilted = np.array([[0, 0, 0.2, *shape, 1, 1, 0.1, 1, *arms]])
    u, v = np.random.default_rng(0).normal(0, 0.2, (2, 1, 50))
    c, s = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(
        _arms(c * u - s * q * v, s * u + c * q * v, tilted), _arms(u, v, flat), atol=1e-10
    )


def test_clumps():
    """A Poisson number; radii in the disc's plane as the light of an exponential disc."""
    fields = GalaxySources(pixels=4)(3000, seed=2)
    counts = fields["z_clumps_length"]
    assert abs(counts.mean() - 8) < 4 * (8 / 3000) ** 0.5
    assert abs((counts == 8).mean() - poisson.pmf(8, 8)) < 4 * (0.14 * 0.86 / 3000) ** 0.5
    there = np.arange(SLOTS) < counts[:, None]
    clumps = fields["z_clumps"].astype(float)
    assert not clumps[~there].any() and (clumps[there][:, 2:] > 0).all()
    x, y, R, e_1, e_2 = fields["z_galaxy"].astype(float)[:, :5].T
    z = clumps[..., 0] - x[:, None] + 1j * (clumps[..., 1] - y[:, None])
    e = (e_1 + 1j * e_2)[:, None]
    r = abs(z - e * z.conj()) / (1 - abs(e)) / R[:, None]
    assert kstest(1.678 * r[there], "gamma", (2,)).pvalue > 1e-3


def test_repeatable_settings_and_pickle():
    simulator = GalaxySources(pixels=8, side=1.0)
    first, second, other = (simulator(6, seed=s)["x"] for s in (3, 3, 4))
    assert (first == second).all() and (first != other).any()
    assert len({row.tobytes() for row in first}) == 6
    assert json.loads(json.dumps(simulator.settings)) == {"pixels": 8, "side": 1.0}
    assert (pickle.loads(pickle.dumps(simulator))(6, seed=3)["x"] == first).all()


@pytest.mark.parametrize("arguments", [{"pixels": 0}, {"pixels": 2.5}, {"side": 0.0}])
def test_bad_settings(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        GalaxySources(**arguments)
