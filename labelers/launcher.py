"""The process inside the sandbox that starts one program after the other. Standard library only, a file of its own.

It is started by labelers/programs.py as `python -I -S launcher.py SETTINGS`, reads one JSON line for each program and
answers with one. In bubblewrap it is process 1 of its namespace: what a program leaves behind becomes its child, no
signal from inside can end it, and one `kill(-1)` ends everything but itself. The programs never see its pipes.
"""

from __future__ import annotations

import base64
import ctypes
import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # on every kind of machine
_EXECUTE, _WRITE, _READ, _READ_FOLDER, _DEVICES = 1, 2, 4, 8, 1 << 6 | 1 << 11 | 1 << 15
_CAPABILITIES = 0x20080522
"""The version of capset's structures."""
_LIVES_S = 5.0
"""How long the killing of what a program left may take before the sandbox is given up and made anew."""
WINDOW_S = 0.25
"""How long a process whose time is up is watched at a time: long enough that one of many gets its turn (own)."""
WORKS = 0.01
"""The share of a window that a process has had a processor for, if it does not sleep: a fifth of what each of twenty gets."""
MOST = 10
"""Times as long as it was given that a process is waited for, at most, on a machine that has no time for it (own)."""


class Patience:
    """How much longer to wait for a process whose time is up: while it works, until it has had that time on a processor.

    A label must not follow from what else the machine does. What sleeps gets one window more, in which an answer may lie ready;
    what waits for a processor or a disk does not sleep, where /proc says so.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self._seconds, self._windows = pid, seconds, 0
        self._began = self._last = _clock_s(pid)

    def more(self) -> float:
        """Seconds to wait on, then to be asked again; 0: its time is up."""
        now = _processor_s(self._pid)
        worked, self._last = abs(now - self._last), now  # less, where a child has ended
        sleeps = self._windows > 0 and worked < WORKS * WINDOW_S and not any(map(_is_held_up, _family(self._pid)))
        spent = not now - self._began < self._seconds  # nan, where it cannot be known, is not less
        if sleeps or spent or self._windows * WINDOW_S >= (MOST - 1) * self._seconds:
            return 0.0
        self._windows += 1
        return WINDOW_S


def _processor_s(root: int) -> float:
    """The processor time of a process and of what it has started; infinite where it has ended or that cannot be known."""
    own, *others = map(_clock_s, _family(root))
    return own + sum(each for each in others if math.isfinite(each))


def _family(root: int) -> Sequence[int]:
    """A process and what it has started."""
    # A sandbox has no /proc to look into; all that came there after the program is of it.
    return (root, *descendants(root)) if os.path.exists("/proc/self") else range(root, root + 64)


def _is_held_up(pid: int) -> bool:
    """Whether a thread of the process can run and does not get to, or waits for a disk; False where that cannot be known."""
    try:
        tasks = f"/proc/{pid}/task"
        return any(_state(f"{tasks}/{thread}/stat") in (b"R", b"D") for thread in os.listdir(tasks))
    except OSError:  # there is no /proc, or it has ended
        return False


def _state(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read().rpartition(b") ")[2][:1]  # a process may be named anything


def _clock_s(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # Linux's number for another process's clock: clock_getcpuclockid(3)
    except OSError:
        return math.inf


def main(settings: Mapping[str, Any]) -> int:
    """Serves programs until the input ends; 1 when the folder could not be emptied and a new sandbox is needed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL if os.getpid() == 1 else signal.SIG_IGN)
    _prctl(_SET_DUMPABLE, 0)
    if os.getpid() != 1:
        _prctl(_SET_SUBREAPER, 1)
        signal.signal(signal.SIGTERM, _leave)
        _prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)  # bubblewrap ends with its parent, and everything in it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    confine = _confinement(settings)
    try:
        return _serve(settings, confine)
    finally:
        if os.getpid() != 1:
            _kill_all()
            shutil.rmtree(settings["scratch"], ignore_errors=True)


