"""The result in Markdown."""

from __future__ import annotations

__all__ = ["text"]

from collections.abc import Mapping
from typing import Any

HEAD = """# Strong lensing as an inverse problem

A source of 32 by 32 pixels behind an isothermal ellipsoid in shear, blurred (0.1″), seen on 64 by
64 pixels with noise of 0.1 a pixel: 4,096 numbers for 1,024 unknowns. Two priors: a Gaussian
random field, whose posterior is Wiener's, in closed form; and a diffusion model of galaxies.

Calibration: the rank of the truth among draws of its posterior, in eight projections (four of
white noise, four along draws of the prior) and in log p(y | x); p is the least p-value of all,
times their number, each itself of four tests. Width: of the draws over what it should be, mean
over projections. Averaged covariance: the ancestral sampler, approximate, with the covariance of
x_0 given x_t averaged over the prior, and each row's own in sweeps at the end, all observations in
one run (`averaged.py`). Coverage: share of pixels within the central 50 and 93.75 %. chi2 over
4,096, of draws and of the truth. ESS: median. CPU seconds each.
"""


def text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of parts by name."""
    ranked = {k: v for k, v in found.items() if "ranks" in v}
    lines = [
        HEAD,
        "| prior of truths, method | truths | p projections | p log p(y given x) | p | width "
        "| coverage | rmse | sd | chi2 | chi2 of truth | ESS | s |",
        "| --- |" + " ---: |" * 12,
        *(_calibration(k, v) for k, v in ranked.items()),
        "",
        *(f"- {k}: `{v['command']}`" for k, v in found.items()),
    ]
    if ranked:
        lines += ["", "![ranks](ranks.png)"]
    if "outside" in found:
        lines += ["", "## Sources that are no galaxies, under the prior of galaxies", ""]
        lines += _table(found["outside"], ("chi2", "truth_chi2", "rmse", "spread", "ess"))
        lines += ["", *_warnings(found["outside"])]
    for name, models in found.items():
        if name.startswith("evidence"):
            lines += ["", f"## Evidence of lens models: {name.split(', ')[1]}", ""]
            lines += _table(models, ("chi2", "ess"), "true")
    return "\n".join([*lines, ""])


def _calibration(name: str, r: Mapping[str, Any]) -> str:
    cells = [
        f"{r['truths']}",
        f"{min(r['p_projections']):.3g} … {max(r['p_projections']):.3g}",
        f"{r['p_log_likelihood']:.3g}",
        f"**{r['p']:.3g}**",
        f"{sum(r['width'][:-1]) / len(r['width'][:-1]):.2f}",
        " / ".join(f"{100 * v:.1f} %" for v in r["coverage"]),
        *(f"{r[k]:.3f}" for k in ("rmse", "spread", "chi2", "truth_chi2")),
        "independent" if r["ess"] is None else f"{r['ess']:.1f}",
        f"{r['seconds']:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _table(
    rows: Mapping[str, Any], columns: tuple[str, ...], zero: str | None = None
) -> list[str]:
    """Columns and the log-evidence of each row, or its difference from that of one of them."""
    kept = {k: v for k, v in rows.items() if isinstance(v, Mapping)}
    base = 0.0 if zero is None else kept[zero]["log_evidence"][0]
    what = "log p(y)" if zero is None else f"log p(y) less that of {zero}"
    lines = [f"|  | {' | '.join(columns)} | {what} |", "| --- |" + " ---: |" * (len(columns) + 1)]
    for name, r in kept.items():
        cells = ["" if r[k] is None else f"{r[k]:.3f}" for k in columns]
        value, error = r["log_evidence"]
        cells.append(f"{value - base:.1f}" + (f" ± {error:.1f}" if error else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _warnings(rows: Mapping[str, Any]) -> list[str]:
    kept = {k: v["warned"] for k, v in rows.items() if isinstance(v, Mapping)}
    return [f"- {k}: {'; '.join(v) or 'no warning'}" for k, v in kept.items()]
