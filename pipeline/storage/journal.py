"""A file that several processes add lines to: on a disk one file, in a store, where nothing can be added to, an object each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pipeline.storage.stores import is_store


class Journal:
    """One process's view of the lines at `path`: what it adds, and what anybody has added since it looked last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[Path, int] = {}
        self._own = path.with_suffix("") / f"{secrets.token_hex(8)}{path.suffix}"
        self._added = b""
        self._began = False

    def add(self, line: bytes) -> None:
        """Adds a line, without its end, so that lines of several processes never mix."""
        if is_store(self._own):
            self._added += line + b"\n"
            self._own.write(self._added)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            torn = not self._began and _is_torn(descriptor)
            os.write(descriptor, b"\n" * torn + line + b"\n")
        finally:
            os.close(descriptor)
        self._began = True

    def news(self) -> bytes:
        """The whole lines that were added since this was asked last; at first, all."""
        return b"".join(self._new(part) for part in parts(self._path))

    def _new(self, part: Path) -> bytes:
        begin = self._read.get(part, 0)
        if is_store(part):
            found = part.read_bytes()[begin:]
        else:
            with part.open("rb") as file:
                file.seek(begin)
                found = file.read()
        whole = found[: found.rfind(b"\n") + 1]  # what is half written, by a process that lives or one that was killed
        self._read[part] = begin + len(whole)
        return whole


def _is_torn(descriptor: int) -> bool:
    """Whether a process that was killed left the last line half-written."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def parts(path: Path) -> Iterator[Path]:
    """The files or objects that hold a journal's lines; none before the first."""
    if is_store(path):
        yield from path.with_suffix("").glob(f"*{path.suffix}")
    elif path.is_file():
        yield path
