"""The chain against Bayes' rule, and its bound against closed forms on Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from simgen.gaussian import GaussianPrior
from simgen.models.chain import Chain
from simgen.models.process import EDM, PROCESSES, VPLinear

MEAN, VARIANCE = 0.5, 0.3


def prior(d=2):
    return GaussianPrior(
        torch.full((d,), MEAN, dtype=torch.float64), VARIANCE * torch.eye(d).double()
    )


def exact(x_t, alpha, sigma):
    return prior(x_t.shape[1]).denoise(x_t, alpha, sigma)


def test_marginals_are_the_product_of_the_steps():
    chain = Chain.linear(50, 1e-3, 0.2)
    mean, variance = torch.ones(1).double(), torch.zeros(1).double()
    for t in range(1, 51):
        a = chain.alphas[t - 1]
        mean, variance = a.sqrt() * mean, a * variance + 1 - a
        found = chain.marginal(torch.ones(1, 1).double(), torch.tensor([t]))
        torch.testing.assert_close(found[0][0], mean)
        torch.testing.assert_close(found[1], variance)


@pytest.mark.parametrize("name", ["vp-linear", "vp-cosine"])
def test_chain_of_a_process_has_its_marginals(name):
    process = PROCESSES[name]()
    chain = Chain.of(process, 200)
    t = torch.arange(0, 200)
    torch.testing.assert_close(chain.alpha_bar(t), process.alpha(t.double() / 200) ** 2)


def test_ho_s_chain_tends_to_the_linear_process():
    """1 - alpha_t = beta(t / T) / T: the limit of many steps, to order 1 / T."""
    gaps = []
    for steps in (500, 1000):
        chain = Chain.linear(steps, 0.1 / steps, 20.0 / steps)
        t = torch.arange(steps + 1)
        limit = 2 * VPLinear().alpha(t.double() / steps).log()
        gaps.append(float((chain.alpha_bar(t).log() - limit).abs().max()))
    assert gaps[1] < 0.55 * gaps[0] < 0.1


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from the product of q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    chain = Chain.linear(20, 0.01, 0.3)
    x_0, x_t = torch.randn(2, 19, 1, dtype=torch.float64)
    t = torch.arange(2, 21)
    mean, variance = chain.posterior(x_t, x_0, t)
    a, before = chain.alphas[t - 1], chain.alpha_bar(t - 1)
    precision = a / (1 - a) + 1 / (1 - before)
    shift = a.sqrt() * x_t[:, 0] / (1 - a) + before.sqrt() * x_0[:, 0] / (1 - before)
    torch.testing.assert_close(variance, 1 / precision)
    torch.testing.assert_close(mean[:, 0], shift / precision)


@pytest.mark.parametrize("kind", ["x0", "eps", "score"])
def test_weighted_losses_are_the_divergence(kind):
    """w_t |error|^2 = KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)), whichever error is taken."""
    chain, n = Chain.linear(30, 0.01, 0.3), 2000
    x_0 = torch.randn(n, 2, dtype=torch.float64)
    loss = chain.loss(exact, x_0, kind, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = torch.randint(2, 31, (n,), generator=generator)
    x_t, alpha, sigma = chain._noisy(x_0, t, generator)
    true, variance = chain.posterior(x_t, x_0, t)
    model, _ = chain.posterior(x_t, exact(x_t, alpha, sigma), t)
    sd = variance.sqrt()[:, None]
    divergence = kl_divergence(Normal(true, sd), Normal(model, sd)).sum(1)
    torch.testing.assert_close(loss, divergence)


def test_times_of_the_loss_are_uniform_on_two_to_T():
    chain, seen = Chain.linear(6, 0.1, 0.5), []

    def spy(x_t, alpha, sigma):
        seen.append((alpha**2).clone())
        return x_t

    chain.loss(spy, torch.zeros(30_000, 1).double(), weighted=False)
    shares = [(seen[0] - chain.alpha_bar(torch.tensor(t))).abs() < 1e-9 for t in range(7)]
    counts = torch.tensor([float(s.double().mean()) for s in shares])
    assert counts[0] == counts[1] == 0
    assert (counts[2:] - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / 30_000)


def closed_form(chain):
    """L_0, L_1 ... L_{T-1} and L_T a dimension, averaged over Gaussian data."""
    total = len(chain)
    t = torch.arange(total + 1)
    share = chain.alpha_bar(t)
    left = VARIANCE * (1 - share) / (share * VARIANCE + 1 - share)  # Var[x_0 | x_t]
    middle = chain.weight("x0", t[2:]) * left[2:]
    v = 1 - chain.alphas[0]
    first = -0.5 * (left[1] / v + (2 * math.pi * v).log())
    last = 0.5 * (share[-1] * (MEAN**2 + VARIANCE - 1) - (1 - share[-1]).log())
    return first, middle, last


def test_bound_term_by_term():
    torch.manual_seed(0)
    chain, n, d = Chain.linear(40, 1e-3, 0.25), 4000, 2
    x_0 = prior(d).sample((n,))
    bound = chain.bound(exact, x_0, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip((bound.first, bound.middle, bound.last), closed_form(chain)):
        error = found.std(0) / n**0.5
        assert ((found.mean(0) - d * wanted).abs() < 4.5 * error).all()
    torch.testing.assert_close(
        bound.total, bound.first - bound.middle.sum(1) - bound.last, rtol=0, atol=0
    )


def test_bound_tightens_to_the_evidence_with_the_steps():
    """Closed forms alone: below the expected log-evidence by 1 / T, where steps are even in the
    log signal-to-noise ratio.
    """
    evidence = float(-MultivariateNormal(torch.zeros(1), VARIANCE * torch.eye(1)).entropy())
    gaps = []
    for steps in (100, 200, 400):
        share = torch.linspace(11, -11, steps).double().sigmoid()
        alphas = torch.cat([share[:1], share[1:] / share[:-1]])
        first, middle, last = closed_form(Chain(alphas))
        gaps.append(evidence - float(first - middle.sum() - last))
    assert 0 < gaps[2] < 0.15
    assert all(abs(a / b - 2) < 0.1 for a, b in pairwise(gaps))


def test_the_sum_of_the_bound_is_the_expected_loss():
    torch.manual_seed(0)
    chain, n = Chain.linear(20, 0.01, 0.4), 40_000
    loss = (len(chain) - 1) * chain.loss(exact, prior(1).sample((n,)))
    _, middle, _ = closed_form(chain)
    assert abs(float(loss.mean() - middle.sum())) < 4 * float(loss.std()) / n**0.5


def test_bad_chains():
    with pytest.raises(ValueError, match="preserves variance"):
        Chain.of(EDM(), 10)
    with pytest.raises(ValueError, match="x0, eps or score"):
        Chain.linear(10).weight("v", torch.tensor([2]))
