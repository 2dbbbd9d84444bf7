"""`python -m studies.campaigns`: campaigns that are killed, timed and weighed.

Each part is measured by itself and keeps its result; the table is of all that there are.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .disk import compression, memory, write_path
from .kills import kills
from .scaling import scaling
from .speed import overhead, speed_up, waiting
from .table import Part

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[Path], Part]] = {
    "kills": kills,
    "overhead": overhead,
    "speed-up": speed_up,
    "waiting": waiting,
    "write": write_path,
    "memory": memory,
    "compression": compression,
    "shards": scaling,
}


def text(results: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = ["# Campaigns", ""]
    lines += [
        "`python -m studies.campaigns --parts PART` for each part, on two shared cores "
        f"({', '.join(f'{k} {version(k)}' for k in ('numpy', 'h5py', 'torch', 'sbi'))}): ratios "
        "are of runs side by side.",
        "",
        "| measure | to reach | found | part |",
        "| --- | ---: | ---: | --- |",
    ]
    known = {name: results[name] for name in PARTS if name in results}
    for name, part in known.items():
        lines += [f"| {' | '.join(row)} | {name} |" for row in part["rows"]]
    for part in known.values():
        lines += ["", part["text"]]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures the chosen parts and writes result.json and result.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.campaigns", description=__doc__)
    options.add_argument("--parts", default=",".join(PARTS), help="with commas; all unless said")
    options.add_argument("--folder", type=Path, metavar="DIR", help="where to put datasets")
    arguments = options.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    file = HERE / "result.json"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.parts.split(","):
            part = PARTS[name](Path(folder))
            results = json.loads(file.read_text()) if file.exists() else {}
            results[name] = part._asdict()
            file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            (HERE / "result.md").write_text(text(results))
            for row in part.rows:
                print(*row, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
