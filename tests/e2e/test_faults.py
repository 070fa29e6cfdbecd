"""Disks, locks, signals, clocks and secrets, through the command line; the full numbers: `python -m tests.e2e.faults --full`."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from pipeline.run import run
from pipeline.storage.verify import verify
from tests.e2e.faults import clocks, disks, races, secrets, stops
from tests.e2e.faults.runs import cli, config, shards, write_inputs
from tests.e2e.test_kill import children, require_gone, started

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, more="")
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs) -> Path:
    """The root of a run that nothing happened to."""
    run(config(inputs), inputs / "undisturbed")
    return inputs / "undisturbed"


@pytest.fixture(scope="module")
def expected(undisturbed) -> dict[str, bytes]:
    return shards(undisturbed / "faults")


def test_a_full_disk_is_exit_3_and_the_same_command_goes_on_once_there_is_room(inputs, undisturbed, expected, tmp_path):
    if disks.may_mount():
        said = disks.fills_up(inputs, disks.used_by(undisturbed) // 2, expected)
    else:  # a user without rights: a limit on files instead of a full disk
        said = disks.files_may_not_grow(inputs, 3000, tmp_path, expected)
    assert said.startswith("exit 3")


def test_a_permission_that_is_lost_in_the_middle_is_exit_3_and_nothing_is_lost(inputs, expected, tmp_path):
    assert disks.loses_permission(inputs, tmp_path / "runs", expected).startswith("exit 3")


def test_a_read_only_run_can_be_looked_at_and_a_run_there_says_why_not(inputs, undisturbed, tmp_path):
    if not disks.may_mount():
        pytest.skip("needs the right to mount a folder read-only")
    with disks.read_only(undisturbed) as there:
        for asked in ("status", "show", "verify", "versions"):
            done = cli(asked, there / "faults")
            assert done.returncode == 0, f"{asked}: {done.stderr}"
        refused = cli("run", inputs / "config.toml", "--root", there)
    assert refused.returncode == 3
    assert "the file system is read-only" in refused.stderr


def test_of_four_starters_one_works_and_the_others_say_who(inputs, tmp_path):
    races.race(inputs, tmp_path / "runs")


def test_sigterm_ends_a_run_within_seconds_and_the_same_command_gives_the_same_bytes(inputs, expected):
    stops.stops(inputs, 9, 0.02, signal.SIGTERM, expected)


def test_ctrl_c_drops_a_labeler_that_thinks_for_ten_minutes(tmp_path):
    stopped = stops.stops_while_busy(tmp_path / "busy", times=1)
    assert stopped.code == 130
    assert stopped.seconds < stops.WITHIN_S
    assert "the same command goes on from there" in stopped.said
    assert "Traceback" not in stopped.said


def test_sigterm_ends_a_run_while_vllm_samples_and_leaves_no_process_and_no_damage(tmp_path):
    running = started(tmp_path)
    family = children(running.pid)
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=400)
    assert running.returncode == 130, said[-2000:]
    assert time.monotonic() - began < stops.WITHIN_S
    require_gone(family)
    assert verify(tmp_path / "quickstart").damaged == {}


def test_clocks_that_jump_by_days_change_nothing(inputs, expected, tmp_path):
    clocks.jumps(inputs, tmp_path / "clock", expected)


def test_no_key_or_token_is_in_any_file_or_word(inputs, tmp_path):
    secrets.keeps_secrets(inputs, tmp_path)
