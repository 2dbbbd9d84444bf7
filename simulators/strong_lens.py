r"""Strong lenses: an isothermal ellipsoid with shear bends a galaxy's light into arcs and rings.

.. math::
    \mu_{ij} = \sum_{kl} P_{kl} \, S\bigl(\beta(\theta_{i-k, j-l})\bigr), \qquad
    \beta = \theta - \alpha_\mathrm{lens}(\theta) - \sum_h \alpha_h(\theta), \qquad
    x \sim \mathcal N(\mu, \sigma^2) \;\text{ or }\;
    t (x + b) \sim \mathrm{Poisson}\bigl(t (\mu + b)\bigr)

with S the source's surface brightness, which lensing conserves, and P the point-spread function. A
pixel's value is the brightness at its centre. Subhaloes h are those of `subhaloes`. Lengths are in
arcsec.
"""

from __future__ import annotations

__all__ = ["StrongLens"]

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from simgen import Field, Simulator

from .lensing import LENS, bilinear, blur, gaussian_psf, grid, trace
from .sersic import sersic
from .subhaloes import Subhaloes

if TYPE_CHECKING:
    from simgen import Prior

CHUNK = 2**16
"""Pixels worked on at once: what fits a processor's cache is fastest."""
OF_LENS = {
    "R_E": (0.7, 1.2, r"$\theta_E$", "arcsec"),
    "e_1": (-0.3, 0.3, "$e_1$", ""),
    "e_2": (-0.3, 0.3, "$e_2$", ""),
    "gamma_1": (-0.1, 0.1, r"$\gamma_1$", ""),
    "gamma_2": (-0.1, 0.1, r"$\gamma_2$", ""),
    "x_l": (-0.1, 0.1, "$x_l$", "arcsec"),
    "y_l": (-0.1, 0.1, "$y_l$", "arcsec"),
}
OF_SOURCE = {
    "x_s": (-0.25, 0.25, "$x_s$", "arcsec"),
    "y_s": (-0.25, 0.25, "$y_s$", "arcsec"),
    "R_s": (0.1, 0.4, "$R_s$", "arcsec"),
    "n_s": (0.5, 3.0, "$n_s$", ""),
    "e_s1": (-0.3, 0.3, "$e_{s,1}$", ""),
    "e_s2": (-0.3, 0.3, "$e_{s,2}$", ""),
    "I_s": (0.5, 2.0, "$I_s$", ""),
}
OF_SUBHALOES = {
    "f_sub": (0.001, 0.1, r"$f_\mathrm{sub}$", ""),
    "beta": (-2.5, -1.5, r"$\beta$", ""),
}


