r"""Diagnosis: does a simulator keep the rules that everything else relies on?

Rows are a function of theta and seed; seeds change them; rows of a batch know nothing of each
other; fields are finite, of one shape and type over the prior. A joint score
t = ∇ log p(x, z | theta) obeys

.. math::
    E[t] = 0, \qquad
    E\bigl[ h(x)\, ( t_i\, w + \partial_i w + w\, \partial_i \log p(\vartheta) ) \bigr] = 0

for every h and every w(theta) that vanishes at the bounds of the prior: integration by parts of
d E[h | theta] / d theta_i = E[h t_i | theta]. Many a wrong score obeys the first and not the
second. A joint likelihood has the joint score as its gradient, and its ratios have mean one:

.. math::
    E_{\vartheta}\bigl[ p(x, z \mid \vartheta') / p(x, z \mid \vartheta) \bigr] = 1
"""

from __future__ import annotations

__all__ = ["Diagnosis", "Finding", "Identity", "diagnose", "score_identities"]

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray as Array

from .forward import ROW, Simulator, joined, stream

LIMIT = 5.0
"""A deviation of so many standard errors is a finding: once in a million by chance."""
AGREE = 1e-2
"""Relative deviation of a joint score from the slope of the joint likelihood: latents and scores
are stored as float32."""
FEWEST, MOST = 16, 10_000
Fields = Mapping[str, Array]


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed (None if it does not apply), and what was found."""

    check: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        findings: One a check.
        rows: How many rows were simulated at once for them.
        seconds: CPU time a row, in seconds.
        fields: Shape of a row and type of each field.
    """

    findings: tuple[Finding, ...]
    rows: int
    seconds: float
    fields: dict[str, tuple[tuple[int, ...], str]]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.passed is not False for finding in self.findings)


def diagnose(simulator: Simulator, rows: int | None = None, seconds: float = 10.0) -> Diagnosis:
    """Checks a simulator by running it.

    Arguments:
        simulator: The simulator.
        rows: How many rows to simulate at once; as many as the time allows unless said.
        seconds: About how long all checks may take.
    """
    try:
        fields, faults, theta, pace = _try(simulator, rows, seconds)
    except Exception as error:
        finding = Finding("runs", False, f"{type(error).__name__}: {error}")
        return Diagnosis((finding,), 0, float("nan"), {})
    n = len(theta)
    shapes = {k: (v.shape[1:], str(v.dtype)) for k, v in fields.items()}
    text = f"{n} rows over the prior"
    if faults:
        text = f"{len(faults)} of {text} fail, the first by {next(iter(faults.values()))}"
    findings = [Finding("runs", not faults, text)]
    good = np.array([i not in faults for i in range(n)])
    theta, fields = theta[good], {k: v[good] for k, v in fields.items()}
    findings += _shared(simulator, theta, fields, shapes)
    if "joint_score" in fields and simulator.prior is not None:
        findings += _score(simulator.prior, theta, fields)
    if hasattr(simulator, "joint_log_likelihood") and simulator.prior is not None:
        findings += _joint(simulator, theta, fields)
    findings.append(_portable(simulator))
    return Diagnosis(tuple(findings), n, pace, shapes)


def _try(
    simulator: Simulator, rows: int | None, seconds: float
) -> tuple[Fields, dict[int, str], Array, float]:
    """Fields, errors by row, theta and CPU seconds a row, of as many rows as there is time for."""
    few = FEWEST if rows is None else min(rows, FEWEST)
    theta = draw(simulator, few)
    _run(simulator, theta)  # what is set up once does not count
    start = time.perf_counter()
    _run(simulator, theta)
    pace = (time.perf_counter() - start) / few
    # five runs over all rows, and as many calls of a single row
    n = rows or int(np.clip(seconds / 6 / max(pace, 1e-7), FEWEST, MOST))
    theta = draw(simulator, n)
    start = time.process_time()
    fields, faults = _run(simulator, theta)
    return fields, faults, theta, (time.process_time() - start) / n


