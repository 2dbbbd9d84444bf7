"""The `simgen` command: a verb for each thing that the library does, thin over its functions.

Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

__all__ = ["app", "main"]

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .console.terminal import again, display, end, say, show

app = typer.Typer(
    name="simgen",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="SIMULATOR",
        help="A preset, module:attribute, file.py:attribute or the file of a surrogate.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting; may be repeated."),
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OBS",
        help="The observation: a .npy, .npz, .csv or .json file, a row of a dataset as DIR:ROW, "
        "or numbers with commas; FIELD=... says which field, where there are several.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
Workers = Annotated[int, typer.Option("-w", "--workers", help="Worker processes.")]


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        say(f"simgen {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Simulate, learn, infer, and check the answer."""


@app.command("simulate")
def simulate_(
    context: typer.Context,
    name: Name,
    n: Annotated[int, typer.Option("-n", "--rows", help="Rows the dataset is to have.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The dataset.")],
    workers: Workers = 1,
    seed: Seed = 0,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="The K-th of N commands that share the run.")
    ] = None,
    chosen: Settings = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Store this field and x only; may be repeated.")
    ] = None,
    block: Annotated[int, typer.Option(help="Rows a block.")] = 256,
    shard_size: Annotated[
        int | None, typer.Option(help="Rows a shard; what an interruption may lose of each.")
    ] = None,
    retries: Annotated[int, typer.Option(help="Repeats of a call that raises.")] = 0,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a call may take.")] = None,
    max_failures: Annotated[
        float | None, typer.Option(help="Stop after so many failed rows, or such a share.")
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="record failed rows, or raise at the first.")
    ] = "record",
    script: Annotated[
        str | None, typer.Option(metavar="slurm", help="Print the script of a job array instead.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="N", help="Jobs of the script; by --part where that is given.")
    ] = 8,
) -> None:
    """Fill a dataset; run again, resume or extend it."""
    from .console import arguments
    from .simulation import checked_part, simulate

    simulator = arguments.simulator(name, arguments.settings(chosen or []))
    if script is not None:
        from .console.scripts import array_script, words_of

        words = words_of(context, {"workers", "part", "script", "jobs"})
        parts = jobs if part is None else checked_part(part)[1]
        print(array_script(script, words, parts, workers, out, Path.cwd()), end="")
        return
    dataset = simulate(
        simulator,
        n,
        out,
        seed=seed,
        workers=workers,
        part=part,
        block=block,
        shard_size=shard_size,
        keep=keep,
        retries=retries,
        timeout=timeout,
        max_failures=max_failures,
        on_error=on_error,
    )
    failed = int((dataset.status != 0).sum())
    say(f"{dataset!r}{f'; {failed} failed' if failed else ''}")


