"""One running sandbox with the launcher in it: how it is started, asked and ended. labelers/programs.py decides which."""

from __future__ import annotations

import base64
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from labelers.control_groups import Group
from labelers.launcher import descendants
from labelers.program_filter import BASE, NO_PROCESSES, NO_REACH, Forbidden, NoTable, assembled
from labelers.program_view import SYSTEM, folders

Wall = Literal["bubblewrap", "landlock"]

SCRATCH = "/scratch"
FOLDER_BYTES = 64 << 20
"""What a program can write at most, all files together (bubblewrap), or into one file (Landlock)."""
START_S = 20.0
_LAUNCHER = Path(__file__).with_name("launcher.py")
_NOBODY = "65534"
_LOOK_INTO_PROC = {"rustc", "javac", "node", "go"}
"""They find themselves or their memory there. For C it would be files to include."""
_READY = b'{"ready": true}\n'


class NoStart(Exception):
    """The sandbox did not start; the text says what its first process said."""


class Sandbox:
    """A launcher that waits for programs.

    Args:
        programs: the files that it may be asked to start.
        completions: they are untrusted text themselves: no new processes, no /proc, Landlock inside of bubblewrap.

    Raises:
        NoStart: it does not come up.
    """

    def __init__(self, programs: Sequence[Path], *, completions: bool, wall: Wall) -> None:
        self._group = Group()
        self._folder = tempfile.mkdtemp(prefix="programs-") if wall == "landlock" else None
        self._pending = b""
        try:
            filters = [] if self._folder else [assembled(BASE)]
            command = _command(programs, completions, self._folder)
            self._process = self._started(command, filters)
        except (NoTable, OSError) as error:
            self._tidy()
            raise NoStart(f"{wall} did not start: {error}") from error
        try:
            ready = self._line(b"", time.monotonic() + START_S) == _READY
        except TimeoutError:
            ready = False
        if not ready:
            said = self._said()
            self.close()
            raise NoStart(f"{wall} did not start: {said}")

    def _started(self, command: list[str], filters: list[bytes]) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as rules:
            rules.write(b"".join(filters))
            rules.seek(0)
            process = _spawner(os.getpid()).submit(
                subprocess.Popen,
                self._group.entering([part.replace("{rules}", str(rules.fileno())) for part in command]),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(rules.fileno(),), env={}, cwd="/", start_new_session=True,
            ).result()  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: bytes, timeout_s: float) -> dict[str, Any] | None:
        """The launcher's answer, or None when it ended without one.

        Raises:
            TimeoutError: it stays silent; it must be closed then.
        """
        line = self._line(request, time.monotonic() + timeout_s)
        if not line.endswith(b"\n"):
            return None
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _line(self, request: bytes, deadline: float) -> bytes:
        """Writes the request while reading one line: neither side can block the other."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        into, out, rest = self._process.stdin.fileno(), self._process.stdout.fileno(), memoryview(request)
        poll = select.poll()
        poll.register(out, select.POLLIN)
        if rest:
            poll.register(into, select.POLLOUT)
        while (left := deadline - time.monotonic()) > 0:
            for fd, events in poll.poll(left * 1000 + 1):
                if fd == into:
                    rest = rest[_put(into, rest) :]
                    if not rest or events & (select.POLLERR | select.POLLHUP):
                        poll.unregister(into)
                    continue
                piece = os.read(out, 1 << 20)
                self._pending += piece
                line, newline, after = self._pending.partition(b"\n")
                if newline or not piece:
                    self._pending = after
                    return line + newline
        raise TimeoutError("the launcher does not answer")

    def _said(self) -> str:
        """The last line that bubblewrap or the launcher wrote when it failed."""
        self._process.kill()
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")[:300]

    def close(self) -> None:
        """Ends the launcher and all that it started, and waits until they are gone."""
        if self._folder and self.lives():  # no namespace ends with its first process here
            _end_all(self._process.pid)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            if stream is self._process.stdout:
                _wait_for_end(stream.fileno())
            stream.close()
        self._tidy()

    def _tidy(self) -> None:
        self._group.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def _spawner(process: int) -> ThreadPoolExecutor:
    """One thread for all sandboxes of a process: the kernel ends a sandbox with the thread that started it, not earlier."""
    return ThreadPoolExecutor(1, f"sandboxes-{process}")


def _put(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data[: 1 << 16])
    except (BrokenPipeError, BlockingIOError):  # what became of it is read from its other pipe
        return 0


def _end_all(pid: int) -> None:
    """Stops a process and kills its descendants until the kernel lists none; a second at most."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 1
    while (left := descendants(pid)) and time.monotonic() < deadline:
        for each in left:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)
        if all(_is_dead(each) for each in descendants(pid)):
            return


def _is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _wait_for_end(fd: int) -> None:
    """Reads until the last process inside has gone; its end of the pipe goes with it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + 5
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000) and not os.read(fd, 1 << 16):
            return


def _command(programs: Sequence[Path], completions: bool, folder: str | None) -> list[str]:
    """The command that starts the launcher; `{rules}` stands for the descriptor of the filter."""
    shown = folders([Path(sys.executable).resolve(), *programs])
    rules: tuple[Forbidden, ...] = () if folder is None else (*BASE, *NO_REACH)
    rules += NO_PROCESSES if completions else ()
    scratch = folder or SCRATCH
    home = f"{scratch}/program"
    settings = {
        "scratch": scratch,
        "filter": base64.b64encode(assembled(rules)).decode(),
        "landlock": {"read": shown, "write": [scratch, "/dev/null"]} if folder or completions else None,
        "file_bytes": FOLDER_BYTES,
        "processes": None if folder else 64 if completions else 256,  # outside, it would count the user's other processes
        "environment": {
            "PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
        },
    }  # fmt: skip
    python = [str(Path(sys.executable).resolve()), "-I", "-S"]
    if folder is not None:
        return [*python, str(_LAUNCHER), json.dumps(settings)]
    needs_proc = any(program.name in _LOOK_INTO_PROC for program in programs)
    return [*_bubblewrap(shown, needs_proc), *python, "/launcher.py", json.dumps(settings)]


def _bubblewrap(shown: Sequence[str], needs_proc: bool) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap",
        *("--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY, "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--as-pid-1", "--clearenv", "--seccomp", "{rules}"),
    ]
    for path in shown:
        is_link = path in SYSTEM and os.path.islink(path)
        command += ["--symlink", os.readlink(path), path] if is_link else ["--ro-bind", path, path]
    command += ["--dev-bind", "/dev/null", "/dev/null", "--ro-bind", str(_LAUNCHER), "/launcher.py"]
    if needs_proc:
        command += ["--proc", "/proc", "--remount-ro", "/proc"]
    return [*command, "--size", str(FOLDER_BYTES), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", "/", "--"]
