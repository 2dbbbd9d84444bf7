r"""The linear-Gaussian layer: an affine map, exact where the target is linear in the context.

.. math::
    y = L \, (z - A c - b), \qquad
    \log \left| \det \frac{\partial y}{\partial z} \right| = \sum_i \log L_{ii}
"""

from __future__ import annotations

__all__ = ["LinearGaussian"]

import torch
from torch import Tensor, nn

from .base import Given
from .layer import Layer


class LinearGaussian(Layer):
    """An affine map whose shift is linear in the context: L is lower triangular.

    Started from least squares on training rows, with L the inverse Cholesky factor of the
    residuals' covariance, it makes a linear-Gaussian problem exact before training. The decay of
    weights acts on it as on what follows: a start that holds up the training fades.

    Arguments:
        features: Number of variables k.
        context: Length of the context vector c.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context, features)) if context else None
        self.bias = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(torch.zeros(features, features)) if features > 1 else None
        self.log_diagonal = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def initialise(self, x: Tensor, given: Given) -> None:
        """Solves the regression of z (n, k) on contexts (n, c), where there are any."""
        z = x.double()
        mean = z.mean(0)
        residual = z - mean
        self.bias.copy_(mean)
        if self.weight is not None and given[0] is not None:
            c = given[0].double()
            mean_c = c.mean(0)
            c = c - mean_c
            gram = c.T @ c / len(z)
            ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
            eye = torch.eye(len(gram), dtype=c.dtype, device=c.device)
            weight = torch.linalg.solve(gram + ridge * eye, c.T @ residual / len(z))
            residual = residual - c @ weight
            self.weight.copy_(weight)
            self.bias.copy_(mean - mean_c @ weight)
        covariance = residual.T @ residual / len(z)
        eye = torch.eye(len(covariance), dtype=z.dtype, device=z.device)
        root = torch.linalg.cholesky(covariance + 1e-6 * eye)
        factor = torch.linalg.solve_triangular(root, eye, upper=False)
        self.log_diagonal.copy_(factor.diagonal().log())
        if self.lower is not None:
            self.lower.copy_(factor.tril(-1))

    def _matrix(self) -> Tensor:
        matrix = torch.diag(self.log_diagonal.exp())
        if self.lower is not None:
            matrix = matrix + self.lower.tril(-1)
        return matrix

    def _mean(self, c: Tensor | None) -> Tensor:
        if self.weight is None:
            return self.bias
        assert c is not None
        return torch.addmm(self.bias, c, self.weight)

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, k) and log |det| (n,) of x (n, k)."""
        y = (x - self._mean(given[0])) @ self._matrix().t()
        return y, self.log_diagonal.sum().expand(len(x))

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, k) of y (s, n, k)."""
        return y @ torch.linalg.inv(self._matrix()).t() + self._mean(given[0])
