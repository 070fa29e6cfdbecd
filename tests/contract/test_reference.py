"""docs/reference.md is what the dataclasses say, and they say something of every key."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def written() -> str:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.page()
    return page


def test_the_page_is_what_the_dataclasses_say():
    assert (ROOT / "docs" / "reference.md").read_text() == written(), "hint: python docs/make_reference.py"


def test_every_key_has_a_meaning():
    rows = re.findall(r"^\| `(.+?)` \|.*\| (.*?) \|$", written(), re.MULTILINE)
    assert len(rows) > 200
    assert [name for name, meaning in rows if not meaning] == []
