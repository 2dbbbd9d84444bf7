"""Families of models: p(target | given) as networks, without I/O."""

from .flow import Flow

__all__ = ["FAMILIES", "Flow"]

FAMILIES = {"Flow": Flow}
