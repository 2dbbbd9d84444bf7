"""Ensembles: members trained at once are members trained apart; images and maps as targets."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

import simgen
from simgen import Dataset, Field, Prior
from simgen.fitting.stacking import Members
from simgen.models import Ensemble, Flow
from simgen.models.base import ModelDistribution


@dataclass(frozen=True)
class Affine:
    """z = A c + B map + b + exp(s) eps."""

    spread: float = 0.1

    def build(self, target, given):
        return AffineModule(self, target, given)


class AffineModule(nn.Module):
    density = "exact"

    def __init__(self, family, target, given):
        super().__init__()
        self.event_shape = self.noise_shape = torch.Size(target.shape)
        context = given["context"].size if "context" in given else 0
        grid = given["map"].shape[0] if "map" in given else 0
        self.weight = nn.Parameter(family.spread * torch.randn(target.size, context))
        self.mix = nn.Parameter(family.spread * torch.randn(target.shape[0], grid))
        self.bias = nn.Parameter(torch.zeros(target.shape))
        self.log_sd = nn.Parameter(torch.zeros(()))

    def mean(self, given, n):
        context, grid = given
        mean = self.bias.expand(n, *self.event_shape)
        if context is not None:
            mean = mean + (context @ self.weight.t()).view(n, *self.event_shape)
        if grid is not None:
            mean = mean + torch.einsum("oc,nc...->no...", self.mix, grid)
        return mean

    def log_prob(self, z, given):
        e = (z - self.mean(given, len(z))) * torch.exp(-self.log_sd)
        size = math.prod(self.event_shape)
        return -0.5 * e.flatten(1).square().sum(1) - size * (
            self.log_sd + 0.5 * math.log(2 * math.pi)
        )

    def loss(self, target, given):
        return -self.log_prob(target, given)

    def transport(self, noise, given):
        rows = noise.shape[1]
        return self.mean(given, rows) + torch.exp(self.log_sd) * noise

    def distribution(self, given):
        return ModelDistribution(self, given)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(600, 2))
    x = theta @ np.array([[1.0, 0.3], [0.0, 1.0]]) + 0.5 * rng.normal(size=(600, 2))
    prior = Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    path = tmp_path_factory.mktemp("d") / "gauss"
    return Dataset.create(path, theta=theta, x=x, prior=prior)


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Dataset:
    """Maps 3 a + 0.5 y + noise, with a given map y and a constant second channel."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(800, 1))
    y = rng.normal(size=(800, 1, 4, 6))
    x = 3 * a[..., None, None] + 0.5 * y + 0.2 * rng.normal(size=y.shape)
    x = np.concatenate([x, np.full_like(x, 7.0)], 1)
    fields = {"y": Field((1, 4, 6), "image"), "x": Field((2, 4, 6), "image")}
    path = tmp_path_factory.mktemp("d") / "maps"
    return Dataset.create(path, a=a, y=y, x=x, declared=fields)


@pytest.mark.parametrize("family", [Affine(), Flow(transforms=2, hidden=(16,))])
def test_losses_and_gradients_of_stacked_members_are_those_of_each(dataset, family) -> None:
    posterior = simgen.fit(
        "theta | x", dataset, Ensemble(family, 3), max_epochs=1, seed=3, progress=False
    )
    pipeline = posterior.pipeline.requires_grad_(True)
    with torch.no_grad():
        for p in pipeline.parameters():  # a start in closed form may be the same for all
            p.add_(0.05 * torch.randn_like(p))
    members = Members(pipeline)
    z = torch.randn(20, 2)
    given = {"x": torch.randn(20, 2)}
    losses = members.losses(z, given, {})
    assert members.mapped
    torch.testing.assert_close(losses, pipeline.loss(z, given))
    assert (losses[0] - losses[1]).abs().max() > 1e-4  # members differ
    losses.mean(1).sum().backward()
    pipeline.loss(z, given).mean(1).sum().backward()
    for i, name in enumerate(members._parameter_names):
        apart = [dict(h.named_parameters())[name].grad for h in pipeline.heads]
        if apart[0] is not None:
            together = getattr(members, f"p{i}").grad
            torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-6)


def test_clipping_is_of_each_member_on_its_own(dataset) -> None:
    posterior = simgen.fit(
        "theta | x", dataset, Ensemble(Affine(), 2), max_epochs=1, progress=False
    )
    members = Members(posterior.pipeline.requires_grad_(True))
    for p in members.parameters():
        p.grad = torch.stack([torch.full_like(p[0], 1e-3), torch.full_like(p[0], 1e3)])
    norms = members.clip_(1.0)
    again = members.clip_(1.0)
    assert norms[0] < 1 < norms[1]
    wanted = torch.stack([norms[0], torch.tensor(1.0)])
    torch.testing.assert_close(again, wanted, rtol=1e-4, atol=0)
    for p in members.parameters():
        p.grad[1].fill_(math.nan)
    members.clip_(1.0)
    assert all(bool((p.grad[1] == 0).all()) for p in members.parameters())


