"""Amortised posterior estimators behind one call: train on (theta, x), draw for a batch of x."""

from __future__ import annotations

__all__ = ["METHODS", "PEERS", "Draw", "Method"]

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, Uniform

import simgen
from simgen import Dataset, Prior

Draw = Callable[[Array, int], Array]
"""Maps observations (b, dx) and n to draws (n, b, d)."""
Method = Callable[[Dataset, int], Draw]
"""Maps a dataset and a seed to Draw."""


def family(model: Any) -> Method:
    """The posterior that a family of simgen's learns, with its default settings."""

    def train(dataset: Dataset, seed: int) -> Draw:
        posterior = simgen.fit("theta | x", dataset, model=model, seed=seed, progress=False)
        return lambda x, n: posterior(x).sample((n,)).numpy()

    return train


def joint(model: Any) -> Method:
    """The posterior out of a joint model of parameters and data."""

    def train(dataset: Dataset, seed: int) -> Draw:
        both = simgen.fit("theta, x", dataset, model=model, seed=seed, progress=False)
        posterior = both.condition("theta | x")
        return lambda x, n: posterior(x).sample((n,)).numpy()

    return train


def surrogate(model: Any) -> Method:
    """The posterior by Bayes' rule from a surrogate likelihood, one observation at a time."""

    def train(dataset: Dataset, seed: int) -> Draw:
        emulator = simgen.fit("x | theta", dataset, model=model, seed=seed, progress=False)

        def draw(x: Array, n: int) -> Array:
            parts = [simgen.infer(dataset.prior, emulator, row, seed=seed) for row in x]
            return np.stack([part.sample(n).numpy() for part in parts], 1)

        return draw

    return train


def distilled(model: Any, rows: int) -> Method:
    """An amortised posterior, learned from what a surrogate likelihood draws."""

    def train(dataset: Dataset, seed: int) -> Draw:
        emulator = simgen.fit("x | theta", dataset, model=model, seed=seed, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            emulated = simgen.simulate(
                simgen.Emulator(emulator), rows, f"{folder}/rows", seed=seed, progress=False
            )
            return family(model)(emulated, seed)

    return train


def corrected(model: Any) -> Method:
    """The learned posterior as a proposal, weighted by the surrogate likelihood."""

    def train(dataset: Dataset, seed: int) -> Draw:
        emulator = simgen.fit("x | theta", dataset, model=model, seed=seed, progress=False)
        posterior = simgen.fit("theta | x", dataset, model=model, seed=seed, progress=False)

        def draw(x: Array, n: int) -> Array:
            parts = [
                simgen.infer(
                    dataset.prior, emulator, row, proposal=posterior(row), particles=20 * n
                )
                for row in x
            ]
            return np.stack([part.sample(n).numpy() for part in parts], 1)

        return draw

    return train


def peer(method: str, **settings: Any) -> Method:
    """A trainer of sbi by name (NPE, FMPE, NPSE), with default settings but what is said."""

    def train(dataset: Dataset, seed: int) -> Draw:
        import sbi.inference

        torch.manual_seed(seed)
        theta, x = (torch.as_tensor(np.asarray(dataset[k][:])) for k in ("theta", "x"))
        with _scratch():
            trainer: Any = getattr(sbi.inference, method)(
                prior=_torch_prior(dataset.prior), show_progress_bars=False, **settings
            )
            trainer.append_simulations(theta, x).train()
            posterior = trainer.build_posterior()

        def draw(x: Array, n: int) -> Array:
            rows = torch.as_tensor(x)
            with _scratch():
                if len(rows) == 1:
                    return posterior.sample((n,), x=rows, show_progress_bars=False)[
                        :, None
                    ].numpy()
                return posterior.sample_batched((n,), x=rows, show_progress_bars=False).numpy()

        return draw

    return train


METHODS: dict[str, tuple[str, Method]] = {
    "flow": ("simgen.Flow()", family(simgen.Flow())),
    "ensemble": ("simgen.Ensemble(Flow(), 5)", family(simgen.Ensemble(simgen.Flow(), 5))),
    "diffusions": (
        "simgen.Ensemble(Diffusion(), 5)",
        family(simgen.Ensemble(simgen.Diffusion(), 5)),
    ),
    "diffusion": ("simgen.Diffusion()", family(simgen.Diffusion())),
    "vae": ("simgen.VAE()", family(simgen.VAE())),
    "joint": ("simgen.Diffusion(), joint", joint(simgen.Diffusion())),
    "tokens": (
        'simgen.Diffusion(network="tokens"), joint',
        joint(simgen.Diffusion(network="tokens")),
    ),
    "surrogate": ("simgen.Flow() of p(x | theta), infer", surrogate(simgen.Flow())),
    "distilled": (
        "simgen.Flow() of 100,000 rows of simgen.Emulator",
        distilled(simgen.Flow(), 100_000),
    ),
    "corrected": ("simgen.Flow() both ways, weighted", corrected(simgen.Flow())),
    "npe": ("sbi NPE (default)", peer("NPE", density_estimator="maf")),
    "npe-nsf": ('sbi NPE ("nsf")', peer("NPE", density_estimator="nsf")),
    "fmpe": ("sbi FMPE (default)", peer("FMPE")),
    "npse": ("sbi NPSE (default)", peer("NPSE")),
}
"""Title and method by the name that the command line takes."""

PEERS = {"sbi": ("npe", "npe-nsf")}


def _torch_prior(prior: Prior | None) -> Distribution:
    """The prior as sbi's users write it: a box, or a Gaussian."""
    assert prior is not None
    factors = list(prior.factors.values())
    if isinstance(factors[0], Uniform):
        return Independent(Uniform(prior.low.float(), prior.high.float()), 1)
    assert all(isinstance(f, Normal) for f in factors)
    return MultivariateNormal(prior.mean, prior.variance.diag())


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """A folder for what sbi logs while it trains, and no remarks from it."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)
