"""Gold: the score term against closed forms, what it saves, and false gold refused."""

import logging
import math

import numpy as np
import pytest
import torch
from torch.distributions import LogNormal, Normal, Uniform

import simgen
from simgen.diagnosis import score_identities
from simgen.expression import parse
from simgen.fitting.source import Prepared, Source, prepare
from simgen.gold import _FLOOR, ScoreTerm, joint_log_ratio

SMALL = simgen.Flow(transforms=2, hidden=(32, 32))


class Chain(simgen.Simulator):
    """theta → z ~ N(m(theta), s^2) → x ~ N(z, r^2), whose marginal is N(m(theta), s^2 + r^2)."""

    prior = simgen.Prior(a=Uniform(-1.0, 1.0), b=Uniform(-1.0, 1.0))
    s, r = 1.0, 2.0

    def __init__(self, fault="", events=None):
        self.fault, self.events = fault, events
        if events:
            self.fields = {"x": simgen.Field((events, 1), layout="set", iid=True)}

    def mean(self, theta):
        return np.sin(3 * theta[:, 0]) + theta[:, 1] ** 2

    def slope(self, theta):
        return np.stack([3 * np.cos(3 * theta[:, 0]), 2 * theta[:, 1]], -1)

    def simulate(self, theta, rng):
        theta = np.asarray(theta)
        mean = self.mean(theta)[:, None]
        z = mean + self.s * rng.standard_normal((len(theta), self.events or 1))
        x = z + self.r * rng.standard_normal(z.shape)
        seen = x if self.fault == "x for z" else z
        score = self.slope(theta) * (seen - mean).sum(1, keepdims=True) / self.s**2
        return {"x": x[..., None] if self.events else x, "z_p": z, "joint_score": score}

    def joint_log_likelihood(self, fields, theta):
        z = fields["z_p"]
        return -0.5 * ((z - self.mean(theta)[:, None]) ** 2).sum(1) / self.s**2

    def log_likelihood(self, x, theta):
        variance = self.s**2 + self.r**2
        excess = x - self.mean(theta).reshape(-1, *[1] * (x.ndim - 1))
        log_p = -0.5 * excess**2 / variance - 0.5 * math.log(2 * math.pi * variance)
        return log_p.reshape(len(x), -1).sum(1)

    def score(self, x, theta):
        excess = x.reshape(len(x), -1) - self.mean(theta)[:, None]
        return self.slope(theta) * excess.sum(1, keepdims=True) / (self.s**2 + self.r**2)


def rows(simulator, n, seed):
    theta = simulator.prior.sample((n,), seed=seed).numpy().astype(np.float64)
    return theta, simulator(theta, seed=seed)