class StrongLens(Simulator):
    r"""Images of lensed galaxies, x: (1, N, N), given the lens, the source and its subhaloes.

    Theta has uniform priors. Of the lens: R_E, e_1, e_2, gamma_1, gamma_2 and its place x_l, y_l.
    Of a parametric source: place x_s, y_s, half-light radius R_s, Sérsic index n_s, ellipticity
    e_s1, e_s2 and brightness I_s. A pixelised source, drawn anew for each image, adds none. Of
    subhaloes: f_sub in [0.001, 0.1] and beta in [-2.5, -1.5]. Beside x there are

    - `z_source` (1, N_s, N_s): the pixelised source;
    - `z_sub` (K, 3): log10(m / M_sun), x and y of each subhalo, zeros behind; `z_sub_length`;
    - `z_image` (1, N, N): the image without noise, only where asked for by record;
    - `joint_score` (d,): the gradient by theta of log p(x, z_source, z_sub | theta). With a
      parametric source and no subhaloes nothing is latent, and it is the score itself.

    Arguments:
        pixels: Pixels N along a side.
        side: Length of a side in arcsec.
        noise: "gaussian" or "poisson".
        sigma: Standard deviation of Gaussian noise.
        exposure: Counts t per unit of brightness, of Poisson noise. x is the counts over t, less
            the background.
        background: Brightness b of the sky, of Poisson noise.
        psf_fwhm: Full width at half maximum of the Gaussian point-spread function, arcsec.
        source: None for a Sérsic profile; or an unconditional simulator of images (1, N_s, N_s),
            such as `GalaxySources()`.
        source_side: Length of a pixelised source's side, arcsec.
        subhalos: Whether there are subhaloes.
        record: What to record beside x. By default all of the above but z_image.

    Raises:
        ValueError: If an option is unknown or not positive, or a field to record is not there.

    Examples:
        >>> simulator = StrongLens(pixels=32)
        >>> theta = simulator.prior.sample((2,), seed=0).numpy()
        >>> fields = simulator(theta, seed=0)
        >>> fields["x"].shape, simulator.log_likelihood(fields["x"], theta).shape
        ((2, 1, 32, 32), (2,))
    """

    def __init__(
        self,
        pixels: int = 64,
        side: float = 3.2,
        noise: str = "gaussian",
        sigma: float = 0.1,
        exposure: float = 100.0,
        background: float = 1.0,
        psf_fwhm: float = 0.1,
        source: Simulator | None = None,
        source_side: float = 1.2,
        subhalos: bool = False,
        record: Sequence[str] | None = None,
    ) -> None:
        if noise not in ("gaussian", "poisson"):
            raise ValueError(f"noise must be one of gaussian, poisson; got {noise!r}")
        positive = {
            "pixels": pixels,
            "side": side,
            "sigma": sigma,
            "exposure": exposure,
            "background": background,
            "source_side": source_side,
        }
        for name, value in positive.items():
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive; got {value}")
        if not 0 <= psf_fwhm < np.inf:
            raise ValueError(f"psf_fwhm must not be negative; got {psf_fwhm}")
        if source is not None and not _is_sampler(source):
            raise ValueError(
                f"source must be a batched simulator without prior, or None; got {source!r}"
            )
        self.pixels, self.side, self.noise = int(pixels), float(side), noise
        self.sigma, self.exposure = float(sigma), float(exposure)
        self.background, self.psf_fwhm = float(background), float(psf_fwhm)
        self.source, self.source_side = source, float(source_side)
        self.subhalos = bool(subhalos)
        self._parameters = {
            **OF_LENS,
            **({} if source else OF_SOURCE),
            **(OF_SUBHALOES if subhalos else {}),
        }
        self.population = Subhaloes(self.side)
        most = float(self.population.mean_number(np.array(0.1), np.array(-2.5)))
        self.slots = math.ceil(most + 8 * math.sqrt(most) + 8)
        declared = self._declare()
        if record is None:
            record = [name for name in declared if name not in ("x", "z_image")]
        self.record = [record] if isinstance(record, str) else list(record)
        for name in self.record:
            if name not in declared or name == "x":
                raise ValueError(f"record must be among {', '.join(declared)}; got {name!r}")
        self.fields = {name: declared[name] for name in ("x", *self.record)}
        self._grid = grid(self.pixels, self.side)
        self._kernel = gaussian_psf(self.psf_fwhm, self.side / self.pixels)

    def _declare(self) -> dict[str, Field]:
        """The fields that there are."""
        image = Field((1, self.pixels, self.pixels), layout="image")
        fields = {"x": image, "joint_score": Field((len(self._parameters),)), "z_image": image}
        if self.source is not None:
            one = np.shape(self.source(1)["x"])
            if len(one) != 4 or one[1] != 1 or one[2] != one[3]:
                raise ValueError(f"a source must be (1, N_s, N_s); got {one[1:]}")
            fields["z_source"] = Field(one[1:], layout="image")
        if self.subhalos:
            names = ("log10_m", "x", "y")
            fields["z_sub"] = Field((self.slots, 3), layout="set", names=names)
        return fields

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Independent uniform distributions."""
        from torch.distributions import Uniform

        from simgen import Prior

        bounds = {name: Uniform(*entry[:2]) for name, entry in self._parameters.items()}
        labels, units = zip(*(entry[2:] for entry in self._parameters.values()))
        return Prior(bounds, labels=labels, units=units)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self._parameters)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments; of a source, its name and settings."""
        settings = super().settings
        if self.source is not None:
            settings["source"] = {"name": self.source.name, **self.source.settings}
        return settings

    def signal(self, theta: Tensor, latents: Mapping[str, Array] | None = None) -> Tensor:
        """The images (n, 1, N, N) without noise, differentiable in theta (n, d), in float64.

        Arguments:
            theta: Parameters.
            latents: `z_source`, `z_sub` and `z_sub_length`, where there are such.
        """
        theta, latents = theta.double(), latents or {}
        x, y = self._grid
        beta_x, beta_y = trace(x, y, theta[:, : len(LENS)])
        if self.subhalos:
            z_sub, counts = latents["z_sub"], latents["z_sub_length"]
            alpha_x, alpha_y = self.population.deflect(x, y, z_sub, counts)
            beta_x, beta_y = beta_x - alpha_x, beta_y - alpha_y
        if self.source is None:
            x_s, y_s, *shape = theta[:, 7:14, None, None].unbind(1)
            image = sersic(beta_x - x_s, beta_y - y_s, *shape)[:, None]
        else:
            source = torch.tensor(np.asarray(latents["z_source"]), dtype=torch.float64)
            image = bilinear(source, beta_x, beta_y, self.source_side)
        return blur(image, self._kernel)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws images for theta (n, d).

        Raises:
            ValueError: If theta is where the lens or its source is not defined, or has more
                subhaloes than z_sub holds.
        """
        theta = self._checked(theta)
        step = max(1, CHUNK // self.pixels**2)
        starts = range(0, max(len(theta), 1), step)
        parts = [self._simulate(theta[i : i + step], rng) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        latents = self._latents(theta, rng)
        t = torch.tensor(theta, requires_grad="joint_score" in self.record)
        signal = self.signal(t, latents)
        mu = signal.detach().numpy()
        # x is what gets stored, so that the score of what is stored is exact
        out = {"x": self._observe(mu, rng).astype(np.float32), "z_image": mu, **latents}
        if t.requires_grad:
            log_p = self._log_density(torch.tensor(out["x"]), signal).sum()
            score = torch.autograd.grad(log_p, t)[0].numpy()
            if self.subhalos:
                z_sub, counts = latents["z_sub"], latents["z_sub_length"]
                score[:, -2:] = self.population.score(z_sub, counts, *theta[:, -2:].T)
            out["joint_score"] = score
        kept = {"x", *self.record} | {f"{name}_length" for name in self.record}
        return {name: value for name, value in out.items() if name in kept}

    def _latents(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws the source and the subhaloes, in float32."""
        latents = {}
        if self.source is not None:
            latents["z_source"] = self.source.run(np.empty((len(theta), 0)), rng)["x"]
        if self.subhalos:
            z_sub, counts = self.population.draw(theta[:, -2], theta[:, -1], self.slots, rng)
            latents |= {"z_sub": z_sub, "z_sub_length": counts}
        return latents

    def _observe(self, mu: Array, rng: np.random.Generator) -> Array:
        if self.noise == "gaussian":
            return mu + self.sigma * rng.standard_normal(mu.shape)
        # rounding of the Fourier transform may take a dark pixel below zero
        rate = self.exposure * (np.maximum(mu, 0) + self.background)
        return rng.poisson(rate) / self.exposure - self.background

    def _log_density(self, x: Tensor, signal: Tensor) -> Tensor:
        """The logarithm of the density, or of the counts' probability, (n,)."""
        if self.noise == "gaussian":
            chi_2 = ((x - signal) / self.sigma) ** 2
            log_p = -chi_2 / 2 - math.log(self.sigma * math.sqrt(2 * math.pi))
        else:
            rate = self.exposure * (signal.clamp(min=0) + self.background)
            counts = torch.round(self.exposure * (x.double() + self.background))
            log_p = torch.xlogy(counts, rate) - rate - torch.lgamma(counts + 1)
        return log_p.sum((-3, -2, -1))

    @property
    def answers(self) -> tuple[str, ...]:
        """The likelihood, where nothing is latent."""
        return () if self.source is not None or self.subhalos else ("log_likelihood",)

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta); with Poisson noise the probability of the counts.

        Arguments:
            x: Images (*B, 1, N, N).
            theta: Parameters (*T, d).

        Returns:
            Shape broadcast(*B, *T), float64.

        Raises:
            ValueError: If there are latents, which leave no closed form, or theta or a shape is
                wrong.
        """
        if self.source is not None or self.subhalos:
            raise ValueError(
                "the likelihood of images with subhaloes or a pixelised source has no closed "
                "form; there is joint_log_likelihood"
            )
        x, theta = np.asarray(x), self._checked(theta)
        if x.shape[-3:] != (1, self.pixels, self.pixels):
            raise ValueError(f"x must be (..., 1, {self.pixels}, {self.pixels}); got {x.shape}")
        shape = np.broadcast_shapes(x.shape[:-3], theta.shape[:-1])
        indices = np.arange(math.prod(x.shape[:-3])).reshape(x.shape[:-3])
        rows = np.broadcast_to(indices, shape).ravel()
        theta = np.broadcast_to(theta, (*shape, theta.shape[-1])).reshape(len(rows), -1)
        return self._log_density_of(x.reshape(-1, *x.shape[-3:]), rows, theta).reshape(shape)

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x, z | theta) of each row (n,), but for what no theta enters.

        Arguments:
            fields: `x`, and `z_source`, `z_sub` and `z_sub_length` where there are such.
            theta: (n, d), or (d,) for all rows.

        Raises:
            ValueError: If a field is missing, or theta is wrong.
        """
        needed = ["x"] if self.source is None else ["x", "z_source"]
        needed += ["z_sub", "z_sub_length"] if self.subhalos else []
        missing = [name for name in needed if name not in fields]
        if missing:
            raise ValueError(f"the joint likelihood needs {', '.join(missing)}: record them")
        n = len(fields["x"])
        theta = np.broadcast_to(self._checked(theta), (n, len(self._parameters)))
        latents = {name: np.asarray(fields[name]) for name in needed[1:]}
        log_p = self._log_density_of(np.asarray(fields["x"]), np.arange(n), theta, latents)
        if self.subhalos:
            z_sub, counts = latents["z_sub"], latents["z_sub_length"]
            log_p = log_p + self.population.log_prob(z_sub, counts, *theta[:, -2:].T)
        return log_p

    def _log_density_of(
        self, x: Array, rows: Array, theta: Array, latents: Mapping[str, Array] | None = None
    ) -> Array:
        """Log p of the given rows of x, each at its theta and with its latents, (n,)."""
        parts = [np.empty(0)]
        step = max(1, CHUNK // self.pixels**2)
        for i in range(0, len(rows), step):
            at = slice(i, i + step)
            some = {name: value[at] for name, value in (latents or {}).items()}
            with torch.no_grad():
                signal = self.signal(torch.tensor(theta[at]), some)
                parts.append(self._log_density(torch.tensor(x[rows[at]]), signal).numpy())
        return np.concatenate(parts)

    def _checked(self, theta: Any) -> Array:
        """Theta (..., d) as float64.

        Raises:
            ValueError: If it is not where lens and source are defined.
        """
        values = np.asarray(theta, dtype=np.float64)
        if values.shape[-1:] != (len(self._parameters),):
            raise ValueError(
                f"theta must be (..., {len(self._parameters)}): {', '.join(self._parameters)}; "
                f"got shape {values.shape}"
            )
        columns = dict(zip(self._parameters, np.moveaxis(values, -1, 0)))
        for name in ("R_E", "R_s", "n_s", "I_s", "f_sub"):
            if name in columns and not np.all(columns[name] > 0):
                raise ValueError(f"{name} must be positive; got {columns[name].min()}")
        for one, two in (("e_1", "e_2"), ("e_s1", "e_s2")):
            if one in columns and not np.all(np.hypot(columns[one], columns[two]) < 1):
                raise ValueError(f"{one} and {two} must lie within the unit circle")
        if not np.isfinite(values).all():
            raise ValueError("theta must be finite")
        return values


def _is_sampler(source: Any) -> bool:
    return isinstance(source, Simulator) and source.prior is None and source.batched