@app.command("fit")
def fit_(
    expression: Annotated[str, typer.Argument(help='"theta | x", "x | theta", "x" ...')],
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The dataset.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The model.")],
    model: Annotated[str, typer.Option(help="flow, vae, hvae, diffusion or latent.")] = "flow",
    ensemble: Annotated[int, typer.Option(metavar="K", help="Members trained together.")] = 1,
    chosen: Settings = None,
    split: Annotated[
        str, typer.Option(help="Shares of rows to train, validate and test.")
    ] = "0.9,0.1,0",
    seed: Seed = 0,
    max_epochs: Annotated[int | None, typer.Option(help="Passes over the rows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak learning rate.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall time over all restarts: 90s, 10min, 2h.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="State to resume from; FILE.checkpoint unless said."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Learn a distribution; run again, resume."""
    from .console import arguments

    family = arguments.family(model, arguments.settings(chosen or []), ensemble)
    shares = arguments.shares(split)
    from .dataset import Dataset
    from .training import fit

    dataset = Dataset(data, split=shares)
    _writable(out)
    state = checkpoint or out.with_name(f"{out.name}.checkpoint")
    with again():
        conditional = fit(
            expression,
            dataset,
            family,
            seed=seed,
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            budget=budget,
            checkpoint=state,
            device=device,
        )
    conditional.save(out)
    if checkpoint is None:
        state.unlink(missing_ok=True)
    about = conditional.provenance["training"]
    say(
        f"{out}: {conditional.expression}, held-out loss {about['best_validation_loss']:.4f} nats "
        f"after {about['epochs']} epochs in {about['seconds']:.1f} s"
    )


@app.command("sequential")
def sequential_(
    name: Name,
    n: Annotated[int, typer.Option("-n", "--rows", help="Rows of each round.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The posterior.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The dataset of all rounds.")],
    given: Given = None,
    rounds: Annotated[int, typer.Option(help="How many, that from the prior included.")] = 4,
    model: Annotated[str, typer.Option(help="flow, vae, diffusion or latent.")] = "flow",
    chosen: Settings = None,
    workers: Workers = 1,
    seed: Seed = 0,
    max_epochs: Annotated[int | None, typer.Option(help="Passes over the rows.")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall time of each fit: 90s, 10min.")] = None,
) -> None:
    """Learn one observation's posterior in rounds of simulations; run again, resume.

    --set is of the simulator.
    """
    from .console import arguments
    from .console.inspection import Section
    from .console.observation import read_observation
    from .rounds.sequence import outline, sequential

    simulator = arguments.simulator(name, arguments.settings(chosen or []))
    family = arguments.family(model, {}, 1)
    observed = read_observation(given or [], outline(simulator))
    _writable(out)
    with again():
        posterior = sequential(
            simulator,
            observed.given,
            n,
            data,
            rounds=rounds,
            model=family,
            seed=seed,
            workers=workers,
            max_epochs=max_epochs,
            budget=budget,
        )
    posterior.save(out)
    table = posterior.provenance["rounds"]
    rows = [
        tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()) for r in table
    ]
    show([Section(f"{out}: {posterior.expression} in rounds", tuple(table[0]), rows)])


@app.command("sample")
def sample_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The model.")],
    n: Annotated[int, typer.Option("-n", "--draws", help="How many draws.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="HDF5; or .csv, .npy, .npz.")
    ],
    given: Given = None,
    seed: Seed = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Even where it is unlike the simulations.")
    ] = False,
) -> None:
    """Draw from a model, given an observation."""
    from .conditional import load
    from .console.inspection import summary_section
    from .console.observation import draw_samples, read_observation, write_samples
    from .typicality import admit, record

    conditional = load(file)
    observed = read_observation(given or [], conditional)
    found = admit(conditional, observed.given, force)
    _writable(out)
    samples = draw_samples(conditional, observed.given, n, seed)
    write_samples(samples, out)
    if found is not None:
        record(out, found)
    if samples.names:
        show([summary_section(f"{out}: {n} draws", samples.summary(observed.truth))])
    else:
        say(f"{out}: {n} draws of shape {samples.draws.shape[1:]}")


@app.command("calibrate")
def calibrate_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The model.")],
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Simulations it has not seen.")],
    n: Annotated[int, typer.Option("-n", "--pairs", help="The most pairs to use.")] = 1000,
    near: Annotated[
        list[str] | None,
        typer.Option(metavar="OBS", help="Judge pairs like this observation by themselves too."),
    ] = None,
    seed: Seed = 0,
    store: Annotated[bool, typer.Option(help="Keep the verdict in the model's file.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if it fails.")] = False,
) -> None:
    """Judge a model by simulations it has not seen."""
    from .calibration import calibrate
    from .conditional import load
    from .console.observation import read_observation
    from .dataset import Dataset

    conditional = load(file)
    row = read_observation(near, conditional).given if near else None
    verdict = calibrate(conditional, Dataset(data), n=n, seed=seed, near=row)
    if store:
        conditional.save(file, verdict=verdict)
    display(verdict)
    if strict and not verdict.passed:
        raise typer.Exit(1)


@app.command("report")
def report_(
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page.")],
    model: Annotated[Path, typer.Option(metavar="FILE", help="The model.")],
    observation: Given = None,
    simulator: Annotated[
        str | None, typer.Option(help="For the predictive check: as in `simgen simulate`.")
    ] = None,
    chosen: Settings = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The dataset.")] = None,
) -> None:
    """Write a page on a model and its verdict."""
    from .conditional import load
    from .console import arguments
    from .console.observation import read_observation
    from .dataset import Dataset
    from .reporting import report

    conditional = load(model)
    seen = read_observation(observation, conditional) if observation else None
    _writable(out)
    report(
        out,
        conditional,
        observation=seen and seen.given,
        truth=None if seen is None else seen.truth,
        simulator=simulator and arguments.simulator(simulator, arguments.settings(chosen or [])),
        dataset=None if data is None else Dataset(data),
    )
    say(f"{out}")


@app.command("inspect")
def inspect_(
    path: Annotated[Path, typer.Argument(metavar="ANY", help="A dataset, model or samples.")],
    failures: Annotated[bool, typer.Option("--failures", help="List failed rows.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every row of a dataset.")] = False,
) -> None:
    """Say what a dataset, model or samples hold."""
    from .console.inspection import inspect

    show(inspect(path, failures))
    if verify:
        from .dataset import Dataset

        problems = Dataset(path).verify()
        for problem in problems:
            say(problem)
        if problems:
            raise typer.Exit(1)
        say("every shard is there and as it was written")


@app.command("check")
def check_(
    name: Name,
    n: Annotated[
        int | None, typer.Option("-n", "--rows", help="Rows to try; by time unless said.")
    ] = None,
    chosen: Settings = None,
    estimate: Annotated[int, typer.Option(help="Rows to estimate the time of.")] = 100_000,
) -> None:
    """Try a simulator: does it keep the rules?"""
    from .console import arguments
    from .console.inspection import Section
    from .diagnosis import diagnose

    found = diagnose(arguments.simulator(name, arguments.settings(chosen or [])), n)
    word = {True: "pass", False: "FAIL", None: "—"}
    rows = [(f.check, word[f.passed], f.text) for f in found.findings]
    rows += [("field", "", f"{k} {shape} {kind}") for k, (shape, kind) in found.fields.items()]
    if found.rows:
        total = found.seconds * estimate
        text = (
            f"{found.seconds * 1e6:,.0f} µs a row: {total:,.1f} CPU seconds for {estimate:,} rows"
        )
        rows.append(("time", "", text))
    show([Section(f"check {name}", ("check", "", "finding"), rows)])
    if not found.passed:
        raise typer.Exit(1)


@app.command("simulators")
def simulators_() -> None:
    """List the built-in simulators."""
    import simulators

    from .console.catalogue import entry
    from .console.inspection import Section

    header = ("name", "what", "parameters", "x", "also recorded", "exact")
    rows = [(name, *entry(name, preset)) for name, preset in simulators.PRESETS.items()]
    show([Section("built-in simulators: simgen simulate NAME", header, rows)])


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="A file (HDF5, .npy, .npz, .root, .fits), or a folder of .npy or .npz files.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The dataset to make.")],
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ARRAY",
            help="A field and its array in the file, or with commas its columns; repeated.",
        ),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(metavar="module:attribute", help="The prior of theta.")
    ] = None,
) -> None:
    """Make a dataset of the arrays in files."""
    from .console import arguments
    from .storage.importing import import_arrays

    chosen = arguments.settings(field or [])
    names = {k: v.split(",") if "," in v else v for k, v in chosen.items()}
    known = None if prior is None else arguments.prior(prior)
    say(repr(import_arrays(source, out, names, known)))


@app.command("repair")
def repair_(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The dataset.")],
    simulator: Annotated[
        str | None, typer.Option(help="What it was simulated with, if not built in.")
    ] = None,
    chosen: Settings = None,
    workers: Workers = 1,
) -> None:
    """Simulate missing and damaged rows again."""
    from .campaign.restoration import restore
    from .console import arguments

    made = simulator and arguments.simulator(simulator, arguments.settings(chosen or []))
    problems = restore(data, made or None, workers)
    for problem in problems:
        say(f"mended: {problem}")
    say(f"{data} is whole" if problems else f"{data} is whole: nothing to repair")


@app.command("quickstart")
def quickstart_(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR")] = Path("quickstart"),
    workers: Workers = 2,
) -> None:
    """Everything once, in three minutes."""
    from .console.inspection import summary_section
    from .console.quickstart import tour

    result = tour(out, workers=workers, say=say)
    show([summary_section("posterior", result.samples.summary(result.truth))])
    display(result.verdict)
    say(f"open {result.report}")


def _writable(path: Path) -> None:
    """Makes the folder of a result before the work that leads to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"{path} is a directory; wanted a file to write")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process with its exit code."""
    end(app, arguments)


if __name__ == "__main__":
    main()
