r"""A shower of dipoles: a pair of quarks becomes many partons, a splitting at a time.

.. math::
    \ln p(z_s \mid z_p, \alpha_s) = \sum_i \ln \alpha(t_i)
        - \sum_{\text{dipoles}} \Lambda(s, t_\text{birth}, t_\text{death}; \alpha_s) + \text{const}

Lambda, the expected number of a dipole's splittings while it lives, is a one-dimensional integral
(`splitting`). It gives the joint score without the rejected proposals of the veto algorithm.

Partons are massless, of five flavours, in colour lines from a quark to an antiquark; neighbours
on a line are a dipole. A gluon is emitted between the two partons of its dipole; one that splits
into quarks cuts the line in two.

References:
    | Introduction to parton-shower event generators (Höche, 2014)
    | https://arxiv.org/abs/1411.4085
"""

from __future__ import annotations

__all__ = ["COLUMNS", "Choose", "Shower", "evolve"]

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

from .lund import coupling
from .splitting import G_QQ, Splitting, hazard, recoil

COLUMNS = ("ln_kt", "u", "phi", "kind", "pair", "side")
"""What is recorded of a splitting."""
Choose = Callable[[Array, int, Array, Array, Array], Splitting]


class Shower(NamedTuple):
    """The showers of n events.

    Arguments:
        counts: Splittings in each, (n,).
        splittings: `COLUMNS` of each, zeros behind, (n, slots - 2, 6).
        momenta: (px, py, pz, E) of the counts + 2 partons, GeV, zeros behind, (n, slots, 4).
        log_prob: The log-density of the splittings, up to a constant of alpha_s, (n,).
        score: Its slope by alpha_s, (n,).
    """

    counts: Array
    splittings: Array
    momenta: Array
    log_prob: Array
    score: Array


def evolve(
    pair: Array, alpha_s: Array, cutoff: float, slots: int, choose: Choose, gold: bool = True
) -> Shower:
    """Showers a pair of quarks, all events a splitting at a time, so that all are of one length.

    Arguments:
        pair: Momenta of the quark and the antiquark, (n, 2, 4), massless, GeV.
        alpha_s: alpha_s(m_Z), (n,).
        cutoff: Where the evolution ends, GeV.
        slots: The most partons of an event.
        choose: Names the next splitting of the events that still evolve, given their rows, the
            number of splittings so far, squared masses of dipoles, which partons are gluons, and
            ln t of the splitting before.
        gold: Whether to compute log_prob and score; they are zero otherwise.

    Raises:
        ValueError: If an event has more partons than slots; none is ever dropped.
    """
    n = len(pair)
    out = Shower(
        np.zeros(n, dtype=np.int64),
        np.zeros((n, slots - 2, len(COLUMNS))),
        np.zeros((n, slots, 4)),
        np.zeros(n),
        np.zeros(n),
    )
    ln_cut = 2 * np.log(cutoff)
    rows, p = np.arange(n), np.asarray(pair, dtype=np.float64)
    line = np.tile([1, -1], (n, 1))  # 1 begins a colour line, -1 ends it, 0 is a gluon
    ln_t = np.log(_masses(p, line)[:, 0] / 4)
    step = 0
    while True:
        s = _masses(p, line)
        new = choose(rows, step, s, line == 0, ln_t)
        alive = new.pair >= 0
        ln_t_new = np.where(alive, 2 * new.ln_kt, ln_cut)
        if gold:
            _account(out, rows, s, line, ln_t, ln_t_new, alpha_s[rows], alive)
        out.momenta[rows[~alive], : step + 2] = p[~alive]
        rows, new = rows[alive], Splitting(*(column[alive] for column in new))
        if not len(rows):
            return out
        if step + 2 == slots:
            raise ValueError(
                f"an event at alpha_s = {alpha_s[rows[0]]:.4f} has more than the {slots} partons "
                "that z_s holds; dropping any would bias the score: give PartonShower more "
                "`partons`, a larger `cutoff`, or lower alpha_s"
            )
        out.counts[rows] += 1
        out.splittings[rows, step] = np.stack(new, -1)
        p, line = _split(p[alive], line[alive], new)
        ln_t = ln_t_new[alive]
        step += 1


def _masses(p: Array, line: Array) -> Array:
    """Squared masses (n, k - 1) of neighbours; zero where one line ends and another begins."""
    left, right = p[:, :-1], p[:, 1:]
    s = 2 * (left[..., 3] * right[..., 3] - (left[..., :3] * right[..., :3]).sum(-1))
    return np.where(line[:, :-1] == -1, 0.0, np.maximum(s, 0.0))


def _account(
    out: Shower,
    rows: Array,
    s: Array,
    line: Array,
    ln_t: Array,
    ln_t_new: Array,
    alpha_s: Array,
    alive: Array,
) -> None:
    """Adds an interval of the evolution, and the splitting at its end, to log_prob and score."""
    alpha = coupling(ln_t_new / 2, alpha_s)
    event, place = np.nonzero(s > 4 * np.exp(ln_t_new)[:, None])
    quarks = np.abs(line[event, place]) + np.abs(line[event, place + 1])
    mean, slope = hazard(s[event, place], quarks, ln_t[event], ln_t_new[event], alpha_s[event])
    out.log_prob[rows] += np.where(alive, np.log(alpha), 0.0)
    out.log_prob[rows] -= np.bincount(event, mean, len(rows))
    out.score[rows] += np.where(alive, alpha, 0.0) / alpha_s**2
    out.score[rows] -= np.bincount(event, slope, len(rows))


def _split(p: Array, line: Array, new: Splitting) -> tuple[Array, Array]:
    """Momenta (m, k + 1, 4) and lines (m, k + 1): the emitted parton stands inside its dipole."""
    m, k = line.shape
    row, right = np.arange(m), new.side == 1
    i, spectator = new.pair + right, new.pair + ~right
    p_i, p_j, p_k = recoil(p[row, i], p[row, spectator], new.ln_kt, new.u, new.phi)
    source = np.arange(k + 1) - (np.arange(k + 1) > new.pair[:, None])
    p, line = p[row[:, None], source], line[row[:, None], source]
    p[row, new.pair + 1] = p_j
    p[row, i + right] = p_i
    p[row, spectator + ~right] = p_k
    # of a gluon's quarks the one on the left ends its line, the other begins the next
    quarks = new.kind == G_QQ
    line[row, new.pair + 1] = np.where(quarks, np.where(right, -1, 1), 0)
    line[row[quarks], (i + right)[quarks]] = np.where(right, 1, -1)[quarks]
    return p, line
