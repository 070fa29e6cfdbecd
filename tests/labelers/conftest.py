"""How these tests ask a labeler: one text, one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labelers.discovery import build
from labelers.types import Abstain, Candidate, Completion, Prompt, Score
from tests.labelers.attempts import Listener

Ask = Callable[..., Score | Abstain]


@pytest.fixture
def ask() -> Ask:
    """ask(labeler's name, text, target=..., prompt=..., **options): the answer."""

    def asked(use: str, text: str, *, target: Any = None, prompt: str = "?", **options: Any) -> Score | Abstain:
        question = Prompt.of(prompt, target=target)
        labeler: Any = build(use, options)
        (answer,) = labeler.score([Candidate(question, Completion.of(question, text))], None)
        assert isinstance(answer, Score | Abstain)
        return answer

    return asked


@pytest.fixture
def value(ask: Ask) -> Callable[..., float | str]:
    """Like `ask`, but only the score's value, or the kind of abstention."""

    def valued(*args: Any, **kwargs: Any) -> float | str:
        answer = ask(*args, **kwargs)
        return answer.value if isinstance(answer, Score) else answer.kind

    return valued


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.tcp.close()
    made.udp.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path
