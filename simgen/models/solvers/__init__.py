"""Solvers: from noise to data, given a denoiser; one method a file, one signature."""

from . import (
    adams,
    ancestral,
    annealed_langevin,
    ddim,
    dormand_prince,
    euler_maruyama,
    heun,
    multistep,
    predictor_corrector,
)
from .base import Noise, Solver, levels, log_ratios, normal

__all__ = ["SOLVERS", "Noise", "Solver", "levels", "log_ratios", "normal"]

SOLVERS = {
    "adams": Solver(adams.solve),
    "ddpm": Solver(ancestral.solve, draws=1),
    "ddim": Solver(ddim.solve),
    "euler-maruyama": Solver(euler_maruyama.solve, draws=1),
    "heun": Solver(heun.solve, evaluations=2),
    "dopri5": Solver(dormand_prince.solve, evaluations=None),
    "dpm++": Solver(multistep.solve),
    "predictor-corrector": Solver(predictor_corrector.solve, evaluations=2, draws=2),
    "langevin": Solver(annealed_langevin.solve, draws=1),
}
"""Solvers by name."""
