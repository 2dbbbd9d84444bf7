"""SALLY: the learned summary against exact scores, and as an embedding."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

import simgen
from simgen.networks.score import Regression
from simgen.summary import sally
from simulators.galton import Galton

A = np.array([[1.0, 0.3], [0.0, 1.0], [1.0, -1.0]])
EVENTS = 20
PRIOR = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))


def linear(n, seed=0, events=None, theta=None):
    """theta → z = A theta + noise → x = z + more noise; the score is linear in x and theta."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n, 2)) if theta is None else np.tile(theta, (n, 1))
    mean = (theta @ A.T)[:, None]
    z = mean + rng.standard_normal((n, events or 1, 3))
    x = z + 0.7 * rng.standard_normal(z.shape)
    score = (z - mean).sum(1) @ A
    return theta, x if events else x[:, 0], score


def exact(x, theta):
    events = x.reshape(len(x), -1, 3)
    return (events - np.asarray(theta) @ A.T).sum(1) @ A / (1 + 0.7**2)


def correlations(network, x, score):
    """Of each output with its component of the exact score."""
    with torch.no_grad():
        s = network(network.preprocessing[0](torch.from_numpy(x))).numpy()
    assert s.shape == score.shape
    return [np.corrcoef(s[:, i], score[:, i])[0, 1] for i in range(score.shape[1])]


@pytest.mark.parametrize("events", [None, EVENTS])
def test_the_score_of_a_linear_gaussian(tmp_path, events):
    theta, x, score = linear(2000, events=events)
    declared = {"x": simgen.Field((events, 3), layout="set", iid=True)} if events else None
    data = simgen.Dataset.create(
        tmp_path / "d", theta=theta, x=x, joint_score=score, prior=PRIOR, declared=declared
    )
    network = sally(data, theta_ref=[0.3, -0.2], max_epochs=30)
    _, fresh, _ = linear(1000, seed=1, events=events)
    for found in correlations(network, fresh, exact(fresh, [0.3, -0.2])):
        assert found > 0.98


def test_rows_at_the_reference_point_alone(tmp_path):
    theta, x, score = linear(2000, theta=[0.5, 0.5])
    data = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x, joint_score=score)
    network = sally(data, max_epochs=10)
    for found in correlations(network, x, exact(x, [0.5, 0.5])):
        assert found > 0.99
    with pytest.raises(ValueError, match="outside the simulated parameters"):
        sally(data, theta_ref=[0.5, 0.6])


def test_the_score_of_galtons_board(tmp_path):
    """Not linear in x, and another one at each reference point."""
    board = Galton(10)
    data = simgen.simulate(board, 6000, tmp_path / "board", seed=0)
    network = sally(data, theta_ref=[-0.4], max_epochs=20)
    x = board(np.full((4000, 1), -0.4), seed=5)["x"]
    (found,) = correlations(network, x, board.score(x, np.array([-0.4])))
    assert found > 0.99
    (other,) = correlations(network, x, board.score(x, np.array([0.4])))
    assert other < found - 5e-3


def test_as_an_embedding(tmp_path):
    """A posterior through the summary: that of the exact one, and the same after a round trip."""
    theta, x, score = linear(3000)
    path = tmp_path / "d"
    data = simgen.Dataset.create(path, theta=theta, x=x, joint_score=score, prior=PRIOR)
    network = sally(data, max_epochs=20)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    flow = simgen.Flow(transforms=1, hidden=(32,))
    posterior = simgen.fit("theta | x", data, flow, embedding=network, max_epochs=15)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    inside = posterior.pipeline.heads[0].embeds("x")
    assert all(torch.equal(before[k], v) for k, v in inside.state_dict().items())
    precision = np.eye(2) + A.T @ A / 1.49
    covariance = np.linalg.inv(precision)
    truth, fresh, _ = linear(300, seed=2)
    mean = torch.from_numpy(fresh @ A @ covariance / 1.49)
    p = torch.distributions.MultivariateNormal(mean, torch.from_numpy(covariance))
    gap = float((p.log_prob(torch.from_numpy(truth)) - posterior(fresh).log_prob(truth)).mean())
    assert -0.02 < gap < 0.06
    posterior.save(tmp_path / "posterior.safetensors")
    again = simgen.load(tmp_path / "posterior.safetensors")
    assert torch.equal(again(fresh).log_prob(truth), posterior(fresh).log_prob(truth))


def test_the_preprocessing_goes_along(tmp_path):
    """Rows of another spread are brought to the scale that the summary was trained on."""
    theta, x, score = linear(1000)
    data = simgen.Dataset.create(tmp_path / "wide", theta=theta, x=x, joint_score=score)
    network = sally(data, max_epochs=1)
    theta, x, _ = linear(1000, theta=[0.2, 0.0])
    theta = theta + 1e-3 * np.random.default_rng(0).standard_normal(theta.shape)
    narrow = simgen.Dataset.create(tmp_path / "narrow", theta=theta, x=x)
    c = simgen.fit("theta | x", narrow, simgen.Flow(transforms=1), embedding=network, max_epochs=1)
    used, known = c.pipeline.given_field("x"), network.preprocessing[0]
    assert torch.equal(used.loc, known.loc) and torch.equal(used.scale, known.scale)
    short = simgen.Dataset.create(tmp_path / "short", theta=theta, x=x[:, :2])
    with pytest.raises(ValueError, match="trained on a vector of 3 columns"):
        simgen.fit("theta | x", short, simgen.Flow(transforms=1), embedding=network)


def test_heavy_tails_do_not_bend_the_mean(tmp_path):
    """A joint score of infinite kurtosis: a mean behind asinh would be another one."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (20_000, 1))
    x = theta + rng.standard_normal(theta.shape)
    score = (x - theta) + rng.standard_t(2.1, theta.shape)
    prior = simgen.Prior(a=Uniform(-1.0, 1.0))
    data = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x, joint_score=score, prior=prior)
    network = sally(data, theta_ref=[0.0], max_epochs=3)
    (found,) = correlations(network, x[:2000], x[:2000])
    assert found > 0.99


def test_the_regression_starts_from_least_squares():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((500, 4)))
    weight = torch.from_numpy(rng.standard_normal((4, 2)))
    network = Regression(4, 2).double()
    network.initialise(x, x @ weight + 0.5)
    torch.testing.assert_close(network(x), x @ weight + 0.5, rtol=0, atol=1e-4)


def test_a_false_score_is_refused(tmp_path):
    theta, x, _ = linear(3000)
    data = simgen.Dataset.create(
        tmp_path / "d", theta=theta, x=x, joint_score=theta @ A.T @ A - x @ A, prior=PRIOR
    )
    with pytest.raises(ValueError, match="is no joint score"):
        sally(data)
    with pytest.raises(ValueError, match="no field 'gold'"):
        sally(data, gold="gold")
