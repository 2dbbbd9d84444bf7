"""Fitted models as sbi has them: sbi's own tools say what ours say."""

import builtins
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

import simgen

pytest.importorskip("sbi")
pytestmark = pytest.mark.filterwarnings("ignore")
FLOW = simgen.Flow(transforms=2, hidden=(32, 32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """x = theta + noise: bounded and unbounded parameters; pictures and numbers of the same."""
    rng = np.random.default_rng(0)
    prior = simgen.Prior(a=Uniform(-2.0, 2.0), b=Normal(0.0, 1.0))
    theta = prior.sample((3000,), seed=0).numpy()
    noise = rng.standard_normal((3000, 2))
    return simgen.Dataset.create(
        tmp_path_factory.mktemp("sbi") / "d",
        theta=theta,
        x=(theta + 0.3 * noise).astype(np.float32),
        y=(theta[:, :1] + noise[:, :1]).astype(np.float32),
        z_map=np.broadcast_to(theta[:, :1, None, None], (3000, 1, 8, 8)).astype(np.float32),
        prior=prior,
    )


def trained(dataset, expression, epochs=10):
    return simgen.fit(expression, dataset, FLOW, max_epochs=epochs, progress=False)


@pytest.fixture(scope="module")
def posterior(dataset):
    return trained(dataset, "theta | x")


@pytest.fixture(scope="module")
def surrogate(dataset):
    return trained(dataset, "x | theta")


@pytest.fixture(scope="module")
def fresh(dataset):
    rng = np.random.default_rng(7)
    theta = dataset.prior.sample((300,), seed=7)
    noise = torch.from_numpy(rng.standard_normal((300, 2))).float()
    return theta, theta + 0.3 * noise


def test_a_posterior_says_what_the_conditional_says(posterior, fresh):
    theta, x = fresh
    ours = posterior.to_sbi()
    assert ours.default_x is None
    with pytest.raises(ValueError, match="Context"):
        ours.sample((3,))
    assert ours.set_default_x(x[0]) is ours and ours.default_x.shape == (1, 2)
    wanted = posterior(x[0]).log_prob(theta[:9])
    for found in (ours.log_prob(theta[:9]), ours.potential(theta[:9])):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        ours.log_prob(theta[:9], x=x[1]), posterior(x[1]).log_prob(theta[:9])
    )
    assert ours.log_prob(torch.tensor([2.5, 0.0])).tolist() == [-torch.inf]
    torch.manual_seed(3)
    drawn = ours.sample((5, 2), show_progress_bars=False)
    torch.manual_seed(3)
    assert torch.equal(drawn, posterior(x[0]).sample((5, 2))) and ours.sample().shape == (2,)
    assert ours.sample_batched((7,), x=x[:4], show_progress_bars=False).shape == (7, 4, 2)
    batched = ours.log_prob_batched(theta[:4], x[:4])
    torch.testing.assert_close(batched[0], posterior(x[:4]).log_prob(theta[:4]))
    with pytest.raises(ValueError, match="one observation; got 4"):
        ours.sample((3,), x=x[:4])
    slope = theta[:3].clone().requires_grad_()
    ours.potential(slope, track_gradients=True).sum().backward()
    assert (slope.grad != 0).all()


def test_sbi_calibrates_it(posterior, fresh):
    from sbi.diagnostics import run_sbc, run_tarp

    theta, x = fresh
    ours = posterior.to_sbi()
    said = {"num_posterior_samples": 200, "show_progress_bar": False}
    torch.manual_seed(0)
    ranks, averaged = run_sbc(theta, x, ours, **said)
    torch.manual_seed(0)
    draws = posterior(x).sample((200,))
    assert torch.equal(ranks, (draws < theta).sum(0).float()) and torch.equal(averaged, draws[0])
    ranks, _ = run_sbc(theta[:100], x[:100], ours, reduce_fns=ours.log_prob, **said)
    assert abs(float(ranks.mean()) / 200 - 0.5) < 4 * (1 / 1200) ** 0.5
    coverage, level = run_tarp(theta, x, ours, **said)
    # 1.6 / 300^0.5 is the 1 % point of an exact posterior; the rest is the fit's.
    assert float((coverage - level).abs().max()) < 0.15


def test_sbi_analyses_it(posterior, fresh):
    from sbi.analysis import ActiveSubspace, conditional_potential
    from sbi.diagnostics.sbc import get_nltp

    theta, x = fresh
    ours = posterior.to_sbi().set_default_x(x[0])
    q = posterior(x[0])
    best = ours.map(num_iter=30, num_to_optimize=5, num_init_samples=50)
    draws = q.sample((500,), seed=0)
    assert float(q.log_prob(best)[0]) > float(q.log_prob(draws).quantile(0.98))
    # One direction is nine times as narrow in a as in b would be alone: both vary.
    torch.manual_seed(0)
    values, _ = ActiveSubspace(ours).find_directions(posterior_log_prob_as_property=True)
    assert (values > 0).all()
    part, _, _ = conditional_potential(
        ours.potential_fn, ours.theta_transform, ours.prior, theta[0], [1]
    )
    torch.testing.assert_close(
        part(theta[:3, 1:]), q.log_prob(torch.stack([theta[0, :1].expand(3), theta[:3, 1]], -1))
    )
    nltp = get_nltp(theta[:4], x[:4], ours)  # warns not that it is unnormalised
    torch.testing.assert_close(nltp, -posterior(x[:4]).log_prob(theta[:4]))


def test_a_surrogate_is_an_estimator(surrogate, fresh):
    from sbi.neural_nets.estimators import ConditionalDensityEstimator

    theta, x = fresh
    ours = surrogate.to_sbi()
    assert isinstance(ours, ConditionalDensityEstimator)
    assert (tuple(ours.input_shape), tuple(ours.condition_shape)) == ((2,), (2,))
    wanted = surrogate(theta[:6]).log_prob(x[:6])
    torch.testing.assert_close(ours.log_prob(x[None, :6], theta[:6]), wanted[None])
    torch.testing.assert_close(ours.log_prob(x[:6], theta[:6]), wanted[None])
    torch.testing.assert_close(ours.loss(x[:6], theta[:6]), -wanted)
    many = x[:6].view(3, 2, 2)
    torch.testing.assert_close(
        ours.log_prob(many, theta[:6].view(3, 2, 2)), wanted.view(3, 2)
    )  # a condition a sample
    assert ours.log_prob(x[:5, None], theta[:6]).shape == (5, 6)
    assert ours.sample((4,), theta[:6]).shape == (4, 6, 2)
    drawn, log_q = ours.sample_and_log_prob((4,), theta[:6])
    torch.testing.assert_close(log_q, surrogate(theta[:6]).log_prob(drawn))


def test_sbi_samples_a_surrogate(surrogate, dataset, fresh):
    """The Gaussian's posterior of five independent events, by sbi's potential and its chains."""
    from sbi.inference import MCMCPosterior, likelihood_estimator_based_potential

    theta, _ = fresh
    events = theta[:1] + 0.3 * torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    potential, transform = likelihood_estimator_based_potential(
        surrogate.to_sbi(), dataset.prior, events
    )
    f = surrogate.log_likelihood(events, iid=True).with_prior()
    np.testing.assert_allclose(potential(theta[:4]).numpy(), f(theta[:4]), rtol=1e-4)
    slope = theta[:1].clone().requires_grad_()
    potential(slope, track_gradients=True).sum().backward()
    np.testing.assert_allclose(slope.grad.numpy(), f.gradient(theta[:1]), rtol=1e-3, atol=1e-3)
    chains = MCMCPosterior(
        potential,
        proposal=dataset.prior,
        theta_transform=transform,
        method="slice_np_vectorized",
        num_chains=10,
        init_strategy="proposal",
        warmup_steps=20,
        thin=1,
    )
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (sbi's chains)
    draws = chains.sample((100,), x=events, show_progress_bars=False)
    wanted = 0.3 / 5**0.5
    assert ((draws.mean(0) - events.mean(0)).abs() < 0.6 * wanted).all()
    assert ((draws.std(0) / wanted).log().abs() < 0.4).all()


@pytest.mark.parametrize(
    ("expression", "kind", "condition"),
    [
        ("b | y", "FittedPosterior", (1,)),
        ("theta | x, y", "FittedPosterior", (3,)),
        ("theta | z_map", "FittedPosterior", (1, 8, 8)),
        ("y | a", "FittedEstimator", (1,)),
        ("x | b, y", "FittedEstimator", (2,)),
    ],
)
def test_other_expressions(dataset, expression, kind, condition):
    c = trained(dataset, expression, 1)
    ours = c.to_sbi()
    assert type(ours).__name__ == kind
    estimator = ours if kind == "FittedEstimator" else ours.posterior_estimator
    assert tuple(estimator.condition_shape) == condition
    given = torch.rand(3, *condition) * 0.5
    assert estimator.sample((2,), given).shape == (2, 3, *estimator.input_shape)
    if kind == "FittedPosterior":
        assert ours.sample((4,), x=given[0]).shape == (4, *estimator.input_shape)
        ours.to("cpu")
        assert ours.set_default_x(given[0]).default_x.shape == (1, *condition)
    else:
        assert ours.log_prob(torch.zeros(1, 3, *ours.input_shape), given).shape == (1, 3)


def test_what_sbi_has_no_place_for(dataset):
    with pytest.raises(ValueError, match="not conditional"):
        trained(dataset, "x", 1).to_sbi()
    with pytest.raises(ValueError, match="several given fields must be vectors"):
        trained(dataset, "theta | x, z_map", 1).to_sbi()


def test_a_missing_sbi_is_named(posterior, monkeypatch):
    import_ = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "sbi":
            raise ImportError(f"No module named {name!r}")
        return import_(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "sbi", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"to_sbi needs the package sbi.*pip install sbi"):
        posterior.to_sbi()
