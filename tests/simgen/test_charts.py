"""Charts: distances are Mahalanobis', columns are regressed on all others, tails are theirs."""

import math

import pytest
import torch

from simgen.charts import Chart, Tails


@pytest.mark.parametrize("variable", [False, True])
def test_chart_is_mahalanobis_and_regression(variable):
    torch.manual_seed(0)
    mix = torch.randn(6, 6, dtype=torch.float64)
    h = torch.randn(4_000, 6, dtype=torch.float64) @ mix + 3
    if variable:  # a column that is the sum of two others: constant along one direction
        h = torch.cat([h, h[:, :1] + h[:, 1:2]], 1)
    chart = Chart.fitted(h)
    rows = h[:50].clone()
    scores = chart.scores(rows)
    centred = h - h.mean(0)
    covariance = centred.T @ centred / len(h)
    precision = torch.linalg.pinv(covariance, rtol=1e-9)
    z = rows - h.mean(0)
    distance = torch.einsum("na,ab,nb->n", z, precision, z)
    torch.testing.assert_close(scores["distance"].exp(), distance, rtol=2e-3, atol=1e-2)
    assert torch.equal(scores["closeness"], -scores["distance"])
    if variable:
        rows[:, -1] += 0.01 * h[:, -1].std()  # breaks the sum
        assert (chart.scores(rows)["distance"].exp() > 100 * distance).all()
        return
    # each column less its regression on the others, in deviations of the residual
    residuals = []
    for j in range(6):
        others = [k for k in range(6) if k != j]
        weights = torch.linalg.lstsq(centred[:, others], centred[:, j]).solution
        sd = (centred[:, j] - centred[:, others] @ weights).square().mean().sqrt()
        residuals.append((z[:, j] - z[:, others] @ weights) / sd)
    largest = torch.stack(residuals).square().amax(0)
    torch.testing.assert_close(scores["single column"].exp(), largest, rtol=2e-3, atol=1e-4)


def test_chart_of_more_columns_than_rows_tell():
    # three directions in 600 columns, and noise: what sticks out of the directions is seen
    torch.manual_seed(0)
    lines = torch.randn(3, 600, dtype=torch.float64)

    def draw(n):
        signal = 5 * torch.randn(n, 3, dtype=torch.float64) @ lines
        return signal + torch.randn(n, 600, dtype=torch.float64)

    h = draw(2_000)
    chart = Chart.fitted(h)
    assert chart.basis.shape[1] < 600 and chart.basis.numel() <= 100_000
    null = chart.scores(draw(500))
    other = draw(100)
    other[:, 17] += 6 * h[:, 17].std()
    found = chart.scores(other)
    assert (found["single column"] > null["single column"].quantile(0.99)).all()
    loud = chart.scores(draw(100) + 0.7 * torch.randn(100, 600, dtype=torch.float64))
    assert (loud["small directions"] > null["small directions"].quantile(0.99)).all()


def test_tails_of_an_exponential_law():
    torch.manual_seed(0)
    s = torch.distributions.Exponential(1.0).sample((20_000, 2)).double()
    s[:, 1] = 0  # a score that never moves
    tails = Tails.fitted(s)
    at = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    found = tails(torch.stack([at, torch.zeros(7, dtype=torch.float64)], 1))
    # beyond the knots by the mean excess of 2,000 rows: 2.2 % of it
    torch.testing.assert_close(found[:, 0], at, rtol=0.06, atol=0.03)
    assert (found[:, 0].diff() > 0).all() and (found[:, 1] == 0).all()
    assert tails(torch.ones(1, 2, dtype=torch.float64))[0, 1] > 1e6


def test_a_score_that_never_moves_says_nothing():
    """Wherever it stands, in single precision as in files."""
    s = torch.full((500, 1), -math.log(3.0) * 100, dtype=torch.float64)
    tails = Tails.fitted(s)
    stored = Tails(tails.knots.float().double(), tails.excess.float().double())
    assert (stored(s) == 0).all()
