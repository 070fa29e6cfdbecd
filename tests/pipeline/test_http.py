"""The HTTP engine against a real server on loopback that misbehaves in the ways servers do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labelers.discovery import build
from labelers.types import Comparison, Completion, Message, Prompt
from pipeline.engines import Request, Sampling, Usage
from pipeline.engines.http import Http
from pipeline.errors import ConfigError, EngineFailed
from pipeline.label import Tools
from tests.serving import (
    WHOLE,
    Answer,
    ChatServer,
    answer_to_another,
    completion,
    drip,
    failing,
    half_an_answer,
    hang_up,
    serving,
    silent,
)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer()) as running:
        yield running


def ask(server: ChatServer, n_requests: int = 1, timeout_s: float = 5, **sampling: Any):
    engine = Http(server.url, "served", max_retries=2, timeout_s=timeout_s).open()
    requests = [
        Request(f"id-{i}", (Message("user", f"question {i}"),), Sampling(**{"n": 2, **sampling}), 100)
        for i in range(n_requests)
    ]
    try:
        return {g.request_id: g for g in engine.generate(requests)}, engine.progress()
    finally:
        engine.close()


def test_each_request_gets_its_own_completions(server):
    found, progress = ask(server, 20)
    assert [o.text for o in found["id-7"].outputs] == ["answer 0 to question 7", "answer 1 to question 7"]
    assert [o.seed for o in found["id-7"].outputs] == [100, 101]
    assert [o.logp for o in found["id-7"].outputs] == [-1.0, -1.0]
    assert (progress.requests, len(found)) == (20, 20)


def test_the_sampling_is_passed_on(server):
    ask(server, temperature=0.3, top_p=0.9, max_tokens=7, stop=("END",))
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"], body["seed"]) == (
        0.3,
        0.9,
        7,
        ["END"],
        100,
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server, status):
    server.answer = lambda body, tries: completion(body) if tries else (status, b'{"error": {"message": "later"}}')
    assert ask(server)[0]["id-0"].error is None


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, b'{"error": {"message": "too long"}}'),
        (500, b"down"),
        (200, b"<html>not what you asked</html>"),
        (200, b'{"choices": []}'),
        (200, b'{"choices": null}'),
        (200, b"{}"),
    ],
)
def test_a_request_that_fails_for_good_harms_no_other(server, hasty, status, content):
    def answer(body: dict[str, Any], tries: int) -> Answer:
        return (status, content) if body["messages"][-1]["content"] == "question 1" else completion(body)

    server.answer = answer
    found, _ = ask(server, 3)
    assert found["id-1"].error
    assert found["id-1"].outputs == ()
    assert [found[f"id-{i}"].error for i in (0, 2)] == [None, None]


def test_a_lone_surrogate_in_a_reply_becomes_the_replacement_character(server):
    server.answer = lambda body, tries: completion(body, message={"role": "assistant", "content": "bad \ud800 text"})
    assert ask(server)[0]["id-0"].outputs[0].text == "bad \ufffd text"


def test_a_cut_completion_and_an_empty_one_are_told_apart(server):
    server.answer = lambda body, tries: completion(
        body, finish_reason="length", message={"role": "assistant", "content": None}
    )
    output = ask(server)[0]["id-0"].outputs[0]
    assert (output.text, output.finish_reason) == ("", "length")


def test_a_model_that_is_not_served_is_named_before_anything_is_asked(server):
    with pytest.raises(ConfigError, match=r"does not serve 'other'; hint: it serves served"):
        Http(server.url, "other").open()


def test_a_server_that_is_down_is_named(server):
    url = server.url
    server.server_close()
    with pytest.raises(EngineFailed, match=r"cannot be asked .*hint: is the server up"):
        Http(url, "served").open()


def test_the_key_comes_from_the_environment_and_enters_no_identity(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-canary")
    spec = Http(server.url, "served", api_key_env="MY_KEY")
    spec.open().close()
    assert "secret-canary" not in json.dumps([spec.identity(), repr(spec)])


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="hint: an address like"):
        Http("localhost:8000", "m").check()


GARBAGE: dict[str, Answer] = {
    "a page": (200, b"<html><body>Please log in</body></html>"),
    "nothing": (200, b""),
    "half a JSON": (200, WHOLE[: len(WHOLE) // 2]),
    "a list": (200, b"[]"),
    "null": (200, b"null"),
    "no choices": (200, b'{"choices": []}'),
    "a choice that is none": (200, b'{"choices": [7]}'),
    "a choice without a message": (200, b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
    "a message that is a number": (200, b'{"choices": [{"index": 0, "message": {"content": 5}}]}'),
    "broken UTF-8": (200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "deep nesting": (200, b"[" * 100_000),
    "an answer to another question": answer_to_another,
    "a reset": hang_up,
    "half an answer": half_an_answer,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_asked_for_again_and_then_is_no_reply(server, hasty, what):
    server.answer = lambda body, tries: completion(body) if tries else GARBAGE[what]
    assert ask(server)[0]["id-0"].outputs[0].text == "answer 0 to question 0"
    server.bodies.clear()
    server.answer = lambda body, tries: GARBAGE[what]
    found = ask(server)[0]["id-0"]
    assert found.outputs == ()
    assert found.error
    assert 3 <= len(server.bodies) <= 12  # three times before the server is asked something harmless, and once after


@pytest.mark.parametrize("answer", [drip, silent])
def test_an_answer_that_never_ends_is_given_up_in_time(server, hasty, answer):
    server.answer = lambda body, tries: answer
    started = time.monotonic()
    found = ask(server, timeout_s=0.5)[0]["id-0"]
    assert found.error
    assert time.monotonic() - started < 30


def test_retry_after_is_waited_for(server):
    server.answer = lambda body, tries: completion(body) if tries else failing(429, "1")
    started = time.monotonic()
    assert ask(server)[0]["id-0"].error is None
    assert time.monotonic() - started >= 1


def test_the_servers_own_count_of_tokens_is_kept(server):
    usage = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
    server.answer = lambda body, tries: (200, json.dumps({**json.loads(completion(body)[1]), "usage": usage}).encode())
    found, progress = ask(server)
    assert found["id-0"].usage == Usage(12, 34)
    assert progress.tokens == 34


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 3}, "many", {"prompt_tokens": "9"}]
)
def test_a_count_of_tokens_that_makes_no_sense_is_none(server, usage):
    server.answer = lambda body, tries: (200, json.dumps({**json.loads(completion(body)[1]), "usage": usage}).encode())
    found, _ = ask(server)
    assert found["id-0"].usage is None
    assert found["id-0"].error is None


def test_a_schema_becomes_the_response_format(server):
    engine = Http(server.url, "served").open()
    try:
        request = Request("1", (Message("user", "x"),), Sampling(n=1), 0, schema='{"type": "object"}')
        list(engine.generate([request]))
    finally:
        engine.close()
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_judge_behind_a_misbehaving_server_abstains_where_it_got_no_reply_and_makes_no_pair_of_it(server, hasty):
    """Every second question gets garbage for good; the others are judged as if nothing were."""

    def answer(body: dict[str, Any], tries: int) -> Answer:
        if "poison" in body["messages"][-1]["content"]:
            return list(GARBAGE.values())[tries % len(GARBAGE)]
        return completion(body, message={"role": "assistant", "content": "[[A]]"})

    server.answer = answer
    labeler: Any = build("judge")
    prompt = Prompt.of("?")
    batch = [
        Comparison(prompt, Completion.of(prompt, f"{i} poison" if i % 2 else f"{i}"), Completion.of(prompt, "b"))
        for i in range(10)
    ]
    engine = Http(server.url, "served", max_retries=2, timeout_s=5).open()
    try:
        outcomes = labeler.compare(batch, Tools(Path(), engine))
    finally:
        engine.close()
    assert [type(o).__name__ for o in outcomes] == ["Verdict", "Abstain"] * 5
    assert {o.kind for o in outcomes[1::2]} == {"unavailable"}
