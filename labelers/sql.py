"""Whether a text is SQL of a dialect: what sqlglot's parser says, held to statements."""

from __future__ import annotations

import logging
from typing import Any

from labelers.types import Abstain, Score

MAX_CHARS = 100_000
"""sqlglot takes about 1.5 s for 100,000 characters of a long list of values."""
MAX_DEPTH = 60
"""Brackets in each other: more of them take more than Python's stack."""

DIALECTS = ("bigquery", "clickhouse", "duckdb", "hive", "mysql", "oracle", "postgres", "presto", "redshift", "snowflake",
            "spark", "sqlite", "trino", "tsql")  # fmt: skip
"""The dialects that are offered; the empty name is standard SQL."""


def judged(code: str, dialect: str) -> Score | Abstain:
    """1 for one or more whole statements of the dialect, 0 for anything else; undecided for what the parser skips."""
    if len(code) > MAX_CHARS:
        return Abstain("not_applicable", f"{len(code)} characters of SQL, more than {MAX_CHARS}")
    if "\0" in code:
        return Score(0.0, "a NUL character")
    if _depth(code) > MAX_DEPTH:
        return Abstain("not_applicable", f"brackets nested deeper than {MAX_DEPTH}")
    import sqlglot
    from sqlglot import errors

    logging.getLogger("sqlglot").setLevel(
        logging.CRITICAL
    )  # it warns of what it skips; that is read off the tree below
    try:
        statements = [
            each for each in sqlglot.parse(code, read=dialect or None, error_level=errors.ErrorLevel.RAISE) if each
        ]
    except errors.SqlglotError as error:
        return Score(0.0, _reason(error))
    except (MemoryError, RecursionError) as error:
        return Abstain("crashed", f"the parser gave up: {type(error).__name__}")
    return _of_statements(statements, dialect)


def tokenises(code: str, dialect: str) -> bool:
    """Whether the text falls into tokens of the dialect."""
    import sqlglot
    from sqlglot import errors

    try:
        return bool(sqlglot.tokenize(code, read=dialect or None))
    except errors.SqlglotError:
        return False


def _of_statements(statements: list[Any], dialect: str) -> Score | Abstain:
    from sqlglot import exp

    kinds = (exp.Query, exp.DDL, exp.DML, exp.Drop, exp.Alter, exp.Set, exp.Use, exp.Pragma, exp.Describe, exp.Transaction,
             exp.Commit, exp.Rollback, exp.TruncateTable, exp.Show, exp.Merge, exp.Update, exp.Delete, exp.Grant,
             exp.Comment, exp.Analyze, exp.Kill, exp.Cache, exp.Uncache, exp.LoadData, exp.Copy, exp.Attach,
             exp.Detach)  # fmt: skip
    statements = [each for each in statements if not isinstance(each, exp.Semicolon)]
    if not statements:
        return Score(0.0, "there is no statement")
    for each in statements:
        if isinstance(each, exp.Command):
            return Abstain("not_applicable", f"the parser skips {str(each.this)[:40]!r} statements")
        if not isinstance(each, kinds):
            return Score(0.0, f"not a statement: {type(each).__name__}")
        if dialect not in ("postgres", "redshift") and any(not s.expressions for s in each.find_all(exp.Select)):
            return Score(0.0, "a SELECT of nothing")
    return Score(1.0, "it parses")


def _reason(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if details:
        return f"line {details[0].get('line')}: {details[0].get('description')}"[:200]
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _depth(code: str) -> int:
    deepest = depth = 0
    for character in code:
        depth += (character in "([") - (character in ")]")
        deepest = max(deepest, depth)
    return deepest
