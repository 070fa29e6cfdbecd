"""Programs on untrusted text: every attempt to escape against each back end, and each layer barred for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelers import confine, programs
from labelers.errors import LabelerError
from labelers.launcher import WINDOW_S, Patience, descendants
from labelers.program_filter import BASE, NoTable, assembled
from labelers.programs import Launcher
from labelers.protocol import Program, Ran
from labelers.types import Needs
from tests.labelers.attempts import ATTEMPTS, Attempt, Listener, source_for
from tests.labelers.running import COMPILES, RUNS, alive, crowded, left_lying, left_running, opened, require
from tests.labelers.test_confine import orphans

ROOT = Path(__file__).parents[2]
BACK_ENDS = {
    "completions": (RUNS, "bubblewrap"),
    "compilers": (COMPILES, "bubblewrap"),
    "landlock": (COMPILES, "landlock"),
}
PRINT = "\nimport os\nif proof: os.write(1, b'escaped')\n"
SEEN_BY_LANDLOCK = {"see that a file is there"}
"""What Landlock does not bar; labelers/programs.py says so where it must do without bubblewrap."""


@pytest.fixture(scope="module", params=BACK_ENDS)
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    needs, wall = BACK_ENDS[request.param]
    with opened(needs, wall) as found:
        yield found


@pytest.fixture(scope="module")
def completions() -> Iterator[Launcher]:
    with opened(RUNS) as found:
        yield found


def python(launcher: Launcher, source: str, **how: object) -> Ran:
    """One program in Python."""
    return launcher.run(Program(("python3", "-I", "-S", "code.py"), {"code.py": source.encode()}, **how))  # type: ignore[arg-type]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_an_attempt_to_escape_from_a_program_fails(
    launcher: Launcher, listener: Listener, outside: Path, attempt: Attempt
) -> None:
    before = outside.stat().st_mtime_ns
    ran = python(launcher, source_for(attempt, outside, listener.port, os.getpid()) + PRINT, timeout_s=0.7)
    if attempt.where == "everywhere" and not (launcher.wall == "landlock" and attempt.name in SEEN_BY_LANDLOCK):
        assert b"escaped" not in ran.stdout
    assert sorted(path.name for path in outside.iterdir()) == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"
    assert outside.stat().st_mtime_ns == before
    assert not listener.heard()
    assert orphans() == []
    assert left_running(launcher) == []
    assert left_lying(launcher) == []
    assert not Path("/tmp/escaped-file").exists()
    assert not Path("/dev/shm/escaped-file").exists()


def test_a_program_answers_with_its_output_and_exit_code(launcher: Launcher) -> None:
    ran = python(launcher, "import sys\nprint(input())\nsys.stderr.write('e')\nsys.exit(7)", stdin=b"hi\n")
    assert (ran.ended, ran.exit_code, ran.stdout, ran.stderr) == ("exited", 7, b"hi\n", b"e")


def test_ten_megabytes_in_and_out(launcher: Launcher) -> None:
    ran = python(
        launcher, "import sys\nsys.stdout.write(sys.stdin.read())", stdin=b"x" * 10_000_000, max_output=1 << 24
    )
    assert len(ran.stdout) == 10_000_000


def test_a_program_is_ended_at_its_time_and_its_output_is_kept(launcher: Launcher) -> None:
    started = time.monotonic()
    ran = python(launcher, "print('so far', flush=True)\nwhile True: pass", timeout_s=1.0)
    assert (ran.ended, ran.stdout) == ("timeout", b"so far\n")
    assert time.monotonic() - started < 20


def test_runaway_output_is_cut(launcher: Launcher) -> None:
    ran = python(launcher, "while True: print('x' * 10000)", timeout_s=5)
    assert ran.ended == "output"
    assert len(ran.stdout) == 1 << 16


def test_a_program_that_dies_of_a_signal_is_killed(launcher: Launcher) -> None:
    assert python(launcher, "import ctypes\nctypes.string_at(0)").ended == "killed"


def test_memory_is_bounded(launcher: Launcher) -> None:
    assert b"MemoryError" in python(launcher, "bytearray(1 << 31)", memory_mb=256).stderr


@pytest.mark.parametrize("who", ["itself", "its child"])
def test_on_a_busy_machine_a_program_gets_its_seconds_on_a_processor(launcher: Launcher, who: str) -> None:
    source = "import os, time\nwhile time.process_time() < 0.5: pass\nos.write(1, b'done\\n')"
    if who == "its child":
        if launcher.completions:
            pytest.skip("a completion starts no process")
        source = source.replace("\n", "\nif os.fork(): os._exit(os.wait()[1])\n", 1)
    assert python(launcher, "print(1)").stdout == b"1\n"
    assert launcher._alive is not None
    resident = set(descendants(launcher._alive._process.pid))
    with crowded(lambda: set(descendants(launcher._alive._process.pid)) - resident):  # type: ignore[union-attr]
        ran = python(launcher, source, timeout_s=1.0)
    assert (ran.ended, ran.stdout) == ("exited", b"done\n")
    assert ran.seconds > 1.0


@pytest.mark.parametrize("held", [True, False])
def test_what_waits_for_the_machine_is_not_taken_for_asleep(held: bool) -> None:
    # As one that waits for a disk, a process whose child is vfork's is in no sleep that can be interrupted, and works nothing.
    clone = "ctypes.CDLL(None).syscall({'aarch64': 220}.get(platform.machine(), 56), 0x4000 | 17, 0, 0, 0, 0)"
    source = f"import ctypes, platform, time\nprint(flush=True)\nif not {clone if held else 0}: time.sleep(1.5)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        time.sleep(0.3)
        patience, began = Patience(process.pid, 0.2), time.monotonic()
        while left := patience.more():
            time.sleep(left)
        assert (time.monotonic() - began > 3 * WINDOW_S) is held


def test_nothing_that_lies_deep_or_is_locked_stays(launcher: Launcher) -> None:
    source = (
        "import os\nfor _ in range(600):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkfifo('f')\n"
        "os.chdir(os.environ['HOME'])\nos.mkdir('locked')\nopen('locked/x', 'w').close()\n"
        "try: os.chmod('locked', 0)\nexcept OSError: pass\n"
    )
    python(launcher, source)
    assert left_lying(launcher) == []


def test_a_full_disk_is_full_for_one_program_only(completions: Launcher) -> None:
    source = "for i in range(99):\n    with open(str(i), 'wb') as f: f.write(b'x' * (1 << 22))\n"
    assert b"No space left" in python(completions, source, timeout_s=5).stderr
    assert python(completions, "open('x', 'wb').write(b'x' * (1 << 25))").exit_code == 0


def test_a_fork_bomb_ends_with_its_program(launcher: Launcher) -> None:
    source = "import os\nwhile True:\n    try: os.fork()\n    except OSError: continue\n"
    started = time.monotonic()
    python(launcher, source, timeout_s=0.4)
    assert time.monotonic() - started < 60
    assert left_running(launcher) == []


def test_a_completion_starts_no_process_but_threads(completions: Launcher) -> None:
    source = (
        "import threading, os\nt = threading.Thread(target=print, args=('thread',))\nt.start()\nt.join()\n"
        "try: os.fork()\nexcept PermissionError: print('no fork')"
    )
    assert python(completions, source).stdout == b"thread\nno fork\n"


def test_a_completion_sees_no_secret_of_the_machine(completions: Launcher) -> None:
    source = (
        "import os\nprint(sorted(os.environ))\nfor p in ('/etc', '/root', '/home', '/proc', '/work', '/sys', '/tmp'):\n"
    )
    source += "    try: print(p, os.listdir(p))\n    except OSError: continue\n"
    said = python(completions, source).stdout.decode()
    assert (
        said.split("\n")[0] == "['HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PYTHONHASHSEED', 'TMPDIR']"
        or "LC_CTYPE" not in said
    )
    assert "/etc" not in said.replace("/etc/", "")
    assert "/proc" not in said
    assert "/work" not in said


def test_a_sandbox_that_was_killed_is_started_again(launcher: Launcher) -> None:
    python(launcher, "pass")
    assert launcher._alive is not None
    launcher._alive._process.kill()
    launcher._alive._process.wait()
    assert python(launcher, "print(1)").stdout == b"1\n"


def test_a_launcher_that_does_not_answer_costs_one_program(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GRACE_S", 0.2)
    python(launcher, "pass")
    assert launcher._alive is not None
    stopped = [launcher._alive._process.pid, *descendants(launcher._alive._process.pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    ran = python(launcher, "print(1)", timeout_s=0.2)
    assert (ran.ended, ran.seconds) == ("timeout", 0)
    assert not any(alive(pid) for pid in stopped)
    assert python(launcher, "print(1)").stdout == b"1\n"


def test_two_threads_may_ask_one_launcher(launcher: Launcher) -> None:
    said: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: said.append(python(launcher, f"print({n})").stdout)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [f"{n}\n".encode() for n in range(8)]


PARENT = """
import sys
from labelers.programs import Launcher
from labelers.protocol import Program
source = "import os, time\\ntry:\\n    if os.fork() == 0: os.setsid()\\nexcept OSError: pass\\ntime.sleep(60)"
launcher = Launcher(("python3",), completions=sys.argv[1] == "completions", wall=sys.argv[2])
launcher.run(Program(("python3", "-c", "pass")))
sandbox = launcher._alive
print(sandbox._process.pid, sandbox._folder, flush=True)
launcher.run(Program(("python3", "-I", "-S", "-c", source), timeout_s=60))
"""


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_when_the_parent_is_killed_no_process_and_no_file_stays(back_end: str) -> None:
    needs, wall = BACK_ENDS[back_end]
    require(needs, wall)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, back_end, wall], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    time.sleep(0.3)
    below = [int(pid), *descendants(int(pid))]
    assert len(below) > 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 120
    while any(alive(each) for each in below) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(each) for each in below)
    assert not Path(folder).exists()


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b", "", "a\0b"])
def test_a_files_name_stays_in_the_folder(launcher: Launcher, name: str) -> None:
    with pytest.raises(LabelerError, match="relative name"):
        launcher.run(Program(("python3", "-c", "1"), {name: b""}))


def test_only_what_the_needs_name_is_started(launcher: Launcher) -> None:
    with pytest.raises(LabelerError, match=r"needs\.programs"):
        launcher.run(Program(("sh", "-c", "true")))


def test_a_missing_program_is_said_with_its_remedy() -> None:
    assert "no-such-compiler is not installed; hint: " in str(programs.missing(Needs(programs=("no-such-compiler",))))
    with (
        pytest.raises(LabelerError, match="not installed"),
        programs.opened_launcher(Needs(programs=("no-such-compiler",))),
    ):
        pytest.fail("it was opened")


def test_an_unknown_machine_has_no_table() -> None:
    assert len(assembled(BASE, "x86_64")) % 8 == 0
    assert assembled(BASE, "aarch64") != assembled(BASE, "x86_64")
    with pytest.raises(NoTable, match="riscv64"):
        assembled(BASE, "riscv64")


UNDER_BARS = """
import json, os, sys
from labelers import confine
bars = [each for each in sys.argv[1].split(",") if each]
if "bubblewrap" in bars:
    os.environ["PATH"] = sys.argv[2]
