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
    "CommandError": "campaign.program",
    "CommandSimulator": "command",
    "Dataset": "dataset",
    "DatasetError": "dataset",
    "simulate": "simulation",
    "Emulator": "emulator",
    "sequential": "rounds.sequence",
    "allocate": "rounds.allocation",
    "gather": "rounds.allocation",
    "regional_scores": "rounds.allocation",
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
    "PosteriorLikelihood": "events.posteriors",
    "ExtendedLikelihood": "events.extended",
    "Efficiency": "events.efficiency",
    "random_lengths": "events.lengths",
    "Posterior": "answers.posterior",
    "infer": "inference",
    "fit_prior": "em",
    "Conditional": "conditional",
    "load": "conditional",
    "fit": "training",
    "Samples": "samples",
    "Verdict": "calibration",
    "calibrate": "calibration",
    "check_observation": "typicality",
    "CalibratedTest": "frequentist",
    "ConfidenceSet": "frequentist",
    "Coverage": "frequentist",
    "Fisher": "frequentist",
    "Maximum": "frequentist",
    "Mode": "frequentist",
    "Profile": "frequentist",
    "calibrate_test": "frequentist",
    "check_coverage": "frequentist",
    "confidence_set": "frequentist",
    "fisher_information": "frequentist",
    "maximum_a_posteriori": "frequentist",
    "maximum_likelihood": "frequentist",
    "profile": "frequentist",
    "posterior_predictive": "predictive_check",
    "cross_check": "agreement",
    "pool": "pooling",
    "with_prior": "reweighting",
    "sliced": "slices",
    "marginal": "slices",
    "compare": "model_comparison",
    "fit_models": "model_choice",
    "load_models": "model_choice",
    "learning_curve": "learning",
    "LearningCurve": "learning",
    "report": "reporting",
}

_SUBMODULES = ("missing", "networks", "operators", "summary")

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from .agreement import cross_check
    from .answers.posterior import Posterior
    from .calibration import Verdict, calibrate
    from .campaign.program import CommandError
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
    from .emulator import Emulator
    from .events.efficiency import Efficiency
    from .events.extended import ExtendedLikelihood
    from .events.lengths import random_lengths
    from .events.posteriors import PosteriorLikelihood
    from .field import Field
    from .forward import Simulator, simulator
    from .frequentist import (
        CalibratedTest,
        ConfidenceSet,
        Coverage,
        Fisher,
        Maximum,
        Mode,
        Profile,
        calibrate_test,
        check_coverage,
        confidence_set,
        fisher_information,
        maximum_a_posteriori,
        maximum_likelihood,
        profile,
    )
    from .gaussian import GaussianPrior, MixturePrior
    from .inference import infer
    from .learning import LearningCurve, learning_curve
    from .likelihood import GaussianLikelihood, PoissonLikelihood
    from .model_choice import fit_models, load_models
    from .model_comparison import compare
    from .models import VAE, Diffusion, Ensemble, Flow, HierarchicalVAE, LatentDiffusion
    from .pooling import pool
    from .predictive_check import posterior_predictive
    from .prior import Prior
    from .reporting import report
    from .reweighting import with_prior
    from .rounds.allocation import allocate, gather, regional_scores
    from .rounds.sequence import sequential
    from .samples import Samples
    from .simulation import simulate
    from .slices import marginal, sliced
    from .training import fit
    from .typicality import check_observation


def __getattr__(name: str) -> Any:
    """Loads a public name from its module on first use: importing simgen loads no torch."""
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _WHERE:
        raise AttributeError(f"module 'simgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
