"""Answers that were given before a kill are not asked for again, and only whole ones count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pytest

from labelers.types import Message
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, Sampling, Usage
from pipeline.engines.kept import Keeping
from pipeline.spending.budget import Budget, Meter, ask
from pipeline.spending.ledger import ledger_of


@dataclass
class Parrot:
    """Answers each request with its own words, and remembers which it was asked."""

    asked: list[str] = field(default_factory=list)
    info: EngineInfo = EngineInfo("parrot")
    error: str | None = None

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        for request in requests:
            self.asked.append(request.id)
            said = Sampled(f"{request.messages[-1].content}é\n\0", "stop", (3, 1, 2), -1.25e-7, request.seed, 3)
            outputs = () if self.error else (said, said)
            yield Generation(request.id, outputs, (7, 8), self.error, Usage(5, 6))

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None: ...


REQUESTS = [Request(str(i), (Message("user", f"say {i}"),), Sampling(n=2), i) for i in range(4)]


def told(engine: Parrot, path: Path, requests: Sequence[Request] = REQUESTS) -> list[Generation]:
    """The answers to all requests, kept ones and new ones."""
    return list(ask(Keeping(engine, path), requests, None).values())


def plain(answers: Sequence[Generation]) -> dict[str, tuple[object, ...]]:
    """What a shard takes of answers."""
    said = {a.request_id: a for a in answers}
    return {
        key: (list(a.prompt_token_ids or ()), [(o.text, list(o.token_ids or ()), o.logp, o.seed) for o in a.outputs])
        for key, a in sorted(said.items())
    }


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """The file, after a run that was killed when it had two answers of four."""
    path = tmp_path / "completions-x" / ".00001.answers"
    assert len(list(islice(Keeping(Parrot(), path).generate(REQUESTS), 2))) == 2
    return path


def test_only_what_was_not_answered_is_asked_for(answers):
    parrot = Parrot()
    found = told(parrot, answers)
    assert parrot.asked == ["2", "3"]
    assert plain(found) == plain(list(Parrot().generate(REQUESTS)))


def test_a_kept_answer_costs_nothing_again_and_needs_no_room(answers, tmp_path):
    meter = Meter("judge", tmp_path / "ledger.jsonl", Budget(requests=2))
    assert len(ask(Keeping(Parrot(), answers), REQUESTS, meter)) == 4
    assert len(ask(Keeping(Parrot(), answers), REQUESTS, meter)) == 4
    assert ledger_of(tmp_path / "ledger.jsonl").spent().requests == 2


def test_the_same_question_at_another_temperature_is_asked(answers):
    warmer = [replace(request, sampling=Sampling(n=2, temperature=0.5)) for request in REQUESTS]
    parrot = Parrot()
    told(parrot, answers, warmer)
    assert parrot.asked == ["0", "1", "2", "3"]


@pytest.mark.parametrize("torn", [lambda b: b[:-9], lambda b: b.replace(b"say 1", b"say 7"), lambda b: b + b"half of"])
def test_a_torn_or_garbled_line_is_no_answer_and_spoils_no_other(answers, torn):
    whole = answers.read_bytes()
    answers.write_bytes(torn(whole))
    parrot = Parrot()
    found = told(parrot, answers)
    assert plain(found) == plain(list(Parrot().generate(REQUESTS)))
    assert set(parrot.asked) - {"1"} == {"2", "3"}
    parrot = Parrot()
    assert plain(told(parrot, answers)) == plain(found)
    assert parrot.asked == []


def test_another_question_under_the_same_id_is_asked_and_a_known_one_under_another_is_not(answers):
    parrot = Parrot()
    other = [Request("0", (Message("user", "say else"),), Sampling(n=2), 0), replace(REQUESTS[1], id="9")]
    told(parrot, answers, other)
    assert parrot.asked == ["0"]


def test_a_failure_is_not_kept(tmp_path):
    path = tmp_path / ".00001.answers"
    assert all(answer.error for answer in told(Parrot(error="busy"), path))
    parrot = Parrot()
    told(parrot, path)
    assert parrot.asked == ["0", "1", "2", "3"]
