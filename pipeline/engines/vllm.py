"""vLLM in this process, streaming: requests of several shards are in flight and each group comes out as it finishes."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.engines import (
    EngineInfo,
    Generation,
    Progress,
    Request,
    Sampled,
    Sampling,
    Usage,
    finish_reason,
    valid_text,
)
from pipeline.errors import ConfigError, EngineFailed, EnvironmentLacks
from pipeline.hashes import hub_model_hash, model_hash, template_hash, tokenizer_hash
from pipeline.shards import file_sha256

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True)
class Vllm:
    """A model that vLLM runs on this machine.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        revision: the Hub's branch, tag or commit; a commit makes the run repeatable.
        dtype: weights and activations; `auto` takes the checkpoint's.
        max_model_len: tokens of prompt and completion together; None takes the model's.
        chat_template: a Jinja file that replaces the tokenizer's own template.
        prompt_format: `chat` applies the chat template; `raw` joins the messages' texts (base models).
        tensor_parallel_size: GPUs that one replica is spread over.
        gpu_memory_utilization: share of the GPU's memory that vLLM takes (0.9 is vLLM's own default).
        kv_cache_memory_mb: MiB for the KV cache; None lets vLLM measure. On CPU vLLM otherwise asks for most of the memory.
        enforce_eager: no graph capture and no compilation: starts faster, samples slower on large models.
        in_process: run the engine's core in this process: a tiny model starts in 6-11 s instead of 94-116 (shared/packaging.md).
        max_num_seqs: sequences in one step at most; None takes vLLM's.
        trust_remote_code: run Python code that comes with the model.
    """

    model: str
    use: Literal["vllm"] = "vllm"
    revision: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    chat_template: str | None = None
    prompt_format: Literal["chat", "raw"] = "chat"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_mb: int | None = None
    enforce_eager: bool = False
    in_process: bool = False
    max_num_seqs: int | None = None
    trust_remote_code: bool = False

    # Where it runs and how fast does not change what is sampled.
    UNIDENTIFYING: ClassVar[frozenset[str]] = frozenset(
        {"model", "gpu_memory_utilization", "kv_cache_memory_mb", "in_process", "max_num_seqs", "enforce_eager"}
    )

    def check(self) -> None:
        """Raises ConfigError when the model or template cannot be what is meant, EnvironmentLacks without vLLM."""
        check_model(self.model)
        if self.chat_template and not Path(self.chat_template).is_file():
            raise ConfigError(f"chat_template {self.chat_template}: no such file")
        import importlib.util

        if importlib.util.find_spec("vllm") is None:
            raise EnvironmentLacks("vllm is not installed; hint: bin/setup installs the build for this machine")

    def identity(self) -> Mapping[str, Any]:
        """The settings that decide the text, the model by its content and not by its path."""
        settings = {name: value for name, value in asdict(self).items() if name not in self.UNIDENTIFYING}
        if self.chat_template:
            settings["chat_template"] = file_sha256(Path(self.chat_template))
        folder = Path(self.model)
        if not folder.is_dir():
            return {**settings, "model": _model_hash(self)}
        names = (*TOKENIZER_FILES, "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
        texts = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
        return {**settings, "model": _model_hash(self), "files": texts}

    def open(self) -> RunningVllm:
        """Loads the model. Takes seconds to minutes."""
        self.check()
        return RunningVllm(self)


def check_model(model: str) -> None:
    """Raises ConfigError when `model` names a folder that is missing or that lacks what an engine needs."""
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")) or model.count("/") > 1:
            raise ConfigError(
                f"model {model}: no such folder; hint: a path to a model folder, or a Hub name like org/name"
            )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model {model}: has no config.json; hint: save it with save_pretrained")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"model {model}: has no tokenizer ({', '.join(TOKENIZER_FILES)}); "
            "hint: save the tokenizer into the model's folder with tokenizer.save_pretrained"
        )


def _model_hash(spec: Vllm) -> str:
    folder = Path(spec.model)
    return model_hash(folder) if folder.is_dir() else hub_model_hash(spec.model, hub_commit(spec.model, spec.revision))


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that `name` at `revision` stands for: from the Hub, or the local cache when it cannot be reached."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # the client raises a wide family, offline and not-found among it
        raise ConfigError(
            f"model {name}: not in the local cache and the Hub does not give it ({type(error).__name__}); "
            "hint: check the name, log in, or give the path of a model folder"
        ) from error


class RunningVllm:
    """A loaded model. One thread steps the engine; callers queue requests and wait for their own groups."""

    def __init__(self, spec: Vllm) -> None:
        self._spec = spec
        self._engine = _start(spec)
        self._tokenizer = self._engine.get_tokenizer()
        self._template = _template(spec, self._tokenizer)
        self._max_len: int = self._engine.model_config.max_model_len
        self.info = EngineInfo(
            spec.model,
            _model_hash(spec),
            tokenizer_hash(self._tokenizer.get_vocab()),
            template_hash(self._template),
        )
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[list[_Ticket] | None] = queue.SimpleQueue()
        self._progress = Progress()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._pump, name="vllm", daemon=True)
        self._thread.start()

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Each request's completions as soon as they are finished; a prompt that does not fit is a Generation with its error."""
        outbox: queue.SimpleQueue[Generation | EngineFailed] = queue.SimpleQueue()
        tickets = []
        for request in requests:
            try:
                ids = self._encode(request)
            except Exception as error:  # templates are programs: whatever one raises is about this prompt alone
                outbox.put(Generation(request.id, error=f"{type(error).__name__}: {error}"))
            else:
                tickets.append(_Ticket(str(next(self._numbers)), request, ids, outbox))
        self._inbox.put(tickets)  # at once: an engine that steps meanwhile would slow the encoding down many times
        for _ in requests:
            # A dead engine no longer answers: look up now and then.
            item = _get(outbox, lambda: self._failure)
            if isinstance(item, BaseException):
                raise EngineFailed(f"{self._spec.model}: the engine died: {type(item).__name__}: {item}") from item
            yield item

    def progress(self) -> Progress:
        """Requests and tokens finished so far."""
        return self._progress

    def close(self) -> None:
        """Stops the engine and gives its memory back."""
        self._closed = True
        self._inbox.put(None)
        self._thread.join(timeout=60)
        self._engine.engine_core.shutdown()
        del self._engine
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()

    def _encode(self, request: Request) -> list[int]:
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        if self._template is None:
            ids = self._tokenizer.encode("\n\n".join(m["content"] for m in messages))
        else:
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
            # The template writes the special tokens itself: adding them again would begin with two.
            ids = self._tokenizer.encode(text, add_special_tokens=False)
        if len(ids) >= self._max_len:
            raise ValueError(f"the prompt has {len(ids)} tokens and the model takes {self._max_len}")
        return list(ids)

    def _pump(self) -> None:
        waiting: dict[str, _Ticket] = {}
        try:
            while not self._closed:
                self._admit(waiting)
                for output in self._engine.step() if waiting else ():
                    if output.finished:
                        ticket = waiting.pop(output.request_id)
                        ticket.outbox.put(self._generation(ticket, output))
        except BaseException as error:  # every caller must hear of it, whatever it is
            self._failure = error

    def _admit(self, waiting: dict[str, _Ticket]) -> None:
        """Hands queued requests to the engine; waits for one only when there is nothing to step."""
        while not (self._closed or (waiting and self._inbox.empty())):
            for ticket in self._inbox.get() or ():
                try:
                    self._engine.add_request(ticket.id, {"prompt_token_ids": ticket.ids}, params(ticket.request))
                except ValueError as error:  # vLLM refuses this request; the others are fine
                    ticket.outbox.put(Generation(ticket.request.id, error=f"refused by vLLM: {error}"))
                else:
                    waiting[ticket.id] = ticket

    def _generation(self, ticket: _Ticket, output: Any) -> Generation:
        outputs = sorted(output.outputs, key=lambda o: o.index)
        done = self._progress
        self._progress = Progress(done.requests + 1, done.tokens + sum(len(o.token_ids) for o in outputs))
        sampled = tuple(_sampled(o, ticket.request.seed) for o in outputs)
        usage = Usage(len(ticket.ids), sum(o.n_tokens for o in sampled))
        return Generation(ticket.request.id, sampled, ticket.ids, usage=usage)