def _leave(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the kernel sends one for each thread of the parent that ends
    sys.exit(1)


def _serve(settings: Mapping[str, Any], confine: Callable[[], None]) -> int:
    _say({"ready": True})
    for line in sys.stdin.buffer:
        reply = _run(json.loads(line), settings, confine)
        reply["clean"] = _kill_all() and _emptied(settings["scratch"])
        _say(reply)
        if not reply["clean"]:
            return 1
    return 0


def _say(reply: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


def _run(request: dict[str, Any], settings: Mapping[str, Any], confine: Callable[[], None]) -> dict[str, Any]:
    """One program, from laying out its files to its end by itself or by us."""
    folder = os.path.join(settings["scratch"], "program")
    os.mkdir(folder, 0o700)
    _lay(folder, request["files"])
    stdin = _unlinked(settings["scratch"], base64.b64decode(request["stdin"]))
    out, err = os.pipe(), os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(request, settings, confine, folder, (stdin, out[1], err[1]))
    for fd in (stdin, out[1], err[1]):
        os.close(fd)
    limit = request["max_output"]
    ended, kept = _watch(child, (out[0], err[0]), request["timeout_s"], limit)
    seconds = time.monotonic() - started
    code = _end(child)
    _kill_all()
    if ended == "exited":
        ended = _drain(kept, limit)
    for fd in (out[0], err[0]):
        os.close(fd)
    if ended == "exited" and code < 0:
        ended = "killed"
    texts = [base64.b64encode(bytes(text[:limit])).decode() for text in kept.values()]
    return {
        "ended": ended,
        "exit_code": code if ended == "exited" else None,
        "stdout": texts[0],
        "stderr": texts[1],
        "seconds": seconds,
    }


def _lay(folder: str, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as out:
            out.write(base64.b64decode(content))


def _unlinked(folder: str, content: bytes) -> int:
    """A file without a name, open for reading from its start."""
    path = os.path.join(folder, "stdin")
    with open(path, "xb") as out:
        out.write(content)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.unlink(path)
    return fd


def _become(
    request: dict[str, Any],
    settings: Mapping[str, Any],
    confine: Callable[[], None],
    folder: str,
    streams: tuple[int, int, int],
) -> None:
    """Turns this fork into the program; never returns."""
    try:
        os.setsid()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        os.chdir(folder)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _limit(request, settings)
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        confine()
        os.execve(request["argv"][0], request["argv"], settings["environment"])
    except BaseException as error:
        os.write(2, f"the launcher could not start it: {error}".encode())
    finally:
        os._exit(127)


def _limit(request: dict[str, Any], settings: Mapping[str, Any]) -> None:
    memory, cpu_s = request["memory_mb"] << 20, int(request["timeout_s"] * 4) + 1  # the wall clock comes first
    for kind, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, settings["file_bytes"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, settings["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if amount is None:
            continue
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))


def _watch(child: int, pipes: tuple[int, int], seconds: float, limit: int) -> tuple[str, dict[int, bytearray]]:
    """Reads until the program ends, writes too much or runs out of time."""
    kept = {fd: bytearray() for fd in pipes}
    patience, deadline = Patience(child, seconds), time.monotonic() + seconds
    ending = os.pidfd_open(child)
    poll = select.poll()
    for fd in (*pipes, ending):
        poll.register(fd, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0 or (left := patience.more()):
            deadline = max(deadline, time.monotonic() + left)
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == ending:
                    return "exited", kept
                if not (piece := os.read(fd, 1 << 16)):
                    poll.unregister(fd)
                kept[fd] += piece
                if len(kept[fd]) > limit:
                    return "output", kept
        return "timeout", kept
    finally:
        os.close(ending)


def _drain(kept: dict[int, bytearray], limit: int) -> str:
    """Reads what a program that has ended left in its pipes: nobody else holds them any more."""
    for fd, text in kept.items():
        os.set_blocking(fd, False)
        while len(text) <= limit:
            try:
                piece = os.read(fd, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                break
            text += piece
        if len(text) > limit:
            return "output"
    return "exited"


def _end(child: int) -> int:
    """The exit code, or minus the signal's number; one that has already ended keeps the end it had."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_all() -> bool:
    """Ends every process that a program left, however it hid; False when some will not go."""
    deadline = time.monotonic() + _LIVES_S
    while time.monotonic() < deadline:
        for pid in (-1,) if os.getpid() == 1 else descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return True
        time.sleep(0.0005)
    return False


def descendants(root: int) -> list[int]:
    """The children that the kernel lists for a process, and theirs."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listed:
                children = [int(word) for word in listed.read().split()]
        except OSError:  # it has ended meanwhile
            continue
        found += children
        waiting += children
    return found


def _emptied(scratch: str) -> bool:
    """Whether the folder is as empty as before; what cannot be removed at once costs a new sandbox."""
    try:
        os.chmod(scratch, 0o700)
        for entry in os.scandir(scratch):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except (OSError, RecursionError):
        return False
    return True


def _confinement(settings: Mapping[str, Any]) -> Callable[[], None]:
    """What a fork calls last before it becomes the program: Landlock where asked for, then the filter."""
    program = base64.b64decode(settings["filter"])
    instructions = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(instructions))
    rules = _landlock(settings["landlock"]) if settings["landlock"] else None

    def confine() -> None:
        _prctl(_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities()
        if rules is not None:
            _syscall(_LANDLOCK_RESTRICT, rules, 0)
        _prctl(_SET_SECCOMP, 2, ctypes.addressof(header))
        instructions.raw  # noqa: B018  the header points at it: it must live as long

    return confine


def _drop_capabilities() -> None:
    """Leaves root without its powers (bubblewrap has taken them already); with no_new_privs no program gives them back."""
    nothing = (ctypes.c_uint32 * 6)()
    if _LIBC.capset((ctypes.c_uint32 * 2)(_CAPABILITIES, 0), nothing):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _landlock(allowed: Mapping[str, list[str]]) -> int:
    """A ruleset: read and execute below `read`, everything below `write`, nothing else, no TCP, no signals outwards."""
    version = _syscall(_LANDLOCK_CREATE, None, 0, 1)
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    rules = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _syscall(_LANDLOCK_CREATE, ctypes.byref(rules), size, 0)
    os.set_inheritable(ruleset, False)
    for paths, folder_access, file_access in (
        (allowed["read"], _EXECUTE | _READ | _READ_FOLDER, _EXECUTE | _READ),
        (allowed["write"], files & ~_DEVICES, _READ | _WRITE),
    ):
        for path in paths:
            if os.path.exists(path):
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                beneath = _Beneath(folder_access if os.path.isdir(path) else file_access, fd)
                _syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(beneath), 0)
                os.close(fd)
    return ruleset


def _syscall(*arguments: Any) -> int:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if (result := _LIBC.syscall(*wide)) < 0:
        raise OSError(ctypes.get_errno(), f"system call {arguments[0]}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def _prctl(option: int, *arguments: int) -> None:
    wide = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    if _LIBC.prctl(option, *wide):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
