"""Networks: plain modules that map tensors to tensors, with no inference in them."""

from .base import Configured, build
from .convolutional import ConvEncoder
from .mlp import MLP, ResMLP
from .series import SeriesEncoder
from .sets import SetEncoder
from .vectors import VectorEncoder

__all__ = [
    "MLP",
    "Configured",
    "ConvEncoder",
    "ResMLP",
    "SeriesEncoder",
    "SetEncoder",
    "VectorEncoder",
    "build",
]