def _run(simulator: Simulator, theta: Array) -> tuple[Fields, dict[int, str]]:
    """Fields, 0 in the rows that raise, and the errors of these, of which a batch has none."""
    if simulator.batched:
        return simulator(theta, seed=0), {}
    parts, faults = [], {}
    fault: Exception | None = None
    for i, row in enumerate(theta):
        try:
            parts.append(simulator.run(row, stream(0, ROW, i)))
        except Exception as error:
            faults[i], fault = f"{type(error).__name__}: {error}", error
            parts.append({})
    whole = next((part for part in parts if part), None)
    if whole is None and fault is not None:
        raise fault
    assert whole is not None
    empty = {k: np.zeros_like(v) for k, v in whole.items()}
    return joined([part or empty for part in parts]), faults


def draw(simulator: Simulator, n: int) -> Array:
    """Parameters (n, d) from the prior, always the same; (n, 0) without one."""
    if simulator.prior is None:
        return np.empty((n, 0))
    return np.asarray(simulator.prior.sample((n,), seed=0), dtype=np.float64)


def _shared(
    simulator: Simulator, theta: Array, fields: Fields, shapes: Mapping[str, Any]
) -> Iterator[Finding]:
    """The checks that every simulator has in common, each behind its own guard."""
    checks: dict[str, Callable[[], tuple[bool | None, str]]] = {
        "finite": lambda: _finite(fields),
        "declared fields": lambda: _declared(simulator, shapes),
        "repeatable": lambda: _repeatable(simulator, theta),
        "random": lambda: _random(simulator, theta, fields),
        "rows differ": lambda: _rows_differ(simulator, theta),
        "batch = loop": lambda: _loop(simulator, theta, fields, shapes),
    }
    for name, check in checks.items():
        try:
            passed, text = check()
        except Exception as error:
            passed, text = False, f"{type(error).__name__}: {error}"
        yield Finding(name, passed, text)


def _finite(fields: Fields) -> tuple[bool, str]:
    bad = {}
    for name, value in fields.items():
        finite = np.isfinite(value.reshape(len(value), -1)).all(1)
        if not finite.all():
            bad[name] = f"{int((~finite).sum())} of {len(value)} rows of {name}"
    return not bad, f"NaN or infinity in {', '.join(bad.values())}" if bad else "all values"


