"""Four fits of one model, against the maximum of its likelihood in closed form."""

import pytest
import torch
from torch import nn

from simgen.models.pca import ProbabilisticPCA
from simgen.prescribed import (
    AmortisedBound,
    ExactEvidence,
    InstanceBound,
    NaiveEvidence,
    maximise,
)

K, LATENT, ROWS = 4, 2, 400


def rows():
    torch.manual_seed(3)
    z = torch.randn(ROWS, LATENT)
    return z @ torch.randn(LATENT, K) + 0.7 * torch.randn(ROWS, K) + 1


def bound(method, model):
    if method == "naive":
        return NaiveEvidence(model, draws=400)
    if method == "instance":
        return InstanceBound(model, ROWS)
    if method == "amortised":
        return AmortisedBound(model, nn.Linear(K, 2 * LATENT))
    if method == "importance":
        return AmortisedBound(model, nn.Linear(K, 2 * LATENT), draws=5)
    return ExactEvidence(model)


@pytest.mark.parametrize("method", ["naive", "instance", "amortised", "importance", "exact"])
def test_each_method_reaches_the_maximum(method):
    x = rows()
    best = ProbabilisticPCA(K, LATENT).maximise(x).log_evidence(x).mean().detach()
    torch.manual_seed(2)  # from some starts an amortised fit rests long with one latent unused
    model = ProbabilisticPCA(K, LATENT)
    with torch.no_grad():
        start = model.log_evidence(x).mean()
    maximise(bound(method, model), x, steps=800, batch_size=100, learning_rate=5e-2)
    with torch.no_grad():
        lost = float(best - model.log_evidence(x).mean()) / K
    assert -1e-6 < lost < 0.005 < 0.1 < float(best - start) / K


@pytest.mark.parametrize("draws", [1, 10])
def test_bounds_lie_below_the_evidence(draws):
    x = rows()
    torch.manual_seed(0)
    model = ProbabilisticPCA(K, LATENT)
    with torch.no_grad():
        exact = model.log_evidence(x)
        for guided in (
            NaiveEvidence(model, draws),
            InstanceBound(model, ROWS, draws),
            AmortisedBound(model, nn.Linear(K, 2 * LATENT), draws),
        ):
            short = torch.stack([exact - guided(x, torch.arange(ROWS)) for _ in range(20)]).mean(0)
            assert float(short.mean()) > 4 * float(short.std() / ROWS**0.5)


def test_the_naive_estimate_has_no_bias_in_the_evidence():
    x = rows()[:5].double()
    torch.manual_seed(0)
    model = ProbabilisticPCA(K, LATENT).double()
    naive, numbers = NaiveEvidence(model, 5), torch.arange(5)
    with torch.no_grad():
        model.log_sigma.fill_(0.7)  # wide enough for draws of the prior to reach every row
        exact = model.log_evidence(x)
        ratio = torch.stack([(naive(x, numbers) - exact).exp() for _ in range(10_000)])
    error = ratio.std(0) / 10_000**0.5
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all() and float(error.max()) < 0.1
    assert (ratio.log().mean(0) < -10 * error).all()  # but of its logarithm there is


def test_the_same_seed_gives_the_same_fit():
    x, found = rows(), []
    for _ in range(2):
        torch.manual_seed(0)
        model = ProbabilisticPCA(K, LATENT)
        history = maximise(NaiveEvidence(model, 10), x, steps=5, seed=7)
        torch.rand(3)
        found.append((history, model.weight.detach().clone()))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
