"""Flows as networks: every transform through inverse, Jacobian, normalisation, gradients, batches,
state, and training under vmap.
"""

import copy
import math

import pytest
import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from simgen.field import Field
from simgen.models import Flow

KINDS = [
    "spline",
    "affine",
    "coupling",
    "spline-coupling",
    "monotonic",
    "unconstrained-monotonic",
    "continuous",
]
VECTORS = [(kind, d, c, {}) for kind in KINDS for d, c in [(1, 0), (1, 3), (2, 3), (5, 0)]]
VECTORS += [
    ("spline-coupling", 2, 3, {"conditional_base": True}),
    ("spline", 1, 0, {"periodic": (0,)}),
    ("spline-coupling", 2, 3, {"periodic": (1,)}),
    ("affine", 3, 3, {"periodic": (0, 2), "conditional_base": True}),
    ("monotonic", 2, 0, {"periodic": (0, 1)}),
    ("continuous", 1, 3, {"periodic": (0,)}),
    ("continuous", 3, 3, {"periodic": (2,)}),
]
IMAGES = [
    ("coupling", (1, 8, 8), 0, 0, {}),
    ("coupling", (2, 6, 4), 3, 1, {}),
    ("spline-coupling", (1, 8, 6), 3, 0, {"linear": False}),
    ("spline-coupling", (2, 16), 0, 2, {}),
    ("coupling", (1, 6, 2, 4), 3, 1, {}),
]


