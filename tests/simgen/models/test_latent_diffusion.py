"""LatentDiffusion: exact at its start, then trained in one loop; fast, on any grid."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from simgen.field import Field
from simgen.models.autoencoder import patches
from simgen.models.diffusion import Diffusion
from simgen.models.latent_diffusion import LatentDiffusion

SMALL = {"width": 8, "diffusion": Diffusion(hidden=16, steps=12)}


def make(event, context=0, maps=0, **settings):
    torch.manual_seed(0)
    given = {"context": Field((context,))} if context else {}
    if maps:
        given["map"] = Field((maps, *event[1:]), layout="image")
    layout = "vector" if len(event) == 1 else "image"
    return LatentDiffusion(**{**SMALL, **settings}).build(Field(event, layout=layout), given)


def rows(n, event, context=0, maps=0):
    c = torch.randn(n, context) if context else None
    grid = torch.randn(n, maps, *event[1:]) if maps else None
    return torch.randn(n, *event), (c, grid)


def train(module, batch, steps, rate=2e-3):
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50 + 0.02) * (1 - step / steps)
        module.loss(*batch()).mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
    return module.eval()


def draw(module, n, given=(None, None), s=1):
    with torch.no_grad():
        return module.transport(torch.randn(s, n, *module.noise_shape), given)


@pytest.mark.parametrize(
    ("event", "context", "maps", "settings"),
    [
        ((5,), 0, 0, {}),
        ((5,), 3, 0, {"regularisation": "vq", "words": 8, "noise": True}),
        ((2, 8, 10), 2, 0, {"latent": 3}),
        ((1, 9, 7), 0, 2, {"noise": True}),
        ((1, 12, 12), 2, 1, {"periodic": True, "depth": 2}),
        ((1, 6, 5, 7), 1, 0, {"regularisation": "vq", "words": 8}),
        ((1, 8, 8), 0, 0, {"diffusion": Diffusion(hidden=16, solver="ddpm", steps=4)}),
    ],
)
def test_laws(event, context, maps, settings):
    module = make(event, context, maps, **settings)
    x, given = rows(8, event, context, maps)
    module.initialise(x, given)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert module.density is None
    loss = module.loss(x, given)
    assert loss.shape == (8,) and loss.isfinite().all()
    loss.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    noise = torch.randn(3, 8, *module.noise_shape, requires_grad=True)
    draws = module.transport(noise, given)
    assert draws.shape == (3, 8, *event)
    draws.square().sum().backward()
    assert (noise.grad.flatten(2).abs().amax(2) > 0).all()
    q = module.distribution(given)
    one = module.transport(noise[:, :1], tuple(None if g is None else g[:1] for g in given))
    torch.testing.assert_close(one, draws[:, :1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(q.transport(noise) if q.batch_shape else draws, draws)
    again = make(event, context, maps, **settings)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.transport(noise, given), draws)


@pytest.mark.parametrize("noise", [False, True])
def test_untrained_draws_have_the_covariance_of_probabilistic_pca(noise):
    """Smooth maps and white noise: the code carries the first, sigma the second."""
    module = make((1, 8, 8), latent=1, depth=1, noise=noise, floor=1e-3)
    kernel = torch.tensor([0.5, 1.0, 0.5])
    smooth = torch.randn(6_000, 1, 10, 10)
    smooth = torch.nn.functional.conv2d(smooth, torch.outer(kernel, kernel)[None, None])
    x = smooth / smooth.std() + 0.3 * torch.randn(6_000, 1, 8, 8)
    module.initialise(x, (None, None))
    # floor aside, the start is probabilistic PCA of patches, exactly
    auto = module.autoencoder
    expected = auto.outward @ auto.outward.T + noise * auto.sigma_0**2 * torch.eye(4)
    y = draw(module, 6_000)[0]
    cells = patches(y, 2).transpose(0, 1).flatten(1)
    found = cells.cov()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)
    if noise:
        wanted = patches(x, 2).transpose(0, 1).flatten(1).cov()
        assert abs(float(found.trace() - wanted.trace())) < 0.02 * float(wanted.trace())


def test_learns_a_mixture_given_a_context():
    """Two clusters in six dimensions; the context shifts them and says nothing of which."""
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6))[0]

    def batch(n=256):
        c = torch.randn(n, 1)
        side = torch.where(torch.rand(n, 1) < 0.3, -1.0, 1.0)
        u = torch.cat([1.5 * side + 0.3 * torch.randn(n, 1), c], -1)
        return u @ axes[:2] + 0.01 * torch.randn(n, 6), (c, None)

    module = make((6,), 1, latent=3, width=64, diffusion=Diffusion(hidden=64, steps=16))
    module.initialise(*batch(5000))
    train(module, batch, 400)
    given = torch.tensor([[-1.0], [1.0]])
    u = draw(module, 2, (given, None), s=4000) @ axes.T
    for i, c in enumerate(given[:, 0]):
        side = u[:, i, 0].sign()
        assert abs(float((side > 0).float().mean()) - 0.7) < 0.06
        distance = (u[:, i, 0] - 1.5 * side).square().mean().sqrt()
        assert abs(float(distance) - 0.3) < 0.1
        assert abs(float(u[:, i, 1].mean() - c)) < 0.1
        assert float(u[:, i, 1].std()) < 0.2  # 0 in truth
        assert float(u[:, i, 2:].abs().mean()) < 0.03


def field_of(n, size, tilt, generator=None):
    """Periodic Gaussian maps of unit variance whose power falls as k^tilt."""
    k = torch.fft.fftfreq(size) * size
    k = (k[:, None] ** 2 + k**2).sqrt()
    power = torch.where(k > 0, k.clamp(min=1) ** tilt, 0)
    power = power / power.sum() * size**2
    white = torch.randn(n, size, size, generator=generator)
    return torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real[:, None], power


def spectrum(x):
    return (torch.fft.fft2(x[:, 0]).abs().square() / x[0].numel()).mean(0)


@pytest.mark.parametrize(
    ("size", "last", "settings"),
    [(16, 8, {}), (8, 3, {"regularisation": "vq", "words": 128})],  # words keep the large scales
    ids=["kl", "vq"],
)
def test_maps_have_the_power_of_their_kind_at_every_scale(size, last, settings):
    x, power = field_of(3000, size, -3.0)
    module = make((1, size, size), periodic=True, width=8, **settings)
    module.initialise(x, (None, None))
    train(module, lambda: (x[torch.randint(3000, (32,))], (None, None)), 300)
    ratio = spectrum(draw(module, 800)[0]) / power
    k = torch.fft.fftfreq(size) * size
    k = (k[:, None] ** 2 + k**2).sqrt()
    bands = [float(ratio[(k >= low) & (k < low + 1)].mean()) for low in range(1, last)]
    assert all(abs(band - 1) < 0.35 for band in bands), bands


def test_map_given_a_map():
    """Maps given noisy maps of themselves: draws scatter about the Wiener filter."""
    torch.manual_seed(0)
    x, power = field_of(3000, 16, -3.0)
    y = x + 0.7 * torch.randn_like(x)
    wiener = torch.fft.ifft2(torch.fft.fft2(y) * power / (power + 0.49)).real
    module = make((1, 16, 16), maps=1, periodic=True, width=8)
    module.initialise(x, (None, y))

    def batch():
        i = torch.randint(50, 3000, (32,))
        return x[i], (None, y[i])

    train(module, batch, 200)
    mean = draw(module, 50, (None, y[:50]), s=10).mean(0)
    best = (x - wiener).square().mean()  # the posterior's own variance, of which a tenth remains
    left = (mean - wiener[:50]).square().mean() - best / 10
    assert left < 0.5 * best


def test_draws_cost_less_than_a_fifth_of_the_pixels():
    maps, given = Field((1, 32, 32), layout="image"), {"context": Field((2,))}
    flops = []
    for family in (Diffusion(), LatentDiffusion()):
        module = family.build(maps, given)
        with FlopCounterMode(display=False) as counter:
            draw(module, 2, (torch.randn(2, 2), None))
        flops.append(counter.get_total_flops())
    assert flops[1] < flops[0] / 5


def test_settings():
    for settings in ({"regularisation": "l2"}, {"latent": 0}, {"beta": 0.0}, {"words": 1}):
        with pytest.raises(ValueError, match="must be"):
            LatentDiffusion(**settings)
    with pytest.raises(ValueError, match="vectors and images"):
        LatentDiffusion().build(Field((4, 2), layout="set"), {})
    assert LatentDiffusion().schedule(9_000, 20, True).weight_decay == 0.01