if "namespaces" in bars:  # bubblewrap makes them by clone, which carries other calls too
    from labelers.program_filter import BASE, assembled
    assert not confine._prctl(38, 1)
    assert not confine._install(assembled([each for each in BASE if each.call in ("unshare", "clone", "clone3")]))
confine.bar([each for each in bars if each not in ("bubblewrap", "namespaces")])
from labelers import programs
from labelers.types import Needs
compilers, runs = Needs(programs=("python3",)), Needs(sandbox=True, programs=("python3",))
said = {"tests": programs.missing(runs), "compilers": programs.missing(compilers), "wall": None, "lost": None, "ran": None}
if said["compilers"] is None:
    from labelers.protocol import Program
    said["wall"], said["lost"] = programs.wall(False), programs.lost()
    with programs.opened_launcher(compilers) as launcher:
        said["ran"] = launcher.run(Program(("python3", "-I", "-S", "-c", "print(6 * 7)"), timeout_s=20)).stdout.decode()
print(json.dumps(said))
"""


def under_bars(bars: str, empty: Path) -> dict[str, str | None]:
    """What can be had where these layers are barred, in a process that really lacks them."""
    command = [sys.executable, "-c", UNDER_BARS, bars, str(empty)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, str | None] = json.loads(done.stdout)
    return said


needs_both = pytest.mark.skipif(
    shutil.which("bwrap") is None or confine.landlock_abi() < 1,
    reason="needs bubblewrap and Landlock to bar one of them",
)


@needs_both
def test_with_nothing_barred_both_run(tmp_path: Path) -> None:
    if problem := programs.missing(RUNS):
        pytest.skip(problem)
    said = under_bars("", tmp_path)
    assert said == {"tests": None, "compilers": None, "wall": "bubblewrap", "lost": None, "ran": "42\n"}


@needs_both
@pytest.mark.parametrize("bar", ["bubblewrap", "namespaces"])
def test_without_bubblewrap_or_namespaces_tests_refuse_and_compilers_say_what_is_lost(bar: str, tmp_path: Path) -> None:
    said = under_bars(bar, tmp_path)
    assert "completions are run only in bubblewrap" in str(said["tests"])
    assert "hint: apt-get install bubblewrap" in str(said["tests"])
    assert (said["compilers"], said["wall"], said["ran"]) == (None, "landlock", "42\n")
    assert "without namespaces" in str(said["lost"])


@needs_both
def test_without_landlock_tests_refuse_and_compilers_run_in_bubblewrap(tmp_path: Path) -> None:
    said = under_bars("landlock", tmp_path)
    assert "cannot be had here" in str(said["tests"])
    assert (said["compilers"], said["wall"], said["ran"]) == (None, "bubblewrap", "42\n")


@needs_both
@pytest.mark.parametrize(
    "bars", ["seccomp", "bubblewrap,landlock", "namespaces,landlock", "namespaces,landlock,seccomp"]
)
def test_without_seccomp_or_both_walls_nothing_runs(bars: str, tmp_path: Path) -> None:
    said = under_bars(bars, tmp_path)
    assert "cannot be had here" in str(said["tests"])
    assert "neither can be had here" in str(said["compilers"])
    assert said["ran"] is None
