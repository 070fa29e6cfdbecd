"""Every attempt to escape, against the confined worker that parses; and each layer, barred for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelers import confine, sandbox
from labelers.discovery import LabelerSpec
from labelers.sandbox import Limits
from labelers.testing import ScriptedEngine
from labelers.types import Abstain, Score
from tests.labelers.attempts import ATTEMPTS, ORPHAN, Attempt, Listener, source_for
from tests.labelers.confined import FILE, candidates

ROOT = Path(__file__).parents[2]
EXECUTES = LabelerSpec(f"{FILE}:Executes")
QUICK = Limits(timeout_s=1.0)


@pytest.fixture(scope="module")
def worker() -> Iterator[sandbox.Worker]:
    with sandbox.opened(EXECUTES, ScriptedEngine(), QUICK) as opened:
        yield opened


def orphans() -> list[str]:
    names = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.append(comm.read_text().strip())
        except OSError:
            continue
    return [name for name in names if name == ORPHAN]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_an_attempt_to_escape_from_the_parsing_worker_fails(
    worker: sandbox.Worker, listener: Listener, outside: Path, attempt: Attempt
) -> None:
    before = outside.stat().st_mtime_ns
    source = source_for(attempt, outside, listener.port, os.getpid())
    first, label, last = worker.score(candidates("proof = 1", source, "proof = 1"))
    assert (first, last) == (Score(1.0, "1"), Score(1.0, "1"))
    assert isinstance(label, Abstain) or label.value == 0.0, label.reason
    assert not [name for name in attempt.leaves if (outside / name).exists()]
    assert sorted(path.name for path in outside.iterdir()) == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"
    assert outside.stat().st_mtime_ns == before
    assert not listener.heard()
    assert orphans() == []
    assert not Path("/tmp/escaped-file").exists()
    assert not Path("/dev/shm/escaped-file").exists()


UNCONFINED = """
import json, sys
escaped = []
for name, source in json.load(sys.stdin):
    space = {}
    try:
        exec(source, space)
    except Exception as error:
        space = {}
    escaped += [name] if space.get("proof") else []
print(json.dumps(escaped))
"""


def test_the_attempts_do_escape_where_nothing_confines_them(outside: Path, listener: Listener) -> None:
    """Otherwise the test above would prove nothing."""
    harmless = ("read a", "list a", "see that", "create a", "connect by TCP", "start a", "memfd", "import what", "fork")
    chosen = [a for a in ATTEMPTS if a.name.startswith(harmless) and a.name not in ("fork an orphan", "fork bomb")]
    done = subprocess.run(
        [sys.executable, "-c", UNCONFINED], cwd=outside, capture_output=True, text=True, check=True, timeout=60,
        input=json.dumps([(a.name, source_for(a, outside, listener.port)) for a in chosen]),
    )  # fmt: skip
    for made in ("/tmp/escaped-file", "/dev/shm/escaped-file"):
        Path(made).unlink(missing_ok=True)
    escaped = {
        *json.loads(done.stdout),
        *(a.name for a in chosen if any((outside / name).exists() for name in a.leaves)),
    }
    assert listener.heard()
    assert len(escaped) >= 12, escaped


SAY = "import os, sys, json\ndef say(body): os.write(3, len(body).to_bytes(4, 'big') + body)\n"
NONCE = "f = sys._getframe()\nwhile 'nonce' not in f.f_locals: f = f.f_back\nnonce = f.f_locals['nonce']\n"
FORGERIES = {
    "an answer at once": """say(b'["answers", "", "s", [1.0], ["forged"]]')""",
    "an answer of another kind": "say(b'[]')",
    "no JSON": "say(b'\\xff' * 4)",
    "deep JSON": "say(b'[' * 4000)",
    "a frame without end": "os.write(3, b'\\xff' * 4)\nwhile True: os.write(3, b'x' * 65536)",
    "half a frame": "import time\nos.write(3, b'\\0\\0\\1\\0half')\ntime.sleep(60)",
    "a huge integer": """say(b'["answers", "", "s", [' + b'9' * 6000 + b'], [""]]')""",
    "a pickle": "import pickle\nsay(pickle.dumps(os.getpid))",
    "an error of ours": """say(b'["error", "", "LabelerError", "stop", "", ""]')""",
    "a tool that it has not": """say(b'["run_program", "", {"argv": ["sh"]}]')""",
    "the right number for all": NONCE
    + "say(json.dumps(['answers', nonce, 'sss', [7.0] * 3, ['forged'] * 3]).encode())\nproof = 2",
    "the right number, then death": NONCE
    + "say(json.dumps(['answers', nonce, 'sss', [7.0] * 3, ['forged'] * 3]).encode())\nos._exit(0)",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_reply_on_the_pipe_costs_the_forger_only(worker: sandbox.Worker, name: str) -> None:
    labels = worker.score(candidates("proof = 1", SAY + FORGERIES[name], "proof = 1"))
    assert (labels[0], labels[2]) == (Score(1.0, "1"), Score(1.0, "1"))
    assert isinstance(labels[1], Abstain)
    assert worker.score(candidates("proof = 1")) == [Score(1.0, "1")]


def test_a_worker_that_died_between_two_questions_costs_nothing(worker: sandbox.Worker) -> None:
    worker.score(candidates("proof = 1"))
    os.kill(worker._nursery.worker, signal.SIGKILL)
    assert worker.score(candidates("proof = 1", "proof = 0")) == [Score(1.0, "1"), Score(0.0, "0")]


def test_each_layer_can_be_had_here() -> None:
    assert confine.probe() == dict.fromkeys(confine.LAYERS, "")


UNDER_BARS = """
import json, sys
from labelers import sandbox
from labelers.confine import bar
from labelers.discovery import LabelerSpec
from labelers.testing import ScriptedEngine
from tests.labelers.confined import FILE, candidates
bar(sys.argv[1].split(","))
limits = sandbox.Limits(accept_weaker=frozenset(sys.argv[2].split(",")))
try:
    with sandbox.opened(LabelerSpec(f"{FILE}:Executes"), ScriptedEngine(), limits) as worker:
        (label,) = worker.score(candidates(sys.argv[3]))
        print(json.dumps({"lost": sorted(worker.lost), "escaped": getattr(label, "value", 0) > 0}))
