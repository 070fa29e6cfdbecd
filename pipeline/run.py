"""A whole run: prompts in, a dataset version out. Everything that is finished already is left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from pydantic import TypeAdapter

from pipeline import leaving
from pipeline.auditing.audit import Audited, audit, labelling
from pipeline.auditing.canaries import asking
from pipeline.auditing.evidence import Places, remember_places
from pipeline.auditing.memory import audit_key, recall
from pipeline.carry import carry
from pipeline.config import Config
from pipeline.cycles import seldom_searched
from pipeline.errors import BudgetSpent, Damaged, PipelineError
from pipeline.executors import Executor
from pipeline.executors.ahead import ahead
from pipeline.executors.local import AT_ONCE, LocalExecutor
from pipeline.freed import give_back, trim
from pipeline.imported import Imported
from pipeline.isolation import require_isolation
from pipeline.observing.funnel import Family, count, summarize
from pipeline.observing.progress import Watching
from pipeline.plan import Plan, make_plan
from pipeline.prompts import import_prompts
from pipeline.publishing.versions import Version, publish
from pipeline.runner import Outcome, Runner
from pipeline.schema import PAIR_SHARD
from pipeline.storage.damage import Checked
from pipeline.storage.garbage import want
from pipeline.storage.lock import locked as locked
from pipeline.storage.mend import mend, mend_rows, note_rows
from pipeline.storage.shards import read_shard, write_json
from pipeline.work import Work, finished


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    Args:
        version: the newest; None where no pair was made.
        failed: outputs that could not be made, and why; the version holds all the others.
        audited: what the audit found; where it failed (and is enforced) there is no version.
    """

    folder: Path
    version: Version | None
    imported: Imported
    families: list[Family]
    failed: dict[Path, BaseException]
    example: dict[str, Any] | None
    audited: Audited | None = None

    @property
    def rows(self) -> int:
        """Pairs in the newest version."""
        return self.version.rows if self.version else 0


def run(config: Config, root: Path, executor: Callable[[], Executor] | None = None) -> Finished:
    """Makes what is missing of the run `root`/`config.name` and publishes it.

    Args:
        executor: what starts where work runs; None takes the config's.

    Raises:
        Busy: another run holds the folder.
        PipelineError: what cannot be survived, with where and a hint.
    """
    with locked(root / config.name):
        return build(config, root / config.name, executor)


def build(
    config: Config, folder: Path, executor: Callable[[], Executor] | None = None, *, strict: bool = False
) -> Finished:
    """What `run` does, for a caller that holds the folder. A file that turns out damaged is moved aside and made again.

    Args:
        strict: make no version while a shard is missing or there are fewer pairs than `dataset.min_pairs`.
    """
    if config.executor == "ray":
        folder = folder.absolute()  # other machines work in folders of their own
    checked = Checked.recall(folder)
    mend(checked)
    moved: set[Path] = set()
    if _reads_files_only(config):
        give_back()
    while True:
        try:
            with seldom_searched():
                return _build(config, folder, executor or executor_of(config), checked, strict)
        except Damaged as damage:
            if damage.path in moved or not damage.path.is_relative_to(folder):
                raise  # twice: the disk is at fault, and no rerun mends that
            moved.add(damage.path)
            checked.put_aside(damage.path, damage.what)


def _build(
    config: Config, folder: Path, executor: Callable[[], Executor], checked: Checked, strict: bool
) -> Finished:  # fmt: skip
    write_json(folder / "config.json", TypeAdapter(Config).dump_python(config, mode="json"))
    lost = require_isolation(config)
    plan = make_plan(config, folder)
    with ahead(executor, plan) as executor:
        imported = import_prompts(config.prompts, folder / "prompts", checked)
        want(folder, plan, imported.shards)
        carry(plan, imported, checked)
        outcome, shards, audited = _labelled(config, folder, plan, imported, executor, checked)
    counts = count(plan, imported.shards, outcome.receipts)
    mend_rows(checked)
    version = None
    trim()
    if not (audited.failed and config.audit.enforce) and not (strict and outcome.failed):
        least = config.dataset.min_pairs if strict else 1
        version = publish(folder, config, plan, shards, outcome.receipts, imported.active, counts, lost, least)
    if version and version.is_new:
        note_rows(checked, version.number)
    checked.save()
    example = _first_pair(shards)
    return Finished(folder, version, imported, summarize(counts), outcome.failed, example, audited)


def _labelled(
    config: Config, folder: Path, plan: Plan, imported: Imported, executor: Callable[[], Executor], checked: Checked
) -> tuple[Outcome, list[Path], Audited]:
    """What came of the plan, its pair shards, and what the audit says of them. Where all that is there already, nothing is
    opened: no executor, no engine, no labeler."""
    if standing := _standing(plan.works(imported.shards), checked):
        shards, places = _shards(folder, plan, imported, standing)
        if (found := recall(folder, audit_key(config, places))) is not None:
            return standing, shards, Audited(found)
    with asking(labelling(plan), config.audit) as ask:  # its labelers start while the engine does
        outcome = standing or _within_budget(plan, imported, executor, checked)
        shards, places = _shards(folder, plan, imported, outcome)
        trim()
        return outcome, shards, audit(config, plan, places, ask, published=False)


