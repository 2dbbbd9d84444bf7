"""Typicality: p-values keep their promise, troubles are seen, the command refuses."""

import json
import logging
import math

import h5py
import numpy as np
import pytest
import torch

import simgen
import simulators
from simgen.charts import Chart
from simgen.cli import main
from simgen.null import Typicality
from simgen.page import Page
from simgen.reporting import _likeness
from simgen.row_summaries import RowSummary, atoms
from simgen.typicality import SUSPECT, check_observation, p_values

FLOW = simgen.Flow(transforms=1, hidden=(16,))
REDSHIFTS = np.linspace(0.02, 1.2, 20)
SUPERNOVAE = {"z": REDSHIFTS, "covariance": np.diag(np.full(20, 0.03**2)) + 0.01**2}


def fitted(folder, simulator, n, expression="theta | x", **settings):
    dataset = simgen.simulate(simulator, n, folder, seed=1, progress=False)
    settings = {"max_epochs": 1, "progress": False, "device": "cpu"} | settings
    return simgen.fit(expression, dataset, FLOW, **settings)


def observations(simulator, n, seed=7):
    return simulator(np.asarray(simulator.prior.sample((n,), seed=seed)), seed=seed + 1)["x"]


SIMULATORS = {
    "gaussian": (lambda: simulators.GaussianLinear(), 8_000),
    "supernovae": (lambda: simulators.Supernovae(**SUPERNOVAE), 8_000),
    "collider": (lambda: simulators.ColliderShower(events=100), 3_000),
    "map": (lambda: simulators.ConvergenceMaps(pixels=32), 4_000),
}


@pytest.fixture(scope="module", params=SIMULATORS)
def case(request, tmp_path_factory):
    make, n = SIMULATORS[request.param]
    simulator = make()
    embedding = {"map": simgen.networks.PowerSpectrum(1, (32, 32))}.get(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "data"
    return request.param, simulator, fitted(folder, simulator, n, embedding=embedding)


def test_false_alarms(case):
    # of n held-out rows, the size is Beta(n a, n (1 - a)): at n = 300 1 % +- 0.6 %
    _, simulator, model = case
    p = p_values(model, observations(simulator, 1_000)).numpy()
    n = len(model.typicality.null)
    assert n >= 300 and p.min() >= 1 / (n + 1)
    for level in (0.01, 0.1, 0.5):
        sd = math.sqrt(level * (1 - level) * (1 / n + 1 / len(p)))
        assert abs((p <= level).mean() - level) < 3.5 * sd


def troubled(name, kind, simulator, x, rng):
    """x with a strong trouble of each kind."""
    noise = rng.standard_normal(x.shape)
    if name == "gaussian":
        return {
            "noise": x + math.sqrt((4.5**2 - 1) * 0.1) * noise,
            "background": x + 4 * math.sqrt(0.1),
            "mask": np.where(np.arange(10) < 3, 0, x),
            "scale": 4 * x,
        }[kind]
    if name == "supernovae":
        root = np.linalg.cholesky(simulator.covariance)
        return {
            "noise": x + math.sqrt(3**2 - 1) * noise @ root.T,
            "background": x + 0.3 * (REDSHIFTS < 0.3),
            "mask": np.where(np.arange(20) == 5, 0, x),
            "scale": 1.2 * x,
        }[kind]
    if name == "collider":
        out = x.copy()
        if kind == "noise":
            out[..., 0] *= np.exp(0.5 * noise[..., 0])
        elif kind == "background":
            out[:, :25] = rng.uniform([100, -1, 0, 0], [150, 1, 8, 0.4], (len(x), 25, 4))
        elif kind == "mask":
            out[..., 2:][np.abs(x[..., 1]) < 0.5] = 0
        else:
            out[..., 0] *= 2
        return out
    out = x.copy()
    out[:, :, 4:12, 4:12] = 0
    return {
        "noise": x + math.sqrt(3**2 - 1) * simulator.sigma_pix * noise,
        "background": x + 4 * simulator.sigma_pix * np.linspace(-1, 1, 32),
        "mask": out,
        "scale": 3 * x,
    }[kind]


@pytest.mark.parametrize("kind", ["noise", "background", "mask", "scale"])
def test_troubles_are_detected(case, kind):
    name, simulator, model = case
    x = observations(simulator, 200, seed=11).astype(float)
    other = troubled(name, kind, simulator, x, np.random.default_rng(0))
    p = p_values(model, other.astype(np.float32)).numpy()
    assert (p <= SUSPECT).mean() >= 0.95


def test_files(case, tmp_path):
    _, simulator, model = case
    model.save(tmp_path / "model")
    again = simgen.load(tmp_path / "model")
    x = observations(simulator, 20)
    assert torch.equal(p_values(model, x), p_values(again, x))
    _, tensors = model.typicality.save()
    assert sum(v.nbytes for v in tensors.values()) < 1_000_000


def test_p_values_count_what_is_as_unusual():
    null = Typicality({}, {}, {}, None, torch.tensor([1.0, 2.0, 2.0, 3.0]))
    t = {"a": torch.tensor([0.5, 2.0, 2.5, 9.0]), "b": torch.zeros(4)}
    assert torch.allclose(null.p(t) * 5, torch.tensor([5.0, 4.0, 2.0, 1.0]).double())


def test_atoms():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [3.0, 3.0, 3.0]])
    assert atoms(x).tolist() == [[0, 0], [1, 0], [2, 1], [0, 2]]
    mask = torch.tensor([[True, True, False]] * 4)
    assert atoms(x, mask).tolist() == [[0, 0], [1, 0], [2, 1], [0, 1]]


