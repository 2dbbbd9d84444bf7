"""Flow: what is learned of one variable, angles, and settings that make no sense."""

import math

import pytest
import torch

from simgen.field import Field
from simgen.models import Flow


def modes(c, n=None, x=None):
    """Two narrow modes whose weight and place follow c: draws, or log-densities at x."""
    weight, place = torch.sigmoid(c), 1 + 0.3 * torch.tanh(c)
    if x is None:
        side = torch.where(torch.rand(n) < weight, 1.0, -1.0)
        return side * place + 0.2 * torch.randn(n)
    normal = torch.distributions.Normal(0.0, 0.2)
    right = weight.log() + normal.log_prob(x - place)
    return torch.logaddexp(right, (1 - weight).log() + normal.log_prob(x + place))


def divergence(settings, conditional, steps, rate=5e-3):
    """Mean KL(exact || flow) after training on 10,000 rows, by quadrature."""
    torch.manual_seed(0)
    n = 10_000
    c = torch.randn(n) if conditional else torch.full((n,), 0.5)
    z = modes(c, n)
    given = {"context": Field((1,))} if conditional else {}
    module = Flow(**settings).build(Field((1,)), given)
    optimizer = torch.optim.Adam(module.parameters(), rate)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - i / steps)
        batch = torch.randint(n, (256,))
        optimizer.zero_grad()
        context = c[batch, None] if conditional else None
        module.loss(z[batch, None], (context, None)).mean().backward()
        optimizer.step()
    x, parts = torch.linspace(-3.5, 3.5, 701), []
    for value in [-1.0, 0.0, 1.5] if conditional else [0.5]:
        log_p = modes(torch.tensor(value), x=x)
        context = torch.full((701, 1), value) if conditional else None
        with torch.no_grad():
            log_q = module.log_prob(x[:, None], (context, None))
        parts.append(float((log_p.exp() * (log_p - log_q)).sum() * 0.01))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(
    "transform, conditional, steps",
    [
        ("auto", False, 200),
        ("auto", True, 200),
        ("spline", True, 200),
        ("monotonic", True, 200),
        ("unconstrained-monotonic", False, 120),
        ("continuous", True, 250),
    ],
)
def test_one_variable_is_more_than_a_gaussian(transform, conditional, steps):
    """0.05 nats: five times what 10,000 rows leave open, a thirtieth of a Gaussian's loss."""
    small = {"hidden": (32, 32), "transforms": None if transform == "auto" else 2}
    rate = 2e-2 if transform == "continuous" else 5e-3
    settings = {"transform": transform, **small}
    assert divergence(settings, conditional, steps, rate) < 0.05


def test_an_affine_flow_of_one_variable_is_a_gaussian():
    found = divergence({"transform": "affine", "hidden": (32, 32)}, False, 200)
    x = torch.linspace(-4, 4, 801)
    p = modes(torch.tensor(0.5), x=x).exp()
    p = p / p.sum()
    variance = float((p * x * x).sum() - (p * x).sum() ** 2)
    entropy = -float((p * modes(torch.tensor(0.5), x=x)).sum())
    best = 0.5 * math.log(2 * math.pi * math.e * variance) - entropy
    assert found == pytest.approx(best, abs=0.03)


def test_angles_named_by_the_field():
    class Named(Field):
        periodic = (1,)

    module = Flow().build(Named((2,)), {})
    assert module.angles == [1] and Flow(periodic=()).build(Named((2,)), {}).angles == []


def test_bad_settings():
    with pytest.raises(ValueError, match="transform must be one of"):
        Flow(transform="splines")
    with pytest.raises(ValueError, match="at least 1"):
        Flow(transforms=0)
    with pytest.raises(TypeError):
        Flow(hiden=(3,))
    with pytest.raises(ValueError, match="vectors and images"):
        Flow().build(Field((5, 2), "series"), {})
    with pytest.raises(ValueError, match="takes no map"):
        Flow().build(Field((2,)), {"map": Field((1, 8, 8), "image")})
    with pytest.raises(ValueError, match="indices below 2"):
        Flow(periodic=(2,)).build(Field((2,)), {})
    image = Field((1, 8, 8), "image")
    with pytest.raises(ValueError, match="of an image must be one of"):
        Flow(transform="spline").build(image, {})
    with pytest.raises(ValueError, match="are for vectors"):
        Flow(conditional_base=True).build(image, {})
    with pytest.raises(ValueError, match="is not the target's"):
        Flow().build(image, {"map": Field((1, 4, 4), "image")})
