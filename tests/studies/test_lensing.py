"""Lensing and mass maps: the study's own parts against closed forms."""

import json

import numpy as np
import pytest
import torch

import simgen
from simgen.field import Field
from studies.lensing import parts, problem
from studies.lensing.calibration import Reading, examine, projections, summary
from studies.lensing.network import WienerUNet
from studies.lensing.text import text
from studies.massmap import problem as maps
from studies.massmap.text import text as map_text


def images(n=400, pixels=8):
    """Images whose covariance is far from white, brought to mean 0 and variance 1."""
    torch.manual_seed(0)
    noise = torch.randn(n, 1, pixels, pixels, dtype=torch.float64)
    x = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) + 0.3 * noise + torch.linspace(0, 1, pixels)
    return (x - x.mean()) / x.std()


@pytest.mark.parametrize("ratio", [1e-2, 0.3, 2.0, 50.0])
def test_an_untrained_network_is_the_gaussian_denoiser(ratio):
    x = images()
    network = WienerUNet.of(x, widths=(8,), fold=4)
    module = simgen.Diffusion(network=network).build(Field((1, 8, 8), layout="image"), {}).eval()
    with torch.no_grad():
        module.network.network.body.last.weight.zero_()
    flat = x.flatten(1)
    exact = simgen.GaussianPrior(flat.mean(0), torch.cov(flat.mT))
    alpha, sigma = module.process.at(torch.tensor(ratio, dtype=torch.float64))
    x_t = alpha * x[:20] + sigma * torch.randn_like(x[:20])
    with torch.no_grad():
        mine = module.denoise(x_t.float(), alpha.float(), sigma.float(), (None, None))
    theirs = exact.denoise(x_t.flatten(1), alpha, sigma).view_as(x_t)
    torch.testing.assert_close(mine.double(), theirs, atol=2e-3, rtol=2e-3)


def test_the_scale_goes_through_the_network():
    torch.manual_seed(1)
    network = WienerUNet(8, widths=(8,), fold=4)
    torch.nn.init.normal_(network.body.last.weight)
    x, t = torch.randn(3, 1, 8, 8), torch.zeros(3)
    with torch.no_grad():
        rest = [
            network(k * x, t) - network.linear(k * x.flatten(1), t).view_as(x) for k in (1, 1e3)
        ]
    assert float(rest[1].abs().mean() / rest[0].abs().mean()) > 100


def small(width):
    """Calibration of a prior whose deviations are off by a factor, on a problem of 16 numbers."""
    torch.manual_seed(2)
    C = torch.eye(16).double() + 0.5
    A = torch.randn(8, 16, dtype=torch.float64)
    truth, prior = (simgen.GaussianPrior(torch.zeros(1, 4, 4), k * C) for k in (1, width**2))
    seen = simgen.GaussianLikelihood(A, sigma=0.5)
    x = truth.sample((68,))
    y = seen.draw({"x": x.double()}, torch.Generator().manual_seed(0))
    u = projections(x[64:])
    readings = [examine(prior, seen, x[i], y[i], u, 31, seed=i)[0] for i in range(64)]
    return summary(readings, 31)


def test_an_exact_posterior_passes_and_a_wrong_one_fails():
    right, wrong = small(1.0), small(0.3)
    assert right["p"] > 0.01
    assert wrong["p"] < 1e-6
    assert right["coverage"] == pytest.approx([0.5, 0.9375], abs=0.06)
    assert wrong["coverage"][1] < 0.8
    assert right["rmse"] == pytest.approx(right["spread"], rel=0.1)


def test_the_reduced_likelihood_says_the_same_of_x():
    seen = problem.likelihood()
    small_, statistic = problem.reduced(seen)
    x = problem.field_prior().sample((5,)).double()
    y = problem.observe(seen, x[:1], 0)[0]
    difference = seen.log_prob(y, {"x": x}) - small_.log_prob(statistic(y), {"x": x})
    assert float(difference.std()) < 1e-6 * float(seen.log_prob(y, {"x": x}).std())


def test_a_field_has_variance_one_and_a_word_is_seen():
    assert float(problem.field_prior().variance.mean()) == pytest.approx(1.0)
    word = problem.rotated()
    assert word.shape == (1, 32, 32)
    assert 0 <= float(word.min()) and 1 < float(word.max()) <= 3
    assert 0.02 < float((word > 1).double().mean()) < 0.5


@pytest.mark.parametrize("field", ["gaussian", "lognormal"])
def test_the_prior_of_maps_has_their_spectrum(field):
    x = maps.truths(field, 2_000, seed=0)[:, 0]
    power = torch.fft.fft2(x).abs().square().mean(0) / 32**2
    prior = maps.field_prior().structure.values.view(32, 32)
    # Gaussian maps: chi2 of 2 x 2,000 numbers a mode; lognormal ones scatter twice as much
    ratio = (power / prior)[1:, 1:]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(ratio.std()) < (0.04 if field == "gaussian" else 0.12)


def test_results_are_written_as_tables():
    reading = Reading([3] * 9, [0.5, 0.9], 0.1, 0.1, 1.0, 1.0, 7.0, None, 0.1, ["beware"])
    found = {
        "field": {"command": "run", **summary([reading] * 8, 31)},
        "outside": {"command": "run", "word": outside(-3.0)},
        "evidence, galaxy": {"command": "run", "true": outside(5.0), "round": outside(1.0)},
    }
    lines = text(json.loads(json.dumps(found)))
    assert "| field | 8 |" in lines
    assert "| round | 1.200 | 7.000 | -4.0 ± 0.5 |" in lines
    assert "- word: beware" in lines
    shapes = {"power": [1, 1.1], "power_of_mean": [0.5, 0.7], "pdf": [1, 2], "pdf_truth": [1, 1]}
    row = {**found["field"], **shapes, "rms_truth": 0.2}
    assert "| 1.00 … 1.10 | 0.50 … 0.70 |" in map_text({"gaussian, Wiener": row})


def outside(value):
    return {
        "chi2": 1.2,
        "truth_chi2": 1.0,
        "rmse": 0.1,
        "spread": 0.1,
        "ess": 7.0,
        "log_evidence": [value, 0.5],
        "warned": ["beware"],
    }


def test_truths_repeat_and_directions_are_none_of_them():
    prior = problem.field_prior()
    settings = parts.Settings()
    x = settings.draw(prior, 2)
    assert len(x) == 2 + parts.DIRECTIONS
    torch.testing.assert_close(x, settings.draw(prior, 2))
    assert np.unique(x.flatten(1)[:, 0].numpy()).size == len(x)
