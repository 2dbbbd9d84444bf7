r"""Flow: normalizing flows, an invertible map from the target to a simple base density.

.. math::
    \log p(z \mid c) = \log p_0\bigl(f(z; c) \mid c\bigr)
        + \log \left| \det \frac{\partial f(z; c)}{\partial z} \right|

f is a chain of layers (`Layer`), from least squares on to the transformation that is asked for.
"""

from __future__ import annotations

__all__ = ["Flow", "FlowModule", "Given"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..field import Field
from .base import Given
from .circular import CircularSpline
from .continuous import Continuous
from .flow_module import FlowModule
from .layer import Layer, Part
from .linear_gaussian import LinearGaussian
from .marginal import Marginal
from .masked import MaskedTransform, variable_order
from .monotonic import Integral, Sigmoids
from .multiscale import MultiScale
from .spectral import SpectralGaussian
from .spline import Spline
from .spread import Spread
from .univariate import Affine, Univariate

# the function of each variable, and the groups of variables (None: each its own)
_MASKED: dict[str, tuple[Callable[[int], Univariate], int | None]] = {
    "spline": (Spline, None),
    "affine": (lambda bins: Affine(), None),
    "monotonic": (lambda bins: Sigmoids(2 * bins), None),
    "unconstrained-monotonic": (lambda bins: Integral(2 * bins), None),
    "coupling": (lambda bins: Affine(), 2),
    "spline-coupling": (Spline, 2),
}
_KINDS = ("auto", *_MASKED, "continuous")
_IMAGE_KINDS = ("auto", "coupling", "spline-coupling")


@dataclass(frozen=True)
class Flow:
    """A conditional normalizing flow, over vectors or images.

    Arguments:
        transform: Of a vector: "spline" (autoregressive rational-quadratic splines, NSF),
            "affine" (autoregressive, MAF), "monotonic" (autoregressive mixtures of sigmoids,
            NAF), "unconstrained-monotonic" (autoregressive integrals of a network, UMNN),
            "coupling" (affine, RealNVP), "spline-coupling", or "continuous" (a neural ordinary
            differential equation). Of an image: "coupling" or "spline-coupling", on the scales
            of its Haar wavelets. "auto" takes "spline-coupling", which draws fastest at equal
            accuracy; of an image "coupling".
        transforms: How many are chained; of a vector 5 up to 6 variables, then 3, unless said; of
            an image 4 on each scale. A continuous flow is one.
        hidden: Widths of the network of each transformation; (128, 128) up to 6 variables, then
            (64, 64); of an image, channels, (32, 32).
        bins: Pieces of a spline; a mixture has twice as many sigmoids.
        permute: Whether variables stand in another random order in each transformation.
        linear: Whether an affine map comes first that least squares solves, so that training
            starts from a linear-Gaussian model of the target: of a vector given the context, of
            an image given the map, each wavelength by itself. Of a vector its deviation is
            log-linear in the context where that is worth a quarter of a nat a row.
        conditional_base: Whether the base density is Gaussian with mean and deviation from a
            network of the context, in place of the standard normal; of vectors.
        periodic: Variables that are angles in [-pi, pi), by index; those that the target's field
            names unless said. They have circular splines whatever the transform is.

    References:
        | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
        | Masked Autoregressive Flow (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
        | Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803
        | Neural Autoregressive Flows (Huang et al., 2018), https://arxiv.org/abs/1804.00779
    """

    transform: str = "auto"
    transforms: int | None = None
    hidden: tuple[int, ...] | None = None
    bins: int = 8
    permute: bool = True
    linear: bool = True
    conditional_base: bool = False
    periodic: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.transform not in _KINDS:
            raise ValueError(
                f"transform must be one of {', '.join(_KINDS)}; got {self.transform!r}"
            )
        if self.transforms is not None and self.transforms < 1:
            raise ValueError(f"transforms must be at least 1; got {self.transforms}")
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2; got {self.bins}")
        for name in ("hidden", "periodic"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(int(h) for h in getattr(self, name)))

    def build(self, target: Field, given: Mapping[str, Field]) -> FlowModule:
        """The network for a target and what is given: "context", a vector, and "map", an image on
        the target's grid.

        Raises:
            ValueError: If target and given do not fit each other or the settings.
        """
        context = given["context"].size if "context" in given else 0
        grid = given.get("map")
        if target.layout == "image":
            return FlowModule(self._image_layers(target.shape, context, grid), target.shape)
        if target.layout != "vector":
            raise ValueError(
                f"Flow models vectors and images; the target has layout {target.layout!r}"
            )
        if grid is not None:
            raise ValueError("a flow over a vector takes no map: embed it")
        periodic = getattr(target, "periodic", ()) if self.periodic is None else self.periodic
        angles = sorted({int(i) for i in periodic or ()})
        if angles and not 0 <= angles[0] <= angles[-1] < target.size:
            raise ValueError(f"periodic must be indices below {target.size}; got {angles}")
        return FlowModule(
            self._vector_layers(target.size, context, angles), (target.size,), angles
        )

    def _vector_layers(self, features: int, context: int, angles: list[int]) -> list[Layer]:
        real = [i for i in range(features) if i not in angles]
        few = features <= 6
        hidden = self.hidden or ((128, 128) if few else (64, 64))
        kind = "spline-coupling" if self.transform == "auto" else self.transform

        def partly(layer: Layer) -> Layer:
            return Part(layer, real, features) if angles else layer

        layers: list[Layer] = []
        if self.linear and real and context:
            layers.append(partly(Spread(len(real), context)))
        if self.linear and real and (context or len(real) > 1):
            layers.append(partly(LinearGaussian(len(real), context)))
        if kind == "continuous":
            layers.append(Continuous(features, context, hidden, angles))
        else:
            function, passes = _MASKED[kind]
            for i in range(self.transforms or (5 if few else 3)):
                plain, circular = function(self.bins), CircularSpline(self.bins)
                each = [circular if j in angles else plain for j in range(features)]
                order = variable_order(features, i, self.permute)
                layers.append(MaskedTransform(each, context, order, passes, hidden, angles))
        if self.conditional_base and real and context:
            each = [Affine()] * len(real)
            order = torch.arange(len(real))
            layers.append(partly(MaskedTransform(each, context, order, 1, hidden)))
        return layers

    def _image_layers(self, shape: Sequence[int], context: int, grid: Field | None) -> list[Layer]:
        if self.transform not in _IMAGE_KINDS:
            raise ValueError(
                f"transform of an image must be one of {', '.join(_IMAGE_KINDS)}; "
                f"got {self.transform!r}"
            )
        if self.periodic or self.conditional_base:
            raise ValueError("periodic and conditional_base are for vectors")
        if grid is not None and grid.shape[1:] != tuple(shape[1:]):
            raise ValueError(f"the map's grid {grid.shape[1:]} is not the target's {shape[1:]}")
        maps = 0 if grid is None else grid.shape[0]
        function = Spline if self.transform == "spline-coupling" else lambda bins: Affine()
        layers: list[Layer] = []
        if self.linear:
            layers.append(Marginal(shape[0], context))
            layers.append(SpectralGaussian(shape[0], shape[1:], context, maps))
        layers.append(
            MultiScale(
                shape,
                context,
                maps,
                lambda: function(self.bins),
                self.transforms or 4,
                self.hidden or (32, 32),
            )
        )
        return layers
