import io

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from simgen.plots import corner, loss_curves, posterior_predictive, tex
from simgen.plots.marginals import _pair, _thresholds
from simgen.samples import Samples

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=50)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(-1, 4)


def inked(figure: Figure) -> float:
    """Share of pixels that are not white."""
    return float((pixels(figure)[:, :3] < 250).any(1).mean())


def texts(figure: Figure) -> str:
    return " | ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text())


@pytest.mark.parametrize("d", [1, 2, 5])
def test_corner_has_labels_units_truth_and_prior(d: int) -> None:
    names = tuple(f"p_{i}" for i in range(d))
    labels = tuple(f"\\alpha_{i}" for i in range(d))
    samples = Samples(RNG.standard_normal((2000, d)), names, labels=labels, units=("GeV",) * d)
    prior = 3 * RNG.standard_normal((1000, d))
    figure = corner(samples, truth=np.zeros(d), prior=prior)
    assert inked(figure) > 0.02
    found = texts(figure)
    assert "$\\alpha_0$ [GeV]" in found and "truth" in found and "prior" in found
    drawn = [ax for ax in figure.axes if ax.axison]
    assert len(drawn) == d * (d + 1) // 2
    # The prior is wider than the frame, which follows the posterior.
    assert all(ax.get_xlim()[1] < 5 for ax in drawn)


def test_several_sets_are_overlaid_in_their_own_colours() -> None:
    sets = {"exact": RNG.standard_normal((2000, 2)), "learned": RNG.standard_normal((3000, 2)) + 1}
    figure = corner(sets)
    assert "exact" in texts(figure) and "learned" in texts(figure)
    seen = {tuple(c) for c in pixels(figure)[:, :3] // 16}
    for colour in ("#2b6cb0", "#dd6b20"):
        wanted = np.array(to_rgb(colour)) * 255 // 16
        assert any(np.abs(np.array(c) - wanted).max() <= 2 for c in seen)


def test_contours_hold_their_share_of_a_gaussian() -> None:
    samples = Samples(np.random.default_rng(1).standard_normal((40_000, 2)))
    ax = Figure().subplots()
    _pair(ax, samples, 1, 0, [(-4.5, 4.5)] * 2, "#2b6cb0", fill=False)
    outer, inner = (path.vertices for path in ax.collections[-1].get_paths())
    # Radii of a two-dimensional Gaussian; smoothing widens them by a few per cent.
    for vertices, share in ((outer, 0.95), (inner, 0.68)):
        radius = np.median(np.hypot(*vertices.T))
        assert radius == pytest.approx(np.sqrt(-2 * np.log(1 - share)), rel=0.06)


def test_thresholds_enclose_the_shares() -> None:
    density = np.exp(-0.5 * np.linspace(-5, 5, 2001) ** 2)
    for level, share in zip(_thresholds(density, (0.95, 0.68)), (0.95, 0.68)):
        assert density[density >= level].sum() / density.sum() == pytest.approx(share, abs=2e-3)


def test_weights_move_the_curves() -> None:
    y = np.random.default_rng(3).standard_normal((20_000, 2))
    figure = corner(Samples(y, log_weights=0.5 * y[:, 0]))
    curve = figure.axes[0].lines[0]
    assert curve.get_xdata()[np.argmax(curve.get_ydata())] == pytest.approx(0.5, abs=0.3)
    assert curve.get_xdata() @ curve.get_ydata() / curve.get_ydata().sum() > 0.4


def test_a_constant_column_and_extreme_scales_are_drawn() -> None:
    y = RNG.standard_normal((500, 3)) * [1e-12, 0.0, 1e9] + [0, 3.0, 0]
    assert inked(corner(y)) > 0.02


def test_corner_refuses_what_does_not_fit() -> None:
    y = RNG.standard_normal((100, 2))
    with pytest.raises(ValueError, match="truth must be 2"):
        corner(y, truth=[1.0])
    with pytest.raises(ValueError, match="same d"):
        corner({"a": y, "b": y[:, :1]})


def test_figures_leave_global_state_alone() -> None:
    before = dict(matplotlib.rcParams)
    corner(RNG.standard_normal((100, 2)))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("rows", [False, True])
def test_loss_curves_mark_the_best_epoch(rows: bool) -> None:
    history = {
        "epoch": [1, 2, 3, 4],
        "train_loss": [4.0, 2.0, 1.0, 0.5],
        "validation_loss": [4.1, 2.2, 1.9, 2.5],
        "seconds": [1, 2, 3, 4],
    }
    given = [dict(zip(history, row)) for row in zip(*history.values())] if rows else history
    ax = loss_curves(given).axes[0]
    best = next(line for line in ax.lines if line.get_label() == "best")
    assert (float(best.get_xdata()[0]), float(best.get_ydata()[0])) == (3.0, 1.9)
    with pytest.raises(ValueError, match="no losses"):
        loss_curves({})


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("vector", (1,)),
        ("vector", (7,)),
        ("vector", (80,)),
        ("set", (50, 3)),
        ("series", (50, 1)),
        ("image", (2, 9, 9)),
        ("image", (1, 5, 6, 7)),
    ],
)
def test_predictive_of_every_layout(layout: str, shape: tuple[int, ...]) -> None:
    y, x = RNG.standard_normal(shape), RNG.standard_normal((40, *shape))
    figure = posterior_predictive(y, x, layout)
    assert inked(figure) > 0.02 and "observed" in texts(figure)


def test_predictive_of_sets_skips_what_is_not_there() -> None:
    y, x = RNG.standard_normal((50, 2)), RNG.standard_normal((40, 50, 2))
    y[30:], x[:, 35:] = np.nan, np.nan
    assert inked(posterior_predictive(y, x, "set")) > 0.02
    with pytest.raises(ValueError, match="as the observation"):
        posterior_predictive(np.zeros(3), np.zeros((5, 4)))


@pytest.mark.parametrize(
    ("label", "unit", "expected"),
    [
        ("w_0", "", "$w_{0}$"),
        ("sigma_8", "", "$\\sigma_{8}$"),
        ("\\Omega_m h^2", "", "$\\Omega_m h^2$"),
        ("$x$", "GeV", "$x$ [GeV]"),
        ("jet mass", "", "jet mass"),
        ("x", "GeV^2", "$x$ [$\\mathrm{GeV^{2}}$]"),
        ("\\nosuchmacro_1", "", "nosuchmacro 1"),
    ],
)
def test_labels(label: str, unit: str, expected: str) -> None:
    assert tex(label, unit) == expected
