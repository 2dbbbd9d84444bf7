from pathlib import Path

import pytest

from simgen.page import Page, html_label, number


def test_text_is_escaped_and_html_is_not(tmp_path: Path) -> None:
    page = Page("a < b", "c & d")
    page.section("one", "<One>")
    page.text("x < y")
    page.table(["<h>", "raw"], [["<td>", "<b>bold</b>"]], raw=[1])
    page.facts({"<k>": "<v>", "nothing": None})
    text = page.write(tmp_path / "new" / "page.html").read_text()
    assert "<title>a &lt; b</title>" in text and "x &lt; y" in text
    assert "&lt;td&gt;" in text and "<b>bold</b>" in text and "&lt;v&gt;" in text
    assert "nothing" not in text and "<One>" not in text
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("sigma_8", "<i>σ<sub>8</sub></i>"),  # noqa: RUF001
        (r"\Omega_m h^2", "<i>Ω<sub>m</sub> h<sup>2</sup></i>"),
        ("jet mass", "jet mass"),
        ("<script>", "&lt;script&gt;"),
        (r"\sqrt{s}", "the name"),
    ],
)
def test_labels(label: str, expected: str) -> None:
    assert html_label(label, "the name") == expected


def test_numbers() -> None:
    assert [number(v) for v in (None, True, 3, 12345, 1.23456, 1e-9, "a")] == [
        *("—", "yes", "3", "12,345", "1.235", "1e-9", "a"),
    ]
