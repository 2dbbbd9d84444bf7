"""fit(): learned answers against closed forms, resume, budget, bad input."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, Uniform

import simgen
from simgen.training import _seconds

N = 4000
SMALL = {"transforms": 2, "hidden": (32, 32)}


def gaussian(n=N, seed=0):
    """theta ~ N(0, 1)^2, x = A theta + 0.5 noise."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n, 2)).astype(np.float32)
    a = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
    x = (theta @ a.T + 0.5 * rng.standard_normal((n, 3))).astype(np.float32)
    return theta, x, a


def exact(x, a):
    precision = np.eye(2) + a.T @ a / 0.25
    covariance = np.linalg.inv(precision)
    return MultivariateNormal(torch.tensor(covariance @ a.T @ x / 0.25), torch.tensor(covariance))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    theta, x, _ = gaussian()
    prior = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    path = tmp_path_factory.mktemp("data") / "gaussian"
    return simgen.Dataset.create(path, theta=theta, x=x, prior=prior)


@pytest.fixture(scope="module")
def posterior(dataset):
    return simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), seed=0, max_epochs=40)


def test_posterior_of_a_linear_gaussian(posterior):
    _, x, a = gaussian(50, seed=1)
    divergence = 0.0
    for row in x:
        p = exact(row.astype(float), a)
        theta = p.sample((500,))
        divergence += float((p.log_prob(theta) - posterior(row).log_prob(theta)).mean()) / len(x)
    # 3,600 rows, 5 numbers to learn: about 0.01 nats are unavoidable
    assert -0.01 < divergence < 0.06


def test_history_is_in_nats_of_physical_units(posterior, dataset):
    view = dataset.validation.read(["theta", "x"])
    log_prob = posterior(view["x"]).log_prob(view["theta"])
    best = posterior.provenance["training"]["best_validation_loss"]
    assert abs(float(-log_prob.mean()) - best) < 1e-3
    assert best <= min(posterior.history["validation_loss"])
    assert posterior.provenance["dataset"]["identity"] == dataset.identity


def test_same_seed_same_result(dataset):
    fits = [
        simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), seed=s, max_epochs=2)
        for s in (3, 3, 4)
    ]
    draws = [f(np.zeros(3)).sample((5,), seed=0) for f in fits]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_fit_leaves_the_global_stream_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), max_epochs=1)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("after", [1, 17, 40])
def test_resume_is_bit_equal(dataset, tmp_path, monkeypatch, after):
    settings = {"model": simgen.Flow(**SMALL), "seed": 1, "max_epochs": 4}
    whole = simgen.fit("theta | x", dataset, **settings)
    from simgen.training import Training

    update, count = Training._update, [0]

    def interrupted(self, batch, rate):
        count[0] += 1
        if count[0] > after:
            raise KeyboardInterrupt
        return update(self, batch, rate)

    path = tmp_path / "fit.checkpoint"
    monkeypatch.setattr(Training, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simgen.fit("theta | x", dataset, **settings, checkpoint=path)
    monkeypatch.undo()
    resumed = simgen.fit("theta | x", dataset, **settings, checkpoint=path)
    for key, value in whole.pipeline.state_dict().items():
        other = resumed.pipeline.state_dict()[key]
        torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
    assert resumed.history["validation_loss"] == whole.history["validation_loss"]


def test_interrupt_without_a_checkpoint_keeps_the_state(dataset, tmp_path, monkeypatch, caplog):
    from simgen.training import Training

    def stop(self, batch, rate):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "_update", stop)
    with caplog.at_level(logging.WARNING, "simgen"), pytest.raises(KeyboardInterrupt):
        simgen.fit("theta | x", dataset, simgen.Flow(**SMALL))
    assert len(list(tmp_path.glob("fit-*.checkpoint"))) == 1
    assert "checkpoint=" in caplog.text


