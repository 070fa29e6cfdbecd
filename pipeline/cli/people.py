"""The commands that bring people in: the review page, and records for the tools that teams have."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import AsJson, Run, require_run
from pipeline.errors import ConfigError
from pipeline.observing.logs import say
from pipeline.storage.stores import is_store

commands = typer.Typer()

Db = Annotated[Path | None, typer.Option("--folder", help="Where people's verdicts are kept; none is RUN/review.")]
Items = Annotated[int, typer.Option("--items", min=1, help="Match-ups to ask about, the most uncertain first.")]
Tools = Annotated[str, typer.Option("--for", metavar="TOOL", help="argilla or label-studio")]


@commands.command()
def review(
    run: Run,
    reviewer: Annotated[list[str] | None, typer.Option(help="Who reviews; give it once for each. None is you.")] = None,
    items: Items = 500,
    per_item: Annotated[int, typer.Option(min=1, help="Reviewers that each item goes to.")] = 1,
    host: Annotated[str, typer.Option(help="The address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8765,
    folder: Db = None,
) -> None:
    """Serve a page on which people compare completions and look around in the run."""
    from pipeline.review.people import next_steps
    from pipeline.review.serve import opened, serve

    kept = _folder(run, folder)
    page = opened(run, kept, reviewer or [getpass.getuser()], items, per_item)
    serve(page, host, port, say)
    say(f"verdicts are in {kept}; these lines in a config make a run use them:\n\n{next_steps(kept)}")


@commands.command("review-export")
def review_export(
    run: Run, out: Annotated[Path, typer.Option(help="The file to write.")], tool: Tools, items: Items = 500
) -> None:
    """Write match-ups as records of a tool for annotation."""
    from pipeline.review.exchange import as_tool, export, settings_of
    from pipeline.review.index import Index
    from pipeline.review.queue import queue
    from pipeline.storage.shards import replacing

    require_run(run)
    index, known = Index(run), as_tool(tool)
    records = export(known, queue(index, items), index)
    with replacing(out) as beside:
        beside.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    say(f"{len(records)} records; what to set up in {known}:\n\n{settings_of(known)}")
    print(out)


@commands.command("review-import")
def review_import(
    run: Run, file: Annotated[Path, typer.Argument(help="What the tool exported, as JSON.")], tool: Tools,
    items: Items = 500, folder: Db = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take the verdicts in a tool's export into the run's file of human verdicts."""
    from pipeline.review.exchange import as_tool, keep
    from pipeline.review.index import Index
    from pipeline.review.people import next_steps, write_files
    from pipeline.review.queue import queue
    from pipeline.review.serve import FILE
    from pipeline.review.store import Store

    kept, index = _folder(run, folder), Index(run)
    store = Store(kept / FILE)
    store.offer(queue(index, items))
    found, unknown = keep(as_tool(tool), file, store)
    write_files(kept, store, index)
    store.close()
    if as_json:
        print(json.dumps({"verdicts": found, "unknown": unknown, "folder": str(kept)}))
        return
    print(
        f"{found} verdicts kept in {kept}"
        + (f", {unknown} are of items that this run does not have" if unknown else "")
    )
    say(next_steps(kept))


def _folder(run: Path, folder: Path | None) -> Path:
    require_run(run)
    if folder is None and is_store(run):
        raise ConfigError(f"{run}: an object store cannot hold the reviewers' database; hint: --folder a local one")
    return (folder or run / "review").absolute()
