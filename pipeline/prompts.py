"""Prompts from files to shards: exact duplicates dropped and counted, bad rows named, new prompts in new shards."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from labelers.encoding import quick_encode
from labelers.types import Message, Prompt
from pipeline.auditing.contamination import EvaluationSets
from pipeline.errors import BadPrompts, ConfigError
from pipeline.imported import Imported, content_of, import_key, recall, remember
from pipeline.known import Known, digest
from pipeline.rows import Row, chat, read_rows
from pipeline.schema import PROMPTS
from pipeline.storage.damage import Checked, rows_lost
from pipeline.storage.shards import read_shard, write_shard


@dataclass(frozen=True)
class Fields:
    """Which columns hold what.

    Args:
        prompt: the column with the prompt: a text or a list of {role, content}.
        system: a column with a system message to put first.
        target: the column with the known answer, or several (they become one object).
        metadata: the columns to keep for routing and reports; None keeps all others that JSON can hold.
        family: the column whose value groups the report; kept in metadata as `family`.
    """

    prompt: str = "prompt"
    system: str | None = None
    target: str | tuple[str, ...] | None = None
    metadata: tuple[str, ...] | None = None
    family: str = "family"


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from.

    Args:
        path: a file or several: JSONL, JSON, CSV, Parquet, compressed or not, local or any fsspec URL; a dataset folder; or
            a Hub name.
        fields: which columns hold what.
        split: of a dataset folder or Hub name.
        subset: of a Hub name: its configuration.
        family: a family for every prompt of a file that has no such column.
        limit: prompts to take at most.
        shard_size: prompts in a shard; a shard is the unit of work and of what a crash can cost.
        part: `k/n`: only the k-th of n parts, by the prompts' hashes, so that runs (or rounds) can have prompts of their own;
            empty: all.
        decontaminate: files of evaluation sets; a prompt that shares 13 words in a row with them is dropped and counted.
        on_bad_row: `fail` stops at the first bad row, `skip` names and counts it.
    """

    path: str | tuple[str, ...]
    fields: Fields = field(default_factory=Fields)
    split: str = "train"
    subset: str | None = None
    family: str | None = None
    limit: int | None = None
    shard_size: int = 64
    on_bad_row: Literal["fail", "skip"] = "fail"
    part: str = ""
    decontaminate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"prompts.shard_size is {self.shard_size}; hint: 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"prompts.limit is {self.limit}; hint: 1 or more, or leave it out")
        if self.part and not 1 <= self._part[0] <= self._part[1]:
            raise ConfigError(f"prompts.part is {self.part!r}; hint: k/n with k from 1 to n, like 1/3")

    @property
    def _part(self) -> tuple[int, int]:
        k, _, n = self.part.partition("/")
        return (int(k), int(n)) if k.isdecimal() and n.isdecimal() else (0, 0)

    @property
    def files(self) -> tuple[str, ...]:
        """All that is read: prompts, and the evaluation sets that they are held against."""
        return ((self.path,) if isinstance(self.path, str) else self.path) + self.decontaminate

    def takes(self, prompt_id: str) -> bool:
        """Whether a prompt belongs to the part that is asked for."""
        if not self.part:
            return True
        k, n = self._part
        return int(prompt_id[:15], 16) % n == k - 1


def import_prompts(settings: Prompts, folder: Path, checked: Checked | None = None) -> Imported:
    """Writes the prompts that `folder` does not hold yet as new shards; those it holds stay where they are. One that has got
    other metadata is written again, into a shard of such prompts (pipeline/carry.py brings its completions there).

    A damaged shard is moved aside, and its prompts fill its place again: the same bytes, where the file still has them.

    Args:
        checked: what the run knows of its files; None looks it up.

    Raises:
        BadPrompts: a file is missing or empty, or has a bad row and `on_bad_row` is `fail`.
    """
    checked = checked or Checked.recall(folder.parent)
    # A shard without a receipt was never finished: it does not exist, and its name is free.
    shards = [
        shard
        for shard in sorted({path.with_suffix(".parquet") for path in folder.glob("[0-9]*.*")})
        if checked.whole(shard)
    ]
    asked, content = asdict(settings), _content(settings)
    if kept := recall(folder, import_key(asked, content, shards)):
        return kept
    found = _import(settings, folder, shards)
    if content == _content(settings):  # nobody wrote to them meanwhile
        remember(folder, import_key(asked, content, shards), found)
    return found


