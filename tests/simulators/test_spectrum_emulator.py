"""The emulator of C_l against the integral that it stands for."""

from functools import partial

import numpy as np
import pytest

from simulators.cosmology import ConvergenceMaps
from simulators.power_spectrum import convergence_spectra
from simulators.source_galaxies import SourceGalaxies
from simulators.spectrum_emulator import SpectrumEmulator, default_file, main

EMULATOR = SpectrumEmulator.load()


def test_C_l_is_the_direct_one_to_a_thousandth():
    rng = np.random.default_rng(3)
    multipoles = np.geomspace(10, 20_000, 83)
    inside = rng.uniform(EMULATOR.low, EMULATOR.high, (8, 3))
    corners = [(0.15, 0.5, -1.6), (0.45, 1.1, -0.4), (0.15, 1.1, -1.6), (0.15, 0.5, -0.4)]
    theta = np.concatenate([inside, corners])
    direct = np.stack([convergence_spectra(multipoles, tuple(row)) for row in theta])
    error = np.abs(EMULATOR(multipoles, theta) / direct - 1)
    assert error.max() < 1e-3 and np.median(error) < 1e-4


@pytest.mark.parametrize("bins", [2, 3, 4, 5])
def test_C_l_of_all_pairs_is_the_direct_one_to_a_thousandth(bins):
    emulator = SpectrumEmulator.load(default_file(bins))
    assert emulator.source == SourceGalaxies(bins=bins)
    assert default_file(bins).stat().st_size < 400_000
    rng = np.random.default_rng(bins)
    multipoles = np.geomspace(10, 20_000, 83)
    theta = np.array([rng.uniform(emulator.low, emulator.high), (0.15, 0.5, -1.6)])
    direct = np.stack(
        [convergence_spectra(multipoles, tuple(row), emulator.source) for row in theta]
    )
    assert direct.shape == (2, bins * (bins + 1) // 2, 83)
    error = np.abs(emulator(multipoles, theta) / direct - 1)
    assert error.max() < 1e-3 and np.median(error) < 1e-4


def test_bins_add_up_to_all_galaxies():
    """The convergence of all is the mean of that of the bins."""
    one, bins = convergence_spectra(np.array([30.0, 1000.0]), (0.3, 0.8, -1.0)), 3
    pairs = convergence_spectra(
        np.array([30.0, 1000.0]), (0.3, 0.8, -1.0), SourceGalaxies(bins=bins)
    )
    weights = np.where(np.equal(*np.tril_indices(bins)), 1, 2) / bins**2
    np.testing.assert_allclose(weights @ pairs, one[0], rtol=1e-5)


def test_gradient_is_the_slope():
    rng = np.random.default_rng(4)
    theta = rng.uniform(EMULATOR.low + 0.01, EMULATOR.high - 0.01, (6, 3))
    gradient = EMULATOR.gradient(theta)
    for i, step in enumerate(1e-5 * np.eye(3)):
        rise = EMULATOR.log_spectrum(theta + step) - EMULATOR.log_spectrum(theta - step)
        np.testing.assert_allclose(gradient[:, i], rise / 2e-5, atol=1e-6)


def test_another_redshift_distribution_is_built_saved_and_loaded(tmp_path):
    """A deeper survey sees more lensing; few nodes are enough to see that."""
    source = SourceGalaxies(a=2.0, b=0.9, z_0=0.4)
    built = SpectrumEmulator.build(source, nodes=(3, 3, 2), knots=25)
    built.save(tmp_path / "deep.npz")
    loaded = SpectrumEmulator.load(tmp_path / "deep.npz")
    assert loaded.source == source
    multipoles, theta = np.array([100.0, 1000.0]), np.array([[0.3, 0.8, -1.0]])
    np.testing.assert_allclose(loaded(multipoles, theta), built(multipoles, theta), rtol=1e-5)
    direct = convergence_spectra(multipoles, (0.3, 0.8, -1.0), source)
    np.testing.assert_allclose(loaded(multipoles, theta)[0], direct, rtol=0.1)
    assert (direct / EMULATOR(multipoles, theta)[0] > 1.2).all()


def test_what_is_outside_is_refused(tmp_path):
    EMULATOR.log_spectrum(np.array([[0.15, 0.5, -1.6]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"sigma_8 = 1.2 is outside the emulated range"):
        EMULATOR.log_spectrum(np.array([[0.3, 1.2, -1.0]]))
    with pytest.raises(ValueError, match="w_0 = nan"):
        EMULATOR.log_spectrum(np.array([[0.3, 0.8, np.nan]]))
    with pytest.raises(ValueError, match=r"theta must be \(n, 3\)"):
        EMULATOR.log_spectrum(np.zeros(3))
    with pytest.raises(ValueError, match="multipoles 5 to 100"):
        EMULATOR.interpolation(np.array([5.0, 100.0]))
    with pytest.raises(ValueError, match="no emulator of C_l"):
        SpectrumEmulator.load(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", coefficients=EMULATOR.coefficients)
    with pytest.raises(ValueError, match="lacks high, left, log_l, low, right, source_a"):
        SpectrumEmulator.load(tmp_path / "half.npz")


def test_the_package_carries_the_documented_survey():
    assert default_file().stat().st_size < 300_000
    assert EMULATOR.source == SourceGalaxies(2.0, 0.68, 0.11, 10.0, 1)
    assert EMULATOR.coefficients.shape == (8, 8, 6, 1, 60)


def test_the_command_builds_a_file_that_a_simulator_takes(tmp_path, monkeypatch, capsys):
    small = partial(SpectrumEmulator.build, nodes=(2, 2, 2), knots=20)
    monkeypatch.setattr(SpectrumEmulator, "build", small)
    path = str(tmp_path / "near.npz")
    main(["--out", path, "--source", "2", "1.5", "0.4", "--bins", "2", "--sigma-z", "0.1"])
    assert f"wrote {path}" in capsys.readouterr().out
    simulator = ConvergenceMaps(pixels=8, bins=2, spectrum=path)
    assert simulator.emulator.source == SourceGalaxies(2.0, 1.5, 0.4, bins=2, sigma_z=0.1)
    theta = np.array([[0.3, 0.8, -1.0]])
    assert (simulator.C_l(theta) < ConvergenceMaps(pixels=8, bins=2).C_l(theta)).all()
    with pytest.raises(ValueError, match="has C_l of 2 bins; bins is 1"):
        ConvergenceMaps(pixels=8, spectrum=path)
