"""What a store can refuse: a full disk, a lost permission. It is exit 3, it says where and how much room there is."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError, EnvironmentLacks

STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not become so large here (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EIO: "the disk fails",
}
"""What a store can refuse, in words. Nothing of it is the run's fault, and the run goes on once it is mended."""


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turns what a store refuses into EnvironmentLacks, which says what, where and how much room there is."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise EnvironmentLacks(refused(folder, error)) from error


def make_folder(folder: Path) -> None:
    """Makes a folder that the user named, with those above it, where it is not there yet.

    Raises:
        ConfigError: it cannot be one: there is a file in its way, say.
        EnvironmentLacks: the disk refuses.
    """
    try:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"{folder}: cannot be a folder ({error.filename}: {error.strerror}); hint: --root names where runs may lie"
        ) from None


def refused(folder: Path, error: OSError) -> str:
    """What a store refused, how much room there is, and what to do."""
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    try:
        usage = shutil.disk_usage(there)
        room = f"{usage.free:,} of {usage.total:,} bytes are free"
    except OSError:  # it may be gone altogether
        room = "nothing is known of its room"
    return (
        f"{folder}: {STORAGE.get(error.errno or 0, error.strerror)} ({room}); what is finished is kept; "
        "hint: make room or mend it, and the same command goes on from there; or take another folder with --root"
    )
