"""The table and figures of an evaluation, and what models may be called."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.cli.evaluate import _models
from pipeline.errors import ConfigError
from pipeline.evaluating.evaluate import Measured
from pipeline.evaluating.evaluation import as_json, best_of_points, draw_frontier, draw_temperatures, standings, table
from pipeline.evaluating.measures import Answer, Estimate


def answers(*passed: int) -> list[Answer]:
    return [Answer(f"answer {i} {p}", 10, bool(p), float(p)) for i, p in enumerate(passed)]


@pytest.fixture
def measured() -> Measured:
    """A reference that passes 1 of 4 and a policy that passes 3 of 4, on 20 prompts at two temperatures."""
    found, rates = {}, {}
    for model, passed in (("policy", (1, 1, 1, 0)), ("reference", (1, 0, 0, 0))):
        for temperature in (0.5, 1.0):
            found[model, temperature] = {f"p{i}": answers(*passed) for i in range(20)}
            rates[model, temperature] = {"code": {f"p{i}": sum(passed) / 4 for i in range(20)}}
    return Measured(rates, 4, found)


def test_the_reference_comes_first_and_is_not_measured_against_itself(measured):
    rows = standings(measured, "reference", {}, {}, kl=False)
    assert [(row.model, row.temperature) for row in rows] == [
        ("reference", 0.5), ("reference", 1.0), ("policy", 0.5), ("policy", 1.0),
    ]  # fmt: skip
    assert [row.wins is None for row in rows] == [True, True, False, False]


def test_a_policy_is_measured_against_the_reference_at_the_same_temperature(measured):
    row = standings(measured, "reference", {}, {}, kl=False)[-1]
    assert row.gain == Estimate(0.5, 0.5, 0.5, 20)
    assert row.wins.value == pytest.approx(0.75 * 0.75 + 0.5 * (0.75 * 0.25 + 0.25 * 0.75))
    assert row.pass_rate.value == 0.75


def test_best_of_n_of_the_reference_goes_up_to_its_samples(measured):
    points = list(best_of_points(measured, "reference"))
    assert [n for n, _, _ in points] == [1, 2, 4]
    assert [rate.value for _, _, rate in points] == pytest.approx([0.25, 0.5, 1.0])


def test_the_figures_are_drawn(measured, tmp_path):
    rows = [
        replace(row, kl=Estimate(0.5, 0.4, 0.6, 20)) if row.model == "policy" else row
        for row in standings(measured, "reference", {}, {}, kl=False)
    ]
    draw_temperatures(rows, tmp_path / "t.png")
    draw_frontier(rows, measured, "reference", tmp_path / "f.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))


def test_a_script_and_a_person_get_the_same_numbers(measured):
    rows = standings(measured, "reference", {}, {}, kl=False)
    said = json.loads(json.dumps(as_json(rows, measured)))
    assert said["standings"][-1]["gain"]["value"] == 0.5
    assert "+50.0 [+50.0, +50.0]" in table(rows)


@pytest.mark.parametrize("given", [[], ["policy"], ["=x"], ["a="], ["a b=x"], ["../a=x"]])
def test_a_model_is_given_with_a_name(given):
    with pytest.raises(ConfigError, match="hint"):
        _models(given)


def test_models_keep_their_order():
    assert _models(["b=x/y=z", "a-1=w"]) == {"b": "x/y=z", "a-1": "w"}
