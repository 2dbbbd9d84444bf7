r"""The problem: a source of 32 x 32 pixels, seen through a lens by a camera of 64 x 64.

.. math::
    y = P\, L(\theta)\, x + N(0, \sigma^2 I), \qquad
    x \sim N(0, C), \quad C = \mathcal F^{-1} \frac{c}{(k^2 + k_0^2)^2} \mathcal F

with L an isothermal ellipsoid in external shear, P the point-spread function, and, as one of two
priors, a Gaussian random field of variance 1 whose posterior is Wiener's, in closed form.
"""

from __future__ import annotations

__all__ = [
    "LENS",
    "PIXELS",
    "SIGMA",
    "WRONG",
    "DenoiserOnly",
    "field_prior",
    "likelihood",
    "observe",
    "reduced",
    "rotated",
]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import simgen
from simulators.lensing_operator import lens_operator

PIXELS, SIGMA = 32, 0.1
LENS: Mapping[str, float] = MappingProxyType(
    {
        "R_E": 1.0,
        "e_1": 0.1,
        "e_2": 0.05,
        "gamma_1": 0.03,
        "gamma_2": -0.02,
        "x_l": 0.0,
        "y_l": 0.0,
    }
)
"""The true lens; lengths in arcsec."""
WRONG: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "true": {},
        "R_E + 0.01": {"R_E": 1.01},
        "R_E - 0.05": {"R_E": 0.95},
        "no shear": {"gamma_1": 0.0, "gamma_2": 0.0},
        "round": {"e_1": 0.0, "e_2": 0.0},
    }
)
"""Lens models to compare, by what they change."""


def likelihood(**changed: float) -> simgen.GaussianLikelihood:
    """p(y | x) of the lens, or of one with other parameters."""
    theta = torch.tensor(list({**LENS, **changed}.values()), dtype=torch.float64)
    return simgen.GaussianLikelihood(lens_operator(theta), sigma=SIGMA)


def field_prior(length: float = 6.0) -> simgen.GaussianPrior:
    """The Gaussian random field, of a correlation length in pixels and variance 1."""
    k = 2 * torch.pi * torch.fft.fftfreq(PIXELS, dtype=torch.float64)
    spectrum = (k[:, None] ** 2 + k**2 + length**-2) ** -2
    covariance = simgen.FourierCovariance((spectrum / spectrum.mean())[None])
    return simgen.GaussianPrior(torch.zeros(1, PIXELS, PIXELS), covariance)


@dataclass(frozen=True)
class DenoiserOnly:
    """Of a Gaussian prior its draws and its denoiser, by which samplers have to know it."""

    prior: simgen.GaussianPrior

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one draw."""
        return self.prior.event_shape

    @property
    def support(self) -> Any:
        """All of R^d."""
        return self.prior.support

    def sample(self, shape: Any = ()) -> Tensor:
        """Draws (*shape, *event)."""
        return self.prior.sample(shape)

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t] (..., *event)."""
        return self.prior.denoise(x_t, alpha, sigma)


def observe(seen: simgen.GaussianLikelihood, x: Tensor, seed: int) -> Tensor:
    """Images (n, 1, 64, 64) of sources (n, 1, 32, 32), with noise."""
    return seen.draw({"x": x.double()}, torch.Generator().manual_seed(seed))


def reduced(
    seen: simgen.GaussianLikelihood,
) -> tuple[simgen.GaussianLikelihood, Callable[[Tensor], Tensor]]:
    """The likelihood of Q^T y / sigma (1024,), with A = Q R, and what makes it of y (1, 64, 64):
    it knows as much of x, and many posteriors of one lens cost less.
    """
    A = torch.as_tensor(seen.operator.matrix(PIXELS).toarray())
    Q, R = torch.linalg.qr(A / SIGMA)
    return simgen.GaussianLikelihood(R, sigma=1.0), lambda y: Q.mT @ y.double().flatten() / SIGMA


def rotated(text: str = "simgen", degrees: float = 25.0) -> Tensor:
    """A source (1, 32, 32) that is no galaxy: a word, turned, of peak brightness 3."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=4 * PIXELS, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, text, color="white", size=19, rotation=degrees, ha="center", va="center")
    canvas.draw()
    pixels = torch.tensor(bytearray(canvas.buffer_rgba())).view(4 * PIXELS, 4 * PIXELS, 4)
    bright = pixels[..., 0].double().flip(0) / 255
    return 3 * bright.view(PIXELS, 4, PIXELS, 4).mean((1, 3))[None]
