"""Groups for `rl`: the completions that `pipeline` sampled for each prompt, with the rewards that its labelers gave them.

Read by the columns of docs/format.md alone ("completions", "labels"). A completion that a labeler could not score is left out,
never counted as 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.config import RlOptions
from trainer.data import Ids, data_files, read_rows
from trainer.errors import UsageError
from trainer.model import Loaded
from trainer.packing import Tree
from trainer.runlog import say

COMPLETIONS = (
    "completion_id", "prompt_id", "finish_reason", "temperature", "top_p", "logp", "prompt_token_ids", "token_ids",
    "model_hash", "tokenizer_hash", "template_hash",
)  # fmt: skip
LABELS = ("completion_id", "labeler", "value")
Values = Mapping[str, Mapping[str, float | None]]  # completion id -> labeler -> its score, or None where it abstained


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion: its tokens, its reward, whether it ended by itself, and the sampler's log-prob at temperature 1."""

    name: str
    ids: Ids
    reward: float
    ended: bool
    logp: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt, at least two, whose rewards are not all the same."""

    name: str
    prompt: Ids
    samples: tuple[Sample, ...]

    @property
    def tree(self) -> Tree:
        """Prompt and completions for one forward pass."""
        return Tree(self.prompt, tuple(sample.ids for sample in self.samples))

    @property
    def width(self) -> int:
        return len(self.prompt) + max(len(sample.ids) for sample in self.samples)

    @property
    def n_tokens(self) -> int:
        return sum(len(self.prompt) + len(sample.ids) for sample in self.samples)


@dataclass
class GroupSet:
    """The groups kept, sorted by prompt, the temperature they were sampled at, and how much was left out by reason."""

    groups: list[Group] = field(default_factory=list)
    temperature: float = 1.0
    refused: Counter[str] = field(default_factory=Counter)
    n_other_model: int = 0

    @property
    def data_hash(self) -> str:
        """The identity of what is trained on."""
        digest = hashlib.sha256(str(self.temperature).encode())
        for group in self.groups:
            rows = [[s.name, list(s.ids), s.reward, s.ended, s.logp] for s in group.samples]
            digest.update(json.dumps([group.name, list(group.prompt), rows]).encode())
        return digest.hexdigest()[:32]


def group_files(options: RlOptions) -> tuple[list[Path], list[Path]]:
    """The shards of completions and of labels: those of a run's newest build, or those named.

    Raises:
        UsageError: there are none, or it is not clear which labels are meant.
    """
    if options.labels:
        return data_files(options.data), data_files(options.labels)
    completions: list[Path] = []
    labels: list[Path] = []
    for source in options.data:
        try:
            steps = json.loads((Path(source) / "steps.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{source} is no run that has been built ({error}); hint: give a run's folder, or completions with --labels"
            ) from error
        for kind, found in (("completions", completions), ("labels", labels)):
            paths = [
                Path(source) / folder / shard for folder in steps["folders"].get(kind, ()) for shard in steps["shards"]
            ]
            found += [path for path in paths if path.exists()]
    return data_files([str(p) for p in completions]), data_files([str(p) for p in labels])


def read_values(files: Sequence[Path]) -> dict[str, dict[str, float | None]]:
    """Every completion's scores by labeler."""
    values: dict[str, dict[str, float | None]] = defaultdict(dict)
    for path in files:
        for name, row in read_rows(path, LABELS):
            if missing := [column for column in LABELS if column not in row]:
                raise UsageError(f"{name} has no column {', '.join(missing)}; hint: docs/format.md, labels")
            values[row["completion_id"]][row["labeler"]] = row["value"]
    return values


def read_groups(
    completions: Sequence[Path], labels: Sequence[Path], loaded: Loaded, max_length: int, *, rank: bool = False
) -> GroupSet:
    """All groups worth training on.

    Args:
        rank: takes each completion's rank in its group for its reward.

    Raises:
        UsageError: the samples are not from one temperature, or not from the whole distribution (top-p).
    """
    values = read_values(labels)
    found = GroupSet()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    temperatures: set[float] = set()
    for path in completions:
        for name, row in read_rows(path, COMPLETIONS):
            if missing := [column for column in COMPLETIONS if column not in row]:
                raise UsageError(f"{name} has no column {', '.join(missing)}; hint: docs/format.md, completions")
            reason = defect(row, loaded, max_length)
            if reason is not None:
                found.refused[reason] += 1
                continue
            check_sampling(name, row)
            temperatures.add(row["temperature"])
            found.n_other_model += row["model_hash"] != loaded.model_hash
            rows[row["prompt_id"]].append(row)
    if len(temperatures) > 1:
        raise UsageError(
            f"the completions were sampled at temperatures {sorted(temperatures)}; hint: rl takes one at a time"
        )
    found.temperature = next(iter(temperatures), 1.0)
    for prompt_id in sorted(rows):
        group = group_of(prompt_id, rows[prompt_id], values, found.refused)
        if group is not None:
            found.groups.append(ranked(group) if rank else group)
    return found