def perturbed(module, seed=0):
    """Away from the identity, in double precision."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module.eval()


def build_vector(kind, features, context, settings, seed=0):
    torch.manual_seed(seed)
    given = {"context": Field((context,))} if context else {}
    flow = Flow(transform=kind, transforms=2, hidden=(16, 16), **settings)
    return perturbed(flow.build(Field((features,)), given), seed)


def build_image(kind, shape, context, maps, settings, seed=0):
    torch.manual_seed(seed)
    given = {"context": Field((context,))} if context else {}
    if maps:
        given["map"] = Field((maps, *shape[1:]), "image" if len(shape) > 2 else "series")
    flow = Flow(transform=kind, transforms=4, hidden=(8, 8), bins=4, **settings)
    target = Field(shape, "image") if len(shape) > 2 else _Line(shape)
    return perturbed(flow.build(target, given), seed)


class _Line:
    """An image with one axis."""

    layout = "image"

    def __init__(self, shape):
        self.shape, self.size = shape, math.prod(shape)


def rows(module, n, seed=1, dtype=torch.float64):
    """Targets and what is given; angles in [-pi, pi)."""
    generator = torch.Generator().manual_seed(seed)
    layer = [m for m in module.modules() if hasattr(m, "maps")]
    maps = layer[0].maps if layer else 0
    z = 1.5 * torch.randn(n, *module.event_shape, generator=generator, dtype=dtype)
    z = torch.where(module.angle, torch.remainder(z, 2 * math.pi) - math.pi, z)
    c = torch.randn(n, 3, generator=generator, dtype=dtype)
    grid = torch.randn(n, maps, *module.event_shape[1:], generator=generator, dtype=dtype)
    return z, (c, grid if maps else None)


CASES = [
    pytest.param(build_vector, v, id=f"{v[0]}-{v[1]}-{v[2]}-{'-'.join(v[3])}") for v in VECTORS
]
CASES += [pytest.param(build_image, v, id=f"{v[0]}-{v[1]}") for v in IMAGES]


def given_of(case, given):
    """Nothing is given to those that take nothing."""
    return (given[0] if case[2] else None, given[1])


def to_base(module, z, given):
    for layer in module.layers:
        z, _ = layer.call_and_ladj(z, given)
    return z


def turned(difference, module):
    """Differences of angles are those on the circle."""
    circle = torch.remainder(difference + math.pi, 2 * math.pi) - math.pi
    return torch.where(module.angle, circle, difference)


@pytest.mark.parametrize("build, case", CASES)
def test_inverse_in_both_directions(build, case):
    module = build(*case).double()
    z, given = rows(module, 6)
    given = given_of(case, given)
    with torch.no_grad():
        y = to_base(module, z, given)
        x = y[None]
        for layer in reversed(module.layers):
            x = layer.inverse(x, given)
        assert turned(x[0] - z, module).abs().max() < 1e-4
        noise = torch.randn(3, 6, *module.noise_shape, dtype=torch.float64)
        draws = module.transport(noise, given)
        for draw, epsilon in zip(draws, noise):
            back = to_base(module, draw, given)
            angles = 2 * math.pi * torch.special.ndtr(epsilon) - math.pi
            wanted = torch.where(module.angle, angles, epsilon)
            assert turned(back - wanted, module).abs().max() < 1e-4


@pytest.mark.parametrize("build, case", CASES)
def test_density_is_the_jacobian_of_the_map(build, case):
    module = build(*case).double()
    z, given = rows(module, 3)
    given = given_of(case, given)
    for i in range(3):
        one = tuple(None if g is None else g[i : i + 1] for g in given)
        jacobian = torch.autograd.functional.jacobian(
            lambda v, one=one: to_base(module, v[None], one).flatten(), z[i]
        ).flatten(1)
        with torch.no_grad():
            y = to_base(module, z[i : i + 1], one)
            log_base = torch.where(
                module.angle, torch.tensor(0.0), -0.5 * y.square()
            ).sum() - 0.5 * math.log(2 * math.pi) * (y.numel() + int(module.angle.sum()))
            found = module.log_prob(z[i : i + 1], one)
        wanted = log_base + jacobian.slogdet()[1]
        torch.testing.assert_close(found[0], wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("build, case", CASES)
def test_draws_have_the_density(build, case):
    """log q(z) = log N(e) - log |det dz/de| for z = transport(e), by its own derivatives."""
    module = build(*case).double()
    _, given = rows(module, 1)
    given = given_of(case, given)
    noise = torch.randn(module.noise_shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: module.transport(e[None, None], given).flatten(), noise
    ).view(noise.numel(), -1)
    with torch.no_grad():
        z = module.transport(noise[None, None], given)[0]
        found = module.log_prob(z, given)[0]
    normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum()
    torch.testing.assert_close(found, normal - jacobian.slogdet()[1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("build, case", [c for c in CASES if c.values[1][1] in (1, 2)])
def test_density_integrates_to_one(build, case):
    module = build(*case)
    axes = [
        torch.arange(-math.pi, math.pi, math.pi / 150)
        if angle
        else torch.linspace(-9, 9, 1801 if len(module.angle) == 1 else 151)
        for angle in module.angle.tolist()
    ]
    grid = torch.cartesian_prod(*axes).view(-1, len(axes))
    c = torch.full((len(grid), 3), 0.5) if case[2] else None
    with torch.no_grad():
        density = module.log_prob(grid, (c, None)).exp()
    cell = math.prod(float(a[1] - a[0]) for a in axes)
    assert abs(float(density.sum()) * cell - 1) < 5e-3


@pytest.mark.parametrize("build, case", CASES)
def test_gradients_reach_every_parameter(build, case):
    module = build(*case).train()
    z, given = rows(module, 64, dtype=torch.float32)
    module.loss(z, given_of(case, given)).mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("build, case", CASES)
def test_a_row_does_not_see_its_batch(build, case):
    module = build(*case).double()
    z, given = rows(module, 5)
    given = given_of(case, given)
    first = tuple(None if g is None else g[:1] for g in given)
    noise = torch.randn(2, 5, *module.noise_shape, dtype=torch.float64)
    with torch.no_grad():
        for function in (module.log_prob, module.loss):
            alone, whole = function(z[:1], first), function(z, given)[:1]
            torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-9)
        alone, whole = module.transport(noise[:1, :1], first), module.transport(noise, given)
        torch.testing.assert_close(alone, whole[:1, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build, case", CASES)
def test_state_is_all_there_is(build, case):
    module, other = build(*case), build(*case, seed=5)
    z, given = rows(module, 4, dtype=torch.float32)
    given = given_of(case, given)
    module.initialise(
        *rows(module, 300, dtype=torch.float32)[:1],
        given_of(case, rows(module, 300, dtype=torch.float32)[1]),
    )
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    noise = torch.randn(2, 4, *module.noise_shape)
    with torch.no_grad():
        assert torch.equal(module.log_prob(z, given), other.log_prob(z, given))
        assert torch.equal(module.transport(noise, given), other.transport(noise, given))


@pytest.mark.parametrize("build, case", CASES)
def test_far_out_rows_are_finite(build, case):
    module = build(*case)
    z, given = rows(module, 8, dtype=torch.float32)
    given = given_of(case, given)
    z = torch.where(module.angle, z, 30 * z.sign())
    log_q = module.log_prob(z.requires_grad_(), given)
    assert log_q.isfinite().all() and torch.autograd.grad(log_q.sum(), z)[0].isfinite().all()
    noise = 6 * torch.randn(2, 8, *module.noise_shape).sign()
    assert module.transport(noise, given).isfinite().all()


STACKED = [
    pytest.param(build_vector, v, id=f"{v[0]}-{v[1]}")
    for v in [(kind, 2, 3, {}) for kind in KINDS] + [("spline-coupling", 3, 3, {"periodic": (1,)})]
] + [pytest.param(build_image, IMAGES[1], id="image")]


@pytest.mark.parametrize("build, case", STACKED)
def test_members_train_together_as_they_do_alone(build, case):
    members = [build(*case, seed=seed).train() for seed in range(3)]
    z, given = rows(members[0], 9, dtype=torch.float32)

    class Loss(torch.nn.Module):
        def __init__(self, member):
            super().__init__()
            self.member = member

        def forward(self):
            return self.member.loss(z, given).sum()

    stack, buffers = stack_module_state([Loss(m) for m in members])

    def loss(parameters, buffers):
        return functional_call(Loss(members[0]), (parameters, buffers), ())

    together, values = vmap(grad_and_value(loss), randomness="different")(stack, buffers)
    for i, member in enumerate(members):
        value = member.loss(z, given).sum()
        torch.testing.assert_close(values[i], value.detach(), rtol=1e-4, atol=1e-3)
        value.backward()
        for name, parameter in member.named_parameters():
            mapped = together[f"member.{name}"][i]
            torch.testing.assert_close(mapped, parameter.grad, rtol=1e-3, atol=1e-3)


def test_probes_of_members_differ():
    torch.manual_seed(0)
    module = perturbed(Flow("continuous", hidden=(8,), linear=False).build(Field((20,)), {}))
    parameters, buffers = stack_module_state([module, copy.deepcopy(module)])
    z = torch.randn(4, 20)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.member = module

        def forward(self):
            return self.member.loss(z, (None, None))

    def loss(parameters, buffers):
        named = [{f"member.{k}": v for k, v in part.items()} for part in (parameters, buffers)]
        return functional_call(Loss(), tuple(named), ())

    with torch.no_grad():
        losses = vmap(loss, randomness="different")(parameters, buffers)
    assert (losses[0] != losses[1]).all()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("kind", "features", "context", "settings"), VECTORS)
def test_what_many_share_is_given_once(kind, features, context, settings, grad):
    """Row i of s n values is given row i mod n."""
    module = build_vector(kind, features, context, settings).double()
    torch.manual_seed(1)
    z = torch.randn(5 * 4, features, dtype=torch.float64)
    c = torch.randn(4, context, dtype=torch.float64) if context else None
    with torch.set_grad_enabled(grad):
        once = module.log_prob(z, (c, None))
        each = module.log_prob(z, (c if c is None else c.repeat(5, 1), None))
        torch.testing.assert_close(once, each, atol=1e-9, rtol=1e-9)
        drawn = module.distribution((c, None))
        if context:
            assert torch.equal(drawn.log_prob(z.view(5, 4, features)).flatten(), once)
    if grad and kind != "continuous":
        first, second = (
            torch.autograd.grad(v.sum(), list(module.parameters()), allow_unused=True)
            for v in (once, each)
        )
        for a, b in zip(first, second):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
