r"""The redshift distribution of source galaxies, and its bins by photometric redshift.

.. math::
    n(z) \propto z^a e^{-(z / z_0)^b}, \qquad
    n_i(z) = n(z) \left[ \Phi\!\left(\frac{e_{i+1} - z}{\sigma_z (1 + z)}\right)
        - \Phi\!\left(\frac{e_i - z}{\sigma_z (1 + z)}\right) \right]

A galaxy's photometric redshift is normal about its redshift, with deviation sigma_z (1 + z); the
edges e_i give every bin as many galaxies.
"""

from __future__ import annotations

__all__ = ["SourceGalaxies"]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.integrate import simpson
from scipy.optimize import brentq
from scipy.special import ndtr

Array = np.ndarray


@dataclass(frozen=True)
class SourceGalaxies:
    """Source galaxies in tomographic bins.

    The defaults resemble LSST year 10. Cutting their tail at z = 4 would cost 1.4 % of C_l.

    Arguments:
        a: Exponent at low redshift.
        b: Exponent of the cut-off.
        z_0: Its redshift.
        z_max: Where the distribution is cut.
        bins: Tomographic bins.
        sigma_z: Error of photometric redshifts over 1 + z; it matters for several bins.

    Raises:
        ValueError: If there is no bin, or sigma_z is not positive.

    References:
        | Effects of Photometric Redshift Uncertainties on Weak-Lensing Tomography
        | (Ma, Hu & Huterer, 2006), https://arxiv.org/abs/astro-ph/0506614, equations 5 and 6
    """

    a: float = 2.0
    b: float = 0.68
    z_0: float = 0.11
    z_max: float = 10.0
    bins: int = 1
    sigma_z: float = 0.05

    def __post_init__(self) -> None:
        if self.bins < 1 or not self.sigma_z > 0:
            raise ValueError(
                f"bins must be at least 1 and sigma_z positive; got {self.bins} and {self.sigma_z}"
            )

    def density(self, z: Array) -> Array:
        """The distribution at redshift z, unnormalised."""
        return z**self.a * np.exp(-((z / self.z_0) ** self.b))

    @cached_property
    def edges(self) -> Array:
        """Photometric redshifts between the bins, with infinity at both ends, (bins + 1,)."""
        z = np.linspace(0, self.z_max, 8001)
        n = self.density(z)
        total = simpson(n, x=z)

        def below(edge: float) -> float:
            return float(simpson(n * self._below(edge, z), x=z) / total)

        shares = np.arange(1, self.bins) / self.bins
        inner = [brentq(lambda e, s=s: below(e) - s, 0, self.z_max, xtol=1e-10) for s in shares]
        return np.array([-np.inf, *inner, np.inf])

    def _below(self, edge: float, z: Array) -> Array:
        """The probability that the photometric redshift of a galaxy at z is below an edge."""
        return ndtr((edge - z) / (self.sigma_z * (1 + z)))

    def densities(self, z: Array) -> Array:
        """The distribution of each bin at redshift z (*Z), unnormalised, (bins, *Z)."""
        below = np.stack([self._below(edge, z) for edge in self.edges])
        return self.density(z) * np.diff(below, axis=0)

    @cached_property
    def means(self) -> Array:
        """The mean redshift of each bin, (bins,)."""
        z = np.linspace(0, self.z_max, 8001)
        n = self.densities(z)
        return simpson(n * z, x=z) / simpson(n, x=z)
