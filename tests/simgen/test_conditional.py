"""Conditional: shapes, support, files, errors."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.distributions import Uniform
from torch.nn.functional import logsigmoid

import simgen
from simgen.fitting.tensors import read_header

FLOW = simgen.Flow(transforms=2, hidden=(16, 16))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    theta = rng.uniform(0, 1, (600, 2)).astype(np.float32)
    # the posterior hugs the bound: x says that theta is near 0 or 1
    x = (np.round(theta) + 0.01 * rng.standard_normal((600, 2))).astype(np.float32)
    events = (theta[:, None, :1] + rng.standard_normal((600, 6, 1))).astype(np.float32)
    length = rng.integers(1, 7, 600)
    padded = events * (np.arange(6) < length[:, None])[..., None]
    prior = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(0.0, 1.0), labels=["$a$", "$b$"])
    return simgen.Dataset.create(
        tmp_path_factory.mktemp("data") / "box",
        theta=theta,
        x=x,
        prior=prior,
        z_set=padded,
        z_set_length=length,
        z_map=rng.standard_normal((600, 1, 16, 16)).astype(np.float32),
        z_count=rng.poisson(3 * theta[:, :1]),
    )


def train(dataset, expression, **settings):
    return simgen.fit(expression, dataset, FLOW, max_epochs=2, progress=False, **settings)


@pytest.fixture(scope="module")
def posterior(dataset):
    return train(dataset, "theta | x")


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("sample", [(), (7,), (2, 4)])
def test_shapes(posterior, batch, sample):
    q = posterior(np.zeros((*batch, 2)))
    assert (q.batch_shape, q.event_shape) == (batch, (2,))
    theta = q.sample(sample, seed=0)
    assert theta.shape == (*sample, *batch, 2)
    assert q.log_prob(theta).shape == (*sample, *batch)
    assert q.names == ("a", "b") and posterior.labels == ("$a$", "$b$")


class Pool(torch.nn.Module):
    """An embedding of sets that must be told which elements are there."""

    def __init__(self):
        super().__init__()
        self.lift = torch.nn.Linear(1, 3)

    def forward(self, x, mask):
        return (self.lift(x) * mask[..., None]).sum(1)


def test_own_embedding_with_a_mask(dataset, tmp_path):
    c = train(dataset, "theta | z_set", embedding=Pool())
    rows = dataset["z_set"][:4]
    length = dataset["z_set_length"][:4]
    draws = c(z_set=rows, z_set_length=length).sample((3,), seed=0)
    c.save(tmp_path / "pool.safetensors")
    again = simgen.load(tmp_path / "pool.safetensors", modules={"embedding.z_set": Pool()})
    assert torch.equal(again(z_set=rows, z_set_length=length).sample((3,), seed=0), draws)
    short = c(rows[0, : length[0]]).sample((3,), seed=0)
    assert torch.allclose(short, c(z_set=rows[0], z_set_length=length[0]).sample((3,), seed=0))


def test_an_embedding_of_another_size_is_named_with_its_field(dataset):
    with pytest.raises(ValueError, match=r"x of shape \(n, 2\): .*cannot be multiplied"):
        train(dataset, "theta | x", embedding=torch.nn.Linear(5, 3))


def test_one_parameter_one_observation(dataset):
    c = train(dataset, "a | x")
    assert c(np.zeros(2)).sample((3,)).shape == (3, 1)
    assert c(np.zeros((4, 2))).sample((3,)).shape == (3, 4, 1)
    given = train(dataset, "x | a")
    assert given(0.3).sample((3,)).shape == (3, 2)
    assert given(np.zeros((4,))).batch_shape == (4,)


def test_a_batch_equals_its_rows(posterior):
    x = torch.rand(6, 2)
    theta = torch.rand(11, 6, 2)
    whole = posterior(x).log_prob(theta)
    rows = torch.stack([posterior(x[i]).log_prob(theta[:, i]) for i in range(6)], 1)
    torch.testing.assert_close(whole, rows, rtol=1e-5, atol=1e-5)


def test_chunks_change_nothing(posterior, monkeypatch):
    x = torch.rand(6, 2)
    theta = posterior(x).sample((11,), seed=3)
    before = posterior(x).log_prob(theta)
    monkeypatch.setattr("simgen.distribution.CHUNK", 4)
    torch.testing.assert_close(posterior(x).sample((11,), seed=3), theta)
    torch.testing.assert_close(posterior(x).log_prob(theta), before)


def test_draws_lie_inside_the_prior(posterior, dataset):
    theta = posterior(np.random.default_rng(0).normal(0, 3, (50, 2))).sample((2000,), seed=0)
    assert dataset.prior.log_prob(theta).isfinite().all()
    assert posterior(np.zeros(2)).log_prob(torch.tensor([1.5, 0.5])) == -torch.inf


def test_density_integrates_to_one_over_the_box(posterior):
    # by t = log(theta / (1 - theta)), which resolves the edges
    t = torch.linspace(-36, 36, 721, dtype=torch.float64)
    u, v = torch.cartesian_prod(t, t).unbind(-1)
    slope = torch.exp(logsigmoid(u) + logsigmoid(-u) + logsigmoid(v) + logsigmoid(-v))
    density = posterior(np.array([0.0, 1.0])).log_prob(torch.stack([u, v], -1).sigmoid()).exp()
    total = (density * slope).sum() * (t[1] - t[0]) ** 2
    assert abs(float(total) - 1) < 0.03


def test_numpy_and_double_and_gradient(posterior):
    theta = torch.full((2,), 0.4, dtype=torch.float64, requires_grad=True)
    log_q = posterior(np.zeros(2, dtype=np.float64)).log_prob(theta)
    assert log_q.dtype == torch.float64
    (gradient,) = torch.autograd.grad(log_q, theta)
    step = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    q = posterior(np.zeros(2))
    difference = (q.log_prob(theta + step) - q.log_prob(theta - step)) / 2e-3
    difference = float(difference.detach())
    assert abs(difference - float(gradient[0])) < 0.05 * max(1, abs(float(gradient[0])))


def test_a_sample_is_repeatable_and_independent_of_the_global_stream(posterior):
    q = posterior(np.zeros(2))
    assert torch.equal(q.sample((3,), seed=1), q.sample((3,), seed=1))
    torch.manual_seed(0)
    a = q.sample((3,))
    assert not torch.equal(a, q.sample((3,)))


def test_sets_of_any_length(dataset):
    c = train(dataset, "theta | z_set")
    events = np.random.default_rng(0).standard_normal((4, 6, 1)).astype(np.float32)
    assert c(events).batch_shape == (4,)
    short = c(events[0, :3]).log_prob(torch.full((2,), 0.5))
    padded = np.concatenate([events[0, :3], np.full((3, 1), 99.0, dtype=np.float32)])
    same = c(z_set=padded, z_set_length=3).log_prob(torch.full((2,), 0.5))
    torch.testing.assert_close(short, same)
    order = c(events[0, [2, 0, 1]]).log_prob(torch.full((2,), 0.5))
    torch.testing.assert_close(short, order, rtol=1e-4, atol=1e-4)


def test_several_given_fields_and_images(dataset):
    c = train(dataset, "theta | x, z_map")
    maps = torch.zeros(3, 1, 16, 16)
    assert c(x=np.zeros(2), z_map=maps).batch_shape == (3,)
    with pytest.raises(ValueError, match="name the given fields"):
        c(np.zeros(2), maps)
    with pytest.raises(ValueError, match="needs the field 'z_map'"):
        c(x=np.zeros(2))


def test_whole_numbers_are_a_mass_function(dataset):
    c = simgen.fit("z_count | a", dataset, FLOW, max_epochs=20, progress=False)
    q = c(0.8)
    counts = torch.arange(-2, 30).float()[:, None]
    mass = q.log_prob(counts).exp()
    assert abs(float(mass.sum()) - 1) < 0.05
    assert q.log_prob(torch.tensor([1.5])) == -torch.inf
    draws = q.sample((500,), seed=0)
    assert (draws == draws.round()).all()
    share = torch.stack([(draws == k).float().mean() for k in range(6)])
    assert (share - mass[2:8]).abs().max() < 0.1


def test_save_and_load(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path, verdict={"passed": True})
    again = simgen.load(path)
    x = np.full(2, 0.3)
    assert torch.equal(posterior(x).sample((9,), seed=0), again(x).sample((9,), seed=0))
    assert again.verdict == {"passed": True}
    assert again.history == posterior.history and again.provenance == posterior.provenance
    assert again.prior.names == ("a", "b") and again.expression == "theta | x"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def rewrite(path, change):
    header = read_header(path)
    tensors = safetensors.torch.load_file(path)
    change(header, tensors)
    safetensors.torch.save_file(tensors, path, metadata={"simgen": json.dumps(header)})


def test_damaged_and_foreign_files(posterior, tmp_path):
    path = tmp_path / "m.safetensors"
    posterior.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        simgen.load(path)
    path.write_bytes(whole)
    rewrite(path, lambda header, _: header.update(schema=99))
    with pytest.raises(ValueError, match=r"schema 99.*upgrade"):
        simgen.load(path)
    path.write_bytes(whole)
    rewrite(path, lambda header, _: header["family"].update(hidden=[8, 8]))
    with pytest.raises(ValueError, match="has shape"):
        simgen.load(path)
    path.write_bytes(whole)
    rewrite(path, lambda header, _: header["family"].update(name="Mine"))
    with pytest.raises(ValueError, match="families="):
        simgen.load(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no model of simgen"):
        simgen.load(path)
    with pytest.raises(FileNotFoundError):
        simgen.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(np.zeros(3)), r"must have shape \(\.\.\., 2\)"),
        (lambda c: c(np.array([np.nan, 0.0])), "NaN or infinite"),
        (lambda c: c(y=np.zeros(2)), "needs the field 'x'"),
        (lambda c: c(np.zeros(2), y=1), "not given"),
        (lambda c: c(), "needs the field 'x'"),
        (lambda c: c(np.zeros(2)).log_prob(torch.zeros(3)), "value must be"),
    ],
)
def test_bad_input(posterior, call, message):
    with pytest.raises(ValueError, match=message):
        call(posterior)


def test_independent_events(tmp_path):
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (800, 1)).astype(np.float32)
    x = (theta[:, None] + 0.5 * rng.standard_normal((800, 20, 1))).astype(np.float32)
    dataset = simgen.Dataset.create(
        tmp_path / "iid",
        theta=theta,
        x=x,
        prior=simgen.Prior(mu=Uniform(-1.0, 1.0)),
        declared={"x": simgen.Field((20, 1), "set", iid=True)},
    )
    c = simgen.fit("x | theta", dataset, FLOW, max_epochs=100, progress=False)
    q = c(np.array([0.3]))
    assert q.event_shape == (20, 1) and q.sample((3,), seed=0).shape == (3, 20, 1)
    events = torch.linspace(-0.5, 1.0, 7)[:, None]
    total = q.log_prob(events)
    single = sum(q.log_prob(e[None]) for e in events)
    torch.testing.assert_close(total, single, rtol=1e-4, atol=1e-4)
    truth = torch.distributions.Normal(0.3, 0.5).log_prob(events).sum()
    assert abs(float(total - truth)) < 0.5


def test_no_observations_give_no_draws(posterior):
    q = posterior(np.zeros((0, 2)))
    assert q.batch_shape == (0,)
    assert q.sample((3,)).shape == (3, 0, 2)
    assert q.log_prob(torch.zeros(3, 0, 2)).shape == (3, 0)
    assert posterior(np.zeros((4, 2))).sample((0,)).shape == (0, 4, 2)


def test_the_elbo_of_a_fitted_vae_in_physical_units(tmp_path):
    """x ~ N(0, diag(0.2^2, 5^2)): the bound is below log p(x), the importance bound above it; both
    are near it after training, and change of units moves both alike.
    """
    torch.manual_seed(0)
    sd = torch.tensor([0.2, 5.0], dtype=torch.float64)
    x = sd * torch.randn(2_000, 2, dtype=torch.float64)
    dataset = simgen.Dataset.create(tmp_path / "a", torch.zeros(2_000, 1), x)
    model = simgen.VAE(latent=2, width=16)
    fitted = simgen.fit("x", dataset, model, max_epochs=20, progress=False)
    rows = sd * torch.randn(500, 2, dtype=torch.float64)
    with torch.no_grad():
        parts = fitted().elbo(rows, draws=64)
        assert parts.value.shape == (500,) and bool((parts.kl >= 0).all())
        exact = torch.distributions.Normal(0.0, sd).log_prob(rows).sum(-1)
        bound = fitted().log_prob(rows)
        assert parts.value.mean() < bound.mean() + 0.02 < exact.mean() + 0.05
        assert parts.value.mean() > exact.mean() - 0.3
        assert torch.equal(fitted().elbo(rows, draws=64).kl, parts.kl)
    flow = simgen.fit("x", dataset, max_epochs=1, progress=False)
    with pytest.raises(NotImplementedError, match="has no ELBO"):
        flow().elbo(rows)
