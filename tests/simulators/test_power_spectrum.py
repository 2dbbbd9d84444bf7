"""The theory of C_l against differential equations, its own definitions, and CAMB."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.interpolate import CubicSpline

from simulators import power_spectrum
from simulators.power_spectrum import MatterSpectrum, convergence_spectra, growth, transfer

L = np.array([20.0, 100.0, 500.0, 2000.0, 6000.0])
# CAMB 2.0.5, halofit_version="takahashi", massless neutrinos: its P(k, z) to k = 100 h/Mpc and its
# distances in the same Limber integral.
CAMB = {
    (0.3, 0.8, -1.0): [2.405e-08, 5.486e-09, 6.766e-10, 1.163e-10, 1.953e-11],
    (0.2, 0.7, -0.7): [1.625e-08, 2.327e-09, 2.157e-10, 3.472e-11, 6.261e-12],
    (0.4, 0.9, -1.3): [3.314e-08, 9.924e-09, 1.432e-09, 2.476e-10, 3.952e-11],
    (0.15, 1.0, -1.0): [4.031e-08, 4.573e-09, 5.002e-10, 7.719e-11, 1.153e-11],
    (0.45, 1.1, -0.6): [4.679e-08, 1.534e-08, 2.457e-09, 4.061e-10, 5.871e-11],
}


@pytest.mark.parametrize("Omega_m", [0.15, 0.3, 0.45])
@pytest.mark.parametrize("w", [-1.6, -1.3, -1.0, -0.7, -0.4])
def test_growth_solves_its_equation(Omega_m, w):
    """D'' + (2 + dlnH/dlna) D' = 3/2 Omega_m(a) D in ln a, from D = a early on."""

    def slope(log_a, state):
        matter = Omega_m * np.exp(-3 * log_a)
        dark = (1 - Omega_m) * np.exp(-3 * (1 + w) * log_a)
        share = matter / (matter + dark)
        friction = 2 - 1.5 * (share + (1 + w) * (1 - share))
        return [state[1], 1.5 * share * state[0] - friction * state[1]]

    # At w = -0.4 dark energy is a share a^1.2 of matter: start early enough for 1e-8.
    log_a = np.log([1e-7, 0.1, 0.3, 0.6, 1.0])
    start = [1e-7, 1e-7]
    found = solve_ivp(slope, log_a[[0, -1]], start, t_eval=log_a, rtol=1e-10, atol=0).y[0]
    D = growth(np.exp(log_a), Omega_m, w)
    np.testing.assert_allclose(found[1:] / found[-1], D[1:], rtol=1e-6)


def test_sigma_8_is_the_fluctuation_in_spheres():
    """Adaptive quadrature in k instead of Simpson's rule in ln k."""
    spectrum = MatterSpectrum(0.3, 0.83, -1.0)

    def integrand(log_k):
        x = 8 * np.exp(log_k)
        tophat = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        return float(spectrum.linear(np.exp(log_k)) * tophat**2)

    edges = np.linspace(np.log(1e-5), np.log(30), 60)
    total = sum(quad(integrand, a, b, epsrel=1e-9)[0] for a, b in pairwise(edges))
    assert total**0.5 == pytest.approx(0.83, rel=1e-5)


def test_transfer_tends_to_one_and_oscillates_by_the_share_of_baryons():
    assert transfer(np.array([1e-6]), 0.3)[0] == pytest.approx(1, abs=1e-3)
    k = np.geomspace(0.03, 0.3, 400)
    log_t = np.log(transfer(k, 0.3))
    smooth = np.polyval(np.polyfit(np.log(k), log_t, 5), np.log(k))
    wiggle = np.exp(2 * (log_t - smooth)) - 1
    assert 0.02 < np.abs(wiggle).max() < 0.1
    # Nodes are pi / s apart, with the sound horizon s of Eisenstein & Hu's equation 26.
    omega_m, omega_b = 0.3 * 0.674**2, 0.049 * 0.674**2
    sound = 0.674 * 44.5 * np.log(9.83 / omega_m) / np.sqrt(1 + 10 * omega_b**0.75)
    nodes = k[1:][np.diff(np.sign(wiggle[k > 0])) != 0]
    nodes = nodes[nodes > 0.1]
    assert np.diff(nodes).mean() == pytest.approx(np.pi / sound, rel=0.1)


