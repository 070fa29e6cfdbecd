"""`python -m pipeline`: stdout is data, stderr is talk, exit codes are for scripts (docs: README, "Exit codes")."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipeline import leaving
from pipeline.cli import evaluate, people, versions
from pipeline.cli.console import (
    JSON_LOGS,
    RUNS,
    AsJson,
    Commands,
    ConfigFile,
    Executor,
    Limit,
    MetricsFile,
    MetricsPort,
    Root,
    Run,
    Set,
    flags_first,
    load_warned,
    measured,
    refuse_failures,
    require_run,
    tell_imported,
)
from pipeline.errors import BelowGate, ConfigError, EnvironmentLacks, PipelineError
from pipeline.observing import logs
from pipeline.observing.logs import say
from pipeline.storage.stores import place_of
from pipeline.storage.storing import STORAGE, refused

app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Sample with vLLM, label by machine, pair, and store as Parquet.",
)  # fmt: skip


@app.callback()
def options(
    json_logs: Annotated[
        bool, typer.Option(JSON_LOGS, help="Talk in lines of JSON, on stderr. Before or after the command.")
    ] = False,
) -> None:
    """Sample with vLLM, label by machine, pair, and store as Parquet."""
    if json_logs:
        logs.turn_on()


TRAINERS = "trl, axolotl, openrlhf, llama-factory, torchtune, open-instruct or nemo-rl"
CANDIDATES = "kto, reward, sft or groups"


@app.command()
def run(
    config: ConfigFile = None, settings: Set = None, root: Root = RUNS, limit: Limit = None, as_json: AsJson = False,
    executor: Executor = None, metrics_file: MetricsFile = None, metrics_port: MetricsPort = None,
) -> None:  # fmt: skip
    """Make a dataset. What is finished already is left as it is."""
    from pipeline import judges
    from pipeline.observing import funnel
    from pipeline.run import run as run_whole
    from pipeline.spending import ledger

    loaded = load_warned(config, settings, executor, limit)
    say(f"run {loaded.name}: {len(loaded.sources)} sources, {len(loaded.labelers)} labelers, in {root / loaded.name}")
    with measured(loaded.name, metrics_file, metrics_port):
        finished = run_whole(loaded, root)
    tell_imported(finished.imported)
    for spent in ledger.told(root / loaded.name, loaded.budget):
        say(spent)
    if as_json:
        print(json.dumps({**funnel.as_json(finished), "warnings": judges.warnings(loaded)}))
    else:
        print(funnel.closing(finished, loaded))
    refuse_failures(finished, enforced=loaded.audit.enforce)
    if finished.rows < loaded.dataset.min_pairs:
        raise BelowGate(
            f"{finished.rows} pairs, fewer than dataset.min_pairs = {loaded.dataset.min_pairs}; "
            "hint: the table says what was dropped and why"
        )


@app.command()
def plan(
    config: ConfigFile = None, settings: Set = None, root: Root = RUNS, limit: Limit = None,
    pairs: Annotated[str, typer.Option(help="ablate: what each pair rule would make of what the run has")] = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say what a run would do, and what of it is done. Loads no engine, writes nothing but prompt shards."""
    from pipeline.config import load
    from pipeline.observing.funnel import aligned
    from pipeline.plan import make_plan
    from pipeline.prompts import import_prompts
    from pipeline.run import locked
    from pipeline.spending import forecast
    from pipeline.work import finished

    if pairs:
        return _ablate(config, settings or [], root, limit, pairs, as_json)
    loaded = load(config, settings or (), limit)
    folder = root / loaded.name
    with locked(folder):
        imported = import_prompts(loaded.prompts, folder / "prompts")
        planned = make_plan(loaded, folder)
        steps = planned.steps
        done = [sum(finished(step.work(shard)) is not None for shard in imported.shards) for step in steps]
        asked = forecast.forecasts(loaded, planned, imported.shards)
    rows = [(step.folder.name, f"{n} of {len(imported.shards)} shards") for step, n in zip(steps, done, strict=True)]
    n_completions = len(imported.active) * sum(source.n for source in loaded.sources)
    print(aligned([("stage", "done"), *rows]))
    longest = max(source.max_tokens for source in loaded.sources)
    print(f"{len(imported.active)} prompts, {n_completions} completions of at most {longest} tokens")
    for line in forecast.lines(asked, folder, loaded.budget):
        print(line)


