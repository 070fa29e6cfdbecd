"""The HTTP engine against a real server on loopback that misbehaves in the ways servers do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from labelers.types import Message
from pipeline.engines import Request, Sampling
from pipeline.engines.http import Http
from pipeline.errors import ConfigError, EngineFailed

Answer = tuple[int, bytes]


class Server(ThreadingHTTPServer):
    """Answers /v1/models, and chat completions by `self.answer(body, how often it was asked before)`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, tries: completion(body)
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._reply(200, json.dumps({"object": "list", "data": [{"id": "served", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tries = self.server.bodies.count(body)
        self.server.bodies.append(body)
        self._reply(*self.server.answer(body, tries))

    def _reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def completion(body: dict[str, Any], **more: Any) -> Answer:
    choices = [
        {
            "index": i,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"answer {i} to {body['messages'][-1]['content']}"},
            "logprobs": {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}] * 2},
            **more,
        }
        for i in range(body.get("n", 1))
    ]
    return 200, json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
    ).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.05,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def ask(server: Server, n_requests: int = 1, **sampling: Any):
    engine = Http(server.url, "served", max_retries=2, timeout_s=5).open()
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
def test_a_request_that_fails_for_good_harms_no_other(server, status, content):
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
