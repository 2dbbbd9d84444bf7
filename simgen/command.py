r"""CommandSimulator: an external program as a simulator, p(x | theta) by whoever wrote it.

.. math::
    x_i = \text{program}(\vartheta_i, s_i), \qquad s_i \sim \text{stream of row } i

Each call has a scratch directory of its own, in which the program runs, and a seed that follows
from the row. Parameters reach it as arguments, in an input file rendered from a template, or as
JSON on its standard input; fields come back from a file or from its standard output. There is no
shell: an argument is handed over as it is, whatever characters it holds.
"""

from __future__ import annotations

__all__ = ["CommandError", "CommandSimulator"]

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .campaign.command_io import names_of, reader_of, render, write_table
from .campaign.program import CommandError, error_tail, run_program, scratch_directory
from .field import Field
from .forward import Simulator

if TYPE_CHECKING:
    from .prior import Prior

LARGEST_SEED = 2**31 - 1


class CommandSimulator(Simulator):
    r"""An external program.

    In `argv`, and in the template of an input file, `{name}` stands for a parameter (with a format
    if wanted, `{mass:.3f}`) or for one of

    - `{seed}`: a whole number from 1 to `largest_seed`, from the row's random stream;
    - `{out}`: where to write the output; without it, standard output is read;
    - `{input}`: the rendered input file;
    - `{scratch}`: the scratch directory, in which the program runs;
    - `{here}`: the working directory when the simulator was made;
    - `{table}`, `{rows}`: of a batched program, a file of parameters (CSV with their names, one
      row each) and how many there are.

    A brace itself is doubled. The dataset records argv, template and environment as they are
    given, as its origin.

    Arguments:
        argv: The program and its arguments. A program with a slash is found from here, another by
            the PATH.
        prior: The prior over theta.
        read: How the output is read: "npy", "npz" (a field an array), "csv", "json" (an object is
            one field a key), "hdf5:/key", or a function of its path, or of the bytes of standard
            output.
        output: A file that the program writes under a name of its own, in its directory.
        template: The text of the input file, or the file that holds it.
        stdin: "json" for an object of parameters and seed on standard input, "input" for the
            rendered input file; nothing unless said.
        timeout: Seconds that a call may take.
        retries: How often a call that fails is repeated, with the same seed.
        scratch: Where scratch directories are made; the system's place for temporary files unless
            said.
        keep_failed: Whether the scratch directory of a call that failed is kept.
        env: Environment variables beside those that are there.
        batched: Whether the program takes a table of parameters; its output then has a row each.
        rowwise: Whether a table that fails is tried again row by row.
        largest_seed: The largest seed that the program takes.
        fields: Declarations of fields; the rest is inferred.

    Raises:
        ValueError: If a placeholder is not known, or an argument does not fit.

    Examples:
        >>> from torch.distributions import Uniform
        >>> import simgen
        >>> prior = simgen.Prior(mu=Uniform(0.0, 1.0))
        >>> echo = CommandSimulator(["echo", "{mu}"], prior=prior, read="csv")
        >>> float(echo({"mu": 0.25})["x"][0])
        0.25
    """

    _hidden: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(
        self,
        argv: Sequence[str],
        prior: Prior | None = None,
        *,
        read: str | Callable[[Any], Any] = "npy",
        output: str | None = None,
        template: str | Path | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        scratch: str | Path | None = None,
        keep_failed: bool = False,
        env: Mapping[str, str] | None = None,
        batched: bool = False,
        rowwise: bool = True,
        largest_seed: int = LARGEST_SEED,
        fields: Mapping[str, Field] | None = None,
    ) -> None:
        if isinstance(argv, str) or not argv or not all(isinstance(a, str) for a in argv):
            raise ValueError(f'argv is a list of texts, ["./run", "{{mass}}"]; got {argv!r}')
        if stdin not in (None, "json", "input"):
            raise ValueError(f'stdin is "json", "input" or None; got {stdin!r}')
        if (timeout is not None and timeout <= 0) or retries < 0 or largest_seed < 1:
            raise ValueError(
                "timeout and largest_seed are positive, retries at least 0; got "
                f"timeout={timeout}, largest_seed={largest_seed}, retries={retries}"
            )
        self.argv, self.prior, self.fields = list(argv), prior, dict(fields or {})
        self.read, self._reader = read, reader_of(read)
        self.output, self.stdin = output, stdin
        self._input_name = template.name if isinstance(template, Path) else "input.txt"
        self.template = template.read_text() if isinstance(template, Path) else template
        self.timeout, self.retries, self.batched = timeout, int(retries), bool(batched)
        self.scratch = None if scratch is None else str(Path(scratch).absolute())
        self.keep_failed, self.env = bool(keep_failed), dict(env or {})
        self.rowwise, self.largest_seed = bool(rowwise), int(largest_seed)
        self._here = os.getcwd()
        self._check_placeholders()

    def _check_placeholders(self) -> None:
        """Refuses a placeholder that will have no value."""
        special = {"seed", "scratch", "here"}
        special |= {"table", "rows"} if self.batched else set()
        if clash := special.union(("out", "input", "table", "rows")) & set(self.names):
            raise ValueError(f"{min(clash)!r} is a name that commands use: rename the parameter")
        known = special | (set() if self.batched else set(self.names))
        known |= {"out"} if self.output is None else set()
        used = names_of(self.template or "", known, "the template")
        known |= {"input"} if self.template is not None else set()
        for text in self.argv:
            used |= names_of(text, known, "argv")
        if self.stdin == "input" and self.template is None:
            raise ValueError('stdin="input" needs a template')
        if self.output is not None and Path(self.output).name != self.output:
            raise ValueError(f"output is a name without folders; got {self.output!r}")
        self._writes = self.output is not None or "out" in used

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on: the command, its input, how its output is read."""
        told = ("argv", "template", "stdin", "read", "output", "env", "largest_seed")
        chosen = {k: getattr(self, k) for k in told}
        return {k: v for k, v in chosen.items() if v is not None and v != {}}

    def simulate(self, theta: np.ndarray, rng: np.random.Generator) -> Any:
        """Runs the program.

        Raises:
            CommandError: If it fails, or its output cannot be read.
            TimeoutError: If it takes too long.
        """
        seed = int(rng.integers(1, self.largest_seed, endpoint=True))
        names = getattr(theta, "names", ()) or self.names
        for attempt in range(self.retries + 1):
            try:
                return self._call(np.asarray(theta), names, seed)
            except CommandError:
                if attempt == self.retries:
                    raise
        raise AssertionError

    def _call(self, theta: np.ndarray, names: Sequence[str], seed: int) -> Any:
        """One run in a scratch directory of its own."""
        with scratch_directory(self.scratch, self.keep_failed) as scratch:
            return self._run(theta, names, seed, scratch)

    def _run(self, theta: np.ndarray, names: Sequence[str], seed: int, scratch: Path) -> Any:
        out = scratch / (self.output or f"out{self._reader.suffix}")
        values: dict[str, Any] = {
            "seed": seed,
            "out": str(out),
            "input": str(scratch / self._input_name),
            "scratch": str(scratch),
            "here": self._here,
        }
        if self.batched:
            values |= {"table": str(scratch / "table.csv"), "rows": len(theta)}
            write_table(scratch / "table.csv", names, theta)
        else:
            values |= dict(zip(names, theta.tolist()))
        if self.template is not None:
            (scratch / self._input_name).write_text(render(self.template, values))
        given = b""
        if self.stdin == "json":
            told = dict(zip(names, theta.T.tolist()))
            given = json.dumps({**told, "seed": seed}).encode()
        elif self.stdin == "input":
            given = (scratch / self._input_name).read_bytes()
        argv = [render(text, values) for text in self.argv]
        if os.sep in argv[0]:
            argv[0] = os.path.join(self._here, argv[0])
        run_program(argv, scratch, given, self.env, self.timeout)
        return self._fields(out if self._writes else scratch / "stdout", scratch)

    def _fields(self, path: Path, scratch: Path) -> Any:
        """The fields in the program's output."""
        if not path.is_file():
            raise CommandError(f"the program wrote no {path.name}{error_tail(scratch)}")
        try:
            return self._reader.read(path, self.batched, self._writes)
        except Exception as error:
            what = path.name if self._writes else "standard output"
            raise CommandError(
                f"{what} cannot be read as {self._reader}: {error}{error_tail(scratch)}"
            ) from None
