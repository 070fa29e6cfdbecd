"""The report of a run: says whether the dataset is any good, shows why, and obeys nothing that it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.reports.page import write_report
from pipeline.reports.story import read_story
from pipeline.run import run
from tests.pipeline.audited import HONEST, Runs, answered
from tests.pipeline.conftest import write_jsonl, write_replay

HOSTILE = "good <script>alert(1)</script><img src=x onerror=alert(2)> \u202egnp\x1b[31m https://elsewhere.example/a.png"
PASSING = HONEST.replace("def score", "pass_at = 1.0\n    def score")


class Seen(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 prompts, one of which was answered with hostile text."""
    runs = Runs(tmp_path_factory.mktemp("honest"))
    return runs.make(PASSING, {**answered(40), "hostile <marquee>prompt</marquee>": [HOSTILE, "bad"]}).folder


@pytest.fixture(scope="module")
def page(honest: Path) -> str:
    return write_report(honest).read_text(encoding="utf-8")


def test_the_page_answers_first_whether_the_dataset_is_any_good(page):
    assert 'class="verdict ok">Good to train on<' in page
    assert "nothing speaks against them" in page
    assert page.index("Good to train on") < page.index("Can the labels be trusted?")


def test_a_run_whose_audit_fails_is_not_to_be_trusted(tmp_path):
    longest = "def score(self, batch, ctx): return [Score(float(len(c.completion.text))) for c in batch]"
    finished = Runs(tmp_path).make(longest, answered(60))
    assert finished.version is None
    page = write_report(finished.folder).read_text(encoding="utf-8")
    assert 'class="verdict FAIL">Not to be trusted<' in page
    assert "Nothing is published." in page
    first = page[page.index("Can the labels be trusted?") :]
    assert first.index('class="FAIL"') < first.index("checks with nothing to say against")


def test_a_run_without_a_pair_says_so(tmp_path):
    finished = Runs(tmp_path).make(PASSING, {"p": ["good 1", "good 2"]})
    assert "No pairs were made" in write_report(finished.folder).read_text(encoding="utf-8")


def test_hostile_completions_are_shown_and_do_nothing(page):
    seen = Seen(page)
    assert "<script>alert(1)</script>" in seen.text
    assert not seen.tags & {"script", "img", "iframe", "link", "object", "marquee"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_the_page_needs_nothing_from_elsewhere(page):
    links = [value for name, value in Seen(page).attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(str(value).startswith("#") for value in links)
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\((?!#)", page)


def test_the_figures_take_the_colours_of_light_and_dark(page):
    drawn = page[page.index("<svg") : page.rindex("</svg>")]
    assert "var(--ink)" in drawn
    assert "var(--chosen)" in drawn
    assert "#1b66d6" not in drawn
    assert "prefers-color-scheme: dark" in page


def test_each_figure_is_a_png_too(honest, page):
    assert page
    names = {path.name for path in (honest / "report").glob("*.png")}
    assert names == {"pass-rates.png", "scores.png", "lengths.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (honest / "report").glob("*.png"))


def test_the_same_run_gives_the_same_page(honest, page):
    assert write_report(honest).read_text(encoding="utf-8") == page


def test_the_numbers_are_those_of_the_run(honest, page):
    story = read_story(honest)
    assert story.n_pairs == story.version["rows"]
    assert story.total("completions") == 162
    (rate,) = story.rates
    assert (rate.rate, rate.n_prompts) == (pytest.approx(0.5), 41)
    assert f"<b>{story.n_pairs}</b><span>pairs</span>" in page


def test_pass_rates_are_by_family_source_and_temperature(tmp_path):
    config = write_replay(tmp_path, n_prompts=4)
    rows = [{"prompt": f"write function {i}", "completion": ["x = 1", "x ="]} for i in range(4)]
    write_jsonl(tmp_path / "other.jsonl", rows)
    second = '[[sources]]\nname = "others"\nengine = { use = "replay", path = "other.jsonl" }\n[[labelers]]'
    config.write_text(config.read_text().replace("[[labelers]]", second))
    rates = read_story(run(load(config), tmp_path / "runs").folder).rates
    assert [(r.family, r.source, r.rate, r.n_prompts) for r in rates] == [
        ("code", "others", 0.5, 4),
        ("code", "people", 0.5, 4),
    ]


def test_labelers_that_disagree_give_contested_pairs(tmp_path):
    longer = PASSING.replace("class Mine", "class Other")
    extra = '[[labelers]]\nuse = "length"\nweight = 0.001'
    finished = Runs(tmp_path).make(longer, answered(20), extra=extra)
    contested = [example for example in read_story(finished.folder).examples if example.kind == "contested"]
    assert contested
    assert all(example.why == "length scored the rejected higher" for example in contested)


def test_the_examples_take_turns_among_the_families(tmp_path):
    config = write_replay(tmp_path, n_prompts=8)
    prompts = [{"prompt": f"write function {i}", "family": f"family {i % 2}"} for i in range(8)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    examples = read_story(run(load(config), tmp_path / "runs").folder).examples
    clearest = [example.family for example in examples if example.kind == "clearest"]
    assert clearest == ["family 0", "family 1", "family 0", "family 1"]


def test_a_policy_in_the_run_brings_its_training_curves(tmp_path):
    folder = Runs(tmp_path).make(PASSING, answered(4)).folder
    steps = [{"step": n, "loss": 1 / n, "accuracy": 0.5, "margin": 0.1 * n} for n in range(1, 9)]
    (folder / "policy").mkdir()
    write_jsonl(folder / "policy" / "log.jsonl", steps)
    assert "Training of policy, 8 logged steps." in write_report(folder).read_text(encoding="utf-8")
    assert (folder / "report" / "training-policy.png").is_file()


def test_versions_are_compared(tmp_path):
    runs = Runs(tmp_path)
    runs.make(PASSING, answered(6))
    folder = runs.make(PASSING, answered(8)).folder
    page = Seen(write_report(folder).read_text(encoding="utf-8"))
    assert "2 (current)" in page.text
    assert (folder / "report" / "versions.png").is_file()


def test_a_run_that_never_came_to_pairs_is_refused_with_a_hint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="hint"):
        write_report(tmp_path)