def _ablate(config: Path | None, settings: list[str], root: Path, limit: int | None, what: str, as_json: bool) -> None:
    from dataclasses import asdict

    from pipeline.config import load
    from pipeline.evaluating.ablate import ablate, rows
    from pipeline.observing.funnel import aligned
    from pipeline.plan import make_plan
    from pipeline.prompts import import_prompts
    from pipeline.run import locked

    if what != "ablate":
        raise ConfigError(f"--pairs {what}: is no view of the pairs; hint: --pairs ablate")
    loaded = load(config, settings, limit)
    folder = root / loaded.name
    with locked(folder):
        imported = import_prompts(loaded.prompts, folder / "prompts")
        found = ablate(make_plan(loaded, folder), imported.shards)
    print(json.dumps([asdict(each) for each in found]) if as_json else aligned(rows(found)))


@app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Say what a run is doing, or how it ended, and which shards exist: from any terminal."""
    from pipeline.config import stored_config
    from pipeline.observing import live
    from pipeline.observing.funnel import aligned
    from pipeline.spending import ledger
    from pipeline.storage.garbage import STAGE_FOLDER
    from pipeline.storage.shards import Receipt, read_receipt

    require_run(run)
    now = live.read_live(run)
    folders = [f for f in sorted(run.iterdir()) if f.name == "prompts" or STAGE_FOLDER.fullmatch(f.name)]
    wanted = {name: of for name, (_, of) in (now["shards"] if now else {}).items()}
    found: dict[str, list[Receipt]] = {name: [] for name in wanted}  # a stage that has nothing yet has no folder
    for f in folders:
        found[f.name] = [r for shard in sorted(f.glob("[0-9]*.parquet")) if (r := read_receipt(shard))]
    if as_json:
        stages = {name: {"shards": len(r), "rows": sum(x.rows for x in r)} for name, r in found.items()}
        print(json.dumps({**stages, "now": now}))
        return
    lines = [*(live.told(now) if now else ()), *ledger.told(run, stored_config(run).budget)]
    rows = [
        (
            name,
            f"{len(r)} of {wanted[name]}" if name in wanted else len(r),
            sum(x.rows for x in r),
            sum(x.abstained for x in r),
        )
        for name, r in found.items()
    ]
    print("\n".join([*lines, aligned([("stage", "shards", "rows", "abstained"), *rows])]))


@app.command()
def show(run: Run, n: Annotated[int, typer.Option(min=1, help="Pairs to show.")] = 1, start: int = 0) -> None:
    """Show pairs of a run's newest dataset."""
    import itertools

    from pipeline.observing.funnel import example
    from pipeline.rows import read_rows
    from pipeline.storage.folders import followed

    require_run(run)
    files = sorted((followed(run / "dataset") / "data").glob("*.parquet"))
    if not files:
        raise ConfigError(f"{run}: has no version yet; hint: python -m pipeline status {run}")
    rows = (row for file in files for row in read_rows(str(file)))
    for row in itertools.islice(rows, start, start + n):
        print(f"pair {row.values['pair_id']}\n{example(row.values)}\n")


@app.command()
def audit(
    run: Run, as_json: AsJson = False,
    ask: Annotated[bool, typer.Option("--ask", help="Put the planted questions to labelers that ask a model, too.")] = False,
) -> None:  # fmt: skip
    """Say whether a run's labels are to be trusted, a line for each check. Exits 1 when one fails."""
    from pipeline.auditing import audit as checks
    from pipeline.auditing.canaries import lent

    require_run(run)
    audited = checks.audit_run(run, lent if ask else None)
    print(json.dumps(checks.as_json(audited)) if as_json else checks.table(audited.findings))
    if audited.failed:
        raise typer.Exit(1)


