"""The study's histogram: what it counts, and that order does not matter."""

import torch

from studies.dimuon.histogram import Histogram


def test_counts_and_order():
    torch.manual_seed(0)
    rows, target = torch.randn(500, 40, 1), torch.randn(500, 2)
    rows[:, :, 0] += target[:, :1]
    histogram = Histogram(bins=8)
    histogram.initialise(rows, target)
    filled = histogram.counts(rows) ** 2 - 3 / 8
    assert (filled.sum(0) - 500 * 40 / 8).abs().max() < 1.5  # of equal content
    edges = torch.cat([torch.tensor([-torch.inf]), histogram.edges, torch.tensor([torch.inf])])
    inside = (rows >= edges[:-1]) & (rows < edges[1:])
    assert torch.allclose(filled, inside.sum(1).float(), atol=1e-4)
    shuffled = rows[:20, torch.randperm(40)]
    assert torch.allclose(histogram(shuffled), histogram(rows[:20]), atol=1e-6)
    # the closed form starts with what the mean of the set says
    assert histogram.encoder.weight.shape[1] > 0
