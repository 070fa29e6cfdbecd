"""`python -m labelers`: data on stdout, talk on stderr, exit codes 0, 1, 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labelers.cli import main
from labelers.discovery import BUILTIN

ROOT = Path(__file__).parents[2]
SHORT = f"{ROOT}/examples/labeler/short.py:Short"
SOURCE = (ROOT / "examples/labeler/short.py").read_text()


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """score(arguments, lines): (exit code, rows on stdout, stderr)."""

    def scored(arguments: list[str], lines: list[Any]) -> tuple[int, list[dict[str, Any]], str]:
        data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(["score", *arguments])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return scored


def row(completion: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "?", "completion": completion, **more}


def test_list_names_every_labeler_and_what_it_prefers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(BUILTIN)
    assert all("Prefers" in line for line in lines)


def test_list_imports_no_labeler_and_no_parser() -> None:
    code = (
        "import sys; from labelers.cli import main; main(['list', '--json']); "
        "print(sorted({'labelers.compiles', 'jsonschema', 'jsonschema_rs', 'regex', 'jinja2'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.perf_counter() - started < 10  # 0.15 s on two idle cores; the tests share theirs


@pytest.mark.parametrize("name", BUILTIN)
def test_explain_prints_the_page_with_a_sentence_for_every_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", name]) == 0
    page = capsys.readouterr().out
    for part in (
        "## What it prefers",
        "## Why",
        "## Example",
        "## Known problems",
        "## Options",
        "## Checked examples",
    ):
        assert part in page
    options = page.partition("## Options\n")[2].partition("\n\n")[0].splitlines()
    assert [line[:2] for line in options] == ["- ", "  "] * (len(options) // 2)


def test_explain_works_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", SHORT]) == 0
    assert "`limit`: a whole number. Default: 100.\n  The most characters that pass." in capsys.readouterr().out


def test_check_passes_a_right_labeler_and_fails_a_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", SHORT, "--options", '{"limit": 50}']) == 0
    assert "keeps the contract" in capsys.readouterr().err
    (tmp_path / "long.py").write_text(SOURCE.replace("<=", ">"))
    assert main(["check", f"{tmp_path}/long.py:Short"]) == 1
    assert "ranks its examples right" in capsys.readouterr().out


def test_new_writes_a_labeler_that_passes_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_labeler"]) == 0
    assert main(["check", "./my_labeler.py:MyLabeler"]) == 0
    assert main(["new", "my_labeler"]) == 2
    assert main(["new", "no/name"]) == 2


def test_score_answers_every_row_in_order(score: Any) -> None:
    rows = [row("{}"), row("{"), row("[" * 300 + "]" * 300)]
    code, answers, _ = score(["parses"], rows * 50)
    assert code == 0
    assert [(a["value"], a["abstain"]) for a in answers] == [(1.0, None), (0.0, None), (None, "not_applicable")] * 50
    assert set(answers[0]) == {"value", "abstain", "reason"}


def test_score_takes_messages_targets_and_options(score: Any) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    code, answers, _ = score(
        ["regression", "--options", '{"error": "squared"}'], [{"prompt": messages, "completion": "70", "target": 72}]
    )
    assert (code, answers[0]["value"]) == (0, -4.0)


def test_surrogates_and_escapes_come_out_as_ascii_json(score: Any) -> None:
    code, answers, _ = score(
        ["format", "--options", '{"constraints": [{"id": "punctuation:no_comma"}]}'], [row("\ud800 \x1b[31m")]
    )
    assert (code, answers[0]["value"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 3: not a JSON object"),
        (b"[]", "line 3: it is list"),
        (b"\xff", "line 3: not a JSON object"),
        (b'{"prompt": "x"}', "line 3: 'completion' is missing"),
        (b'{"prompt": "x", "completion": 1}', "line 3: completion is int"),
        (b'{"prompt": [], "completion": ""}', "line 3: the prompt is wrong"),
        (b'{"prompt": [{"role": "boss", "content": ""}], "completion": ""}', "line 3: the prompt is wrong"),
        (b"", "line 3: the line is blank"),
    ],
)
def test_a_bad_line_is_named_and_what_came_before_is_still_labelled(score: Any, line: bytes, said: str) -> None:
    code, answers, err = score(["parses"], [row("1"), row("x"), line, row("2")])
    assert (code, [a["value"] for a in answers]) == (2, [1.0, 0.0])
    assert said in err
    assert "hint: " in err


def test_blank_lines_at_the_end_are_fine(score: Any) -> None:
    assert score(["parses"], [row("1"), b"", b" "])[:2] == (0, [{"value": 1.0, "abstain": None, "reason": "it parses"}])


def test_one_poison_row_abstains_and_the_others_are_scored(score: Any, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(SOURCE.replace("len(c.completion.text)", "len(c.completion.text.encode())"))
    code, answers, _ = score([f"{tmp_path}/p.py:Short"], [row("a"), row("\ud800"), row("b")])
    assert code == 0
    assert [(a["value"], a["abstain"]) for a in answers] == [(1.0, None), (None, "crashed"), (1.0, None)]


def test_a_labeler_that_answers_too_little_is_broken(score: Any, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(SOURCE.replace("for c in batch]", "for c in batch[1:]]"))
    code, _, err = score([f"{tmp_path}/p.py:Short"], [row("a"), row("b")])
    assert code == 1
    assert "short (p.py:17): gave 0 labels for 1 items; hint" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["judge"], "labelers.0.use=judge"),
        (["parsez"], "did you mean 'parses'"),
        (["parses", "--options", "{"], "--options is not JSON"),
        (["parses", "--options", "[1]"], "--options is list"),
        (["parses", "--options", '{"allow_nans": true}'], "did you mean 'allow_nan'"),
    ],
)
def test_a_wrong_command_exits_2_with_a_hint(score: Any, arguments: list[str], said: str) -> None:
    code, answers, err = score(arguments, [])
    assert (code, answers) == (2, [])
    assert said in err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -c \"import json\nfor i in range(20000): print(json.dumps(dict(prompt='x', completion='1')))\""
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>/dev/null | {sys.executable} -m labelers score parses | head -1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
