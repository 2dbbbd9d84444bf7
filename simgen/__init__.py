"""simgen: simulation-based inference for physicists.

A simulator draws x ~ p(x | theta). `simulate` fills a dataset, `fit` learns any conditional of
its fields, the trained object is called with what is given and returns a distribution,
`calibrate` judges it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Prior": "prior",
    "Field": "field",
    "Simulator": "forward",
    "simulator": "forward",
    "CommandError": "program",
    "CommandSimulator": "command",
    "Dataset": "dataset",
    "DatasetError": "dataset",
    "simulate": "simulation",
    "Flow": "models",
    "VAE": "models",
    "HierarchicalVAE": "models",
    "Diffusion": "models",
    "LatentDiffusion": "models",
    "Ensemble": "models",
    "GaussianPrior": "gaussian",
    "MixturePrior": "gaussian",
    "DenseCovariance": "covariance",
    "DiagonalCovariance": "covariance",
    "FourierCovariance": "covariance",
    "LowRankCovariance": "covariance",
    "GaussianLikelihood": "likelihood",
    "PoissonLikelihood": "likelihood",
    "Posterior": "posterior",
    "infer": "inference",
    "fit_prior": "em",
    "Conditional": "conditional",
    "load": "conditional",
    "fit": "training",
    "Samples": "samples",
    "Verdict": "calibration",
    "calibrate": "calibration",
    "check_observation": "typicality",
    "posterior_predictive": "predictive_check",
    "report": "reporting",
}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from .calibration import Verdict, calibrate
    from .command import CommandSimulator
    from .conditional import Conditional, load
    from .covariance import (
        DenseCovariance,
        DiagonalCovariance,
        FourierCovariance,
        LowRankCovariance,
    )
    from .dataset import Dataset, DatasetError
    from .em import fit_prior
    from .field import Field
    from .forward import Simulator, simulator
    from .gaussian import GaussianPrior, MixturePrior
    from .inference import infer
    from .likelihood import GaussianLikelihood, PoissonLikelihood
    from .models import VAE, Diffusion, Ensemble, Flow, HierarchicalVAE, LatentDiffusion
    from .posterior import Posterior
    from .predictive_check import posterior_predictive
    from .prior import Prior
    from .program import CommandError
    from .reporting import report
    from .samples import Samples
    from .simulation import simulate
    from .training import fit
    from .typicality import check_observation


def __getattr__(name: str) -> Any:
    """Loads a public name from its module on first use: importing simgen loads no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'simgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
