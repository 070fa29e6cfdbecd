"""An OpenAI-compatible server as an engine: `vllm serve`, a provider, or any other that speaks chat completions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, finish_reason, valid_text
from pipeline.errors import ConfigError, EngineFailed


@dataclass(frozen=True)
class Http:
    """A server that answers `POST {base_url}/chat/completions`. The server applies the chat template, once.

    Args:
        base_url: for instance http://127.0.0.1:8000/v1
        model: the model's name at the server.
        api_key_env: the environment variable that holds the key; the key itself never enters a config or a shard.
        concurrency: requests in flight at most.
        timeout_s: seconds for one request.
        max_retries: repeats after 429, 5xx, timeouts and lost connections, with the client's growing pauses.
        token_ids: ask for token ids (`return_token_ids`, a vLLM extension); other servers ignore it or refuse.
    """

    base_url: str
    model: str
    use: Literal["http"] = "http"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout_s: float = 600.0
    max_retries: int = 5
    token_ids: bool = False

    def check(self) -> None:
        """Raises ConfigError when the address is no http address."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url {self.base_url!r}: hint: an address like http://127.0.0.1:8000/v1")

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

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Each request's completions as soon as the server has answered it; a refused request is a Generation with its error."""
        futures = [self._threads.submit(self._ask, request) for request in requests]
        for future in as_completed(futures):
            yield future.result()

    def progress(self) -> Progress:
        """Requests and tokens finished so far."""
        return self._progress

    def close(self) -> None:
        """Drops what has not been asked yet and closes the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _require_model(self) -> None:
        try:
            served = {model.id for model in self._client.with_options(max_retries=1, timeout=30).models.list()}
        except self._errors as error:
            raise EngineFailed(
                f"{self._spec.base_url}: cannot be asked ({_first_line(error)}); hint: is the server up, and is the key in "
                f"${self._spec.api_key_env}?"
            ) from error
        if served and self._spec.model not in served:
            raise ConfigError(
                f"{self._spec.base_url}: does not serve {self._spec.model!r}; hint: it serves {', '.join(sorted(served)[:8])}"
            )

    def _ask(self, request: Request) -> Generation:
        try:
            reply = self._client.chat.completions.create(**self._body(request))
        except (self._errors, ValueError) as error:  # ValueError: the reply is no JSON
            return Generation(request.id, error=f"{type(error).__name__}: {_first_line(error)}")
        if not getattr(reply, "choices", None):  # 200 with something else in it
            return Generation(request.id, error="the server's reply holds no completion")
        outputs = tuple(_sampled(choice, request.seed) for choice in reply.choices)
        with self._lock:
            done, n_tokens = self._progress, sum(o.n_tokens for o in outputs)
            self._progress = Progress(done.requests + 1, done.tokens + n_tokens)
        return Generation(request.id, outputs, getattr(reply, "prompt_token_ids", None))

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
            **({"extra_body": {"return_token_ids": True}} if self._spec.token_ids else {}),
        }


def _sampled(choice: Any, seed: int) -> Sampled:
    ids = getattr(choice, "token_ids", None)
    logprobs = [token.logprob for token in choice.logprobs.content or ()] if choice.logprobs else []
    exact = not isinstance(getattr(choice, "stop_reason", None), str)
    return Sampled(
        valid_text(choice.message.content or ""),
        finish_reason(choice.finish_reason),
        list(ids) if ids and exact else None,
        sum(logprobs) if logprobs and exact else None,
        seed + choice.index,
        len(ids or logprobs),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
