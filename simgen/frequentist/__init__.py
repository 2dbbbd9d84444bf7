"""Frequentist products of a likelihood: points, profiles, information, sets that cover."""

from __future__ import annotations

__all__ = [
    "CalibratedTest",
    "ConfidenceSet",
    "Coverage",
    "Fisher",
    "Maximum",
    "Mode",
    "Profile",
    "calibrate_test",
    "check_coverage",
    "confidence_set",
    "fisher_information",
    "maximum_a_posteriori",
    "maximum_likelihood",
    "profile",
]

from .coverage import Coverage, check_coverage
from .fisher import Fisher, fisher_information
from .maxima import Maximum, Mode, maximum_a_posteriori, maximum_likelihood
from .neyman import CalibratedTest, calibrate_test
from .profiles import Profile, profile
from .sets import ConfidenceSet, confidence_set