except sandbox.IsolationLacks as error:
    print(json.dumps({"refused": str(error)}))
"""


def under_bars(layers: str, accept: str = "none", source: str = "proof = open('/etc/passwd').read()") -> dict:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_BARS, layers, accept, source],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    said: dict = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("layers", ["landlock", "namespaces", "landlock,namespaces"])
def test_without_a_backup_layer_parsing_runs_confined_and_the_loss_is_said(layers: str) -> None:
    assert under_bars(layers) == {"lost": layers.split(","), "escaped": False}


SCORE_UNDER_BARS = """
import sys
from labelers.confine import bar
from labelers.cli import main
bar(sys.argv[1].split(","))
sys.exit(main(["score", *sys.argv[2:]]))
"""


def score_under(bars: str, *arguments: str, row: dict) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCORE_UNDER_BARS, bars, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, input=json.dumps(row) + "\n"
    )


@pytest.mark.parametrize("bars", ["bubblewrap", "bubblewrap,landlock"])
def test_without_bubblewrap_no_completion_is_run_and_the_remedy_is_said(bars: str) -> None:
    row = {"prompt": "?", "completion": "def f(): return 1", "target": ["assert f() == 1"]}
    done = score_under(bars, "tests", "--sandbox", row=row)
    assert (done.returncode, done.stdout) == (3, "")
    assert "completions are run only in bubblewrap, and it cannot be had here" in done.stderr
    assert "hint: apt-get install bubblewrap" in done.stderr


def test_without_seccomp_the_command_line_refuses_too_and_goes_on_when_told() -> None:
    row = {"prompt": "?", "completion": "[1]"}
    refused = score_under("seccomp", "parses", row=row)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "needs the isolation layer seccomp" in refused.stderr
    accepted = score_under("seccomp", "parses", "--accept-weaker", "seccomp", row=row)
    assert (accepted.returncode, json.loads(accepted.stdout)["value"]) == (0, 1.0)
    assert "warning: without the isolation layer seccomp" in accepted.stderr


def test_without_seccomp_nothing_runs_and_the_remedy_is_said() -> None:
    refused = under_bars("seccomp")["refused"]
    assert "needs the isolation layer seccomp" in refused
    assert "hint: Linux with CONFIG_SECCOMP_FILTER" in refused


def test_without_seccomp_and_accepted_by_name_it_runs_with_what_is_left() -> None:
    assert under_bars("seccomp", "seccomp") == {"lost": ["seccomp"], "escaped": False}  # Landlock still stands


def test_another_layers_acceptance_does_not_help() -> None:
    assert "refused" in under_bars("seccomp", "landlock")


def test_what_is_barred_is_what_the_probe_calls_lost() -> None:
    bars = "confine.bar(['landlock', 'namespaces', 'seccomp'])"
    program = f"import json; from labelers import confine; {bars}; print(json.dumps(confine.probe()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lost = {layer for layer, why in json.loads(done.stdout).items() if why}
    assert lost == {"landlock", "namespaces", "seccomp"}
