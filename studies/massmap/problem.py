r"""The problem: a convergence map of one cosmology, seen through shape noise and a mask.

.. math::
    y_i = \kappa_i + N(0, \sigma_{pix}^2), \; i \in \text{mask}, \qquad
    \kappa \sim N(0, C), \quad C = \mathcal F^{-1} \frac{C_\ell}{A_{pix}} \mathcal F

of a Gaussian field, whose posterior is Wiener's, or a lognormal one of the same spectrum, for
which Wiener's filter is the best linear estimate but not the posterior.
"""

from __future__ import annotations

__all__ = ["PIXELS", "THETA", "FixedMaps", "field_prior", "likelihood", "mask", "truths"]

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

import simgen
from simgen.operators import Mask
from simulators.cosmology import ConvergenceMaps
from simulators.sky_masks import mask_of

PIXELS = 32
THETA = (0.3, 0.8, -1.0)
"""Omega_m, sigma_8, w_0."""


class FixedMaps(simgen.Simulator):
    """Noise-free convergence maps of the one cosmology, without parameters.

    Arguments:
        field: "gaussian" or "lognormal".
    """

    def __init__(self, field: str = "lognormal") -> None:
        self.field = field
        self.maps = ConvergenceMaps(PIXELS, field=field, noise=False, record=())
        self.fields = {"x": simgen.Field((1, PIXELS, PIXELS), layout="image")}

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws n maps, of theta (n, 0)."""
        return {"x": self.maps.simulate(np.tile(THETA, (len(theta), 1)), rng)["x"]}


def mask() -> Array:
    """What is observed (N, N): a disc, less what bright stars hide."""
    return mask_of("disc", PIXELS) & mask_of("stars", PIXELS)


def likelihood() -> simgen.GaussianLikelihood:
    """p(y | kappa) of the pixels observed."""
    return simgen.GaussianLikelihood(Mask(mask()), float(ConvergenceMaps(PIXELS).sigma_pix))


def field_prior() -> simgen.GaussianPrior:
    """The Gaussian field of the spectrum that both kinds of map have."""
    maps = ConvergenceMaps(PIXELS)
    bins = maps.C_l(np.array([THETA]))[0, 0, 0] / maps.sky.pixel_area
    half = torch.as_tensor(maps.sky.expand(bins))
    whole = torch.cat([half, half[:, 1:-1].flip(1)], 1)
    return simgen.GaussianPrior(
        torch.zeros(1, PIXELS, PIXELS), simgen.FourierCovariance(whole[None])
    )


def truths(field: str, n: int, seed: int) -> Tensor:
    """Maps (n, 1, N, N), float64."""
    return torch.as_tensor(FixedMaps(field)(n, seed=seed)["x"]).double()