def test_a_mixture_is_the_mean_of_its_members_and_draws_from_each(dataset) -> None:
    posterior = simgen.fit(
        "theta | x", dataset, Ensemble(Affine(spread=2.0), 4), max_epochs=1, progress=False
    )
    q = posterior(torch.tensor([[0.3, -0.2], [1.0, 1.0], [0.0, 0.0]]))
    theta = torch.randn(5, 3, 2)
    parts = torch.stack([m.log_prob(theta) for m in q.members])
    torch.testing.assert_close(q.log_prob(theta), parts.logsumexp(0) - math.log(4))
    draws = q.sample((40_000,), seed=0)
    means = torch.stack([m.sample((40_000,), seed=1).mean(0) for m in q.members])
    spread = means.std(0).min()
    assert spread > 0.05  # else nothing is tested
    torch.testing.assert_close(draws.mean(0), means.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(q.sample((7,), seed=5), q.sample((7,), seed=5))
    with pytest.raises(NotImplementedError, match="ensemble has no transport"):
        q.transport(torch.randn(2, 3, 2))


def test_an_ensemble_survives_its_file(dataset, tmp_path) -> None:
    posterior = simgen.fit(
        "theta | x", dataset, Ensemble(Flow(transforms=1), 2), max_epochs=2, progress=False
    )
    posterior.save(tmp_path / "p.safetensors")
    loaded = simgen.load(tmp_path / "p.safetensors")
    x = torch.tensor([0.1, 0.2])
    assert loaded.family == posterior.family
    torch.testing.assert_close(
        loaded(x).sample((9,), seed=2), posterior(x).sample((9,), seed=2), rtol=0, atol=0
    )


def test_an_interrupted_ensemble_goes_on_bit_by_bit(dataset, tmp_path) -> None:
    family = Ensemble(Flow(transforms=1, hidden=(8,)), 2)
    settings = {"model": family, "progress": False, "seed": 4}
    whole = simgen.fit("theta | x", dataset, max_epochs=4, **settings)
    path = tmp_path / "c"
    with pytest.MonkeyPatch.context() as patch:
        from simgen.training import Training

        update = Training._update

        def interrupted(self, batch, rate):
            if self.step == 5:
                raise KeyboardInterrupt
            return update(self, batch, rate)

        patch.setattr(Training, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simgen.fit("theta | x", dataset, max_epochs=4, checkpoint=path, **settings)
    again = simgen.fit("theta | x", dataset, max_epochs=4, checkpoint=path, **settings)
    for key, value in whole.pipeline.state_dict().items():
        torch.testing.assert_close(
            again.pipeline.state_dict()[key], value, rtol=0, atol=0, equal_nan=True
        )


def test_an_image_is_modelled_given_a_map_and_a_number(maps) -> None:
    emulator = simgen.fit(
        "x | a, y",
        maps,
        Affine(),
        embedding={"a": None},
        max_epochs=200,
        batch_size=64,
        learning_rate=0.02,
        progress=False,
    )
    assert emulator.pipeline.heads[0].maps == ("y",)
    y = torch.randn(3, 1, 4, 6)
    a = torch.tensor([[0.0], [1.0], [-2.0]])
    q = emulator(a=a, y=y)
    draws = q.sample((400,), seed=0)
    assert draws.shape == (400, 3, 2, 4, 6) and q.event_shape == (2, 4, 6)
    assert bool((draws[:, :, 1] == 7.0).all())
    wanted = 3 * a[..., None, None] + 0.5 * y
    torch.testing.assert_close(draws.mean(0)[:, :1], wanted, atol=0.12, rtol=0)
    torch.testing.assert_close(draws.std(0)[:, 0].mean(), torch.tensor(0.2), atol=0.03, rtol=0)
    x = torch.cat([wanted, torch.full_like(wanted, 7.0)], 1)
    found = q.log_prob(x)
    exact = Normal(0.0, 0.2).log_prob(torch.tensor(0.0)) * 24
    assert found.shape == (3,)
    torch.testing.assert_close(found, exact.expand(3), atol=2.5, rtol=0)
    assert bool((q.log_prob(x + 1) == -math.inf).all())  # the constant channel differs


def test_other_mixtures_with_an_image_are_refused(maps) -> None:
    with pytest.raises(ValueError, match="target alone"):
        simgen.fit("x, y | a", maps, Affine(), progress=False)


def test_ensembles_of_one_or_of_ensembles_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Ensemble(Flow(), 1)
    with pytest.raises(ValueError, match="family must be"):
        Ensemble(Ensemble(Flow(), 2), 2)
