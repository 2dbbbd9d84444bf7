"""`python -m studies.lectures NAME`: one example; without a name, all of them by name."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

EXAMPLES = {
    "digits-vae": "digits_vae",
    "digits-hierarchical": "digits_hierarchical",
    "digits-superresolution": "digits_superresolution",
    "digits-diffusion": "digits_diffusion",
    "digits-guidance": "digits_guidance",
    "digits-latent": "digits_latent",
    "coupling-layer": "densities_coupling",
    "multimodal": "densities_multimodal",
    "evidence-dimension": "densities_evidence",
}
"""The module of each example; its `main` takes the rest of the command line."""


def subject(module: str) -> str:
    """The first sentence of a module's docstring, without importing it."""
    source = (Path(__file__).parent / f"{module}.py").read_text()
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


def main() -> None:
    """Runs the example that is named, or lists them."""
    if len(sys.argv) > 1 and sys.argv[1] in EXAMPLES:
        module = import_module(f"{__package__}.{EXAMPLES[sys.argv[1]]}")
        return module.main(sys.argv[2:])
    asked = sys.argv[1:2]
    if asked and asked[0] not in ("-h", "--help"):
        sys.exit(f"no example {asked[0]!r}; there are {', '.join(EXAMPLES)}")
    for name, module in EXAMPLES.items():
        print(f"python -m studies.lectures {name:24s} {subject(module)}")


if __name__ == "__main__":
    main()
