"""The pages of docs/: links lead somewhere, and every example of the lectures stands there."""

import re
from pathlib import Path

import pytest

from studies.lectures.__main__ import EXAMPLES, subject

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("studies/lectures/*.md")])


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    here = [link for link in links(page) if not link.startswith("http")]
    assert here
    assert [link for link in here if not (page.parent / link).exists()] == []


def test_every_example_stands_on_the_page_with_its_command_figures_and_numbers():
    text = (ROOT / "docs/lectures.md").read_text()
    shown = {Path(link).name for link in links(ROOT / "docs/lectures.md")}
    for name, module in EXAMPLES.items():
        assert f"`python -m studies.lectures {name} --seed 0`" in text
        assert len(subject(module)) > 20
        assert f"{module}.md" in shown
    pictures = {p.name for p in (ROOT / "studies/lectures").glob("*.png")}
    assert len(pictures) >= len(EXAMPLES) and pictures <= shown


def test_the_page_on_inference_runs():
    """Its examples one after the other, as far as they compute nothing long."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/inference.md").read_text(), re.S)
    names: dict = {}
    exec("\n".join(blocks[1:]), names)
    assert names["posterior"].method == "closed-form" and names["joint"].method == "smc"
    assert names["posterior"].sample(2).shape == (2, 16, 16)
