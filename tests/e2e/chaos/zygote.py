"""A process that has imported the pipeline already and forks a run whenever it is asked to: a life without start-up time.

    python -m tests.e2e.chaos.zygote [MODULE ...]

Asked, a line each: `{"arguments": [...], "log": PATH, "requests": PATH}`. It answers with the run's process id, and with its
wait status when it has ended. A run is what `python -m pipeline ARGUMENTS` is, in a session of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.chaos.noted import note_requests

ROOT = Path(__file__).resolve().parents[3]
QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What pipeline.engines.vllm.prepare_environment would set before vLLM is imported, which happens before it can here."""


@dataclass
class Life:
    """One run, from its start to its end."""

    zygote: Zygote
    pid: int

    def wait(self) -> int:
        """The exit code; below 0 the signal that ended it."""
        return os.waitstatus_to_exitcode(int(self.zygote.read()))


class Zygote:
    """The other end: starts lives, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls, modules: Sequence[str] = ()) -> Iterator[Zygote]:
        """A zygote that is ready; it ends with the context.

        Args:
            modules: what it imports besides.
        """
        command = [sys.executable, "-m", "tests.e2e.chaos.zygote", *modules]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_quiet()
        )
        with process:
            zygote = cls(process)
            assert zygote.read() == "ready"
            yield zygote
            assert process.stdin is not None
            process.stdin.close()

    def start(self, arguments: Sequence[str | Path], log: Path, requests: Path) -> Life:
        """A run of `python -m pipeline ARGUMENTS`.

        Args:
            log: gets what it says.
            requests: gets the id of every request that its engines answer, a line each, across lives.
        """
        asked = {"arguments": [str(word) for word in arguments], "log": str(log), "requests": str(requests)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Life(self, int(self.read()))

    def read(self) -> str:
        """The next line that the zygote says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote died; what it said is above"
        return line.strip()


def _quiet() -> dict[str, str]:
    return {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Imports, and then forks on demand. It starts no thread, so a fork copies no lock that somebody holds."""
    import pipeline.cli.main
    import pipeline.config
    import pipeline.observing.funnel
    import pipeline.run  # noqa: F401  the point is to have imported it

    for module in sys.argv[1:]:
        importlib.import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(asked)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


def _live(asked: dict[str, Any]) -> None:
    from pipeline.cli.main import main as command

    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    sys.argv = ["pipeline", *asked["arguments"]]
    note_requests(asked["requests"])
    code = 0
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whatever happened: this copy must not go on with the zygote's loop


if __name__ == "__main__":
    main()
