r"""The frame in which a vector is denoised: centred where the context says, along principal axes.

.. math::
    x_0 = A c + b + U u, \qquad \mathrm{Cov}[U u] = U\, \mathrm{diag}(s_1^2, \dots, s_k^2)\, U^\top

U is a rotation: isotropic noise on x_0 is isotropic noise on u, so that a denoiser of u is one of
x_0. With the variances s_i^2 the linear part of the denoiser (`preconditioning`) is then the exact
one of a linear-Gaussian model, and a network that starts at zero starts from least squares.
"""

from __future__ import annotations

__all__ = ["Frame"]

import torch
from torch import Tensor, nn


class Frame(nn.Module):
    """Mean, axes and variances of a vector (n, k) given contexts (n, c).

    What least squares finds is kept apart from what training adds to it, so that the decay of
    weights draws towards that start.

    Arguments:
        features: Length k of the vector.
        context: Length of the context vector; 0 for none.
        rotate: Whether the axes are turned to the principal ones.
    """

    weight: Tensor
    bias: Tensor
    axes: Tensor
    variance: Tensor

    def __init__(self, features: int, context: int = 0, rotate: bool = True) -> None:
        super().__init__()
        self.rotate = rotate
        self.register_buffer("weight", torch.zeros(context, features))
        self.register_buffer("bias", torch.zeros(features))
        self.register_buffer("axes", torch.eye(features))
        self.register_buffer("variance", torch.ones(features))
        self.learned = nn.Parameter(torch.zeros(context, features)) if context else None

    @torch.no_grad()
    def initialise(self, z: Tensor, context: Tensor | None) -> None:
        """Least squares of z (n, k) on contexts (n, c), and the residuals' principal axes."""
        z = z.double()
        mean, residual = z.mean(0), z - z.mean(0)
        self.bias.copy_(mean)
        if len(self.weight) and context is not None:
            c = context.double() - context.double().mean(0)
            gram = c.T @ c / len(z)
            ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
            eye = torch.eye(len(gram), dtype=c.dtype, device=c.device)
            weight = torch.linalg.solve(gram + ridge * eye, c.T @ residual / len(z))
            residual = residual - c @ weight
            self.weight.copy_(weight)
            self.bias.copy_(mean - context.double().mean(0) @ weight)
        covariance = residual.T @ residual / len(z)
        if self.rotate:
            values, vectors = torch.linalg.eigh(covariance)
            self.axes.copy_(vectors)
        else:
            values = covariance.diagonal()
        self.variance.copy_(values.clamp(min=1e-8 * float(values.max())))

    def mean(self, context: Tensor | None) -> Tensor:
        """A c + b, (..., k)."""
        if self.learned is None:
            return self.bias
        assert context is not None
        return context @ (self.weight + self.learned) + self.bias

    def into(self, x: Tensor, alpha: Tensor, mean: Tensor) -> Tensor:
        """U^T (x_t - alpha mean) of x_t (..., k), alpha shaped to multiply it."""
        return (x - alpha * mean) @ self.axes

    def back(self, u: Tensor, alpha: Tensor, mean: Tensor) -> Tensor:
        """alpha mean + U u_t of u_t (..., k): the inverse of `into`."""
        return alpha * mean + u @ self.axes.t()
