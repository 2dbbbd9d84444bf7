"""Sets of random length: their law, what they keep, and a posterior of 1 to 1,000 events."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import simgen
from simgen.events.lengths import random_lengths
from simgen.networks import SetEncoder

MANY = 1_000


def conjugate(rows, length, seed):
    """theta ~ N(0, 1), events N(theta, 1)."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((rows, 1)).astype(np.float32)
    return theta, (theta[:, None] + rng.standard_normal((rows, length, 1))).astype(np.float32)


def test_every_factor_in_the_number_is_as_frequent():
    batch = {"x": torch.ones(30_000, 99, 1)}
    length = random_lengths()(batch, np.random.default_rng(0))["x_length"]
    assert length.min() == 1 and length.max() == 99
    wanted = np.log([10 / 1, 100 / 10]) / np.log(100)
    found = [(length < 10).double().mean(), (length >= 10).double().mean()]
    assert np.allclose(found, wanted, atol=4 * 0.5 / 30_000**0.5)


@pytest.mark.parametrize("stored", [None, [0, 1, 4, 5]])
def test_the_events_are_some_of_those_stored_and_each_as_often(stored):
    rows = np.tile([5, 5, 5, 5] if stored is None else stored, 5_000)
    x = torch.arange(1.0, 6.0)[:, None].expand(len(rows), 5, 1)
    x = x * (torch.arange(5) < torch.from_numpy(rows)[:, None])[..., None]
    batch = {"x": x} | ({} if stored is None else {"x_length": torch.from_numpy(rows)})
    out = random_lengths(least=2)(batch, np.random.default_rng(0))
    length = out["x_length"]
    assert (length <= torch.from_numpy(rows)).all()
    assert (length >= torch.from_numpy(rows).clamp(max=2)).all()
    there = torch.arange(5) < length[:, None]
    assert (out["x"][..., 0][~there] == 0).all() and (out["x"][..., 0][there] > 0).all()
    ordered = out["x"][..., 0].masked_fill(~there, -1).sort(1).values
    assert ((ordered.diff(dim=1) != 0) | (ordered[:, 1:] == -1)).all()  # none comes twice
    full = torch.from_numpy(rows) == 5
    count = torch.bincount(out["x"][full].long().flatten(), minlength=6)[1:].double()
    assert ((count / count.mean() - 1).abs() < 5 / count.mean().sqrt()).all()


def test_the_pooled_embedding_knows_the_number():
    """The same event once and often is the same mean, of another weight."""
    torch.manual_seed(0)
    net, x = SetEncoder(1, 4), torch.ones(3, 50, 1)
    mask = torch.arange(50) < torch.tensor([1, 7, 50])[:, None]
    out = net(x, mask)
    assert (out[0] - out[1]).abs().max() > 1e-3 and (out[1] - out[2]).abs().max() > 1e-3
    torch.testing.assert_close(net(x[:1, :7]), out[1:2])
    torch.testing.assert_close(net(torch.where(mask[..., None], x, 9.0), mask), out)


def fitted(path, theta, x, prior, **settings):
    """A posterior of sets of any number of events, by a small flow."""
    dataset = simgen.Dataset.create(
        path,
        theta=theta,
        x=x,
        prior=prior,
        declared={"x": simgen.Field((MANY, 1), "set", iid=True)},
    )
    settings = {"max_epochs": 20, "batch_size": 32, "progress": False} | settings
    return simgen.fit(
        "theta | x",
        dataset,
        simgen.Flow(transforms=1, hidden=(32,)),
        embedding=SetEncoder(1, 8, width=16, blocks=1),
        augment=random_lengths(),
        **settings,
    )


def off(posterior, x, mean, sd):
    """Bias in deviations (rms over observations) and width, by those of the exact posterior."""
    count = 400
    draws = posterior(x).sample((count,), seed=0).double().numpy()
    square = np.mean(((draws.mean(0) - mean) / sd) ** 2, 0) - 1 / count  # less what draws scatter
    return np.sqrt(square.clip(min=0)), np.mean(draws.std(0) / sd, 0)


def test_a_posterior_of_any_number_of_events(tmp_path):
    """The conjugate one, for 1, 10, 100 and 1,000 events: 22 times narrower at the end."""
    theta, x = conjugate(800, MANY, 0)
    posterior = fitted(tmp_path / "d", theta, x, simgen.Prior(mu=Normal(0.0, 1.0)))
    assert posterior.provenance["variable"] == ["x_length"]
    posterior.save(tmp_path / "p.safetensors")
    posterior = simgen.load(tmp_path / "p.safetensors")
    for n in (1, 10, 100, MANY):
        _, x = conjugate(200, n, n)
        bias, width = off(posterior, x, n / (n + 1) * x.mean(1), (n + 1) ** -0.5)
        assert bias < 0.3 and 0.85 < width < 1.15
    with pytest.raises(ValueError, match="must have shape"):
        posterior(np.zeros((MANY + 1, 1)))


def spread(rows, length, seed):
    """theta = (mu, log sigma^2) of two standard normals, events N(mu, sigma^2)."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((rows, 2)).astype(np.float32)
    x = theta[:, None, :1] + np.exp(theta[:, None, 1:] / 2) * rng.standard_normal(
        (rows, length, 1)
    )
    return theta, x.astype(np.float32)


def gridded(x):
    """Mean and deviation of both by quadrature, of one set of many events (n, 1)."""
    n, mean, variance = len(x), x.mean(dtype=float), x.var(dtype=float)
    reach = 8 / np.sqrt(n)
    mu = mean + np.sqrt(variance) * np.linspace(-reach, reach, 201)[:, None]
    t = np.log(variance) + 2 * np.linspace(-reach, reach, 201)
    log_p = -n / 2 * (t + (variance + (mu - mean) ** 2) * np.exp(-t)) - (mu**2 + t**2) / 2
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    first = np.array([(p * mu).sum(), (p * t).sum()])
    return first, np.sqrt([(p * mu**2).sum(), (p * t**2).sum()] - first**2)


def test_a_posterior_of_the_mean_and_the_variance_of_events(tmp_path):
    theta, x = spread(1_600, MANY, 0)
    prior = simgen.Prior(mu=Normal(0.0, 1.0), t=Normal(0.0, 1.0))
    posterior = fitted(tmp_path / "d", theta, x, prior)
    for n in (100, MANY):
        _, x = spread(100, n, n)
        mean, sd = np.moveaxis(np.array([gridded(one) for one in x]), 1, 0)
        bias, width = off(posterior, x, mean, sd)
        assert (bias < 0.35).all() and (abs(width - 1) < 0.2).all()


def test_least_is_positive():
    with pytest.raises(ValueError, match="at least 1"):
        random_lengths(least=0)