def test_checkpoint_of_another_fit_is_refused(dataset, tmp_path):
    path = tmp_path / "c"
    simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), max_epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match="its seed is 0, here it is 1"):
        simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), seed=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), checkpoint=path)


def test_budget_stops(dataset):
    c = simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), budget="0.2s", max_epochs=10_000)
    assert 1 <= c.provenance["training"]["epochs"] < 10_000


def test_surrogate_of_a_linear_gaussian(dataset):
    surrogate = simgen.fit("x | theta", dataset, simgen.Flow(**SMALL), max_epochs=30)
    theta, x, a = gaussian(500, seed=2)
    mean = torch.tensor(theta.astype(float) @ a.T)
    truth = Normal(mean, 0.5).log_prob(torch.tensor(x)).sum(-1)
    gap = float((truth - surrogate(theta).log_prob(x)).mean())
    assert -0.03 < gap < 0.1


def test_unconditional_density(dataset):
    density = simgen.fit("x", dataset, simgen.Flow(**SMALL), max_epochs=20)
    _, x, a = gaussian(500, seed=2)
    covariance = torch.tensor(a @ a.T + 0.25 * np.eye(3))
    truth = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    value = torch.tensor(x.astype(float))
    gap = float((truth.log_prob(value) - density().log_prob(value)).mean())
    assert -0.03 < gap < 0.1
    assert density().sample((4,)).shape == (4, 3)


def test_marginal_posterior_of_one_parameter(dataset):
    marginal = simgen.fit("b | x", dataset, simgen.Flow(**SMALL), max_epochs=80)
    _, x, a = gaussian(200, seed=3)
    q = marginal(x)
    assert q.event_shape == (1,) and marginal.names == ("b",)
    draws = q.sample((1000,), seed=0)
    exacts = [exact(row.astype(float), a) for row in x]
    mean = torch.stack([p.mean[1] for p in exacts])
    sd = float(exacts[0].stddev[1])
    assert float((draws.mean(0)[:, 0] - mean).abs().mean()) < 0.15 * sd
    assert abs(float(draws.std(0).mean()) / sd - 1) < 0.1


def test_own_embedding_is_copied(dataset, tmp_path):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
    before = [p.clone() for p in net.parameters()]
    c = simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), embedding=net, max_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    path = tmp_path / "m.safetensors"
    c.save(path)
    with pytest.raises(ValueError, match=r"modules=\{\"embedding.x\""):
        simgen.load(path)
    again = simgen.load(path, modules={"embedding.x": net})
    x = np.ones(3)
    assert torch.equal(c(x).sample((5,), seed=1), again(x).sample((5,), seed=1))


def test_weights_are_honoured(tmp_path):
    # two populations, one of weight zero: only the other may be learned
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (1500, 1)), rng.normal(10, 1, (1500, 1))])
    weight = np.repeat([1.0, 0.0], 1500)
    order = rng.permutation(3000)
    x, weight = x[order].astype(np.float32), weight[order].astype(np.float32)
    dataset = simgen.Dataset.create(tmp_path / "w", x=x, weight=weight)
    c = simgen.fit("x", dataset, simgen.Flow(**SMALL), max_epochs=40)
    assert (c().sample((1000,), seed=0) < 5).float().mean() > 0.98


