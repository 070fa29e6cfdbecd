from __future__ import annotations

from pipeline.observing.funnel import aligned, example, printable, summarize, table

COUNTS = {
    "completions": {"code": {"completions": 8, "tokens": 80, "truncated": 1}, "json": {"completions": 4, "failed": 1}},
    "labels": {"code": {"scored": 6, "passed": 3, "abstained:crashed": 2}, "json": {"scored": 4}},
    "pairs": {
        "code": {"prompts": 2, "pairs": 3, "dropped:duplicate completion": 1},
        "json": {"prompts": 1, "pairs": 0, "dropped:prompt where all tied": 1},
    },
}


def test_the_summary_has_a_row_for_each_family():
    code, json = summarize(COUNTS)
    assert (code.prompts, code.completions, code.pass_rate, code.pairs) == (2, 8, 0.5, 3)
    assert code.abstained == {"crashed": 2}
    assert (json.pass_rate, json.failed, json.dropped) == (None, 1, {"prompt where all tied": 1})


def test_the_table_says_what_was_dropped_and_why():
    text = table(summarize(COUNTS))
    assert "dropped: 1 x duplicate completion" in text
    assert "abstained: 2 x crashed" in text
    assert text.splitlines()[3].split()[:3] == ["all", "3", "12"]


def test_what_a_model_wrote_is_shown_and_never_obeyed():
    hostile = "\x1b[2Jcleared\x07 \u202etxet \x00 \u2066 ok\nnext line é 漢字"
    shown = printable(hostile)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\x00" not in shown
    assert "\\x1b[2Jcleared" in shown
    assert shown.endswith("ok\nnext line é 漢字")


def test_a_long_completion_is_cut_and_says_so():
    pair = {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "x" * 5000}],
        "rejected": [{"role": "assistant", "content": "short"}],
        "score_chosen": 1.0,
        "score_rejected": 0.0,
    }
    assert "(5000 characters)" in example(pair)
    assert len(example(pair)) < 1200


def test_columns_are_aligned():
    assert aligned([("a", 1), ("long", 100)]) == "a       1\nlong  100"
