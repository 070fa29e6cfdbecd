"""Are a run's labels to be trusted? Every check on one screen; `python -m pipeline audit RUN`, and at the end of each build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.auditing.agreement import agreement
from pipeline.auditing.canaries import Asked, Lend, asking, canaries
from pipeline.auditing.confounds import abstentions, confounds, entangled, noise, orders
from pipeline.auditing.defects import Tally
from pipeline.auditing.drawn import Drawn
from pipeline.auditing.evidence import Evidence, Places, evidence_of, read_published, recall_places
from pipeline.auditing.facts import Facts
from pipeline.auditing.limits import Finding, State, worst
from pipeline.auditing.lookers import looked_at
from pipeline.auditing.memory import AUDIT, audit_key
from pipeline.auditing.overlap import repeated, text_of
from pipeline.auditing.planting import Planter
from pipeline.compare import Compare
from pipeline.config import Config, stored_config
from pipeline.freed import trim
from pipeline.judges import warnings
from pipeline.label import Label
from pipeline.plan import Plan, make_plan
from pipeline.prompts import chats_of
from pipeline.storage.shards import write_json

BY_DESIGN = {"length": ("length",), "source": ("weak_vs_strong",), "place": (), "temperature": ()}
"""Trait -> the labelers that are meant to follow it."""


@dataclass(frozen=True)
class Audited:
    """What an audit found, a line for each check."""

    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """`FAIL` when one check failed, `warn` when one warned, else `ok`."""
        return worst(self.findings)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.state == "FAIL")


@dataclass
class Reading:
    """What one pass over the shards gathers; it takes as much memory for a thousand shards as for ten."""

    planter: Planter
    tally: Tally
    facts: Drawn = field(default_factory=Drawn)
    prompts: dict[str, str] = field(default_factory=dict)
    n_pairs: int = 0

    def shard(
        self, evidence: Evidence, signs: Mapping[str, float] | None, is_spotless: bool | None, *, keep_prompts: bool
    ) -> None:
        """Takes one shard's evidence."""
        self.tally.shard(evidence, signs, is_spotless=is_spotless)
        self.facts.shard(evidence)
        self.planter.shard(evidence)
        self.n_pairs += evidence.pairs.num_rows
        if keep_prompts:
            self.prompts.update({i: text_of(said) for i, said in chats_of(evidence.prompts).items()})


def audit(config: Config, plan: Plan, places: Places, ask: Asked, *, published: bool = True) -> Audited:
    """Looks at every label and pair of a build, and asks the labelers the planted questions.

    Args:
        ask: what `asking(labelling(plan), config.audit)` gave: the labelers, opened beside what else there was to do.
        published: compare the published dataset with the shards, too.

    Raises:
        UnreadableShard: a file of the run is damaged.
    """
    settings = config.audit
    signs = {entry.label: -1.0 if entry.weight < 0 else 1.0 for entry in config.labelers}
    residual = config.pairs.length == "residualise"
    reading = Reading(Planter(max(settings.canaries, settings.costly_canaries)), Tally(compares=published))
    stages, compared = labelling(plan), None if residual else signs
    for shard, is_spotless in zip(places.shards, looked_at(places, compared), strict=True):
        # Read in the call: a name of its own would hold one shard's evidence while the next one's is read.
        reading.shard(evidence_of(places, shard), compared, is_spotless, keep_prompts=bool(settings.heldout))
        trim()
    for rows in read_published(places.run) if published else ():
        reading.tally.published(rows)
    planted = list(canaries(ask(reading.planter.planted()), stages, settings, signs))
    findings = tuple(_findings(config, stages, reading, planted))
    audited = Audited(findings)
    write_json(places.run / AUDIT, {**as_json(audited), "of": audit_key(config, places)})
    return audited


def audit_run(run: Path, lend: Lend | None = None) -> Audited:
    """The audit of a finished run, from its files.

    Args:
        lend: opens the engine of a labeler that asks a model; None: those are not asked.

    Raises:
        ConfigError: its stored configuration is of another version, or names what is not there any more.
    """
    config = stored_config(run)
    plan = make_plan(config, run)
    with asking(labelling(plan), config.audit, lend) as ask:
        return audit(config, plan, recall_places(run), ask)


def labelling(plan: Plan) -> list[Label | Compare]:
    """The stages that label, one for each labeler."""
    found = {step.name: step.stage for step in plan.steps}
    return [stage for stage in found.values() if isinstance(stage, Label | Compare)]


def _findings(
    config: Config, stages: Sequence[Label | Compare], reading: Reading, planted: Sequence[Finding]
) -> Iterator[Finding]:
    settings, facts = config.audit, reading.facts.together()
    symmetric = [s.name for s in stages if isinstance(s, Compare) and getattr(s.labeler.build(), "symmetric", False)]
    yield _pairs(reading, facts)
    yield from reading.tally.findings()
    yield from planted
    if reading.facts.n_left_out:
        yield Finding("sample", "ok", reading.facts.described(), n=facts.labels.num_rows)
    yield from confounds(facts, settings, by_design(config))
    yield from entangled(facts)
    yield from (Finding("judge", "warn", said) for said in warnings(config))
    yield from orders(facts, settings, symmetric)
    yield from noise(facts, settings, symmetric)
    yield from agreement(facts, settings)
    yield from abstentions(facts, settings)
    yield repeated(reading.prompts, settings, config.prompts)


def by_design(config: Config) -> dict[str, frozenset[str]]:
    """Trait -> the run's labelers that follow it on purpose."""
    return {
        trait: frozenset(entry.label for entry in config.labelers if entry.use in labelers)
        for trait, labelers in BY_DESIGN.items()
    }


def _pairs(reading: Reading, facts: Facts) -> Finding:
    """How many pairs there are, and where there is none, why."""
    n = reading.n_pairs
    if n:
        return Finding(
            "pairs", "ok", f"{n} of {reading.facts.n_labels} scores and {reading.facts.n_comparisons} verdicts", n=n
        )
    rows = facts.comparisons.select(["prefers", "prefers_forward", "prefers_backward"]).to_pylist()
    flipped = sum({row["prefers_forward"], row["prefers_backward"]} == {"a", "b"} for row in rows)
    why = f"; {flipped} of {len(rows)} verdicts flip with the order, and a flip is a tie" if flipped else ""
    return Finding("pairs", "warn", f"none{why}; hint: the run's table says what was dropped", 0.0)


def as_json(audited: Audited) -> dict[str, Any]:
    """The audit for scripts."""
    return {"state": audited.state, "findings": [asdict(finding) for finding in audited.findings]}


def table(findings: Sequence[Finding], width: int = 118) -> str:
    """The audit for people: a line for each check."""
    wide = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for f in findings:
        chance = "" if f.p is None else f" (p {f.p:.2g})"
        text = f"{f.state:7}  {f.check:{wide}}  {f.seen}{chance}"
        lines.append(text if len(text) <= width or f.state in ("FAIL", "warn") else f"{text[: width - 3]}...")
    return "\n".join(lines)
