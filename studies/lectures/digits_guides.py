r"""What guides a diffusion model to a digit: p(y | x_t) of its own, or the model told y.

.. math::
    D_w(x_t) = D(x_t) + w \frac{\sigma_t^2}{\alpha_t} \nabla \log p_\psi(y \mid x_t)
    \qquad \text{or} \qquad
    D_w(x_t) = D(x_t) + w \bigl( D(x_t \mid y) - D(x_t) \bigr)

One network is both D(x_t) and D(x_t | y): in training a null token stands for one label in five.

References:
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), eqs. 10 and 14
    | https://arxiv.org/abs/2105.05233
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), algorithm 1 and eq. 6
    | https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

__all__ = ["denoisers", "labelled", "reading", "trained"]

import numpy as np
import torch
from torch import Tensor

from simgen.conditional import Conditional
from simgen.models.classifier import NoisyClassifier
from simgen.models.denoiser import Denoiser
from simgen.models.guidance import ClassifierFree, ClassifierGuided

from .digits import Batch, spread
from .digits_chains import standardised

RATE = 2e-3
BATCH = 256


def trained(model: Conditional, rows: Batch, steps: int, seed: int) -> NoisyClassifier:
    """p(y | x_t) of the model's own x_t, learned from labelled images.

    Arguments:
        model: A diffusion model of the field "image".
        rows: Fields "image" and "digit".
        steps: Of the training.
        seed: Of its weights, noise and shuffle.
    """
    module, rng = model.pipeline.heads[0].model, np.random.default_rng(seed)
    images, classes = rows["image"], rows["digit"].argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NoisyClassifier(module.process, module.event_shape, rows["digit"].shape[1])
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.from_numpy(rng.integers(len(images), size=BATCH))
            x_0 = standardised(model, spread({"image": images[chosen]}, rng)).float()
            optimizer.zero_grad()
            net.loss(x_0, classes[chosen]).mean().backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def reading(net: NoisyClassifier, x_0: Tensor, classes: Tensor, ratio: float, seed: int) -> float:
    """Share of x_t, at a noise level sigma / alpha, of which the class is most probable."""
    alpha, sigma = (v.float() for v in net.process.at(torch.tensor(ratio).double()))
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = net(alpha * x_0 + sigma * noise, alpha, sigma).argmax(1)
    return float((found == classes).double().mean())


def labelled(model: Conditional, classes: Tensor) -> tuple[Denoiser, Denoiser]:
    """E[x_0 | x_t, y] of rows x_t of these classes (n,), and E[x_0 | x_t], of a model
    "image | digit" that is trained with a null token.
    """
    module, n = model.pipeline.heads[0].model, len(classes)
    digit = torch.nn.functional.one_hot(classes, 10).float()
    with torch.no_grad():
        given = model.pipeline.context(model.pipeline.standardise({"digit": digit}, {}))[0]
    nothing = module.network.without(given, torch.ones(n, dtype=torch.bool))
    return module.denoiser(given, n), module.denoiser(nothing, n)


def denoisers(
    model: Conditional, net: NoisyClassifier, classes: Tensor, weight: float
) -> dict[str, Denoiser]:
    """The denoiser of rows of these classes (n,), guided in either way."""
    told, blind = labelled(model, classes)
    return {
        "classifier": ClassifierGuided(blind, net.log_p(classes), weight),
        "classifier-free": ClassifierFree(told, blind, weight),
    }