def _content(settings: Prompts) -> list[list[str]] | None:
    """The hashes of all that an import reads; None where it stops early: hashing the rest would cost more than reading."""
    return None if settings.limit else content_of(settings.files)


def _import(settings: Prompts, folder: Path, shards: list[Path]) -> Imported:
    """Reads all files; `shards` gets the new ones, too."""
    known = Known()
    for shard in shards:
        known.lie_in(int(shard.stem), _ids_and_metadata(shard))
    families: Counter[str] = Counter()
    found = _Found()
    fresh: list[_Read] = []
    described: list[_Read] = []
    places = _places(folder, shards, settings.shard_size)
    place, room = next(places)
    for prompt in _distinct(settings, found, known):
        families[prompt.family] += 1
        stored = known.stored(prompt.id)
        if stored is None:
            fresh.append(prompt)
        elif stored != digest(prompt.metadata):
            described.append(prompt)
        if len(fresh) == room:
            shards.append(_write(place, fresh, known))
            fresh = []
            place, room = next(places)
    if fresh:
        shards.append(_write(place, fresh, known))
        place, room = next(places)
    for first in range(0, len(described), settings.shard_size):
        shards.append(_write(place, described[first : first + settings.shard_size], known))
        place, room = next(places)
    active, used = known.active(), known.used()
    known.close()
    if not len(active):
        raise BadPrompts(f"{settings.path}: holds no prompt{found.described()}; hint: is it the right file?")
    kept = tuple(shard for shard in sorted(shards) if int(shard.stem) in used)
    return Imported(kept, active, dict(families), found.duplicates, tuple(found.bad), found.contaminated)


_stored = quick_encode(ascii_only=False, sort_keys=True, separators=(", ", ": "), nan=False)


def family_of(metadata: Mapping[str, Any]) -> str:
    """The group that a prompt is reported under."""
    return str(metadata.get("family") or "all")


def families_of(metadata: pa.ChunkedArray) -> list[str]:
    """The group of each row, from the column that holds metadata; equal texts, which are most, are parsed once."""
    said = metadata.to_pylist()
    found = {text: family_of(json.loads(text)) for text in set(said)}
    return [found[text] for text in said]


def family_by_id(prompts: pa.Table) -> dict[str, str]:
    """The group of each prompt in a shard's table."""
    return dict(zip(prompts["prompt_id"].to_pylist(), families_of(prompts["metadata"]), strict=True))


def prompts_of(table: pa.Table) -> dict[str, Prompt]:
    """The prompts in a shard's table by id, in its order."""
    ids, metadata = table["prompt_id"].to_pylist(), map(json.loads, table["metadata"].to_pylist())
    targets = [None if text is None else json.loads(text) for text in table["target"].to_pylist()]
    return {row[0]: Prompt(*row) for row in zip(ids, _chats(table), targets, metadata, strict=True)}


def chats_of(table: pa.Table) -> dict[str, tuple[Message, ...]]:
    """What the prompts in a shard's table say, by their ids: all that an engine is shown."""
    return dict(zip(table["prompt_id"].to_pylist(), _chats(table), strict=True))


def _chats(table: pa.Table) -> Iterator[tuple[Message, ...]]:
    """The messages of each row; by columns, which takes a third of the time of rows."""
    chats = table["messages"].combine_chunks()
    turns = chats.flatten()
    said = map(Message, turns.field("role").to_pylist(), turns.field("content").to_pylist())
    return (tuple(itertools.islice(said, n)) for n in chats.value_lengths().to_pylist())


class _Read(NamedTuple):
    """A prompt from a file as its shard will hold it: target and metadata as texts."""

    id: str
    messages: tuple[Message, ...]
    target: str | None
    metadata: str
    family: str


@dataclass
class _Found:
    """What went past while reading."""

    duplicates: int = 0
    contaminated: int = 0
    bad: list[str] = field(default_factory=list)

    def described(self) -> str:
        return f" ({len(self.bad)} bad rows, the first: {self.bad[0]})" if self.bad else ""


