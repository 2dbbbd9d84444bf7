r"""report(): one self-contained HTML page on what was simulated, learned, checked and inferred.

What was not given is left out, and the page says so. It needs no network: figures are part of the
file.
"""

from __future__ import annotations

__all__ = ["report"]

import datetime
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, plots
from .page import Page, html_label, number
from .pictures import show_rows
from .prediction import check_predictions
from .samples import Samples

if TYPE_CHECKING:
    from .calibration import Verdict

COLUMNS = 50
_PICTURED = 256  # draws of an image
CHECKS = (
    "ranks: place of the truth among the draws, parameter by parameter; coverage: how much of the "
    "posterior is denser than the truth; tarp: distances to points that x chooses; dependence: "
    "whether ranks follow x, as they would if the prior stood in for the posterior; contraction: "
    "1 is a point, 0 is the prior over again; correlation: products of two parameters; c2st: how "
    "often a classifier ranks the truth above a draw, 0.5 by chance; local: whether ranks depend "
    "on where x is; near: the pairs most like the observation."
)


def report(
    path: str | os.PathLike[str],
    conditional: Any,
    *,
    verdict: Any = None,
    observation: Any = None,
    truth: Any = None,
    simulator: Any = None,
    dataset: Any = None,
    posterior: Any = None,
    likelihood: Any = None,
    surrogate: Any = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Path:
    r"""Writes one HTML page.

    Arguments:
        path: The file to write.
        conditional: A Conditional.
        verdict: What `calibrate` returned, or its dict; the one stored in the model unless given.
        observation: The given field's value, or a dict of several by name; adds the posterior of
            it.
        truth: True values of the target (d,), where they are known.
        simulator: What the data came from; adds its settings and the posterior-predictive check.
        dataset: What the model was trained on; adds rows and failures.
        posterior: Of an inverse problem, what `infer` returned with this model as prior, of the
            observation; adds pictures of it. The truth then is x.
        likelihood: The instrument that `infer` was given; adds the residual.
        surrogate: A fitted "x | theta", or an explicit log p(x | theta), beside a conditional
            "theta | x"; adds how far the two agree on the observation.
        draws: The number of draws of the posterior.
        seed: Of draws and predictive simulations.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the observation or the truth has the wrong shape.
    """
    page = Page(
        f"p({conditional.expression})",
        f"simgen {__version__} · {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )
    missing: list[str] = []
    _simulated(page, conditional, simulator, dataset, missing)
    if simulator is not None:
        show_rows(page, conditional, simulator, seed, missing)
    _trained(page, conditional, missing)
    _checked(page, _verdict(conditional, verdict), missing)
    if posterior is not None:
        _reconstructed(page, posterior, likelihood, observation, truth, seed)
    elif observation is None:
        missing.append("the posterior and its predictions: no observation was given")
    else:
        observed = _observed(conditional, observation)
        samples = _draw(conditional, observed, draws, seed)
        _inferred(page, conditional, samples, truth)
        _likeness(page, conditional, observed)
        _cross_checked(page, conditional, surrogate, observed, seed, missing)
        check_predictions(page, conditional, samples, observed, simulator, seed, missing)
    _origin(page, conditional, dataset, seed, draws if observation is not None else None)
    if missing:
        page.section("missing", "Left out")
        for what in missing:
            page.text(what[0].upper() + what[1:] + ".")
    return page.write(path)


# What was simulated


def _simulated(
    page: Page, conditional: Any, simulator: Any, dataset: Any, missing: list[str]
) -> None:
    page.section("simulation", "What was simulated")
    origin = _provenance(conditional).get("dataset", {})
    recorded = _simulator_record(dataset, origin)
    if simulator is None and not recorded:
        missing.append("the simulator: none was given, and the model's dataset names none")
    facts: dict[str, Any] = {
        "simulator": getattr(simulator, "name", None) or recorded.get("name"),
        "settings": _plain(getattr(simulator, "settings", None) or recorded.get("settings")),
        "rows at training": origin.get("rows"),
    }
    if dataset is not None and not isinstance(dataset, Mapping):
        good = len(dataset.good.rows)
        facts |= {
            "dataset": str(getattr(dataset, "path", "")) or None,
            "rows": len(dataset),
            "failed rows": f"{len(dataset) - good} ({1 - good / max(len(dataset), 1):.2%})",
        }
    else:
        missing.append("rows and failures: no dataset was given")
    page.facts(facts)
    fields = getattr(conditional, "fields", None) or {}
    if fields:
        rows = [
            [k, "target" if k in conditional.target else "given", f.layout, _shape(f.shape)]
            for k, f in fields.items()
            if k in (*conditional.target, *conditional.given)
        ]
        page.heading("Fields")
        page.table(["field", "side", "layout", "shape"], rows)
    prior = _prior(conditional, simulator, dataset)
    if prior is None:
        missing.append("the prior: neither model, simulator nor dataset has one")
        return
    page.heading("Prior")
    factors = getattr(prior, "factors", {})
    rows = []
    for i, name in enumerate(prior.names):
        said = _factor(factors[name]) if name in factors else type(prior.joint).__name__
        low, high = (float(getattr(prior, side)[i]) for side in ("low", "high"))
        support = f"({_bound(low)}, {_bound(high)})"
        rows.append(
            [html_label(prior.labels[i], name), name, said, support, prior.units[i] or "—"]
        )
    page.table(["", "parameter", "prior", "support", "unit"], rows, raw=[0])


def _bound(value: float) -> str:
    return number(value) if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"  # noqa: RUF001


def _simulator_record(dataset: Any, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset, or else the model, recorded of the simulator."""
    found = origin.get("simulator")
    if dataset is not None and not isinstance(dataset, Mapping):
        found = dataset.provenance.get("simulator") or found
    if isinstance(found, Mapping):
        return dict(found)
    return {"name": found} if found else {}


def _prior(conditional: Any, simulator: Any, dataset: Any) -> Any:
    for source in (conditional, simulator, dataset):
        try:
            prior = getattr(source, "prior", None)
        except ValueError:  # of which only names and support are stored
            continue
        if prior is not None:
            return prior
    return None


def _factor(factor: Any) -> str:
    values = {k: getattr(factor, k, None) for k in factor.arg_constraints}
    shown = [f"{k} = {float(v):.4g}" for k, v in values.items() if v is not None and v.ndim == 0]
    return f"{type(factor).__name__}({', '.join(shown)})"


def _plain(value: Any) -> str | None:
    if not value:
        return None
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k} = {_plain(v) if isinstance(v, Mapping) else v}" for k, v in value.items()
        )
    return str(value)


def _provenance(conditional: Any) -> dict[str, Any]:
    return dict(getattr(conditional, "provenance", None) or {})


# What was learned and checked


def _trained(page: Page, conditional: Any, missing: list[str]) -> None:
    page.section("training", "Model and training")
    training = _provenance(conditional).get("training", {})
    facts: dict[str, Any] = {
        "conditional": f"p({conditional.expression})",
        "family": repr(conditional.family) if hasattr(conditional, "family") else None,
        "parameters of the network": training.get("parameters"),
        "training rows": training.get("rows"),
        "epochs": training.get("epochs"),
        "seconds": round(training["seconds"], 1) if "seconds" in training else None,
        "best validation loss": training.get("best_validation_loss"),
    }
    page.facts(facts)
    history = getattr(conditional, "history", None)
    try:
        figure = plots.loss_curves(history or {})
    except ValueError:
        missing.append("training curves: the model has no history")
        return
    page.figure(figure, "Loss by epoch; the weights of the lowest validation loss were kept.")


def _verdict(conditional: Any, verdict: Any) -> Verdict | None:
    found = verdict if verdict is not None else getattr(conditional, "verdict", None)
    if isinstance(found, Mapping):
        from .calibration import Verdict

        return Verdict.from_dict(found)
    return found


def _checked(page: Page, verdict: Verdict | None, missing: list[str]) -> None:
    if verdict is None:
        missing.append("calibration: no verdict was given, so nothing here vouches for the model")
        return
    page.section("calibration", "Calibration")
    page.text(verdict.headline, "lead good" if verdict.passed else "lead bad")
    page.text(
        f"{verdict.n} pairs: {verdict.source}; {verdict.draws} draws each. p-values are corrected "
        f"for the number of checks (Holm): {100 * verdict.alpha:g} % of exact ones fail any.",
        "soft",
    )
    words = {
        True: '<span class="good">pass</span>',
        False: '<span class="bad">fail</span>',
        None: "",
    }
    rows = [
        [
            row["check"],
            html_label(row["parameter"]) if row["parameter"] else "",
            f"{row['statistic']:.3f}",
            _p(row["p_value"]),
            _p(row["p_corrected"]),
            words[row["passed"]],
            row["finding"],
        ]
        for row in verdict.table
    ]
    header = ["check", "parameter", "statistic", "p", "corrected p", "", "finding"]
    page.table(header, rows, numbers=[2, 3, 4], raw=[1, 5])
    page.text(CHECKS, "soft")
    if verdict.ranks:
        page.figure(
            verdict.plot(),
            "Empirical distributions of ranks, of coverage levels, of TARP levels, of a "
            "classifier's ranks and of regions of x, less the uniform one: a calibrated posterior "
            "stays within the band with 95 % probability.",
        )
    for note in verdict.notes:
        page.text(f"Note: {note}.", "soft")


def _p(value: float | None) -> str:
    if value is None:
        return "—"
    return "< 1e-300" if value < 1e-300 else number(float(value), 2)


# What was inferred


def _observed(conditional: Any, observation: Any) -> dict[str, Any]:
    """The given fields by name."""
    if isinstance(observation, Mapping):
        return dict(observation)
    if len(conditional.given) != 1:
        raise ValueError(
            f"{conditional.expression!r} has {len(conditional.given)} given fields: give the "
            "observation as a dict by name"
        )
    return {conditional.given[0]: observation}


def _draw(conditional: Any, observed: Mapping[str, Any], draws: int, seed: int) -> Samples:
    given = conditional.given
    rest = {k: v for k, v in observed.items() if k not in given}
    if len(given) == 1:
        q = conditional(observed[given[0]], **rest)
    else:
        q = conditional(**observed)
    columns = {k: getattr(conditional, k, None) for k in ("names", "labels", "units")}
    d = int(np.prod(q.event_shape))
    said = {k: v if v is not None and len(v) == d else None for k, v in columns.items()}
    return Samples.draw(q, draws, seed, **said)


def _inferred(page: Page, conditional: Any, samples: Samples, truth: Any) -> None:
    page.section("posterior", "The posterior of the observation")
    if not samples.names:
        page.text(f"Draws have shape {samples.draws.shape[1:]}; no marginals are shown.")
        return
    rows = []
    summary = samples.summary(truth)
    for i, row in enumerate(summary[:COLUMNS]):
        mean, sd, low, high = _rounded(row)
        cells = [
            html_label(samples.labels[i], row["name"]),
            row["name"],
            mean,
            sd,
            f"{low} … {high}",
        ]
        if truth is not None:
            cells += [number(row["truth"], 5), f"{row['pull']:+.2f}"]
        rows.append([*cells, row["unit"] or "—"])
    header = ["", "parameter", "mean", "sd", "central 68 %"]
    header += ["truth", "(truth - mean) / sd"] if truth is not None else []
    numbers = [2, 3, 4] + ([5, 6] if truth is not None else [])
    page.table([*header, "unit"], rows, numbers=numbers, raw=[0])
    if len(summary) > COLUMNS:
        page.text(f"The first {COLUMNS} of {len(summary)} columns.", "soft")
    prior = getattr(conditional, "prior", None)
    before = None
    if prior is not None and tuple(prior.names) == samples.names:
        before = prior.sample((10_000,), seed=0)
    page.figure(
        plots.corner(samples, truth=truth, prior=before),
        f"{len(samples):,} draws given the observation: marginals, and regions of 68 % and 95 %."
        + (f" The first 10 of {len(summary)} columns." if len(summary) > 10 else ""),
    )


def _likeness(page: Page, conditional: Any, observed: Mapping[str, Any]) -> None:
    """Whether the observation could have come from the simulator, where the model knows."""
    if getattr(conditional, "typicality", None) or getattr(conditional, "reference", None):
        from .typicality import check_observation
    else:
        return
    try:
        found = check_observation(conditional, **observed)
    except ValueError as error:
        page.text(f"Whether the observation could be a simulation is open: {error}.")
        return
    share = f"of {found.rows:,} simulations held out a share of {_p(found)} is as unusual"
    if found.suspect:
        text = f"The observation is unlike the simulations ({share}): {found.because}."
        page.text(f"{text} What is inferred from it cannot be trusted.", "bad")
    else:
        page.text(f"The observation could be a simulation: {share}.")


def _cross_checked(
    page: Page,
    conditional: Any,
    surrogate: Any,
    observed: Mapping[str, Any],
    seed: int,
    missing: list[str],
) -> None:
    """How far a surrogate likelihood agrees with the posterior, on this observation."""
    if surrogate is None:
        missing.append("the cross-check: no surrogate likelihood was given")
        return
    from .agreement import cross_check

    if len(observed) != 1:
        missing.append("the cross-check: it is of a posterior given one field of fixed length")
        return
    found = cross_check(conditional, surrogate, next(iter(observed.values())), seed=seed)
    page.heading("Cross-check")
    page.text(
        f"{found.verdict[0].upper()}{found.verdict[1:]}.",
        "lead good" if found.agrees else "lead bad" if found.contradicts else "lead",
    )
    page.facts(
        {
            "spread of log p(x|θ) + log p(θ) - log q(θ|x)": f"{found.spread:.3g} nats",
            "log-evidence by the surrogate": repr(found.evidence),
            "effective draws once weighted": f"{found.efficiency:.1%}",
            "Pareto shape of the weights": found.pareto_k,
        }
    )
    page.text("0 nats: the two agree; what both learned wrong alike is not seen.", "soft")


def _rounded(row: Mapping[str, Any]) -> list[str]:
    """Mean, sd, low and high to two digits of the standard deviation."""
    keys = ("mean", "sd", "low", "high")
    if not (math.isfinite(row["sd"]) and row["sd"] > 0):
        return [number(row[k]) for k in keys]
    places = 1 - math.floor(math.log10(row["sd"]))
    if not -3 <= places <= 6:
        return [number(row[k]) for k in keys]
    return [f"{row[k]:.{max(places, 0)}f}" for k in keys]


def _reconstructed(
    page: Page, posterior: Any, likelihood: Any, observation: Any, truth: Any, seed: int
) -> None:
    """An inverse problem: what `infer` says of itself, and pictures."""
    if observation is None:
        raise ValueError("a posterior is shown with its observation: give it")
    page.section("posterior", "The posterior of the observation")
    page.text(f"{posterior!r}.")
    if not posterior.event_shape:
        page.text("There are several unknowns: no pictures are shown.")
        return
    kept = len(next(iter(posterior.outcome.unknowns.values())))
    n = _PICTURED if math.isinf(posterior.ess) else min(_PICTURED, kept)  # what there is already
    x = posterior.sample(n, seed=seed)
    facts: dict[str, Any] = {"effective draws": posterior.ess}
    predicted = sigma = None
    if hasattr(likelihood, "predict"):
        predicted, size = likelihood.predict({"x": x}), plots.as_array(observation).size
        facts["chi2 a number observed"] = float(posterior.chi2(n=n).mean() / size)
        known = getattr(likelihood, "sigma", None)
        sigma = None if callable(known) else known
    if posterior.outcome.evidence is not None:
        value, error = posterior.log_evidence()
        facts |= {"log-evidence": value, "its standard error": error}
    page.facts(facts)
    page.figure(
        plots.inverse_pictures(observation, x, truth, predicted, sigma),
        f"What was observed, and mean, standard deviation and three of {len(x)} draws.",
    )


# Where it comes from


def _origin(page: Page, conditional: Any, dataset: Any, seed: int, draws: int | None) -> None:
    page.section("provenance", "Provenance")
    provenance = _provenance(conditional)
    facts: dict[str, Any] = {"written by": f"simgen {__version__}", "seed of this page": seed}
    if draws is not None:
        facts["draws of the posterior"] = draws
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            facts |= {f"{key}: {k}": _text(v) for k, v in value.items()}
        else:
            facts[key] = _text(value)
    if dataset is not None and not isinstance(dataset, Mapping):
        facts["identity of the dataset given"] = dataset.identity
        facts["seed of its simulations"] = dataset.provenance.get("seed")
    page.facts(facts)


def _text(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str) if len(value) else None
    return value
