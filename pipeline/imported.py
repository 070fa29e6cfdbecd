"""What an import found, kept while nothing that it follows from has changed: an unchanged run reads no prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from labelers.types import content_id
from pipeline.errors import Damaged
from pipeline.known import Active
from pipeline.publishing.code import source_sha256
from pipeline.storage.shards import inputs_sha256, read_json, read_receipt, write_json

KEPT = "imported.json"
"""The file in a run's folder that holds what the newest import found, and what it follows from."""


@dataclass(frozen=True)
class Imported:
    """What the import found.

    Args:
        shards: the prompt shards that hold at least one of the run's prompts, in order.
        active: the run's prompts, among those of its shards; older prompts of the run's folder are not among them.
        families: prompts by family.
        duplicates: rows that repeat an earlier prompt and target.
        bad: rows that were skipped, by place.
        contaminated: prompts that an evaluation set holds too.
    """

    shards: tuple[Path, ...]
    active: Active
    families: Mapping[str, int]
    duplicates: int
    bad: tuple[str, ...]
    contaminated: int = 0


def content_of(paths: Sequence[str]) -> list[list[str]] | None:
    """The hashes of all that is read; None where it is not of this machine: it may change unseen."""
    found = [inputs_sha256(Path(path)) for path in paths]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None


def import_key(settings: Mapping[str, Any], content: Sequence[Any] | None, shards: Sequence[Path]) -> str | None:
    """The hash of all that an import follows from: settings, files, the prompts that were there, our own code."""
    if content is None:
        return None
    receipts = [(shard, read_receipt(shard)) for shard in shards]
    stored = sorted((shard.name, receipt.sha256) for shard, receipt in receipts if receipt)
    return content_id("import", source_sha256(), settings, content, stored)


def recall(folder: Path, key: str | None) -> Imported | None:
    """What the newest import into `folder` found, where that followed from the same `key`."""
    try:
        said = read_json(folder.parent / KEPT)
        if key is None or said["of"] != key:
            return None
        found = _kind().validate_python(said["found"])
    except (FileNotFoundError, Damaged, KeyError, ValueError):
        return None
    return replace(found, shards=tuple(folder / shard for shard in found.shards))


def remember(folder: Path, key: str | None, found: Imported) -> None:
    """Keeps what an import into `folder` found."""
    if key is not None:
        named = replace(found, shards=tuple(Path(shard.name) for shard in found.shards))
        write_json(folder.parent / KEPT, {"of": key, "found": _kind().dump_python(named, mode="json")})


@functools.cache
def _kind() -> TypeAdapter[Imported]:
    return TypeAdapter(Imported)
