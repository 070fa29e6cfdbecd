"""Is every file of a run what was written? All bytes are read, whatever their times say. Needs to write nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.auditing.evidence import recall_places
from pipeline.errors import ConfigError, Damaged, EnvironmentLacks
from pipeline.publishing.versions import folder_of
from pipeline.storage.damage import Checked
from pipeline.storage.garbage import STAGE_FOLDER
from pipeline.storage.mend import astray, kept_twice, spoiled, torn
from pipeline.storage.shards import read_json, read_receipt, receipt_path


@dataclass
class Verified:
    """What was looked at.

    Args:
        files: how many files are what was written.
        damaged: file, below the run's folder -> what is wrong with it.
        unfinished: shards without a receipt: a run is making them, or was killed there. No damage.
    """

    files: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def verify(run: Path) -> Verified:
    """Reads every file of a run and compares it with what was noted when it was written.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not any((run / name).exists() for name in ("config.json", "prompts", "versions")):
        raise ConfigError(
            f"{run}: holds no run; hint: a folder like runs/quickstart that `python -m pipeline run` made"
        )
    noted = Checked.recall(run)
    afresh = Checked(run, {name: [known[0], ""] for name, known in noted.seen.items()})  # whatever the files' times say
    found = Verified()
    for path, why in [*_notes(run), *_shards(afresh, found), *_versions(afresh)]:
        if why is None:
            found.files += 1
        else:
            found.damaged[path.relative_to(run).as_posix()] = why
            noted.doubt(path)
    if found.damaged:
        with suppress(EnvironmentLacks):  # of a read-only folder; the next run finds what was touched all the same
            noted.save()
    return found


def _notes(run: Path) -> Iterator[tuple[Path, str | None]]:
    """The JSON files: that each is what was written, and that none that cannot be made again is gone."""
    kept = kept_twice(run)
    for path in {*run.glob("*.json"), *(each for both in kept for each in both)}:
        if path.exists():
            yield path, torn(path)
    for path, copy in kept:
        if copy.exists() and not path.exists():
            yield path, "is gone, and its copy is there"
    if not (run / "config.json").exists():
        yield run / "config.json", "is gone"
    if why := astray(run):
        yield run / "dataset", why


def _shards(checked: Checked, found: Verified) -> Iterator[tuple[Path, str | None]]:
    folders = [f for f in sorted(checked.run.iterdir()) if f.name == "prompts" or STAGE_FOLDER.fullmatch(f.name)]
    there = {path.with_suffix(".parquet") for folder in folders for path in folder.glob("[0-9]*.*")}
    for shard in sorted(there | _used(checked.run)):
        if receipt_path(shard).exists():
            receipt = read_receipt(shard)
            yield shard, checked.misfit(shard) or (checked.fault(shard, receipt.sha256) if receipt else None)
        elif shard.exists() and not checked.misfit(shard):
            found.unfinished.append(shard.relative_to(checked.run).as_posix())
        else:
            yield shard, checked.misfit(shard) or "is gone with its receipt"


def _used(run: Path) -> set[Path]:
    """The shards that the newest build used, there or not."""
    try:
        places = recall_places(run)
    except ConfigError:  # it never came so far; a torn note is named among the notes
        return set()
    folders = ["prompts", *(name for names in places.folders.values() for name in names)]
    return {run / folder / shard for folder in folders for shard in places.shards}


def _versions(checked: Checked) -> Iterator[tuple[Path, str | None]]:
    """The rows of each version that has any, and that the shards which its manifest names are the ones that are there."""
    for path in sorted((checked.run / "versions").glob("[0-9]*.json")):
        with suppress(Damaged):  # named among the notes
            manifest = read_json(path)
            folder = folder_of(checked.run, manifest["number"])
            if not folder.is_dir():
                continue
            spoils = dict(spoiled(checked, manifest))
            for name in manifest.get("files", {}):
                yield folder / name, spoils.get(folder / name)
            for shard in manifest["shards"]:
                receipt = read_receipt(checked.run / shard["path"])
                if receipt and receipt.sha256 != shard["sha256"]:
                    yield path, f"names {shard['path']} with another hash"