def test_augment_draws_fresh_noise(tmp_path):
    rng = np.random.default_rng(0)
    x = np.zeros((1000, 1), dtype=np.float32) + rng.normal(0, 1e-3, (1000, 1)).astype(np.float32)

    def noise(batch, rng):
        extra = torch.as_tensor(rng.standard_normal(batch["x"].shape), dtype=torch.float32)
        return {**batch, "x": batch["x"] + 2e-3 * extra}

    dataset = simgen.Dataset.create(tmp_path / "a", x=x)
    c = simgen.fit("x", dataset, simgen.Flow(**SMALL), augment=noise, max_epochs=30)
    assert float(c().sample((2000,), seed=0).std()) > 1.5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be positive"),
        ({"budget": "soon"}, "budget is seconds"),
        ({"budget": -1}, "must be positive"),
        ({"embedding": {"y": None}}, "given are x"),
    ],
)
def test_bad_settings(dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        simgen.fit("theta | x", dataset, **settings)


@pytest.mark.parametrize("embedding", ["cnn", torch.nn.Identity, {"x": torch.nn.Identity}])
def test_an_embedding_is_a_network(dataset, embedding):
    with pytest.raises(TypeError, match="embedding must be a network"):
        simgen.fit("theta | x", dataset, embedding=embedding)


def test_a_path_is_no_dataset(dataset):
    with pytest.raises(TypeError, match=r"simgen.Dataset\('throws'\)"):
        simgen.fit("theta | x", "throws")


def test_parameters_outside_of_the_prior_are_refused(tmp_path):
    theta = np.random.default_rng(0).uniform(0, 1, (200, 2))
    theta[:, 1] += 0.5
    prior = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(0.0, 1.0))
    dataset = simgen.Dataset.create(tmp_path / "d", theta=theta, x=theta, prior=prior)
    with pytest.raises(simgen.DatasetError, match=r"of theta are outside .* column 1 is 1\."):
        simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), max_epochs=1)
    simgen.fit("x | theta", dataset, simgen.Flow(**SMALL), max_epochs=1)


def test_rounding_to_float32_is_not_outside_of_the_prior(tmp_path):
    theta = 1e6 + np.random.default_rng(0).uniform(0, 0.1, (200, 1))  # a float32 is 0.06 apart
    prior = simgen.Prior(a=Uniform(1e6, 1e6 + 0.1))
    dataset = simgen.Dataset.create(tmp_path / "d", theta=theta, x=theta - 1e6, prior=prior)
    assert float(np.asarray(dataset["theta"]).max()) > 1e6 + 0.1
    simgen.fit("theta | x", dataset, simgen.Flow(**SMALL), max_epochs=1)


def test_unknown_field_lists_what_there_is(dataset):
    with pytest.raises(ValueError, match="there are: theta, x"):
        simgen.fit("theta | y", dataset)


def test_budget_units():
    assert [_seconds(b) for b in ("90s", "10min", "2h", 5)] == [90, 600, 7200, 5]
    assert _seconds(None) == math.inf


def test_the_average_keeps_no_history_of_steps(dataset, monkeypatch):
    runs = []
    call = simgen.training.Training.__call__
    monkeypatch.setattr(
        simgen.training.Training, "__call__", lambda self, p: (call(self, p), runs.append(self))
    )
    simgen.fit("theta | x", dataset, simgen.Flow(transforms=1), max_epochs=1, progress=False)
    assert all(p.grad_fn is None and not p.requires_grad for p in runs[0].averages)


def test_an_angle_is_learned_across_its_seam(tmp_path):
    rng = np.random.default_rng(0)
    phi = rng.uniform(0, 2 * math.pi, (4_000, 1))
    noise = 0.3 * rng.normal(size=(4_000, 2))
    x = np.concatenate([np.cos(phi), np.sin(phi)], 1) + noise
    prior = simgen.Prior(phi=Uniform(0.0, 2 * math.pi))
    dataset = simgen.Dataset.create(tmp_path / "d", theta=phi, x=x, prior=prior)
    model = simgen.Flow(periodic=(0,), transforms=2, hidden=(32,))
    posterior = simgen.fit("theta | x", dataset, model, max_epochs=30, progress=False)
    grid = (torch.arange(400) + 0.5) / 400 * 2 * math.pi
    for angle in (0.0, 0.2, 3.0):  # at the seam, beside it, far from it
        observed = torch.tensor([math.cos(angle), math.sin(angle)])
        mean = torch.stack([grid.cos(), grid.sin()], -1)
        exact = torch.softmax(-((observed - mean) ** 2).sum(-1) / (2 * 0.3**2), 0)
        learned = posterior(observed).log_prob(grid[:, None]).exp() * (grid[1] - grid[0])
        assert abs(float(learned.sum()) - 1) < 0.02
        assert float((exact * (exact / learned).log()).sum()) < 0.1
    with pytest.raises(ValueError, match="needs bounds"):
        simgen.fit("x | theta", dataset, model, progress=False)


