"""Exports: what other tools make of samples is what the samples are."""

import builtins
import sys

import numpy as np
import pytest
import torch

from simgen.samples import Samples

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def weighted() -> Samples:
    """Draws of N(0, 1) weighed towards N(1, 1), and a uniform column."""
    rng = np.random.default_rng(0)
    y = np.stack([rng.standard_normal(20_000), rng.uniform(0, 1, 20_000)], -1)
    return Samples(
        y,
        ("mu", "rate"),
        log_weights=y[:, 0],
        labels=(r"\mu", "rate"),
        units=("GeV", ""),
        bounds=[[-np.inf, np.inf], [0, 1]],
    )


def test_arviz_has_every_group_and_rows_stay_together(weighted: Samples) -> None:
    arviz = pytest.importorskip("arviz")
    theta = weighted.draws
    data = weighted.to_arviz(
        prior=Samples(theta, weighted.names, units=weighted.units),
        predictive={"x": torch.from_numpy(theta[:, :, None] + 1), "y": theta[:, 0]},
        observed={"x": np.zeros((2, 1)), "y": 0.0},
        log_density=-theta[:, 0],
    )
    posterior, stats = data["posterior"], data["sample_stats"]
    mu = posterior["mu"].values
    assert mu.shape == (1, 20_000) and mu.mean() == pytest.approx(1.0, abs=0.05)  # resampled
    assert data["prior"]["mu"].values.mean() == pytest.approx(0.0, abs=0.03)
    assert np.array_equal(data["posterior_predictive"]["y"].values, mu)
    x = data["posterior_predictive"]["x"].values
    assert x.shape == (1, 20_000, 2, 1) and np.array_equal(x[..., 0, 0], mu + 1)
    assert np.array_equal(stats["lp"].values, -mu)
    assert np.array_equal(stats["log_weight"].values, mu)
    assert stats["log_weight"].attrs["resampled"] == 1
    assert data["observed_data"]["x"].shape == (2, 1)
    about = posterior["mu"].attrs
    assert (about["units"], about["long_name"]) == ("GeV", r"\mu")
    assert list(posterior["rate"].attrs["bounds"]) == [0.0, 1.0]
    assert data["prior"]["mu"].attrs["units"] == "GeV"
    assert set(arviz.summary(data, kind="stats").index) == {"mu", "rate"}


def test_arviz_keeps_weighted_draws_when_told(weighted: Samples) -> None:
    pytest.importorskip("arviz")
    data = weighted.to_arviz(weighted=True)
    assert np.array_equal(data["posterior"]["mu"].values[0], weighted["mu"])
    w = np.exp(data["sample_stats"]["log_weight"].values[0])
    assert (w * weighted["mu"]).sum() / w.sum() == pytest.approx(weighted.mean[0])
    assert data["sample_stats"]["log_weight"].attrs["resampled"] == 0


def test_arviz_of_images_and_rows_that_do_not_match(weighted: Samples) -> None:
    pytest.importorskip("arviz")
    image = Samples(np.zeros((5, 1, 4, 4)))
    assert image.to_arviz()["posterior"]["y"].shape == (1, 5, 1, 4, 4)
    with pytest.raises(ValueError, match=r"predictive 'x' must have one row a draw, 20000"):
        weighted.to_arviz(predictive=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="lp must have one row a draw"):
        weighted.to_arviz(log_density=np.zeros((20_000, 1)))


@pytest.mark.parametrize("plain", [True, False])
def test_either_generation_of_arviz_gets_its_groups(
    weighted: Samples, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    """from_dict(posterior=...) of 0.x, from_dict({"posterior": ...}) of 1."""
    xarray = pytest.importorskip("xarray")
    asked = []

    def groups(said: dict) -> dict:
        asked.append(sorted(said))
        return {
            k: xarray.Dataset({j: (("chain", "draw"), v) for j, v in group.items()})
            for k, group in said.items()
        }

    class Old:
        def from_dict(posterior=None, *, sample_stats=None):
            return groups({"posterior": posterior, "sample_stats": sample_stats})

    class New:
        def from_dict(data, *, name=None):
            return groups(data)

    monkeypatch.setitem(sys.modules, "arviz", Old if plain else New)
    data = weighted.to_arviz()
    assert asked == [["posterior", "sample_stats"]]
    assert data["posterior"]["mu"].attrs["units"] == "GeV"


def test_getdist_gets_weights_labels_units_and_bounds(weighted: Samples) -> None:
    pytest.importorskip("getdist")
    samples = weighted.to_getdist(settings={"ignore_rows": 0})
    assert samples.mean("mu") == pytest.approx(weighted.mean[0], abs=1e-6)
    named = samples.getParamNames()
    assert [p.name for p in named.names] == ["mu", "rate"]
    assert named.names[0].label == r"\mu\ [\mathrm{GeV}]"
    assert named.names[1].label == r"\mathrm{rate}"
    assert samples.ranges.getLower("rate") == 0 and samples.ranges.getUpper("mu") is None
    # A flat density that ends at a bound is flat up to it; smoothed over it, it would be half.
    assert samples.get1DDensity("rate").Prob([0.0]) == pytest.approx(1.0, abs=0.15)
    bare = weighted.to_getdist(ranges={})
    assert bare.get1DDensity("rate").Prob([0.0]) < 0.8


def test_corner_gets_weights_and_labels(weighted: Samples) -> None:
    pytest.importorskip("corner")
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = weighted.to_corner(bins=20, range=[(-4, 4), (0, 1)], hist_kwargs={"density": True})
    axes = np.array(figure.axes).reshape(2, 2)
    assert axes[1, 0].get_xlabel() == r"$\mu$ [GeV]" and axes[1, 1].get_xlabel() == "rate"
    (outline,) = axes[0, 0].patches
    corners = outline.get_xy()
    peak = corners[corners[:, 1].argmax(), 0]
    assert abs(peak - 1) < 0.5  # N(1, 1), not the unweighted N(0, 1)
    plt.close(figure)


def test_pandas_gets_weights_units_and_bounds(weighted: Samples) -> None:
    pytest.importorskip("pandas")
    frame = weighted.to_pandas()
    assert list(frame) == ["mu", "rate", "weight"]
    assert frame["weight"].sum() == pytest.approx(1)
    assert (frame["mu"] * frame["weight"]).sum() == pytest.approx(weighted.mean[0])
    assert frame.attrs["units"] == {"mu": "GeV", "rate": ""}
    assert frame.attrs["labels"]["mu"] == r"\mu"
    assert frame.attrs["bounds"]["rate"] == (0.0, 1.0)
    with pytest.raises(ValueError, match="called 'weight'"):
        Samples(np.zeros((2, 1)), ("weight",)).to_pandas()


@pytest.mark.parametrize("name", ["getdist", "corner", "pandas"])
def test_images_are_no_columns(name: str) -> None:
    pytest.importorskip(name)
    with pytest.raises(ValueError, match=r"takes vectors by name; .* shape \(1, 4, 4\)"):
        getattr(Samples(np.zeros((3, 1, 4, 4))), f"to_{name}")()


@pytest.mark.parametrize("name", ["arviz", "getdist", "corner", "pandas"])
def test_a_tool_that_is_missing_is_named(
    name: str, weighted: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_ = builtins.__import__

    def without(module: str, *args, **kwargs):
        if module == name:
            raise ImportError(f"No module named {module!r}")
        return import_(module, *args, **kwargs)

    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        getattr(weighted, f"to_{name}")()
