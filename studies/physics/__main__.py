"""`python -m studies.physics NAME`: one section; without a name, all of them by name."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

SECTIONS = {
    "collider": "collider",
    "unfolding": "unfolding",
    "maps": "maps",
    "sets": "sets",
}
"""The module of each section; its `main` takes the rest of the command line."""


def subject(module: str) -> str:
    """The first sentence of a module's docstring, without importing it."""
    source = (Path(__file__).parent / f"{module}.py").read_text()
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


def main() -> None:
    """Runs the section that is named, or lists them."""
    if len(sys.argv) > 1 and sys.argv[1] in SECTIONS:
        module = import_module(f"{__package__}.{SECTIONS[sys.argv[1]]}")
        return module.main(sys.argv[2:])
    asked = sys.argv[1:2]
    if asked and asked[0] not in ("-h", "--help"):
        sys.exit(f"no section {asked[0]!r}; there are {', '.join(SECTIONS)}")
    for name, file in SECTIONS.items():
        print(f"python -m studies.physics {name:12s} {subject(file)}")


if __name__ == "__main__":
    main()
