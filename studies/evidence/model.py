"""The model, its data, and how far each estimate of the evidence falls short of the exact one."""

from __future__ import annotations

__all__ = ["DIMENSIONS", "FITS", "Shortfall", "fit", "problem", "shortfalls"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simgen.models.pca import ProbabilisticPCA
from simgen.prescribed import (
    AmortisedBound,
    ExactEvidence,
    InstanceBound,
    NaiveEvidence,
    maximise,
)

DIMENSIONS = (1, 2, 4, 8, 16, 32, 64)
FITS = (2, 8, 32)
SIGMA = 0.5
ROWS = 200
_CHUNK = 500  # draws that are held at once


@dataclass(frozen=True)
class Shortfall:
    """log p(x) less an estimate of it, in nats: mean over rows, and its standard error.

    Attributes:
        name: Of the estimate.
        draws: K.
        mean: Over rows.
        error: Of the mean.
    """

    name: str
    draws: int
    mean: float
    error: float


def problem(latent: int, rows: int, seed: int) -> tuple[ProbabilisticPCA, Tensor]:
    """A model with `latent` latents and twice as many observed numbers of variance 1 + sigma^2,
    and rows drawn from it.
    """
    torch.manual_seed(seed)
    model = ProbabilisticPCA(2 * latent, latent).requires_grad_(False)
    model.weight.div_(model.weight.norm(dim=1, keepdim=True))
    model.log_sigma.fill_(math.log(SIGMA))
    z = torch.randn(rows, latent)
    return model, z @ model.weight.T + SIGMA * torch.randn(rows, 2 * latent)


def _many(bound: nn.Module, x: Tensor, draws: int) -> Tensor:
    """The bound of `draws` draws, in chunks of fewer, (n,)."""
    rows, parts = torch.arange(len(x)), []
    for start in range(0, draws, _CHUNK):
        bound.draws = min(_CHUNK, draws - start)  # type: ignore[assignment]
        parts.append(bound(x, rows) + math.log(min(_CHUNK, draws - start)))
    return torch.stack(parts).logsumexp(0) - math.log(draws)


def shortfalls(latent: int, seed: int = 0) -> list[Shortfall]:
    """Of the naive estimate, of the ELBO and of IWAE with the same encoder, at the true
    parameters. The encoder is linear, trained on other rows.
    """
    model, x = problem(latent, ROWS + 5_000, seed)
    guided = AmortisedBound(model, nn.Linear(2 * latent, 2 * latent))
    maximise(guided, x[ROWS:], steps=1_000, learning_rate=3e-2, seed=seed)
    x = x[:ROWS]
    naive, out = NaiveEvidence(model), []
    estimates: list[tuple[str, nn.Module, int]] = [("naive", naive, 100), ("naive", naive, 10_000)]
    estimates += [("ELBO" if k == 1 else "IWAE", guided, k) for k in (1, 10, 100, 1_000)]
    with torch.no_grad():
        exact = model.log_evidence(x)
        for name, bound, k in estimates:
            short = exact - _many(bound, x, k)
            error = float(short.std()) / ROWS**0.5
            out.append(Shortfall(name, k, float(short.mean()), error))
    return out


def fit(latent: int, seed: int = 0, rows: int = 1_000) -> dict[str, float]:
    """Parameters fitted in each way: log-evidence of fresh rows, in nats a row and observed
    number, that it lacks to the true parameters.
    """
    truth, x = problem(latent, rows + 2_000, seed)
    train, fresh = x[:rows], x[rows:]
    k, best = 2 * latent, truth.log_evidence(x[rows:]).mean()

    def lost(model: ProbabilisticPCA) -> float:
        with torch.no_grad():
            return float(best - model.log_evidence(fresh).mean()) / k

    out = {"start": lost(_start(latent, seed))}
    closed = ProbabilisticPCA(k, latent).maximise(train)
    for name in ("naive, K = 100", "each row's own q", "q by a network", "IWAE, K = 10", "exact"):
        model = _start(latent, seed)
        bound = _bound(name, model, rows)
        maximise(bound, train, steps=1_500, batch_size=200, learning_rate=3e-2, seed=seed)
        out[name] = lost(model)
    out["closed form"] = lost(closed)
    return out


def _start(latent: int, seed: int) -> ProbabilisticPCA:
    torch.manual_seed(seed + 1)
    return ProbabilisticPCA(2 * latent, latent)


def _bound(name: str, model: ProbabilisticPCA, rows: int) -> nn.Module:
    network = nn.Linear(2 * model.latent, 2 * model.latent)
    return {
        "naive, K = 100": NaiveEvidence(model, 100),
        "each row's own q": InstanceBound(model, rows),
        "q by a network": AmortisedBound(model, network),
        "IWAE, K = 10": AmortisedBound(model, network, 10),
        "exact": ExactEvidence(model),
    }[name]
