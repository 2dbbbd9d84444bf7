"""The multi-scale layer: wavelets, masks, scales; a flow that learns what is not Gaussian."""

import math

import pytest
import torch

from simgen.field import Field
from simgen.models import Flow
from simgen.models.coupling import alternate
from simgen.models.multiscale import MultiScale, haar, unhaar
from simgen.models.univariate import Affine


@pytest.mark.parametrize("shape", [(2, 8), (1, 4, 6), (3, 4, 2, 6)])
def test_haar_is_orthogonal(shape):
    x = torch.randn(5, *shape, dtype=torch.float64)
    y = haar(x)
    assert y.shape == (5, shape[0] * 2 ** len(shape[1:]), *[n // 2 for n in shape[1:]])
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(unhaar(y), x)
    coarse = y[:, : shape[0]]
    pooled = {1: torch.nn.functional.avg_pool1d, 2: torch.nn.functional.avg_pool2d}
    pool = pooled.get(len(shape) - 1, torch.nn.functional.avg_pool3d)
    torch.testing.assert_close(coarse, pool(x, 2) * 2 ** (len(shape[1:]) / 2))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_couplings_take_turns(channels):
    masks = torch.stack([alternate(channels, (4, 6), i) for i in range(4)])
    assert not masks.all(0).any() and masks.any(0).all()
    assert all(0 < int(m.sum()) < m.numel() for m in masks)


def test_scales_end_at_four_or_odd():
    def grids(shape):
        layer = MultiScale(shape, 0, 0, Affine, 2, (4,))
        return [tuple(stage.places.shape[1:]) for stage in layer.stages]

    assert grids((1, 32, 32)) == [(16, 16), (8, 8), (4, 4), (4, 4)]
    assert grids((1, 12, 20)) == [(6, 10), (3, 5), (3, 5)]
    assert grids((2, 4, 4)) == [(4, 4)]
    with pytest.raises(ValueError, match="even sizes"):
        grids((1, 9, 8))


def test_details_do_not_move_what_is_coarser():
    torch.manual_seed(0)
    layer = MultiScale((1, 8, 8), 0, 0, Affine, 4, (8,)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
        parts = haar(x)
        parts[:, 1:] += torch.randn_like(parts[:, 1:])
        y, other = (haar(layer.call_and_ladj(v, (None, None))[0]) for v in (x, unhaar(parts)))
    torch.testing.assert_close(y[:, :1], other[:, :1])
    assert (y[:, 1:] - other[:, 1:]).abs().min() > 0


def test_what_is_not_gaussian_is_learned():
    """Details whose deviation follows the coarse image, e^{s}: half the gain within 60 steps."""
    torch.manual_seed(0)

    def maps(n):
        coarse = torch.randn(n, 1, 4, 4)
        log_scale = 0.8 * coarse
        detail = log_scale.exp() * torch.randn(n, 3, 4, 4)
        log_p = -0.5 * (
            coarse.square().sum((1, 2, 3)) + (detail / log_scale.exp()).square().sum((1, 2, 3))
        )
        return unhaar(torch.cat((coarse, detail), 1)), log_p - 3 * log_scale.sum(
            (1, 2, 3)
        ) - 32 * math.log(2 * math.pi)

    x, _ = maps(3_000)
    fresh, exact = maps(1_000)
    module = Flow(hidden=(16, 16)).build(Field((1, 8, 8), "image"), {})
    module.initialise(x, (None, None))

    def gap():
        with torch.no_grad():
            return float((exact - module.log_prob(fresh, (None, None))).mean())

    before = gap()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        module.loss(x[torch.randint(3_000, (128,))], (None, None)).mean().backward()
        optimizer.step()
    assert before > 5 and -0.5 < gap() < 0.5 * before
