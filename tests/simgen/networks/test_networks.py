"""Networks: shapes, symmetries, masks, gradients, configurations."""

import pytest
import torch

import simgen
from simgen.networks import (
    MLP,
    ConvEncoder,
    ResMLP,
    SeriesEncoder,
    SetEncoder,
    VectorEncoder,
    build,
)
from simgen.networks.vectors import still_depends

CASES = [
    (lambda: MLP(3, 5, (8,)), (4, 3)),
    (lambda: ResMLP(3, 5, width=8, blocks=2), (4, 3)),
    (lambda: SetEncoder(3, 5, width=8), (4, 6, 3)),  # and 3 means, 3 variances, a number
    (lambda: SeriesEncoder(3, 5, width=8), (4, 20, 3)),
    (lambda: ConvEncoder(2, 5, width=4, depth=2), (4, 2, 12, 20)),
]


@pytest.mark.parametrize(("make", "shape"), CASES, ids=["mlp", "res", "set", "series", "conv"])
def test_laws(make, shape):
    torch.manual_seed(0)
    net, x = make(), torch.randn(shape)
    with torch.no_grad():  # away from where it starts, which may be zero
        for p in net.parameters():
            p.add_(0.01 * torch.randn_like(p))
    out = net(x)
    assert out.shape == (4, 12 if isinstance(net, SetEncoder) else 5)
    torch.testing.assert_close(net(x[:1]), out[:1])  # nothing couples across the batch
    out.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    again = build(net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), out)


def test_a_set_has_no_order_and_padding_counts_for_nothing():
    torch.manual_seed(0)
    net, x = SetEncoder(3, 5), torch.randn(4, 6, 3)
    out = net(x)
    torch.testing.assert_close(net(x[:, torch.randperm(6)]), out, rtol=1e-4, atol=1e-5)
    padded = torch.cat([x, torch.full((4, 3, 3), 9.0)], 1)
    mask = torch.arange(9).expand(4, 9) < 6
    torch.testing.assert_close(net(padded, mask), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", ["one", "many"])
def test_set_encoder_starts_with_the_best_linear_estimate(sizes):
    """Of sets around a mean of their own: variances within and between, and the posterior mean."""
    torch.manual_seed(0)
    n, between, within = 2_000, torch.tensor([0.5, 2.0]), torch.tensor([3.0, 1.0])
    theta = 1.5 + between * torch.randn(n, 2)
    x = theta[:, None] + within * torch.randn(n, 40, 2)
    length = torch.randint(1, 41, (n, 1)) if sizes == "many" else torch.full((n, 1), 40)
    mask = torch.arange(40) < length
    net = SetEncoder(2, 4)
    net.initialise(x, torch.zeros(n, 1), mask if sizes == "many" else None)
    # four standard errors of variances and of a mean, by as many rows
    assert ((net.log_scale[:2].exp() / between) ** 2 - 1).abs().max() < 4 * (2 / n) ** 0.5 * 2
    assert (net.kappa[:2] / (within / between) ** 2 - 1).abs().max() < 0.25
    mean, count = net._pool(x, mask)
    s = net.shrunk(mean, count)[:, :2].detach()
    wanted = length / (length + (within / between) ** 2) * (mean[:, :2].detach() - 1.5) / between
    assert (s - wanted).square().mean().sqrt() < 0.1
    assert torch.allclose(net(x, mask)[:5], net(x[:5], mask[:5]), atol=1e-4)


def test_a_set_encoder_that_nothing_tells_of_stays_finite():
    """Sets that do not differ, constant elements, sets of one element, empty ones."""
    torch.manual_seed(0)
    for x, mask in (
        (torch.randn(500, 100, 2), None),
        (torch.ones(500, 100, 2), None),
        (torch.randn(500, 1, 2), None),
        (torch.randn(500, 1, 2), torch.rand(500, 1) < 0.5),
        (torch.randn(500, 3, 2), torch.arange(3) < torch.randint(0, 4, (500, 1))),
    ):
        net = SetEncoder(2, 4)
        net.initialise(x, torch.zeros(500, 1), mask)
        out = net(x, mask)
        assert out.isfinite().all() and out.abs().max() < 50


def common_mode(n=5000):
    """A common mode a thousand times the signal, which lies in two directions."""
    torch.manual_seed(0)
    x = torch.randn(n, 1) * 100 + 0.1 * torch.randn(n, 6)
    u = torch.stack([x[:, 1] - x[:, 2], x[:, 3] + 2 * x[:, 4] - 3 * x[:, 5]], -1)
    return x, u + 0.01 * torch.randn(n, 2)


def test_canonical_directions_are_found_and_suffice():
    x, u = common_mode()
    net = VectorEncoder(6)
    net.initialise(x, u)
    assert not net.keep and net.weight.shape == (6, 2)
    s = net(x).detach()[:, :2].double()
    fit = s @ torch.linalg.lstsq(s, u.double() - u.double().mean(0)).solution
    for i in range(2):
        assert torch.corrcoef(torch.stack([fit[:, i], u[:, i].double()]))[0, 1] > 0.99
    again = build(net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))


def test_x_is_kept_where_its_spread_is_informative():
    torch.manual_seed(0)
    u = torch.randn(5000, 1)
    scale = torch.exp(0.3 * u)
    net = VectorEncoder(4)
    net.initialise(torch.randn(5000, 4) * scale, u)
    assert net.keep
    net.initialise(torch.cat([u + torch.randn(5000, 1), torch.randn(5000, 3)], -1), u)
    assert not net.keep


def test_x_is_kept_where_it_shapes_a_narrow_line():
    """A width that moves no moment of a target much: a line on a background far wider than it."""
    torch.manual_seed(0)
    width = torch.rand(20_000, 1) * 0.5 + 0.1
    line = torch.rand(20_000, 1) < 0.5
    u = torch.where(line, width * torch.randn(20_000, 1), 8 * torch.rand(20_000, 1) - 4)
    x = torch.cat([width, u + torch.randn(20_000, 1)], -1)
    net = VectorEncoder(2)
    net.initialise(x, u)
    assert net.keep
    net.initialise(torch.cat([torch.rand(20_000, 1), x[:, 1:]], -1), u)
    assert not net.keep


def test_what_does_not_depend_is_found_not_to():
    """The test's size: of 200 independent pairs with heavy tails, none or one is called wrong."""
    generator = torch.Generator().manual_seed(0)
    found = 0
    for i in range(200):
        q, d = 1 + i % 7, 1 + i % 3
        rest = torch.randn(2_000, q, generator=generator).double()
        u = torch.randn(2_000, d, generator=generator).double()
        u = u / torch.rand(2_000, 1, generator=generator).double().sqrt()
        found += still_depends(rest, u)
    assert found <= 1


def test_parameters_are_never_left_out(tmp_path):
    """A surrogate is told every parameter, also one of which no test sees an effect."""
    theta = torch.rand(300, 2, dtype=torch.float64)
    x = theta[:, :1] + 0.1 * torch.randn(300, 1, dtype=torch.float64)
    dataset = simgen.Dataset.create(tmp_path / "a", theta, x)
    fitted = simgen.fit("x | theta", dataset, max_epochs=1, progress=False)
    encoder = fitted.pipeline.heads[0].embeds("theta")
    assert encoder.keep
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    assert simgen.load(path).pipeline.heads[0].embeds("theta").whole


def test_unknown_network():
    with pytest.raises(ValueError, match="there are"):
        build({"class": "Nothing"})
