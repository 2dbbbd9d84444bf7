"""Every kind of covariance against the matrix that it stands for."""

import pytest
import torch

from simgen.covariance import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
    as_covariance,
)
from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.krylov import conjugate_gradients, lanczos_root
from simgen.row_covariance import JacobianCovariance, MatrixCovariance

D = 12


def positive(d, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def dense():
    return DenseCovariance(positive(D, 0))


def diagonal():
    return DiagonalCovariance(torch.linspace(0.1, 3, D))


def fourier():
    kx, ky = torch.fft.fftfreq(4)[:, None], torch.fft.fftfreq(3)[None]
    return FourierCovariance(1 / (0.1 + kx**2 + 2 * ky**2))


def low_rank():
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(D, 3, generator=generator, dtype=torch.float64)
    return LowRankCovariance(torch.linspace(0.2, 1, D), factor)


class ByProducts(Covariance):
    """Nothing but products: what the base class makes of them."""

    def __init__(self):
        self.matrix = positive(D, 2)

    def __call__(self, v):
        return v @ self.matrix

    def dense(self):
        return self.matrix


KINDS = pytest.mark.parametrize("make", [dense, diagonal, fourier, low_rank, ByProducts])
KNOWN = pytest.mark.parametrize("make", [dense, diagonal, fourier, low_rank])


@KINDS
def test_products_systems_and_roots_are_the_matrixs(make):
    C, v = make(), torch.randn(5, D, dtype=torch.float64)
    matrix = C.dense()
    torch.testing.assert_close(C(v), v @ matrix)
    system = matrix + 0.3 * torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(C.solve(v, 0.3), torch.linalg.solve(system, v.T).T)
    unit = torch.eye(D, dtype=torch.float64)
    root = C.root(unit)  # rows are R e_i, so that root.T is R
    torch.testing.assert_close(root.T @ root, matrix, rtol=1e-6, atol=1e-8)


@KNOWN
def test_determinants_diagonals_and_rows_of_shifts(make):
    C = make()
    matrix, unit = C.dense(), torch.eye(D, dtype=torch.float64)
    shift = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    expected = torch.stack([torch.logdet(matrix + s * unit) for s in shift])
    torch.testing.assert_close(C.logdet(shift), expected)
    torch.testing.assert_close(C.diagonal(), matrix.diagonal())
    v = torch.randn(3, D, dtype=torch.float64)
    expected = torch.stack([torch.linalg.solve(matrix + s * unit, w) for s, w in zip(shift, v)])
    torch.testing.assert_close(C.solve(v, shift), expected)


@KNOWN
def test_denoised_is_the_conditional_covariance(make):
    C, sigma = make(), 0.7
    matrix = C.dense()
    unit = torch.eye(D, dtype=torch.float64)
    expected = torch.linalg.inv(torch.linalg.inv(matrix) + unit / sigma**2)
    torch.testing.assert_close(C.denoised(sigma).dense(), expected)
    values = torch.linalg.eigvalsh(matrix)
    assert C.largest >= float(values[-1]) * (1 - 1e-9) and C.largest <= 2 * float(values[-1])
    assert 0 < C.smallest <= float(values[0]) * (1 + 1e-9)


def test_a_fourier_covariance_is_that_of_a_periodic_field():
    """Its first row is the correlation function, the inverse transform of the spectrum."""
    spectrum = fourier().values.view(4, 3)
    row = torch.fft.ifft2(spectrum).real.flatten()
    torch.testing.assert_close(fourier().dense()[0], row)
    two = FourierCovariance(torch.stack([spectrum, 2 * spectrum]))
    matrix = two.dense()
    assert matrix[:12, 12:].abs().max() < 1e-12
    torch.testing.assert_close(matrix[12:, 12:], 2 * matrix[:12, :12])


def test_conjugate_gradients_leave_solved_rows_alone():
    matrix = positive(D, 3)
    right = torch.cat([torch.zeros(1, D), torch.randn(3, D)]).double()
    found = conjugate_gradients(lambda v: v @ matrix, right)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right.T).T)
    assert not found[0].any()


