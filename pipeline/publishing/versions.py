"""Dataset versions: an immutable folder and a manifest for each, and one pointer to the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import content_id
from pipeline.auditing.evidence import folders_of
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.known import Active
from pipeline.plan import Plan
from pipeline.publishing.card import card
from pipeline.publishing.dataset_files import DatasetFiles
from pipeline.publishing.history import held_at, now, record
from pipeline.publishing.lineage import event, lineage, made_by
from pipeline.schema import PAIR_SHARD
from pipeline.storage.folders import appearing, files_in, move, point, pointed, remove
from pipeline.storage.shards import (
    Counts,
    Receipt,
    file_sha256,
    read_json,
    read_receipt,
    read_shard,
    write_twice,
)


@dataclass(frozen=True)
class Version:
    """A published dataset.

    Args:
        number: counted from 1.
        folder: the Hugging Face dataset folder.
        rows: pairs in it.
        is_new: this call made it; False when nothing had changed since.
    """

    number: int
    folder: Path
    rows: int
    is_new: bool


def publish(
    run: Path, config: Config, plan: Plan, shards: Sequence[Path], receipts: dict[Path, Receipt], active: Active,
    counts: dict[str, Counts], lost: Mapping[str, str] = MappingProxyType({}), least: int = 1,
) -> Version | None:  # fmt: skip
    """Makes the next version of the pairs in `shards`, unless the newest one is the same already.

    None where there is no pair at all: an empty dataset is of no use (and `datasets` cannot open one), so the version before
    it stays the newest. Where nothing changed, a rollback stands: `dataset` stays where it was put.

    Args:
        active: the prompts that the run has now; pairs of others stay in their shards and out of the version.
        counts: what each kind of stage counted, for the card.
        lost: the layers of isolation that the labelers did without, and why.
        least: pairs that a version must have, 1 or more.
    """
    listed = [{"path": str(s.relative_to(run)), "sha256": receipts[s].sha256, "rows": receipts[s].rows} for s in shards]
    made = made_by(config, plan)
    elsewhere = {shard.name: sorted(ids) for shard in shards if (ids := active.elsewhere.get(int(shard.stem)))}
    content = content_id(listed, sorted(active.gone), made, *([elsewhere] if elsewhere else []))
    newest = newest_version(run)
    if newest and newest["content"] == content and folder_of(run, newest["number"]).is_dir():
        return _stand(run, newest)
    number = newest["number"] + 1 if newest else 1
    folder = folder_of(run, number)
    known = lineage(config, plan, made)
    described = partial(_described, config, counts, known, number, content, lost)
    left_out: dict[str, list[str]] = {}
    rows = _write_folder(folder, _active_tables(run, listed, active, left_out), described, least)
    if not rows:
        return None
    manifest = {
        "number": number,
        "content": content,
        "rows": rows,
        "prompts": len(active),
        "shards": listed,
        "left_out": left_out,
        "card": (folder / "README.md").read_text(encoding="utf-8"),
        "files": files_of(folder),
        "folders": folders_of(plan),
        "counts": counts,
        "lineage": known,
        "isolation_lost": dict(lost),
        "created": now(),
    }
    write_twice(run, f"versions/{number:04d}.json", {**manifest, "openlineage": event(config, run, manifest)})
    point(run / "dataset", folder)
    return Version(number, folder, rows, is_new=True)


def manifests(run: Path) -> list[dict[str, Any]]:
    """The manifests of all versions, oldest first."""
    found = sorted((run / "versions").glob("[0-9]*.json"))
    return [read_json(path) for path in found]


def newest_version(run: Path) -> dict[str, Any] | None:
    """The newest manifest; None before the first."""
    found = manifests(run)
    return found[-1] if found else None


def folder_of(run: Path, number: int) -> Path:
    """Where the dataset folder of a version lies; a version that was removed has none."""
    return run / "versions" / f"{number:04d}"


def current(run: Path) -> dict[str, Any] | None:
    """The manifest of the version that `dataset` points at; None before the first."""
    folder = pointed(run / "dataset")
    number = folder.name if folder else ""
    return next((m for m in manifests(run) if f"{m['number']:04d}" == number), None)


def manifest_of(run: Path, number: int) -> dict[str, Any]:
    """The manifest of a version.

    Raises:
        ConfigError: there is none, or its rows were removed.
    """
    found = next((m for m in manifests(run) if m["number"] == number), None)
    if found is None:
        raise ConfigError(f"{run}: has no version {number}; hint: python -m pipeline versions {run}")
    if not folder_of(run, number).is_dir():
        raise ConfigError(
            f"{run}: the rows of version {number} were removed; hint: its manifest "
            f"({folder_of(run, number).with_suffix('.json')}) says what made it; dataset.keep says how many stay"
        )
    return found


def rollback(run: Path, number: int | None = None) -> dict[str, Any]:
    """Points `dataset` at another version, and writes that down. The caller holds the run's folder.

    Args:
        number: the version; None is the one before the current.

    Returns:
        The manifest of the version that `dataset` points at now.

    Raises:
        ConfigError: there is no such version any more.
    """
    standing, newest = current(run), newest_version(run)
    if standing is None or newest is None:
        raise ConfigError(f"{run}: has no version yet; hint: python -m pipeline run")
    if number is None:
        older = [m["number"] for m in manifests(run) if m["number"] < standing["number"]]
        kept = [n for n in older if folder_of(run, n).is_dir()]
        if not kept:
            raise ConfigError(
                f"{run}: no version before {standing['number']} is kept; hint: python -m pipeline versions"
            )
        number = kept[-1]
    chosen = manifest_of(run, number)
    # Written down first: were the pointer left where it was, the next run or refresh would set it.
    if number != standing["number"]:
        record(run, "rolled back", number, **{"from": standing["number"], "newest": newest["number"]})
    point(run / "dataset", folder_of(run, number))
    return chosen


def _stand(run: Path, newest: dict[str, Any]) -> Version:
    """The version that stands where nothing changed."""
    held = held_at(run, newest["number"])
    standing = manifest_of(run, held) if held != newest["number"] else newest
    folder = folder_of(run, standing["number"])
    point(run / "dataset", folder)
    return Version(standing["number"], folder, standing["rows"], is_new=False)


def _described(
    config: Config, counts: dict[str, Counts], lineage: dict[str, Any], number: int, content: str,
    lost: Mapping[str, str], rows: int,
) -> str:  # fmt: skip
    return card(config, rows, counts, lineage, number, content, lost)


def rewrite(run: Path, manifest: dict[str, Any], names: Sequence[str]) -> bool:
    """Makes files of a version again from its pair shards. False where those are not there any more, or give other bytes.

    Args:
        names: the files, below the version's folder.
    """
    shards = {run / shard["path"]: shard["sha256"] for shard in manifest["shards"]}
    if any(not (receipt := read_receipt(path)) or receipt.sha256 != sha256 for path, sha256 in shards.items()):
        return False
    folder = folder_of(run, manifest["number"])
    beside = folder.with_name(f".{folder.name}.mended.part")
    try:
        _write_folder(beside, _published_tables(run, manifest), lambda rows: str(manifest["card"]), 1)
        made = files_of(beside)
        same = [name for name in names if made.get(name) == manifest["files"][name]]
        for name in same:
            move(beside / name, folder / name)
    finally:
        remove(beside)
    return len(same) == len(names)


def _published_tables(run: Path, manifest: dict[str, Any]) -> Iterator[pa.Table]:
    for shard in manifest["shards"]:
        yield _without(
            read_shard(run / shard["path"], PAIR_SHARD, shard["sha256"]), manifest["left_out"].get(shard["path"], ())
        )


def files_of(folder: Path) -> dict[str, str]:
    """Path below the folder -> SHA-256, of all its files."""
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files_in(folder)}


def _write_folder(folder: Path, tables: Iterator[pa.Table], card_of: Callable[[int], str], least: int) -> int:
    """Makes the dataset folder appear whole. Returns its rows; below `least` it leaves nothing."""
    with suppress(_TooFew), appearing(folder) as beside:  # without a manifest, what lies there was never published
        with DatasetFiles(beside) as files:
            for _ in map(files.add, tables):  # no name for a table: it would hold one while the next is read
                pass
        rows = files.n_rows
        if rows < max(least, 1):
            raise _TooFew
        (beside / "README.md").write_text(card_of(rows), encoding="utf-8")
        return rows
    return 0


class _TooFew(Exception):
    pass


def _active_tables(
    run: Path, listed: Sequence[dict[str, Any]], active: Active, left_out: dict[str, list[str]]
) -> Iterator[pa.Table]:
    """The rows of the run's prompts. Takes note of the prompts that are left out: a version can be written again without it."""
    for shard in listed:
        path = shard["path"]
        yield _active(read_shard(run / path, PAIR_SHARD, shard["sha256"]), active.left_out(path), path, left_out)


def _active(rows: pa.Table, unwanted: frozenset[str], path: str, left_out: dict[str, list[str]]) -> pa.Table:
    gone = sorted(unwanted.intersection(rows["prompt_id"].to_pylist())) if unwanted else []
    if gone:
        left_out[path] = gone
    return _without(rows, gone)


def _without(rows: pa.Table, prompts: Sequence[str]) -> pa.Table:
    """The rows of other prompts than these."""
    if not prompts:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["prompt_id"], value_set=pa.array(prompts, pa.string()))))
