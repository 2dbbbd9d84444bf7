"""Pictures of inverse problems: every panel holds what its title says."""

import numpy as np
import pytest
import torch

import simgen
from simgen.page import Page
from simgen.plots.inverse import inverse_pictures
from simgen.reporting import _reconstructed

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 1, 8, 8))
Y = RNG.standard_normal((1, 12, 12))


def panels(figure):
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_panels_hold_what_they_say():
    predicted = RNG.standard_normal((7, 1, 12, 12))
    found = panels(inverse_pictures(Y, X, X[0] + 1, predicted, sigma=0.5, samples=2))
    assert list(found) == [
        "observed",
        "truth",
        "posterior mean",
        "standard deviation",
        r"residual / $\sigma$",
        "draw 1",
        "draw 2",
    ]
    np.testing.assert_allclose(shown(found["observed"]), Y[0])
    np.testing.assert_allclose(shown(found["truth"]), X[0, 0] + 1)
    np.testing.assert_allclose(shown(found["posterior mean"]), X.mean(0)[0])
    np.testing.assert_allclose(shown(found["standard deviation"]), X.std(0)[0])
    np.testing.assert_allclose(shown(found["draw 2"]), X[1, 0])
    residual = shown(found[r"residual / $\sigma$"])
    np.testing.assert_allclose(residual, ((Y - predicted.mean(0)) / 0.5)[0])


def test_truth_mean_and_draws_share_their_colours():
    found = panels(inverse_pictures(Y, X, 3 * X[0]))
    limits = {found[k].images[0].get_clim() for k in ("truth", "posterior mean", "draw 1")}
    assert len(limits) == 1
    assert limits.pop()[1] > X.max()  # the truth's, which is brightest


def test_what_is_not_known_is_left_out():
    found = panels(inverse_pictures(Y, X, samples=0))
    assert list(found) == ["observed", "posterior mean", "standard deviation"]
    assert "residual" in panels(inverse_pictures(Y, X, predicted=np.stack([Y, Y])))


def test_series_are_lines():
    x = RNG.standard_normal((5, 30))
    found = panels(inverse_pictures(x[0, ::2], x, truth=x[1]))
    np.testing.assert_allclose(found["posterior mean"].lines[0].get_ydata(), x.mean(0))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"truth": np.zeros((8, 8))}, "the truth"),
        ({"predicted": np.zeros((7, 12, 12))}, "the observation"),
        ({"draws": np.zeros((7, 1, 4, 8, 8))}, "a picture is"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        inverse_pictures(Y, **{"draws": X, **kwargs})


def test_the_page_shows_what_infer_says_and_the_pictures():
    prior = simgen.GaussianPrior(torch.zeros(1, 4, 4), 1.0)
    seen = simgen.GaussianLikelihood(lambda x: x[..., ::2], sigma=0.5)
    y = torch.full((1, 4, 2), 0.3)
    posterior = simgen.infer(prior, seen, y)
    page = Page("title")
    _reconstructed(page, posterior, seen, y, torch.zeros(1, 4, 4), 0)
    text = page.render()
    exact = torch.distributions.Normal(0.0, 1.25**0.5).log_prob(y).sum()
    assert "closed-form" in text and text.count("<img") == 1
    assert f"{float(exact):.6g}" in text
    with pytest.raises(ValueError, match="give it"):
        _reconstructed(page, posterior, seen, None, None, 0)


def test_a_page_without_the_instrument_has_no_residual():
    prior = simgen.GaussianPrior(torch.zeros(1, 4, 4), 1.0)
    posterior = simgen.infer(
        prior, simgen.GaussianLikelihood(lambda x: x, 0.5), torch.ones(1, 4, 4)
    )
    page = Page("title")
    _reconstructed(page, posterior, None, np.ones((1, 4, 4)), None, 0)
    assert "chi2" not in page.render()
