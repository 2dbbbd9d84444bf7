"""The result in Markdown."""

from __future__ import annotations

__all__ = ["text"]

from collections.abc import Mapping
from typing import Any

import numpy as np

HEAD = """# Mass maps behind a mask

Convergence of one cosmology (Omega_m 0.3, sigma_8 0.8, w_0 -1), 32 by 32 pixels over 5 degrees,
shape noise of 27 galaxies per square arcminute; seen is a disc less what stars hide. Wiener: the
Gaussian prior of the maps' own spectrum, in closed form: the posterior of Gaussian maps, and of
lognormal ones the usual approximation. Learned: a diffusion model of lognormal maps without noise,
by the ancestral sampler with a covariance averaged over it (`studies/lensing/averaged.py`), which
is approximate.

Calibration as in `studies/lensing`: ranks of truths in eight projections and in log p(y | x).
Coverage: of pixels by the central 50 and 93.75 %. rmse of the posterior mean over the maps' own
standard deviation. Power of draws over the truth's: least and largest of eight bands. PDF: half
the integral of the absolute difference from the truths' one-point distribution.
"""


def text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of parts by name."""
    lines = [
        HEAD,
        "| maps, prior | truths | p projections | p log p(y given x) | p | coverage | rmse / rms "
        "| chi2 | power of draws | power of mean | PDF | ESS | s |",
        "| --- |" + " ---: |" * 12,
        *(_row(k, v) for k, v in found.items()),
        "",
        *(f"- {k}: `{v['command']}`" for k, v in found.items()),
        "",
        "![summaries](summaries.png)",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, r: Mapping[str, Any]) -> str:
    pdf, true = np.array(r["pdf"]), np.array(r["pdf_truth"])
    width = 0.09 / len(pdf)
    cells = [
        f"{r['truths']}",
        f"{min(r['p_projections']):.3g} … {max(r['p_projections']):.3g}",
        f"{r['p_log_likelihood']:.3g}",
        f"**{r['p']:.3g}**",
        " / ".join(f"{100 * v:.1f} %" for v in r["coverage"]),
        f"{r['rmse'] / r['rms_truth']:.3f}",
        f"{r['chi2']:.3f}",
        f"{min(r['power']):.2f} … {max(r['power']):.2f}",
        f"{min(r['power_of_mean']):.2f} … {max(r['power_of_mean']):.2f}",
        f"{0.5 * width * float(abs(pdf - true).sum()):.3f}",
        "independent" if r["ess"] is None else f"{r['ess']:.1f}",
        f"{r['seconds']:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"
