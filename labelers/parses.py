"""Does a completion parse as JSON, YAML, TOML, XML, CSV, a Python literal or a Markdown table?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.fences import Extract, extract
from labelers.malformed import Malformed, Undecided
from labelers.parse_csv import kind_of_csv
from labelers.parse_markdown import kind_of_markdown_table
from labelers.parse_python import kind_of_python
from labelers.parse_toml import kind_of_toml
from labelers.parse_xml import kind_of_xml
from labelers.parse_yaml import kind_of_yaml
from labelers.protocol import Context
from labelers.strict_json import read_json, read_json_lines
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

Format = Literal["json", "jsonl", "yaml", "toml", "xml", "csv", "python_literal", "markdown_table"]


def _two(format_name: str, better: str, worse: str) -> tuple[Example, ...]:
    return (Example(Prompt.of(f"Give me the name and the population of Paris as {format_name}."), better, worse),)


_EXAMPLES: dict[Format, tuple[Example, ...]] = {
    "json": (
        *_two("JSON", '{"name": "Paris", "population": 2100000}', "{'name': 'Paris', 'population': 2100000}"),
        *_two("JSON", '{"name": "Paris"}', '{"name": "Paris", "population": NaN}'),
    ),
    "jsonl": _two(
        "JSON lines", '{"name": "Paris"}\n{"population": 2100000}\n', '{"name": "Paris"},\n{"population": 2}'
    ),
    "yaml": _two("YAML", "name: Paris\npopulation: 2100000\n", "Paris has 2.1 million inhabitants."),
    "toml": _two("TOML", 'name = "Paris"\npopulation = 2_100_000\n', "name = Paris"),
    "xml": _two("XML", "<city><name>Paris</name></city>", "<city><name>Paris</city>"),
    "csv": _two("CSV", "name,population\nParis,2100000\n", "name,population\nParis,2,100,000\n"),
    "python_literal": _two("a Python dict", "{'name': 'Paris', 'population': 2_100_000}", "{'name': Paris}"),
    "markdown_table": _two(
        "a table", "| name | people |\n|---|---|\n| Paris | 2 |\n", "| name | people |\n| Paris | 2 |"
    ),
}


class _OfTheFormat:
    """The class shows JSON's examples; an object those of its own format, which also loads that format's parser."""

    def __get__(self, labeler: Parses | None, kind: type) -> tuple[Example, ...]:
        return _EXAMPLES[labeler.format if labeler else "json"]


@dataclass(frozen=True)
class Parses:
    """Prefers completions that are valid JSON, or another `format`, (score 1) to those that are not (score 0).

    ## What it prefers
    One value of the format and nothing else, by the strict rule; each leniency is an option. Blank text scores 0.
    - `json`: RFC 8259: no NaN or Infinity, no key twice, no text behind it, no lone surrogate.
    - `jsonl`: such a value on every line, no blank line; `top_level` is asked of each.
    - `yaml`: one document, a mapping or a sequence (any prose is a YAML scalar), no key twice, only YAML's own tags.
    - `toml`: TOML 1.0 with at least one key.
    - `xml`: one well-formed document whose namespace prefixes are bound. The declared encoding does not matter: it is text.
    - `csv`: RFC 4180, line feeds allowed: records of equal length, at least two columns, a header with distinct names and
      at least one record behind it; quotes only around a whole field.
    - `python_literal`: what `ast.literal_eval` takes, no key twice.
    - `markdown_table`: one table of GitHub's Markdown and nothing else, every row as long as the header.

    ## Why
    `json.loads` accepts NaN, Infinity and duplicate keys, and what it accepts another parser refuses. A program that
    reads the answer needs all of it to parse, so one superfluous word is a failure.

    ## Example
    `{"a": 1}` scores 1; `{'a': 1}`, `{"a": NaN}`, `{"a": 1, "a": 2}` and `Sure! {"a": 1}` score 0.

    ## Known problems
    - Beyond a safety limit it abstains: 200 levels deep (JSON and XML whose brackets do not match still score 0); YAML of
      over 100,000 nodes, aliases expanded; XML that declares entities; TOML keys of over 20 parts; literals of over 200,000
      tokens; Markdown of over 100,000 pipes.
    - A lone number or word (`42`, `true`) is valid JSON; ask for an object with `top_level = "object"`.
    - A byte order mark at the start of JSON scores 0, as RFC 8259 forbids senders to write one.
    - YAML is version 1.1, as PyYAML has it: values like `2024-99-99` that only a later step refuses pass; keys that are
      themselves mappings or sequences are not compared.
    """

    format: Format = "json"
    """The format."""
    extract: Extract = "auto"
    """Where the text is: `auto` the first fenced block, else all of it; `whole`; `fenced` (no block scores 0)."""
    top_level: Literal["auto", "any", "object", "array"] = "auto"
    """What the outermost value must be: for YAML `auto` is an object or an array, elsewhere anything."""
    allow_nan: bool = False
    """JSON: accept NaN, Infinity and -Infinity."""
    allow_duplicate_keys: bool = False
    """JSON, YAML, Python, a CSV's header: accept a key that is there twice."""
    allow_trailing_text: bool = False
    """JSON: accept text behind the first value; a Markdown table: accept text around it."""
    delimiter: str = ","
    """CSV: the character between two fields."""
    header: bool = True
    """CSV: the first record names the columns."""
    min_columns: int = 2
    """CSV: fewer columns score 0, because every line of prose without a comma is a record of one field."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "parses"
    version = "2"
    needs = Needs()
    examples = _OfTheFormat()
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.max_chars < 1 or self.min_columns < 1:
            raise ValueError("max_chars and min_columns are whole numbers from 1")
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
            raise ValueError(f"delimiter is {self.delimiter!r}; hint: one character, no quote and no line end")
        if self.top_level not in ("auto", "any") and self.format in ("xml", "csv", "markdown_table"):
            raise ValueError(f"top_level is {self.top_level!r}, but {self.format} has neither objects nor arrays")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate.completion.text) for candidate in batch]

    def _judge(self, completion: str) -> Score | Abstain:
        if len(completion) > self.max_chars:
            return Abstain("not_applicable", f"{len(completion)} characters, more than max_chars={self.max_chars}")
        text = extract(completion, self.extract, _TAGS[self.format])
        if text is None:
            return Score(0.0, "there is no fenced block")
        try:
            kinds = _READERS[self.format](self, text)
        except Malformed as error:
            return Score(0.0, str(error))
        except Undecided as error:
            return Abstain("not_applicable", str(error))
        except (MemoryError, RecursionError) as error:
            return Abstain("crashed", f"the parser gave up: {type(error).__name__}")
        wanted = self._wanted()
        if wrong := [kind for kind in kinds if kind not in wanted]:
            return Score(0.0, f"the outermost value is {wrong[0]}, not {' or '.join(sorted(wanted))}")
        return Score(1.0, "it parses")

    def _wanted(self) -> frozenset[str]:
        match self.top_level:
            case "auto" if self.format == "yaml":
                return frozenset(("object", "array"))
            case "auto" | "any":
                return frozenset(("object", "array", "scalar", "document", "table"))
            case _:
                return frozenset((self.top_level,))

    def _json_rules(self) -> dict[str, bool]:
        return {
            "allow_nan": self.allow_nan,
            "allow_duplicate_keys": self.allow_duplicate_keys,
            "allow_trailing_text": self.allow_trailing_text and self.format == "json",
            "need_numbers": False,
        }


def _kind(value: Any) -> str:
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "scalar"


_Reader = Callable[[Parses, str], list[str]]
_READERS: dict[Format, _Reader] = {
    "json": lambda rule, text: [_kind(read_json(text, **rule._json_rules()))],
    "jsonl": lambda rule, text: [_kind(value) for value in read_json_lines(text, **rule._json_rules())],
    "yaml": lambda rule, text: [kind_of_yaml(text, allow_duplicate_keys=rule.allow_duplicate_keys)],
    "toml": lambda rule, text: [kind_of_toml(text)],
    "xml": lambda rule, text: [kind_of_xml(text)],
    "csv": lambda rule, text: [
        kind_of_csv(
            text,
            delimiter=rule.delimiter,
            header=rule.header,
            min_columns=rule.min_columns,
            allow_duplicate_keys=rule.allow_duplicate_keys,
        )
    ],
    "python_literal": lambda rule, text: [kind_of_python(text, allow_duplicate_keys=rule.allow_duplicate_keys)],
    "markdown_table": lambda rule, text: [kind_of_markdown_table(text, allow_other_text=rule.allow_trailing_text)],
}
"""What reads each format: the kind of each outermost value. Raises: Malformed, Undecided."""
_TAGS: dict[Format, tuple[str, ...]] = {
    "json": ("json",),
    "jsonl": ("jsonl", "jsonlines", "ndjson", "json"),
    "yaml": ("yaml", "yml"),
    "toml": ("toml",),
    "xml": ("xml", "svg", "html", "xhtml"),
    "csv": ("csv",),
    "python_literal": ("python", "py", "python3"),
    "markdown_table": ("markdown", "md"),
}
