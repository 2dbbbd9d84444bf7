"""Page: one HTML file, complete in itself, of sections, tables and figures; no script."""

from __future__ import annotations

__all__ = ["Page", "html_label", "number"]

import base64
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { --ink: #1a202c; --soft: #4a5568; --line: #e2e8f0; --paper: #ffffff; --tint: #f7fafc;
  --accent: #2b6cb0; --good: #276749; --bad: #c53030; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--tint); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 40px 48px; background: var(--paper);
  border: 1px solid var(--line); border-width: 0 1px; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 14px; margin-bottom: 8px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 34px 0 10px; padding-bottom: 4px; border-bottom: 1px solid
var(--line); } h3 { font-size: 15px; margin: 18px 0 6px; color: var(--soft); } p { margin: 6px 0
10px; max-width: 76ch; } .soft, figcaption { color: var(--soft); font-size: 13.5px; } .lead { font-
size: 16px; padding: 10px 14px; border-left: 5px solid var(--line);
  background: var(--tint); max-width: none; }
.lead.good { border-color: var(--good); } .lead.bad { border-color: var(--bad); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.lead.good, .lead.bad { color: var(--ink); font-weight: 600; }
nav { font-size: 13.5px; margin: 10px 0 0; }
nav a { color: var(--accent); text-decoration: none; margin-right: 16px; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px;
  border-bottom: 2px solid var(--line); padding: 4px 16px 4px 0; }
td { border-bottom: 1px solid var(--line); padding: 4px 16px 4px 0; vertical-align: top; }
td.n, th.n { text-align: right; }
.plain td:first-child { color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; }
figure { margin: 12px 0 16px; }
figure img { max-width: 100%; height: auto; display: block; }
code { font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
footer { margin-top: 36px; color: var(--soft); font-size: 12.5px; }
@media print {
  body { background: none; font-size: 11pt; } main { border: 0; padding: 0; max-width: none; }
  nav { display: none; } h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; }
}
@media (max-width: 640px) { main { padding: 18px; } }
"""

_GREEK = dict(
    zip(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma "
        "tau upsilon phi chi psi omega".split(),
        "αβγδεζηθικλμνξπρστυφχψω",
    )
)
_GREEK |= dict(zip("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(), "ΓΔΘΛΞΠΣΦΨΩ"))


def html_label(label: str, name: str | None = None) -> str:
    r"""A LaTeX label or a plain name as HTML; what it cannot write becomes the name.

    Examples:
        >>> html_label("\\Omega_m")
        '<i>Ω<sub>m</sub></i>'
        >>> html_label("E_{\\mathrm{jet}}^2")
        '<i>E<sub>jet</sub><sup>2</sup></i>'
    """
    text = label.replace("$", "")
    plain = re.fullmatch(r"([A-Za-z]+)(?:_?(\d+)|_(\w+))?", text)
    if plain and (plain[1] in _GREEK or len(plain[1]) == 1):
        sub = plain[2] or plain[3]
        base = _GREEK.get(plain[1], plain[1])
        return f"<i>{base}{f'<sub>{html.escape(sub)}</sub>' if sub else ''}</i>"
    if "\\" not in text and "^" not in text and "_{" not in text:
        return html.escape(text)
    text = re.sub(r"\\(?:mathrm|text|rm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+) ?", lambda m: _GREEK.get(m[1], m[0]), text)
    text = html.escape(re.sub(r"\\[,;! ]", " ", text))
    for mark, tag in (("_", "sub"), ("\\^", "sup")):
        text = re.sub(mark + r"(?:\{([^{}]*)\}|(\w))", rf"<{tag}>\1\2</{tag}>", text)
    if re.search(r"[\\{}]", text):
        return html.escape(name or label)
    return f"<i>{text}</i>"


def number(value: Any, digits: int = 4) -> str:
    """A number for a table; what is none is written as it is."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        return re.sub(r"e([+-])0*(\d+)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", text)
    return str(value)


class Page:
    """Sections in the order they are added; text is escaped unless it is said to be HTML."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.parts: list[str] = []
        self.sections: list[tuple[str, str]] = []

    def section(self, key: str, title: str) -> None:
        """Starts a section; `key` is its anchor."""
        if self.sections:
            self.parts.append("</section>")
        self.sections.append((key, title))
        self.parts.append(f'<section id="{html.escape(key)}"><h2>{html.escape(title)}</h2>')

    def heading(self, text: str) -> None:
        """A heading within a section."""
        self.parts.append(f"<h3>{html.escape(text)}</h3>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; `kind` is its class: "soft", "lead good", "lead bad"."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts.append(f"<p{attribute}>{html.escape(text)}</p>")

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        numbers: Sequence[int] = (),
        raw: Sequence[int] = (),
    ) -> None:
        """A table; columns in `numbers` are right-aligned, those in `raw` are HTML already."""

        def cell(tag: str, j: int, value: Any) -> str:
            text = str(value) if j in raw and tag == "td" else html.escape(number(value))
            return f"<{tag}{' class=n' if j in numbers else ''}>{text}</{tag}>"

        head = "".join(cell("th", j, v) for j, v in enumerate(header))
        body = "".join(
            f"<tr>{''.join(cell('td', j, v) for j, v in enumerate(row))}</tr>" for row in rows
        )
        self.parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>"
        )

    def facts(self, facts: Mapping[str, Any]) -> None:
        """A table of names and values; what is None is left out."""
        rows = "".join(
            f"<tr><td>{html.escape(k)}</td><td>{html.escape(number(v, 6))}</td></tr>"
            for k, v in facts.items()
            if v is not None
        )
        self.parts.append(f'<table class="plain"><tbody>{rows}</tbody></table>')

    def figure(self, figure: Figure, caption: str, dpi: int = 144) -> None:
        """A figure as PNG within the page, at its own size in print."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        width = round(96 * figure.get_figwidth())
        self.parts.append(
            f'<figure><img alt="{html.escape(caption)}" width="{width}" '
            f'src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption>'
            "</figure>"
        )

    def render(self) -> str:
        """The whole page."""
        end = "</section>" if self.sections else ""
        links = "\n".join(
            f'<a href="#{html.escape(k)}">{html.escape(title)}</a>' for k, title in self.sections
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head><body><main>"
            f'<header><h1>{html.escape(self.title)}</h1><div class="soft">'
            f"{html.escape(self.subtitle)}</div><nav>{links}</nav></header>\n"
            + "\n".join(self.parts)
            + f"{end}<footer>Written by simgen; this page is complete in itself.</footer>"
            "</main></body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.part{os.getpid()}")
        try:
            temporary.write_text(self.render(), encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target
