"""A labeler in its confined process: the same labels, only bounded in what else it can do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labelers import sandbox
from labelers.discovery import LabelerSpec
from labelers.errors import BrokenPlugin, IsolationLacks, LabelerError, OptionError, UnknownLabeler, WrongAnswers
from labelers.sandbox import Limits
from labelers.testing import ScriptedEngine
from labelers.types import Abstain, Comparison, Prompt, Score
from tests.labelers.confined import FILE, candidates
from tests.labelers.running import crowded

ROOT = Path(__file__).parents[2]


@contextmanager
def opened(use: str, *, limits: Limits | None = None, tools: Any = None, **options: Any) -> Iterator[sandbox.Worker]:
    use = f"{FILE}:{use}" if use[0].isupper() else use
    with sandbox.opened(LabelerSpec(use, options), tools or ScriptedEngine(), limits) as worker:
        yield worker


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 120
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_a_worker_gives_the_same_labels_as_the_labeler_itself():
    texts = ["1,234.5 km", "no idea", "", "\ud800 7", "x" * 300_000 + " 9", "\0", "1e999999", "-3 %"] * 40
    batch = candidates(*texts, prompt=Prompt.of("?", target=7, family="\udfff"))
    with opened("regression", error="relative") as worker:
        assert worker.score(batch) == list(LabelerSpec("regression", {"error": "relative"}).build().score(batch, None))


def test_a_pairwise_labeler_compares():
    prompt = Prompt.of("?")
    short, long = (c.completion for c in candidates("a", "bb", prompt=prompt))
    with opened("Longer") as worker:
        assert (worker.pairwise, worker.symmetric) == (True, True)
        verdicts = worker.compare([Comparison(prompt, short, long), Comparison(prompt, long, short)])
    assert [v.prefers for v in verdicts] == ["b", "a"]


def test_an_empty_batch_gets_an_empty_answer():
    with opened("parses") as worker:
        assert worker.score([]) == []


@pytest.mark.parametrize(
    ("use", "options", "kind", "said"),
    [
        ("parsez", {}, UnknownLabeler, "did you mean 'parses'"),
        ("parses", {"allow_nans": True}, OptionError, "did you mean 'allow_nan'"),
        (f"{ROOT}/tests/labelers/confined.py:Nothing", {}, UnknownLabeler, "there is no class"),
        ("judge", {"max_chars": 0}, OptionError, "hint: at least 1"),
    ],
)
def test_what_cannot_be_built_is_the_same_error_as_without_a_process(use, options, kind, said):
    with pytest.raises(kind, match=said) as here:
        LabelerSpec(use, options).build()
    with pytest.raises(kind) as there, sandbox.opened(LabelerSpec(use, options), ScriptedEngine()):
        pass
    assert str(there.value) == str(here.value)


def test_a_plugin_that_ends_the_process_while_it_is_built_is_a_broken_plugin(tmp_path):
    (tmp_path / "p.py").write_text("import os\nos._exit(0)\n")
    spec = LabelerSpec(f"{tmp_path}/p.py:P")
    with pytest.raises(BrokenPlugin, match="its process died"), sandbox.opened(spec, ScriptedEngine()):
        pass


def test_a_labeler_that_dies_on_its_own_examples_still_labels_other_texts():
    with opened("DiesOnItsExamples") as worker:
        labels = worker.score(candidates("a", "hi there", "bbb"))
    assert [label.value for label in labels if isinstance(label, Score)] == [1.0, 3.0]


def test_a_slow_labeler_is_not_taken_for_a_stuck_one():
    with opened("Slow", seconds=0.1) as worker:
        labels = worker.score(candidates(*("x" * n for n in range(12))))
    assert [label.value for label in labels] == list(range(12))


def test_the_deadline_is_an_option_and_the_label_says_it():
    with opened("Misbehaves", limits=Limits(timeout_s=0.3)) as worker:
        assert worker.score(candidates("sleep")) == [Abstain("timeout", "no answer within 0.3 s")]


def test_on_a_busy_machine_a_labeler_gets_its_seconds_on_a_processor():
    with opened("Works", limits=Limits(timeout_s=1.0)) as worker:
        assert worker.score(candidates("hi")) == [Score(2.0)]
        with crowded(lambda: [worker._nursery.worker]):
            began = time.monotonic()
            assert worker.score(candidates("work")) == [Score(4.0)]
            assert time.monotonic() - began > 1.0


def test_an_answer_that_lies_ready_is_in_time_however_late_it_is_read(monkeypatch):
    with opened("Works", limits=Limits(timeout_s=0.1)) as worker:
        assert worker.score(candidates("hi")) == [Score(2.0)]
        receive = worker._nursery.channel.receive
        # Who asks waits for a processor, too.
        monkeypatch.setattr(worker._nursery.channel, "receive", lambda *given: (time.sleep(0.3), receive(*given))[1])
        assert worker.score(candidates("hello")) == [Score(5.0)]


def test_a_hang_costs_two_seconds_and_no_neighbour():
    with opened("Misbehaves") as worker:
        began = time.monotonic()
        labels = worker.score(candidates(*["fine"] * 20, "hang", *["fine"] * 20))
        seconds = time.monotonic() - began
    assert [type(label).__name__ for label in labels] == ["Score"] * 20 + ["Abstain"] + ["Score"] * 20
    assert seconds < 20  # 2.5 s on an idle machine; each of the 41 alone would be 82


def test_the_tools_are_served_by_this_process_and_a_whole_batch_is_one_call():
    asked = []

    class Engine(ScriptedEngine):
        def generate(self, chats, schema=""):
            asked.append((len(chats), schema, chats[0][0].content))
            time.sleep(0.5)  # longer than the deadline: the clock stands still
            return ["ok"] * len(chats)

    with opened("Asks", tools=Engine(), limits=Limits(timeout_s=0.4)) as worker:
        labels = worker.score(candidates(*["x"] * 200))
    assert labels == [Score(2.0)] * 200
    assert asked == [(200, '{"type": "object"}', "Say hi")]


def test_what_a_tool_raises_comes_out_unchanged_and_the_worker_goes_on():
    class Spent(Exception):
        pass

    error = Spent("no budget")

    class Engine(ScriptedEngine):
        def generate(self, chats, schema=""):
            if len(chats) == 1:
                raise error
            return [None] * len(chats)

    with opened("Asks", tools=Engine()) as worker:
        with pytest.raises(Spent) as seen:
            worker.score(candidates("x"))
        assert seen.value is error
        assert worker.score(candidates("x", "y")) == [Abstain("unavailable", "no reply")] * 2


def test_tools_are_lent_only_where_the_needs_say_so():
    with opened("AsksUnasked") as worker:
        (label,) = worker.score(candidates("x"))
    assert isinstance(label, Abstain)
    assert "needs = Needs(engine=True)" in label.reason


def test_a_labeler_that_uses_its_scratch_folder_has_that_folder_and_no_other(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with opened("Keeps", tools=ScriptedEngine(scratch=scratch)) as worker:
        inside, outside = worker.score(candidates("four", f"{tmp_path}/outside"))
    assert inside == Score(4.0)
    assert isinstance(outside, Abstain)
    assert "PermissionError" in outside.reason
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("need", ["network"])
def test_a_need_that_was_not_granted_is_refused(need):
    with pytest.raises(IsolationLacks, match=f"{need} = true"), opened("Connects"):
        pass


def test_a_granted_labeler_opens_connections():
    with opened("Connects", limits=Limits(allow=frozenset({"network"}))) as worker:
        assert worker.score(candidates("x")) == [Score(1.0)]
        assert set(worker.layers) == {"namespaces", "rlimits", "no_new_privs"}


def test_a_labeler_that_never_gives_labels_is_broken_and_named_with_file_and_line(tmp_path):
    source = (ROOT / "examples/labeler/short.py").read_text()
    (tmp_path / "p.py").write_text(source.replace("Score(float(len(c.completion.text) <= self.limit))", "None"))
    with (
        opened(f"{tmp_path}/p.py:Short") as worker,
        pytest.raises(WrongAnswers, match=r"short \(p.py:\d+\): gave None"),
    ):
        worker.score(candidates("x", "y"))


def test_nursery_and_worker_end_with_the_context():
    with opened("parses") as worker:
        pids = (worker._nursery._process.pid, worker._nursery.worker)
        assert all(map(alive, pids))
    assert gone(*pids)


ASKER = """
import os, sys, time
from labelers import sandbox
from labelers.discovery import LabelerSpec
from labelers.testing import ScriptedEngine
from tests.labelers.confined import FILE, candidates
with sandbox.opened(LabelerSpec(f"{FILE}:Misbehaves"), ScriptedEngine(), sandbox.Limits(timeout_s=60)) as worker:
    worker.score(candidates("ok"))
    print(worker._nursery._process.pid, worker._nursery.worker, flush=True)
    worker.score(candidates(sys.argv[1]))
    time.sleep(60)
