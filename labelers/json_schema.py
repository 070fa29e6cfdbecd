"""Does a completion fit a JSON Schema?"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.fences import Extract, extract
from labelers.protocol import Context
from labelers.strict_json import NotJson, Undecided, read_json
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

Problems = Callable[[Any], Iterable[str]]
"""The messages of what is wrong with a value; none when it fits."""

MAX_ERRORS = 1_000
"""Errors beyond these are not counted: 1/1001 and less are the same score."""
MAX_SCHEMAS = 256
"""Compiled schemas that are kept: a shard's prompts have few, and one takes some kilobytes."""

_DEFAULT_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_DRAFT_3 = "http://json-schema.org/draft-03/schema"
_DRAFTS = {
    "http://json-schema.org/draft-04/schema": "draft4",
    "http://json-schema.org/draft-06/schema": "draft6",
    "http://json-schema.org/draft-07/schema": "draft7",
    "https://json-schema.org/draft/2019-09/schema": "draft2019",
    _DEFAULT_DRAFT: "draft2020",
}
_ASSERTED_BY_RUST_ONLY = {"contentEncoding", "contentMediaType", "dependencies"}
"""Keywords that jsonschema_rs enforces in drafts where jsonschema, and the specification, do not (tests/labelers)."""
_PATTERNS = {"pattern", "patternProperties"}

