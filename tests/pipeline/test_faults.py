"""Spoiled files and changed settings, in this process; the full numbers are `python -m tests.e2e.faults --full`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import leaving
from pipeline.errors import Busy, Damaged, EnvironmentLacks
from pipeline.redact import redacted
from pipeline.run import run
from pipeline.storage import lock
from pipeline.storage.damage import Checked, quarantine
from pipeline.storage.lock import locked
from pipeline.storage.mend import mend
from pipeline.storage.shards import COPIES, read_json, read_shard, receipt_of, replacing, write_json, write_twice
from pipeline.storage.storing import storing
from pipeline.storage.verify import verify
from tests.e2e.faults import changes, damages
from tests.e2e.faults.damages import Damage
from tests.e2e.faults.runs import config, remade, shards, write_inputs, written_at


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> damages.Ground:
    """A finished run of three versions, and another run to take strange files from. Each test leaves it whole."""
    return damages.Ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize("kind", ["deleted", "swapped with its receipt", "rotten"])
def test_a_spoiled_shard_is_found_moved_aside_and_alone_made_again(ground, kind):
    damages.survives(ground, Damage("labels", kind, 1))


@pytest.mark.parametrize("place", ["labels receipt", "versions/0001.json"])
def test_a_torn_note_is_found_moved_aside_and_made_again(ground, place):
    damages.survives(ground, Damage(place, "garbled", 1))


def test_rows_of_a_version_are_written_again_to_the_same_bytes(ground):
    damages.survives(ground, Damage("dataset", "flipped", 2))


def test_a_pointer_that_names_no_version_is_set_again(ground):
    damages.survives(ground, Damage("pointer", "dangling", 0))
    assert (ground.run / "dataset").readlink() == Path("versions/0003")


def test_many_damages_at_once_are_all_found_and_they_alone_are_made_again(ground):
    before, when = shards(ground.run), written_at(ground.run)
    spoiled = [ground.damage(each) for each in damages.one_in_each_place()]
    names = {path.relative_to(ground.run).as_posix() for path in spoiled}
    manifests = {f"versions/000{n}.json" for n in (1, 2, 3)}  # one may name a shard that is another now
    assert names <= set(verify(ground.run).damaged) <= names | manifests
    run(config(ground.folder), ground.folder / "runs")
    assert shards(ground.run) == before
    assert remade(when, ground.run) == names
    assert verify(ground.run).damaged == {}


def test_a_stage_that_reads_a_rotten_shard_has_it_made_again_before_it_goes_on(ground):
    damages._hide(ground.run, path := ground.damage(Damage("completions", "flipped", 3)))
    for receipt in (ground.run / "labels-compiles-").parent.glob("labels-*/*.json"):
        receipt.unlink()
    finished = run(config(ground.folder), ground.folder / "runs")
    assert finished.failed == {}
    assert path.relative_to(ground.run).as_posix() in damages.noted(ground.run)
    assert verify(ground.run).damaged == {}


def test_an_unchanged_run_is_not_read_again(ground, monkeypatch):
    run(config(ground.folder), ground.folder / "runs")
    read: list[Path] = []
    monkeypatch.setattr("pipeline.storage.damage.file_sha256", lambda path: read.append(path) or "")
    run(config(ground.folder), ground.folder / "runs")
    assert read == []


def test_a_copied_run_is_read_once_and_nothing_is_made_again(ground, tmp_path):
    copied = tmp_path / "faults"
    shutil.copytree(ground.run, copied, symlinks=True)
    when = written_at(copied)
    finished = run(config(ground.folder), tmp_path)
    assert finished.version is not None
    assert not finished.version.is_new
    assert remade(when, copied) == set()
    assert damages.noted(copied) == damages.noted(ground.run)


def test_a_note_that_cannot_be_made_again_comes_back_from_its_copy(tmp_path):
    write_twice(tmp_path, "history.json", {"events": [1]})
    (tmp_path / "history.json").write_text("{")
    mend(Checked(tmp_path))
    assert read_json(tmp_path / "history.json") == {"events": [1]}
    (tmp_path / COPIES / "history.json").unlink()
    mend(Checked(tmp_path))
    assert read_json(tmp_path / COPIES / "history.json") == {"events": [1]}


@pytest.mark.parametrize("old", ['"a": 1', '"seal"', '"b"'])
def test_a_garbled_letter_anywhere_breaks_the_seal(tmp_path, old):
    write_json(tmp_path / "x.json", {"a": 1, "b": "c"})
    text = (tmp_path / "x.json").read_text()
    for i in range(text.index(old), text.index(old) + len(old)):
        if text[i].isalnum():
            (tmp_path / "x.json").write_text(text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :])
            with pytest.raises(Damaged):
                read_json(tmp_path / "x.json")


def test_quarantine_says_what_when_and_why(tmp_path):
    (tmp_path / "labels-x").mkdir()
    (tmp_path / "labels-x" / "00000.parquet").write_text("half")
    aside = quarantine(tmp_path, tmp_path / "labels-x" / "00000.parquet", "it is half")
    assert (aside / "labels-x" / "00000.parquet").read_text() == "half"
    told = read_json(aside / "why.json")
    assert (told["file"], told["why"]) == ("labels-x/00000.parquet", "it is half")
    assert told["at"]


def test_a_shard_is_not_read_when_its_hash_is_another(ground):
    shard = next(ground.run.glob("pairs-*/00000.parquet"))
    with pytest.raises(Damaged, match="was written with 000000"):
        read_shard(shard, None, "0" * 64)
    assert read_shard(shard, None, receipt_of(shard).sha256).num_rows


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission to write")],
)
def test_what_a_store_refuses_is_said_with_place_room_and_hint(tmp_path, number, says):
    with pytest.raises(EnvironmentLacks) as caught, storing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 3
    for part in (str(tmp_path), says, "bytes are free", "hint:"):
        assert part in str(caught.value)


def test_a_write_that_the_disk_refuses_leaves_nothing_half_written(tmp_path):
    def refused() -> None:
        with replacing(tmp_path / "x.json") as beside:
            beside.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(EnvironmentLacks):
        refused()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_dressed_up(tmp_path):
    with pytest.raises(OSError, match="broken pipe"), storing(tmp_path):
        raise OSError(errno.EPIPE, "broken pipe")


def test_whoever_comes_second_is_told_process_machine_time_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/pipeline/__main__.py", "run", "my.toml", "--set", "dataset.publish_to=secret"])
    with locked(tmp_path), pytest.raises(Busy) as caught, locked(tmp_path):
        pass
    assert f"process {os.getpid()} on " in str(caught.value)
    assert "since 20" in str(caught.value)
    assert "python -m pipeline run my.toml)" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_dead_owners_name_is_not_given_as_the_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    with locked(tmp_path):
        mine = read_json(tmp_path / ".lock.json")
        write_json(tmp_path / ".lock.json", {**mine, "pid": 2**22 + 1})
        with pytest.raises(Busy, match=r"\(process 4194305|it has not said"), locked(tmp_path):
            pass


def test_the_lock_file_names_nobody_once_it_is_let_go(tmp_path):
    with locked(tmp_path):
        pass
    assert not (tmp_path / ".lock.json").exists()


def test_a_secret_of_the_environment_is_never_said(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh1234")
    assert redacted("Incorrect key: abcdefgh1234!") == "Incorrect key: $SOME_API_KEY!"


def test_the_family_of_a_process_are_its_children_and_theirs():
    assert os.getpid() in leaving.family(os.getppid())


def test_a_family_is_told_while_its_members_end():
    forking = "while :; do (:) & (:) & (:) & wait; done"
    with subprocess.Popen(["sh", "-c", forking]) as shell:
        try:
            told = [leaving.family(os.getpid()) for _ in range(2000)]
        finally:
            shell.kill()
    assert all(shell.pid in each for each in told)
    assert leaving.family(shell.pid) == []


@pytest.fixture(scope="module")
def half_finished(tmp_path_factory) -> Path:
    """Inputs, and a run of them that lacks its last pair shard."""
    folder = tmp_path_factory.mktemp("half")
    write_inputs(folder)
    changes.half_finished(folder)
    return folder


CI_CHANGES = ("a labeler's code", "one more prompt")


@pytest.mark.parametrize("change", [c for c in changes.changes() if c.name in CI_CHANGES], ids=lambda c: c.name)
def test_a_change_before_a_resume_makes_exactly_what_depends_on_it(half_finished, tmp_path, change):
    changes.makes_what_depends(half_finished, tmp_path / "run", change)


@pytest.mark.parametrize("change", changes.changes(), ids=lambda c: c.name)
def test_a_change_gives_other_folders_to_what_depends_on_it_and_to_nothing_else(half_finished, tmp_path, change):
    changes.renames_what_depends(half_finished, tmp_path, change)


def test_notes_are_json_with_a_seal(ground):
    for name in ("config.json", "steps.json", "wanted.json", "checked.json", "imported.json", "versions/0001.json"):
        assert "seal" in json.loads((ground.run / name).read_text()), name
