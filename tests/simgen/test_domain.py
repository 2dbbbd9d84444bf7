"""Domains: exact in bounds, by draws inside of them, in whatever order columns come."""

import warnings

import pytest
import torch
from torch.distributions import Exponential, Independent, Normal, Uniform

import simgen
from simgen.domain import check_domain, check_trained

BOX = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(-1.0, 1.0))


def trained(*names, prior=BOX):
    """What a likelihood tells of its training: its prior, and its columns of the unknowns."""
    return lambda rows: (prior, torch.cat([rows[k] for k in names], -1))


WIDER = [
    (simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(-1.0, 1.0 + 1e-6)), r"b in \(-1, 1\)"),
    (simgen.Prior(a=Exponential(50.0), b=Uniform(-1.0, 1.0)), r"a in \(0, inf\)"),  # by bounds
    (simgen.Prior(a=Normal(0.5, 0.01), b=Uniform(-1.0, 1.0)), r"a in \(-inf, inf\)"),
]


@pytest.mark.parametrize(("asked", "where"), WIDER)
def test_a_wider_prior_is_refused_by_its_bounds(asked, where):
    with pytest.raises(ValueError, match=f"wider than the posterior: it has {where}"):
        check_domain(asked, BOX, "the posterior")
    with pytest.raises(ValueError, match=f"surrogate was trained with: it has {where}"):
        check_trained(trained("theta"), {"theta": asked})


def test_a_narrower_prior_is_none_of_its_business():
    inner = simgen.Prior(a=Uniform(0.2, 1.0), b=Uniform(-0.5, 1.0))
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_domain(inner, BOX, "the posterior")
        check_trained(trained("theta"), {"theta": inner})
        check_trained(lambda rows: None, {"theta": Normal(torch.zeros(2), 9.0)})
    assert torch.equal(before, torch.random.get_rng_state())


def test_bounds_travel_with_the_columns_of_several_priors():
    """The surrogate knows a of one unknown and b of another, in its own order."""
    priors = {"b": simgen.Prior(b=Uniform(-1.0, 1.0)), "a": simgen.Prior(a=Uniform(0.0, 1.0))}
    check_trained(trained("a", "b"), priors)
    with pytest.raises(ValueError, match=r"it has a in \(-1, 1\), the other \(0, 1\)"):
        check_trained(trained("b", "a"), priors)
    # a plain distribution of torch, and a conditional that is not looked at
    wide = Independent(Uniform(torch.tensor([0.0]), torch.tensor([2.0])), 1)
    later = type("Conditional", (), {"expression": "x | a"})()
    with pytest.raises(ValueError, match=r"it has a in \(0, 2\)"):
        check_trained(trained("a", "b"), priors | {"a": wide, "x": later})


def test_a_hole_inside_the_bounds_is_found_by_draws():
    class Holed(simgen.Prior):
        def log_prob(self, value):
            inner = (value[..., 0] > 0.4) & (value[..., 0] < 0.6)
            return torch.where(inner, -torch.inf, super().log_prob(value))

    holed = Holed(dict(BOX.factors))
    for check in (
        lambda: check_domain(BOX, holed, "the posterior"),
        lambda: check_trained(trained("theta", prior=holed), {"theta": BOX}),
    ):
        with pytest.raises(ValueError, match=r"(19|20|21)\.\d\d% of its draws"):
            check()


def test_the_outskirts_of_training_are_said():
    known, asked = simgen.Prior(a=Normal(0.0, 1.0)), simgen.Prior(a=Normal(0.0, 4.0))
    with pytest.warns(UserWarning, match="it extrapolates there"):
        check_trained(trained("theta", prior=known), {"theta": asked})