"""


@pytest.mark.parametrize("doing", ["idle", "hang"])
def test_nursery_and_worker_die_with_the_process_that_asked(doing):
    asker = subprocess.Popen([sys.executable, "-c", ASKER, doing], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    pids = [int(word) for word in asker.stdout.readline().split()]
    time.sleep(0.2)
    assert all(map(alive, pids))
    asker.kill()
    asker.wait()
    asker.stdout.close()
    assert gone(*pids)


def test_a_worker_that_leaks_is_replaced_before_its_memory_ends(tmp_path):
    source = (ROOT / "examples/labeler/short.py").read_text()
    leaking = "Score(float(len([KEPT.append(bytearray(40_000_000)), KEPT][1])))"
    source = source.replace("Score(float(len(c.completion.text) <= self.limit))", leaking)
    (tmp_path / "p.py").write_text(source.replace("\n@dataclass", "\nKEPT = []\n\n\n@dataclass"))
    with opened(f"{tmp_path}/p.py:Short") as worker:
        labels = [label for _ in range(60) for label in worker.score(candidates("x"))]
    assert all(isinstance(label, Score) for label in labels)
    assert max(label.value for label in labels) < 40


def test_no_secret_of_the_environment_reaches_a_labeler(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with opened("Executes") as worker:
        (label,) = worker.score(candidates("import os\nproof = 'OPENAI_API_KEY' in os.environ"))
    assert label.value == 0.0


def test_a_layer_that_is_missing_is_refused_or_accepted_by_name(monkeypatch):
    from labelers.spawn import Nursery

    fork = Nursery.fork
    monkeypatch.setattr(Nursery, "fork", lambda self: {**fork(self), "seccomp": "prctl: Operation not permitted"})
    with pytest.raises(IsolationLacks, match=r"the isolation layer seccomp.*hint.*accept_weaker"), opened("parses"):
        pass
    with opened("parses", limits=Limits(accept_weaker=frozenset({"seccomp"}))) as worker:
        assert worker.lost == {"seccomp": "prctl: Operation not permitted"}
        assert worker.score(candidates("1"))[0].value == 1.0


def test_an_error_of_the_labeler_itself_stops_the_work(tmp_path):
    source = (ROOT / "examples/labeler/short.py").read_text()
    source = source.replace(
        "return [", "from labelers.errors import OptionError\n        raise OptionError('no', hint='h') #"
    )
    (tmp_path / "p.py").write_text(source)
    with opened(f"{tmp_path}/p.py:Short") as worker, pytest.raises(LabelerError, match="no; hint: h"):
        worker.score(candidates("x"))


def test_opening_a_labeler_takes_a_moment():
    began = time.monotonic()
    with opened("regression"):
        seconds = time.monotonic() - began
    assert seconds < 2  # 0.1 s on an idle machine; the tests share theirs


def test_the_nursery_loads_nothing_heavy():
    program = "import sys\nproof = sorted({'pyarrow', 'pydantic', 'numpy', 'torch', 'pipeline'} & set(sys.modules))"
    with opened("Executes") as worker:
        assert worker.score(candidates(program))[0].reason == "[]"


def end_nursery(worker: sandbox.Worker) -> None:
    worker._nursery._process.kill()
    worker._nursery._process.wait()


def test_a_nursery_that_is_ended_from_outside_is_started_again():
    with opened("Misbehaves") as worker:
        end_nursery(worker)
        assert [type(label).__name__ for label in worker.score(candidates("fine"))] == ["Score"]
        end_nursery(worker)
        labels = worker.score(candidates("fine", "segfault", "fine"))
    assert [type(label).__name__ for label in labels] == ["Score", "Abstain", "Score"]


def test_items_that_a_nursery_takes_with_it_are_asked_again():
    batch = candidates(*("x" * n for n in range(8)))
    with opened("Slow", seconds=0.05) as worker:
        killer = threading.Timer(0.2, end_nursery, [worker])
        killer.start()
        labels = worker.score(batch)
        killer.join()
    assert [label.value for label in labels] == list(range(8))


def test_a_nursery_that_is_ended_again_and_again_is_said(monkeypatch):
    monkeypatch.setattr(
        sandbox.Worker,
        "_ask",
        lambda worker, part: end_nursery(worker) or worker._nursery.channel.receive(1, time.monotonic() + 5),
    )
    with (
        opened("Misbehaves") as worker,
        pytest.raises(LabelerError, match=r"ended from outside 3 times.*hint: .*memory"),
    ):
        worker.score(candidates("fine"))


def test_a_labeler_that_changed_on_disk_is_not_mixed_with_what_it_was(tmp_path):
    source = (ROOT / "examples/labeler/short.py").read_text()
    (tmp_path / "p.py").write_text(source)
    with opened(f"{tmp_path}/p.py:Short") as worker:
        (tmp_path / "p.py").write_text(source.replace('"1"', '"2"'))
        end_nursery(worker)
        with pytest.raises(LabelerError, match="has changed while it was at work"):
            worker.score(candidates("x"))


def test_an_engine_labelers_bad_item_is_found_by_halves_so_that_few_calls_are_made():
    asked = []

    class Engine(ScriptedEngine):
        def generate(self, chats, schema=""):
            asked.append(len(chats))
            return ["ok" if chat[0].content != "bad" else 7 for chat in chats]

    batch = [*candidates(*["x"] * 32), *candidates("x", prompt=Prompt.of("bad")), *candidates(*["x"] * 31)]
    with opened("Asks", tools=Engine()) as worker:
        labels = worker.score(batch)
    assert [i for i, label in enumerate(labels) if isinstance(label, Abstain)] == [32]
    assert len(asked) <= 2 * 6 + 1
