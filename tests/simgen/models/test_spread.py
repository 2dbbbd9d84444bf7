"""The spread layer: the likeliest log-linear deviation, where it is worth it, and else nothing."""

import math

import pytest
import torch

from simgen import Field, Flow
from simgen.models.layer import Part
from simgen.models.spread import Spread

N = 20_000


def rows(slope, seed=0):
    """z (n, 2): a log-linear deviation of the first column, one deviation of the second."""
    generator = torch.Generator().manual_seed(seed)
    c, e = torch.randn(N, 3, generator=generator), torch.randn(N, 2, generator=generator)
    s = -1 + slope * c[:, 0]
    z = torch.stack([1 + 2 * c[:, 1] + s.exp() * e[:, 0], c[:, 2] + 0.5 * e[:, 1]], -1)
    return c, z, s


@pytest.mark.parametrize("angles", [0, 1])
def test_the_start_is_the_likeliest(angles):
    c, z, s = rows(1.0)
    layer = Spread(2, 3)
    whole = layer
    if angles:
        z = torch.cat([z[:, :1], torch.rand(N, 1), z[:, 1:]], 1)
        whole = Part(layer, [0, 2], 3)
    whole.initialise(z, (c, None))
    assert layer.varies.tolist() == [1, 0]
    # standard errors: of log-scales sqrt(p / 2 n), of a mean of its deviation over sqrt(n)
    wanted = torch.tensor([1.0, 0.0, 0.0, -1.0])
    assert (layer.log_scale[:, 0] - wanted).abs().max() < 4 / math.sqrt(2 * 8_192) + 0.03
    assert (layer.mean[:, 0] - torch.tensor([0.0, 2.0, 0.0, 1.0])).abs().max() < 0.01
    y, ladj = whole.call_and_ladj(z, (c, None))
    back = whole.inverse(y[None], (c, None))[0]
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-4)
    assert (ladj + s).abs().quantile(0.99) < 0.15 and abs(float(y[:, 0].std()) - 1) < 0.05
    assert torch.equal(y[:, 1:], z[:, 1:])  # the others are as they were


def test_the_determinant_is_that_of_the_map():
    c, z, _ = rows(1.0)
    layer = Spread(2, 3)
    layer.initialise(z, (c, None))
    for i in range(5):
        given = (c[i : i + 1], None)
        jacobian = torch.autograd.functional.jacobian(
            lambda x, given=given: layer.call_and_ladj(x[None], given)[0][0], z[i]
        )
        torch.testing.assert_close(
            layer.call_and_ladj(z[i : i + 1], given)[1][0], jacobian.det().log()
        )


@pytest.mark.parametrize("case", ["one deviation", "a little", "few rows"])
def test_where_it_is_not_worth_it_nothing_changes(case):
    c, z, _ = rows({"one deviation": 0.0, "a little": 0.3, "few rows": 2.0}[case])
    if case == "few rows":
        c, z = c[:20], z[:20]
    layer = Spread(2, 3)
    layer.initialise(z, (c, None))
    y, ladj = layer.call_and_ladj(z, (c, None))
    assert torch.equal(y, z) and not ladj.any()


def test_far_contexts_have_no_wider_scale_than_those_of_training():
    c, z, s = rows(1.0)
    layer = Spread(2, 3)
    layer.initialise(z, (c, None))
    _, ladj = layer.call_and_ladj(torch.zeros(1, 2), (torch.full((1, 3), 1e3), None))
    assert abs(float(ladj + s.max())) < 0.5


def test_a_flow_has_it_where_there_is_a_context():
    target = Field((2,))
    first = [type(v).__name__ for v in Flow().build(target, {"context": Field((3,))}).layers][:2]
    assert first == ["Spread", "LinearGaussian"]
    assert not any(isinstance(v, Spread) for v in Flow().build(target, {}).layers)
    plain = Flow(linear=False).build(target, {"context": Field((3,))})
    assert not any(isinstance(v, Spread) for v in plain.layers)