@pytest.mark.parametrize("layout", ["set", "series"])
@pytest.mark.parametrize("masked", [False, True])
def test_summaries_of_elements(layout, masked):
    torch.manual_seed(0)
    z = torch.randn(40, 9, 2)
    mask = torch.arange(9) < torch.randint(3, 10, (40, 1)) if masked else None
    summary = RowSummary.fitted(layout, z, mask)
    groups = summary(z, mask)
    h = groups["moments"]
    assert all(v.isfinite().all() and v.dtype == torch.float64 for v in groups.values())
    first = z[0, 1:] if layout == "series" else z[0]
    there = first if mask is None else first[mask[0, 1:] if layout == "series" else mask[0]]
    scale = math.sqrt(len(there) / float(summary.count))
    mean = there.double().mean(0) - summary.centre[:2]
    torch.testing.assert_close(h[0, :2], scale * mean)
    if masked:  # padding is not looked at
        z = torch.where(mask[..., None], z, 1e3)
        torch.testing.assert_close(summary(z, mask), groups)
    other = summary(z.flip(1), None if mask is None else mask.flip(1))
    same = all(torch.allclose(other[k], v, atol=1e-9) for k, v in groups.items())
    assert same == (layout == "set")


def test_dead_blocks_of_an_image_in_three_axes():
    torch.manual_seed(0)
    z = torch.randn(300, 1, 12, 6, 4)
    summary = RowSummary.fitted("image", z)
    chart = Chart.fitted(summary(z)["roughness"])
    dead = z.clone()
    dead[:, :, :4, :3] = 0
    usual, unusual = (chart.scores(summary(v)["roughness"])["distance"] for v in (z, dead))
    assert (unusual > usual.quantile(0.99)).all()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    simulator = simulators.GaussianLinear()
    model = fitted(folder / "data", simulator, 3_000)
    model.save(folder / "model.safetensors")
    return folder, simulator, model


def test_a_call_warns_of_one_observation(work, caplog):
    _, simulator, model = work
    x = observations(simulator, 1)[0]
    with caplog.at_level(logging.WARNING, "simgen"):
        model(x)
        model(np.stack([x, 10 * x + 5]))
        assert not caplog.records
        model(10 * x + 5)
    assert len(caplog.records) == 1 and "unlike the simulations" in caplog.text


def test_one_observation(work):
    _, simulator, model = work
    x = observations(simulator, 3)
    found = check_observation(model, x[0])
    assert float(found) == float(p_values(model, x)[0]) and not found.suspect
    assert 250 < found.rows < 350 and set(found.parts) >= {"distance of x", "zeros in x"}
    dead = x[0].copy()
    dead[2] = 0
    assert check_observation(model, x=dead).because == "zeros in x"
    with pytest.raises(ValueError, match="one observation at a time"):
        check_observation(model, x)


