"""Shards, rows and notes that a disk, a crash or a person spoils: each is found, named, and it alone is made again."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.run import run
from pipeline.storage.damage import Checked, stamp
from pipeline.storage.shards import write_json
from pipeline.storage.verify import verify
from tests.e2e.faults.runs import config, remade, shards, write_inputs, written_at

PLACES = ("prompts", "completions", "labels", "comparisons", "pairs", "dataset")
KINDS = ("truncated", "flipped", "deleted", "swapped", "swapped with its receipt", "rotten")
"""`rotten`: one bit is another and the file's times are not, as a disk does it."""
NOTES = (
    "prompts receipt", "completions receipt", "labels receipt", "comparisons receipt", "pairs receipt",
    "config.json", "steps.json", "wanted.json", "checked.json", "imported.json", "audit.json", "history.json",
    "versions/0001.json", "copies/versions/0001.json",
)  # fmt: skip
TEARS = ("empty", "half", "garbled", "of zeros")
POINTERS = ("dangling", "gone", "a file")


@dataclass(frozen=True)
class Damage:
    """What is done to which file. Its seed picks the file and the byte."""

    place: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.place} {self.kind} ({self.seed})"


def damages(n: int, seed: int = 0) -> list[Damage]:
    """`n` damages of shards and rows, every kind and every place among the first."""
    pick = random.Random(seed)
    every = [Damage(place, kind, 0) for place in PLACES for kind in KINDS if (place, kind) != ("dataset", KINDS[4])]
    pick.shuffle(every)
    return [Damage(d.place, d.kind, seed + i) for i, d in enumerate((every * (1 + n // len(every)))[:n])]


def tears(n: int, seed: int = 0) -> list[Damage]:
    """`n` torn notes, each note and each pointer among the first."""
    pick = random.Random(seed)
    first = [Damage(note, pick.choice(TEARS), seed + i) for i, note in enumerate(NOTES)]
    every = first + [Damage("pointer", kind, 0) for kind in POINTERS]
    return (every + [Damage(pick.choice(NOTES), pick.choice(TEARS), seed + 100 + i) for i in range(n)])[:n]


class Ground:
    """A finished run and another one like it, to damage copies of."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.other = folder / "one", folder / "other"
        for inputs, kind in ((self.folder, "function"), (self.other, "method")):
            write_inputs(inputs, kind=kind)
            run(config(inputs), inputs / "runs")
        run(config(self.folder, "pairs.max_per_prompt=1"), self.folder / "runs")  # a second version
        run(config(self.folder), self.folder / "runs")

    @property
    def run(self) -> Path:
        """The finished run."""
        return self.folder / "runs" / "faults"

    def damage(self, damage: Damage) -> Path:
        """Does it. Gives the file that is to be found."""
        if damage.place == "pointer":
            return _mislead(self.run / "dataset", damage.kind)
        path = self._chosen(damage)
        if damage.kind in TEARS:
            _tear(path, damage)
        elif damage.kind.startswith("swapped"):
            self._swap(path, with_receipt="receipt" in damage.kind)
        else:
            _spoil(path, damage)
            if damage.kind == "rotten":
                _hide(self.run, path)
        return path

    def _chosen(self, damage: Damage) -> Path:
        kind, _, receipt = damage.place.partition(" ")
        if "." in kind:
            return self.run / kind
        folders = {"dataset": ["versions/*/data"], "prompts": ["prompts"]}
        used = folders.get(kind) or json.loads((self.run / "steps.json").read_text())["folders"][kind]
        ending = "json" if receipt else "parquet"
        return random.Random(damage.seed).choice(sorted(p for f in used for p in self.run.glob(f"{f}/*.{ending}")))

    def _swap(self, path: Path, *, with_receipt: bool) -> None:
        place = path.relative_to(self.run)
        kind = place.parts[0].partition("-")[0]
        folders = sorted(self.other.glob(f"runs/faults/{kind if kind == 'versions' else kind + '*'}"))
        source = next(p for f in folders for p in sorted(f.rglob(path.name)) if p.read_bytes() != path.read_bytes())
        shutil.copyfile(source, path)
        if with_receipt:
            shutil.copyfile(source.with_suffix(".json"), path.with_suffix(".json"))


def survives(ground: Ground, damage: Damage) -> None:
    """Damages, verifies, runs, verifies. Raises AssertionError with what was not as promised."""
    before, when = shards(ground.run), written_at(ground.run)
    path = ground.damage(damage)
    name = path.relative_to(ground.run).as_posix()
    shard = path.with_suffix(".parquet").relative_to(ground.run).as_posix()
    is_gone_note = damage.kind == "gone"
    said = verify(ground.run).damaged
    assert is_gone_note or {name, shard} & set(said), f"{damage}: verify says {said}"
    finished = run(config(ground.folder), ground.folder / "runs")
    assert finished.failed == {}, damage
    assert (finished.version.number, finished.version.is_new) == (3, False) if finished.version else False, damage
    assert shards(ground.run) == before, f"{damage}: other bytes"
    expected = {shard} if shard in before else set()
    assert remade(when, ground.run) <= expected, f"{damage}: {remade(when, ground.run)} were made again"
    assert verify(ground.run).damaged == {}, damage
    assert is_gone_note or name in noted(ground.run) or shard in noted(ground.run), f"{damage}: no line says so"


def noted(run: Path) -> list[str]:
    """The files that quarantine says lie in it."""
    return [json.loads(why.read_text())["file"] for why in sorted((run / "quarantine").glob("*/why.json"))]


def one_in_each_place() -> list[Damage]:
    """A damage in every place, of every kind that the file's times show."""
    kinds = [kind for kind in KINDS if kind != "rotten"]
    return [Damage(place, kinds[i % len(kinds)], i) for i, place in enumerate(PLACES)]


def _spoil(path: Path, damage: Damage) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(damage.seed).randrange(4, len(content) - 8)
    match damage.kind:
        case "truncated":
            path.write_bytes(content[:place])
        case "flipped" | "rotten":
            content[place] ^= 1 << damage.seed % 8
            path.write_bytes(content)
        case "deleted":
            path.unlink()
        case _:
            raise ValueError(damage.kind)


def _hide(run: Path, path: Path) -> None:
    """Makes the run believe that the file was not touched: nobody can set all of a file's times, so its note is set."""
    checked = Checked.recall(run)
    name = path.relative_to(run).as_posix()
    if name in checked.seen:
        checked.seen[name][1] = stamp(path)
        checked._changed = True
        checked.save()


def _tear(path: Path, damage: Damage) -> None:
    if not path.exists():  # history.json, of a run to which nothing has happened yet
        write_json(path, {"events": []})
    content = bytearray(path.read_bytes())
    match damage.kind:
        case "empty":
            content.clear()
        case "half":
            del content[len(content) // 2 :]
        case "of zeros":
            content[:] = bytes(len(content))
        case "garbled":
            places = [i for i, byte in enumerate(content) if bytes([byte]).isalnum()]
            content[random.Random(damage.seed).choice(places)] ^= 1
    path.write_bytes(content)


def _mislead(pointer: Path, kind: str) -> Path:
    pointer.unlink()
    match kind:
        case "dangling":
            os.symlink("versions/0009", pointer)
        case "a file":
            pointer.write_text("versions/0001")
    return pointer
