"""The published pairs in the layout that another trainer loads, with that trainer's own config beside them."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, UnreadableShard
from pipeline.publishing.layouts import KINDS, LAYOUTS, Columns, Kind, Layout, as_lists, list_lengths
from pipeline.storage.folders import followed
from pipeline.storage.shards import batches, sync
from pipeline.storage.stores import is_store, readable

_READ = ["pair_id", "prompt", "chosen", "rejected", "weight"]
_BATCH_ROWS = 1000  # as the row groups that this project writes: memory stays flat however large a shard is

# LLaMA-Factory drops, with a warning in its log, a prompt whose turns do not alternate and end with the user's.
_ALTERNATES = r"^(system,)?(user|tool)(,assistant,(user|tool))*$"


class BadExport(ConfigError):
    """The folder to read is no dataset, the folder to write is taken, or the layout is unknown."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        folder: the folder, in the layout of a Hugging Face dataset, the trainer's config included.
        rows: pairs written; as many as were read.
        shards: the Parquet files, in order.
        config: the trainer's config (a fragment: the data only).
        command: how to start that trainer on it, to be completed with a model.
        notes: what that trainer will do otherwise than one may expect.
    """

    folder: Path
    layout: Layout
    rows: int
    shards: tuple[Path, ...]
    config: Path
    command: str
    notes: tuple[str, ...] = ()


@dataclass
class _Seen:
    """What was counted on the way through."""

    rows: int = 0
    weighted: int = 0
    not_alternating: int = 0
    blank_ends: int = 0


def as_layout(name: str) -> Layout:
    """`name` as a layout.

    Raises:
        BadExport: there is no such layout; the message names the nearest.
    """
    for layout in LAYOUTS:
        if name == layout:
            return layout
    near = difflib.get_close_matches(name, LAYOUTS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(LAYOUTS)}"
    raise BadExport(f"there is no layout {name!r}; hint: {hint}")


def export(dataset: Path, layout: Layout, out: Path) -> Exported:
    """Writes the pairs of `dataset` into `out` as `layout` loads them; `out` appears complete or not at all.

    Args:
        dataset: a published dataset's folder, or a run's folder (its newest version is taken).
        out: a folder that does not exist yet, or is empty.

    Raises:
        BadExport: `dataset` is no dataset or holds no pairs, `out` is taken, or the layout is unknown.
    """
    kind = KINDS[as_layout(layout)]
    source = find_dataset(dataset)
    sources = [shard for shard in sorted((source / "data").glob("train-*.parquet")) if _n_rows(shard)]
    if not sources:
        raise BadExport(f"{source}: the dataset holds no pairs; hint: the table that its run printed says why")
    final = require_free(out, source)
    if layout == "openrlhf" and set(",@") & set(str(final)):
        raise BadExport(f"{out}: OpenRLHF reads `,` and `@` in a path as separators; hint: name a folder without them")
    names = [f"data/train-{index:05d}-of-{len(sources):05d}.parquet" for index in range(len(sources))]
    seen = _Seen()
    with appearing(final) as beside:
        for shard, name in zip(sources, names, strict=True):
            _rewrite(shard, beside / name, kind.columns, seen)
        notes = _notes(layout, seen)
        texts = {kind.config: kind.text(final, names), "README.md": _readme(layout, kind, notes), **kind.extra}
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")
    shards = tuple(final / name for name in names)
    return Exported(final, layout, seen.rows, shards, final / kind.config, kind.command, notes)


def find_dataset(path: Path) -> Path:
    """The dataset folder that `path` means: itself, or the newest version of the run it is.

    Raises:
        BadExport: it is neither.
    """
    for folder in (path, followed(path / "dataset")):
        if any((folder / "data").glob("train-*.parquet")):
            return folder
    raise BadExport(
        f"{path}: holds no data/train-*.parquet; hint: give a run's folder or its dataset/ "
        "(a run that has not published yet has none: `python -m pipeline status`)"
    )


def _n_rows(shard: Path) -> int:
    try:
        schema, rows = pq.read_schema(readable(shard)), pq.read_metadata(readable(shard)).num_rows
    except (OSError, pa.ArrowException) as error:
        raise _damaged(shard, error) from error
    if missing := [name for name in _READ if name not in schema.names]:
        raise BadExport(f"{shard}: lacks {', '.join(missing)}; hint: docs/format.md names the columns of `pairs`")
    return int(rows)


def require_free(out: Path, source: Path) -> Path:
    """`out`, absolute, once it is certain that it may be written."""
    final = out.absolute()
    if is_store(final):
        raise BadExport(f"{out}: an export is written to this machine; hint: name a local folder")
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise BadExport(f"{out}: is there already and not empty; hint: name a new folder, nothing is overwritten")
    if final.resolve().is_relative_to(source.resolve()):
        raise BadExport(f"{out}: lies inside the dataset, which never changes; hint: name a folder elsewhere")
    return final


@contextmanager
def appearing(final: Path) -> Iterator[Path]:
    """A folder beside `final` to write to; on leaving it is synced and takes its name, on an error it goes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    beside = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        (beside / "data").mkdir(parents=True)
        yield beside
        for path in (*beside.rglob("*"), beside):
            sync(path)
        os.rename(beside, final)
        sync(final.parent)
    except FileExistsError as error:
        raise BadExport(f"{final}: another process wrote it meanwhile; hint: name a new folder") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _rewrite(source: Path, target: Path, columns: Callable[[pa.RecordBatch], Columns], seen: _Seen) -> None:
    """One shard to one shard, batch by batch."""
    with ExitStack() as closing:
        writer: pq.ParquetWriter | None = None
        for batch in _batches(source):
            _check_and_count(batch, seen, source)
            rows = pa.table({"pair_id": batch["pair_id"], **columns(batch)})
            if writer is None:
                writer = closing.enter_context(_writer(target, rows.schema))
            writer.write_table(rows)