@dataclass(frozen=True, slots=True)
class _Ticket:
    id: str
    request: Request
    ids: list[int]
    outbox: queue.SimpleQueue[Any]


def _get(outbox: queue.SimpleQueue[Any], failure: Any) -> Any:
    while True:
        try:
            return outbox.get(timeout=1.0)
        except queue.Empty:
            if failure() is not None and outbox.empty():
                return failure()


def prepare_environment(spec: Vllm) -> None:
    """Sets what vLLM and torch read while they are imported; call it before either is."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if spec.in_process else "1"
    if spec.in_process:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise 7x slower on CPU (shared/sampling-speed.md)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def engine_args(spec: Vllm) -> Any:
    """vLLM's own settings. Call `prepare_environment` first."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    optional = {
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "revision": spec.revision,
        # A prompt cut into chunks rewinds its request's seeded generator, which torch's CPU generator cannot (vLLM 0.32).
        "enable_chunked_prefill": False if current_platform.is_cpu() else None,
    }
    return EngineArgs(
        model=spec.model,
        dtype=spec.dtype,
        tensor_parallel_size=spec.tensor_parallel_size,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        kv_cache_memory_bytes=spec.kv_cache_memory_mb and spec.kv_cache_memory_mb * 2**20,
        enforce_eager=spec.enforce_eager,
        trust_remote_code=spec.trust_remote_code,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        # The sampler is the config's alone: a model's generation_config must not set temperature or top-k behind its back.
        generation_config="vllm",
        # Replies held to a schema come without blanks between their parts: a small model otherwise writes blanks to its limit.
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        **{name: value for name, value in optional.items() if value is not None},
    )


