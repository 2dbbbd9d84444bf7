r"""Verdict: what the checks found, as a table with one corrected p-value a row.

.. math::
    p_{(i)}^{\mathrm{Holm}} = \max_{j \le i}\, \min\{(m - j + 1)\, p_{(j)},\ 1\}

A row fails if its corrected p-value is below alpha: of exact posteriors, a share of at most alpha
fails any.
"""

from __future__ import annotations

__all__ = ["Verdict", "holm"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given.

    References:
        | A Simple Sequentially Rejective Multiple Test Procedure (Holm, 1979)
        | https://www.jstor.org/stable/4615733
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    steps = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)
    out = np.empty(len(p))
    out[order] = np.maximum.accumulate(steps)
    return [float(v) for v in out]


@dataclass(frozen=True)
class Verdict:
    """What `calibrate` found.

    Attributes:
        passed: Whether no row of the table failed.
        table: Rows of check, parameter, statistic, p_value, p_corrected, passed, finding, and, of
            rank tests, the p-values of their parts under tests. Rows that only report have p_value
            and passed None.
        n: The number of pairs.
        draws: The number of draws that each truth was ranked among.
        source: Which rows the pairs are.
        notes: What else should be known.
        uninformative: Parameters whose posterior is hardly narrower than their prior.
        alpha: The chance that an exact posterior fails.
        expression: What was judged.
        ranks: Whole numbers in 0 ... draws that were tested, by check and parameter.
    """

    passed: bool
    table: list[dict[str, Any]]
    n: int
    draws: int
    source: str
    notes: tuple[str, ...] = ()
    uninformative: tuple[str, ...] = ()
    alpha: float = 0.01
    expression: str = ""
    ranks: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """One sentence."""
        if self.passed:
            level = f"{100 * self.alpha:g} %"
            text = f"Calibrated: {self.n} pairs show no departure at the {level} level."
        else:
            failed = [row for row in self.table if row["passed"] is False]
            worst = min(failed, key=lambda row: row["p_value"])
            what = worst["check"] + (f" of {worst['parameter']}" if worst["parameter"] else "")
            text = f"Not calibrated: {what} fails"
            text += f" ({worst['finding']})" if worst["finding"] else ""
            text += f", p = {worst['p_corrected']:.1e}"
            text += f", and {len(failed) - 1} more" if len(failed) > 1 else ""
            text += f"; {self.n} pairs."
        if self.uninformative:
            text += f" Uninformative (the prior over again): {', '.join(self.uninformative)}."
        return text

    def row(self, check: str, parameter: str = "") -> dict[str, Any]:
        """The row of a check and parameter.

        Raises:
            KeyError: If there is none.
        """
        for row in self.table:
            if row["check"] == check and row["parameter"] == parameter:
                return row
        raise KeyError(f"no check {check!r} of parameter {parameter!r}")

    def plot(self) -> Figure:
        """Ranks, coverage and TARP with their simultaneous bands."""
        from ..plots import verdict_figure

        return verdict_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, all that `plot` needs among them."""
        return {
            **asdict(self),
            "notes": list(self.notes),
            "uninformative": list(self.uninformative),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The inverse of to_dict."""
        lists = {k: tuple(values.get(k, ())) for k in ("notes", "uninformative")}
        return cls(**{**values, **lists})

    def __str__(self) -> str:
        lines = [self.headline, f"{self.expression}, {self.source}, {self.draws} draws each"]
        width = max(len(row["parameter"]) for row in self.table) if self.table else 0
        width = max(width, len("parameter"))
        lines.append(
            f"{'check':<13}{'parameter':<{width + 2}}{'statistic':>9}{'p':>10}{'corrected':>11}"
        )
        for row in self.table:
            p, q = ("—" if row[k] is None else f"{row[k]:.2g}" for k in ("p_value", "p_corrected"))
            word = {True: "pass", False: "FAIL", None: ""}[row["passed"]]
            text = f"{row['check']:<13}{row['parameter']:<{width + 2}}{row['statistic']:>9.3f}"
            lines.append(f"{text}{p:>10}{q:>11}  {word:<5} {row['finding']}".rstrip())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("check", "parameter", title=None)
        for name in ("statistic", "p", "corrected p"):
            table.add_column(name, justify="right")
        table.add_column("")
        table.add_column("finding")
        words = {True: Text("pass", "green"), False: Text("FAIL", "bold red"), None: Text("")}
        for row in self.table:
            p, q = ("—" if row[k] is None else f"{row[k]:.2g}" for k in ("p_value", "p_corrected"))
            statistic = f"{row['statistic']:.3f}"
            word = words[row["passed"]]
            table.add_row(row["check"], row["parameter"], statistic, p, q, word, row["finding"])
        head = Text(self.headline, "bold green" if self.passed else "bold red")
        tail = [Text(f"note: {note}") for note in self.notes]
        return Group(head, Text(f"{self.source}, {self.draws} draws each"), table, *tail)
