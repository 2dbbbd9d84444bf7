r"""azula's own guidance, on the same denoiser.

Its variance-preserving schedule is stretched to the noise levels that simgen chooses by the data's
scale: with its own range even the exact denoiser fails in 800 dimensions. All else is as azula has
it unless the name says so; its TDS is given a twist, which azula leaves to the user:

.. math:: N\Bigl(y; A \hat x, \; \sigma_y^2 I
    + \frac{\sigma_t^2}{1 + \sigma_t^2 / s^2}\, A A^\top\Bigr)

with s the data's largest standard deviation.
"""

from __future__ import annotations

__all__ = ["METHODS", "draw", "missing"]

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

STEPS = 100
METHODS = (
    "azula MMPS",
    "azula MMPS, 4 iterations",
    "azula PGDM",
    "azula DiffPIR",
    "azula DPS",
    "azula TDS",
)


def missing() -> str | None:
    """Why azula is left out; None if it is not."""
    try:
        importlib.import_module("azula.sample")
    except ImportError as error:
        return f"azula is not installed ({error})"
    return None


def draw(
    method: str, denoiser: Any, A: Tensor, y: Tensor, sigma: float, n: int, seed: int
) -> Tensor:
    """n draws (n, d) in physical units.

    Arguments:
        method: One of `METHODS`.
        denoiser: Of simgen's samplers: mean(x_t, sigma), in coordinates of its own.
        A: The instrument (m, d), in physical units.
        y: What was observed, (m,).
        sigma: The noise.
        n: How many.
        seed: Of all random numbers.
    """
    unit = torch.eye(denoiser.size, dtype=torch.float64)
    with torch.no_grad():
        offset = denoiser.physical(torch.zeros_like(unit[:1])).double()
        slope = denoiser.physical(unit).double() - offset
    inner = slope @ A.mT  # (d, m)
    torch.manual_seed(seed)
    sampler = _sampler(method, denoiser, inner, y - (offset @ A.mT)[0], sigma)
    high = denoiser.mean(torch.zeros_like(unit[:1]), denoiser.farthest).detach()
    with warnings.catch_warnings():  # torch's own, of forward differentiation
        warnings.simplefilter("ignore")
        x = sampler(sampler.init((n, denoiser.size), mean=high, dtype=torch.float64))
    return offset + x @ slope


def _sampler(method: str, denoiser: Any, inner: Tensor, y: Tensor, sigma: float) -> Any:
    denoise, guidance, noise, sample, covariance = (
        importlib.import_module(f"azula.{k}")
        for k in ("denoise", "guidance", "noise", "sample", "linalg.covariance")
    )
    schedule = noise.VPSchedule(alpha_min=1 / denoiser.largest, sigma_min=denoiser.smallest)

    class Ours(denoise.Denoiser):
        """The denoiser as azula calls it."""

        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            alpha, level = self.schedule(t)
            return denoise.DiracPosterior(denoiser.mean(x_t / alpha, float(level / alpha)))

    def A(x: Tensor) -> Tensor:
        return x @ inner

    options = {"steps": STEPS, "silent": True, "dtype": torch.float64}
    if method.startswith("azula MMPS"):
        iterations = 4 if "4" in method else 1
        noise_of = covariance.IsotropicCovariance(torch.as_tensor(sigma**2).double())
        steered = guidance.MMPSDenoiser(Ours(), y, A, noise_of, iterations=iterations)
        return sample.DDPMSampler(steered, **options)
    if method == "azula DiffPIR":
        return sample.DDPMSampler(guidance.DiffPIRDenoiser(Ours(), y, A, sigma**2), **options)
    if method == "azula PGDM":
        back = torch.linalg.pinv(inner)
        return guidance.PGDMSampler(Ours(), y, A, lambda v: v @ back, **options)
    if method == "azula DPS":
        return guidance.DPSSampler(Ours(), y, A, **options)
    scale, gram = (denoiser.largest / 10) ** 2, inner.mT @ inner
    one = torch.eye(len(y), dtype=torch.float64)

    def twist(x_hat: Tensor, level: Tensor) -> Tensor:
        spread = level**2 / (1 + level**2 / scale)
        total = sigma**2 * one + spread * gram
        return MultivariateNormal(A(x_hat), total, validate_args=False).log_prob(y)

    return guidance.TDSSampler(Ours(), twist, **options)
