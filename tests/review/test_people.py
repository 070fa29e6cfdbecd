"""What people say is kept whatever happens, reaches the next build, and can come from other tools."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline.auditing import evidence
from pipeline.auditing.evidence import recall_places
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.review.access import Access
from pipeline.review.exchange import export, keep
from pipeline.review.index import Index
from pipeline.review.markup import coloured, compared, escaped
from pipeline.review.people import agreements, next_steps, write_files
from pipeline.review.queue import CONTRADICTED, FLIPPED, Item, queue
from pipeline.review.store import CLAIM_S, Store
from pipeline.run import run
from pipeline.schema import PAIR_SHARD
from pipeline.storage.shards import read_shard
from tests.pipeline.audited import HONEST, Runs, answered
from tests.pipeline.conftest import write_jsonl, write_replay
from tests.review.conftest import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
ITEMS = [Item(f"p{n}", f"a{n}", f"b{n}", float(9 - n), "", {"mine": 1 if n % 2 else -1}) for n in range(4)]


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "people" / "review.sqlite")
    made.offer(ITEMS)
    yield made
    made.close()


def judged(store: Store, reviewer: str, item: Item, best: str, **more: object) -> None:
    asked = store.asked(item.id, reviewer)
    choice = {asked.left_id: "left", asked.right_id: "right"}.get(best, best)
    store.judge(asked, reviewer, choice, **more)


def test_the_most_uncertain_item_comes_first(store):
    assert store.next("ada").prompt_id == "p0"


def test_an_item_that_somebody_looks_at_is_not_given_to_another(store):
    assert [store.next(name).prompt_id for name in ("ada", "bob", "ada")] == ["p0", "p1", "p0"]


def test_an_item_that_was_left_lying_is_given_to_another_after_a_while(store):
    store.next("ada", now=1000.0)
    assert store.next("bob", now=1000.0 + CLAIM_S - 1).prompt_id == "p1"
    assert store.next("cy", now=1000.0 + CLAIM_S + 1).prompt_id == "p0"


def test_a_skipped_item_is_another_reviewers(store):
    judged(store, "ada", ITEMS[0], "skip")
    assert store.next("ada").prompt_id == "p1"
    assert store.next("bob").prompt_id == "p0"
    assert store.verdicts() == []


def test_an_undone_verdict_is_marked_and_its_item_comes_back(store):
    judged(store, "ada", ITEMS[0], "a0")
    judged(store, "ada", ITEMS[1], "b1")
    assert store.undo("ada") == ITEMS[1].id
    assert [given.item_id for given in store.verdicts()] == [ITEMS[0].id]
    assert store.next("ada").item_id == ITEMS[1].id
    assert store.undo("bob") is None


def test_a_second_verdict_on_an_item_takes_the_first_ones_place(store):
    judged(store, "ada", ITEMS[0], "a0")
    judged(store, "ada", ITEMS[0], "b0")
    assert [given.preferred for given in store.verdicts()] == ["b0"]


def test_a_side_is_drawn_for_each_reviewer_and_stays(tmp_path):
    many = [Item(f"p{n}", f"a{n}", f"b{n}", 0.0, "") for n in range(400)]
    store = Store(tmp_path / "s.sqlite")
    store.offer(many)
    for name in ("ada", "bob"):
        lefts = [store.asked(item.id, name).left_id for item in many]
        assert lefts == [store.asked(item.id, name).left_id for item in many]
        assert 150 < sum(left.startswith("a") for left in lefts) < 250
    store.close()


def test_verdicts_outlive_a_new_queue(store):
    judged(store, "ada", ITEMS[3], "a3")
    store.offer(ITEMS[:1])
    assert store.progress("ada") == (1, 1)
    assert [given.prompt_id for given in store.verdicts()] == ["p3"]


def test_verdicts_survive_a_kill(tmp_path):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from pipeline.review.queue import Item; from pipeline.review.store import Store\n"
        "s = Store(Path(sys.argv[1])); i = Item('p', 'a', 'b', 0.0, ''); s.offer([i])\n"
        "s.judge(s.asked(i.id, 'ada'), 'ada', 'left'); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.sqlite")], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path / "s.sqlite")
    assert len(store.verdicts()) == 1
    store.close()


def test_people_who_agree_have_an_alpha_of_one_and_labelers_are_measured_against_their_majority(tmp_path):
    store = Store(tmp_path / "s.sqlite", per_item=2)
    store.offer(ITEMS)
    for item in ITEMS:  # "mine" prefers a for odd items
        for name in ("ada", "bob"):
            judged(store, name, item, item.a_id if item in ITEMS[1:] else item.b_id)
    people, mine = agreements(store)
    assert (people.with_, people.n, people.share, people.alpha) == ("each other", 4, 1.0, 1.0)
    assert (mine.with_, mine.n, mine.share) == ("mine", 4, 0.75)
    assert mine.alpha == pytest.approx(8 / 15)  # 7 / 15 expected by the coincidences of 3 and 5 among 8, 1 / 4 seen
    store.close()


def test_nobody_having_judged_is_no_agreement(store):
    assert [(one.n, one.alpha) for one in agreements(store)] == [(0, None)]


def test_labelers_that_contradict_come_before_small_margins(tmp_path):
    finished = Runs(tmp_path).make(HONEST, answered(12), extra='[[labelers]]\nuse = "length"\nweight = 0.001')
    items = queue(Index(finished.folder), 1000)
    assert len(items) == finished.rows
    ranks = [item.rank for item in items]
    assert ranks == sorted(ranks, reverse=True)
    contrary = [item for item in items if len(set(item.said.values()) - {0}) > 1]
    assert contrary
    assert all(item.rank == CONTRADICTED and item.why == "length disagrees" for item in contrary)
    assert all(item.a_id < item.b_id for item in items)


def test_the_smallest_margins_of_the_whole_run_come_first_however_it_is_cut_into_shards(tmp_path):
    config = write_replay(tmp_path, n_prompts=6, shard_size=2, labeler='use = "length"')
    texts = [["x" * 10, "x" * (10 + 40 * (6 - i))] for i in range(6)]
    rows = [{"prompt": f"write function {i}", "family": "code", "completion": t} for i, t in enumerate(texts)]
    write_jsonl(tmp_path / "completions.jsonl", rows)
    settings = ["audit.enforce=false", "pairs.near_duplicate=1.0"]
    index = Index(run(load(config, settings), tmp_path / "runs").folder)
    assert len(index.places.shards) == 3
    margins = sorted(index.pairs["margin"].to_pylist())
    assert len(set(margins)) == 6
    assert [item.why for item in queue(index, 4)] == [f"margin {margin:.3g}" for margin in margins[:4]]


def test_opening_a_run_reads_no_text(reviewed, monkeypatch):
    read: list[str] = []

    def noted(paths, columns, schema):
        read.extend(columns)
        return evidence.read_columns(paths, columns, schema)

    for module in ("index", "queue"):
        monkeypatch.setattr(f"pipeline.review.{module}.read_columns", noted)
    index = Index(reviewed)
    assert queue(index, 5)
    index.page("pairs", {"order": "small"}, 0, 25)
    assert not {"text", "messages", "prompt", "chosen", "rejected", "token_ids"} & set(read)
    assert index.group(queue(index, 1)[0].prompt_id) is not None
    assert "text" in read


def test_verdicts_that_flip_with_the_order_are_asked_about(tmp_path):
    first = "def compare(self, batch, ctx): return [Verdict('a', '') for c in batch]"
    finished = Runs(tmp_path).make(first, answered(3), "audit.enforce=false", "audit.canaries=0")
    assert finished.rows == 0
    items = queue(Index(finished.folder), 5)
    assert [item.rank for item in items] == [FLIPPED] * 5
    assert all(item.why == "Mine flips with the order" for item in items)


def test_the_next_build_uses_what_people_said(tmp_path):
    runs = Runs(tmp_path)
    folder = runs.make(HONEST, answered(3)).folder
    index, kept = Index(folder), tmp_path / "people"
    store = Store(kept / "review.sqlite")
    items = queue(index, 100)
    store.offer(items)
    for item in items:  # people prefer what the labeler does not
        worse = item.a_id if item.said["Mine"] < 0 else item.b_id
        judged(store, "ada", item, worse)
    store.respond(items[0].prompt_id, "ada", "an answer by hand", None)
    write_files(kept, store, index)
    store.close()
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().split("[[labelers]]")[0] + next_steps(kept))
    finished = run(load(config, ["name=people"]), tmp_path / "runs")
    places = recall_places(finished.folder)
    pairs = [
        row for shard in places.shards for row in read_shard(places.paths("pairs", shard)[0], PAIR_SHARD).to_pylist()
    ]
    assert len(pairs) == len(items)
    assert all(row["chosen"][0]["content"].startswith("bad") and row["labelers"] == ["human"] for row in pairs)
    answers = next(finished.folder.glob("completions-human-*/00000.parquet"))
    assert "an answer by hand" in read_shard(answers)["text"].to_pylist()


def test_a_prompt_whose_metadata_changed_is_shown_once(tmp_path):
    config = write_replay(tmp_path, n_prompts=3)
    run(load(config), tmp_path / "runs")
    prompts = [{"prompt": f"write function {i}", "family": "renamed" if i else "code"} for i in range(3)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    index = Index(run(load(config), tmp_path / "runs").folder)
    assert sorted(index.prompts["family"].to_pylist()) == ["code", "renamed", "renamed"]
    assert index.pairs.num_rows == len(set(index.pairs["pair_id"].to_pylist()))
    for prompt, family in zip(index.prompts["prompt_id"].to_pylist(), index.prompts["family"].to_pylist(), strict=True):
        assert index.group(prompt).family == family


def test_argilla_gets_records_and_gives_verdicts_back(store, reviewed):
    index = Index(reviewed)
    items = queue(index, 6)
    store.offer(items)
    records = export("argilla", items, index)
    assert len(records) == 6
    for record, value in zip(records, ["left", "right", "tie", "both_bad", "left", "right"], strict=True):
        assert set(record) == {"id", "fields", "metadata", "suggestions", "responses", "vectors"}
        record["responses"] = {"verdict": [{"value": value, "user_id": "u-1", "status": "submitted"}]}
    records[5]["responses"]["verdict"][0]["status"] = "discarded"
    _require_kept("argilla", records, store, index, [r["fields"] for r in records])


def test_label_studio_gets_tasks_and_gives_verdicts_back(store, reviewed):
    index = Index(reviewed)
    items = queue(index, 6)
    store.offer(items)
    tasks = export("label-studio", items, index)
    for task, value in zip(tasks, ["left", "right", "tie", "both_bad", "left", "right"], strict=True):
        pairwise = {"from_name": "verdict", "to_name": "left,right", "type": "pairwise", "value": {"selected": value}}
        neither = {"from_name": "neither", "to_name": "prompt", "type": "choices", "value": {"choices": [value]}}
        result = [pairwise if value in ("left", "right") else neither]
        task["annotations"] = [
            {"completed_by": {"id": 3, "email": "u-1"}, "was_cancelled": False, "lead_time": 4.2, "result": result}
        ]
    tasks[5]["annotations"][0]["was_cancelled"] = True
    _require_kept("label-studio", tasks, store, index, [t["data"] for t in tasks])


def _require_kept(tool, records, store, index, fields) -> None:
    path = index.run.parent / f"{tool}.json"
    path.write_text(json.dumps(records))
    assert keep(tool, path, store) == (5, 0)
    for given, shown in zip(store.verdicts(), fields, strict=False):
        group = index.group(given.prompt_id)
        assert (group.completions[given.left_id].text, group.completions[given.right_id].text) == (
            shown["left"],
            shown["right"],
        )
        assert given.reviewer == "u-1"
    assert [given.choice for given in store.verdicts()] == ["left", "right", "tie", "both_bad", "left"]


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a": 1}', "[{}]", '[{"data": {"item_id": "x"}, "annotations": [{"result": [1]}]}]']
)
def test_a_file_that_is_no_export_is_refused_and_keeps_nothing(store, tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="is no export of label-studio"):
        keep("label-studio", tmp_path / "x.json", store)
    assert store.verdicts() == []


def test_verdicts_on_items_of_another_run_are_counted_and_left(store, tmp_path):
    annotation = {"completed_by": 1, "result": [{"from_name": "verdict", "value": {"selected": "left"}}]}
    task = {"data": {"item_id": "elsewhere", "side": "a"}, "annotations": [annotation]}
    (tmp_path / "x.json").write_text(json.dumps([task]))
    assert keep("label-studio", tmp_path / "x.json", store) == (0, 1)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "x" * 65, "a\n", "<b>"])
def test_a_reviewer_needs_a_plain_name(tmp_path, name):
    with pytest.raises(ConfigError, match="is no name"):
        Access(tmp_path, [name])


def test_the_key_is_readable_by_its_owner_alone(tmp_path):
    Access(tmp_path, ["ada"])
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", [*HOSTILE, '{"<script>": "</pre><script>1</script>"}', "def f():\n    return '<script>'", "[" * 9_000]
)
def test_no_text_becomes_markup(text):
    for made in (escaped(text), coloured(text), *compared(text, "good"), *compared("good", text)):
        tags = set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", made))
        assert tags <= {"span", "ins", "del"}
        assert not re.search(r"<[^>]*\bon\w+=", made)
        assert "\u202e" not in made
        assert "\x1b" not in made


def test_json_is_printed_prettily_and_code_is_coloured():
    assert coloured('{"a": [1]}').count("\n") == 4
    assert 'class="c-k"' in coloured("def f(x):\n    return x")
    assert coloured("Just words.") == "Just words."


@pytest.mark.e2e
def test_the_command_prints_a_link_that_opens_the_page_and_leaves_on_an_interrupt(reviewed, tmp_path):
    with _command(reviewed, tmp_path) as (running, port, link):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        refused.value.close()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"Which one is better?" in opener.open(link).read()
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=20)[1]
    assert 'use = "human"' in said
    assert "Traceback" not in said


@pytest.mark.e2e
def test_from_another_address_nobody_gets_in_without_a_token(reviewed, tmp_path):
    address = _own_address()
    with _command(reviewed, tmp_path, "--host", "0.0.0.0") as (_, port, link):
        token = link.partition("/enter")[2]
        asked = ["/", "/pairs", "/enter?token=ada:0", "/enter", f"/enter{token}"]
        # Another process: this one is kept from every address but the loopback's.
        asking = [sys.executable, "-c", ASKING, address, str(port), *asked]
        codes = subprocess.run(asking, capture_output=True, text=True, check=True).stdout.split()
    assert [int(code) for code in codes] == [403, 403, 403, 403, 303]


ASKING = """
import http.client, sys
for path in sys.argv[3:]:
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10)
    connection.request("GET", path)
    print(connection.getresponse().status)
"""


class _command:
    """`python -m pipeline review`, ready to be asked: the process, its port, and ada's link."""

    def __init__(self, run: Path, folder: Path, *more: str) -> None:
        command = [sys.executable, "-m", "pipeline", "review", str(run), "--reviewer", "ada", "--port", "0", *more]
        self.running = subprocess.Popen(
            [*command, "--folder", str(folder / "kept")],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self):
        link = self.running.stderr.readline().partition(": ")[2].strip()
        port = int(re.search(r":(\d+)/enter", link)[1])
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return self.running, port, link
            except OSError:
                assert time.monotonic() < deadline

    def __exit__(self, *error: object) -> None:
        if self.running.poll() is None:
            self.running.kill()
            self.running.communicate()


def _own_address() -> str:
    """An address of this machine that is not the loopback's."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    address = next((one for one in found if "." in one and not one.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no address but the loopback's")
    return address
