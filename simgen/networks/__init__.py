"""Networks: plain modules that map tensors to tensors, with no inference in them."""

from .attention import SelfAttention
from .base import Configured, build
from .convolutional import ConvEncoder
from .embedding_time import SinusoidalEmbedding
from .film import FiLMMLP
from .masked_mlp import MaskedMLP
from .mlp import MLP, ResMLP
from .power_spectrum import PowerSpectrum
from .score import Regression, ScoreSummary
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
    "MaskedMLP",
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
