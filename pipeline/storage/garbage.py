"""What a run's folder may do without: old versions' rows, and shards that no version and no build refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.auditing.evidence import folders_of
from pipeline.engines.kept import unfinished
from pipeline.errors import ConfigError, Damaged, PipelineError
from pipeline.plan import Plan
from pipeline.publishing.history import record
from pipeline.publishing.versions import current, folder_of, manifests
from pipeline.storage.folders import remove
from pipeline.storage.shards import read_json, receipt_path, write_json

WANTED = "wanted.json"
"""The file in a run's folder that says which folders and shards its newest build was to make; written before it starts."""
STAGE_FOLDER = re.compile(r"(completions|labels|comparisons|pairs)-.+")


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be.

    Args:
        shards: as `folder/name`.
        n_bytes: what they hold.
    """

    shards: tuple[str, ...]
    n_bytes: int


def want(run: Path, plan: Plan, prompts: Sequence[Path]) -> None:
    """Writes down what a build is about to make, so that nothing of it is ever collected."""
    write_json(run / WANTED, {"folders": folders_of(plan), "shards": [shard.name for shard in prompts]})


def remove_old(run: Path, keep: int) -> list[int]:
    """Removes the rows of all versions but the last `keep` and the current one; their manifests stay.

    Args:
        keep: 0 keeps all.
    """
    standing = current(run)
    there = [m["number"] for m in manifests(run) if folder_of(run, m["number"]).is_dir()]
    old = [n for n in there[:-keep] if standing and n != standing["number"]] if keep else []
    for number in old:
        record(run, "removed", number)
        remove(folder_of(run, number))
    return old


def collect(run: Path, *, dry_run: bool = False) -> Collected:
    """Removes the shards that neither a kept version nor the newest build refers to. The caller holds the run's folder.

    Prompts stay, whether they are in use or not: their shards' names must never mean anything else.

    Raises:
        ConfigError: the run does not say what it refers to; nothing is removed.
    """
    kept = referenced(run)
    found = [shard for shard in _shards(run) if shard.relative_to(run).as_posix() not in kept]
    n_bytes = sum(path.stat().st_size for shard in found for path in (shard, receipt_path(shard)) if path.is_file())
    if not dry_run:
        for shard in found:
            receipt_path(shard).unlink(missing_ok=True)  # first: a shard without a receipt does not exist
            shard.unlink(missing_ok=True)
        for shard, answers in (each for folder in _folders(run) for each in unfinished(folder)):
            if shard.relative_to(run).as_posix() not in kept:
                answers.unlink()
        sweep(run)
    return Collected(tuple(shard.relative_to(run).as_posix() for shard in found), n_bytes)


def referenced(run: Path) -> set[str]:
    """The shards, as `folder/name`, that the newest build or a version whose rows are kept was made from.

    Raises:
        ConfigError: the newest build did not write down what it wants.
        PipelineError: a version did not write down what it was made from.
    """
    try:
        wanted = read_json(run / WANTED)
        kept = set(_named(wanted["folders"], wanted["shards"]))
    except (OSError, ValueError, KeyError, Damaged) as error:
        raise ConfigError(
            f"{run / WANTED}: cannot be read ({type(error).__name__}); nothing was removed; "
            "hint: build the run again with python -m pipeline run; what is finished is kept"
        ) from error
    for manifest in manifests(run):
        if not folder_of(run, manifest["number"]).is_dir():
            continue
        if "folders" not in manifest:
            raise PipelineError(
                f"{run}: version {manifest['number']} does not say what it was made from; nothing was removed; "
                f"hint: remove its rows yourself ({folder_of(run, manifest['number'])})"
            )
        kept.update(_named(manifest["folders"], [Path(shard["path"]).name for shard in manifest["shards"]]))
    return kept


def _named(folders: dict[str, list[str]], shards: Sequence[str]) -> Iterator[str]:
    return (f"{folder}/{shard}" for names in folders.values() for folder in names for shard in shards)


def _folders(run: Path) -> list[Path]:
    return [f for f in sorted(run.iterdir()) if f.is_dir() and not f.is_symlink() and STAGE_FOLDER.fullmatch(f.name)]


def _shards(run: Path) -> list[Path]:
    """Every shard that a shard's or a receipt's file stands for."""
    names = {path.with_suffix(".parquet") for folder in _folders(run) for path in folder.glob("[0-9]*.*")}
    return sorted(names)


def sweep(run: Path) -> None:
    """Removes what a killed process left half-written, and folders that are empty now."""
    for folder in _folders(run):
        for left in folder.glob(".*.part"):
            left.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    for left in (run / "versions").glob(".*.part"):
        remove(left) if left.is_dir() else left.unlink()
