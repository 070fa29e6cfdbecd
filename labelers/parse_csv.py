"""CSV as RFC 4180 has it. The standard library's reader passes over stray quotes and ragged rows; this does not."""

from __future__ import annotations

import re

from labelers.malformed import Malformed, check_encodable, check_not_blank


def kind_of_csv(
    text: str, *, delimiter: str, header: bool, min_columns: int, allow_duplicate_keys: bool = False
) -> str:
    """`table`, for records of equal length.

    Args:
        header: the first record names the columns: no name empty or (unless allowed) twice, and a record must follow it.
        min_columns: fewer are no table: every line of prose is a record of one field.

    Raises:
        Malformed: a quote in an unquoted field or behind a quoted one, a quote never closed, a lone carriage return, a NUL,
            records of different lengths (a blank line is a record of one field).
    """
    check_encodable(text)
    check_not_blank(text)
    records = _records(text, delimiter)
    n_columns = len(records[0])
    if n_columns < min_columns:
        raise Malformed(f"{n_columns} columns, fewer than {min_columns}")
    for number, record in enumerate(records, start=1):
        if len(record) != n_columns:
            raise Malformed(f"record {number} has {len(record)} fields, the first has {n_columns}")
    if header:
        _check_header(records, allow_duplicate_keys)
    return "table"


def _check_header(records: list[list[str]], allow_duplicate_keys: bool) -> None:
    names = [name.strip() for name in records[0]]
    if len(records) < 2:
        raise Malformed("a header and no record")
    if not all(names):
        raise Malformed("a column without a name")
    if not allow_duplicate_keys and len(set(names)) < len(names):
        raise Malformed("two columns of one name")


def _records(text: str, delimiter: str) -> list[list[str]]:
    """The fields of each record; a line end behind the last one ends it and starts none."""
    mark = re.escape(delimiter)
    field = re.compile(rf'(?:"((?:[^"\0]|"")*+)"|([^"{mark}\r\n\0]*+))({mark}|\r?\n|\Z)')
    records: list[list[str]] = [[]]
    position = 0
    while True:
        match = field.match(text, position)
        if match is None:
            line = text.count("\n", 0, position) + 1
            raise Malformed(f"line {line}: a stray quote, carriage return or NUL, or a quote that is never closed")
        quoted, plain, end = match.groups()
        records[-1].append(plain if quoted is None else quoted.replace('""', '"'))
        position = match.end()
        if end == "" or (position == len(text) and end != delimiter):
            return records
        if end != delimiter:
            records.append([])
