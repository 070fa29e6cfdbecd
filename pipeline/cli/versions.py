"""The commands that keep a dataset up to date: refresh, versions, diff, rollback, publish, collect, schedule."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import (
    RUNS,
    AsJson,
    ConfigFile,
    Executor,
    Limit,
    MetricsFile,
    MetricsPort,
    Root,
    Run,
    Set,
    load_warned,
    measured,
    refuse_failures,
    require_run,
    tell_imported,
)
from pipeline.errors import ConfigError
from pipeline.observing.logs import say

if TYPE_CHECKING:
    from pipeline.refreshing.telling import Telling

commands = typer.Typer()

KINDS = "Print a unit and end: systemd, cron, kubernetes (k8s) or airflow."


@commands.command()
def refresh(
    config: ConfigFile = None, settings: Set = None, root: Root = RUNS, limit: Limit = None, as_json: AsJson = False,
    collect: Annotated[bool, typer.Option("--collect", help="Remove shards that nothing refers to any more.")] = False,
    executor: Executor = None, metrics_file: MetricsFile = None, metrics_port: MetricsPort = None,
) -> None:  # fmt: skip
    """Bring a dataset up to date: run, compare with the version before, publish. Nothing new, no new version."""
    from pipeline.refreshing import refresh as refreshing

    loaded = load_warned(config, settings, executor, limit)
    say(f"refresh {loaded.name}, in {root / loaded.name}")
    with measured(loaded.name, metrics_file, metrics_port):
        refreshed = refreshing.refresh(loaded, root, tidy=collect)
    tell_imported(refreshed.finished.imported)
    print(json.dumps(refreshing.as_json(refreshed)) if as_json else refreshing.closing(refreshed))
    refuse_failures(refreshed.finished, enforced=loaded.audit.enforce)
    refreshing.require_version(refreshed, loaded)


@commands.command()
def versions(run: Run, as_json: AsJson = False) -> None:
    """List a run's dataset versions, oldest first, and which one `dataset` is."""
    from pipeline.observing.funnel import aligned
    from pipeline.publishing.history import events
    from pipeline.publishing.versions import current, folder_of, manifests

    require_run(run)
    standing = current(run)
    number = standing["number"] if standing else 0
    listed = [
        {**m, "current": m["number"] == number, "kept": folder_of(run, m["number"]).is_dir()} for m in manifests(run)
    ]
    if as_json:
        print(json.dumps(listed))
        return
    rows = [
        (m["number"], m["created"], m["rows"], "current" if m["current"] else "" if m["kept"] else "rows removed")
        for m in listed
    ]
    print(aligned([("version", "created", "pairs", ""), *rows]))
    for event in events(run):
        say(f"{event['at']}  version {event['version']} {event['event']} {event.get('to', '')}".rstrip())


