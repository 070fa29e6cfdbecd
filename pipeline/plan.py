"""What a run has to do: every stage on every shard, in folders named by what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labelers.protocol import PairwiseLabeler
from labelers.types import content_id
from pipeline.compare import Compare
from pipeline.config import Config, LabelerEntry, Source
from pipeline.isolation import limits_of
from pipeline.label import Label
from pipeline.pair import Pairing
from pipeline.pairing.cascade import After
from pipeline.pairing.combine import Role
from pipeline.sample import Sample
from pipeline.spending.budget import Asking, metered
from pipeline.spending.ledger import LEDGER
from pipeline.work import Stage, Work


@dataclass(frozen=True)
class Step:
    """One stage over all shards.

    Args:
        kind: `completions`, `labels`, `comparisons` or `pairs`: how its folder's name begins.
        name: the source's or labeler's name; empty for pairs.
        folder: where its shards lie.
        inputs: the folders that it reads after `prompts`, in order.
    """

    kind: str
    name: str
    stage: Stage
    folder: Path
    inputs: tuple[Path, ...]

    def work(self, prompts: Path) -> Work:
        """This step on the shard of `prompts`."""
        return Work(
            self.stage, (prompts, *(folder / prompts.name for folder in self.inputs)), self.folder / prompts.name
        )


@dataclass(frozen=True)
class Plan:
    """The steps of a run, each after those it reads."""

    steps: tuple[Step, ...]

    def works(self, shards: Sequence[Path]) -> list[Work]:
        """All work on these prompt shards, shard by shard."""
        return [step.work(shard) for shard in shards for step in self.steps]

    @property
    def pairs(self) -> Step:
        """The last step."""
        return self.steps[-1]

    def of_kind(self, kind: str) -> tuple[Step, ...]:
        """The steps that make `kind`."""
        return tuple(step for step in self.steps if step.kind == kind)


def make_plan(config: Config, run: Path) -> Plan:
    """The steps of `config` in the folder `run`. Loads no engine.

    Raises:
        LabelerError: a labeler cannot be loaded.
    """
    samples = [_sample(config, source, run) for source in config.sources]
    labels: list[Step] = []
    comparisons: list[Step] = []
    for entry in config.labelers:
        before = [step for step in labels if step.name == entry.after]
        if isinstance(entry.spec.build(), PairwiseLabeler):
            comparisons.append(_compare(config, entry, samples, before, run))
        else:
            labels += [_label(config, entry, sample, before, run) for sample in samples]
    return Plan((*samples, *labels, *comparisons, _pair(config, samples, labels, comparisons, run)))


def _sample(config: Config, source: Source, run: Path) -> Step:
    meter = metered(source, config.budget, run / LEDGER)
    stage = Sample(source.name, source.engine, source.sampling, config.seed, meter)
    return _step("completions", source.name, stage, stage.identity(), (), run)


def _asking(config: Config, entry: LabelerEntry, run: Path) -> Asking:
    ledger = run / LEDGER if entry.engine else None
    return Asking(entry.reply_tokens, entry.votes, config.budget, ledger, entry.price)


def _label(config: Config, entry: LabelerEntry, sample: Step, before: Sequence[Step], run: Path) -> Step:
    stage = Label(
        entry.spec,
        entry.label,
        entry.selection,
        entry.max_abstained,
        pass_at_of(entry),
        entry.engine,
        _asking(config, entry, run),
        limits_of(config, entry),
        _after(before),
    )
    inputs = (sample.folder, *(step.folder for step in before))
    return _step("labels", entry.label, stage, {**_judging(entry), "pass_at": stage.pass_at}, inputs, run)


def _after(before: Sequence[Step]) -> After | None:
    first = before[0].stage if before else None
    return After(first.pass_at, len(before)) if isinstance(first, Label) else None


def _compare(config: Config, entry: LabelerEntry, samples: Sequence[Step], before: Sequence[Step], run: Path) -> Step:
    stage = Compare(
        entry.spec,
        entry.label,
        entry.selection,
        entry.max_abstained,
        entry.match_ups,
        len(samples),
        entry.engine,
        _asking(config, entry, run),
        limits_of(config, entry),
        _after(before),
    )
    identity = {**_judging(entry), "match_ups": entry.match_ups, "votes": entry.votes}
    return _step("comparisons", entry.label, stage, identity, tuple(s.folder for s in (*samples, *before)), run)


def _pair(
    config: Config, samples: Sequence[Step], labels: Sequence[Step], comparisons: Sequence[Step], run: Path
) -> Step:
    pairwise = {step.name for step in comparisons}
    roles = tuple(
        Role(e.label, e.weight, pass_at_of(e), e.noise, e.gate) for e in config.labelers if e.label not in pairwise
    )
    stage = Pairing(config.pairs, roles, len(samples), len(labels), len(comparisons))
    folders = tuple(step.folder for step in (*samples, *labels, *comparisons))
    return _step("pairs", "", stage, asdict(stage), folders, run)


def _step(kind: str, name: str, stage: Stage, identity: Any, inputs: tuple[Path, ...], run: Path) -> Step:
    # The inputs' names hold their fingerprints, so this one covers everything that it was made from.
    fingerprint = content_id(kind, stage.version, identity, [folder.name for folder in inputs])[:12]
    folder = run / "-".join(part for part in (kind, name, fingerprint) if part)
    return Step(kind, name, stage, folder, inputs)


def _judging(entry: LabelerEntry) -> dict[str, Any]:
    engine = entry.engine.identity() if entry.engine else None
    asked = {"engine": engine, "reply_tokens": entry.reply_tokens} if engine else {}
    return {
        "labeler": entry.spec.fingerprint(),
        "where": entry.selection,
        "name": entry.label,
        "timeout_s": entry.timeout_s,
        **asked,
    }


def pass_at_of(entry: LabelerEntry) -> float | None:
    """The score from which on the entry's labeler lets pass: the config's, else its own; None when it does not know passing."""
    if entry.pass_at is not None:
        return entry.pass_at
    return getattr(entry.spec.build(), "pass_at", None)