def _declared(simulator: Simulator, shapes: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Declared fields that never come; shapes are compared on every call already."""
    missing = [k for k in simulator.fields if k not in shapes]
    if not simulator.fields:
        return None, "nothing is declared: layouts are inferred"
    there = f"{len(simulator.fields)} fields as declared"
    return not missing, f"never returned: {', '.join(missing)}" if missing else there


def _equal(a: Fields, b: Fields) -> list[str]:
    """Names of the fields that differ."""
    return [k for k in a if k not in b or not np.array_equal(a[k], b[k], equal_nan=True)]


def _repeatable(simulator: Simulator, theta: Array) -> tuple[bool, str]:
    different = _equal(simulator(theta, seed=0), simulator(theta, seed=0))
    if different:
        return False, (
            f"the same seed gives another {', '.join(different)}: its randomness is not from rng"
        )
    return True, "the same seed gives the same bytes"


def _random(simulator: Simulator, theta: Array, fields: Fields) -> tuple[bool, str]:
    other = simulator(theta, seed=1)
    same = [k for k in fields if k not in _equal(fields, other)]
    if "x" in same:
        return (
            False,
            "another seed gives the same x: it is a function of theta alone, or rng is unused",
        )
    note = f"; {', '.join(same)} does not" if same else ""
    return True, f"another seed gives another x{note}"


def _rows_differ(simulator: Simulator, theta: Array) -> tuple[bool, str]:
    x = simulator(np.repeat(theta[:1], 8, axis=0), seed=0)["x"].reshape(8, -1)
    if (x == x[0]).all():
        return False, "rows of one theta have the same x: the rows of a batch share their noise"
    return True, "rows of one theta have noise of their own"


def _loop(
    simulator: Simulator, theta: Array, fields: Fields, shapes: Mapping[str, Any]
) -> tuple[bool | None, str]:
    """Rows of a batch against rows simulated alone: same shapes and types, same distribution."""
    if not simulator.batched:
        return None, "rows are simulated one at a time"
    from scipy.stats import ks_2samp

    count = min(len(theta), 256)
    singles = []
    for start in (count, 2 * count):
        rows = [simulator(theta[i : i + 1], seed=start + i) for i in range(count)]
        found = {k: (v.shape[1:], str(v.dtype)) for k, v in rows[0].items()}
        if found != dict(shapes):
            return False, f"one row alone has fields {found}, in a batch {dict(shapes)}"
        singles.append(_numbers(np.concatenate([row["x"] for row in rows])))
    batch = _numbers(fields["x"][:count])
    for j in range(batch.shape[1]):
        a, b, c = batch[:, j], singles[0][:, j], singles[1][:, j]
        if ks_2samp(a, b).pvalue < 1e-6:
            return False, "x of a batch is distributed otherwise than x of rows simulated alone"
        gap = np.arctanh(_correlation(b, c)) - np.arctanh(_correlation(a, b))
        if abs(gap) > LIMIT * np.sqrt(2 / max(count - 3, 1)):
            return False, "x of a batch does not follow the theta of its own row"
    return True, f"{count} rows alone and in a batch are distributed alike"


def _correlation(a: Array, b: Array) -> float:
    """The rank correlation of a and b, away from ±1."""
    u, v = (np.argsort(np.argsort(w, kind="stable")) - (len(w) - 1) / 2 for w in (a, b))
    return float(np.clip(u @ v / (u @ u), -0.999, 0.999))


def _summaries(x: Array) -> Array:
    """A few numbers of each row of x (n, k), standardised; those that vary."""
    flat = _numbers(x)
    sd = flat.std(0)
    return (flat - flat.mean(0))[:, sd > 0] / sd[sd > 0]


def _numbers(x: Array) -> Array:
    """A few numbers of each row of x, shape (n, k)."""
    flat = np.where(np.isfinite(x), x, 0.0).reshape(len(x), -1).astype(np.float64)
    if flat.shape[1] > 4:
        columns = flat.reshape(len(x), -1, x.shape[-1])
        means = columns.mean(1)[:, :4] if x.ndim > 2 else flat[:, :4]
        flat = np.concatenate([means, flat.mean(1)[:, None], flat.std(1)[:, None]], 1)
    return flat


@dataclass(frozen=True)
class Identity:
    """One identity of a joint score on simulated rows.

    Attributes:
        identity: Which.
        deviation: The largest of its statistics' means, in standard errors.
        chance: The probability that a right score deviates as much.
    """

    identity: str
    deviation: float
    chance: float


def score_identities(
    prior: Any, theta: Array, t: Array, outcomes: Sequence[Array], weight: Array | None = None
) -> Iterator[Identity]:
    """The identities of a joint score; the second needs the prior.

    Arguments:
        prior: Of theta, None if it is not known.
        theta: (n, d).
        t: Joint scores (n, d).
        outcomes: Fields that depend on theta, (n, ...) each.
        weight: Of each row (n,).
    """
    t = np.asarray(t, dtype=np.float64)
    w = np.ones((len(t), 1)) if weight is None else np.asarray(weight, float).reshape(len(t), 1)
    yield _identity("E[score] = 0", w * t)
    if prior is None:
        return
    window, slope = _window(theta, np.asarray(prior.low), np.asarray(prior.high))
    terms = w * (t * window + slope + window * _prior_slope(prior, theta))
    h = np.concatenate([_summaries(x) for x in outcomes], 1)
    yield _identity("d E[h] = E[h score]", h[:, :, None] * terms[:, None, :])


def _identity(name: str, values: Array) -> Identity:
    """Whether values (n, ...) have mean zero."""
    from scipy.stats import t

    flat = values.reshape(len(values), -1)
    z = float(_deviation(flat).max())
    return Identity(name, z, min(1.0, float(flat.shape[1] * 2 * t.sf(z, len(flat) - 1))))


def _score(prior: Any, theta: Array, fields: Fields) -> Iterator[Finding]:
    """The two identities of a joint score."""
    t = fields["joint_score"]
    if t.shape != theta.shape:
        yield Finding("joint score", False, f"shape {t.shape}; wanted {theta.shape}")
        return
    for found in score_identities(prior, theta, t, [fields["x"]]):
        worst = f"largest deviation {found.deviation:.1f} standard errors"
        yield Finding(found.identity, found.deviation < LIMIT, worst)


def _joint(simulator: Any, theta: Array, fields: Fields) -> Iterator[Finding]:
    """A joint likelihood's gradient against the joint score, and the mean of its ratios."""
    low, high = np.asarray(simulator.prior.low), np.asarray(simulator.prior.high)
    width = np.diff(np.quantile(theta, (0.16, 0.84), axis=0), axis=0)[0] / 2
    h = 1e-3 * width
    good = ((theta - 2 * h > low) & (theta + 2 * h < high)).all(1)
    theta, fields = theta[good], {k: v[good] for k, v in fields.items()}

    def log_p(shift: Array) -> Array:
        return np.asarray(simulator.joint_log_likelihood(fields, theta + shift), np.float64)

    try:
        centre = log_p(np.zeros_like(width))
    except ValueError as error:
        yield Finding("joint likelihood", None, str(error))
        return
    slopes = np.empty_like(theta)
    for i, step in enumerate(np.diag(h)):
        near, far = log_p(step) - log_p(-step), log_p(2 * step) - log_p(-2 * step)
        slopes[:, i] = (8 * near - far) / (12 * h[i])
    spread = slopes.std(0)
    if "joint_score" in fields and fields["joint_score"].shape == theta.shape:
        scale = np.maximum(np.maximum(np.abs(slopes), spread), 1e-300)
        apart = float((np.abs(slopes - fields["joint_score"]) / scale).max())
        text = f"relative deviation at most {apart:.1e}"
        yield Finding("score = d log p", apart < AGREE, text)
    # half a nat along each parameter, towards the middle of the prior
    move = np.minimum(0.5 / np.where(spread > 0, spread, np.inf), width / 2)
    lower = theta < np.median(theta, 0)
    inwards = np.where(lower, 1.0, -1.0)
    ratios = np.stack([np.exp(log_p(inwards * step) - centre) for step in np.diag(move)], -1)
    z = _deviation(np.concatenate([(ratios - 1) * lower, (ratios - 1) * ~lower], -1))
    worst = f"largest deviation {z.max():.1f} standard errors"
    yield Finding("E[ratio] = 1", bool(z.max() < LIMIT), worst)


def _deviation(values: Array) -> Array:
    """|mean| in standard errors, shape (k,), of values (n, k)."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    mean = np.abs(values.mean(0))
    constant = np.where(mean > 0, np.inf, 0.0)
    return np.divide(mean, error, out=constant, where=error > 0)


def _window(theta: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """A weight (n, d) that vanishes at the finite bounds, and its slope by its own parameter."""
    weight, slope = np.ones_like(theta), np.zeros_like(theta)
    for i, (a, b) in enumerate(zip(low, high)):
        y = theta[:, i]
        if np.isfinite(a) and np.isfinite(b):
            weight[:, i], slope[:, i] = (y - a) * (b - y), a + b - 2 * y
        elif np.isfinite(a):
            weight[:, i], slope[:, i] = y - a, 1.0
        elif np.isfinite(b):
            weight[:, i], slope[:, i] = b - y, -1.0
    return weight, slope


def _prior_slope(prior: Any, theta: Array) -> Array:
    """The gradient of log p(theta), shape (n, d)."""
    import torch

    point = torch.tensor(theta, requires_grad=True)
    total = prior.log_prob(point).sum()
    if not total.requires_grad:
        return np.zeros_like(theta)
    (gradient,) = torch.autograd.grad(total, point, allow_unused=True)
    return np.zeros_like(theta) if gradient is None else gradient.numpy()


def _portable(simulator: Simulator) -> Finding:
    """Whether it can go to worker processes."""
    import cloudpickle

    try:
        size = len(cloudpickle.dumps(simulator))
    except Exception as error:
        return Finding("workers", False, f"cannot be pickled: {error}")
    return Finding("workers", True, f"goes to worker processes in {size:,} bytes")
