"""What an engine in a process of its own says before it dies, and its end when the run ends.

Both come in with the logging configuration, the one thing that vLLM lets a user put into its processes before they begin.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import tempfile
from pathlib import Path

from labelers.confine import die_with_parent

TAIL_BYTES = 20_000
"""Of the log's end: a traceback of vLLM's is 5 to 10 thousand."""


class LastWords:
    """A folder with the log of one start, and the logging configuration that an engine's processes read it from."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="engine-")
        self._log = Path(self._folder.name) / "errors.log"
        self.config = Path(self._folder.name) / "logging.json"
        self.config.write_text(json.dumps(_config(self._log)), encoding="utf-8")

    def read(self) -> str:
        """The end of what was said."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:  # nothing was said, or it was read after the end
            return ""

    def forget(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()


def handler(filename: str, run: int) -> logging.Handler:
    """The file that a process of the engine logs to. Called in that process as it begins, it also ties it to its parent: vLLM's
    own would go on after a run that is killed, and hold the device's memory.

    Args:
        run: the process id of the run, which reads the same configuration; neither is for it.
    """
    parent = multiprocessing.parent_process()
    if os.getpid() == run or parent is None or parent.pid is None:
        return logging.NullHandler()
    die_with_parent(parent.pid)
    return logging.FileHandler(filename, delay=True)


def _config(log: Path) -> dict[str, object]:
    """Errors go to the file, and what the user asks for with VLLM_LOGGING_LEVEL to stderr as well."""
    level = os.environ.get("VLLM_LOGGING_LEVEL", "CRITICAL")
    file = {"()": f"{__name__}.handler", "filename": str(log), "run": os.getpid()}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(asctime)s [%(name)s] %(message)s"}},
        "handlers": {
            "file": {**file, "level": "ERROR", "formatter": "plain"},
            "stderr": {"class": "logging.StreamHandler", "level": level, "formatter": "plain"},
        },
        "loggers": {"vllm": {"handlers": ["file", "stderr"], "level": min(level, "ERROR", key=_number), "propagate": False}},
    }  # fmt: skip


def _number(level: str) -> int:
    return int(logging.getLevelNamesMapping().get(level.upper(), logging.ERROR))
