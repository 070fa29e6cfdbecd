"""vLLM, streaming: requests of several shards are in flight, and each group comes out as it finishes."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
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
from pipeline.engines.last_words import LastWords
from pipeline.engines.models import TOKENIZER_FILES, check_model, hub_commit
from pipeline.engines.pump import Pace, Pump, Refused, StartFailed, Ticket
from pipeline.errors import ConfigError, EnvironmentLacks
from pipeline.hashes import hub_model_hash, model_hash, template_hash, tokenizer_hash
from pipeline.storage.shards import file_sha256


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
            False: what kills it costs what it had not finished, and it is started again; what kills this process ends the run.
        max_num_seqs: sequences in one step at most; None takes vLLM's. Halved, and said, whenever memory does not suffice.
        stall_timeout_s: seconds without a step after which the engine counts as dead; a step takes milliseconds to seconds (own).
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
    stall_timeout_s: float = 600.0
    trust_remote_code: bool = False

    # Where it runs and how fast does not change what is sampled.
    UNIDENTIFYING: ClassVar[frozenset[str]] = frozenset(
        {
            *("model", "gpu_memory_utilization", "kv_cache_memory_mb", "in_process", "max_num_seqs", "enforce_eager"),
            "stall_timeout_s",
        }
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


def _model_hash(spec: Vllm) -> str:
    folder = Path(spec.model)
    return model_hash(folder) if folder.is_dir() else hub_model_hash(spec.model, hub_commit(spec.model, spec.revision))


class RunningVllm:
    """A loaded model: callers send requests and wait for their own answers. An engine that dies is started again."""

    def __init__(self, spec: Vllm) -> None:
        self._spec = spec
        self._pump = Pump(partial(Core, spec), _say, spec.model, spec.stall_timeout_s)
        engine = self._pump.core.engine
        self._tokenizer = engine.get_tokenizer()
        self._template = _template(spec, self._tokenizer)
        self._max_len: int = engine.model_config.max_model_len
        self._numbers = itertools.count()
        vocabulary = tokenizer_hash(self._tokenizer.get_vocab())
        self.info = EngineInfo(spec.model, _model_hash(spec), vocabulary, template_hash(self._template))

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Each request's completions as soon as they are finished; a prompt that does not fit is a Generation with its error."""
        outbox: queue.SimpleQueue[Generation] = queue.SimpleQueue()
        tickets = []
        for request in requests:
            try:
                ids = self._encode(request)
            except Exception as error:  # templates are programs: whatever one raises is about this prompt alone
                outbox.put(Generation(request.id, error=f"{type(error).__name__}: {error}"))
            else:
                tickets.append(Ticket(str(next(self._numbers)), request, ids, outbox))
        self._pump.send(tickets)  # at once: an engine that steps meanwhile would slow the encoding down many times
        for _ in requests:
            yield self._pump.answer(outbox)

    def progress(self) -> Progress:
        """Requests and tokens finished so far."""
        return self._pump.progress

    def pace(self) -> Pace:
        """How much of its time the engine has worked."""
        return self._pump.pace()

    def close(self) -> None:
        """Stops the engine and gives its memory back."""
        self._pump.close()

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


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Core:
    """vLLM's engine, started. In a process of its own it is watched: vLLM itself waits for ever for one that was killed."""

    def __init__(self, spec: Vllm, concurrency: int | None) -> None:
        self._in_process = spec.in_process
        self._log = None if spec.in_process else LastWords()
        prepare_environment(spec)
        self.concurrency = concurrency or 0
        self.engine: Any = None
        if said := self._begin(spec):
            said = f"{said}\n{self.last_words()}"
            self.close()
            raise StartFailed(said, self.concurrency)

    def add(self, ticket: Ticket) -> None:
        """Takes a request in. Raises: Refused when vLLM does not take it."""
        try:
            self.engine.add_request(ticket.id, {"prompt_token_ids": ticket.ids}, params(ticket.request))
        except ValueError as error:
            raise Refused(f"refused by vLLM: {error}") from error

    def step(self) -> list[Any]:
        """Takes every request one token further; the outputs of those that finished by it."""
        return [output for output in self.engine.step() if output.finished]

    def answer(self, ticket: Ticket, output: Any) -> Generation:
        """vLLM's output as ours."""
        outputs = sorted(output.outputs, key=lambda o: o.index)
        sampled = tuple(_sampled(o, ticket.request.seed) for o in outputs)
        usage = Usage(len(ticket.ids), sum(o.n_tokens for o in sampled))
        return Generation(ticket.request.id, sampled, ticket.ids, usage=usage)

    def look(self) -> bool:
        """Whether a process of the engine has ended; a `step` that waits for it then fails."""
        if ended := self._ended():
            self.engine.engine_core.outputs_queue.put(EngineEnded(ended))
        return bool(ended)

    def kill(self) -> bool:
        """Ends the engine's process; False where it is this one."""
        for process in self._processes():
            process.kill()
        return not self._in_process

    def last_words(self) -> str:
        """How the engine's own process ended, and what it said of its errors."""
        ended = self._ended()
        return (f"EngineEnded: {ended}\n" if ended else "") + (self._log.read() if self._log else "")

    def close(self) -> None:
        """Stops the engine and gives its memory back. A dead one may refuse, and is gone all the same."""
        with suppress(Exception):
            self.engine.engine_core.shutdown()
        self.kill()
        self.engine = None
        _give_memory_back()
        if self._log:
            self._log.forget()

    def _begin(self, spec: Vllm) -> str:
        """Starts it; what it said where it did not."""
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import Executor

        try:
            # The context sets the defaults: as `LLM` has them twice as many sequences share a step as in a bare engine.
            args = engine_args(spec, self.concurrency, self._log.config if self._log else None)
            config = args.create_engine_config(UsageContext.LLM_CLASS)
            self.concurrency = config.scheduler_config.max_num_seqs
            executor, apart = Executor.get_class(config), not spec.in_process
            with _deaf_to_interrupts():
                self.engine = LLMEngine(config, executor, log_stats=False, multiprocess_mode=apart)
        except Exception as error:  # vLLM raises a wide family
            return f"{type(error).__name__}: {error}"
        return ""

    def _ended(self) -> str:
        """Which processes of the engine have ended, and how; empty while all live."""
        codes = [(process.name, process.exitcode) for process in self._processes()]
        return ", ".join(
            f"{name} was ended by signal {-code}" if code < 0 else f"{name} ended with exit code {code}"
            for name, code in codes
            if code is not None
        )

    def _processes(self) -> list[Any]:
        manager = None if self._in_process or not self.engine else self.engine.engine_core.resources.engine_manager
        return list(manager.processes) if manager else []


class EngineEnded(Exception):
    """The engine's process is gone."""


def _give_memory_back() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started meanwhile hears no Ctrl-C: that is for the run, which lets what is in flight end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_environment(spec: Vllm) -> None:
    """Sets what vLLM and torch read while they are imported; call it before either is."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")  # a fork would copy locks that threads hold
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if spec.in_process else "1"
    if spec.in_process:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise 7x slower on CPU (shared/sampling-speed.md)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def engine_args(spec: Vllm, concurrency: int = 0, logging: Path | None = None) -> Any:
    """vLLM's own settings. Call `prepare_environment` first.

    Args:
        concurrency: sequences at a time, instead of the spec's.
        logging: the logging configuration of the engine's processes.
    """
    from vllm.config.logging import LoggingConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    optional = {
        "max_model_len": spec.max_model_len,
        "max_num_seqs": concurrency or spec.max_num_seqs,
        "revision": spec.revision,
        "logging_config": logging and LoggingConfig(pylogging_config_file=str(logging)),
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
