"""Prior: a named torch distribution with its bijection."""

import json
import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
    VonMises,
    constraints,
)

import simgen


def example():
    return simgen.Prior(
        Omega_m=Uniform(0.1, 0.5),
        w_0=Normal(-1.0, 0.2),
        A=LogNormal(0.0, 1.0),
        labels=[r"$\Omega_m$", "$w_0$", "$A$"],
        units=["", "", "GeV"],
    )


def test_density_is_the_product_of_factors():
    prior = example()
    theta = prior.sample((100,), seed=0)
    assert theta.shape == (100, 3) and theta.dtype == torch.float32
    expected = sum(f.log_prob(theta[:, i]) for i, f in enumerate(prior.factors.values()))
    torch.testing.assert_close(prior.log_prob(theta), expected)
    outside = torch.tensor([[0.6, -1.0, 1.0], [0.3, -1.0, -1.0]])
    assert (prior.log_prob(outside) == -math.inf).all()


def test_draws_are_repeatable_and_leave_the_global_stream_alone():
    prior = example()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = prior.sample((10,), seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, prior.sample((10,), seed=1))
    assert not torch.equal(first, prior.sample((10,), seed=2))


def test_json_round_trip():
    prior = example()
    again = simgen.Prior.from_dict(json.loads(json.dumps(prior.to_dict())))
    theta = prior.sample((50,), seed=0)
    assert torch.equal(again.log_prob(theta), prior.log_prob(theta))
    assert (again.names, again.labels, again.units) == (prior.names, prior.labels, prior.units)
    assert again.bijection == prior.bijection


def test_joint_prior_keeps_names_and_bijection_only():
    joint = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    prior = simgen.Prior(joint, names=["a", "b"])
    theta = prior.sample((10,), seed=0)
    torch.testing.assert_close(prior.log_prob(theta), joint.log_prob(theta))
    stored = prior.to_dict()
    assert "factors" not in stored and len(stored["bijection"]) == 2
    with pytest.raises(ValueError, match="give prior="):
        simgen.Prior.from_dict(stored)


def test_independent_joint_becomes_factors():
    prior = simgen.Prior(Independent(Uniform(torch.zeros(3), torch.ones(3)), 1))
    assert prior.names == ("theta_0", "theta_1", "theta_2")
    assert "factors" in prior.to_dict()


def test_bijection_maps_the_prior_to_a_standard_normal():
    prior = example()
    u = prior.bijection.inv(prior.sample((20_000,), seed=0))
    assert u.mean(0).abs().max() < 4 / math.sqrt(20_000)
    assert (u.std(0) - 1).abs().max() < 4 / math.sqrt(40_000)


def test_support_is_a_torch_constraint():
    prior = example()
    assert prior.support.check(prior.sample((100,), seed=0)).all()
    box = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(-1.0, 1.0))
    assert isinstance(box.support, constraints.independent)
    assert not box.support.check(torch.tensor([0.5, 2.0]))


def test_sbi_takes_it_as_it_is():
    from sbi.utils.user_input_checks import process_prior

    prior = example()
    processed, d, numpy = process_prior(prior)
    assert d == 3 and not numpy
    assert processed.sample((4,)).shape == (4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simgen.Prior(), "at least one"),
        (lambda: simgen.Prior(k=Categorical(torch.ones(3))), "discrete"),
        (lambda: simgen.Prior(a=Normal(torch.zeros(2), 1.0)), "scalar"),
        (lambda: simgen.Prior(a=Uniform(0.0, math.inf)), "finite bounds"),
        (lambda: simgen.Prior({"not a name": Normal(0.0, 1.0)}), "identifiers"),
        (lambda: simgen.Prior(a=Normal(0.0, 1.0), units=["m", "s"]), "units must be 1"),
        (lambda: simgen.Prior(Normal(0.0, 1.0)), "event shape"),
        (lambda: example().log_prob(torch.zeros(2)), "theta must be"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_factor_is_a_distribution():
    with pytest.raises(TypeError, match="torch distribution"):
        simgen.Prior(a=(0.0, 1.0))


@pytest.mark.parametrize("joint", [False, True])
def test_an_angle_is_bounded_by_a_turn(joint):
    """Of a density that torch lets repeat itself on the whole line."""
    angle = VonMises(torch.tensor([0.5]), torch.tensor([2.0]))
    prior = (
        simgen.Prior(Independent(angle, 1), names=["phi"]) if joint else simgen.Prior(phi=angle)
    )
    assert (float(prior.low), float(prior.high)) == (-math.pi, math.pi)
    outside = torch.tensor([[4.0], [-4.0]])
    assert (prior.log_prob(outside) == -math.inf).all()
    assert simgen.Prior.from_dict(prior.to_dict()).low == prior.low
