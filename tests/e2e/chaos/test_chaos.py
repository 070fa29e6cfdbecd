"""A small, seeded part of `python -m tests.e2e.chaos --full`: every stage and the publishing, killed at random moments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.chaos.kills import Fire
from tests.e2e.chaos.publishing import publish_under_fire
from tests.e2e.chaos.runs import STAGES, Golden, contents, doubled, make_golden
from tests.e2e.chaos.watcher import torn
from tests.e2e.chaos.zygote import Zygote

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote.started() as started:
        yield started


@pytest.fixture(scope="module")
def golden(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return make_golden(zygote, tmp_path_factory.mktemp("chaos"), shards=24)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_again_and_again_in_a_stage_comes_to_the_same_bytes(stage, zygote, golden, tmp_path):
    verdict = Fire(zygote, golden, stage, tmp_path, seed=0).run(kills=2)
    assert verdict.passed, verdict
    assert verdict.kills == 2
    assert verdict.most_lost <= 1
    assert verdict.files > len(contents(golden.folder)) // 2
    assert verdict.looks > 20


def test_a_reader_of_the_dataset_always_sees_one_whole_version(zygote, golden, tmp_path):
    found = publish_under_fire(zygote, golden, tmp_path, kills=3, seed=0)
    assert (found.mixtures, found.failed) == (0, [])
    assert found.versions >= 2
    assert found.readings > 20
    assert found.loadings >= 1


def test_what_the_harness_looks_for_it_would_find(golden, tmp_path):
    folder = tmp_path / "chaos"
    golden.before("end", folder)
    assert golden.differences(folder) == []
    shard = next(folder.glob("pairs-*/00003.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    assert golden.differences(folder) == [str(shard.relative_to(folder))]
    assert "ArrowInvalid" in torn(shard)
    assert "another shard" in torn(shard.with_suffix(".json"))
    shard.write_bytes(whole)
    (Path(shard.parent) / "00099.parquet").write_bytes(whole)
    assert doubled(folder, "pairs-", "pair_id")
