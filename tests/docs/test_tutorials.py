"""The tutorials do what they say: each is followed from its first block to its last, and prints what the page shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.docs.checks import ELSEWHERE, is_followed
from tests.docs.running import RECORDED, VLLM, Ran, checkout, follow, shows
from tests.docs.stand_in import server
from tests.serving import serving

PAGES = [page for page in pages() if is_followed(page) and page not in ELSEWHERE]
STAND_IN = "http://127.0.0.1:8000/v1"


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    """The address of the stand-in judge."""
    with serving(server()) as answering:
        yield answering.url


def wanted(found: list[Block]) -> dict[str, str]:
    """Block -> what the page says that it prints: the text right behind it."""
    return {
        before.where: after.text
        for before, after in itertools.pairwise(found)
        if after.language == "text" and not after.not_run
    }


def wrong(done: list[Ran], prints: dict[str, str]) -> dict[str, str]:
    """Block -> why it is not what the page says."""
    failed = {ran.block.where: f"exit code {ran.code}\n{ran.printed}\n{ran.said}" for ran in done if ran.code}
    other = {
        ran.block.where: f"the page says\n{prints[ran.block.where]}\nit prints\n{ran.printed}"
        for ran in done
        if ran.block.where in prints and not shows(prints[ran.block.where], ran.printed)
    }
    return {**other, **failed}


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_does_what_it_says(page: str, tmp_path: Path, judge: str) -> None:
    found = blocks(page)
    here = [Block(**{**vars(block), "text": block.text.replace(STAND_IN, judge)}) for block in found]
    done = follow(here, checkout(tmp_path), recording=Path(page).stem, OPENAI_API_KEY="none")
    assert wrong(done, wanted(found)) == {}
    assert len(done) == sum(b.language in ("bash", "python") and not b.not_run and not b.file for b in found)


@pytest.mark.parametrize("page", PAGES)
def test_every_text_of_a_tutorial_is_the_output_of_a_block_that_is_run(page: str) -> None:
    found = blocks(page)
    for before, after in zip([None, *found], found, strict=False):
        if after.language == "text" and not after.not_run:
            assert before is not None, after.where
            assert before.language in ("bash", "python"), after.where
            assert not before.not_run, after.where


@pytest.mark.parametrize("recording", sorted(RECORDED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_recording_is_of_the_config_that_its_page_shows(recording: Path) -> None:
    (config,) = [b.text for b in blocks(f"docs/tutorials/{recording.stem}.md") if b.file and VLLM.search(b.text)]
    rows = [json.loads(line) for line in recording.read_text(encoding="utf-8").splitlines()]
    assert f"n = {sum(len(row['completion']) for row in rows) // len({row['prompt'] for row in rows})}" in config
    prompts = {json.loads(line)["prompt"] for line in (ROOT / "data/prompts/train.jsonl").read_text().splitlines()}
    assert {row["prompt"] for row in rows} <= prompts


@pytest.mark.parametrize(
    ("page", "printed", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("a\nb\n", "a\nc\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\n", False),
        ("took ... s", "took 12.3 s", True),
        ("a (1.5)", "a (115)", False),
        ("", "a", False),
    ],
)
def test_three_dots_on_a_page_stand_for_anything(page: str, printed: str, same: bool) -> None:
    assert shows(page, printed) is same
