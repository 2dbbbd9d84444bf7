r"""Diffusion: a denoiser learned at every noise level, followed back from noise to data.

.. math::
    \min_\phi \; \mathbb{E}_{(x_0, c)}\, \mathbb{E}_{r, \epsilon}\; w(r)\,
        \bigl| x_0 - D_\phi(\alpha x_0 + \sigma \epsilon, \alpha, \sigma; c) \bigr|^2,
    \qquad r = \sigma / \alpha

The forward process, what the network predicts, the weights, the network and the solver are chosen
independently of each other.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

__all__ = ["Diffusion", "DiffusionModule"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..field import Field
from ..fitting.schedule import Schedule, default_schedule
from .denoiser import PREDICTIONS
from .diffusion_module import FINEST, LARGEST, DiffusionModule
from .noise_levels import NOISES
from .process import PROCESSES, Process
from .solvers import SOLVERS


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model of vectors or images, given vectors, maps, or nothing.

    Arguments:
        process: "vp-linear", "vp-cosine", "ve", "edm" or "straight" (flow matching).
        parameterisation: What the network predicts: "x0", "eps", "score", "v", "flow", or "edm",
            the rest that an optimal linear denoiser leaves.
        weighting: Whose squared error is minimised: one of the above, or "likelihood", a bound
            in nats; that of the network's own output unless said.
        noise: Noise levels in training: "logistic" in their logarithm, "uniform" in it, or
            "time", uniform in the process's time; unless said, "uniform" where the weighting is
            "likelihood", else "logistic".
        noise_location: Centre of the logistic distribution of log(sigma / alpha), in units of
            the data's standard deviation.
        noise_spread: Its spread.
        levels: Noise levels a row and step; 4 for an MLP, else 1, unless said.
        network: "auto" ("mlp" for vectors, "unet" for images), "tokens" for vectors, a
            transformer, or your own module, called as network(x, time, context, map).
        hidden: Width of the network.
        blocks: Its residual blocks: of an MLP, of each level of a U-Net, of a transformer.
        periodic: Whether images close on themselves.
        solver: How draws are made: "adams", "dpm++", "heun", "ddim", "dopri5", or with noise in
            each step "ddpm", "euler-maruyama", "predictor-corrector", "langevin".
        steps: Of the solver.
        drop: Probability with which what is given is withheld in training, for guidance.
        guidance: Weight of what is given in draws: 1 is as trained, more sharpens; it needs drop.
        linear: Whether vectors are centred by least squares in the context and turned to the
            principal axes of what is left.
        sigma_min: Smallest ratio sigma / alpha; by the data unless said.
        sigma_max: Largest, likewise.
        probes: Vectors for the divergence in log_prob, for more than 16 numbers.
        affine: Whether the target is only shifted and scaled before it is learned. Unless said,
            bounds are kept and what spans decades goes through asinh; an instrument that is linear
            in the target is linear in the model's space, which `infer` is fast with, only if it
            is.
    """

    process: str = "vp-cosine"
    parameterisation: str = "edm"
    weighting: str | None = None
    noise: str | None = None
    noise_location: float = -1.0
    noise_spread: float = 1.0
    levels: int | None = None
    network: Any = "auto"
    hidden: int | None = None
    blocks: int | None = None
    periodic: bool = False
    solver: str = "adams"
    steps: int = 16
    drop: float = 0.0
    guidance: float = 1.0
    linear: bool = True
    sigma_min: float | None = None
    sigma_max: float | None = None
    probes: int = 4
    affine: bool = False

    def __post_init__(self) -> None:
        choices = {
            "process": tuple(PROCESSES),
            "parameterisation": PREDICTIONS,
            "weighting": (None, "likelihood", *PREDICTIONS),
            "noise": (None, *NOISES),
            "solver": tuple(SOLVERS),
        }
        for name, values in choices.items():
            if getattr(self, name) not in values:
                known = ", ".join(v for v in values if v)
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if isinstance(self.network, str) and self.network not in ("auto", "mlp", "unet", "tokens"):
            raise ValueError(
                f"network must be auto, mlp, unet, tokens or a module; got {self.network!r}"
            )
        for name, low in (
            ("steps", 2),
            ("probes", 1),
            ("levels", 1),
            ("hidden", 1),
            ("blocks", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}; got {value}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1); got {self.drop}")
        if self.guidance != 1 and self.drop == 0:
            raise ValueError("guidance needs a model trained with drop > 0")
        if not self.noise_spread > 0:
            raise ValueError(f"noise_spread must be positive; got {self.noise_spread}")
        self.range()

    def range(self, low: float = FINEST, high: float = LARGEST, scale: float = 1.0) -> Process:
        """The process from the noise levels said, or else from low, to the one said, or high."""
        low = low if self.sigma_min is None else self.sigma_min
        high = high if self.sigma_max is None else self.sigma_max
        return PROCESSES[self.process](low, high, scale)

    def schedule(self, rows: int, columns: int, vectors: bool) -> Schedule:
        """Of vectors: the default, half as long up to two columns, at half its rate; of the
        tokens of a transformer 5,000 steps at 9,000 rows.
        """
        plan = default_schedule(rows, columns, vectors)
        if self.network == "tokens":
            steps = 5_000 * max(rows / 9_000, 0.25) ** 0.5
            epochs = max(10, min(400, round(steps * plan.batch_size / max(rows, 1))))
            return replace(plan, learning_rate=1e-3, max_epochs=epochs, weight_decay=0.1)
        epochs = max(10, round(0.3 * plan.max_epochs)) if columns <= 2 else plan.max_epochs
        rate = 0.5 * plan.learning_rate if vectors else plan.learning_rate
        return replace(plan, learning_rate=rate, max_epochs=epochs)

    def build(self, target: Field, given: Mapping[str, Field]) -> DiffusionModule:
        """The network for a target, and context vectors and maps. Vectors of several fields, given
        nothing, make a joint model, unless the network is your own.

        Raises:
            ValueError: If the network does not fit the target.
        """
        several = not given and len(set(target.names or ())) > 1
        if several and self.network in ("auto", "mlp", "tokens"):
            from .joint import JointModule

            return JointModule(self, target, given)
        return DiffusionModule(self, target, given)
