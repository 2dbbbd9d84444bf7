"""The parameters of the collider chain, and its fields: of one event, or of a set of events."""

from __future__ import annotations

__all__ = ["checked", "declare", "mask", "pad", "recorded"]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array

from simgen import Field

from . import contact
from .lund import MAX_EMISSIONS, POLE


def mask(counts: Array) -> Array:
    """Which of the slots (n, MAX_EMISSIONS) hold an emission."""
    return np.arange(MAX_EMISSIONS) < counts[:, None]


def pad(values: Array, counts: Array) -> Array:
    """(counts.sum(), ...) as (n, MAX_EMISSIONS, ...) with zeros behind, float32."""
    out = np.zeros((len(counts), MAX_EMISSIONS, *values.shape[1:]), dtype=np.float32)
    out[mask(counts)] = values
    return out


def declare(events: int | None) -> dict[str, Field]:
    """The fields of one event, or of a set."""

    def field(names: Sequence[str], **more: Any) -> Field:
        if events is None:
            return Field((len(names),), names=tuple(names), **more)
        shape = (events, len(names))
        return Field(shape, layout="set", iid=True, names=tuple(names), **more)

    slots = range(1, MAX_EMISSIONS + 1)
    angle = r"$\cos\theta^*$"
    z_p: dict[str, Any] = {"labels": ("$m$", angle), "units": ("GeV", "")}
    if events is None:
        z_p["support"] = ((contact.M_LOW, -1.0), (contact.M_HIGH, 1.0))
        z_s = Field(
            (MAX_EMISSIONS, 2),
            layout="set",
            names=("ln_kt", "eta"),
            labels=(r"$\ln(k_t / \mathrm{GeV})$", r"$\eta$"),
        )
    else:
        z_s = field(["count", *(f"{name}_{i}" for i in slots for name in ("ln_kt", "eta"))])
    return {
        "x": field(
            ["E_vis", "cos_theta", "n_det", "tau"],
            labels=(r"$E_\mathrm{vis}$", angle, r"$n_\mathrm{det}$", r"$\tau$"),
            units=("GeV", "", "", ""),
        ),
        "z_p": field(["m", "cos_theta"], **z_p),
        "z_s": z_s,
        "z_d": field(["energy", "axis", "tau", *(f"seen_{i}" for i in slots)]),
        "joint_score": Field((2,), names=("d_eps", "d_alpha_s"), units=("TeV^2", "")),
    }


def recorded(z_d: Array) -> tuple[Array, Array, Array, Array]:
    """M, c, n and tau, each (...), of z_d (..., 3 + 64)."""
    record = np.asarray(z_d, dtype=np.float64)
    m, c, tau = np.moveaxis(record[..., :3], -1, 0)
    return m, c, record[..., 3:].sum(-1), tau


def checked(theta: Any) -> Array:
    """Theta (..., 2) as float64.

    Raises:
        ValueError: If eps or alpha_s lies where the chain is not defined.
    """
    values = np.asarray(theta, dtype=np.float64)
    if values.shape[-1:] != (2,):
        raise ValueError(f"theta must be (n, 2), eps and alpha_s; got shape {values.shape}")
    eps, alpha_s = values[..., 0], values[..., 1]
    if not np.all(np.isfinite(eps) & (eps > -1)):
        raise ValueError(
            "eps must be above -1 TeV^-2, where the amplitude begins to cross zero inside the "
            f"mass range; got {eps.min()}"
        )
    if not np.all((alpha_s > 0) & (alpha_s < POLE)):
        raise ValueError(
            f"alpha_s must lie between 0 and {POLE:.4f}, where the Landau pole meets the shower's "
            f"cut-off; got values from {alpha_s.min()} to {alpha_s.max()}"
        )
    return values