def made(simulator, n, path, **more):
    theta, fields = rows(simulator, n, 0)
    names = {k: v for k, v in fields.items() if k in ("x", "z_p", "joint_score")}
    declared = simulator.fields or None
    return simgen.Dataset.create(
        path, theta=theta, **names, prior=simulator.prior, declared=declared, **more
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return made(Chain(), 600, tmp_path_factory.mktemp("gold") / "chain")


class Exact:
    """Stands for a trained network: the exact density, theta not standardised."""

    def __init__(self, simulator):
        self.simulator, self.iid = simulator, bool(simulator.events)

    def losses(self, z, given, masks):
        log_p = self.simulator.log_likelihood(z.numpy(), given["theta"].numpy())
        return -torch.from_numpy(log_p / (z.shape[1] if self.iid else 1))[None]


@pytest.mark.parametrize("events", [None, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_term_of_the_exact_density(events, weighted):
    """Its residual is the exact score's: nothing is left but the noise of the joint score."""
    simulator = Chain(events=events)
    theta, fields = rows(simulator, 5000, 3)
    weight = torch.linspace(-0.5, 2.0, 5000).double() if weighted else None
    batch = Prepared(
        torch.from_numpy(fields["x"]).double(),
        {"theta": torch.from_numpy(theta)},
        {},
        weight,
        torch.zeros(5000),
        torch.from_numpy(fields["joint_score"]).double(),
    )
    w = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double())[0]
    loss, term = ScoreTerm(w, torch.tensor([1e-3, 2e-3]).double())(Exact(simulator), batch)
    residual = fields["joint_score"] - simulator.score(fields["x"], theta)
    square = (residual @ w.numpy().T) ** 2
    size = np.ones(5000) if weight is None else weight.numpy()
    expected, turn = 0.0, np.arange(5000) % 2
    for k in (0, 1):
        mine, share = square[turn == k, k], size[turn == k]
        variance = (np.abs(share) * mine).sum() / np.abs(share).sum()
        expected += (share * mine).sum() / (variance + _FLOOR) / 5000
    assert float(term) == pytest.approx(expected / (events or 1), rel=2e-5)
    log_p = simulator.log_likelihood(fields["x"].astype(float), theta) / (events or 1)
    assert float(loss) == pytest.approx(-(size * log_p).mean(), rel=1e-6)


def test_scores_are_white_along_the_directions(tmp_path):
    """Whatever their units; a direction along which they do not vary is left out."""
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((4000, 3))
    score = rng.standard_normal((4000, 2)) @ np.array([[30.0, 9.0], [0.0, 0.1]])
    score = np.concatenate([score, np.zeros((4000, 1))], 1)
    x = theta[:, :1] + rng.standard_normal((4000, 1))
    data = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x, joint_score=score)
    parsed = parse("x | theta")
    source = Source(parsed, parsed.resolve(data.fields), data, None, 0, 1 << 20, "joint_score")
    pipeline = prepare(parsed, source.fields, source, None, SMALL)
    term = ScoreTerm.fitted(pipeline, data, "joint_score")
    view = data.train.read(["theta", "joint_score"])
    theta_, t = (torch.from_numpy(view[k]) for k in ("theta", "joint_score"))
    along = pipeline.given_score("theta", theta_, t) @ term.directions.T
    expected = torch.diag(torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(along.T @ along / len(along), expected, rtol=0, atol=2e-3)
    moved = (term.steps[:, None] * term.directions).norm(dim=1)
    assert moved[0] == 0 and (moved[1:] <= 0.0501).all()


def test_the_exact_density_is_stationary():
    """Around the truth the term only grows: scaling or shifting its slope costs."""
    simulator = Chain()
    theta, fields = rows(simulator, 20_000, 4)
    t, s = fields["joint_score"].astype(float), simulator.score(fields["x"].astype(float), theta)
    best = ((t - s) ** 2).mean()
    for wrong in (0.8 * s, 1.2 * s, s + 0.2):
        assert ((t - wrong) ** 2).mean() > best + 5e-3


def test_scores_by_standardised_theta(tmp_path):
    """The chain rule through a bijection that is no affine map, and a constant column."""
    rng = np.random.default_rng(0)
    prior = simgen.Prior(a=LogNormal(0.0, 2.0), b=Normal(3.0, 0.5), c=Uniform(0.0, 1.0))
    theta = prior.sample((500,), seed=0).numpy()
    theta[:, 2] = 0.5
    x = theta[:, :2] + rng.standard_normal((500, 2))
    score = rng.standard_normal((500, 3))
    data = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x, joint_score=score, prior=prior)
    source = Source(
        parse("x | theta"), parse("x | theta").resolve(data.fields), data, None, 0, 1 << 20
    )
    pipeline = prepare(source.expression, source.fields, source, None, SMALL)
    standardise = pipeline.given_field("theta")
    assert not standardise.plain
    theta_ = torch.from_numpy(theta).double()
    found = pipeline.given_score("theta", theta_, torch.from_numpy(score))
    h = 1e-3 * theta_.abs()
    du = (standardise(theta_ + h).double() - standardise(theta_ - h).double()) / (2 * h)
    torch.testing.assert_close(
        (found.double() * du)[:, :2], torch.from_numpy(score)[:, :2], rtol=5e-3, atol=5e-3
    )
    assert (found[:, 2] == 0).all()


@pytest.mark.parametrize("memory", [1 << 30, 10_000])
def test_batches_carry_the_scores_of_their_rows(dataset, memory):
    parsed = parse("x | theta")
    source = Source(
        parsed, parsed.resolve(dataset.fields), dataset, None, 0, memory, "joint_score"
    )
    torch.manual_seed(0)
    pipeline = prepare(parsed, source.fields, source, None, SMALL)
    feed = source.feed(pipeline, False, 64)
    assert feed.raw.in_memory is (memory > 10_000)
    batches = list(feed.epoch(0))
    u = torch.cat([b.given["theta"] for b in batches])
    gold = torch.cat([b.gold for b in batches])
    view = dataset.train.read(["theta", "joint_score"])
    theta, score = (torch.from_numpy(view[k]) for k in ("theta", "joint_score"))
    mine = pipeline.given_field("theta")(theta)
    expected = pipeline.given_score("theta", theta, score)
    order, other = u[:, 0].argsort(), mine[:, 0].argsort()
    torch.testing.assert_close(u[order], mine[other])
    torch.testing.assert_close(gold[order], expected[other])


def test_gold_teaches_the_slope(dataset):
    """From the same 600 rows the slope by theta comes nearer to the exact score's."""
    theta, fields = rows(Chain(), 4000, 9)
    x, h = fields["x"].astype(np.float64), 0.02
    exact, errors, gaps = Chain().score(x, theta), [], []
    for gold in (None, "joint_score"):
        c = simgen.fit("x | theta", dataset, SMALL, gold=gold, max_epochs=60)
        ends = [[c(theta + s * h * e).log_prob(x).numpy() for s in (1, -1)] for e in np.eye(2)]
        slope = np.stack([(above - below) / (2 * h) for above, below in ends], -1)
        errors.append(((slope - exact) ** 2).mean() / (exact**2).mean())
        log_p = Chain().log_likelihood(x, theta)
        gaps.append(float((log_p - c(theta).log_prob(x).numpy()).mean()))
    # the best epoch without gold has learned no slope at all: its error is about the score's own
    assert errors[1] < 0.8 < errors[0], errors
    assert gaps[1] < gaps[0] + 0.005, gaps
    best = c.provenance["training"]["best_validation_loss"]
    view = dataset.validation.read(["theta", "x"])
    assert abs(best + float(c(view["theta"]).log_prob(view["x"]).mean())) < 1e-3
    assert c.provenance["training"]["gold"] == "joint_score"


def test_gold_trains_longer_unless_said(dataset, monkeypatch):
    from simgen.training import Training

    plans = []
    monkeypatch.setattr(Training, "__call__", lambda self, progress: plans.append(self.plan))
    for settings in ({}, {"gold": "joint_score"}, {"gold": "joint_score", "max_epochs": 7}):
        simgen.fit("x | theta", dataset, SMALL, **settings)
    plain, gold, said = (p.max_epochs for p in plans)
    assert (gold, said) == (3 * plain, 7)


def test_members_of_an_ensemble_stay_stacked(dataset, caplog):
    with caplog.at_level(logging.INFO, "simgen"):
        c = simgen.fit(
            "x | theta", dataset, simgen.Ensemble(SMALL, 2), gold="joint_score", max_epochs=2
        )
    assert "one after the other" not in caplog.text
    assert torch.isfinite(c(np.zeros(2)).log_prob(torch.zeros(1)))


def test_sets_of_events(tmp_path):
    data = made(Chain(events=5), 300, tmp_path / "sets")
    c = simgen.fit("x | theta", data, SMALL, gold="joint_score", max_epochs=10)
    theta, fields = rows(Chain(events=5), 500, 5)
    exact = Chain(events=5).log_likelihood(fields["x"].astype(float), theta)
    gap = float(exact.mean() - c(theta).log_prob(fields["x"]).mean())
    assert -0.05 < gap < 0.5


def test_resume_is_bit_equal(dataset, tmp_path, monkeypatch):
    from simgen.training import Training

    settings = {"model": SMALL, "gold": "joint_score", "seed": 1, "max_epochs": 3}
    whole = simgen.fit("x | theta", dataset, **settings)
    update, count = Training._update, [0]

    def interrupted(self, batch, rate):
        count[0] += 1
        if count[0] > 3:
            raise KeyboardInterrupt
        return update(self, batch, rate)

    monkeypatch.setattr(Training, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simgen.fit("x | theta", dataset, **settings, checkpoint=tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="gold"):
        simgen.fit("x | theta", dataset, **settings | {"gold": None}, checkpoint=tmp_path / "c")
    resumed = simgen.fit("x | theta", dataset, **settings, checkpoint=tmp_path / "c")
    for key, value in whole.pipeline.state_dict().items():
        other = resumed.pipeline.state_dict()[key]
        torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("expression", ["theta | x", "x", "x | theta, z_p", "x | a"])
def test_gold_needs_theta_alone_given(dataset, expression):
    with pytest.raises(ValueError, match=r"'x \| theta', with theta alone given"):
        simgen.fit(expression, dataset, SMALL, gold="joint_score")


@pytest.mark.parametrize("model", [simgen.VAE(), simgen.Flow(transform="continuous")])
def test_gold_needs_an_exact_density(dataset, model):
    with pytest.raises(ValueError, match="needs a model whose density is exact"):
        simgen.fit("x | theta", dataset, model, gold="joint_score", max_epochs=1)


def test_gold_must_be_there_and_fit(dataset):
    with pytest.raises(ValueError, match="no field 'score' for gold="):
        simgen.fit("x | theta", dataset, SMALL, gold="score")
    with pytest.raises(ValueError, match=r"has shape \(1,\) a row; wanted \(2,\)"):
        simgen.fit("x | theta", dataset, SMALL, gold="z_p")


def test_the_score_of_x_in_place_of_z_is_caught(tmp_path):
    """The mistake of MadMiner's tutorial: (x - m) / s^2 has mean zero, and is no joint score."""
    false = Chain("x for z")
    theta, fields = rows(false, 4000, 0)
    first, second = score_identities(false.prior, theta, fields["joint_score"], [fields["x"]])
    assert first.chance > 1e-3 and second.chance < 1e-6
    data = made(false, 4000, tmp_path / "false")
    with pytest.raises(ValueError, match=r"is no joint score: d E\[h\] = E\[h score\] fails by"):
        simgen.fit("x | theta", data, SMALL, gold="joint_score")


def test_scores_of_another_sign_are_caught_by_weighted_rows(tmp_path):
    theta, fields = rows(Chain(), 4000, 0)
    weight = np.random.default_rng(0).choice([-0.5, 1.0, 2.0], 4000)
    for sign in (1, -1):
        found = list(
            score_identities(
                Chain.prior, theta, sign * fields["joint_score"], [fields["x"]], weight
            )
        )
        assert (found[1].chance < 1e-6) is (sign < 0)


def test_joint_ratios():
    simulator = Chain()
    theta, fields = rows(simulator, 20_000, 2)
    other = 0.8 * theta
    log_r = joint_log_ratio(simulator, fields, other, theta)
    ratio = np.exp(log_r)
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    z = fields["z_p"][:, 0]
    excess = [z - simulator.mean(v) for v in (other, theta)]
    np.testing.assert_allclose(log_r, (excess[1] ** 2 - excess[0] ** 2) / 2, atol=1e-12)

    @simgen.simulator
    def plain(theta, rng):
        return theta

    with pytest.raises(TypeError, match="no joint_log_likelihood"):
        joint_log_ratio(plain, fields, other, theta)


def test_without_a_prior_the_first_identity_is_checked(tmp_path):
    theta, fields = rows(Chain(), 600, 0)
    shifted = {"x": fields["x"], "joint_score": fields["joint_score"] + 9.0}
    data = simgen.Dataset.create(tmp_path / "shifted", theta=theta, **shifted)
    with pytest.raises(ValueError, match=r"E\[score\] = 0 fails"):
        simgen.fit("x | theta", data, SMALL, gold="joint_score")
