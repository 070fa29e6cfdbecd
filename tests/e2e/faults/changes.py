"""Something changes before a run goes on: exactly the stages that depend on it are made again, never a mixture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.label import Label
from pipeline.plan import make_plan
from pipeline.run import run
from pipeline.storage.shards import receipt_of
from tests.e2e.faults.runs import config, remade, written_at
from tests.pipeline.conftest import write_jsonl

LABELS, COMPARISONS = {"labels-compiles", "labels-Size"}, {"comparisons-Rank"}
JUDGED = {*LABELS, *COMPARISONS, "pairs"}
ALL = {"completions-people", *JUDGED}


@dataclass(frozen=True)
class Change:
    """What is changed, and the stages that are to be made again.

    Args:
        settings: laid over the config.
        edit: done to the inputs' folder.
        stages: folders' names without the fingerprint.
        shards: of each such stage; None is all.
    """

    name: str
    stages: set[str]
    settings: tuple[str, ...] = ()
    edit: Callable[[Path], None] = lambda folder: None
    code: Callable[[], object] | None = None
    shards: frozenset[str] | None = None


def changes() -> list[Change]:
    """The table."""
    return [
        Change("completions asked for per prompt", ALL, ("sources.0.n=9",)),
        Change("the run's seed", ALL, ("seed=7",)),
        Change("the source's model", ALL, ("sources.0.engine.model=other",)),
        Change("the file of completions", ALL, edit=_other_completions),
        Change("a labeler's option", {"labels-Size", "pairs"}, ("labelers.1.options={odd=1}",)),
        Change("a labeler's version", {"labels-Size", *COMPARISONS, "pairs"}, edit=_new_version),
        Change("a labeler's code", {"labels-Size", *COMPARISONS, "pairs"}, edit=_new_code),
        Change("a labeler's prompts", {"labels-compiles", "pairs"}, ("labelers.0.where={family='code'}",)),
        Change("what counts as passing", {"labels-Size", "pairs"}, ("labelers.1.pass_at=0.5",)),
        Change("a labeler's weight", {"pairs"}, ("labelers.1.weight=2.0",)),
        Change("a pair rule", {"pairs"}, ("pairs.max_per_prompt=1",)),
        Change("a stage's code", {*LABELS, "pairs"}, code=_newer_labelling),
        Change("the licence alone", set(), ("dataset.license=mit",)),
        Change("one more prompt", {"prompts", *ALL}, edit=_one_more_prompt, shards=frozenset({"00003.parquet"})),
    ]


def makes_what_depends(ground: Path, folder: Path, change: Change) -> str:
    """Copies a half-finished run, changes something, goes on. Raises AssertionError unless the right stages were made."""
    shutil.copytree(ground, folder, symlinks=True)
    root, made_half = folder / "runs", folder / "runs" / "faults"
    change.edit(folder)
    when = written_at(made_half)
    with change.code() if change.code else _as_it_is():  # type: ignore[attr-defined]
        chosen = config(folder, *change.settings)
        finished = run(chosen, root)
        plan = make_plan(chosen, made_half)
    assert finished.failed == {}
    unfinished = {"pairs"} if not change.shards else set()  # the half-finished run lacked one shard of them
    made: dict[str, set[str]] = {}
    for name in remade(when, made_half):
        stage, _, shard = name.rpartition("/")
        if not name.startswith("versions/"):
            made.setdefault(stage if stage == "prompts" else stage.rpartition("-")[0], set()).add(shard)
    expected = {f"{stage}" for stage in change.stages}
    assert expected <= set(made) <= expected | unfinished, f"{change.name}: {made}"
    for stage in expected:
        assert made[stage] >= (change.shards or {f"0000{i}.parquet" for i in range(3)}), f"{change.name}: {made}"
    require_no_mixture(plan, finished)
    return ", ".join(sorted(expected)) or "nothing"


def renames_what_depends(ground: Path, folder: Path, change: Change) -> None:
    """The same by the folders' names alone, which is quick: what is to be made again has another one, the rest has not."""
    changed = folder / "changed"
    shutil.copytree(ground, changed, symlinks=True)
    change.edit(changed)
    with change.code() if change.code else _as_it_is():  # type: ignore[attr-defined]
        after = {step.folder.name for step in make_plan(config(changed, *change.settings), folder).steps}
    before = {step.folder.name for step in make_plan(config(ground), folder).steps}
    stages = {name.rpartition("-")[0] for name in after - before}
    assert stages == (set() if change.shards else change.stages), change.name


def require_no_mixture(plan, finished) -> None:
    """Every shard of the version was made of the very inputs that the plan names, down to the prompts."""
    manifest = json.loads((finished.folder / "versions" / f"{finished.version.number:04d}.json").read_text())
    for shard in manifest["shards"]:
        assert (finished.folder / shard["path"]).parent == plan.pairs.folder
        for step in plan.steps:
            work = step.work(finished.folder / "prompts" / Path(shard["path"]).name)
            assert receipt_of(work.output).inputs == tuple(receipt_of(path).sha256 for path in work.inputs), work


def half_finished(folder: Path) -> None:
    """A run in `folder`/runs whose last pair shard was not made."""
    run(config(folder), folder / "runs")
    for path in (folder / "runs" / "faults").glob("pairs-*/00002.*"):
        path.unlink()


def _other_completions(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    write_jsonl(folder / "completions.jsonl", [{**row, "completion": row["completion"][::-1]} for row in rows])


def _new_version(folder: Path) -> None:
    text = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(text.replace('"size", "1"', '"size", "2"'))


def _new_code(folder: Path) -> None:
    text = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(text.replace("% 2 == self.odd", "% 2 != self.odd"))


def _one_more_prompt(folder: Path) -> None:
    row = {"prompt": "write function 99", "family": "code"}
    with (folder / "prompts.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextmanager
def _newer_labelling() -> Iterator[None]:
    before = Label.version
    Label.version = f"{before}+1"
    try:
        yield
    finally:
        Label.version = before


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
