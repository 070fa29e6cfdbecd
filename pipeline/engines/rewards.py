"""Numbers for conversations, from a process of its own: a reward model, or a policy against its reference.

The models run under `python -m trainer rewards`, since `pipeline` imports no torch; here are the process and the pipes.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from labelers.types import Message
from pipeline.engines import EngineInfo, Generation, Progress, Request, valid_text
from pipeline.engines.models import check_model, hub_commit
from pipeline.errors import ConfigError, EngineFailed
from pipeline.hashes import hub_model_hash, model_hash
from pipeline.storage.shards import file_sha256

ROOT = Path(__file__).resolve().parents[2]
GROUP = 256
"""Conversations sent at once: answers come often enough for a time limit to mean something (own)."""
MOST_LOST = 3
"""Conversations that may each kill the process before something else must be wrong (own)."""
PROBE = (Message("user", "Hi"), Message("assistant", "Hi"))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the models that give rewards run.

    Args:
        device: `auto` takes the GPU where there is one.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        max_length: tokens of a conversation; longer ones are abstained from, never cut. 0: what the model takes.
        micro_batch_tokens: tokens of one forward pass, padding included; 0: 1024 on a CPU, 16384 on a GPU. Lower it when memory
            runs out.
        timeout_s: seconds without an answer after which the process is taken for dead; loading the model counts.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int = 0
    micro_batch_tokens: int = 0
    timeout_s: float = 900.0

    @property
    def scoring_arguments(self) -> list[str]:
        """The command's options for these settings."""
        return [
            f"--device={self.device}", f"--dtype={self.dtype}", f"--max-length={self.max_length}",
            f"--micro-batch-tokens={self.micro_batch_tokens}",
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RewardModel(Scoring):
    """A sequence classifier with one output, asked about prompt and completion together.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
    """

    model: str
    use: Literal["reward_model"] = "reward_model"

    def check(self) -> None:
        """Raises ConfigError when the model cannot be what is meant."""
        check_model(self.model)

    def identity(self) -> Mapping[str, Any]:
        """The model by its content, and what decides its numbers."""
        return {"use": self.use, "model": content_of(self.model), "dtype": self.dtype, "max_length": self.max_length}

    def open(self) -> RunningRewards:
        """Starts the process and waits until it has loaded the model."""
        self.check()
        return RunningRewards(self.model, command([f"--model={self.model}", *self.scoring_arguments]), self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class ImplicitReward(Scoring):
    """beta * (log pi - log pi_ref) of the completion, under a policy trained with DPO and the model that it started from.

    Args:
        policy: a folder, or a name on the Hugging Face Hub.
        reference: the model that the policy was trained from, likewise.
        beta: the beta that the policy was trained with (field-notes, Training: 0.1).
        per_token: divide by the completion's tokens, so that longer completions are not further from 0 by their length alone.
    """

    policy: str
    reference: str
    use: Literal["implicit_reward"] = "implicit_reward"
    beta: float = 0.1
    per_token: bool = False

    def check(self) -> None:
        """Raises ConfigError when a model cannot be what is meant."""
        check_model(self.policy)
        check_model(self.reference)
        if not self.beta > 0:
            raise ConfigError(f"implicit_reward: beta is {self.beta}; hint: above 0")

    def identity(self) -> Mapping[str, Any]:
        """The models by their content, and what decides the numbers."""
        models = {"policy": content_of(self.policy), "reference": content_of(self.reference)}
        settings = {"beta": self.beta, "per_token": self.per_token, "dtype": self.dtype, "max_length": self.max_length}
        return {"use": self.use, **models, **settings}

    def open(self) -> RunningRewards:
        """Starts the process and waits until it has loaded both models."""
        self.check()
        models = [f"--policy={self.policy}", f"--reference={self.reference}", f"--beta={self.beta}"]
        per_token = "--per-token" if self.per_token else "--no-per-token"
        return RunningRewards(self.policy, command([*models, per_token, *self.scoring_arguments]), self.timeout_s)


def content_of(model: str) -> str:
    """The hash of a model with its tokenizer and chat template: what decides its numbers, wherever it lies."""
    folder = Path(model)
    if not folder.is_dir():
        return hub_model_hash(model, hub_commit(model, None))
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")
    texts = [file_sha256(folder / name) for name in names if (folder / name).is_file()]
    return "-".join([model_hash(folder), *(text[:16] for text in texts)])


def command(arguments: Sequence[str]) -> list[str]:
    """What is started: the models' own program."""
    return [sys.executable, "-m", "trainer", "rewards", *arguments]


class ProcessDied(EngineFailed):
    """The process that gives rewards ended by itself."""


class RunningRewards:
    """The process, and one caller at a time. A process that dies is started again; a conversation that it dies of twice, once
    with others and once without, gets no reward."""

    def __init__(self, model: str, command: Sequence[str], timeout_s: float) -> None:
        self.info = EngineInfo(model)
        self._command = list(command)
        self._lost = 0
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._progress = Progress()
        self._child = self._started()

    def rewards(self, chats: Sequence[Sequence[Message]]) -> list[float | None]:
        """A number for each conversation, in order; None where the model takes it not.

        Raises:
            EngineFailed: the process does not start, died of more than MOST_LOST conversations, was silent for too long, or
                answered with something else than numbers.
        """
        answers: list[float | None] = []
        with self._lock:
            for start in range(0, len(chats), GROUP):
                group = chats[start : start + GROUP]
                answers += self._asked(group)
                self._progress = Progress(self._progress.requests + len(group), self._progress.tokens)
        return answers

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Nothing: such a model writes no text. Raises: EngineFailed."""
        raise EngineFailed(
            f"{self.info.model}: gives rewards and writes no text; hint: a judge's engine is vllm or http"
        )

    def progress(self) -> Progress:
        """Conversations answered so far."""
        return self._progress

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._child.end()

    def _asked(self, group: Sequence[Sequence[Message]]) -> list[float | None]:
        try:
            return self._child.ask(group)
        except ProcessDied as error:
            self._child.end()
            self._child = self._started()
            if len(group) == 1:
                self._lost += 1
                if self._lost > MOST_LOST:
                    raise error
                return [None]
        middle = len(group) // 2  # whatever it died of is in one half
        return [*self._asked(group[:middle]), *self._asked(group[middle:])]

    def _started(self) -> Child:
        child = Child(self._command, self._timeout_s)
        try:
            child.ask([PROBE])
        except BaseException:
            child.end()
            raise
        return child


class Child:
    """One process that reads conversations and writes numbers. It ends when its input does, so none outlives this process."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._talk = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._talk,
            env={**os.environ, "PYTHONPATH": path}, text=True, encoding="utf-8", errors="replace",
            start_new_session=True,  # Ctrl-C is for the run, which lets what is in flight end
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[str] = self._process.stdin
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._answers), daemon=True).start()

    def ask(self, group: Sequence[Sequence[Message]]) -> list[float | None]:
        """The answers to one group. Raises: EngineFailed when the process dies, hangs or answers with something else."""
        lines = [json.dumps([{"role": m.role, "content": valid_text(m.content)} for m in chat]) for chat in group]
        try:
            self._input.write("\n".join(lines) + "\n\n")
            self._input.flush()
        except (OSError, ValueError) as error:
            raise self._failure("died", ProcessDied) from error
        return [self._answer() for _ in group]

    def end(self) -> None:
        """Ends the process, at once if need be."""
        try:
            self._input.close()
        except OSError:  # what was written last is not wanted any more
            self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._talk.close()

    def _answer(self) -> float | None:
        try:
            line = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            self._process.kill()
            raise self._failure(f"gave no answer in {self._timeout_s:g} s") from None
        if line is None:
            raise self._failure("died", ProcessDied)
        try:
            value = json.loads(line)
        except ValueError:
            self._process.kill()
            raise self._failure(f"answered {line[:80]!r}") from None
        return None if value is None else float(value)

    def _failure(self, what: str, kind: type[EngineFailed] = EngineFailed) -> EngineFailed:
        try:
            code: object = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = "none yet"
        self._talk.seek(0)
        said = self._talk.read()[-1500:].decode("utf-8", "replace").strip()
        return kind(
            f"`python {' '.join(self._command[1:])}` {what} (exit code {code}): {said or 'it said nothing'}\n"
            'hint: run the command by hand; out of memory: lower micro_batch_tokens, or dtype = "bfloat16"'
        )


def _pump(stdout: IO[str], answers: queue.SimpleQueue[str | None]) -> None:
    """Hands on each line, and None when there will be no more."""
    with stdout:
        for line in stdout:
            answers.put(line)
    answers.put(None)