def test_whole_numbers_that_add_up_to_what_is_given(tmp_path):
    """Twelve coins given how many show heads: log C(12, x) nats, and no singular start."""
    rng = np.random.default_rng(0)
    coins = (rng.uniform(size=(4_000, 12)) < 0.5).astype(np.int64)
    heads = coins.sum(1, keepdims=True).astype(np.float32)
    declared = {"z": simgen.Field((12,), discrete=True, support=(0, 1))}
    dataset = simgen.Dataset.create(tmp_path / "d", x=heads, z=coins, declared=declared)
    found = simgen.fit("z | x", dataset, simgen.Flow(**SMALL), seed=0, max_epochs=30)
    exact = np.mean([math.log(math.comb(12, int(x))) for x in heads[:, 0]])
    # blind to the sum it would be 12 log 2 = 8.3 nats, exact are 6.4
    assert exact - 0.1 < min(found.history["validation_loss"]) < 8.3


def test_a_point_mass_at_zero_is_learned(tmp_path):
    """y = 0 with probability p(a), else log-normal about a: P(0) and the density, exactly."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, size=(8_000, 1))
    share = 1 / (1 + np.exp(-2 * a))
    y = np.where(rng.uniform(size=a.shape) < share, 0, np.exp(a + 0.5 * rng.normal(size=a.shape)))
    prior = simgen.Prior(a=Uniform(-1.0, 1.0))
    declared = {"x": simgen.Field((1,), zeros=True)}
    dataset = simgen.Dataset.create(tmp_path / "d", theta=a, x=y, prior=prior, declared=declared)
    surrogate = simgen.fit("x | theta", dataset, simgen.Flow(**SMALL), seed=0, max_epochs=30)
    for value in (-0.8, 0.0, 0.8):
        q, p_0 = surrogate(np.array([value])), 1 / (1 + math.exp(-2 * value))
        draws = q.sample((4_000,), seed=0)
        assert (draws >= 0).all() and q.support.check(draws).all()
        # the error of a share of 8,000 / 5 rows nearby is 0.013
        assert abs(float((draws == 0).float().mean()) - p_0) < 0.05
        learned = float(q.log_prob(torch.zeros(1)).exp())
        assert abs(learned - p_0) < 0.05
        grid = torch.linspace(-6.0, 6.0, 4_001, dtype=torch.float64)
        density = q.log_prob(grid.exp()[:, None]).exp() * grid.exp()
        assert abs(float(torch.trapezoid(density, grid)) + learned - 1) < 0.01
        wanted = (1 - p_0) * Normal(value, 0.5).log_prob(grid).exp()
        assert float(torch.trapezoid((density - wanted).abs(), grid)) < 0.15
    assert float(q.log_prob(-torch.ones(1))) == -math.inf


def test_an_ensemble_of_sets_of_numbers_trains_without_remarks(tmp_path):
    """Its held-out loss is under vmap: warnings are errors here."""
    torch.manual_seed(0)
    theta = torch.rand(200, 1, dtype=torch.float64)
    x = theta[:, None] + 0.3 * torch.randn(200, 5, 1, dtype=torch.float64)
    declared = {"x": simgen.Field((5, 1), "set", iid=True)}
    dataset = simgen.Dataset.create(tmp_path / "a", theta, x, declared=declared)
    model = simgen.Ensemble(simgen.Flow(hidden=(8, 8)), 2)
    fitted = simgen.fit("x | theta", dataset, model, max_epochs=2, progress=False)
    one = torch.stack([fitted(t).log_prob(v) for t, v in zip(theta[:4], x[:4])]).flatten()
    assert torch.allclose(fitted(theta[:4]).log_prob(x[:4]), one, atol=1e-4)
