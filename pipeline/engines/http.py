"""An OpenAI-compatible server as an engine: `vllm serve`, a provider, or any other that speaks chat completions."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, Usage, finish_reason, valid_text
from pipeline.engines.breaker import Breaker
from pipeline.engines.http_failures import LIVES, Failure, failure_of, first_line, request_id, require_own
from pipeline.errors import ConfigError, EngineFailed
from pipeline.observing.logs import say

if TYPE_CHECKING:
    from tenacity import Retrying

MAX_REPLY_BYTES = 1 << 26
"""More than any completion; a server that goes on for ever must not fill the memory."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Before an answer that made no sense is asked for again: the client's own pauses (openai 3), drawn at random up to them."""


@dataclass(frozen=True)
class Http:
    """A server that answers `POST {base_url}/chat/completions`. The server applies the chat template, once.

    Args:
        base_url: for instance http://127.0.0.1:8000/v1
        model: the model's name at the server.
        api_key_env: the environment variable that holds the key; the key itself never enters a config or a shard.
        concurrency: requests in flight at most.
        timeout_s: seconds for one try of a request, however slowly the answer drips.
        max_retries: repeats after 429 (as late as the server's Retry-After says, up to two minutes), 5xx, timeouts, lost
            connections and answers that are no chat completion, with growing pauses of random length.
        patience_s: after 5 requests in a row that met a lost connection, 429, 502, 503 or 504 in all their repeats nothing is
            sent but one request after each pause; a server that answers none for this long is given up, and the run stops.
        token_ids: ask for token ids (`return_token_ids`, a vLLM extension); other servers ignore it or refuse.
    """

    base_url: str
    model: str
    use: Literal["http"] = "http"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout_s: float = 600.0
    max_retries: int = 5
    patience_s: float = 600.0
    token_ids: bool = False

    def check(self) -> None:
        """Raises ConfigError when the address is no http address."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url {self.base_url!r}: hint: an address like http://127.0.0.1:8000/v1")
        if "@" in self.base_url.split("/")[2]:  # it would be stored with the run
            raise ConfigError("base_url: holds a password; hint: name the variable that holds it with api_key_env")

    def identity(self) -> Mapping[str, Any]:
        """The model's name and address: what stands behind them is the server's word."""
        return {"use": self.use, "base_url": self.base_url, "model": self.model, "token_ids": self.token_ids}

    def open(self) -> RunningHttp:
        """Connects, and asks the server for its models so that a wrong address fails at once."""
        self.check()
        return RunningHttp(self)


class RunningHttp:
    """A client with up to `concurrency` requests in flight."""

    def __init__(self, spec: Http) -> None:
        from openai import OpenAI, OpenAIError

        self._spec = spec
        self._errors = OpenAIError
        self._client = OpenAI(
            base_url=spec.base_url,
            api_key=os.environ.get(spec.api_key_env) or "none",
            timeout=spec.timeout_s,
            max_retries=spec.max_retries,
        )
        self._require_model()
        self.info = EngineInfo(spec.model)
        self._threads = ThreadPoolExecutor(spec.concurrency, thread_name_prefix="http")
        self._progress = Progress()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._breaker = Breaker(spec.base_url, spec.patience_s, say, self._is_up)

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Each request's completions as soon as the server has answered it; a refused request is a Generation with its error.

        Raises:
            EngineFailed: the server is given up, or takes no request of this account; or `close` was called.
        """
        futures = [self._threads.submit(self._ask, request) for request in requests]
        for future in as_completed(futures):
            yield future.result()

    def progress(self) -> Progress:
        """Requests and tokens finished so far, and what keeps it from going on."""
        return replace(self._progress, note=self._breaker.state)

    def close(self) -> None:
        """Drops what has not been asked yet and closes the connections."""
        self._stop.set()
        self._breaker.stop()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _is_up(self) -> bool:
        try:
            self._client.with_options(max_retries=0, timeout=10).models.list()
        except Exception:  # whatever it is, the next pause is longer, and what the requests met is said
            return False
        return True

    def _require_model(self) -> None:
        try:
            served = {model.id for model in self._client.with_options(max_retries=1, timeout=30).models.list()}
        except self._errors as error:
            raise EngineFailed(
                f"{self._spec.base_url}: cannot be asked ({first_line(error)}); hint: is the server up, and is the key in "
                f"${self._spec.api_key_env}?"
            ) from error
        if served and self._spec.model not in served:
            raise ConfigError(
                f"{self._spec.base_url}: does not serve {self._spec.model!r}; hint: it serves {', '.join(sorted(served)[:8])}"
            )

    def _ask(self, request: Request) -> Generation:
        """The server's answer; a Generation with the last error where this request gets none."""
        lives = LIVES
        while self._breaker.enter():
            answer = self._tried(request)
            if isinstance(answer, Generation):
                self._breaker.answered()
                self._count(answer)
                return answer
            if answer.fault == "request":
                self._breaker.answered()
                return Generation(request.id, error=answer.why)
            against = self._breaker.failed(request, answer.why, answer.wait_s, busy=answer.fault == "busy")
            lives -= LIVES if against and answer.fault == "unknown" else against  # it had all its time, with every try
            if lives <= 0:
                return Generation(request.id, error=answer.why)
        raise EngineFailed(f"server {self._spec.base_url}: the engine was closed before it answered")

    def _tried(self, request: Request) -> Generation | Failure:
        """The answer, asked for again while what comes is none; or why there is none. The client itself asks again after
        what HTTP calls a failure."""
        try:
            return self._retrying()(self._answer, request)
        except Exception as error:  # a broken connection or any garbage: the libraries below raise a wide family
            return failure_of(error, self._spec.base_url, self._spec.api_key_env)

    def _retrying(self) -> Retrying:
        from tenacity import (
            Retrying,
            retry_if_not_exception_type,
            sleep_using_event,
            stop_after_attempt,
            stop_when_event_set,
            wait_random_exponential,
        )

        return Retrying(
            retry=retry_if_not_exception_type(self._errors),
            stop=stop_after_attempt(1 + self._spec.max_retries) | stop_when_event_set(self._stop),
            wait=wait_random_exponential(FIRST_PAUSE_S, LONGEST_PAUSE_S),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )

    def _answer(self, request: Request) -> Generation:
        """One answer. Raises: the client's errors; ValueError and its like when it is not what was asked for."""
        reply = self._reply(request)
        outputs = tuple(_sampled(choice, request.seed) for choice in reply["choices"])
        if not outputs:
            raise ValueError("it holds no completion")
        usage = _usage(reply.get("usage"))
        return Generation(request.id, outputs, _ids(reply.get("prompt_token_ids")), usage=usage)

    def _reply(self, request: Request) -> dict[str, Any]:
        deadline = time.monotonic() + self._spec.timeout_s
        content, body = bytearray(), self._body(request)
        name = request_id(body)
        create = self._client.chat.completions.with_streaming_response.create
        with create(**body, extra_headers={"X-Request-Id": name}) as response:
            require_own(name, response.headers.get("x-request-id"))
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_REPLY_BYTES:
                    raise ValueError(f"it is longer than {MAX_REPLY_BYTES} bytes")
                if time.monotonic() > deadline:  # the client's own limit starts anew with every byte
                    raise TimeoutError(f"it took longer than timeout_s = {self._spec.timeout_s:g}")
        reply = json.loads(content)
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise ValueError(f"it is not a chat completion: {bytes(content[:80])!r}")
        require_own(name, str(reply.get("id")))
        return reply

    def _count(self, answer: Generation) -> None:
        n_tokens = answer.usage.completion if answer.usage else sum(output.n_tokens for output in answer.outputs)
        with self._lock:
            self._progress = Progress(self._progress.requests + 1, self._progress.tokens + n_tokens)

    def _body(self, request: Request) -> dict[str, Any]:
        s = request.sampling
        return {
            "model": self._spec.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "n": s.n,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "max_tokens": s.max_tokens,
            "seed": request.seed,
            **({"stop": list(s.stop)} if s.stop else {}),
            **({"logprobs": True} if s.logprobs else {}),
            **({"response_format": _response_format(request.schema)} if request.schema else {}),
            **({"extra_body": {"return_token_ids": True}} if self._spec.token_ids else {}),
        }


def _response_format(schema: str) -> dict[str, Any]:
    """How chat completions are told to keep to a JSON Schema."""
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": json.loads(schema), "strict": True}}


def _sampled(choice: Mapping[str, Any], seed: int) -> Sampled:
    """One choice of a reply. Raises: KeyError, TypeError, AttributeError when it has another form."""
    ids = _ids(choice.get("token_ids"))
    logprobs = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content") or ()]
    exact = not isinstance(choice.get("stop_reason"), str)
    text = choice["message"].get("content")
    if not isinstance(text, str | None):
        raise TypeError(f"a completion is {type(text).__name__}, not text")
    return Sampled(
        valid_text(text or ""),
        finish_reason(choice.get("finish_reason")),
        ids if ids and exact else None,
        sum(logprobs) if logprobs and exact else None,
        seed + int(choice.get("index") or 0),
        len(ids or logprobs),
    )


def _ids(value: Any) -> list[int] | None:
    """Token ids where the server gave some."""
    whole = isinstance(value, list) and all(type(token) is int for token in value)
    return value if whole else None


def _usage(value: Any) -> Usage | None:
    """The tokens that the server says it took; None where it says nothing that makes sense."""
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int or min(prompt, completion) < 0:
        return None
    return Usage(prompt, completion)
