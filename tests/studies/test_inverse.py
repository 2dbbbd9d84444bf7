import json

import pytest
import torch

from studies.inverse import corrupted, gaussian, learned, peers
from studies.inverse.__main__ import main
from studies.inverse.measure import kl_floor, kl_of_white, sliced_w1
from studies.inverse.methods import OURS, draw, names
from studies.inverse.mixture import Task


def test_measures_against_closed_forms():
    torch.manual_seed(0)
    white = torch.randn(200_000, 3, dtype=torch.float64)
    assert kl_floor(4096, 16) == pytest.approx(16 * 19 / (4 * 4096), rel=0.3)
    moved = 2 * white + 1  # of N(1, 4 I)
    wanted = 0.5 * 3 * (4 + 1 - 1 - torch.tensor(4.0).log().item())
    assert kl_of_white(moved) == pytest.approx(wanted, rel=0.01)
    # projections of a shift by 1 in 3 dimensions are uniform in [-1, 1]: 1/2 in the mean
    shift = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert sliced_w1(white[:5000], white[:5000] + shift) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("covariance", gaussian.COVARIANCES)
def test_gate_1(covariance):
    task = gaussian.Task.of(covariance, "Radon", 4)
    for method in ("closed-form", "ancestral", "smc"):
        found = gaussian.measure(task, method)
        assert found["kl"] < 2 * found["floor"]
        assert abs(found.get("nats", 0.0)) < 1e-5
    assert gaussian.measure(task, "moment-matching")["kl"] > 10 * found["floor"]


def test_exact_draws_of_the_mixture_are_those_of_its_posterior():
    """Against a second way, `MixturePrior.condition`."""
    task = Task.of(8, 2, 0)
    noise = task.sigma**2 * torch.eye(2).double()
    posterior = task.prior.condition(task.A, task.y, noise)
    torch.manual_seed(1)
    floor = sliced_w1(posterior.sample((2000,)), posterior.sample((2000,)))
    assert sliced_w1(task.exact(2000, 0), posterior.sample((2000,))) < 3 * floor
    exact = float(task.prior.log_evidence(task.A, task.y, noise))
    assert task.log_evidence == pytest.approx(exact, abs=1e-9)


def test_gates_2_and_3():
    task = Task.of(8, 4, 0)
    exact, again = task.exact(1000, 0), task.exact(1000, 1)
    floor = sliced_w1(exact, again)
    drawn = draw(task, "smc", 1000, 0)
    value, error = drawn.evidence
    assert sliced_w1(drawn.x, exact) < 3 * floor and drawn.particles == 8192
    assert abs(value - task.log_evidence) < 4 * error
    assert sliced_w1(draw(task, "diffpir", 1000, 0).x, exact) > 3 * floor


@pytest.mark.skipif(peers.missing() is not None, reason="azula is not installed")
@pytest.mark.parametrize("method", peers.METHODS)
def test_peers_draw(method):
    """A Gaussian prior and one number observed: azula's methods find the mean that it forces."""
    task = Task.of(8, 1, 0)
    x = draw(task, method, 64, 0).x
    assert method in names() and x.shape == (64, 8)
    assert bool(x.isfinite().all())


def test_a_partial_run_adds_to_what_is_there(tmp_path):
    main("--gates 2 --dx 8 --dy 4 --seeds 1 --methods dps".split(), tmp_path)
    main("--gates 2 --dx 8 --dy 4 --seeds 1 --first 1 --methods diffpir".split(), tmp_path)
    cell = json.loads((tmp_path / "result.json").read_text())["mixture"]["8, 4"]
    assert list(cell["floor"]) == ["0", "1"]
    assert list(cell["dps"]) == ["0"] and list(cell["diffpir"]) == ["1"]
    page = (tmp_path / "result.md").read_text()
    assert "DiffPIR" in page and "n = 2" in page and (tmp_path / "figure.png").is_file()
    with pytest.raises(SystemExit):
        main(["--gates", "7"], tmp_path)


def test_gate_6_learns_the_prior_of_gate_2():
    _, about = learned.learn(2_000, 0)
    assert about["w1"] < 12 * about["floor"] and set(OURS) <= set(names())


def test_what_corrupted_data_are():
    torch.manual_seed(0)
    x = corrupted.target().sample((4000,))
    y, A = corrupted.observe(x)
    rest = (y - torch.einsum("nmd,nd->nm", A, x)) / corrupted.SIGMA
    assert float(rest.square().mean()) == pytest.approx(1, abs=4 * (2 / 12_000) ** 0.5)
