"""Answers that were given before a kill are not asked for again, and only whole ones count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from labelers.types import Message
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, Sampling, Usage
from pipeline.engines.kept import Keeping


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
    found = list(Keeping(parrot, answers).generate(REQUESTS))
    assert parrot.asked == ["2", "3"]
    assert plain(found) == plain(list(Parrot().generate(REQUESTS)))


def test_a_kept_answer_costs_nothing_again(answers):
    first, *_ = Keeping(Parrot(), answers).generate(REQUESTS)
    assert first.usage == Usage(0, 0)


@pytest.mark.parametrize("torn", [lambda b: b[:-9], lambda b: b.replace(b"say 1", b"say 7"), lambda b: b + b"half of"])
def test_a_torn_or_garbled_line_is_no_answer_and_spoils_no_other(answers, torn):
    whole = answers.read_bytes()
    answers.write_bytes(torn(whole))
    parrot = Parrot()
    found = list(Keeping(parrot, answers).generate(REQUESTS))
    assert plain(found) == plain(list(Parrot().generate(REQUESTS)))
    assert set(parrot.asked) - {"1"} == {"2", "3"}
    parrot = Parrot()
    assert plain(list(Keeping(parrot, answers).generate(REQUESTS))) == plain(found)
    assert parrot.asked == []


def test_another_question_under_the_same_id_is_asked(answers):
    parrot = Parrot()
    other = [Request("0", (Message("user", "say else"),), Sampling(n=2), 0), REQUESTS[1]]
    list(Keeping(parrot, answers).generate(other))
    assert parrot.asked == ["0"]


def test_a_failure_is_not_kept(tmp_path):
    path = tmp_path / ".00001.answers"
    assert all(answer.error for answer in Keeping(Parrot(error="busy"), path).generate(REQUESTS))
    parrot = Parrot()
    list(Keeping(parrot, path).generate(REQUESTS))
    assert parrot.asked == ["0", "1", "2", "3"]