def _distinct(settings: Prompts, found: _Found, known: Known) -> Iterator[_Read]:
    """The prompts of all files in order, each once, at most `limit`."""
    heldout = EvaluationSets(settings.decontaminate) if settings.decontaminate else None
    n_taken = 0
    paths = (settings.path,) if isinstance(settings.path, str) else settings.path
    for row in (row for path in paths for row in read_rows(path, settings.split, settings.subset)):
        try:
            prompt = _parse(row, settings)
        except (ValueError, TypeError) as error:
            if settings.on_bad_row == "fail":
                raise BadPrompts(
                    f"{row.where}: {error}; hint: mend it, or skip such rows with prompts.on_bad_row"
                ) from None
            found.bad.append(f"{row.where}: {error}")
            continue
        if not settings.takes(prompt.id):
            continue
        if known.meet(prompt.id):
            found.duplicates += 1
            continue
        if heldout and heldout.overlap(m.content for m in prompt.messages):
            known.bar(prompt.id)
            found.contaminated += 1
            continue
        n_taken += 1
        yield prompt
        if n_taken == settings.limit:
            return


def _parse(row: Row, settings: Prompts) -> _Read:
    """The prompt in a row. Raises ValueError with what is wrong with it."""
    if row.error:
        raise ValueError(row.error)
    fields = settings.fields
    messages = chat(_column(row, fields.prompt, "prompt"))
    if fields.system and row.values.get(fields.system):
        messages = (Message("system", str(row.values[fields.system])), *messages)
    match fields.target:
        case None:
            target = None
        case str(name):
            target = _column(row, name, "target")
        case names:
            target = {name: _column(row, name, "target") for name in names}
    identity, metadata = Prompt.make(messages, target).id, _metadata(row, settings)
    said, described = None if target is None else _stored(target), _stored(metadata)
    # What UTF-8 cannot hold is a bad row, not a crash of its shard later.
    "".join([said or "", described, *(m.content for m in messages)]).encode("utf-8")
    return _Read(identity, messages, said, described, family_of(metadata))


def _column(row: Row, name: str, meant: str) -> Any:
    if name not in row.values:
        raise ValueError(
            f"has no column {name!r}, it has {', '.join(row.values)} (name yours with --set prompts.fields.{meant}=...)"
        )
    return row.values[name]


def _metadata(row: Row, settings: Prompts) -> dict[str, Any]:
    fields = settings.fields
    names = fields.metadata if fields.metadata is not None else _unused(fields, tuple(row.values))
    values = {name: row.values[name] for name in names if name in row.values and _is_json(row.values[name])}
    family = row.values.get(fields.family, settings.family)
    return {**values, "family": str(family)} if family is not None else values


@functools.lru_cache(maxsize=16)
def _unused(fields: Fields, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that no field is read from."""
    target = (fields.target,) if isinstance(fields.target, str) else fields.target or ()
    return tuple(name for name in columns if name not in {fields.prompt, fields.system, *target})


def _is_json(value: Any) -> bool:
    if value is None or isinstance(value, str | int):
        return True
    try:
        _stored(value)
    except (TypeError, ValueError):
        return False
    return True


def _ids_and_metadata(shard: Path) -> Iterator[tuple[str, str]]:
    table = read_shard(shard, PROMPTS)
    return zip(table["prompt_id"].to_pylist(), table["metadata"].to_pylist(), strict=True)


def _places(folder: Path, shards: Sequence[Path], size: int) -> Iterator[tuple[Path, int]]:
    """Where new prompts go and how many: first where shards were lost, so that they come out as they were, then at the end."""
    taken = {int(shard.stem) for shard in shards}
    lost = rows_lost(folder)
    for number in itertools.count():
        if number not in taken:
            yield folder / f"{number:05d}.parquet", lost.get(number, size)


def _write(shard: Path, prompts: list[_Read], known: Known) -> Path:
    ids, metadata = [p.id for p in prompts], [p.metadata for p in prompts]
    columns = {
        "prompt_id": ids,
        "messages": [[{"role": m.role, "content": m.content} for m in p.messages] for p in prompts],
        "metadata": metadata,
        "target": [p.target for p in prompts],
    }
    write_shard(shard, pa.table([pa.array(columns[field.name], field.type) for field in PROMPTS], PROMPTS))
    known.written_to(int(shard.stem), zip(ids, metadata, strict=True))
    return shard
