"""Pictures of rows: every layout, padding, and a report that shows simulated beside learned."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from torch.distributions import Uniform

import simgen
from simgen.page import Page
from simgen.pictures import show_rows
from simgen.plots import picture_rows

RNG = np.random.default_rng(0)


def words(figure: Figure) -> str:
    axes = figure.axes
    return " | ".join(f"{ax.get_xlabel()} {ax.get_ylabel()} {ax.get_title()}" for ax in axes)


def test_images_by_channel_and_kind_share_their_colours() -> None:
    images = RNG.normal(size=(3, 2, 8, 8))
    figure = picture_rows({"simulated": images, "learned": images + 1}, "image", labels=["a", "b"])
    assert "simulated" in words(figure) and "learned" in words(figure)
    pictures = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(pictures) == 12
    for row in range(4):
        assert len({p.get_clim() for p in pictures[3 * row : 3 * row + 3]}) == 1
    assert np.array_equal(pictures[0].get_array(), images[0, 0])


def test_a_set_is_a_plane_without_its_padding() -> None:
    sets = RNG.normal(size=(2, 10, 2))
    labels, units = ["ln k_t", "eta"], ["", ""]
    figure = picture_rows({"z": sets}, "set", lengths=[3, 7], labels=labels, units=units)
    points = [ax.collections[0].get_offsets() for ax in figure.axes]
    assert [len(p) for p in points] == [3, 7]
    assert np.allclose(points[1], sets[1, :7])
    assert r"\eta" in words(figure)


def test_series_and_single_features() -> None:
    figure = picture_rows({"x": RNG.normal(size=(2, 30, 3))}, "series")
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]
    figure = picture_rows({"x": RNG.normal(size=(2, 30, 1))}, "set")
    assert all(ax.patches for ax in figure.axes)
    with pytest.raises(ValueError, match="layout must be"):
        picture_rows({"x": np.zeros((2, 3))}, "vector")


@simgen.simulator(prior=simgen.Prior(mu=Uniform(-1.0, 1.0)), batched=True)
def blobs(theta, rng):
    return {"x": theta[:, :1, None, None] + rng.normal(size=(len(theta), 1, 8, 8))}


class Learned:
    """Returns images of a constant: theta's."""

    target, given = ("x",), ("theta",)

    def __call__(self, theta):
        self.theta = theta
        return self

    def sample(self, shape, seed=None):
        import torch

        return torch.as_tensor(self.theta)[:, :, None, None].expand(-1, 1, 8, 8)


def test_a_report_shows_draws_of_the_model_beside_simulations() -> None:
    page, missing = Page("a", "b"), []
    show_rows(page, Learned(), blobs, 0, missing)
    assert not missing and any("draws of the model" in part for part in page.parts)

    def fails(theta, rng):
        raise RuntimeError("no licence")

    broken = simgen.simulator(fails, prior=blobs.prior)
    show_rows(Page("a", "b"), Learned(), broken, 0, missing)
    assert "no licence" in missing[0]
