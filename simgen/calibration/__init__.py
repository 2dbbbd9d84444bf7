"""Calibration: does a learned conditional say what the simulator implies? One check a file."""

from __future__ import annotations

__all__ = ["Band", "Verdict", "band", "calibrate"]

from .bands import Band, band
from .procedure import calibrate
from .verdict import Verdict
