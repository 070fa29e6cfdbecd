"""A whole run: prompts in, a dataset version out. Everything that is finished already is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from pipeline.audit import Audited, audit, labelling
from pipeline.canaries import asking
from pipeline.config import Config
from pipeline.errors import Busy, EnvironmentLacks, PipelineError
from pipeline.evidence import remember_places
from pipeline.executors import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.garbage import want
from pipeline.isolation import require_isolation
from pipeline.plan import Plan, make_plan
from pipeline.progress import Bars
from pipeline.prompts import Imported, import_prompts
from pipeline.report import Family, count, summarize
from pipeline.runner import Outcome, Runner
from pipeline.schema import PAIR_SHARD
from pipeline.shards import read_shard, write_json
from pipeline.versions import Version, publish


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
    """What `run` does, for a caller that holds the folder.

    Args:
        strict: make no version while a shard is missing or there are fewer pairs than `dataset.min_pairs`.
    """
    if config.executor == "ray":
        folder = folder.absolute()  # other machines work in folders of their own
    write_json(folder / "config.json", TypeAdapter(Config).dump_python(config, mode="json"))
    lost = require_isolation(config)
    imported = import_prompts(config.prompts, folder / "prompts")
    plan = make_plan(config, folder)
    want(folder, plan, imported.shards)
    with asking(labelling(plan), config.audit) as ask:  # its labelers start while the engine does
        outcome = perform_all(plan, imported, executor or executor_of(config))
        shards = [work for shard in imported.shards if (work := plan.pairs.folder / shard.name) in outcome.receipts]
        if not shards:
            raise PipelineError(describe_failures(outcome.failed) or f"{folder}: no shard was finished")
        places = remember_places(folder, plan, [shard.name for shard in shards])
        audited = audit(config, plan, places, ask, published=False)
    counts = count(plan, imported.shards, outcome.receipts)
    version = None
    if not (audited.failed and config.audit.enforce) and not (strict and outcome.failed):
        least = config.dataset.min_pairs if strict else 1
        version = publish(folder, config, plan, shards, outcome.receipts, imported.active, counts, lost, least)
    example = _first_pair(shards)
    return Finished(folder, version, imported, summarize(counts), outcome.failed, example, audited)


def executor_of(config: Config) -> Callable[[], Executor]:
    """What starts the config's executor."""
    match config.executor:
        case "local":
            return LocalExecutor
        case "ray":
            from pipeline.executors.ray import RayExecutor

            return lambda: RayExecutor(config.ray)
        case _:
            assert_never(config.executor)


def describe_failures(failed: dict[Path, BaseException]) -> str:
    """The failed shards, a line each."""
    return "\n".join(f"{path.parent.name}/{path.name}: {type(e).__name__}: {e}" for path, e in sorted(failed.items()))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's folder; the lock dies with its owner, however that ends.

    Raises:
        Busy: another run holds it.
        EnvironmentLacks: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise Busy(
            f"{folder}: another run holds this folder; hint: wait for it, or take another --set name=..."
        ) from None
    except OSError as error:
        raise EnvironmentLacks(
            f"{folder}: cannot be written ({error.strerror}); hint: --root another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def perform_all(plan: Plan, imported: Imported, executor: Callable[[], Executor]) -> Outcome:
    """Performs the plan on the imported shards, with progress on stderr."""
    works = plan.works(imported.shards)
    running = executor()
    try:
        with Bars(plan, works, running) as bars:
            return Runner(works, running, bars.update).run()
    finally:
        running.close()


def _first_pair(shards: list[Path]) -> dict[str, Any] | None:
    for shard in shards:
        table = read_shard(shard, PAIR_SHARD)
        if table.num_rows:
            pair: dict[str, Any] = table.slice(0, 1).to_pylist()[0]
            return pair
    return None
