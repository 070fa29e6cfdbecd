"""Folders that a reader sees whole, and the pointer to the newest: on a disk by renaming and a link, in a store by order.

In a store nothing can be renamed, so a folder there is only to be read once something that was written after it names it: a
manifest, or the pointer, which is one object and is replaced in one step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from pipeline.errors import PipelineError
from pipeline.storage.shards import read_json, storing, sync, write_json
from pipeline.storage.stores import StorePath, is_store


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder on this machine to fill, in the place of whatever lies at `folder`. On leaving it is there whole: on a disk in
    one step, in a store file by file. What an error leaves half-filled never comes there."""
    if is_store(folder):
        with storing(Path(gettempdir())), TemporaryDirectory() as made:
            yield Path(made)
            remove(folder)
            upload(Path(made), folder)
        return
    beside = folder.with_name(f".{folder.name}.part")
    with storing(folder.parent):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            yield beside
            for path in [*beside.rglob("*"), beside]:
                sync(path)
            remove(folder)
            os.rename(beside, folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def on_this_machine(folder: Path) -> Iterator[Path]:
    """The folder itself, or a copy of it while it is needed, where it lies in a store."""
    if not is_store(folder):
        yield folder
        return
    with storing(Path(gettempdir())), TemporaryDirectory() as copy:
        for source in folder.rglob("*"):
            target = Path(copy, source.relative_to(folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        yield Path(copy)


def upload(source: Path, folder: StorePath) -> None:
    """Puts the files of a local folder into a store's.

    Raises:
        PipelineError: a file did not arrive whole.
    """
    for path in files_in(source):
        target = folder / path.relative_to(source)
        target.write(path)
        if target.stat().st_size != path.stat().st_size:
            raise PipelineError(f"{target}: is cut short; hint: the same command again")


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """Removes a folder, where there is one: on a disk it is gone at once for a reader, whatever happens to this process."""
    if is_store(folder):
        for path in folder.rglob("*"):
            path.unlink(missing_ok=True)
        return
    going = folder.with_name(f".{folder.name}.gone.part")
    shutil.rmtree(going, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.rename(folder, going)
        shutil.rmtree(going)


def move(path: Path, target: Path) -> None:
    """Gives a file another name, in the same folder of runs."""
    if is_store(path) and is_store(target):
        target.write(path.read_bytes())
        path.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def point(pointer: Path, folder: Path) -> None:
    """Makes `pointer` name `folder`, in one step: a link, or in a store the object POINTER.json with its path."""
    target = folder.relative_to(pointer.parent)
    if pointed(pointer) == folder:
        return
    if is_store(pointer):
        write_json(pointer.with_suffix(".json"), {"path": str(target)})
        return
    with storing(pointer.parent):
        beside = pointer.with_name(f".{pointer.name}.part")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        os.replace(beside, pointer)


def pointed(pointer: Path) -> Path | None:
    """The folder that `pointer` names; None where there is no pointer."""
    if not is_store(pointer):
        return pointer.parent / pointer.readlink() if pointer.is_symlink() else None
    try:
        return pointer.parent / str(read_json(pointer.with_suffix(".json"))["path"])
    except FileNotFoundError:
        return None


def followed(pointer: Path) -> Path:
    """The folder to read: on a disk the link itself, in a store what the pointer names (or nothing, where there is none)."""
    return (pointed(pointer) or pointer) if is_store(pointer) else pointer