_AGE = Prompt.of(
    "Give me a person as JSON.",
    target={"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]},
)


class BadSchema(Exception):
    """The schema cannot be used; the text says why."""


@dataclass(frozen=True)
class JsonSchema:
    """Prefers completions that are valid JSON and fit the schema of the prompt, or of the options.

    ## What it prefers
    The completion is read as strict JSON (as `parses` does); text that is not JSON scores 0. Then it is validated. With
    `score = "all"` it scores 1 when it fits and 0 when not; with `"graded"` 1/(1 + number of errors), so that an answer
    with one wrong field beats one with five. The draft is the schema's `$schema`, by default 2020-12.

    ## Why
    A schema is a complete, cheap statement of what an answer must be, and tells near misses (JSON, but the wrong shape)
    from good answers: hard negatives.

    ## Example
    Schema `{"type": "object", "required": ["age"]}`: `{"age": 3}` scores 1; `{}` scores 0, or 0.5 graded; prose 0.

    ## Known problems
    - `format` (email, date ...) is not checked, as in the specification's default.
    - A schema is never fetched: a `$ref` to another address makes the labeler abstain, as does a schema that is wrong.
    - Patterns are ECMA 262's, as the specification wants, not Python's: `\\d` is ASCII and `$` is only the very end.
      One that backtracks too long abstains (timeout).
    - A few schemas (draft 3; `contentEncoding`, `contentMediaType`, `dependencies`) are validated by the slower jsonschema,
      and not at all where they also have patterns, which it cannot match in bounded time.
    - Numbers beyond a double and lone surrogates in strings are not judged.
    """

    schema: dict[str, Any] | bool | str | None = None
    """The schema, a table or JSON text; null: each prompt's target is its schema."""
    score_as: Literal["all", "graded"] = "all"
    """`all`: 1 or 0; `graded`: 1/(1 + number of errors)."""
    extract: Extract = "auto"
    """Where the text is: `auto` the first fenced block, else all of it; `whole`; `fenced` (no block scores 0)."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "json_schema"
    version = "1"
    needs = Needs()
    examples = (
        Example(_AGE, better='{"age": 40}', worse='{"age": "forty"}'),
        Example(_AGE, better='```json\n{"age": 40}\n```', worse="She is 40."),
    )
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars}; hint: at least 1")
        load_validators()
        if self.schema is not None and isinstance(found := _problems_of(self.schema), Abstain):
            raise ValueError(f"the schema cannot be used: {found.reason}")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        made: dict[int, Problems | Abstain] = {}  # by the schema object: writing it out as a key takes half of the time
        return [self._judge(candidate, made) for candidate in batch]

    def _judge(self, candidate: Candidate, made: dict[int, Problems | Abstain]) -> Score | Abstain:
        schema = candidate.prompt.target if self.schema is None else self.schema
        if schema is None:
            return Abstain("not_applicable", "there is no schema, neither in the options nor as the prompt's target")
        problems = made.get(id(schema))
        if problems is None:
            problems = made[id(schema)] = _problems_of(schema)
        if isinstance(problems, Abstain):
            return problems
        text = extract(candidate.completion.text, self.extract, ("json",))
        if text is None:
            return Score(0.0, "there is no fenced block")
        if len(text) > self.max_chars:
            return Abstain("not_applicable", f"{len(text)} characters, more than max_chars={self.max_chars}")
        return self._validated(text, problems)

    def _validated(self, text: str, problems: Problems) -> Score | Abstain:
        try:
            value = read_json(text)
            if "\\u" in text:  # only an escape can still be a lone surrogate
                json.dumps(value, ensure_ascii=False).encode()
            found = list(itertools.islice(problems(value), MAX_ERRORS))
        except NotJson as error:
            return Score(0.0, f"not JSON: {error}")
        except UnicodeEncodeError:
            return Abstain("not_applicable", "a lone surrogate in a string")
        except Undecided as error:
            return Abstain("not_applicable", str(error))
        except BadSchema as error:
            return Abstain("unparsable", f"bad schema: {error}")
        except TimeoutError as error:
            return Abstain("timeout", str(error))
        except RecursionError:
            return Abstain("crashed", "the validator recursed too deep")
        if not found:
            return Score(1.0, "it fits")
        score = 1 / (1 + len(found)) if self.score_as == "graded" else 0.0
        return Score(score, f"{len(found)} errors, the first: {found[0][:200]}")


def _problems_of(schema: Any) -> Problems | Abstain:
    """The validator of a schema, made once; or why there is none."""
    if isinstance(schema, str):
        text = schema
    elif isinstance(schema, Mapping | bool):
        text = json.dumps(schema)
    else:
        return Abstain("unparsable", f"the schema is {type(schema).__name__}; hint: a JSON object, or its text")
    return _compiled(text)


@functools.lru_cache(maxsize=MAX_SCHEMAS)
def _compiled(text: str) -> Problems | Abstain:
    try:
        schema = read_json(text)
        return _make(schema)
    except (NotJson, Undecided) as error:
        return Abstain("unparsable", f"the schema is not JSON: {error}")
    except BadSchema as error:
        return Abstain("unparsable", f"bad schema: {error}"[:300])
    except RecursionError:
        return Abstain("unparsable", "bad schema: it recurses without end")


def _make(schema: Any) -> Problems:
    """The validator that means what the draft says. Raises: BadSchema."""
    if not isinstance(schema, dict | bool):
        raise BadSchema(f"a schema is an object or a boolean, not {type(schema).__name__}")
    dialect = schema.get("$schema", _DEFAULT_DRAFT) if isinstance(schema, dict) else _DEFAULT_DRAFT
    draft = str(dialect).removesuffix("#")
    keywords = _keys(schema)
    if draft == _DRAFT_3 or (draft in _DRAFTS and keywords & _ASSERTED_BY_RUST_ONLY):
        if keywords & _PATTERNS:
            raise BadSchema(
                f"patterns together with {', '.join(sorted(keywords & _ASSERTED_BY_RUST_ONLY)) or 'draft 3'}"
            )
        return _python_validator(schema)
    if draft not in _DRAFTS:
        raise BadSchema(f"unknown $schema {draft!r}; hint: one of {', '.join([_DRAFT_3, *_DRAFTS])}")
    return _rust_validator(schema)


def _keys(value: Any) -> set[str]:
    """Every key anywhere in the schema (not recursive: it may be deep)."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as table:
                found.update(table)
                waiting.extend(table.values())
            case list() as items:
                waiting.extend(items)
    return found


@functools.cache
def _metaschemas() -> dict[str, Any]:
    """The drafts' own schemas by address: a `$ref` to one is local."""
    import jsonschema

    drafts = (jsonschema.Draft4Validator, jsonschema.Draft6Validator, jsonschema.Draft7Validator)
    return {
        str(kind.META_SCHEMA.get("$id") or kind.META_SCHEMA["id"]).removesuffix("#"): kind.META_SCHEMA
        for kind in drafts
    }


@functools.cache
def load_validators() -> None:
    """Loads both validators and the drafts' own schemas: a confined worker can open no file later."""
    for dialect in (_DRAFT_3, *_DRAFTS):
        for keyword in ("title", "contentEncoding"):
            problems = _compiled(json.dumps({"$schema": dialect, keyword: "x"}))
            if not isinstance(problems, Abstain):
                list(problems("x"))
    _registry()


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is remote, and schemas are never fetched")


@functools.cache
def _registry() -> Any:
    """The older drafts' own schemas, for schemas of another draft that refer to them."""
    import jsonschema_rs

    return jsonschema_rs.Registry(list(_metaschemas().items()), retriever=_refuse)


def _refers_to_a_metaschema(schema: Any) -> bool:
    return "http://json-schema.org/draft-0" in json.dumps(schema)


def _rust_validator(schema: dict[str, Any] | bool) -> Problems:
    import jsonschema_rs

    try:
        places = {"registry": _registry()} if _refers_to_a_metaschema(schema) else {"retriever": _refuse}
        validator = jsonschema_rs.validator_for(schema, validate_formats=False, **places)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise BadSchema(str(error).split("\n")[0]) from error

    def problems(value: Any) -> Iterable[str]:
        try:
            if validator.is_valid(value):
                return
        except ValueError as error:  # version 0.30 has no integers over 64 bits
            raise Undecided(f"the validator cannot hold this value: {error}") from error
        for wrong in validator.iter_errors(value):
            if type(wrong.kind).__name__ == "BacktrackLimitExceeded":
                raise TimeoutError("a pattern of the schema backtracks too long")
            yield f"{wrong.message} at /{'/'.join(map(str, wrong.instance_path))}"

    return problems


def _python_validator(schema: dict[str, Any] | bool) -> Problems:
    import jsonschema
    import referencing
    from referencing.exceptions import Unresolvable

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise BadSchema(error.message) from error
    validator = kind(schema, registry=referencing.Registry())

    def problems(value: Any) -> Iterable[str]:
        try:
            for error in validator.iter_errors(value):
                yield f"{error.message} at /{'/'.join(map(str, error.absolute_path))}"
        except Unresolvable as error:
            raise BadSchema(f"it refers to something that is not in it: {error}"[:200]) from error

    return problems
