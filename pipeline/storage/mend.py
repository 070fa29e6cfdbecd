"""What a build does before and after its work about files of the run that a crash or a bad disk left torn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import Damaged
from pipeline.observing.logs import say
from pipeline.publishing.history import HISTORY
from pipeline.publishing.versions import folder_of, manifests, rewrite
from pipeline.storage.damage import Checked, quarantine
from pipeline.storage.folders import followed, pointed
from pipeline.storage.garbage import sweep
from pipeline.storage.shards import COPIES, read_json, write_json

POINTER = "dataset"


def mend(checked: Checked) -> None:
    """Puts right what must be right before a build: half-written files go, torn notes are moved aside or taken from their
    copies, and a pointer that names no version is moved aside (publishing sets it). The caller holds the run's folder.
    """
    run = checked.run
    _sweep(run)
    for path, copy in kept_twice(run):
        _restore(run, path, copy)
    for path in sorted(run.glob("*.json")):
        if why := torn(path):
            quarantine(run, path, why)
    if why := astray(run):
        quarantine(run, run / POINTER, why)


def mend_rows(checked: Checked) -> None:
    """Makes damaged rows of kept versions again, once their pair shards are whole. The caller holds the run's folder."""
    run = checked.run
    for manifest in manifests(run):
        faults = list(spoiled(checked, manifest))
        for path, why in faults:
            checked.put_aside(path, why)
        folder = folder_of(run, manifest["number"])
        if faults and not rewrite(run, manifest, [path.relative_to(folder).as_posix() for path, _ in faults]):
            say(
                f"warning: version {manifest['number']} lacks {len(faults)} files, and its pair shards are not there any more; "
                f"hint: python -m pipeline rollback {run} goes to another version"
            )


def note_rows(checked: Checked, number: int) -> None:
    """Takes note of the rows of a version that was just made."""
    for manifest in manifests(checked.run):
        if manifest["number"] == number:
            for name, sha256 in manifest["files"].items():
                checked.made(folder_of(checked.run, number) / name, sha256)


def spoiled(checked: Checked, manifest: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """The files of a version that are not what was published, each with what is wrong. None where its rows were removed."""
    folder = folder_of(checked.run, manifest["number"])
    if folder.is_dir():
        for name, sha256 in manifest.get("files", {}).items():
            if why := checked.fault(folder / name, sha256):
                yield folder / name, why


def kept_twice(run: Path) -> list[tuple[Path, Path]]:
    """The files that cannot be made again, each with its copy, whether they are there or not."""
    names = {path.name for root in (run, run / COPIES) for path in (root / "versions").glob("[0-9]*.json")}
    found = [HISTORY, *(f"versions/{name}" for name in sorted(names))]
    return [(run / name, run / COPIES / name) for name in found]


def torn(path: Path) -> str | None:
    """What is wrong with a JSON file; None where nothing is, or it is not there."""
    try:
        read_json(path)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        return damage.what
    return None


def astray(run: Path) -> str | None:
    """What is wrong with the pointer to the current version; None where nothing is, or there is none."""
    pointer = run / POINTER
    named = pointed(pointer)
    if named is None:
        return "is no link" if pointer.exists() else None
    if named.parent.name != "versions" or not followed(pointer).is_dir():
        return f"points at {named.name}, which is no version"
    return None


def _sweep(run: Path) -> None:
    """Removes what a killed process left half-written, but for notes that others than the run's holder write."""
    sweep(run)
    others = (".schedule", ".audit")
    parts = [left for left in run.glob(".*part") if not left.name.startswith(others)]
    for left in [*(run / "prompts").glob(".*.part"), *parts]:
        left.unlink()


def _restore(run: Path, path: Path, copy: Path) -> None:
    """Makes a file and its copy equal: the file counts, and where it is torn or gone its copy does."""
    for each in (path, copy):
        if why := torn(each):
            quarantine(run, each, why)
    if not path.exists() and copy.exists():
        say(f"warning: {path.relative_to(run)} is taken from its copy")
        write_json(path, read_json(copy))
    elif path.exists() and not copy.exists():
        write_json(copy, read_json(path))