def _within_budget(plan: Plan, imported: Imported, executor: Callable[[], Executor], checked: Checked) -> Outcome:
    """What came of the plan. Raises: BudgetSpent, with what is left to do."""
    try:
        return perform_all(plan, imported, executor, checked)
    except BudgetSpent as error:
        todo = {step: sum(finished(step.work(shard)) is None for shard in imported.shards) for step in plan.steps}
        left = [f"{n} of {len(imported.shards)} shards of {step.folder.name}" for step, n in todo.items() if n]
        raise BudgetSpent(f"{error}\nleft to do: {', '.join(left)}") from error


def _standing(works: Sequence[Work], checked: Checked) -> Outcome | None:
    """What came of works that are all done; None where one is to do."""
    outcome = Outcome()
    for work in works:
        receipt = checked.finished(work)
        if receipt is None:
            return None
        outcome.receipts[work.output] = receipt
    return outcome


def _shards(folder: Path, plan: Plan, imported: Imported, outcome: Outcome) -> tuple[list[Path], Places]:
    """The pair shards that there are, and where all lies that they were made from."""
    shards = [work for shard in imported.shards if (work := plan.pairs.folder / shard.name) in outcome.receipts]
    if not shards:
        raise PipelineError(describe_failures(outcome.failed) or f"{folder}: no shard was finished")
    return shards, remember_places(folder, plan, [shard.name for shard in shards], imported.active)


def executor_of(config: Config) -> Callable[[], Executor]:
    """What starts the config's executor."""
    match config.executor:
        case "local":
            return partial(_local, config)
        case "ray":
            from pipeline.executors.ray import RayExecutor

            return lambda: RayExecutor(config.ray)
        case _:
            assert_never(config.executor)


def _local(config: Config) -> LocalExecutor:
    """Every core where completions are only read from files; else the executor leaves one to the engine."""
    if _reads_files_only(config):
        return LocalExecutor(os.cpu_count(), AT_ONCE["replay"] + 1)  # while one is read the next one waits for its turn
    return LocalExecutor()


def _reads_files_only(config: Config) -> bool:
    """Whether no engine runs in this process."""
    return all(source.engine.use == "replay" for source in config.sources)


def describe_failures(failed: dict[Path, BaseException]) -> str:
    """The failed shards, a line each."""
    return "\n".join(f"{path.parent.name}/{path.name}: {type(e).__name__}: {e}" for path, e in sorted(failed.items()))


def perform_all(plan: Plan, imported: Imported, executor: Callable[[], Executor], checked: Checked) -> Outcome:
    """Performs the plan on the imported shards, with progress on stderr. What is damaged is moved aside and made again.

    Raises:
        Damaged: a prompt shard is: the import makes it again.
    """
    works = plan.works(imported.shards)
    running, grace_s = executor(), None
    left = {work.output for work in works}
    try:
        while True:
            outcome = _perform(plan, works, running, checked)
            aside = _put_aside(outcome, left, checked)
            if not aside:
                return outcome
            left -= aside
    except KeyboardInterrupt:
        grace_s = leaving.GRACE_S
        raise
    finally:
        running.close(grace_s)
        checked.save()


def _perform(plan: Plan, works: Sequence[Work], running: Executor, checked: Checked) -> Outcome:
    with Watching(plan, works, running) as watching:

        def tick(outcome: Outcome) -> None:
            watching.update(outcome)
            if leaving.asked():
                raise KeyboardInterrupt

        outcome = Runner(works, running, tick, checked.finished).run()
    for output in outcome.made:
        checked.made(output, outcome.receipts[output].sha256)
    return outcome


def _put_aside(outcome: Outcome, outputs: set[Path], checked: Checked) -> set[Path]:
    """Moves aside the shards of `outputs` that were found damaged when they were read, and gives them. Raises: Damaged."""
    damaged = {
        error.path.with_suffix(".parquet"): error for error in outcome.failed.values() if isinstance(error, Damaged)
    }
    for path, error in damaged.items():
        if path not in outputs:
            raise error  # a prompt shard, or one that was made again already: the disk is at fault
        checked.put_aside(path, error.what)
    return set(damaged)


def _first_pair(shards: list[Path]) -> dict[str, Any] | None:
    for shard in shards:
        table = read_shard(shard, PAIR_SHARD)
        if table.num_rows:
            pair: dict[str, Any] = table.slice(0, 1).to_pylist()[0]
            return pair
    return None
