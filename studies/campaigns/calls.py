"""Calls of about a millisecond, in a module that imports next to nothing, as workers import it."""

from __future__ import annotations

__all__ = ["arithmetic", "sleep"]

import math
import time
from typing import Any

STEPS = 12_000


def arithmetic(theta: Any, noise: Any) -> Any:
    """A millisecond of Python."""
    s = 0.0
    for i in range(STEPS):
        s += math.sin(i) * 1e-9
    return theta + noise + s


def sleep(theta: Any, noise: Any) -> Any:
    """A millisecond of waiting, as for another program."""
    time.sleep(1e-3)
    return theta + noise
