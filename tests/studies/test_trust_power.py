"""The study of power: its exact posterior is exact, its faults are what they say."""

from __future__ import annotations

import pytest
import torch

from studies.trust.power import MODELS, correlation, faults, shift, table, width


@pytest.mark.parametrize("name", MODELS)
def test_the_exact_posterior_has_the_moments_that_it_says(name: str) -> None:
    model = MODELS[name]
    data = model.pairs(40_000, 0)
    x = torch.as_tensor(data["x"])
    mean, covariance = model.posterior(x)
    error = torch.as_tensor(data["theta"]).double() - mean
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), error[..., None], upper=False
    )[..., 0]
    moments = whitened.T @ whitened / len(x)
    assert torch.allclose(moments, torch.eye(model.d).double(), atol=0.03)  # 4 sigma: 0.028
    assert (whitened.mean(0).abs() < 4 / 200).all()
    slope = (whitened[:, :, None] * x[:, None].double()).mean(0) / x.double().std(0)
    assert (slope.abs() < 4.5 / 200).all()


def test_faults_touch_one_thing() -> None:
    model = MODELS["2"]
    x = torch.as_tensor(model.pairs(10, 0)["x"])
    mean, covariance = model.posterior(x)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    rho = covariance[:, 0, 1] / sd.prod(1)
    assert torch.allclose(rho, torch.full((10,), 0.5).double())
    _, narrow = width(0.8)(x, mean, covariance)
    assert torch.allclose(narrow[:, 0, 0], 0.64 * covariance[:, 0, 0])
    assert torch.allclose(narrow[:, 1, 1], covariance[:, 1, 1])
    assert torch.allclose(narrow[:, 0, 1] / (narrow[:, 0, 0] * narrow[:, 1, 1]).sqrt(), rho)
    moved, _ = shift(0.2)(x, mean, covariance)
    assert torch.allclose((moved - mean) / sd, torch.tensor([0.2, 0.0]).double())
    _, off = correlation(-0.5)(x, mean, covariance)
    assert torch.allclose(off[:, 0, 1], torch.zeros(10).double(), atol=1e-12)
    for other in MODELS.values():
        x = torch.as_tensor(other.pairs(500, 1)["x"])
        for fault in faults(other).values():
            assert (torch.linalg.eigvalsh(fault(x, *other.posterior(x))[1]) > 0).all()


def test_the_table_says_how_often_and_by_what() -> None:
    row = {"rejected": 97, "interval": [0.9155, 0.9897], "checks": {"c2st": 90}, "seconds": 0.1}
    about = {"command": "run", "versions": "1", "seconds": 3, "runs": 100, "pairs": 1000}
    text = table({"about": about, "models": {"2": {"width x 0.8": row}}})
    line = "| width x 0.8 | 97 of 100 (91.5 % to 99 %) | c2st 90 | 0.10 |"
    assert line in text and "1,000 fresh pairs" in text
