"""Dataset versions: an immutable folder and a manifest for each, and one pointer to the newest."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import content_id
from pipeline import judges
from pipeline.card import card
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.evidence import folders_of
from pipeline.history import held_at, now, record
from pipeline.plan import Plan
from pipeline.schema import PAIR_SHARD, PAIRS, SAMPLER_LOGPS
from pipeline.shards import Counts, Receipt, read_json, read_shard, sync, write_json, write_parquet

ROWS_PER_FILE = 50_000


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
    run: Path, config: Config, plan: Plan, shards: Sequence[Path], receipts: dict[Path, Receipt], active: frozenset[str],
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
    lineage = _lineage(config, plan)
    content = content_id(listed, sorted(active), lineage)
    newest = newest_version(run)
    if newest and newest["content"] == content and folder_of(run, newest["number"]).is_dir():
        return _stand(run, newest)
    number = newest["number"] + 1 if newest else 1
    folder = folder_of(run, number)
    described = partial(_described, config, counts, lineage, number, content, lost)
    rows = _write_folder(folder, shards, active, described, least)
    if not rows:
        return None
    manifest = {
        "number": number,
        "content": content,
        "rows": rows,
        "prompts": len(active),
        "shards": listed,
        "folders": folders_of(plan),
        "counts": counts,
        "lineage": lineage,
        "isolation_lost": dict(lost),
    }
    write_json(folder.with_suffix(".json"), {**manifest, "created": now()})
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
    pointer = run / "dataset"
    number = pointer.readlink().name if pointer.is_symlink() else ""
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


def _lineage(config: Config, plan: Plan) -> dict[str, Any]:
    """What made the pairs: enough to make them again."""
    code = metadata.version("preference-pipeline")
    return {
        "code_version": code,
        "parent": config.parent,
        "sources": {step.name: step.stage.identity() for step in plan.of_kind("completions")},  # type: ignore[attr-defined]
        "labelers": {
            e.label: {
                "use": e.use,
                "version": e.spec.build().version,
                "fingerprint": e.spec.fingerprint(),
                "engine": dict(e.engine.identity()) if e.engine else None,
            }
            for e in config.labelers
        },
        "warnings": judges.warnings(config),
        "pairs": asdict(config.pairs),
        "license": config.dataset.license,
        "seed": config.seed,
    }


def _write_folder(
    folder: Path, shards: Sequence[Path], active: frozenset[str], card_of: Callable[[int], str], least: int
) -> int:
    """Writes the dataset folder beside its place and renames it whole. Returns its rows; below `least` it leaves nothing."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # without a manifest it was never published
    rows = _write_tables(beside, _active_tables(shards, active))
    if rows < max(least, 1):
        shutil.rmtree(beside)
        return 0
    (beside / "README.md").write_text(card_of(rows), encoding="utf-8")
    for path in [*beside.rglob("*"), beside]:
        sync(path)
    os.rename(beside, folder)
    sync(folder.parent)
    return rows


def _active_tables(shards: Sequence[Path], active: frozenset[str]) -> Iterator[pa.Table]:
    wanted = pa.array(sorted(active), pa.string())
    for shard in shards:
        table = read_shard(shard, PAIR_SHARD)
        yield table.filter(pc.is_in(table["prompt_id"], value_set=wanted))


def _write_tables(folder: Path, tables: Iterator[pa.Table]) -> int:
    """Writes both configs of the dataset in files of a like number of rows; memory holds one file at most."""
    files = {"data": PAIRS, "sampler_logps": SAMPLER_LOGPS}
    for name in files:
        (folder / name).mkdir(parents=True)
    pending: list[pa.Table] = []
    n_files = total = 0
    for table in itertools.chain(tables, [None]):
        pending += [table] if table is not None else []
        n_rows = sum(t.num_rows for t in pending)
        if n_rows >= ROWS_PER_FILE or (table is None and n_rows):
            whole = pa.concat_tables(pending)
            for name, schema in files.items():
                write_parquet(folder / name / f"part-{n_files:05d}", whole.select(schema.names).cast(schema))
            pending, n_files, total = [], n_files + 1, total + n_rows
    for name in files:
        for number in range(n_files):
            (folder / name / f"part-{number:05d}").rename(
                folder / name / f"train-{number:05d}-of-{n_files:05d}.parquet"
            )
    return total


def point(pointer: Path, folder: Path) -> None:
    """Makes `pointer` a link to `folder`, in one step."""
    target = folder.relative_to(pointer.parent)
    if pointer.is_symlink() and pointer.readlink() == target:
        return
    beside = pointer.with_name(f".{pointer.name}.part")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, pointer)
