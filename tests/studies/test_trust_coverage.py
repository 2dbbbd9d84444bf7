"""The study of coverage in small, and the page on frequentist products."""

import re
import sys
from pathlib import Path

import pytest

from studies.trust import coverage

ROOT = Path(__file__).parents[2]


def test_the_study_writes_its_table_and_figures(tmp_path, monkeypatch):
    small = "--rows 600 --pairs 400 --points 4 --trials 30 --epochs 1 --budget 20s"
    monkeypatch.setattr(sys, "argv", ["coverage", *small.split(), "--out", str(tmp_path)])
    coverage.main()
    text = (tmp_path / "coverage.md").read_text()
    assert text.count("| calibrated |") == text.count("| Wilks |") == 2
    assert {p.name for p in tmp_path.iterdir()} == {
        "coverage.json", "coverage.md", "coverage.png", "confidence_set.png"
    }  # fmt: skip


def test_the_page_on_frequentist_products_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/frequentist.md").read_text(), re.S)
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["best"].theta == pytest.approx([7, 5], abs=0.02)
    ((low, high),) = names["curve"].interval(0.68)
    ((a, b),) = names["found"].interval(0.68)
    assert abs(low - a) < 1.5 and abs(high - b) < 1.5
    assert names["coverage"].valid and "95%" in capsys.readouterr().out