@app.command()
def export(
    dataset: Annotated[
        Path, typer.Argument(parser=place_of, metavar="RUN_OR_DATASET", help="A run's folder or a dataset folder.")
    ],
    out: Annotated[Path, typer.Option(parser=place_of, help="A folder that does not exist yet.")],
    layout: Annotated[str, typer.Option("--for", metavar="TRAINER", help=f"the pairs: {TRAINERS}")] = "",
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help=f"a run's candidates: {CANDIDATES}")] = "",
    as_json: AsJson = False,
) -> None:
    """Write the pairs in a trainer's layout with its config (--for), or a run's candidates for another training (--as)."""
    from pipeline.pairing.candidates import export_candidates
    from pipeline.publishing.export import as_layout
    from pipeline.publishing.export import export as write

    if bool(layout) == bool(kind):
        wrong = "--for and --as exclude each other" if layout else "neither --for nor --as is given"
        raise ConfigError(f"export: {wrong}; hint: --for {TRAINERS}; or --as {CANDIDATES}")
    found: dict[str, object]
    if kind:
        require_run(dataset)
        rows, folder = export_candidates(dataset, kind, out)
        found = {"folder": folder, "rows": rows}
    else:
        done = write(dataset, as_layout(layout), out)
        for note in done.notes:
            say(f"note: {note}")
        found = {"folder": done.folder, "rows": done.rows, "config": done.config, "command": done.command}
    if as_json:
        print(json.dumps(found, default=str))
    else:
        print("\n".join(f"{name:8} {value}" for name, value in found.items()))


@app.command()
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="A folder; none is RUN/report.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page that shows whether a run's dataset is any good, and its figures as PNG."""
    from pipeline.reports.page import write_report

    require_run(run)
    page = write_report(run, out)
    print(json.dumps({"page": str(page)}) if as_json else page)


@app.command()
def doctor(root: Root = RUNS, as_json: AsJson = False) -> None:
    """Say what this machine can run and what it lacks, a line each with its remedy."""
    from pipeline.doctor import doctor as checks

    findings = checks.diagnose(root)
    print(checks.as_json(findings) if as_json else checks.as_table(findings))
    if code := checks.exit_code(findings):
        raise typer.Exit(code)


app.add_typer(versions.commands)
app.add_typer(people.commands)
app.add_typer(evaluate.commands)


def main() -> None:
    """The command line. Ends the process with the exit code of what happened."""
    with exit_codes():
        leaving.listen()
        app(flags_first(sys.argv[1:]), standalone_mode=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns what the pipeline raises into its message on stderr and its exit code."""
    from labelers.errors import LabelerError

    try:
        yield
    except PipelineError as error:
        leave(f"error: {error}", error.exit_code)
    except LabelerError as error:
        leave(f"error: {error}", 2)
    except BaseException as error:
        if leaving.asked():  # whatever the exception that said so became on its way through libraries
            leave(f"error: {leaving.SAID}", leaving.EXIT_CODE)
        if isinstance(error, OSError) and error.errno in STORAGE:
            leave(f"error: {refused(Path(error.filename or '.'), error)}", EnvironmentLacks.exit_code)
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            end(error.code or 0)
        raise


def leave(message: str, code: int) -> None:
    """Says why and ends the process and what it started, without waiting for threads that an engine left behind."""
    if leaving.asked() and code != leaving.EXIT_CODE:  # what was in flight fails when it is dropped: that is no news
        message, code = f"{message}\n{leaving.SAID}", leaving.EXIT_CODE
    say(message)
    end(code)


def end(code: int) -> None:
    """Ends the process and what it started, with this code whatever libraries' threads are at: in two of a hundred good runs
    one of them aborted the process while Python was taken down."""
    sys.stdout.flush()
    sys.stderr.flush()
    leaving.end_children()
    os._exit(code)
