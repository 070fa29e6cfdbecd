"""A run that is kept up to date: build, compare with what stood, publish, tidy. Whatever fails leaves the old version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import BelowGate
from pipeline.executors import Executor
from pipeline.observing.funnel import as_json as report_as_json
from pipeline.publishing.diff import Diff, diff, has_diff, table, write_diff
from pipeline.publishing.publish import publish_current, remove_published
from pipeline.publishing.versions import Version, current, folder_of, manifests
from pipeline.run import Finished, build, locked
from pipeline.storage.folders import followed
from pipeline.storage.garbage import Collected, collect, remove_old


@dataclass(frozen=True)
class Refreshed:
    """What a refresh came to.

    Args:
        diff: from the version that stood before; None where nothing changed or nothing stood.
        published: destinations that were given the version.
        removed: versions whose rows were removed, since only the last `dataset.keep` stay.
        collected: shards that were removed, where that was asked for.
    """

    finished: Finished
    diff: Diff | None = None
    published: tuple[str, ...] = ()
    removed: tuple[int, ...] = ()
    collected: Collected | None = None

    @property
    def is_new(self) -> bool:
        """Whether there is a new version."""
        return self.finished.version is not None and self.finished.version.is_new


def refresh(
    config: Config, root: Path, executor: Callable[[], Executor] | None = None, *, tidy: bool = False
) -> Refreshed:
    """Brings the run `root`/`config.name` up to date. Where nothing changed it makes no version.

    No version is made, and nothing is published or removed, when a shard or the audit fails or there are too few pairs.

    Args:
        executor: what starts where work runs; None takes the config's.
        tidy: collect the shards that nothing refers to any more.

    Raises:
        Busy: another run holds the folder.
        PipelineError: what cannot be survived; what stood before stands.
    """
    folder = root / config.name
    with locked(folder):
        stood = current(folder)
        finished = build(config, folder, executor, strict=True)
        if finished.version is None:
            return Refreshed(finished)
        found = _compared(folder, stood["number"] if stood else None, finished.version)
        published = [
            to for to in config.dataset.publish_to if publish_current(folder, to, private=config.dataset.private)
        ]
        for to in published:
            remove_published(folder, to, config.dataset.keep)
        removed = remove_old(folder, config.dataset.keep)
        return Refreshed(finished, found, tuple(published), tuple(removed), collect(folder) if tidy else None)


def require_version(refreshed: Refreshed, config: Config) -> None:
    """Raises BelowGate when a build without a fault made no version."""
    if refreshed.finished.version is None:
        raise BelowGate(
            f"fewer pairs than dataset.min_pairs = {config.dataset.min_pairs}; nothing was published, what stood before "
            "stands; hint: the table says what was dropped and why"
        )


def closing(refreshed: Refreshed) -> str:
    """What a person reads when a refresh ends."""
    version = refreshed.finished.version
    if version is None:
        return "no new version; what stood before stands"
    state = "new" if version.is_new else "unchanged"
    lines = [
        f"dataset  {followed(refreshed.finished.folder / 'dataset')}  (version {version.number}, {state}, {version.rows} pairs)"
    ]
    if version.is_new and refreshed.diff:
        lines.append(table(refreshed.diff))
    lines += [f"published to {to}" for to in refreshed.published]
    if refreshed.removed:
        lines.append(f"removed the rows of versions {', '.join(map(str, refreshed.removed))}")
    if refreshed.collected:
        lines.append(f"collected {len(refreshed.collected.shards)} shards, {refreshed.collected.n_bytes} bytes")
    return "\n".join(lines)


def as_json(refreshed: Refreshed) -> dict[str, Any]:
    """A refresh's outcome for scripts."""
    return {
        **report_as_json(refreshed.finished),
        "diff": asdict(refreshed.diff) if refreshed.diff else None,
        "published": list(refreshed.published),
        "removed": list(refreshed.removed),
        "collected": asdict(refreshed.collected) if refreshed.collected else None,
    }


def _compared(run: Path, stood: int | None, version: Version) -> Diff | None:
    """The diff that this version still lacks: from what stood before, or (made by `run`, or by a refresh that was killed
    here) from the version before it."""
    number = version.number
    if has_diff(run, number):
        return None
    before = stood if stood is not None and stood < number else None
    if before is None:
        older = [m["number"] for m in manifests(run) if m["number"] < number]
        before = older[-1] if older else None
    if before is None or not folder_of(run, before).is_dir():
        return None
    found = diff(run, before, number)
    write_diff(run, found)
    return found
