"""Families of models: p(target | given) as networks, without I/O."""

from .diffusion import Diffusion
from .ensemble import Ensemble
from .flow import Flow
from .hierarchical import HierarchicalVAE
from .latent_diffusion import LatentDiffusion
from .vae import VAE

__all__ = [
    "FAMILIES",
    "VAE",
    "Diffusion",
    "Ensemble",
    "Flow",
    "HierarchicalVAE",
    "LatentDiffusion",
]

FAMILIES: dict[str, type] = {
    family.__name__: family
    for family in (Flow, VAE, HierarchicalVAE, Diffusion, LatentDiffusion, Ensemble)
}
