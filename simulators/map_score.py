r"""The joint score of convergence maps and their latents.

.. math::
    \frac{\partial \log p(x, z \mid \vartheta)}{\partial P_k}
        = \mathrm{sym}\bigl( L_k^{-T} Z_k L_k^{-1} \bigr), \qquad
    Z_k = \Phi\bigl( L_k^T V_k \bigr) / N^2 \sqrt{A_{pix}} \;\text{ or }\;
        \tfrac12 \bigl( W_k / N^2 - n_k I \bigr)

of a bin k of n_k modes whose latent is the white noise w, or the field G. V and W are the sums
over its modes of :math:`v w^\dagger` and :math:`w w^\dagger`, v is the gradient of
log p(x | kappa) by G, and Phi takes the lower triangle with half the diagonal (see `triangular`).
"""

from __future__ import annotations

__all__ = ["joint_score"]

import numpy as np
from scipy.fft import rfft2

from .flat_sky import FlatSky
from .lensing_field import LensingField, Spectra
from .triangular import half_diagonal, inverse, product, sandwich

Array = np.ndarray


def joint_score(
    field: LensingField,
    white: Array,
    theta: Array,
    spectra: Spectra,
    white_k: Array,
    kappa: Array,
    slope: Array,
) -> Array:
    """The joint score (n, 3), by way of the derivatives by P and s^2.

    Arguments:
        field: The field.
        white: In which bins of modes the latent is the white noise, (m,).
        theta: Parameters (n, 3).
        spectra: The field's at theta.
        white_k: Modes of the white noise, (n, b, N, N / 2 + 1).
        kappa: The map that they make, (n, b, N, N).
        slope: The derivative of log p(x | kappa) by kappa, (n, b, N, N).
    """
    sky, b = field.sky, field.bins
    N2, root = sky.pixels**2, np.sqrt(sky.pixel_area)
    L_inverse = inverse(spectra.L)
    mean = np.einsum("nji,nj->ni", L_inverse[..., 0], white_k[:, :, 0, 0].real)
    by_s2 = -0.5 * root * mean
    Z = np.zeros_like(spectra.P)
    if white.any():
        v = slope
        if field.shift is not None:
            v = v * (kappa + field.shift[:, None, None].astype(kappa.dtype))
        v_k = rfft2(v)
        by_L = _powers(sky, v_k, white_k) / (N2 * root)
        Z = half_diagonal(product(spectra.L.swapaxes(1, 2), by_L))
        if white[0]:
            by_s2 = -0.5 * v_k[:, :, 0, 0].real
    if not white.all():
        power = _powers(sky, white_k, white_k) / N2
        power = power + np.tril(np.ones((b, b)), -1)[..., None] * power
        Z = np.where(white, Z, (power - sky.counts * np.eye(b)[..., None]) / 2)
    return field.chain(theta, spectra, sandwich(L_inverse, Z), by_s2)


def _powers(sky: FlatSky, first: Array, second: Array) -> Array:
    """The lower triangle of sums of first second^* over the modes of each bin, (n, b, b, m)."""
    n, b = first.shape[:2]
    out = np.zeros((n, b, b, len(sky.counts)))
    for i, j in zip(*np.tril_indices(b)):
        f, s = first[:, i], second[:, j]
        out[:, i, j] = sky.fold(f.real * s.real + f.imag * s.imag)
    return out
