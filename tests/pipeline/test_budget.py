"""What judges cost: counted, kept within the budget, and forecast before anything is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from labelers.types import Message
from pipeline import judges
from pipeline.config import Config, load
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, Sampling, Usage
from pipeline.engines.replay import Replay
from pipeline.errors import BudgetSpent, ConfigError
from pipeline.label import Tools
from pipeline.plan import make_plan
from pipeline.prompts import import_prompts
from pipeline.run import run
from pipeline.spending.budget import Asking, Budget, Meter, Price, ask
from pipeline.spending.forecast import Range, forecasts, lines, spread
from pipeline.spending.ledger import LEDGER, Ledger, Spending, told

CHAT = [Message("user", "x" * 250)]


@dataclass
class Counting:
    """An engine that takes 30 tokens for each question and says so, or does not."""

    says: bool = True
    fails_at: int = -1
    info: EngineInfo = EngineInfo("counting")
    asked: list[int] = field(default_factory=list)

    def generate(self, requests: Any) -> Iterator[Generation]:
        self.asked.append(len(requests))
        for number, request in enumerate(requests):
            if number == self.fails_at:
                raise OSError("the engine died")
            usage = Usage(20, 10) if self.says else None
            yield Generation(request.id, (Sampled("y" * 40, "stop"),), usage=usage)

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None: ...


def tools(folder: Path, engine: Any, **budget: int) -> Tools:
    asking = Asking(max_tokens=100, budget=Budget(**budget), ledger=folder / LEDGER)
    return Tools(folder, engine, asking.sampling, meter=asking.meter("judge"))


def ledger(folder: Path) -> dict[str, int]:
    rows = [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]
    return {key: sum(row[key] for row in rows) for key in ("requests", "prompt_tokens", "reply_tokens")}


def test_what_the_engine_says_it_took_is_counted(tmp_path: Path) -> None:
    assert tools(tmp_path, Counting()).generate([CHAT] * 7) == ["y" * 40] * 7
    assert ledger(tmp_path) == {"requests": 7, "prompt_tokens": 140, "reply_tokens": 70}
    assert told(tmp_path, Budget(tokens=500)) == ["judges took 210 of 500 tokens in 7 requests (judge 210)"]


def test_what_an_engine_does_not_say_is_estimated_and_never_nothing(tmp_path: Path) -> None:
    tools(tmp_path, Counting(says=False)).generate([CHAT] * 2)
    assert ledger(tmp_path) == {"requests": 2, "prompt_tokens": 2 * (63 + 16), "reply_tokens": 20}


def test_a_batch_with_room_for_all_that_it_may_take_is_asked_at_once(tmp_path: Path) -> None:
    engine = Counting()
    tools(tmp_path, engine, tokens=10_000).generate([CHAT] * 20)
    assert engine.asked == [20]


def test_near_the_budget_only_what_surely_fits_is_asked_and_nothing_beyond_it(tmp_path: Path) -> None:
    engine = Counting()
    lent = tools(tmp_path, engine, tokens=1000)

    def ask_for_ever() -> None:
        while True:
            lent.generate([CHAT] * 3)

    with pytest.raises(BudgetSpent, match=r"1,000 tokens has no more room: .* hint: raise \[budget\]"):
        ask_for_ever()
    assert 1000 - 216 < sum(engine.asked) * 30 <= 1000


def test_a_budget_of_requests_is_kept(tmp_path: Path) -> None:
    engine = Counting()
    lent = tools(tmp_path, engine, requests=10)
    lent.generate([CHAT] * 6)
    with pytest.raises(BudgetSpent, match="10 requests"):
        lent.generate([CHAT] * 6)
    assert engine.asked == [6]
    lent.generate([CHAT] * 4)


def test_nothing_is_asked_of_a_batch_that_cannot_be_finished(tmp_path: Path) -> None:
    engine = Counting()
    with pytest.raises(BudgetSpent):
        tools(tmp_path, engine, tokens=1000).generate([CHAT] * 100)
    assert engine.asked == []


def test_what_an_earlier_start_spent_counts(tmp_path: Path) -> None:
    tools(tmp_path, Counting()).generate([CHAT] * 30)
    spent = Ledger(tmp_path / LEDGER)
    assert spent.spent().tokens == 900
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"labeler": "judge", "requests": 1, "prompt_to')  # a crash cut this line short
    assert Ledger(tmp_path / LEDGER).spent().tokens == 900


def test_an_engine_that_dies_gives_back_what_was_set_aside(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="died"):
        tools(tmp_path, Counting(fails_at=2), tokens=1000).generate([CHAT] * 4)
    assert ledger(tmp_path)["requests"] == 2
    tools(tmp_path, Counting(), tokens=1000).generate([CHAT] * 4)


def test_threads_share_one_budget_and_wait_for_what_the_others_really_take(tmp_path: Path) -> None:
    """Four shards at once, each of which may take 864 tokens and takes 120: none is refused, and nothing is exceeded."""
    lent = tools(tmp_path, Counting(), tokens=1000)
    failures: list[BaseException] = []

    def shard() -> None:
        try:
            lent.generate([CHAT] * 4)
        except BudgetSpent as error:
            failures.append(error)

    threads = [threading.Thread(target=shard) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert ledger(tmp_path)["requests"] == 16


def test_a_refused_request_costs_nothing(tmp_path: Path) -> None:
    class Refusing(Counting):
        def generate(self, requests: Any) -> Iterator[Generation]:
            return (Generation(request.id, error="too long") for request in requests)

    assert tools(tmp_path, Refusing(), tokens=1000).generate([CHAT] * 3) == [None] * 3
    assert ledger(tmp_path)["prompt_tokens"] == 0


def test_a_reply_that_the_engine_gave_up_is_no_reply(tmp_path: Path) -> None:
    class Broken(Counting):
        def generate(self, requests: Any) -> Iterator[Generation]:
            return (Generation(request.id, (Sampled("[[A]]", "error"),)) for request in requests)

    assert Tools(tmp_path, Broken()).generate([CHAT]) == [None]


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="0 is no limit"):
        Budget(tokens=-1)


def test_a_meter_without_a_limit_only_counts(tmp_path: Path) -> None:
    requests = [Request(str(i), tuple(CHAT), Sampling(n=1, max_tokens=10**9), 0) for i in range(3)]
    parts = [len(part) for part, _ in Meter("judge", tmp_path / LEDGER).slices(requests)]
    assert parts == [3]


def paid(folder: Path, engine: Any, price: Price, **budget: float) -> Tools:
    asking = Asking(max_tokens=100, budget=Budget(**budget), ledger=folder / LEDGER, price=price)  # type: ignore[arg-type]
    return Tools(folder, engine, asking.sampling, meter=asking.meter("judge"))


def test_money_is_counted_by_the_prices_of_prompts_and_of_replies(tmp_path: Path) -> None:
    paid(tmp_path, Counting(), Price(input=1000.0, output=5000.0), money=2.0).generate([CHAT] * 7)
    assert Ledger(tmp_path / LEDGER).spent().money == pytest.approx(7 * (20 * 1000 + 10 * 5000) / 1e6)
    assert told(tmp_path, Budget(money=2.0))[-1] == "that cost 0.49 of 2"


def test_nothing_is_asked_beyond_the_money_and_what_the_next_question_may_cost_is_said(tmp_path: Path) -> None:
    engine = Counting()
    lent = paid(tmp_path, engine, Price(input=1000.0, output=5000.0), money=1.0)

    def ask_for_ever() -> None:
        while True:
            lent.generate([CHAT])

    with pytest.raises(BudgetSpent, match=r"budget of 1 of money has no more room: 0.42 of money are spent.*0.618 of"):
        ask_for_ever()
    assert sum(engine.asked) == 6


def test_a_source_begins_no_shard_that_it_cannot_pay_to_its_end(tmp_path: Path) -> None:
    engine = Counting()
    meter = Meter("fast", tmp_path / LEDGER, Budget(sampled_tokens=1000), Price(), "source")
    shard = [Request(str(i), tuple(CHAT), Sampling(n=2, max_tokens=50), 0) for i in range(4)]
    ask(engine, shard, meter)
    with pytest.raises(
        BudgetSpent, match=r"source fast: .*120 tokens of the sources are spent, and the next 5 requests"
    ):
        ask(engine, [*shard, replace(shard[0], id="4")], meter)
    assert engine.asked == [4]
    assert told(tmp_path, Budget(sampled_tokens=1000)) == ["sources took 120 of 1000 tokens (fast 120)"]


def test_judges_and_sources_share_the_money_and_nothing_else(tmp_path: Path) -> None:
    price = Price(output=1e6)
    source = Meter("fast", tmp_path / LEDGER, Budget(money=25, tokens=60), price, "source")
    ask(Counting(), [Request("1", tuple(CHAT), Sampling(n=1, max_tokens=10), 0)], source)
    lent = paid(tmp_path, Counting(), price, money=25, tokens=1000)
    with pytest.raises(BudgetSpent, match="10 of money are spent"):
        lent.generate([CHAT] * 2)
    assert Ledger(tmp_path / LEDGER).spent() == Spending(0, 0, 30, 10.0)


def test_a_budget_of_money_without_a_price_is_refused(replayed: Any) -> None:
    with pytest.raises(ConfigError, match=r"nothing has a price; hint: price = \{ input"):
        replayed("budget.money=3")


def test_the_plan_says_what_sources_and_judges_will_cost(replayed: Any, tmp_path: Path) -> None:
    prices = ["sources.0.price={input=1.0, output=2.0}", "labelers.0.price={input=10.0}", "budget.money=0.05"]
    config, imported, folder = judged(tmp_path, "sources.0.n=4", "sources.0.max_tokens=10", *prices, make=replayed)
    source, judge = forecasts(config, make_plan(config, folder), imported.shards)
    assert (source.kind, source.name, source.requests) == ("source", "people", Range(4, 4))
    assert source.used is not None
    assert source.used.reply == Range(4 * 4, 4 * 4 * 10)
    assert judge.money.most == pytest.approx(judge.used.prompt.most * 10 / 1e6)  # type: ignore[union-attr]
    said = lines([source, judge], folder, config.budget)
    assert said[-2].startswith("costs 0.0")
    assert said[-1] == "the budget may not last: 0.05 of money"


JUDGED = 'use = "judge"\nmatch_ups = 3\nengine = { use = "replay", path = "completions.jsonl" }'


def judged(tmp_path: Path, *settings: str, make: Callable[..., Config]) -> tuple[Config, Any, Path]:
    make(labeler=JUDGED)
    config = load(tmp_path / "config.toml", settings)
    folder = tmp_path / "runs" / config.name
    imported = import_prompts(config.prompts, folder / "prompts")
    return config, imported, folder


def test_the_forecast_bounds_what_is_asked(replayed: Any, tmp_path: Path) -> None:
    config, imported, folder = judged(tmp_path, "sources.0.n=4", make=replayed)
    (found,) = forecasts(config, make_plan(config, folder), imported.shards)
    assert found.requests == Range(4 * 3 * 2, 4 * 3 * 2)
    assert found.tokens is not None
    per_question = Range(found.tokens.least / 24, found.tokens.most / 24)
    assert 150 < per_question.least < 400 < per_question.most < 2500


def test_votes_widen_the_forecast(replayed: Any, tmp_path: Path) -> None:
    config, imported, folder = judged(tmp_path, "sources.0.n=4", "labelers.0.votes=2", make=replayed)
    (found,) = forecasts(config, make_plan(config, folder), imported.shards)
    assert found.requests == Range(24, 72)


def test_known_completions_narrow_the_forecast_and_judged_shards_leave_it(replayed: Any, tmp_path: Path) -> None:
    config, imported, folder = judged(tmp_path, "sources.0.n=4", "labelers.0.max_abstained=1.0", make=replayed)
    plan = make_plan(config, folder)
    (before,) = forecasts(config, plan, imported.shards)
    run(config, tmp_path / "runs")
    (after,) = forecasts(config, plan, imported.shards)
    assert after.requests == Range(0, 0)
    for shard in plan.of_kind("comparisons")[0].folder.glob("*.json"):
        shard.unlink()
    (known,) = forecasts(config, plan, imported.shards)
    assert known.tokens is not None
    assert before.tokens is not None
    assert known.tokens.most - known.tokens.least < before.tokens.most - before.tokens.least


def test_of_many_shards_some_are_looked_at_and_the_others_are_taken_to_be_like_them(
    replayed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, imported, folder = judged(tmp_path, "sources.0.n=4", "prompts.shard_size=1", make=replayed)
    plan = make_plan(config, folder)
    (exact,) = forecasts(config, plan, imported.shards)
    monkeypatch.setattr("pipeline.spending.forecast.LOOKED_AT", 3)
    (estimated,) = forecasts(config, plan, imported.shards)
    assert estimated.requests == exact.requests == Range(24, 24)
    assert spread(list(map(Path, "abcdefg"))) == list(map(Path, "ace"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["budget.tokens=1000"], "the budget does not last; hint: raise [budget]"),
        (["budget.tokens=20000"], "the budget may not last: 20,000 tokens"),
        (["budget.requests=23"], "does not last"),
        (["budget.tokens=1000000", "budget.requests=24"], "the budget lasts: 1,000,000 tokens and 24 requests"),
    ],
)
def test_the_plan_says_whether_the_budget_lasts(replayed: Any, tmp_path: Path, settings: list[str], says: str) -> None:
    config, imported, folder = judged(tmp_path, "sources.0.n=4", *settings, make=replayed)
    found = forecasts(config, make_plan(config, folder), imported.shards)
    told_lines = lines(found, folder, config.budget)
    assert says in told_lines[-1]
    assert "judge asks its model 24 questions" in told_lines[0]


def test_a_run_beyond_its_budget_stops_keeps_what_is_finished_and_goes_on_with_more(
    replayed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "open", lambda self: _Both(self))
    config, _, folder = judged(tmp_path, "budget.requests=6", "prompts.shard_size=1", make=replayed)
    with pytest.raises(BudgetSpent, match="left to do: 3 of 4 shards of comparisons-judge-"):
        run(config, tmp_path / "runs")
    finished = list(folder.glob("comparisons-*/*.json"))
    assert len(finished) == 1
    more = load(tmp_path / "config.toml", ["budget.requests=24", "prompts.shard_size=1"])
    before = finished[0].read_bytes()
    assert run(more, tmp_path / "runs").rows > 0
    assert finished[0].read_bytes() == before
    assert ledger(folder)["requests"] == 24


def test_what_a_judge_answered_before_a_hard_stop_is_not_paid_again(
    replayed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "open", lambda self: _Both(self))
    monkeypatch.setattr("pipeline.engines.kept.INSTANT", ())
    config, _, folder = judged(tmp_path, "prompts.shard_size=4", "budget.tokens=5500", make=replayed)
    with pytest.raises(BudgetSpent):
        run(config, tmp_path / "runs")
    assert 0 < ledger(folder)["requests"] < 24
    assert list(folder.glob("comparisons-*/*.json")) == []
    run(load(tmp_path / "config.toml", ["prompts.shard_size=4", "budget.tokens=8500"]), tmp_path / "runs")
    assert ledger(folder)["requests"] == 24
    assert list(folder.glob("comparisons-*/.*")) == []


class _Both:
    """Replays completions, and answers a judge's questions by the answers' first difference."""

    def __init__(self, spec: Replay) -> None:
        from pipeline.engines.replay import RunningReplay

        self._replay = RunningReplay(spec)
        self.info = EngineInfo("both")

    def generate(self, requests: Any) -> Iterator[Generation]:
        for request in requests:
            text = request.messages[-1].content
            if "Answer A:" not in text:
                yield from self._replay.generate([request])
                continue
            first, second = text.partition("Answer A:")[2].split("Answer B:")[:2]
            bad = "def f(x:" in first, "def f(x:" in second
            reply = {(False, True): "[[A]]", (True, False): "[[B]]"}.get(bad, "[[C]]")
            yield Generation(request.id, (Sampled(reply, "stop", n_tokens=2),), usage=Usage(300, 2))

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None: ...


def test_a_judge_that_is_a_sources_own_model_is_warned_of_and_the_manifest_says_so(
    replayed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replay, "open", lambda self: _Both(self))
    config, _, folder = judged(tmp_path, make=replayed)
    (warning,) = judges.warnings(config)
    assert "labeler judge and source people are the same model (human)" in warning
    run(config, tmp_path / "runs")
    manifest = json.loads(next((folder / "versions").glob("*.json")).read_text())
    assert manifest["lineage"]["warnings"] == [warning]
    assert f"Warning: {warning}." in (folder / "dataset" / "README.md").read_text()
    assert manifest["lineage"]["labelers"]["judge"]["engine"]["use"] == "replay"
    other = load(tmp_path / "config.toml", ["labelers.0.engine.model=somebody"])
    assert judges.warnings(other) == []


@pytest.mark.parametrize(
    ("labeler", "says"),
    [
        ('use = "reward_model"', 'hint: engine = { use = "reward_model"'),
        ('use = "judge"', 'hint: engine = { use = "http"'),
        ('use = "reward_model"\nengine = { use = "replay", path = "completions.jsonl" }', "cannot ask replay"),
        ('use = "rubric"\nengine = { use = "reward_model", model = "x" }', "cannot ask reward_model"),
        ('use = "rubric"\nengine = { use = "reward_model", modl = "x" }', "did you mean model"),
        (JUDGED + "\nvotes = -1", "votes is 0 or more"),
        (JUDGED + "\n[budget]\ntoken = 5", "did you mean tokens"),
    ],
)
def test_a_labeler_with_the_wrong_engine_is_an_error_before_anything_is_sampled(
    replayed: Any, labeler: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says.replace("{", r"\{")):
        replayed(labeler=labeler)
