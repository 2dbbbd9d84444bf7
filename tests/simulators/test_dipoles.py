import numpy as np
import pytest
from scipy.stats import kstest

from simulators import splitting
from simulators.dipoles import evolve
from simulators.splitting import G_GG, G_QQ, Q_QG


@pytest.fixture(scope="module")
def watched():
    """Showers of 200 GeV, watched: an interval of evolution and the lines, a splitting each."""
    n, alpha_s = 8000, 0.13
    rng = np.random.default_rng(4)
    pair = np.tile([[0, 0, 100.0, 100.0], [0, 0, -100.0, 100.0]], (n, 1, 1))
    alpha = np.full(n, alpha_s)
    steps = []

    def choose(rows, step, s, gluon, ln_t):
        new = splitting.next_splitting(s, gluon, ln_t, alpha[rows], 1.0, rng)
        low = np.where(new.pair >= 0, 2 * new.ln_kt, 0.0)
        steps.append((rows, s, gluon, ln_t, low, new))
        return new

    shower = evolve(pair, alpha, 1.0, 32, choose)
    return alpha_s, shower, steps


def test_splittings_come_at_unit_rate_in_the_expected_number(watched):
    """Time rescaling: laid end to end in Lambda, all evolutions are one unit Poisson process."""
    alpha_s, shower, steps = watched
    n, most = len(shower.counts), len(steps)
    exposure, occurred = np.zeros((n, most)), np.zeros((n, most), bool)
    for step, (rows, s, gluon, high, low, new) in enumerate(steps):
        event, place = np.nonzero(s)
        quarks = 2 - gluon[event, place].astype(int) - gluon[event, place + 1]
        mean = splitting.hazard(
            s[event, place], quarks, high[event], low[event], np.full(len(event), alpha_s)
        )[0]
        exposure[rows, step] = np.bincount(event, mean, len(rows))
        occurred[rows, step] = new.pair >= 0
    assert (occurred.sum(1) == shower.counts).all() and shower.counts.mean() > 4
    clock = exposure.ravel().cumsum()
    gaps = np.diff(clock[occurred.ravel()], prepend=0)
    assert kstest(gaps, "expon").pvalue > 1e-3
    assert kstest(1.03 * gaps, "expon").pvalue < 1e-3
    u = exposure.sum(1)
    assert abs((shower.counts - u).mean()) < 4 * (u.mean() / n) ** 0.5


@pytest.mark.parametrize("kind", [Q_QG, G_GG, G_QQ])
def test_every_kind_of_splitting_comes_at_its_rate(watched, kind):
    alpha_s, _, steps = watched
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = found = 0.0
    for _, s, gluon, high, low, new in steps:
        found += (new.kind == kind).sum()
        ends = np.stack([gluon[:, :-1], gluon[:, 1:]]) == (kind != Q_QG)
        event, place = np.nonzero(s)
        half = (high - low)[event, None] / 2
        ln_t = low[event, None] + half * (nodes + 1)
        alpha = splitting.coupling(ln_t / 2, alpha_s)
        F = splitting.rate(kind, s[event, place][:, None], ln_t)
        expected += ((half * weights * alpha * F).sum(1) * ends.sum(0)[event, place]).sum()
    expected /= 2 * np.pi
    assert abs(found - expected) < 4 * expected**0.5
    assert found > 500


def test_colour_lines_and_ordering(watched):
    """Lines run from quark to antiquark, a gluon within; kt falls; u, kind and scale fit."""
    for step, (_, s, gluon, high, low, new) in enumerate(watched[2]):
        assert gluon.shape[1] == step + 2 and not gluon[:, [0, -1]].any()
        ends = ~gluon
        number = ends.cumsum(1)  # odd within a line
        assert (number[:, -1] % 2 == 0).all()
        assert (ends[:, :-1][s == 0] & (number[:, :-1][s == 0] % 2 == 0)).all()
        assert (number[:, :-1][s > 0] % 2 == 1).all()
        alive = np.flatnonzero(new.pair >= 0)
        assert (new.ln_kt[alive] <= high[alive] / 2 + 1e-6).all() and (low >= 0).all()
        emitter = gluon[alive, new.pair[alive] + new.side[alive]]
        assert (emitter == (new.kind[alive] != Q_QG)).all()
        kappa = np.exp(2 * new.ln_kt[alive]) / s[alive, new.pair[alive]]
        assert (kappa < new.u[alive] * (1 - new.u[alive]) * (1 + 1e-5)).all()
