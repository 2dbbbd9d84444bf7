"""HierarchicalVAE: the chain against linear-Gaussian models, and the laws of every kind."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from simgen.field import Field
from simgen.models.elbo import diagonal
from simgen.models.hierarchical import HierarchicalVAE

NOTHING = (None, None)
WAYS = ["top-down", "bottom-up"]
LINEAR = {"prior": "normal", "variance": "scalar", "blocks": 0, "width": 16}


def rows(n=2_000, k=5):
    torch.manual_seed(5)
    axes = torch.linalg.qr(torch.randn(k, 2))[0] * torch.tensor([1.5, 0.9])
    return torch.randn(n, 2) @ axes.T + 0.4 * torch.randn(n, k) + 0.3


def linear(latents, way, k=5):
    """A linear hierarchy with constant deviations, away from its start."""
    torch.manual_seed(0)
    module = HierarchicalVAE(latents=latents, inference=way, **LINEAR).build(Field((k,)), {})
    module.initialise(rows(), NOTHING)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        nets = [*module.down, *module.infer, *([] if module.top_down else [module.encoder.net])]
        for net in nets:
            net.linear.weight[net.linear.out_features // 2 :] = 0
    return module


def marginal(module, k=5):
    """The Gaussian of x that a linear hierarchy with constant deviations makes, from the top."""
    size = module.latents[-1]
    mean, covariance = torch.zeros(size), torch.eye(size)
    for net in reversed(module.down):
        layer, half = net.linear, net.linear.out_features // 2
        spread = diagonal(layer.bias).scale
        weight = layer.weight[:half]
        mean = weight @ mean + layer.bias[:half]
        covariance = weight @ covariance @ weight.T + torch.diag(spread**2)
    layer = module.decoder.net.linear
    sigma = module.head.distribution(torch.zeros(1, 1, k)).scale
    covariance = layer.weight @ covariance @ layer.weight.T + sigma**2 * torch.eye(k)
    return MultivariateNormal(layer.weight @ mean + layer.bias, covariance)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("latents", [(2,), (2, 1), (2, 3, 2)])
def test_density_and_draws_of_a_linear_chain(way, latents):
    module, x = linear(latents, way), rows(40)
    with torch.no_grad():
        exact = marginal(module)
        bound = module.log_prob(x, draws=65_536).mean()
        draws = module.transport(torch.randn(50, 1_000, *module.noise_shape)).flatten(0, 1)
        elbo = module.elbo(x, draws=200)
    evidence = exact.log_prob(x).mean()
    assert float(evidence - elbo.value.mean()) > 0.3  # the encoder is poor
    assert -0.02 < float(evidence - bound) < 0.05
    torch.testing.assert_close(draws.T.cov(), exact.covariance_matrix, rtol=0.05, atol=0.05)
    torch.testing.assert_close(draws.mean(0), exact.mean, rtol=0, atol=0.05)
    assert module.noise_shape == (sum(latents) + 5,)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("latents", [(2, 2, 2), (2, 4, 1), (6, 3)])
def test_the_closed_form_start_is_exact(way, latents):
    x = rows()
    settings = HierarchicalVAE(latents=latents, inference=way, prior="normal", floor=1e-6)
    module = settings.build(Field((5,)), {})
    module.initialise(x, NOTHING)
    with torch.no_grad():
        for net in module.down:
            net.linear.weight[net.linear.out_features // 2 :] = 0
        exact = _evidence(x, latents[0])
        torch.testing.assert_close(module.log_prob(x, draws=2), exact, rtol=3e-3, atol=3e-3)


def _evidence(x, latent):
    from simgen.models.pca import ProbabilisticPCA

    if latent < x.shape[1]:
        return ProbabilisticPCA(x.shape[1], latent).maximise(x).log_evidence(x)
    return MultivariateNormal(x.mean(0), x.T.cov(correction=0)).log_prob(x)


@pytest.mark.parametrize("way", WAYS)
def test_training_reaches_the_exact_evidence(way):
    x = rows()
    torch.manual_seed(1)
    module = HierarchicalVAE(latents=(2, 2), inference=way, **LINEAR).build(Field((5,)), {})
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    steps = 1_500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        module.loss(x[torch.randint(len(x), (256,))], NOTHING).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        reached = module.elbo(x, draws=30).value.mean()
        best = _evidence(x, 2).mean()
    assert abs(float(reached - best)) < 0.02 * 5


@pytest.mark.parametrize("way", WAYS)
def test_the_parts_add_up(way):
    module, x = linear((2, 3), way), rows(30)
    with torch.no_grad():
        elbo = module.elbo(x, draws=4_000)
        weights = module.log_weights(x, module.condition(NOTHING), torch.randn(4_000, 30, 5))
        gap = module.gap(x, marginal(module).log_prob(x), draws=500)
    error = 1.5 * weights.std(0) / 4_000**0.5  # of the difference of two such means
    assert ((elbo.value - weights.mean(0)).abs() < 4 * error).all()
    assert (gap > 0).all() and (elbo.kl > 0).all()


CASES = [
    ((3,), 0, False, {}),
    ((3,), 2, False, {"prior": "flow", "variance": "dimension"}),
    ((3,), 2, False, {"inference": "bottom-up", "latents": (3, 2)}),
    ((2,), 2, False, {"particles": 3}),
    ((1, 5, 6), 0, False, {"inference": "bottom-up"}),
    ((2, 6, 6), 2, True, {}),
    ((1, 6, 5), 2, True, {"decoder": "bernoulli", "prior": "normal", "free_bits": 0.01}),
]


@pytest.mark.parametrize("event, context, grid, settings", CASES)
def test_laws_of_every_kind(event, context, grid, settings):
    torch.manual_seed(0)
    image = len(event) > 1
    target = Field(event, "image" if image else "vector")
    given = {"context": Field((context,))} if context else {}
    if grid:
        given["map"] = Field((2, *event[1:]), "image")
    family = HierarchicalVAE(**{"width": 16, "channels": 4, "draws": 3, **settings})
    module = family.build(target, given)
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
    close = {"rtol": 1e-3, "atol": 1e-3 if image else 1e-4}
    with torch.no_grad():  # a row does not see its batch
        density, draws = module.log_prob(x, (c, m)), module.transport(noise, (c, m))
        assert draws.shape == (2, 5, *event) and density.shape == (5,)
        torch.testing.assert_close(module.log_prob(x[:1], one), density[:1], **close)
        torch.testing.assert_close(module.transport(noise[:, :1], one), draws[:, :1], **close)
        latents = module.encode(x, (c, m))
        assert [z.shape for z in latents] == [(5, k) for k in module.latents]
        assert module.decode(latents[0], (c, m)).shape == x.shape
    again = family.build(target, given).eval()
    again.load_state_dict(module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.transport(noise, (c, m)), draws)


def test_bad_settings():
    for wrong in (
        {"latents": ()},
        {"latents": (3, 0)},
        {"levels": 0},
        {"inference": "sideways"},
        {"prior": "none"},
    ):
        with pytest.raises(ValueError):
            HierarchicalVAE(**wrong)
