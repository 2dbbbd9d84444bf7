r"""The marginal likelihood of some parameters: nuisance parameters averaged over their prior.

.. math::
    L(\psi) = \int p(x \mid \psi, \nu)\, p(\nu)\, d\nu \;\propto\;
        \frac{p(\psi \mid x)}{p(\psi)} = \mathop{E}_{\nu \sim p(\nu \mid x)} \left[
        \frac{p(x \mid \psi, \nu)}{\int p(x \mid \psi', \nu)\, p(\psi')\, d\psi'} \right]

Draws of the posterior give nu; the average of the conditionals is a smooth function of psi, where
a histogram of draws would be a rough one.

References:
    | Sampling-Based Approaches to Calculating Marginal Densities (Gelfand & Smith, 1990), eq. 2.8
    | https://doi.org/10.1080/01621459.1990.10476213
"""

from __future__ import annotations

__all__ = ["marginal"]

from collections.abc import Sequence

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from ..bijection import inside
from .surface import CHUNK, Surface


def marginal(
    surface: Surface, columns: Sequence[int], axes: Sequence[Array], draws: Tensor
) -> Array:
    """log L (g,) on a grid, up to a constant.

    Arguments:
        surface: log p(x | theta).
        columns: Of the parameters that are kept.
        axes: Their values.
        draws: Of the posterior (n, d).

    Raises:
        ValueError: If the prior's factors are not independent.
    """
    prior = surface.prior
    if not prior.factors:
        raise ValueError("to average nuisance parameters the prior needs independent factors")
    mesh = torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    mesh = mesh.reshape(-1, len(axes))
    mesh = inside(mesh, prior.low[list(columns)], prior.high[list(columns)])
    factors = [list(prior.factors.values())[c] for c in columns]
    log_prior = torch.stack([f.log_prob(v) for f, v in zip(factors, mesh.mT)]).sum(0)
    cells = [torch.as_tensor(_trapezoid(a)) for a in axes]
    volume = cells[0] if len(cells) == 1 else (cells[0][:, None] * cells[1]).reshape(-1)
    parts = []
    step = max(1, CHUNK // len(mesh))
    with torch.no_grad():
        for some in draws.double().split(step):
            theta = some[:, None].repeat(1, len(mesh), 1)
            theta[:, :, list(columns)] = mesh
            theta = theta.reshape(-1, theta.shape[-1])
            row = torch.zeros(len(theta), dtype=torch.long)
            parts.append(surface.log_density(theta, row).double().view(len(some), -1))
    value = torch.cat(parts)
    value = value - (value + log_prior + volume.log()).logsumexp(1, keepdim=True)
    return value.logsumexp(0).numpy()


def _trapezoid(axis: Array) -> Array:
    """Weights (g,) of the trapezoidal rule."""
    half = np.diff(axis) / 2
    return np.concatenate([half, [0.0]]) + np.concatenate([[0.0], half])
