"""Instruments ready to import: differentiable maps from what is there to what is seen.

An operator is a callable of torch tensors in physical units, (n, *event) to (n, *observed). It
acts on the last axes of x and leaves those before them, so that images may be (n, H, W) or
(n, C, H, W); its rows are independent, and its constants follow x to its device and precision.
Any callable of that kind serves: nothing here is a base class.
"""

from .blur import Blur, GaussianBlur, gaussian_psf
from .compose import Compose
from .downsample import Downsample
from .mask import Mask
from .matrix import Matrix
from .radon import Radon

__all__ = [
    "Blur",
    "Compose",
    "Downsample",
    "GaussianBlur",
    "Mask",
    "Matrix",
    "Radon",
    "gaussian_psf",
]
