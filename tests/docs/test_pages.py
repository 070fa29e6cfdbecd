"""Every code block of README.md, CONTRIBUTING.md and docs/ is run, held against the real program, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, blocks_of, pages
from tests.docs.checks import ELSEWHERE, complaint, is_followed
from tests.docs.shell import commands

PATH = re.compile(
    r"(?<![\w/])(?:tests|docs|benchmarks|pipeline|trainer|labelers|examples|data)/[\w/.-]+\.(?:py|md|toml|json|txt|png)\b"
)
OF_A_READER = {"examples/mine.toml"}


@pytest.mark.parametrize("page", pages())
def test_every_block_is_right_or_says_why_it_is_not_run(page: str, tmp_path: Path) -> None:
    wrong = {block.where: said for block in blocks(page) if (said := complaint(block, tmp_path))}
    assert wrong == {}


@pytest.mark.parametrize("page", pages())
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = set(PATH.findall((ROOT / page).read_text(encoding="utf-8"))) - OF_A_READER
    saved = {block.file for block in blocks(page)}
    assert sorted(name for name in named - saved if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("page", pages())
def test_every_python_block_of_a_page_that_nobody_follows_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language == "python" and not block.not_run and not is_followed(page):
            exec(compile(block.text, block.where, "exec"), {})


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_is_run_elsewhere_is_named_there(page: str) -> None:
    assert page in (ROOT / ELSEWHERE[page]).read_text()


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("```bash\npython -m pipeline run x.toml --limt 3\n```", "No such option: --limt"),
        ("```bash\npython -m pipeline shw runs/x\n```", "No such command 'shw'"),
        ("```bash\npython -m trainer dpo --data a --model b --out c --lamda 3\n```", "unrecognized arguments: --lamda"),
        ("```bash\npython -m labelers explain\n```", "NAME"),
        ("```bash\npython benchmarks/overhead.py --repeat 5\n```", "has no --repeat"),
        ("```bash\nmake everything\n```", "the Makefile has no everything"),
        ("```bash\nkubectl apply\n```", "no command of ours"),
        ("```toml\n[pairs]\nmin_marjin = 1\n```", "did you mean min_margin"),
        ('```toml\n[[labelers]]\nuse = "compile"\n```', "compiles"),
        ("```toml\na = = 1\n```", "Invalid value"),
        ("```json\n{a: 1}\n```", "neither JSON nor lines of it"),
        ("```yaml\na: [1\n```", "expected"),
        ("```\nsomething\n```", "has no language"),
        ("    something\n", "has no language"),
        ("```text\nprinted\n```", "nobody compares"),
        ("```perl\nprint\n```", "in perl, which nobody checks"),
        ("<!-- not run: no -->\n```bash\nkubectl apply\n```", "its reason is none"),
    ],
)
def test_a_wrong_block_is_found(block: str, says: str, tmp_path: Path) -> None:
    (found,) = blocks_of(block, "docs/some.md")
    assert says in complaint(found, tmp_path)


def test_a_reason_above_a_block_is_its_own_and_not_the_next_ones() -> None:
    first, second = blocks_of("<!-- not run: needs a GPU -->\n```bash\na\n```\n\n```bash\nb\n```\n")
    assert (first.not_run, second.not_run) == ("needs a GPU", "")


def test_a_script_is_taken_apart_into_its_commands() -> None:
    script = "A=1 python -m x \\\n  --y 2 >f 2>&1 && b 'c d' | e # f\ncat > g <<'END'\nrm -rf /\nEND\n"
    assert commands(script) == [["python", "-m", "x", "--y", "2"], ["b", "c d"], ["e"], ["cat"]]
