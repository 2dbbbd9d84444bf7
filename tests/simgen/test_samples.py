from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.distributions import Independent, LogNormal, MultivariateNormal, Normal, Uniform

from simgen.prior import Prior
from simgen.samples import Samples


@pytest.fixture
def weighted() -> Samples:
    """Draws of N(0, 1) weighed towards N(1, 1): log w = y."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((200_000, 1))
    return Samples(y, ("mu",), log_weights=y[:, 0], labels=(r"\mu",), units=("GeV",))


def test_weighted_moments_are_those_of_the_target(weighted: Samples) -> None:
    # The effective size is n / e; errors are a few times ess^-1/2.
    assert weighted.ess == pytest.approx(len(weighted) / np.e, rel=0.05)
    assert weighted.mean[0] == pytest.approx(1.0, abs=0.02)
    assert weighted.sd[0] == pytest.approx(1.0, abs=0.02)
    assert weighted.covariance[0, 0] == pytest.approx(weighted.sd[0] ** 2)
    assert np.allclose(weighted.quantile([0.158655, 0.5])[:, 0], [0.0, 1.0], atol=0.03)
    equal = weighted.resample(50_000, seed=1)
    assert equal.log_weights is None and equal.labels == weighted.labels
    assert equal.mean[0] == pytest.approx(1.0, abs=0.03)


def test_equal_weights_change_nothing() -> None:
    y = np.random.default_rng(1).standard_normal((501, 3))
    plain, equal = Samples(y), Samples(y, log_weights=np.full(501, -700.0))
    assert np.allclose(plain.mean, equal.mean) and np.allclose(plain.sd, equal.sd)
    assert np.allclose(plain.quantile(0.5), equal.quantile(0.5))
    assert np.allclose(plain.mean, y.mean(0)) and np.allclose(plain.sd, y.std(0))


def test_draw_takes_names_and_repeats() -> None:
    q = MultivariateNormal(torch.tensor([1.0, -2.0]), torch.eye(2))
    q.names = ("a", "b")
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, again = (Samples.draw(q, 4000, seed=5, units=("m", "s")) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(first.draws, again.draws)
    assert first.names == ("a", "b") and first.units == ("m", "s") and first.labels == ("a", "b")
    assert np.allclose(first.mean, [1.0, -2.0], atol=4 / 4000**0.5)
    assert first["b"].shape == (4000,)
    with pytest.raises(KeyError, match="no column 'c'; there are a, b"):
        first["c"]


def test_draw_of_one_number_of_a_batch_of_one_and_of_images() -> None:
    assert Samples.draw(Normal(0.0, 1.0), 5).draws.shape == (5, 1)
    one = Independent(Normal(torch.zeros(1, 3), 1.0), 1)
    assert Samples.draw(one, 5).draws.shape == (5, 3)
    image = Independent(Normal(torch.zeros(2, 4, 4), 1.0), 3)
    assert Samples.draw(image, 5).draws.shape == (5, 2, 4, 4)
    with pytest.raises(ValueError, match="a batch of shape"):
        Samples.draw(Independent(Normal(torch.zeros(7, 3), 1.0), 1), 5)


def test_saves_everything_and_any_tool_reads_it(weighted: Samples, tmp_path: Path) -> None:
    path = tmp_path / "samples.h5"
    weighted.save(path)
    again = Samples.load(path)
    assert np.array_equal(again.draws, weighted.draws)
    assert np.array_equal(again.log_weights, weighted.log_weights)
    assert (again.names, again.labels, again.units) == (("mu",), (r"\mu",), ("GeV",))
    with h5py.File(path) as file:
        assert file["draws"].shape == weighted.draws.shape and list(file.attrs["names"]) == ["mu"]
    assert [p.name for p in tmp_path.iterdir()] == ["samples.h5"]
    images = Samples(np.zeros((3, 1, 4, 4), np.float32))
    images.save(path)
    assert Samples.load(path).draws.dtype == np.float32 and Samples.load(path).names == ()


def test_a_wrong_or_broken_file_is_named(weighted: Samples, tmp_path: Path) -> None:
    path = tmp_path / "samples.h5"
    weighted.save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="no HDF5 file, or is cut short"):
        Samples.load(path)
    with h5py.File(path, "w") as file:
        file["draws"] = np.zeros((2, 1))
    with pytest.raises(ValueError, match="no samples of simgen"):
        Samples.load(path)
    weighted.save(path)
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = 99
    with pytest.raises(ValueError, match=r"schema 99.*update"):
        Samples.load(path)


def test_summary_against_truth() -> None:
    y = np.random.default_rng(2).normal(3.0, 0.5, (100_000, 1))
    (row,) = Samples(y, ("w_0",), units=("km",)).summary(truth=[4.0])
    assert row["name"] == "w_0" and row["unit"] == "km" and row["truth"] == 4.0
    assert row["mean"] == pytest.approx(3.0, abs=0.01) and row["pull"] == pytest.approx(
        2, abs=0.03
    )
    assert row["high"] - row["low"] == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="truth must be 1"):
        Samples(y).summary(truth=[1.0, 2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ("a",)}, "names must be 2"),
        ({"names": ("a", "a")}, "must differ"),
        ({"units": ("m",)}, "units must be 2"),
        ({"log_weights": np.zeros(2)}, "log_weights must be"),
        ({"bounds": [[0, 1]]}, "bounds must be"),
        ({"bounds": [[0, 1], [1, 1]]}, "bounds of 'theta_1' must have low < high"),
        ({"log_weights": np.full(3, -np.inf)}, "no draw has any weight"),
    ],
)
def test_what_does_not_match_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples(np.zeros((3, 2)), **arguments)


def test_draw_takes_bounds_from_the_support_and_files_keep_them(tmp_path: Path) -> None:
    prior = Prior(a=Uniform(0.1, 0.5), b=LogNormal(0.0, 1.0), c=Normal(0.0, 1.0))
    wanted = [[0.1, 0.5], [0.0, np.inf], [-np.inf, np.inf]]
    drawn = Samples.draw(prior, 10, seed=0)
    assert drawn.bounds.tolist() == wanted
    assert Samples.draw(prior, 10, bounds=[[0, 1]] * 3).bounds.tolist() == [[0, 1]] * 3
    weighted = Samples(drawn.draws, log_weights=np.zeros(10), bounds=drawn.bounds)
    assert weighted.resample(5).bounds.tolist() == wanted
    path = tmp_path / "s.h5"
    weighted.save(path)
    assert Samples.load(path).bounds.tolist() == wanted
    with h5py.File(path, "a") as file:
        del file.attrs["bounds"]  # as before bounds were kept
    assert Samples.load(path).bounds.tolist() == [[-np.inf, np.inf]] * 3
