"""A chat-completions server on loopback, for tests: it answers rightly, or in one of the ways in which servers misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Answer = tuple[int, bytes] | Callable[["Handler"], None]
"""A status and a content, or what does something else to the connection."""


class ChatServer(ThreadingHTTPServer):
    """Answers /v1/models, and chat completions by `answer(body, how often it was asked the same before)`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, answer: Callable[[Body, int], Answer] | None = None, model: str = "served", port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer or (lambda body, tries: completion(body))
        self.model = model
        self.models = (model,)
        self.is_up: Callable[[], bool] = lambda: True
        self.bodies: list[Body] = []
        self.ids: list[str] = []
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def engine(self) -> str:
        """This server as a labeler's engine in a config."""
        return f'engine = {{ use = "http", base_url = "{self.url}", model = "{self.model}" }}'

    def heard(self, body: Body, name: str) -> int:
        """Notes a request; says how often the same was asked before."""
        key = json.dumps(body, sort_keys=True)
        with self._lock:
            self.bodies.append(body)
            self.ids.append(name)
            self._tries[key] += 1
            return self._tries[key] - 1


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    body: Body

    def do_GET(self) -> None:
        if not self.server.is_up():
            return hang_up(self)
        served = [{"id": name, "object": "model"} for name in self.server.models]
        self.reply(200, json.dumps({"object": "list", "data": served}).encode())

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tries = self.server.heard(self.body, self.headers["X-Request-Id"])
        answer = self.server.answer(self.body, tries)
        with contextlib.suppress(OSError):  # whoever asked has hung up
            if callable(answer):
                answer(self)
            else:
                self.reply(*answer)

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Retry_After": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """The server, answering until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(body: Body, **more: Any) -> Answer:
    """As many completions as `body` asks for; `more` replaces parts of each."""
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
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
    return 200, json.dumps(whole).encode()


def saying(text: str, prompt_tokens: int = 10, completion_tokens: int = 2) -> Answer:
    """One completion of this text, with what it took."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, json.dumps(whole).encode()


def failing(status: int, retry_after: str | None = "0", message: str = "later", **error: str) -> Answer:
    """An error as servers word it, with or without Retry-After."""
    content = json.dumps({"error": {"message": message, **error}}).encode()

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        if retry_after is not None:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def hang_up(handler: Handler) -> None:
    """Closes the connection with a reset and no answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def half_an_answer(handler: Handler) -> None:
    """Says how long the answer will be and hangs up in the middle."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(WHOLE)))
    handler.end_headers()
    handler.wfile.write(WHOLE[: len(WHOLE) // 2])
    handler.wfile.flush()
    hang_up(handler)


def drip(handler: Handler) -> None:
    """Never ends, and never pauses for long."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(300):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    handler.close_connection = True


def silent(handler: Handler) -> None:
    """Answers nothing for longer than anybody waits."""
    time.sleep(3)
    handler.close_connection = True


def huge(handler: Handler) -> None:
    """Goes on for 65 MiB, more than is read of any answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    part = b"[" + b" " * (1 << 20)
    for _ in range(65):
        handler.wfile.write(part)
    handler.close_connection = True


def answer_to_another(handler: Handler) -> None:
    """What a mixed-up proxy gives: a right answer, with the id of another request, whose answer it is."""
    own = handler.headers["X-Request-Id"]
    digits = re.sub("[0-9a-f]", lambda found: f"{15 - int(found[0], 16):x}", own.split("-")[1])
    _, content = saying("[[A]]")  # type: ignore[misc]
    handler.reply(200, json.dumps({**json.loads(content), "id": f"chatcmpl-pp-{digits}-00000000"}).encode())


_, WHOLE = completion({"messages": [{"content": "x"}]})  # type: ignore[misc]
