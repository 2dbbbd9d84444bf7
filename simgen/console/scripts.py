"""Scripts: a command as a job array of a cluster, each job with a share of the shards of its own.

The jobs need no coordinator, only a file system that they share. Submitted again, the array goes
on where its jobs were stopped.
"""

from __future__ import annotations

__all__ = ["array_script", "words_of"]

import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

_SLURM = """#!/bin/bash
#SBATCH --job-name={title}
#SBATCH --array=1-{parts}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={workers}
#SBATCH --time=24:00:00
#SBATCH --output={log}
# Submit it with sbatch; submit it again to go on after jobs were stopped.
set -euo pipefail
cd {folder}
exec {command} \\
    --workers "${{SLURM_CPUS_PER_TASK:-{workers}}}" --part "$SLURM_ARRAY_TASK_ID/{parts}"
"""
_SCRIPTS = {"slurm": _SLURM}


def array_script(
    kind: str, words: Sequence[str], parts: int, workers: int, out: Path, folder: Path
) -> str:
    """The script of an array of jobs that share a run.

    Arguments:
        kind: "slurm".
        words: The command after `simgen`, without --part and --workers.
        parts: How many jobs.
        workers: Worker processes of each.
        out: The dataset.
        folder: Where the command is run.

    Raises:
        ValueError: If there is no such kind of script, or no job.
    """
    if kind not in _SCRIPTS:
        raise ValueError(f"no script for {kind!r}; there are {', '.join(_SCRIPTS)}")
    if parts < 1 or workers < 1:
        raise ValueError(f"a script needs at least one job and worker; got {parts} and {workers}")
    title = "".join(c if c.isalnum() else "-" for c in out.name) or "simgen"
    return _SCRIPTS[kind].format(
        title=title,
        parts=parts,
        workers=workers,
        log=f"{title}-%a.log",
        folder=shlex.quote(str(folder)),
        command=shlex.join([sys.executable, "-m", "simgen.cli", *words]),
    )


def words_of(context: Any, without: Collection[str]) -> list[str]:
    """The words that a command was given, of a typer context, but for some options."""
    words = [context.info_name]
    for parameter in context.command.params:
        value = context.params.get(parameter.name)
        if parameter.name in without or value is None or value == parameter.default:
            continue
        flag = [parameter.opts[-1]] if parameter.param_type_name == "option" else []
        for one in value if isinstance(value, (list, tuple)) else [value]:
            words += [*flag, str(one)]
    return words
