"""An engine that dies: what is finished stays, what killed it is found, and what its last words call for is done."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field

import pytest

from labelers.types import Message
from pipeline.engines import Generation, Request, Sampled, Sampling, Usage
from pipeline.engines.deaths import cause_of, groups, mark
from pipeline.engines.pump import Pump, Refused, StartFailed, Ticket, brief
from pipeline.errors import EngineFailed

OUT_OF_MEMORY = {  # as vLLM 0.32 and torch 2.13 write them
    "torch": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB",
    "older torch": "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.90 GiB total)",
    "amd": "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 256.00 MiB.",
    "driver": "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "cublas": "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "sampler": "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
    "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
    "no cache": "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing",
}
HOPELESS = {
    "weights": "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights, "
    "increasing --tensor-parallel-size, or using --quantization. (original error: CUDA out of memory. Tried to allocate 1 GiB)",
    "neighbour": "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    "too long": "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (9.1 GiB).",
}
OTHER = [
    "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "EngineEnded: EngineCore was ended by signal 9",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "MemoryError: ",
]


@pytest.mark.parametrize("said", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_an_engine_out_of_memory_is_started_again_with_fewer_sequences(said):
    assert cause_of(said).remedy == "fewer"


@pytest.mark.parametrize("said", HOPELESS.values(), ids=HOPELESS)
def test_what_fewer_sequences_cannot_help_is_said_with_a_hint(said):
    assert cause_of(said).remedy == "none"
    assert cause_of(said).hint


@pytest.mark.parametrize("said", OTHER)
def test_any_other_death_is_started_again_as_it_was(said):
    assert cause_of(said).remedy == "restart"


def test_the_messages_are_those_of_the_installed_vllm():
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    folder = Path(found.origin).parent / "v1"
    text = "".join(p.read_text(encoding="utf-8") for p in folder.rglob("*.py") if p.stat().st_size < 400_000)
    for said in (
        "No available memory for the cache blocks",
        "CUDA out of memory occurred when warming up sampler with",
        "Failed to load model - not enough GPU memory",
        "is less than desired GPU memory utilization",
        "To serve at least one request with the model's max seq len",
    ):
        assert said in text, f"vLLM no longer says {said!r}: pipeline/engines/deaths.py looks for it"


@dataclass
class Script:
    """An engine of 4 sequences at a time, a token a step: what kills it, and what it was asked over all its lives."""

    kills: frozenset[str] = frozenset()
    memory: int = 99
    dies_at: tuple[int, ...] = ()
    hangs_at: int = -1
    starts_failing: int = 0
    lives: list[Life] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    steps: int = 0

    def start(self, concurrency: int | None) -> Life:
        if self.starts_failing and self.lives:
            self.starts_failing -= 1
            raise StartFailed("RuntimeError: the device is busy", concurrency or 8)
        if concurrency is None and self.memory < 0:
            raise StartFailed("ValueError: No available memory for the cache blocks.", 8)
        self.lives.append(Life(self, concurrency or 8))
        return self.lives[-1]


@dataclass
class Life:
    script: Script
    concurrency: int
    there: dict[str, Ticket] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)
    engine: None = None
    said: str = ""

    def add(self, ticket: Ticket) -> None:
        if ticket.request.id == "refused":
            raise Refused("refused by vLLM: too long")
        self.there[ticket.id] = ticket

    def step(self) -> list[Output]:
        script, running = self.script, list(self.there.values())[: self.concurrency]
        script.steps += 1
        if script.steps == script.hangs_at:
            self.gone.wait(20)
            raise RuntimeError("the process is gone")
        if len(running) > script.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if script.steps in script.dies_at or script.kills & {ticket.request.id for ticket in running}:
            self.said = "ERROR\nRuntimeError: a device-side assert was triggered"
            raise RuntimeError("EngineCore encountered an issue.")
        done = running[:2]
        for ticket in done:
            del self.there[ticket.id]
        return [Output(ticket.id) for ticket in done]

    def answer(self, ticket: Ticket, output: Output) -> Generation:
        self.script.answered.append(ticket.request.id)
        return Generation(ticket.request.id, (Sampled("text", "stop"),), usage=Usage(1, 1))

    def look(self) -> bool:
        return False

    def kill(self) -> bool:
        self.gone.set()
        return True

    def last_words(self) -> str:
        return self.said

    def close(self) -> None:
        self.there.clear()


@dataclass(frozen=True)
class Output:
    request_id: str


def run(script: Script, names: list[str], stall_s: float = 60.0) -> tuple[dict[str, Generation], list[str], Pump]:
    said: list[str] = []
    pump = Pump(script.start, said.append, "model", stall_s)
    outbox: queue.SimpleQueue[Generation] = queue.SimpleQueue()
    requests = [Request(name, (Message("user", name),), Sampling(), 0) for name in names]
    pump.send([Ticket(str(i), request, [1], outbox) for i, request in enumerate(requests)])
    try:
        found = [pump.answer(outbox) for _ in names]
    finally:
        pump.close()
    return {generation.request_id: generation for generation in found}, said, pump


NAMES = [f"r{i}" for i in range(40)]


def test_what_was_finished_before_a_death_is_not_asked_again():
    script = Script(dies_at=(5, 9, 14))
    found, said, pump = run(script, NAMES)
    assert sorted(found) == sorted(NAMES)
    assert sorted(script.answered) == sorted(NAMES)
    assert all(generation.error is None for generation in found.values())
    assert pump.pace().deaths == 3
    assert "the engine died (RuntimeError: a device-side assert was triggered)" in said[0]


def test_a_request_that_kills_the_engine_is_found_and_given_up_and_no_other_is():
    script = Script(kills=frozenset({"r17"}))
    found, _, pump = run(script, NAMES)
    assert [name for name, generation in found.items() if generation.error] == ["r17"]
    assert "the engine died of this request" in (found["r17"].error or "")
    assert "device-side assert" in (found["r17"].error or "")
    assert pump.pace().deaths <= 6
    assert sorted(script.answered) == sorted(set(NAMES) - {"r17"})


def test_one_death_from_outside_while_a_request_is_alone_does_not_give_it_up():
    found, _, _ = run(Script(dies_at=(1,)), ["only"])
    assert found["only"].error is None


def test_an_engine_out_of_memory_halves_its_sequences_until_they_fit_and_says_so():
    script = Script(memory=2)
    found, said, _ = run(script, NAMES)
    assert [life.concurrency for life in script.lives] == [8, 4, 2]
    assert not any(generation.error for generation in found.values())
    assert "out of memory with 8 sequences at a time" in said[0]
    assert "started again with 4 sequences at a time" in said[0]


def test_a_request_that_does_not_fit_even_alone_is_given_up():
    script = Script(memory=0)
    found, _, _ = run(script, ["r0"])
    assert "CUDA out of memory" in (found["r0"].error or "")
    assert script.lives[-1].concurrency == 1


def test_an_engine_that_does_not_start_for_memory_is_started_with_fewer_sequences():
    script = Script(memory=-1)
    pump = Pump(script.start, print, "model", 60)
    pump.close()
    assert [life.concurrency for life in script.lives] == [4]


def test_an_engine_that_never_finishes_a_request_stops_the_run_with_a_hint():
    script = Script(kills=frozenset(NAMES))
    with pytest.raises(EngineFailed, match=r"died 9 times in a row and finished no request.*hint: "):
        run(script, NAMES)


def test_an_engine_that_does_not_start_again_is_tried_thrice_and_then_stops_the_run(monkeypatch):
    monkeypatch.setattr("pipeline.engines.pump.AGAIN_AFTER_S", (0.0, 0.0, 0.0))
    found, _, _ = run(Script(dies_at=(3,), starts_failing=3), NAMES)
    assert sorted(found) == sorted(NAMES)
    with pytest.raises(
        EngineFailed, match=r"does not start: RuntimeError: the device is busy; what is finished is kept"
    ):
        run(Script(dies_at=(3,), starts_failing=4), NAMES)


def test_an_engine_that_makes_no_step_is_ended_and_started_again(monkeypatch):
    monkeypatch.setattr("pipeline.engines.pump.LOOK_EVERY_S", 0.02)
    script = Script(hangs_at=4)
    began = time.monotonic()
    found, said, pump = run(script, NAMES, stall_s=0.2)
    assert time.monotonic() - began < 60
    assert "no step for 0.2 s, its process is ended; hint: raise stall_timeout_s" in said[0]
    assert sorted(found) == sorted(NAMES)
    assert pump.pace().deaths == 1


def test_an_engine_that_hangs_in_the_runs_own_process_stops_the_run(monkeypatch):
    monkeypatch.setattr("pipeline.engines.pump.LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(Life, "kill", lambda life: False)
    with pytest.raises(EngineFailed, match=r"no step for 0\.2 s: it hangs.*hint: raise stall_timeout_s"):
        run(Script(hangs_at=4), NAMES, stall_s=0.2)


def test_a_refused_request_is_an_answer_and_no_death():
    found, _, pump = run(Script(), ["a", "refused", "b"])
    assert found["refused"].error == "refused by vLLM: too long"
    assert pump.pace().deaths == 0


def test_the_time_between_requests_is_a_gap_and_the_time_before_the_first_is_not():
    pump = Pump(Script().start, print, "model", 60)
    outbox: queue.SimpleQueue[Generation] = queue.SimpleQueue()
    for number in range(2):
        time.sleep(0.2)
        pump.send([Ticket(str(number), Request("r", (), Sampling(), 0), [1], outbox)])
        pump.answer(outbox)
    pump.close()
    (gap,) = pump.pace().gaps
    assert 0.15 < gap < 2


@dataclass
class Marked:
    deaths: int = 0
    alone: int = 0


def test_suspects_of_a_second_death_come_in_eight_groups_and_newcomers_in_one():
    old, new = [Marked(deaths=1) for _ in range(20)], [Marked() for _ in range(5)]
    mark([*old, *new])
    found = groups([*old, *new])
    assert found[0] == new
    assert [len(group) for group in found[1:]] == [3, 3, 3, 3, 3, 3, 2]


def test_the_line_that_says_most_is_the_last_exception():
    log = "ERROR [v1] EngineCore encountered a fatal error.\nTraceback (most recent call last):\nValueError: no\n  x = 1\nother"
    assert brief(log) == "ValueError: no"
    assert brief("") == "it said nothing"
