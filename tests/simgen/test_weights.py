"""Weighted events: the loss of weighted rows is that of rows of the law which they stand for."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

import simgen
from simgen.expression import parse
from simgen.fitting.schedule import Schedule
from simgen.fitting.source import Source, prepare
from simgen.fitting.stacking import Members
from simgen.models.settings import describe_family
from simgen.training import Training

FLOW = simgen.Flow(transforms=1, hidden=(8,))
FAMILIES = {
    "flow": FLOW,
    "vae": simgen.VAE(latent=2, width=8, blocks=1),
    "diffusion": simgen.Diffusion(hidden=8, blocks=1),
    "ensemble": simgen.Ensemble(FLOW, 2),
}
PRIOR = simgen.Prior(a=Normal(0.0, 1.0), b=Uniform(-2.0, 2.0))
COUNTS = np.array([1, 2, 3, 1, 5] * 8)
"""How often each of 40 rows stands in the law."""


def population(path, kind):
    """The same law by weights, and by rows that come as often."""
    rng = np.random.default_rng(0)
    n = len(COUNTS)
    theta = np.stack([rng.standard_normal(n), rng.uniform(-2, 2, n)], 1).astype(np.float32)
    x = (theta @ [[1.0, 0.5, 0], [0, 1, -1]] + rng.standard_normal((n, 3))).astype(np.float32)
    every = np.repeat(np.arange(n), COUNTS)
    plain = made(path / "plain", theta[every], x[every])
    if kind == "positive":  # in any unit, and rows that are nothing at all
        theta = np.concatenate([theta, [[0.0, 7.0]]]).astype(np.float32)
        x = np.concatenate([x, np.full((1, 3), 1e6, np.float32)])
        return plain, made(path / "weighted", theta, x, 0.01 * np.append(COUNTS, 0))
    # each row of 2 is 3 - 1; noise comes with either sign, and cancels
    two = COUNTS == 2
    far = 3 * rng.standard_normal((6, 3)).astype(np.float32)
    theta = np.concatenate([theta, theta[two], theta[:6], theta[:6]])
    x = np.concatenate([x, x[two], far, far])
    weight = np.concatenate([np.where(two, 3, COUNTS), -np.ones(two.sum()), [2.0] * 6, [-2.0] * 6])
    order = rng.permutation(len(weight))
    return plain, made(path / "weighted", theta[order], x[order], weight[order])


def made(path, theta, x, weight=None):
    """A dataset, all of whose rows are on either side."""
    extra = {} if weight is None else {"weight": weight.astype(np.float32)}
    dataset = simgen.Dataset.create(path, theta=theta, x=x, prior=PRIOR, **extra)
    dataset.__dict__.update(train=dataset.good, validation=dataset.good)
    return dataset


def source_of(dataset):
    parsed = parse("theta | x")
    return Source(parsed, parsed.resolve(dataset.fields), dataset, None, 0, 1 << 30)


def epoch_loss(source, pipeline, held_out, size):
    """The mean over batches, with the same noise for each row."""
    members = Members(pipeline).eval()
    total, rows = 0.0, 0
    for batch in source.feed(pipeline, held_out, size).epoch(0):
        losses = []
        for i in range(len(batch.z)):
            torch.manual_seed(0)
            given = {k: v[i : i + 1] for k, v in batch.given.items()}
            losses.append(members.losses(batch.z[i : i + 1], given, {}))
        total = total + len(batch.z) * batch.mean(torch.cat(losses, 1)).double()
        rows += len(batch.z)
    return total / rows


@pytest.mark.parametrize("kind", ["positive", "negative"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_loss_is_that_of_the_law(tmp_path, name, kind):
    plain, weighted = map(source_of, population(tmp_path, kind))
    torch.manual_seed(0)
    pipeline = prepare(plain.expression, plain.fields, plain, None, FAMILIES[name]).eval()
    with torch.no_grad():
        wanted = epoch_loss(plain, pipeline, False, 500)
        for held_out, size in ((False, 500), (False, 7), (True, 7)):
            found = epoch_loss(weighted, pipeline, held_out, size)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_held_out_losses_in_nats_and_gradients_are_too(tmp_path, kind):
    plain, weighted = map(source_of, population(tmp_path, kind))
    torch.manual_seed(0)
    pipeline = prepare(plain.expression, plain.fields, plain, None, FLOW)
    found = []
    for source in (plain, weighted):
        identity = {"dataset": "", "family": describe_family(FLOW)}
        plan = Schedule(16, 1e-3, 1)
        run = Training(pipeline, source, plan, math.inf, identity, None)
        slope = 0.0
        for batch in run.feed.epoch(0):
            loss = batch.mean(run.members.losses(batch.z, batch.given, batch.masks)).sum()
            parts = torch.autograd.grad(loss, list(run.members.parameters()), allow_unused=True)
            flat = torch.cat([p.flatten() for p in parts if p is not None])
            slope = slope + len(batch.z) / len(source) * flat
        found.append((torch.tensor(run._validate()), slope))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def test_standardisation_and_starts_see_the_law(tmp_path):
    plain, weighted = map(source_of, population(tmp_path, "positive"))
    here, there = (prepare(s.expression, s.fields, s, None, FLOW) for s in (plain, weighted))
    # rows are taken as often as their weight says, to one row
    n = len(COUNTS)
    torch.testing.assert_close(there.target.loc, here.target.loc, rtol=0, atol=3 / n)
    torch.testing.assert_close(there.target.scale, here.target.scale, rtol=3 / n, atol=0)
    one, other = (p.given_field("x") for p in (here, there))
    torch.testing.assert_close(other.scale, one.scale, rtol=3 / n, atol=0)


def test_equal_weights_are_no_weights(tmp_path):
    theta, x = np.random.default_rng(0).standard_normal((2, 50, 2)).astype(np.float32)
    theta = theta.clip(-1.9, 1.9)
    alone = source_of(made(tmp_path / "a", theta, x))
    equal = source_of(made(tmp_path / "b", theta, x, np.full(50, 0.3)))
    assert all(
        torch.equal(equal.sample()[k].sort(0)[0], v.sort(0)[0]) for k, v in alone.sample().items()
    )


def test_a_density_of_which_a_part_is_subtracted(tmp_path):
    """A bump beside the law, added and taken away by other draws."""
    rng = np.random.default_rng(0)
    bump = rng.normal(4.0, 0.5, (800, 1))
    x = np.concatenate([rng.standard_normal((2_000, 1)), bump]).astype(np.float32)
    weight = np.concatenate([np.ones(2_400), -np.ones(400)]).astype(np.float32)
    order = rng.permutation(len(x))
    dataset = simgen.Dataset.create(tmp_path / "d", x=x[order], weight=weight[order])
    model = simgen.fit("x", dataset, simgen.Flow(transforms=1, hidden=(16,)), max_epochs=25)
    draws = model().sample((4_000,), seed=0)
    assert (draws > 3).float().mean() < 0.06  # the bump alone has 0.17 of the rows
    assert abs(float(draws.median())) < 0.15


@pytest.mark.parametrize("weight", [-1.0, 0.0])
def test_weights_of_no_law_are_refused(tmp_path, weight):
    theta, x = np.zeros((2, 50, 2), np.float32) + np.arange(50)[:, None] % 3 / 2
    values = np.tile([1.0, -1.0 if weight == 0 else -2.0], 25)
    with pytest.raises(simgen.DatasetError, match="must be positive"):
        source_of(made(tmp_path / "d", theta, x, values))
