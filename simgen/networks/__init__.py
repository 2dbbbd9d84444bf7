"""Networks: plain modules that map tensors to tensors, with no inference in them."""

from .attention import SelfAttention
from .base import Configured, build
from .convolutional import ConvEncoder
from .embedding_time import SinusoidalEmbedding
from .film import FiLMMLP
from .mlp import MLP, ResMLP
from .score import Regression, ScoreSummary
from .power_spectrum import PowerSpectrum
from .series import SeriesEncoder
from .sets import SetEncoder
from .tokens import TokenTransformer
from .unet import UNet
from .vectors import VectorEncoder

__all__ = [
    "MLP",
    "Configured",
    "ConvEncoder",
    "FiLMMLP",
    "PowerSpectrum",
    "Regression",
    "ResMLP",
    "ScoreSummary",
    "SelfAttention",
    "SeriesEncoder",
    "SetEncoder",
    "SinusoidalEmbedding",
    "TokenTransformer",
    "UNet",
    "VectorEncoder",
    "build",
]