def test_parameters_are_not_doubted_in_a_call(tmp_path, caplog):
    model = fitted(tmp_path / "data", simulators.GaussianLinear(), 500, "x | theta")
    with caplog.at_level(logging.WARNING, "simgen"):
        model(np.full(10, 9.0))
    assert not caplog.records
    p = p_values(model, np.stack([np.linspace(-0.3, 0.4, 10), np.linspace(8, 9, 10)]))
    assert p[0] > 0.05 and p[1] == 1 / (len(model.typicality.null) + 1)


def test_models_without_a_null(tmp_path):
    model = fitted(tmp_path / "data", simulators.GaussianLinear(), 500, "x")
    assert model.typicality is None
    model.save(tmp_path / "model")
    assert simgen.load(tmp_path / "model").typicality is None
    with pytest.raises(ValueError, match="knows no null"):
        check_observation(model)


@pytest.mark.parametrize("negative", [False, True])
def test_weighted_rows(tmp_path, negative):
    # half of the rows, at x = 8, hardly count: what lies there is unusual
    rng = np.random.default_rng(0)
    far = rng.random(4_000) < 0.5
    x = (rng.standard_normal((4_000, 3)) + 8 * far[:, None]).astype(np.float32)
    weight = np.where(far, 0.001, 1.0).astype(np.float32)
    weight[0] = -1 if negative else 1
    dataset = simgen.Dataset.create(
        tmp_path / "data", theta=x[:, :1] + 0.1, x=x, weight=weight[:, None]
    )
    model = simgen.fit("theta | x", dataset, FLOW, max_epochs=1, progress=False)
    if negative:
        assert model.typicality is None
        return
    assert len(model.typicality.null) < 260
    p = p_values(model, np.array([[0.3, -0.4, 0.5], [8.0, 8.2, 7.9]]))
    assert p[0] > 0.05 and p[1] < 0.02


def test_variable_sets_and_files(tmp_path):
    rng = np.random.default_rng(0)
    length = rng.integers(5, 30, 3_000)
    theta = rng.uniform(-1, 1, (3_000, 1))
    events = rng.standard_normal((3_000, 30, 2)) + theta[..., None]
    padded = events * (np.arange(30) < length[:, None])[..., None]
    dataset = simgen.Dataset.create(
        tmp_path / "data", theta=theta, x=padded.astype(np.float32), x_length=length
    )
    model = simgen.fit("theta | x", dataset, FLOW, max_epochs=1, progress=False)
    known = check_observation(model, events[0, :20])
    assert known > 0.05
    assert check_observation(model, 3 * events[0, :20]) < 0.01
    assert known == check_observation(model, padded[0] * 0 + events[0], x_length=20)


def command(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def test_the_command_refuses_and_records(work, capsys):
    folder, simulator, _ = work
    np.save(folder / "good.npy", observations(simulator, 1)[0])
    np.save(folder / "bad.npy", np.full(10, 4.0))
    model = folder / "model.safetensors"
    draw = ["sample", model, "-n", 10]
    assert command(*draw, "--given", folder / "bad.npy", "-o", folder / "no.h5") == 2
    assert "--force" in capsys.readouterr().err and not (folder / "no.h5").exists()
    for name, words in {"good": [], "bad": ["--force"]}.items():
        out = folder / f"{name}.h5"
        assert command(*draw, "--given", folder / f"{name}.npy", "-o", out, *words) == 0
        with h5py.File(out) as file:
            said = json.loads(file.attrs["check_observation"])
        assert said["forced"] == (name == "bad") and (said["p_value"] <= SUSPECT) == (
            name == "bad"
        )
        assert len(simgen.Samples.load(out)) == 10
        command(*draw, "--given", folder / f"{name}.npy", "-o", folder / f"{name}.csv", *words)
        assert (folder / f"{name}.csv.check.json").exists() == (name == "bad")


def test_the_report_says_a_number(work, tmp_path):
    _, simulator, model = work
    x = observations(simulator, 1)[0]
    for value, text in ((x, "could be a simulation"), (x + 5, "unlike the simulations")):
        page = Page("page", "")
        _likeness(page, model, {"x": value})
        assert text in page.write(tmp_path / "page.html").read_text()
