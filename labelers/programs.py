"""Runs programs on text that nobody trusts: from one resident sandbox, each in an empty folder of its own.

Two kinds. Compilers (`Needs(programs=...)`) read the text; completions (`Needs(sandbox=True)`) are the text. Both run in
bubblewrap, without network, capabilities or any file that they do not need; completions also under Landlock and without
the right to start processes. Where bubblewrap cannot be had, compilers run under Landlock alone and completions do not run.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from labelers.errors import IsolationLacks, LabelerError
from labelers.launcher import MOST
from labelers.program_sandbox import START_S, NoStart, Sandbox, Wall
from labelers.program_view import install_hint, located
from labelers.protocol import Program, Ran
from labelers.types import Needs

GRACE_S = 10.0
"""How long after a program's deadline the launcher may stay silent; it needs less than 10 ms on an idle machine."""
_REMEDY = (
    "apt-get install bubblewrap; in Docker, docker run --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined; on Ubuntu 24.04, sysctl kernel.apparmor_restrict_unprivileged_userns=0"
)


@contextmanager
def opened_launcher(needs: Needs) -> Iterator[Launcher]:
    """Runs the programs that a labeler needs, until the block ends.

    Raises:
        LabelerError: a program is not installed, or the isolation that it needs cannot be had here.
    """
    for name in needs.programs:
        located(name)
    launcher = Launcher(tuple(needs.programs), completions=needs.sandbox, wall=wall(needs.sandbox))
    try:
        yield launcher
    finally:
        launcher.close()


def missing(needs: Needs) -> str | None:
    """What this machine lacks for a labeler's programs, as a sentence with the remedy; None when nothing is lacking."""
    if not needs.programs and not needs.sandbox:
        return None
    for name in needs.programs:
        try:
            located(name)
        except LabelerError as error:
            return str(error)
    try:
        wall(needs.sandbox)
    except LabelerError as error:
        return str(error)
    return None


@functools.cache
def wall(completions: bool) -> Wall:
    """What can be had here, found by really starting it.

    Raises:
        LabelerError: not enough for what it is for.
    """
    lacking = _tried("bubblewrap", completions)
    if lacking is None:
        return "bubblewrap"
    if completions:
        raise IsolationLacks(
            f"completions are run only in bubblewrap, and it cannot be had here: {lacking}", hint=_REMEDY
        )
    also = _tried("landlock", completions)
    if also is None:
        return "landlock"
    what = f"compilers are run only in bubblewrap ({lacking}) or under Landlock ({also}), and neither can be had here"
    raise IsolationLacks(what, hint=_REMEDY)


def lost() -> str | None:
    """What compilers do without on this machine, as a sentence; None when they run in bubblewrap. Raises: LabelerError."""
    if wall(False) == "bubblewrap":
        return None
    return "compilers run under Landlock and a seccomp filter, without namespaces and a folder of limited size: no bubblewrap"


def _tried(kind: Wall, completions: bool) -> str | None:
    """Why a sandbox of this kind does not start; None when it starts and runs a program."""
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        return f"bwrap is not installed ({install_hint('bwrap')})"
    launcher = Launcher(("python3",), completions=completions, wall=kind)
    try:
        ran = launcher.run(Program(("python3", "-I", "-S", "-c", "print(6 * 7)"), timeout_s=START_S))
    except LabelerError as error:
        return error.what
    finally:
        launcher.close()
    if ran.stdout == b"42\n":
        return None
    return f"a program in it ended as {ran.ended} {ran.exit_code}: {_one_line(ran.stderr)}"


@dataclass
class Launcher:
    """One resident sandbox and the process in it that starts programs. It is restarted when it does not answer.

    Args:
        programs: names that `run` accepts as the first word.
        completions: the programs are the untrusted text themselves, not compilers of it.
        wall: what confines them.
    """

    programs: tuple[str, ...]
    completions: bool
    wall: Wall
    _alive: Sandbox | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, program: Program) -> Ran:
        """How the program ended. When it returns, no process and no file of it are left.

        Raises:
            LabelerError: its first word is not among `programs`, a file's name leaves the folder, or no sandbox starts.
        """
        request = self._request(program)
        with self._lock:
            return self._asked(request, program.timeout_s)

    def close(self) -> None:
        """Ends the sandbox and everything in it."""
        with self._lock:
            self._drop()

    def _asked(self, request: bytes, timeout_s: float) -> Ran:
        sandbox = self._ready()
        try:
            reply = sandbox.ask(request, MOST * timeout_s + GRACE_S)
        except TimeoutError:
            self._drop()
            return Ran("timeout")
        if reply is None:  # memory ran out for all, or the machine is going down
            self._drop()
            return Ran("killed")
        if not reply["clean"]:
            self._drop()
        out, err = (base64.b64decode(reply[name]) for name in ("stdout", "stderr"))
        return Ran(reply["ended"], reply["exit_code"], out, err, reply["seconds"])

    def _ready(self) -> Sandbox:
        if self._alive is None or not self._alive.lives():
            self._drop()
            try:
                files = [located(name) for name in self.programs]
                self._alive = Sandbox(files, completions=self.completions, wall=self.wall)
            except NoStart as error:
                raise IsolationLacks(str(error), hint=_REMEDY) from error
        return self._alive

    def _drop(self) -> None:
        if self._alive is not None:
            self._alive.close()
            self._alive = None

    def _request(self, program: Program) -> bytes:
        if not program.argv or program.argv[0] not in self.programs:
            raise LabelerError(
                f"{program.argv[:1]} is not among the programs {self.programs}", hint="add it to needs.programs"
            )
        for name in program.files:
            parts = PurePosixPath(name).parts
            if not parts or ".." in parts or name.startswith("/") or "\0" in name:
                raise LabelerError(f"a program's file is named {name!r}", hint="a relative name inside its folder")
        request = {
            "argv": [str(located(program.argv[0])), *program.argv[1:]],
            "files": {name: base64.b64encode(content).decode() for name, content in program.files.items()},
            "stdin": base64.b64encode(program.stdin).decode(),
            "timeout_s": program.timeout_s,
            "memory_mb": program.memory_mb,
            "max_output": program.max_output,
        }
        return json.dumps(request).encode() + b"\n"


def _one_line(text: bytes) -> str:
    """The last line of what a program wrote, without control characters."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return re.sub(r"[^ -~]", "?", lines[-1])[:200] if lines else "no message"
