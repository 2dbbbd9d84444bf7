r"""`python -m studies.trust.power`: does the verdict find what is wrong, and only that?

.. math::
    \vartheta \sim \mathcal N(0, I), \quad x = (y, s): \quad
    y \mid \vartheta \sim \mathcal N(A \vartheta, s^2 I), \qquad
    \vartheta \mid x \sim \mathcal N\big(C_s A^\top y / s^2,\ C_s\big), \quad
    C_s = (I + A^\top A / s^2)^{-1}

The exact posterior, and it with one fault, are judged many times, each time by fresh pairs,
through the public `calibrate`. A fault touches one parameter, or one pair of them: the least that
the words can mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.stats import binomtest
from torch import Tensor
from torch.distributions import MultivariateNormal

import simgen

FOLDER = Path(__file__).parent
PAIRS = 1000
ALPHA = 0.01
WIDTH = 0.4  # of the posterior, in units of the prior's
Fault = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Model:
    """A linear-Gaussian model whose posterior has a given correlation where s = 1.

    Arguments:
        what: In words.
        d: Parameters.
        correlation: Of each pair of neighbours; falls as its power with the distance.
        off: By what the correlation of the first two is off in the faulty posterior.
        levels: Noise from 1 / levels to levels, known a row; 1 for the same noise always.
    """

    what: str
    d: int
    correlation: float
    off: float
    levels: float = 1.0

    def operator(self) -> Array:
        """A (d, d)."""
        i = np.arange(self.d)
        posterior = WIDTH**2 * self.correlation ** np.abs(i[:, None] - i).astype(float)
        return np.linalg.cholesky(np.linalg.inv(posterior) - np.eye(self.d)).T

    def pairs(self, n: int, seed: int) -> dict[str, Array]:
        """theta (n, d) and x (n, d), or (n, d + 1) with the logarithm of the noise."""
        rng = np.random.default_rng([seed, self.d])
        theta = rng.standard_normal((n, self.d))
        log_s = np.log(self.levels) * rng.uniform(-1, 1, (n, 1))
        y = theta @ self.operator().T + np.exp(log_s) * rng.standard_normal((n, self.d))
        x = np.concatenate([y, log_s], 1) if self.levels > 1 else y
        return {"theta": theta.astype(np.float32), "x": x.astype(np.float32)}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, d) and covariance (n, d, d)."""
        a = torch.as_tensor(self.operator())
        y, s = x[:, : self.d].double(), torch.ones(len(x), 1, dtype=torch.float64)
        if self.levels > 1:
            s = x[:, self.d :].double().exp()
        precision = torch.eye(self.d).double() + (a.T @ a) / s[..., None] ** 2
        covariance = torch.linalg.inv(precision)
        return torch.einsum("nij,nj->ni", covariance, y @ a / s**2), covariance


def exact(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is wrong."""
    return mean, covariance


def width(factor: float) -> Fault:
    """The deviation of the first parameter times a factor."""

    def fault(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.ones(mean.shape[1]).double()
        scale[0] = factor
        return mean, covariance * scale * scale[:, None]

    return fault


def shift(deviations: float) -> Fault:
    """The mean of the first parameter, by so many deviations."""

    def fault(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        mean = mean.clone()
        mean[:, 0] += deviations * covariance[:, 0, 0].sqrt()
        return mean, covariance

    return fault


def correlation(off: float) -> Fault:
    """The correlation of the first two parameters, by so much."""

    def fault(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        covariance = covariance.clone()
        step = off * (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()
        covariance[:, 0, 1] += step
        covariance[:, 1, 0] += step
        return mean, covariance

    return fault


def local_width(factor: float) -> Fault:
    """All deviations times a factor where the first number of x is high, over it elsewhere."""

    def fault(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.where(x[:, 0] > 0, factor, 1 / factor).double()
        return mean, covariance * scale[:, None, None] ** 2

    return fault


MODELS = {
    "2": Model("2 parameters, correlated by 0.5", 2, 0.5, -0.5),
    "3": Model("3 parameters, by -0.4 where s = 1; s from 1/3 to 3", 3, -0.4, 0.5, 3.0),
    "5": Model("5 parameters, neighbours by 0.25", 5, 0.25, -0.5),
}


def faults(model: Model) -> dict[str, Fault]:
    """By what they are."""
    return {
        "exact": exact,
        "width x 0.8": width(0.8),
        "width x 1.25": width(1.25),
        "mean + 0.2 sd": shift(0.2),
        "correlation off by 0.5": correlation(model.off),
        "width x 0.8 at high x_0, x 1.25 at low": local_width(0.8),
    }


def study(model: Model, runs: int, pairs: int) -> dict[str, Any]:
    """How often each is rejected, and by which checks."""
    found = {}
    for name, fault in faults(model).items():

        def q(x: Tensor, fault: Fault = fault) -> MultivariateNormal:
            return MultivariateNormal(*fault(x, *model.posterior(x)))

        start, rejected = time.process_time(), np.zeros(runs)
        checks: Counter[str] = Counter()
        for seed in range(runs):
            verdict = simgen.calibrate(
                q, model.pairs(pairs, seed), n=pairs, alpha=ALPHA, seed=seed, progress=False
            )
            rejected[seed] = not verdict.passed
            checks.update({row["check"] for row in verdict.table if row["passed"] is False})
        interval = binomtest(int(rejected.sum()), runs).proportion_ci(method="wilson")
        found[name] = {
            "rejected": int(rejected.sum()),
            "interval": [round(float(v), 4) for v in (interval.low, interval.high)],
            "checks": dict(checks.most_common()),
            "seconds": round((time.process_time() - start) / runs, 3),
        }
        print(model.what, name, found[name], flush=True)
    return found


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# Power and size of the verdict",
        "",
        f"`{about['command']}` ({about['versions']}; {about['seconds']} CPU seconds, one thread)",
        "",
        f"Each posterior was judged {about['runs']} times by `calibrate`, each time with "
        f"{about['pairs']:,} fresh pairs, at alpha = {ALPHA:.0%}. Width and mean are those of one "
        "parameter alone, the correlation that of one pair. In brackets: 95 % intervals (Wilson). "
        "To reach: at least 95 of 100 with a fault, at most 4 of 100 without.",
        "",
        "| model | posterior | rejected | by | CPU s a run |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for name, rows in result["models"].items():
        for fault, row in rows.items():
            low, high = (100 * v for v in row["interval"])
            by = ", ".join(f"{k} {v}" for k, v in row["checks"].items())
            lines.append(
                f"| {MODELS[name].what} | {fault} | {row['rejected']} of {about['runs']} "
                f"({low:.3g} % to {high:.3g} %) | {by} | {row['seconds']:.2f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the study and writes power.json and power.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.power")
    options.add_argument("--models", default=",".join(MODELS), help="by comma")
    options.add_argument("--runs", type=int, default=100, metavar="N")
    options.add_argument("--pairs", type=int, default=PAIRS, metavar="N")
    options.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    found: dict[str, Any] = {}
    for name in arguments.models.split(","):
        found[name] = study(MODELS[name], arguments.runs, arguments.pairs)
        about = {
            "command": f"python -m studies.trust.power --models {arguments.models} --runs "
            f"{arguments.runs} --pairs {arguments.pairs}",
            "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            "seconds": round(time.process_time() - start),
            "runs": arguments.runs,
            "pairs": arguments.pairs,
        }
        result = {"about": about, "models": found}
        path = arguments.out / "power.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
