"""Networks of time and context: the same laws for each of them, and what each promises alone."""

import pytest
import torch

from simgen.networks.attention import SelfAttention
from simgen.networks.base import build
from simgen.networks.embedding_time import SinusoidalEmbedding
from simgen.networks.film import FiLMMLP
from simgen.networks.tokens import TokenTransformer
from simgen.networks.unet import UNet

SMALL = {"widths": (8, 16, 16), "heads": 2, "steering": 16}
CASES = {
    "film": (lambda c, g: FiLMMLP(5, c, width=16, blocks=2, steering=8), (5,)),
    "tokens": (lambda c, g: TokenTransformer(5, c, width=16, layers=2, heads=2), (5,)),
    "unet-1d": (lambda c, g: UNet(2, c, g, dims=1, **SMALL), (2, 21)),
    "unet-2d": (lambda c, g: UNet(2, c, g, blocks=2, **SMALL), (2, 9, 14)),
    "unet-3d": (lambda c, g: UNet(2, c, g, dims=3, **SMALL), (2, 4, 7, 5)),
    "unet-torus": (lambda c, g: UNet(2, c, g, periodic=True, **SMALL), (2, 8, 16)),
}


def perturb(net):
    """Away from the zeros that the last layers start with."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def make(name, context=3, maps=2, n=4):
    """A network away from its start, and n rows of what it takes."""
    torch.manual_seed(0)
    factory, event = CASES[name]
    grid = torch.randn(n, maps, *event[1:]) if len(event) > 1 and maps else None
    c = torch.randn(n, context) if context else None
    return perturb(factory(context, maps)), (torch.randn(n, *event), torch.rand(n), c, grid)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("given", [False, True])
def test_laws(name, given):
    net, inputs = make(name, 3 * given, 2 * given)
    out = net(*inputs)
    assert out.shape == inputs[0].shape
    first = net(*(None if a is None else a[:1] for a in inputs))
    torch.testing.assert_close(first, out[:1], rtol=1e-4, atol=1e-5)  # rows are not coupled
    for i, a in enumerate(inputs):  # everything that goes in has a say
        if a is not None:
            changed = net(*inputs[:i], a + 1, *inputs[i + 1 :])
            assert (changed - out).abs().flatten(1).amax(1).min() > 1e-4, i
    out.square().sum().backward()
    known = {"known"} if name == "tokens" else set()  # nothing was marked as given here
    for label, p in net.named_parameters():
        assert label in known or (p.grad is not None and p.grad.abs().sum() > 0), label
    again = build(net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(*inputs), out)


@pytest.mark.parametrize("name", CASES)
def test_starts_at_zero_and_can_leave_it(name):
    torch.manual_seed(0)
    _, inputs = make(name)
    net = CASES[name][0](3, 2)
    out = net(*inputs)
    assert (out == 0).all()
    (out - inputs[0]).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ["film", "tokens", "unet-2d"])
def test_bfloat16(name):
    net, inputs = make(name)
    exact = net(*inputs).detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(*inputs)
    assert (out.float() - exact).square().mean() < 3e-3 * exact.square().mean()
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["film", "tokens", "unet-2d"])
def test_float64(name):
    net, inputs = make(name)
    exact = net(*inputs)
    double = net.double()(*(None if a is None else a.double() for a in inputs))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), exact, rtol=1e-3, atol=1e-4)


def test_time_embedding_separates_near_times_and_is_smooth():
    embedding = SinusoidalEmbedding(64, low=0.5, high=64.0)
    t = torch.linspace(0, 1, 101)
    e = embedding(t)
    distance = torch.cdist(e, e)
    apart = distance[~torch.eye(101, dtype=torch.bool)].min()
    assert apart > 0.1 * distance.max()  # a hundredth of the range is seen
    near = (embedding(t + 1e-4) - e).norm(dim=-1) / 1e-4
    speed = embedding.frequencies.square().sum().sqrt()  # |de/dt|, the same at every time
    torch.testing.assert_close(near, speed.expand(101), rtol=2e-2, atol=0)
    with pytest.raises(ValueError, match="even"):
        SinusoidalEmbedding(3)


def test_film_broadcasts_what_is_shared():
    net, (x, _, c, _) = make("film")
    draws = torch.randn(6, *x.shape)
    time = torch.tensor(0.3)
    each = net(draws.reshape(-1, 5), time.expand(24), c.repeat(6, 1)).view_as(draws)
    torch.testing.assert_close(net(draws, time, c), each, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spatial", [(1,), (2,), (3,), (17,), (1, 1), (5, 1), (31, 33), (3, 5, 7)])
@pytest.mark.parametrize("periodic", [False, True])
def test_unet_takes_any_size(spatial, periodic):
    torch.manual_seed(0)
    net = perturb(UNet(1, dims=len(spatial), periodic=periodic, **SMALL))
    x = torch.randn(2, 1, *spatial)
    out = net(x, torch.rand(2))
    assert out.shape == x.shape and out.isfinite().all()


def test_periodic_unet_commutes_with_shifts_and_sees_across_the_edge():
    net, (x, t, c, m) = make("unet-torus")
    out = net(x, t, c, m)
    shift = {"shifts": (4, -8), "dims": (2, 3)}  # whole cells of the coarsest grid
    torch.testing.assert_close(
        net(x.roll(**shift), t, c, m.roll(**shift)), out.roll(**shift), rtol=1e-4, atol=1e-4
    )
    torch.manual_seed(0)
    flat = perturb(UNet(2, 3, 2, **SMALL))
    moved = flat(x.roll(**shift), t, c, m.roll(**shift))
    assert (moved - flat(x, t, c, m).roll(**shift)).abs().max() > 1e-2


def test_unet_sees_all_of_the_grid():
    torch.manual_seed(0)
    net = perturb(UNet(1, **SMALL))
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    net(x, torch.rand(1))[0, 0, 0, 0].backward()
    assert (x.grad[0, 0] != 0).float().mean() > 0.99


def test_unet_dimensions():
    with pytest.raises(ValueError, match="dims must be"):
        UNet(1, dims=4)


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    net = perturb(SelfAttention(6, heads=2)).double()
    h = torch.randn(3, 5, 6, dtype=torch.float64)
    mask = torch.rand(3, 5, 5) < 0.7
    mask |= torch.eye(5, dtype=torch.bool)
    heads = []
    for q, k, v in zip(*(part.split(3, -1) for part in net.qkv(h).chunk(3, -1))):
        weights = (q @ k.transpose(1, 2) / 3**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        heads.append(weights @ v)
    torch.testing.assert_close(net(h, mask), net.out(torch.cat(heads, -1)))
    with pytest.raises(ValueError, match="divide"):
        SelfAttention(6, heads=4)


def test_tokens_given_are_zero_and_known():
    net, (x, t, c, _) = make("tokens")
    given = torch.tensor([[True, True, False, False, False]]).expand(4, -1)
    out = net(x, t, c, given=given)
    assert (out[:, :2] == 0).all() and (out[:, 2:] != 0).all()
    moved = x.clone()
    moved[:, 0] += 1.0
    assert ((net(moved, t, c, given=given) - out)[:, 2:].abs() > 1e-4).any(-1).all()
    other = net(x, t, c, given=~given)  # the same numbers, read as noise in place of data
    free = net(x, t, c)
    assert (other[:, :2] - free[:, :2]).abs().min() > 1e-5
    net(x, t, c, given=given).sum().backward()
    assert net.known.grad[:2].abs().sum() > 0 and (net.known.grad[2:] == 0).all()


def test_tokens_missing_are_seen_by_nobody():
    net, (x, t, c, _) = make("tokens")
    missing = torch.tensor([[False, True, False, False, True]]).expand(4, -1)
    out = net(x, t, c, missing=missing)
    assert (out[:, [1, 4]] == 0).all()
    other = torch.where(missing, torch.randn_like(x), x)
    torch.testing.assert_close(net(other, t, c, missing=missing), out, rtol=1e-5, atol=1e-6)
    # the same as a network that never had these variables
    rest = [0, 2, 3]
    small = TokenTransformer(3, 3, width=16, layers=2, heads=2)
    state = net.state_dict()
    for name in ("identity", "value", "known", "last", "bias"):
        state[name] = state[name][rest]
    small.load_state_dict(state)
    torch.testing.assert_close(small(x[:, rest], t, c), out[:, rest], rtol=1e-4, atol=1e-5)
    assert net(x, t, c, missing=torch.ones_like(missing)).isfinite().all()


def test_tokens_learn_every_conditional_of_a_gaussian():
    """One network, random masks: E[x_0 | x_t, given] of correlated normals in closed form."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.0], [0.3, 0.0, 1.0]])
    root = torch.linalg.cholesky(covariance)
    net = TokenTransformer(3, width=32, layers=2, heads=2, steering=32)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    steps = 500

    def batch(n):
        x, sigma = torch.randn(n, 3) @ root.T, 0.8
        given = torch.rand(n, 3) < torch.rand(n, 1)
        return x, torch.where(given, x, x + sigma * torch.randn(n, 3)), given, sigma

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1, step / 50) * (1 - step / steps)
        x, x_t, given, sigma = batch(256)
        error = (net(x_t, torch.zeros(256), given=given) - x).square()
        torch.where(given, 0, error).sum(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    x, x_t, given, sigma = batch(1000)
    noise = torch.diag_embed(torch.where(given, 0.0, sigma**2))
    mean = (covariance @ torch.linalg.solve(covariance + noise, x_t[..., None]))[..., 0]
    with torch.no_grad():
        error = torch.where(given, 0, net(x_t, torch.zeros(1000), given=given) - mean)
    assert error.square().sum() < 0.01 * torch.where(given, 0, mean).square().sum()
