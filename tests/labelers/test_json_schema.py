"""Schemas: jsonschema is the oracle for jsonschema_rs; nothing is fetched; bad schemas abstain."""

from __future__ import annotations

import json
import random
import socket
from typing import Any

import jsonschema
import pytest
import referencing

from labelers.nasty import nasty_texts
from labelers.types import Abstain

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


def test_what_fits_scores_1_and_what_does_not_0(value: Any) -> None:
    assert value("json_schema", '{"name": "A", "age": 3}', target=PERSON) == 1.0
    assert value("json_schema", '{"name": "A", "age": -3}', target=PERSON) == 0.0
    assert value("json_schema", '{"name": "A"}', target=json.dumps(PERSON)) == 0.0


def test_graded_counts_the_errors(value: Any) -> None:
    scores = [
        value("json_schema", t, target=PERSON, score_as="graded")
        for t in ('{"name": "A", "age": 3}', '{"age": 3}', "{}")
    ]
    assert scores == [1.0, 1 / 2, 1 / 3]
    assert value("json_schema", "prose", target=PERSON, score_as="graded") == 0.0


def test_the_option_goes_before_the_target(value: Any) -> None:
    assert value("json_schema", "3", target=PERSON, schema={"type": "integer"}) == 1.0


@pytest.mark.parametrize(
    "text", ['{"name": "A", "age": NaN}', '{"name": "A", "age": 1, "age": 2}', '{"name": "A", "age": 1} ok']
)
def test_the_text_is_read_strictly(value: Any, text: str) -> None:
    assert value("json_schema", text, target=PERSON) == 0.0


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nope"},
        {"pattern": "["},
        {"$ref": "#/nope"},
        {"$schema": "http://unknown.example/schema"},
        "{",
        "[]",
        7,
        [1],
        {"$schema": 5},
    ],
)
def test_a_bad_schema_abstains(value: Any, schema: Any) -> None:
    assert value("json_schema", "{}", target=schema) == "unparsable"


@pytest.mark.parametrize("url", ["http://x.example/s", "https://x.example/s", "file:///etc/passwd", "other.json"])
@pytest.mark.parametrize(
    "beside", [{}, {"contentEncoding": "base64"}, {"$schema": "http://json-schema.org/draft-03/schema#"}]
)
def test_a_schema_is_never_fetched(ask: Any, monkeypatch: pytest.MonkeyPatch, url: str, beside: dict[str, Any]) -> None:
    def no(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", no)
    answer = ask("json_schema", '{"a": 1}', target={**beside, "properties": {"a": {"$ref": url}}})
    assert isinstance(answer, Abstain)
    assert answer.kind == "unparsable"


def test_without_a_schema_it_does_not_apply(value: Any) -> None:
    assert value("json_schema", "{}") == "not_applicable"


@pytest.mark.parametrize("text", ["1e999", "9" * 5000, '"\\ud800"', "[" * 300 + "]" * 300])
def test_values_that_no_validator_reads_alike_are_undecided(value: Any, text: str) -> None:
    assert value("json_schema", text, target={"type": ["number", "string", "array"]}) == "not_applicable"


def test_older_drafts_keep_their_meaning(value: Any) -> None:
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}
    assert value("json_schema", "1.0", target=draft4) == 0.0
    assert value("json_schema", "1.0", target={"type": "integer"}) == 1.0
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#", "contentEncoding": "base64"}
    assert value("json_schema", '"x{"', target=draft7) == 1.0
    assert value("json_schema", '{"a": 1}', target={"dependencies": {"a": ["b"]}}) == 1.0
    assert (
        value("json_schema", "1", target={"$schema": "http://json-schema.org/draft-03/schema#", "type": "string"})
        == 0.0
    )


def test_patterns_are_not_pythons(value: Any) -> None:
    assert value("json_schema", '"a\\n"', target={"pattern": "^a$"}) == 0.0


@pytest.mark.timeout(10)
def test_a_pattern_that_backtracks_ends(ask: Any) -> None:
    ask("json_schema", json.dumps("a" * 5000 + "b"), target={"pattern": r"^(?=a)(a|aa)+\1c$"})


def test_a_nasty_text_gets_an_answer(ask: Any) -> None:
    for text in nasty_texts().values():
        ask("json_schema", text, target=PERSON)


def _random_schema(rng: random.Random, depth: int = 3) -> Any:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice([True, False, {}, {"type": rng.choice(["integer", "string", "null", "boolean", "number"])}])
    inner = [_random_schema(rng, depth - 1) for _ in range(3)]
    return rng.choice(
        [
            {"properties": {"a": inner[0], "b": inner[1]}, "required": rng.sample(["a", "b", "c"], 2)},
            {"type": "object", "additionalProperties": inner[0], "minProperties": rng.randint(0, 2)},
            {"properties": {"a": inner[0]}, "unevaluatedProperties": False},
            {"type": "array", "items": inner[0], "minItems": rng.randint(0, 2), "uniqueItems": rng.random() < 0.5},
            {"prefixItems": inner[:2], "items": inner[2]},
            {"contains": inner[0], "maxContains": 2},
            {"anyOf": inner},
            {"oneOf": inner[:2]},
            {"allOf": inner[:2]},
            {"not": inner[0]},
            {"if": inner[0], "then": inner[1], "else": inner[2]},
            {"enum": [0, 1, "a", None, [1], {"a": 1}]},
            {"const": rng.choice([0, False, 1.0, "a"])},
            {"minimum": 0, "exclusiveMaximum": 3, "multipleOf": rng.choice([1, 2, 0.5])},
            {"minLength": 1, "maxLength": 2, "pattern": rng.choice(["^a", "b$", "[ab]+"])},
            {"dependentRequired": {"a": ["b"]}, "propertyNames": {"maxLength": 1}},
        ]
    )


def _random_value(rng: random.Random, depth: int = 3) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([0, 1, 2, -1, 1.0, 0.5, 3.5, "", "a", "ab", "abc", "é😀", True, False, None, 10**20])
    if rng.random() < 0.5:
        return [_random_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {key: _random_value(rng, depth - 1) for key in rng.sample(["a", "b", "c", "dd"], rng.randint(0, 3))}


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_validator_agrees_with_jsonschema(ask: Any, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        schema = _random_schema(rng)
        if rng.random() < 0.2:
            schema = {"$defs": {"x": schema}, "$ref": "#/$defs/x"}
        oracle = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        for _ in range(5):
            instance = _random_value(rng)
            answer = ask(
                "json_schema", json.dumps(instance), target=schema if isinstance(schema, dict) else json.dumps(schema)
            )
            assert answer.value == float(oracle.is_valid(instance)), (schema, instance)
