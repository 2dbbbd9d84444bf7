"""The theory of C_l against the Core Cosmology Library: the same fits, integrated by others."""

import numpy as np
import pytest

from simulators.power_spectrum import (
    LITTLE_H,
    N_S,
    OMEGA_B,
    MatterSpectrum,
    convergence_spectra,
)
from simulators.source_galaxies import SourceGalaxies

THETA = [(0.3, 0.8, -1.0), (0.2, 0.7, -0.7), (0.4, 0.9, -1.3), (0.45, 1.1, -0.6)]


@pytest.fixture(params=THETA, ids=str)
def case(request):
    """Theta, the library, and its cosmology of Eisenstein & Hu with halofit, without radiation."""
    ccl = pytest.importorskip("pyccl")
    Omega_m, sigma_8, w = request.param
    cosmology = ccl.Cosmology(
        Omega_c=Omega_m - OMEGA_B,
        Omega_b=OMEGA_B,
        h=LITTLE_H,
        n_s=N_S,
        sigma8=sigma_8,
        w0=w,
        Neff=0,
        Omega_g=0,
        transfer_function="eisenstein_hu",
        matter_power_spectrum="halofit",
    )
    return request.param, ccl, cosmology


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_the_matter_spectrum_is_that_of_ccl(case, z):
    theta, ccl, cosmology = case
    k = np.geomspace(0.01, 10, 25)
    P = ccl.nonlin_matter_power(cosmology, k * LITTLE_H, 1 / (1 + z)) * LITTLE_H**3
    own = 2 * np.pi**2 / k**3 * MatterSpectrum(*theta).halofit(k, np.full(25, z))
    np.testing.assert_allclose(own, P, rtol=1.5e-3)


def test_convergence_spectra_are_those_of_ccl(case):
    theta, ccl, cosmology = case
    source = SourceGalaxies()
    z = np.linspace(0, source.z_max, 4000)
    dndz = source.densities(z)[0]
    tracer = ccl.WeakLensingTracer(cosmology, dndz=(z, dndz))
    ell = np.array([20, 50, 100, 300, 1000, 3000, 6000])
    shear = (ell + 2) * (ell + 1) * ell * (ell - 1) / (ell + 0.5) ** 4  # what its spectra are of
    exact = ccl.angular_cl(cosmology, tracer, tracer, ell) / shear
    own = convergence_spectra(ell, theta)[0]
    np.testing.assert_allclose(own, exact, rtol=5e-4)
