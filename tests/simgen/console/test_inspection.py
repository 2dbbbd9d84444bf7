"""Inspection: files are told apart by what they hold."""

import h5py
import numpy as np
import pytest

import simgen
from simgen.console.inspection import inspect, plus_minus, summary_section


def test_a_dataset_of_arrays(tmp_path):
    simgen.Dataset.create(tmp_path / "d", theta=np.ones((5, 2)), x=np.ones((5, 3)))
    facts, fields = inspect(tmp_path / "d")
    assert ("rows", "5 of 5 planned") in facts.rows
    assert [row[:2] for row in fields.rows] == [("theta", "(2,)"), ("x", "(3,)")]


def test_samples(tmp_path):
    draws = np.random.default_rng(0).normal([1.0, -3.0], [0.1, 2.0], size=(20_000, 2))
    simgen.Samples(draws, names=("a", "b"), units=("GeV", "")).save(tmp_path / "s.h5")
    (section,) = inspect(tmp_path / "s.h5")
    assert "20000 draws" in section.title
    assert section.rows[0][:3] == ("a", "GeV", plus_minus(draws[:, 0].mean(), draws[:, 0].std()))
    assert section.rows[0][2].startswith("1.0") and section.rows[0][2].endswith("0.10")


def test_foreign_arrays(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/params"] = np.ones((4, 2), dtype="f4")
    (section,) = inspect(tmp_path / "a.h5")
    assert section.rows == [("deep/params", "(4, 2)", "float32")]
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)))
    (section,) = inspect(tmp_path / "a.npz")
    assert section.rows == [("x", "(4, 2)", "float64")]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x89HDF\r\n\x1a\nrest"])
def test_what_cannot_be_read(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        inspect(tmp_path / "a")


def test_only_datasets_have_failed_rows(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ValueError, match="no dataset"):
        inspect(tmp_path / "a", failures=True)


@pytest.mark.parametrize(
    "mean, sd, text",
    [
        (0.6506, 0.396, "0.65 ± 0.40"),
        (1234.5, 56.7, "1234 ± 57"),
        (0.0, 0.0, "0 ± 0"),
        (3e-9, 2e-9, "3e-09 ± 2e-09"),
        (1e8, 3.3e7, "1e+08 ± 3.3e+07"),
    ],
)
def test_means_are_written_to_two_digits_of_the_deviation(mean, sd, text):
    assert plus_minus(mean, sd) == text


def test_a_summary_knows_the_truth_or_not():
    samples = simgen.Samples(np.random.default_rng(0).normal(size=(100, 2)), names=("a", "b"))
    assert summary_section("", samples.summary()).header[-1] == "68 %"
    known = summary_section("", samples.summary([0.0, 1.0]))
    assert known.header[-2:] == ("truth", "pull") and known.rows[1][-2] == "1"
