"""Auto-encoders: patches, the exact linear start, what the networks add, both kinds of code."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from simgen.models.autoencoder import AutoEncoder, patches, unpatched
from simgen.models.codebook import Codebook, GaussianCode
from simgen.models.pca import principal_axes

EVENTS = [(5,), (1, 9), (2, 8, 12), (1, 7, 5), (1, 4, 6, 5)]


def train(module, batches, steps, rate=5e-3):
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50 + 0.02) * (1 - step / steps)
        module.loss(batches())[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module.eval()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("side", [1, 2, 4])
def test_patches_are_cut_and_put_back(event, side):
    torch.manual_seed(0)
    x = torch.randn(3, *event)
    p = patches(x, side)
    torch.testing.assert_close(unpatched(p, event[0], event[1:]), x)
    if event == (2, 8, 12) and side == 4:
        first = x[1, 1, 4:8, 8:12]  # a patch in a cell of the coarse grid
        assert torch.equal(p[1, 16:, 1, 2], first.flatten())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("depth", [1, 2])
def test_laws(event, kind, depth):
    torch.manual_seed(0)
    code = GaussianCode() if kind == "kl" else Codebook(3, 16)
    module = AutoEncoder(event, 3, code, depth, width=4)
    x = torch.randn(6, *event)
    module.initialise(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss, codes = module.loss(x)
    assert loss.shape == (6,) and codes.shape == (6, *module.shape)
    assert module.decode(codes).shape == x.shape
    torch.testing.assert_close(module.encode(x[:1]), module.encode(x)[:1], rtol=1e-4, atol=1e-4)
    moved = (module.decode(codes + 1) - module.decode(codes)).abs().flatten(1).amax(1)
    assert (moved.min() if kind == "kl" else moved.max()) > 1e-3  # a word may stay the nearest
    loss.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("event", "channels"), [((6,), 2), ((6,), 6), ((1, 8, 8), 3)])
def test_starts_as_the_exact_linear_gaussian_model(event, channels):
    """The ELBO is the log-evidence of probabilistic PCA, patch by patch, where q is exact."""
    torch.manual_seed(0)
    root = torch.randn(6, 6).tril() + 2 * torch.eye(6) if len(event) == 1 else None
    if root is not None:
        x = torch.randn(4000, 6) @ root.T + 1.0
    else:
        kernel = torch.tensor([0.25, 0.5, 0.25])
        x = torch.randn(1000, 1, 10, 10)
        x = torch.nn.functional.conv2d(x, torch.outer(kernel, kernel)[None, None]) + 0.5
    module = AutoEncoder(event, channels, GaussianCode(1.0), depth=1, floor=1e-3)
    module.initialise(x)
    cells = patches(x, module.side).transpose(0, 1).flatten(1).T.double()
    covariance = cells.T.cov(correction=0)
    pca = principal_axes(covariance, channels, 0.01)
    noise = pca.variance * torch.eye(len(covariance), dtype=torch.float64)
    model = MultivariateNormal(cells.mean(0), pca.outward @ pca.outward.T + noise)
    exact = -float(model.log_prob(cells).mean()) / len(covariance)
    with torch.no_grad():
        elbos = torch.stack([module.loss(x)[0].mean() for _ in range(8)])
        code = module.loss(x)[1].transpose(0, 1).flatten(1)
        left = (module.decode(module.encode(x)) - x).square().mean()
    assert abs(float(elbos.mean()) - exact) < 4 * float(elbos.std()) / 8**0.5 + 2e-3
    # codes have unit variance, and the decoder leaves what PCA leaves
    assert (code.var(1) - 1).abs().max() < 0.05
    if channels < len(covariance):
        torch.testing.assert_close(
            float(left), float(torch.linalg.eigvalsh(covariance)[:-channels].sum()) /
            len(covariance) + float(_shrunk(covariance, channels)), rtol=0.02, atol=0
        )  # fmt: skip
    else:
        assert left < 1e-3 * x.var()


def _shrunk(covariance, channels):
    """What the posterior mean leaves of the kept axes: sigma^4 / lambda a axis."""
    values = torch.linalg.eigvalsh(covariance).flip(0)
    sigma_2 = values[channels:].mean()
    return (sigma_2**2 / values[:channels]).sum() / len(values)


def test_networks_find_a_curve_that_no_linear_map_can():
    """One number for points on a half circle: PCA leaves 10 % of their variance."""
    torch.manual_seed(0)

    def circle(n=256):
        angle = math.pi * torch.rand(n)
        return torch.stack([angle.cos(), angle.sin()], -1) + 0.02 * torch.randn(n, 2)

    module = AutoEncoder((2,), 1, GaussianCode(0.1), width=64, blocks=2)
    x = circle(4000)
    module.initialise(x)

    def left():
        with torch.no_grad():
            return float((module.decode(module.encode(x)) - x).square().sum(1).mean())

    before = left()
    train(module, circle, 400)
    assert before > 0.05 and left() < 0.1 * before
    # sigma is what is left: of two numbers, one is noise across the curve, the other is coded
    torch.testing.assert_close(
        float(module.sigma.detach().square().sum()), left(), rtol=0.5, atol=3 * module.floor**2
    )


def test_gaussian_code():
    torch.manual_seed(0)
    raw = torch.randn(3, 4, 2, dtype=torch.float64)
    code = GaussianCode(0.5)
    draws = torch.stack([code(raw)[0] for _ in range(4_000)])
    torch.testing.assert_close(draws.mean(0), raw[:, :2], rtol=0, atol=0.3)
    torch.testing.assert_close(draws.std(0), raw[:, 2:].exp(), rtol=0.03, atol=0)
    q = torch.distributions.Normal(raw[:, :2], raw[:, 2:].exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(code(raw)[2], 0.5 * kl.flatten(1).sum(1))


def test_codebook_is_nearest_and_its_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    code = Codebook(2, 8, commitment=0.3).double()
    with torch.no_grad():
        code.map.copy_(0.1 * torch.randn(2, 2))
    raw = torch.randn(4, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    read, unread, loss = code(raw)
    cells = raw.detach().movedim(1, -1)
    near = torch.cdist(cells.reshape(-1, 2), code.words.detach()).argmin(1)
    assert torch.equal(code.index(raw).flatten(), near)
    words = code.words.detach()[near].view(4, 3, 5, 2).movedim(-1, 1)
    torch.testing.assert_close(read.detach(), words)
    torch.testing.assert_close(code.read(raw.detach()).detach(), words)
    assert unread is raw
    weight = torch.randn_like(read)
    ((weight * read).sum() + loss.sum()).backward()
    torch.testing.assert_close(raw.grad, weight + 2 * 0.3 * (raw.detach() - words))
    by_word = 2 * (words - raw.detach()).movedim(1, -1).reshape(-1, 2)
    torch.testing.assert_close(code.map.grad, code.base[near].T @ by_word)


def test_codebook_does_not_collapse():
    """Eight words for eight clusters that drift away from where the words were taken."""
    torch.manual_seed(0)
    centres = torch.randn(8, 4) * 3

    def clusters(n=256):
        return centres[torch.randint(8, (n,))] + 0.1 * torch.randn(n, 4)

    module = AutoEncoder((4,), 3, Codebook(3, 32), width=32)
    module.initialise(clusters(2000))
    with torch.no_grad():
        module.code.base.add_(1.0).mul_(0.5)
    train(module, clusters, 400)
    x = clusters(4000)
    words = module.code.index(module.encode(x))
    share = torch.bincount(words, minlength=32) / len(x)
    perplexity = float((-torch.special.xlogy(share, share).sum()).exp())
    assert perplexity > 7.5
    left = (module.decode(module.encode(x)) - x).square().mean()
    assert left < 2 * 0.01  # the clusters' own variance, which words can't say
