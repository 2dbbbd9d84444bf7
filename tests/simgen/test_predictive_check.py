"""The predictive check against conjugate Gaussians, and shares at edges against uniform laws."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import HalfNormal, Normal, Uniform

import simgen
from simgen.predictive_check import edge_mass, moments, posterior_predictive


class Gaussian:
    """theta ~ N(0, 1), x ~ N(theta, sd^2) eight times: as a simulator and as its posterior."""

    names, given, expression = ("mu",), ("x",), "theta | x"
    prior = simgen.Prior(mu=Normal(0.0, 1.0))

    def __init__(self, sd=1.0):
        self.sd = sd
        self.fields = {"x": simgen.Field((8,))}

    def __call__(self, values, seed=None):
        if seed is None:  # the posterior of eight draws
            x = torch.as_tensor(values)
            return Posterior(x.sum() / 9, 1 / 3)
        rng = np.random.default_rng(seed)
        return {"x": values + self.sd * rng.standard_normal((len(values), 8))}


class Posterior(Normal):
    def sample(self, shape=(), seed=0):
        generator = torch.Generator().manual_seed(seed)
        return self.loc + self.scale * torch.randn(*shape, 1, generator=generator)


def test_p_values_of_the_conjugate_model():
    x = np.zeros(8)
    x[0] = 2.5
    q = posterior_predictive(Gaussian(), x, Gaussian(), n=20_000)
    # predictive law of a new x_0: N(mean, 1 + 1 / 9)
    z = (2.5 - 2.5 / 9) / math.sqrt(1 + 1 / 9)
    wanted = math.erfc(z / math.sqrt(2))
    assert abs(q.p_values["x_0"] - wanted) < 4 * math.sqrt(2 * wanted / 20_000)
    assert q.smallest == pytest.approx(8 * min(q.p_values.values()))
    assert q.edge == {} and q.draws == 20_000


def test_another_noise_is_seen_by_a_summary_of_it():
    rng = np.random.default_rng(0)
    x = 4 * rng.standard_normal(8)
    statistics = {"array": lambda x: x.std(1), "named": lambda x: {"sd": x.std(1)}}
    for function in statistics.values():
        q = posterior_predictive(Gaussian(), x, Gaussian(), function)
        assert q.smallest == pytest.approx(2 / 201)
        q = posterior_predictive(Gaussian(), x, Gaussian(4.0), function)
        assert q.smallest > 0.05


def test_mass_at_the_edges():
    prior = simgen.Prior(a=Uniform(-1.0, 3.0), b=HalfNormal(1.0), c=Normal(0.0, 1.0))
    draws = np.asarray(prior.sample((100_000,), seed=1))
    found = edge_mass(draws, ["a", "b", "c"], prior)
    assert set(found) == {"a", "b"}
    assert all(abs(share - 0.01) < 4 * math.sqrt(0.01 / 1e5) for share in found["a"])
    # a half-normal ends at its 99 % quantile, 2.5758
    wanted = math.erf(0.01 * 2.5758 / math.sqrt(2))
    assert found["b"][0] == pytest.approx(wanted, rel=0.15)
    assert found["b"][1] == 0
    assert edge_mass(np.full((10, 1), 2.99), ["a"], prior) == {"a": (0.0, 1.0)}
    assert edge_mass(draws, ["a"], None) == {}


@pytest.mark.parametrize(
    "layout, shape", [("set", (5, 2)), ("series", (5, 2)), ("image", (2, 3, 4))]
)
def test_moments_by_layout(layout, shape):
    x = np.random.default_rng(0).standard_normal((6, *shape))
    found = moments(x, simgen.Field(shape, layout, names=("u", "v")))
    column = x[..., 1].reshape(6, -1) if layout != "image" else x[:, 1].reshape(6, -1)
    assert len(found) == 8
    for kind in ("mean", "std", "min", "max"):
        name = {"mean": "mean", "std": "sd", "min": "lowest", "max": "highest"}[kind]
        np.testing.assert_allclose(found[f"{name} of v"], getattr(column, kind)(1))


def test_refusals():
    class Other(Gaussian):
        names = ("nu",)

    with pytest.raises(ValueError, match="lacks the simulator's 'nu'"):
        posterior_predictive(Gaussian(), np.zeros(8), Other())
    nowhere = Gaussian(math.nan)
    with pytest.raises(ValueError, match="finite"):
        posterior_predictive(Gaussian(), np.zeros(8), nowhere)