def defect(row: dict[str, Any], loaded: Loaded, max_length: int) -> str | None:
    """Why a completion cannot be trained on; None when it can."""
    if not (row["token_ids"] and row["prompt_token_ids"]):
        return "completions without token ids"
    if (row["tokenizer_hash"], row["template_hash"]) != (loaded.tokenizer_hash, loaded.template_hash):
        return "completions of another tokenizer or template"
    if len(row["prompt_token_ids"]) + len(row["token_ids"]) > max_length:
        return "completions longer than max_length"
    if max(*row["prompt_token_ids"], *row["token_ids"]) >= loaded.model.config.vocab_size:
        return "completions with a token id outside the vocabulary"
    return None


def check_sampling(name: str, row: dict[str, Any]) -> None:
    """Raises UsageError where a completion was not drawn from the model's whole distribution."""
    temperature, top_p = row["temperature"], row["top_p"]
    if temperature is None or temperature <= 0 or (top_p is not None and top_p < 1):
        raise UsageError(
            f"{name} was sampled at temperature {temperature} and top-p {top_p}; hint: rl needs samples of the whole "
            "distribution: temperature above 0, top_p 1"
        )


def group_of(prompt_id: str, rows: Sequence[dict[str, Any]], values: Values, refused: Counter[str]) -> Group | None:
    """A prompt's group; None where nothing can be learnt from it. A reward is the sum of the labelers that score the group."""
    scored = {
        labeler for row in rows for labeler, value in values.get(row["completion_id"], {}).items() if value is not None
    }
    samples = []
    for row in sorted(rows, key=lambda row: str(row["completion_id"])):
        own = values.get(row["completion_id"], {})
        scores = [own.get(labeler) for labeler in sorted(scored)]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        if not known or len(known) < len(scores):
            refused["completions without a score of every labeler"] += 1
            continue
        ids, ended = array("i", row["token_ids"]), row["finish_reason"] == "stop"
        samples.append(Sample(row["completion_id"], ids, math.fsum(known), ended, row["logp"]))
    if len(samples) < 2:
        refused["prompts with fewer than two completions"] += 1
        return None
    if len({sample.reward for sample in samples}) == 1 and len({sample.ended for sample in samples}) == 1:
        refused["prompts whose completions all have the same reward"] += 1
        return None
    return Group(prompt_id, array("i", rows[0]["prompt_token_ids"]), tuple(samples))


def ranked(group: Group) -> Group:
    """The same with ranks for rewards: the share of the others that a completion is better than, equal ones counting half."""
    rewards = [sample.reward for sample in group.samples]
    n = len(rewards) - 1
    shares = [(sum(r < own for r in rewards) + (sum(r == own for r in rewards) - 1) / 2) / n for own in rewards]
    samples = (replace(sample, reward=share) for sample, share in zip(group.samples, shares, strict=True))
    return replace(group, samples=tuple(samples))


def tell(found: GroupSet, where: str) -> None:
    """Says what was read, and warns of what is unusual.

    Raises:
        UsageError: no group is left.
    """
    for reason, count in sorted(found.refused.items()):
        say(f"left out {count} {reason}")
    if not found.groups:
        raise UsageError(
            f"no groups left to train on in {where}; hint: {dict(found.refused) or 'its files hold no rows'}"
        )
    samples = [sample for group in found.groups for sample in group.samples]
    ended = sum(sample.ended for sample in samples) / len(samples)
    say(
        f"{len(found.groups)} prompts with {len(samples)} completions at temperature {found.temperature:g}, "
        f"mean reward {math.fsum(s.reward for s in samples) / len(samples):.4g}, {ended:.0%} ended"
    )
    if found.n_other_model:
        say(
            f"warning: {found.n_other_model} completions were not sampled by this very model; hint: sample from the policy that "
            "is trained, the clipped ratio makes up for a small difference only"
        )