def test_halofit_is_linear_on_large_scales_and_early():
    spectrum = MatterSpectrum(0.3, 0.8, -1.0)
    k = np.array([1e-3, 3e-3])
    np.testing.assert_allclose(spectrum.halofit(k, 0.0), spectrum.linear(k), rtol=2e-3)
    boost = [
        spectrum.halofit(2.0, z) / growth(1 / (1 + z), 0.3, -1.0) ** 2 for z in (0.0, 2.0, 9.0)
    ]
    late, middle, early = np.array(boost) / spectrum.linear(2.0)
    assert late > 5 and late > middle > early and 1 < early < 1.3


def test_the_quadrature_along_the_line_of_sight_has_converged():
    for theta in [(0.3, 0.8, -1.0), (0.45, 1.1, -1.6), (0.15, 0.5, -0.4)]:
        fine = convergence_spectra(L, theta, steps=2000)
        np.testing.assert_allclose(convergence_spectra(L, theta), fine, rtol=1e-4)


@pytest.mark.parametrize("theta", CAMB, ids=str)
def test_C_l_is_within_five_percent_of_camb(theta):
    """5 % is the accuracy of Eisenstein & Hu's transfer; halofit itself is CAMB's to 0.1 %."""
    np.testing.assert_allclose(convergence_spectra(L, theta)[0], CAMB[theta], rtol=0.05)


@pytest.mark.parametrize("theta", [(0.3, 0.8, -1.0), (0.2, 0.7, -0.7)], ids=str)
def test_halofit_of_cambs_linear_spectrum_is_cambs_halofit(theta):
    camb = pytest.importorskip("camb")
    Omega_m, sigma_8, w = theta
    h, density = power_spectrum.LITTLE_H, power_spectrum.OMEGA_B

    def results(kmax, nonlinear, A_s):
        pars = camb.CAMBparams(WantCls=False)
        pars.set_cosmology(
            H0=100 * h,
            ombh2=density * h**2,
            omch2=(Omega_m - density) * h**2,
            mnu=0,
            TCMB=power_spectrum.T_CMB,
        )
        pars.set_dark_energy(w=w, dark_energy_model="ppf")
        pars.InitPower.set_params(As=A_s, ns=power_spectrum.N_S)
        pars.NonLinearModel.set_params(halofit_version="takahashi")
        pars.set_matter_power(redshifts=[0.0], kmax=kmax, silent=True)
        pars.NonLinear = camb.model.NonLinear_pk if nonlinear else camb.model.NonLinear_none
        return camb.get_results(pars)

    A_s = 2e-9 * (sigma_8 / results(2.0, False, 2e-9).get_sigma8_0()) ** 2
    linear = results(30.0, False, A_s)
    wave, _, P = linear.get_matter_power_spectrum(minkh=2e-4, maxkh=27, npoints=900)
    log_linear = CubicSpline(np.log(wave), np.log(P[0] * wave**3 / (2 * np.pi**2)))

    class FromCamb(MatterSpectrum):
        def linear(self, k):
            return np.exp(log_linear(np.log(np.clip(k, wave[0], wave[-1]))))

    k, _, P = results(30.0, True, A_s).get_matter_power_spectrum(minkh=0.01, maxkh=20, npoints=40)
    found = FromCamb(*theta).halofit(k, 0.0) * 2 * np.pi**2 / k**3
    np.testing.assert_allclose(found, P[0], rtol=1e-3)