def test_lanczos_of_the_identity_and_of_rank_one():
    noise = torch.randn(4, D, dtype=torch.float64)
    torch.testing.assert_close(lanczos_root(lambda v: 4 * v, noise), 2 * noise)
    u = torch.nn.functional.normalize(torch.randn(D, dtype=torch.float64), dim=0)
    found = lanczos_root(lambda v: (v @ u)[:, None] * u, noise)
    torch.testing.assert_close(found, (noise @ u)[:, None] * u, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", ["equal", "diagonal", "full"])
@pytest.mark.parametrize("d", [3, 20])
def test_a_mixtures_covariance_given_x_t_is_the_dense_one(shared, d):
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(4, d, generator=generator, dtype=torch.float64)
    covariances = {
        "equal": torch.eye(d).double(),
        "diagonal": torch.rand(4, d, generator=generator).double().add(0.1).diag_embed(),
        "full": torch.stack([positive(d, i) for i in range(4)]),
    }[shared]
    prior = MixturePrior([1.0, 2.0, 0.5, 1.0], means, covariances)
    x_t, sigma = means + 0.8 * torch.randn(4, d, generator=generator).double(), 1.3
    mean, V = prior.moments(x_t, sigma)
    expected_mean, expected = prior.posterior(x_t, 1.0, sigma)
    torch.testing.assert_close(mean, expected_mean)
    v = torch.randn(4, d, generator=generator).double()
    torch.testing.assert_close(V(v), torch.einsum("nij,nj->ni", expected, v))
    system = expected + 0.4 * torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(
        V.solve(v, 0.4), torch.linalg.solve(system, v), rtol=1e-6, atol=1e-8
    )
    several = torch.stack([v, 2 * v])
    torch.testing.assert_close(V(several)[1], 2 * V(v))
    draws = torch.stack([V.root(e.expand(4, d)) for e in torch.eye(d, dtype=torch.float64)], -1)
    torch.testing.assert_close(draws @ draws.mT, expected, rtol=1e-5, atol=1e-6)


def test_the_derivative_of_a_denoiser_is_its_covariance():
    prior = GaussianPrior(torch.zeros(4).double(), positive(4, 5))
    x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    V = JacobianCovariance(x, prior.denoise(x, 1.0, 0.6), 0.6**2)
    expected = prior.structure.denoised(0.6).dense()
    torch.testing.assert_close(V(torch.eye(4).double()[:, None, :])[:, 0], expected)
    matrices = V.matrices()
    assert isinstance(matrices, MatrixCovariance)
    torch.testing.assert_close(
        matrices.root(torch.ones(3, 4).double())[0], matrices.root(torch.ones(3, 4).double())[2]
    )
    torch.testing.assert_close(matrices(torch.ones(3, 4).double())[1], expected.sum(1))


def test_bad_covariances():
    root = torch.tensor([[1.0, 0.0], [0.9, 0.4]])  # in place of root @ root.T
    for make in (DenseCovariance, lambda c: MixturePrior([1, 1], torch.zeros(2, 2), c)):
        with pytest.raises(ValueError, match="must be symmetric"):
            make(root)
    with pytest.raises(ValueError, match="must be symmetric"):
        MixturePrior([1, 1], torch.zeros(2, 2), torch.stack([root, torch.eye(2)]))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        DenseCovariance(-positive(3, 0))
    with pytest.raises(ValueError, match="same at k and -k"):
        FourierCovariance(torch.arange(12.0).view(3, 4))
    with pytest.raises(ValueError, match="must be positive"):
        LowRankCovariance(torch.zeros(3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="the mean has 3"):
        as_covariance(diagonal(), 3)
    with pytest.raises(ValueError, match="must be \\(d, d\\)"):
        DenseCovariance(torch.ones(2, 3))
