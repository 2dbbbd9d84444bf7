import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, poisson

from simulators.lensing import grid, jaffe
from simulators.subhaloes import SIGMA_CR, Subhaloes


def test_score_identity_and_ratios_of_the_subhaloes():
    """Of the number and the total mass, whose means are known; E[r] = 1."""
    n, f_sub, beta = 20_000, 0.04, -1.9
    population = Subhaloes(3.2)
    f, b = np.full(n, f_sub), np.full(n, beta)
    z_sub, counts = population.draw(f, b, 200, np.random.default_rng(1))
    t = population.score(z_sub, counts, f, b)
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / n**0.5).all()
    mass = (10.0 ** z_sub[..., 0] * (np.arange(200) < counts[:, None])).sum(1)
    total = SIGMA_CR / 2 * 3.2**2

    def number(f, b):
        return float(population.mean_number(f, b))

    h = 1e-4
    by_f = (number(f_sub + h, beta) - number(f_sub - h, beta)) / (2 * h)
    by_beta = (number(f_sub, beta + h) - number(f_sub, beta - h)) / (2 * h)
    for value, slope in ((counts, (by_f, by_beta)), (mass, (total, 0.0))):
        products = (value - value.mean())[:, None] * t
        error = products.std(0) / n**0.5
        assert (np.abs(products.mean(0) - slope) < 4 * error).all()
    assert abs(mass.mean() - f_sub * total) < 4 * mass.std() / n**0.5
    at = population.log_prob(z_sub, counts, f, b)
    for shift in ((0.004, 0.0), (0.0, 0.1), (-0.003, -0.1)):
        r = np.exp(population.log_prob(z_sub, counts, f + shift[0], b + shift[1]) - at)
        assert r.std() > 0.1 and abs(r.mean() - 1) < 4 * r.std() / n**0.5


@pytest.mark.parametrize("beta", [-2.5, -2.0, -1.9, -1.0, -0.99999, -0.5])
def test_masses_follow_the_power_law(beta):
    population = Subhaloes(3.2)
    low, high = 8 * math.log(10), 10 * math.log(10)

    def moment(k):
        return quad(lambda u: math.exp((beta + 1 + k) * (u - low)), low, high)[0]

    mean = 1e8 * moment(1) / moment(0)
    assert float(population.mean_mass(beta)) == pytest.approx(mean, rel=1e-9)
    n = 300
    z_sub, counts = population.draw(
        np.full(n, 0.05), np.full(n, beta), 400, np.random.default_rng(2)
    )
    there = np.arange(400) < counts[:, None]
    u = z_sub[there][:, 0].astype(float) * math.log(10)

    def cdf(v):
        return np.expm1((beta + 1) * (v - low)) / math.expm1((beta + 1) * (high - low))

    if beta == -1:
        assert kstest(u, "uniform", (low, high - low)).pvalue > 1e-3
    else:
        assert kstest(u, cdf).pvalue > 1e-3
    for place in z_sub[there][:, 1:].T:
        assert kstest(place, "uniform", (-1.6, 3.2)).pvalue > 1e-3
    expected = float(population.mean_number(0.05, beta))
    assert abs(counts.mean() - expected) < 4 * (expected / n) ** 0.5
    assert abs(counts.var(ddof=1) / expected - 1) < 4 * (2.1 / n) ** 0.5
    assert not z_sub[~there].any()


def test_the_density_of_the_process_integrates_to_one():
    """Of one subhalo: its number's probability times the density of ln m and its place."""
    population, f, b = Subhaloes(1.0), np.array([0.02]), np.array([-1.7])
    one = np.array([1])

    def density(u):
        z_sub = np.array([[[u / math.log(10), 0.1, 0.2]]])
        return math.exp(population.log_prob(z_sub, one, f, b)[0])

    total = quad(density, 8 * math.log(10), 10 * math.log(10))[0]
    mean = float(population.mean_number(0.02, -1.7))
    assert total == pytest.approx(poisson.pmf(1, mean), rel=1e-9)
    empty = population.log_prob(np.zeros((1, 1, 3)), np.array([0]), f, b)
    assert empty[0] == pytest.approx(poisson.logpmf(0, mean), rel=1e-12)


def test_subhaloes_deflect_by_their_mass():
    population = Subhaloes(3.2)
    z_sub = np.zeros((3, 12, 3))
    z_sub[0, :2] = [[9.0, 0.3, -0.4], [8.5, -0.7, 0.2]]
    z_sub[1, :11] = [[8.0, 0.1 * k, 0.0] for k in range(11)]
    x, y = grid(10, 3.2)
    alpha = population.deflect(x, y, z_sub, np.array([2, 11, 0]))
    for i, count in enumerate([2, 11]):
        expected = torch.zeros(2, 10, 10, dtype=torch.float64)
        for log_m, x_h, y_h in z_sub[i, :count]:
            b = torch.tensor((10**log_m / (math.pi * SIGMA_CR)) ** (2 / 3))
            assert math.pi * SIGMA_CR * float(b * b.sqrt()) == pytest.approx(10**log_m)
            expected += torch.stack(jaffe(x - x_h, y - y_h, b, b.sqrt()))
        torch.testing.assert_close(torch.stack(alpha)[:, i], expected, rtol=0, atol=1e-14)
    assert not torch.stack(alpha)[:, 2].any()
