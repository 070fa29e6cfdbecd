"""An audit that was made of the very same things is not made again: an unchanged dataset costs nothing to refresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from labelers.types import content_id
from pipeline.auditing.evidence import Places
from pipeline.auditing.limits import Finding
from pipeline.config import Config
from pipeline.errors import Damaged
from pipeline.publishing.code import source_sha256
from pipeline.storage.shards import inputs_sha256, read_json, read_receipt

AUDIT = "audit.json"
"""The file in a run's folder that holds what the newest audit found, and what it looked at."""
APART = {"dataset", "budget", "executor", "ray", "name", "parent"}
"""Parts of a config that no check looks at."""


def audit_key(config: Config, places: Places) -> str | None:
    """The hash of all that an audit's findings follow from: shards, settings, held-out prompts, our own code. None where that
    cannot be known, since held-out prompts come from elsewhere."""
    heldout = [inputs_sha256(Path(path)) for path in _listed(config.audit.heldout)]
    if None in heldout:
        return None
    settings = TypeAdapter(Config).dump_python(config, mode="json", exclude=APART)
    return content_id("audit", source_sha256(), settings, heldout, places.left_out, list(_shards(places)))


def recall(run: Path, key: str | None) -> tuple[Finding, ...] | None:
    """What the newest audit of `run` found, where that was of the same `key`, nothing failed and every labeler was asked."""
    try:
        said: dict[str, Any] = read_json(run / AUDIT)
        found = tuple(Finding(**{**each, "rows": tuple(each["rows"])}) for each in said["findings"])
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None
    unsure = any(each.state == "FAIL" or (each.check == "canaries" and each.state == "warn") for each in found)
    return None if key is None or said.get("of") != key or unsure else found


def _shards(places: Places) -> Iterator[list[Any]]:
    """Each pair shard with its hash and those of all that it was made from."""
    for shard in places.shards:
        for path in places.paths("pairs", shard):
            receipt = read_receipt(path)
            yield [path.parent.name, shard, *((receipt.sha256, receipt.inputs) if receipt else ())]


def _listed(paths: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return () if not paths else (paths,) if isinstance(paths, str) else tuple(paths)
