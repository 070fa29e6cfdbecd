"""The README's table holds what was measured: the numbers of benchmarks/results, rounded, and no others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.docs.blocks import ROOT

FAMILIES = {
    "functions": "functions",
    "records": "records",
    "estimates": "estimates",
    "texts": "texts",
    "standard": "stdlib",
}
ROWS = re.findall(r"^\| (\w+).* \| ([\d.]+) \| ([\d.]+) \| \+([\d.]+) \(([\d.]+) to ([\d.]+)\) \| (.+) \|$",
                  (ROOT / "README.md").read_text(), re.MULTILINE)  # fmt: skip


@pytest.fixture(scope="module")
def seeds() -> Any:
    return json.loads((ROOT / "benchmarks/results/2026-11-21-demo-cpu.json").read_text())["seeds"]


def rate(rates: list[dict[str, Any]], family: str, model: str) -> float:
    (found,) = [r for r in rates if (r["family"], r["temperature"]) == (family, 1.0) and r["model"] == model]
    return 100 * float(found["rate"])


def test_the_table_has_every_family_once() -> None:
    assert [FAMILIES[row[0]] for row in ROWS] == ["functions", "records", "estimates", "texts", "stdlib"]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_what_was_measured(row: tuple[str, ...], seeds: Any) -> None:
    name, before, after, *gain, others = row
    family, first = FAMILIES[name], seeds["0"]
    models = {r["model"] for r in first["rates"]}
    (start,) = models - {"policy"}
    assert [before, after] == [f"{rate(first['rates'], family, model):.1f}" for model in (start, "policy")]
    assert gain == [f"{100 * value:.1f}" for value in first["gains"]["1"][family]]
    assert re.findall(r"\+([\d.]+)", others) == [f"{100 * seeds[s]['gains']['1'][family][0]:.1f}" for s in ("1", "2")]