def _writer(target: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        target, schema, compression="zstd", use_dictionary=False, write_page_checksum=True, write_page_index=True
    )


def _batches(shard: Path) -> Iterator[pa.RecordBatch]:
    """The rows of `shard`, their page checksums verified."""
    try:
        with pq.ParquetFile(readable(shard), page_checksum_verification=True) as file:
            yield from batches(file, _BATCH_ROWS, _READ)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(shard, error) from error


def _damaged(shard: Path, error: Exception) -> UnreadableShard:
    return UnreadableShard(
        f"{shard}: cannot be read ({str(error).splitlines()[0]}); hint: `python -m pipeline verify` names the damage"
    )


def _check_and_count(batch: pa.RecordBatch, seen: _Seen, source: Path) -> None:
    for name in ("chosen", "rejected"):
        lengths = pc.list_value_length(batch[name])
        if not pc.all(pc.equal(lengths, 1)).as_py():
            raise BadExport(f"{source}: a row's {name} is not one message; hint: docs/format.md, `pairs`")
    seen.rows += batch.num_rows
    seen.blank_ends += pc.sum(pc.or_(*(_blank_ends(batch[name]) for name in ("chosen", "rejected")))).as_py() or 0
    seen.weighted += pc.sum(pc.not_equal(batch["weight"], 1.0)).as_py() or 0
    roles = as_lists(list_lengths(batch["prompt"]), pc.struct_field(pc.list_flatten(batch["prompt"]), "role"))
    turns = pc.match_substring_regex(pc.binary_join(roles, ","), _ALTERNATES)
    seen.not_alternating += batch.num_rows - (pc.sum(turns).as_py() or 0)


def _blank_ends(side: pa.Array) -> pa.Array:
    """Whether each completion is empty, or begins or ends with white space."""
    texts = pc.struct_field(pc.list_element(side, 0), "content")
    return pc.or_(pc.equal(texts, ""), pc.not_equal(pc.utf8_trim_whitespace(texts), texts))


def _notes(layout: Layout, seen: _Seen) -> tuple[str, ...]:
    notes = []
    if seen.weighted:
        notes.append(f"{seen.weighted} of {seen.rows} pairs have a weight other than 1; {layout} reads no weights")
    if layout == "llama-factory" and seen.not_alternating:
        notes.append(
            f"{seen.not_alternating} of {seen.rows} prompts do not alternate between user and assistant: "
            "LLaMA-Factory skips them with a warning in its log"
        )
    if layout == "axolotl" and seen.blank_ends:
        notes.append(
            f"{seen.blank_ends} of {seen.rows} pairs have a completion that is empty, or begins or ends with white space: "
            "Axolotl looks for the text in the rendered chat template; where the template trims it (Llama 3's does) it takes "
            "the last character alone, and of an empty one its own dummy message"
        )
    return tuple(notes)


def _readme(layout: Layout, kind: Kind, notes: tuple[str, ...]) -> str:
    # No YAML header: with one, `datasets` keys its cache by the folder's name and the header, and would open another
    # export of the same name in place of this one.
    lines = "".join(f"\n- {note}" for note in notes)
    return f"""Preference pairs in the layout of {layout}; `{kind.config}` names them.

    {kind.command}
{lines}
"""