def _start(spec: Vllm) -> Any:
    prepare_environment(spec)
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        # The context sets the defaults: as `LLM` has them twice as many sequences share a step as in a bare engine.
        return LLMEngine.from_engine_args(engine_args(spec), usage_context=UsageContext.LLM_CLASS)
    except Exception as error:
        raise EngineFailed(
            f"{spec.model}: vLLM does not start: {type(error).__name__}: {error}; "
            "hint: `python -m pipeline doctor` says what this machine can run, VLLM_LOGGING_LEVEL=INFO shows vLLM's own log"
        ) from error


def _template(spec: Vllm, tokenizer: Any) -> str | None:
    if spec.prompt_format == "raw":
        return None
    if spec.chat_template:
        return Path(spec.chat_template).read_text(encoding="utf-8")
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ConfigError(
            f"model {spec.model}: its tokenizer has no chat template; "
            'hint: set chat_template = "file.jinja", or prompt_format = "raw" for a base model'
        )
    return template


def params(request: Request) -> Any:
    """vLLM's own sampling parameters for a request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s: Sampling = request.sampling
    return SamplingParams(
        n=s.n,
        temperature=s.temperature,
        top_p=s.top_p,
        max_tokens=s.max_tokens,
        stop=list(s.stop) or None,
        seed=request.seed if s.temperature > 0 else None,
        logprobs=0 if s.logprobs else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=_held_to(request.schema),
    )


def _held_to(schema: str) -> Any:
    """What keeps a completion to a JSON Schema."""
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=schema) if schema else None


def _sampled(output: Any, seed: int) -> Sampled:
    # A stop text is cut from the text but not from the tokens: ids that say more than the text are not kept.
    exact = not isinstance(output.stop_reason, str)
    return Sampled(
        valid_text(output.text),
        finish_reason(output.finish_reason),
        list(output.token_ids) if exact else None,
        output.cumulative_logprob if exact else None,
        seed + output.index,
        len(output.token_ids),
    )