@commands.command()
def diff(
    run: Run,
    before: Annotated[int | None, typer.Argument(help="A version; none is the one before the second.")] = None,
    after: Annotated[int | None, typer.Argument(help="A version; none is the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two versions: rows, labels, and drift with a test."""
    from pipeline.publishing.diff import diff as compare
    from pipeline.publishing.diff import table
    from pipeline.publishing.versions import manifests

    require_run(run)
    numbers = [m["number"] for m in manifests(run)]
    after = after if after is not None else max(numbers, default=0)
    before = before if before is not None else max((n for n in numbers if n < after), default=0)
    if not before:
        raise ConfigError(f"{run}: has no version before {after}; hint: python -m pipeline versions {run}")
    found = compare(run, before, after)
    print(json.dumps(asdict(found)) if as_json else table(found))


@commands.command()
def rollback(
    run: Run,
    to: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="None is the one before the current.")] = None,
) -> None:
    """Point `dataset` at an older version, in one step. Nothing is removed; rolling forward is the same command."""
    from pipeline.publishing.versions import rollback as point_at
    from pipeline.run import locked
    from pipeline.storage.folders import followed

    require_run(run)
    with locked(run):
        manifest = point_at(run, to)
    print(f"dataset  {followed(run / 'dataset')}  (version {manifest['number']}, {manifest['rows']} pairs)")
    say("it stays there until a refresh makes a new version; publish gives it to others")


@commands.command()
def verify(run: Run, as_json: AsJson = False) -> None:
    """Read every byte of a run and say which files are not what was written. The next run makes those again. Exits 1."""
    from pipeline.storage.verify import verify as look_at_all

    found = look_at_all(run)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        for name, why in found.damaged.items():
            print(f"{name}: {why}")
        say(
            f"{found.files} files are what was written, {len(found.damaged)} are not, {len(found.unfinished)} unfinished"
        )
    if found.damaged:
        say(f"hint: python -m pipeline run moves them to {run}/quarantine and makes them again")
        raise typer.Exit(1)


@commands.command()
def publish(
    run: Run,
    to: Annotated[list[str], typer.Option("--to", metavar="PLACE", help="A folder, a URL, hf://datasets/OWNER/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new Hub repository public.")] = False,
) -> None:
    """Give the current version to a folder, an object store or a Hub repository."""
    from pipeline.publishing.publish import publish_current
    from pipeline.run import locked

    require_run(run)
    with locked(run):
        for place in to:
            publish_current(run, place, private=not public, again=True)
            print(f"published to {place}")


@commands.command()
def collect(
    run: Run, as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:  # fmt: skip
    """Remove the shards that no kept version and not the newest build refers to."""
    from pipeline.run import locked
    from pipeline.storage.garbage import collect as remove

    require_run(run)
    with locked(run):
        found = remove(run, dry_run=dry_run)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    for shard in found.shards:
        print(shard)
    say(f"{len(found.shards)} shards, {found.n_bytes} bytes {'would be ' if dry_run else ''}removed")


@commands.command()
def schedule(
    config: ConfigFile = None, settings: Set = None, root: Root = RUNS,
    cron: Annotated[str | None, typer.Option(help="Five fields, in this machine's time zone: '0 3 * * *'.")] = None,
    every: Annotated[str | None, typer.Option(help="A time between beginnings, the first at once: 30m, 6h, 1d.")] = None,
    webhook: Annotated[str | None, typer.Option(help="A URL that hears of failures and new versions.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve metrics for Prometheus here, and /health.")
    ] = None,
    emit: Annotated[str | None, typer.Option("--emit", "--print", metavar="KIND", help=KINDS)] = None,
) -> None:  # fmt: skip
    """Refresh at set times, in the foreground, until SIGTERM or Ctrl-C; or print a unit for what you have."""
    from pipeline.config import load
    from pipeline.refreshing.schedule import Schedule, refresh_command, times
    from pipeline.refreshing.telling import Telling
    from pipeline.refreshing.units import unit

    loaded = load(config, settings or ())
    when = times(cron, every)
    command = refresh_command(config, settings or (), root)
    if emit:
        if webhook or port is not None:
            raise ConfigError(
                f"--emit {emit}: --webhook and --port belong to the loop in the foreground, and the unit has neither; "
                f"hint: leave them out and let {emit} watch the exit code, or leave --emit out"
            )
        print(unit(emit, loaded.name, when, command))
        return
    telling = Telling(loaded.name, webhook)
    if port is not None:
        say(f"metrics on port {telling.serve(port)}")
    say(f"schedule {loaded.name}: {cron or f'every {every}'}, in {root / loaded.name}; Ctrl-C or SIGTERM ends it")
    Schedule(root / loaded.name, when, command, told=partial(_told, telling)).forever()
    say("the schedule ended; what came due meanwhile is caught up when it comes back")


def _told(telling: Telling, code: int, said: str) -> None:
    print(said, end="", flush=True)
    telling.hear(code, said)
    say(f"refresh ended with exit code {code}")
