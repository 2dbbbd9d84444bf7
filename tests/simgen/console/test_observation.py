"""Observations in every form are the same numbers; draws in every file are the same draws."""

import json

import numpy as np
import pytest
import torch

import simgen
from simgen.console.observation import read_observation, write_samples

X = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=np.float32)
THETA = np.array([0.25, 0.75], dtype=np.float32)


class Given:
    """What read_observation looks at of a conditional."""

    def __init__(self, expression="theta | x"):
        self.expression = expression
        target, _, given = expression.partition(" | ")
        self.target, self.given = (target,), tuple(given.split(", ")) if given else ()
        self.fields = {
            "x": simgen.Field((3, 2), "set"),
            "theta": simgen.Field((2,), names=("a", "b")),
        }


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    np.save(tmp_path / "row.npy", X[None])
    np.savez(tmp_path / "x.npz", x=X)
    np.savez(tmp_path / "other.npz", data=X)
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="u,v", comments="")
    np.savetxt(tmp_path / "blank.csv", X)
    (tmp_path / "x.json").write_text(json.dumps(X.tolist()))
    (tmp_path / "named.json").write_text(json.dumps({"x": X.tolist()}))
    (tmp_path / "theta.json").write_text(json.dumps({"b": 0.75, "a": 0.25}))
    np.savez(tmp_path / "both.npz", x=X, theta=THETA)
    return tmp_path


NAMES = ["x.npy", "row.npy", "x.npz", "other.npz", "x.csv", "blank.csv", "x.json", "named.json"]


@pytest.mark.parametrize("name", [*NAMES, "both.npz"])
def test_every_form_holds_the_same(files, name):
    seen = read_observation([str(files / name)], Given())
    assert list(seen.given) == ["x"] and seen.truth is None
    assert np.allclose(seen.given["x"], X) and seen.given["x"].shape == (3, 2)


@pytest.mark.parametrize("text", ["theta.json", "0.25,0.75"])
def test_a_vector_by_its_columns(files, text):
    text = str(files / text) if text.endswith("json") else text
    assert np.allclose(read_observation([text], Given("x | theta")).given["theta"], THETA)


def test_several_fields(files):
    wanted = Given("z | x, theta")
    for texts in ([files / "both.npz"], [f"x={files / 'x.csv'}", "theta=0.25,0.75"]):
        given = read_observation([str(t) for t in texts], wanted).given
        assert np.allclose(given["x"], X) and np.allclose(given["theta"], THETA)
    with pytest.raises(ValueError, match="say which field"):
        read_observation(["0.25,0.75"], wanted)
    with pytest.raises(ValueError, match="needs the field 'theta'"):
        read_observation([f"x={files / 'x.csv'}"], wanted)


def test_fewer_elements_of_a_set(files):
    np.save(files / "short.npy", X[:2])
    assert read_observation([str(files / "short.npy")], Given()).given["x"].shape == (2, 2)


def test_a_row_of_a_dataset_with_its_truth(tmp_path):
    x = np.stack([X, X + 1])
    made = simgen.Dataset.create(
        tmp_path / "d",
        theta=np.stack([THETA, THETA + 1]),
        x=x,
        x_length=np.array([3, 2]),
    )
    seen = read_observation([f"{made.path}:1"], Given())
    assert np.allclose(seen.given["x"], X + 1) and seen.given["x_length"] == 2
    assert np.allclose(seen.truth, THETA + 1)
    assert np.allclose(read_observation([f"{made.path}:-2"], Given()).truth, THETA)
    with pytest.raises(ValueError, match="0 to 1"):
        read_observation([f"{made.path}:2"], Given())


@pytest.mark.parametrize(
    "content, said",
    [
        (b"1,2\n3\n", "different numbers of columns"),
        (b"", "no"),
        (b"1,2\nthree,4\n5,6", "cannot be read"),
        (b"1,2,3,4", "shape"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, content, said):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_observation([str(tmp_path / "a.csv")], Given())


def test_no_observation_where_none_is_given():
    assert read_observation([], Given("x")).given == {}
    with pytest.raises(ValueError, match="leave --given out"):
        read_observation(["1,2"], Given("x"))


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".h5"])
def test_draws_come_back(tmp_path, suffix):
    q = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
    samples = simgen.Samples.draw(q, 50, seed=0, names=("a", "b"))
    path = tmp_path / f"s{suffix}"
    write_samples(samples, path)
    if suffix == ".csv":
        found = np.loadtxt(path, delimiter=",", skiprows=1)
    elif suffix == ".h5":
        found = simgen.Samples.load(path).draws
    else:
        found = np.load(path)
        found = found["draws"] if suffix == ".npz" else found
    assert np.allclose(found, samples.draws, rtol=1e-7)
