"""VAE: against probabilistic PCA where everything is known, and the laws of every kind."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from simgen.field import Field
from simgen.models.pca import ProbabilisticPCA
from simgen.models.vae import VAE

K, LATENT = 6, 2
LINEAR = {"latent": LATENT, "prior": "normal", "variance": "scalar", "blocks": 0}
NOTHING = (None, None)


def rows(n=2_000, k=K, latent=LATENT):
    """Of a linear-Gaussian model whose principal values differ."""
    torch.manual_seed(5)
    axes = torch.linalg.qr(torch.randn(k, latent))[0] * torch.linspace(1.5, 0.9, latent)
    return torch.randn(n, latent) @ axes.T + 0.4 * torch.randn(n, k) + 0.3


def pca(module):
    """The probabilistic PCA that a linear VAE is."""
    model = ProbabilisticPCA(K, module.latent)
    linear = module.decoder.net.linear
    with torch.no_grad():
        model.weight.copy_(linear.weight)
        model.mean.copy_(linear.bias)
        raw = linear(torch.zeros(1, module.latent)).view(1, 1, K)
        model.log_sigma.copy_(module.head.distribution(raw).scale.expand(1, K)[0, 0].log())
    return model


def train(module, x, given=NOTHING, steps=600, rate=1e-2, batch=128):
    optimizer = torch.optim.Adam(module.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(len(x), (batch,))
        part = tuple(None if g is None else g[index] for g in given)
        module.loss(x[index], part).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return module.eval()


def perturbed(**settings):
    """A linear VAE at the maximum of the likelihood, but for a poor encoder."""
    torch.manual_seed(0)
    module = VAE(**{**LINEAR, **settings}).build(Field((K,)), {})
    x = rows()
    module.initialise(x, NOTHING)
    with torch.no_grad():
        module.encoder.net.linear.weight.add_(0.08 * torch.randn(2 * LATENT, K))
        module.encoder.net.linear.bias.add_(0.3)
    return module, x


@pytest.mark.parametrize("blocks", [0, 1])
def test_training_reaches_the_exact_evidence_and_the_principal_subspace(blocks):
    x = rows()
    best = ProbabilisticPCA(K, LATENT).maximise(x)
    torch.manual_seed(0)
    module = VAE(**{**LINEAR, "blocks": blocks, "width": 32}).build(Field((K,)), {})
    train(module, x, steps=1_500, batch=256)
    with torch.no_grad():
        reached = module.elbo(x, draws=30).value.mean()
        assert abs(float(reached - best.log_evidence(x).mean())) < 0.02 * K
        if blocks:  # the slope of the decoder at the centre
            slope = torch.autograd.functional.jacobian(
                lambda z: module.decode(z)[0], torch.zeros(1, LATENT)
            )[:, 0]
        else:
            slope = module.decoder.net.linear.weight
        spans = [torch.linalg.qr(w)[0] for w in (slope, best.weight)]
    cosines = torch.linalg.svdvals(spans[0].T @ spans[1])
    assert float(cosines.min().acos()) < 0.1  # radians, the largest principal angle


@pytest.mark.parametrize("latent", [2, K, K + 2])
def test_the_closed_form_start_is_probabilistic_pca(latent):
    x = rows()
    module = VAE(latent=latent, prior="normal", floor=1e-6).build(Field((K,)), {})
    module.initialise(x, NOTHING)
    exact = ProbabilisticPCA(K, min(latent, K - 1)).maximise(x)
    if latent >= K:  # all of the sample covariance
        evidence = MultivariateNormal(x.mean(0), x.T.cov(correction=0)).log_prob(x)
    else:
        evidence = exact.log_evidence(x)
    with torch.no_grad():  # the encoder is the exact posterior: every draw gives the same
        value = module.log_prob(x, draws=3)
    torch.testing.assert_close(value, evidence.detach(), rtol=2e-3, atol=2e-3)


def test_the_closed_form_start_given_a_context():
    torch.manual_seed(0)
    c = torch.randn(4_000, 3)
    x = c @ torch.randn(3, 2) + torch.randn(4_000, 2) @ torch.tensor([[0.3, 0.2], [0.0, 0.1]])
    for prior in ("normal", "gaussian", "flow"):
        module = VAE(prior=prior).build(Field((2,)), {"context": Field((3,))})
        module.initialise(x, (c, None))
        solved = torch.linalg.lstsq(torch.cat([c, torch.ones(len(c), 1)], 1), x).solution
        residual = x - torch.cat([c, torch.ones(len(c), 1)], 1) @ solved
        exact = MultivariateNormal(torch.zeros(2), residual.T.cov(correction=0)).log_prob(residual)
        with torch.no_grad():
            found = module.log_prob(x[:200], (c[:200], None), draws=200)
        assert float((found - exact[:200]).abs().mean()) < 0.05, prior


def test_the_bound_tightens_with_its_draws_towards_the_evidence():
    module, x = perturbed()
    x = x[:100]
    exact = pca(module).log_evidence(x).mean().detach()
    draws = [1, 4, 16, 64, 512]
    with torch.no_grad():
        short = torch.tensor(
            [
                [float(exact - module.log_prob(x, draws=k, seed=s).mean()) for s in range(200)]
                for k in draws
            ]
        )
    mean, error = short.mean(1), short.std(1) / 200**0.5
    assert ((mean[:-1] - mean[1:]) > 2 * (error[:-1] ** 2 + error[1:] ** 2).sqrt()).all()
    assert float(mean[0]) > 0.5 and -2 * float(error[-1]) < float(mean[-1]) < 0.01


def test_the_gap_is_the_kl_to_the_posterior():
    module, x = perturbed()
    x, model = x[:50], pca(module)
    with torch.no_grad():
        q = module.encode(x)
        diagonal = MultivariateNormal(q.loc, torch.diag_embed(q.scale**2))
        exact = kl_divergence(diagonal, model.posterior(x))
        gap = module.gap(x, model.log_evidence(x), draws=20_000)
    torch.testing.assert_close(gap, exact, rtol=0.03, atol=0.03)


def test_the_parts_of_the_elbo():
    module, x = perturbed(latent=LATENT)
    x = x[:50]
    with torch.no_grad():
        q, linear = module.encode(x), module.decoder.net.linear
        parts = module.elbo(x, draws=5_000)
        sigma = pca(module).log_sigma.exp()
        at_mean = Normal(linear(q.loc), sigma).log_prob(x).sum(-1)
        spread = (q.scale**2 * linear.weight.square().sum(0)).sum(-1) / (2 * sigma**2)
    standard = Normal(torch.zeros(LATENT), torch.ones(LATENT))
    torch.testing.assert_close(parts.kl, kl_divergence(q, standard).sum(-1))
    torch.testing.assert_close(parts.reconstruction, at_mean - spread, rtol=0.02, atol=0.1)
    torch.testing.assert_close(parts.value, parts.reconstruction - parts.kl)


def test_weights_of_the_kl():
    module, x = perturbed(beta=0.5, warmup=0.4)
    x = x[:20]

    def parts(module):
        torch.manual_seed(1)
        noise = torch.randn(1, 20, LATENT)[0]
        fit, kl, _ = module.terms(x, module.condition(NOTHING), noise, True)
        torch.manual_seed(1)
        return module.loss(x, NOTHING) + fit, kl

    for share, weight in [(0.0, 0.0), (0.1, 0.125), (0.4, 0.5), (0.9, 0.5)]:
        module.progress(share)
        loss, kl = parts(module)
        torch.testing.assert_close(loss, weight * kl.sum(-1), rtol=1e-4, atol=1e-4)
    module.progress(0.0)
    loss, kl = parts(module.eval())  # held-out rows are judged by the last weight
    torch.testing.assert_close(loss, 0.5 * kl.sum(-1), rtol=1e-4, atol=1e-4)
    module, _ = perturbed(free_bits=0.7)
    loss, kl = parts(module)
    torch.testing.assert_close(loss, kl.clamp(min=0.7).sum(-1), rtol=1e-4, atol=1e-4)
    assert (kl < 0.7).any()


def test_particles_train_the_importance_bound():
    module, x = perturbed(particles=16)
    single, _ = perturbed()
    with torch.no_grad():
        torch.manual_seed(1)
        loss = module.loss(x, NOTHING)
        torch.manual_seed(1)
        weights = module.log_weights(x, module.condition(NOTHING), torch.randn(16, len(x), LATENT))
        torch.testing.assert_close(loss, -weights.exp().mean(0).log(), rtol=1e-3, atol=1e-3)
        assert float(loss.mean()) < float(single.loss(x, NOTHING).mean()) - 0.3


def test_draws_have_the_decoders_noise():
    module, _ = perturbed()
    model = pca(module)
    with torch.no_grad():
        draws = module.transport(torch.randn(100, 2_000, *module.noise_shape)).flatten(0, 1)
    torch.testing.assert_close(draws.T.cov(), model.covariance.detach(), rtol=0.03, atol=0.02)
    torch.testing.assert_close(draws.mean(0), model.mean.detach(), rtol=0, atol=0.02)
    assert module.noise_shape == (LATENT + K,)


def test_a_multimodal_posterior_by_its_flow_prior():
    torch.manual_seed(0)
    c = torch.rand(4_000, 1) + 0.5
    x = torch.randn(4_000, 1).sign() * c + 0.1 * torch.randn(4_000, 1)
    module = VAE(width=32, blocks=1).build(Field((1,)), {"context": Field((1,))})
    module.initialise(x, (c, None))
    train(module, x, (c, None), steps=300, rate=4e-3)
    ends = torch.tensor([[0.6], [1.4]])
    with torch.no_grad():
        draws = module.transport(torch.randn(4_000, 2, *module.noise_shape), (ends, None))[..., 0]
        modes = torch.cat([Normal(sign * c, 0.1).log_prob(x) for sign in (-1, 1)], 1)
        exact = modes.logsumexp(1) - math.log(2)
        lost = exact - module.log_prob(x, (c, None))
    for i in range(2):
        right = draws[:, i] > 0
        assert abs(float(right.float().mean()) - 0.5) < 0.06
        assert abs(float(draws[right, i].mean()) - float(ends[i])) < 0.06
    assert -0.02 < float(lost.mean()) < 0.15


CASES = [
    ((3,), 0, False, {}),
    ((3,), 2, False, {"prior": "gaussian", "variance": "dimension"}),
    ((3,), 2, False, {"prior": "diffusion"}),
    ((2,), 2, False, {"particles": 3}),
    ((1, 5, 6), 0, False, {"prior": "normal"}),
    ((1, 7), 2, False, {}),
    ((2, 6, 6), 2, True, {"prior": "gaussian"}),
    ((1, 6, 5), 0, True, {"decoder": "bernoulli", "periodic": True}),
    ((1, 4, 3, 5), 1, False, {"variance": "scalar"}),
]


@pytest.mark.parametrize("event, context, grid, settings", CASES)
def test_laws_of_every_kind(event, context, grid, settings):
    torch.manual_seed(0)
    image = len(event) > 1
    target = Field(event, "image") if len(event) > 2 else _row(event)
    given = {"context": Field((context,))} if context else {}
    if grid:
        given["map"] = Field((2, *event[1:]), "image")
    small = {"width": 16, "channels": 4, "draws": 3, "latent": 3}
    module = VAE(**small, **settings).build(target, given)
    c = torch.randn(5, context) if context else None
    m = torch.randn(5, 2, *event[1:]) if grid else None
    x = torch.randn(5, *event)
    start = (torch.randn(50, *g.shape[1:]) if g is not None else None for g in (c, m))
    module.initialise(torch.randn(50, *event), tuple(start))
    with torch.no_grad():  # the networks start as linear maps
        for p in module.parameters():
            p.add_(0.05 * torch.randn_like(p))
    module.loss(x, (c, m)).mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    one = tuple(None if g is None else g[:1] for g in (c, m))
    noise = torch.randn(2, 5, *module.noise_shape)
    with torch.no_grad():  # a row does not see its batch
        density, draws = module.log_prob(x, (c, m)), module.transport(noise, (c, m))
        assert draws.shape == (2, 5, *event) and density.shape == (5,)
        close = {"rtol": 1e-3, "atol": 1e-3 if image else 1e-4}
        torch.testing.assert_close(module.log_prob(x[:1], one), density[:1], **close)
        torch.testing.assert_close(module.transport(noise[:, :1], one), draws[:, :1], **close)
        torch.testing.assert_close(module.log_prob(x, (c, m)), density)  # a function
    q = module.distribution((c, m))
    assert q.density == "bound" and q.event_shape == event
    torch.testing.assert_close(q.log_prob(x), density, **close)
    again = VAE(**small, **settings).build(target, given).eval()
    again.load_state_dict(module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.transport(noise, (c, m)), draws)


def _row(event):
    """A field with one spatial axis."""
    field = Field((event[0], event[1], 1), "image") if len(event) == 2 else Field(event)
    if len(event) == 2:
        object.__setattr__(field, "shape", event)
    return field


def test_log_prob_can_be_differentiated():
    module, x = perturbed(blocks=1, width=8)
    module = module.double()
    x = x[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: module.log_prob(v, draws=5), (x,))


def test_an_image_given_a_map_follows_it():
    torch.manual_seed(0)
    grid = torch.randn(400, 1, 5, 5)
    x = grid.roll(1, -1) + 0.3 * torch.randn(400, 1, 5, 5)
    target = Field((1, 5, 5), "image")
    settings = VAE(latent=2, prior="gaussian", variance="scalar", channels=8, depth=0, blocks=1)
    module = settings.build(target, {"map": target})
    train(module, x, (None, grid), steps=300, rate=1e-2, batch=64)
    with torch.no_grad():
        fresh = torch.randn(200, 1, 5, 5)
        draws = module.transport(torch.randn(1, 200, *module.noise_shape), (None, fresh))[0]
        inner = (draws - fresh.roll(1, -1))[..., 1:]  # the first column came round the edge
        truth = fresh.roll(1, -1) + 0.3 * torch.randn(200, 1, 5, 5)
        density = module.log_prob(truth, (None, fresh)).mean() / 25
        without = module.log_prob(truth, (None, torch.randn_like(fresh))).mean() / 25
    assert 0.25 < float(inner.std()) < 0.6
    exact = Normal(0.0, 0.3).log_prob(torch.tensor(0.0)) - 0.5
    assert float(exact - density) < 0.7 < float(density - without)


def test_bernoulli_images_by_counting_all_of_them():
    torch.manual_seed(0)
    patterns = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]).view(3, 1, 2, 2)
    x = patterns[torch.randint(3, (1_000,))]
    flip = torch.rand_like(x) < 0.05
    x = torch.where(flip, 1 - x, x)
    settings = VAE(latent=2, decoder="bernoulli", channels=16, prior="normal")
    module = settings.build(Field((1, 2, 2), "image"), {})
    module.initialise(x, NOTHING)
    train(module, x, steps=800, rate=5e-3, batch=64)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(16, 1, 2, 2)
    wrong = (corners[:, None] - patterns).abs().flatten(2).sum(-1)
    exact = (0.05**wrong * 0.95 ** (4 - wrong)).mean(1)
    with torch.no_grad():
        p = module.log_prob(corners, draws=4_000).exp()
        draws = module.transport(torch.randn(1, 40_000, *module.noise_shape))[0]
    index = (draws.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1).long()
    counted = index.bincount(minlength=16) / 40_000
    assert abs(float(p.sum()) - 1) < 0.03
    assert float((p - counted).abs().sum()) / 2 < 0.03
    assert float((counted - exact).abs().sum()) / 2 < 0.15  # pixels apart: 0.5


def test_bad_settings():
    for wrong in (
        {"prior": "gauss"},
        {"decoder": "poisson"},
        {"variance": "full"},
        {"latent": 0},
        {"floor": 0.0},
        {"warmup": 1.5},
        {"beta": -1.0},
        {"particles": 0},
        {"particles": 4, "beta": 0.5},
        {"particles": 4, "prior": "diffusion"},
    ):
        with pytest.raises(ValueError):
            VAE(**wrong)
    with pytest.raises(ValueError, match="vector or an image"):
        VAE().build(Field((5, 2), "set"), {})
    with pytest.raises(ValueError, match="context and map"):
        VAE().build(Field((2,)), {"theta": Field((2,))})


def test_a_spline_decoder_learns_a_point_mass_with_its_cell():
    torch.manual_seed(0)
    empty = torch.rand(4_000, 2) < 0.7
    x = torch.where(empty, -torch.rand(4_000, 2), 2 + 0.3 * torch.randn(4_000, 2))
    x = (x - x.mean(0)) / (scale := x.std(0))
    module = VAE(latent=1, prior="normal", decoder="spline", width=16, blocks=1).build(
        Field((2,)), {}
    )
    module.initialise(x, NOTHING)
    train(module, x, steps=400)
    with torch.no_grad():
        draws = module.transport(torch.randn(1, 20_000, *module.noise_shape))[0]
        middle = (x.amin(0) + 1.5 / scale)[None]
        found = float((draws < middle).float().mean())
        entropy = 2 * (
            math.log(1 / 0.7) * 0.7
            + 0.3 * (math.log(1 / 0.3) + 0.5 + 0.5 * math.log(2 * math.pi * 0.09))
        )
        loss = -float(module.log_prob(x).mean() - scale.log().sum())
    assert abs(found - float(empty.float().mean())) < 0.025
    assert entropy - 0.1 < loss < entropy + 0.25
