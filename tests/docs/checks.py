"""What can be said against a block without running it: a config's keys, a command's options, a file's form."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import load
from pipeline.errors import ConfigError
from tests.docs.blocks import Block
from tests.docs.shell import commands
from tests.docs.shell import complaint as against

FOLLOWED = ("docs/tutorials/", "docs/training-elsewhere.md")
"""Pages whose commands are typed one after the other, with what they print compared (test_tutorials.py)."""
ELSEWHERE = {"docs/writing-a-labeler.md": "tests/labelers/test_docs.py"}
"""Pages that a test of their own runs."""
SHORTEST_REASON = 12


def is_followed(page: str) -> bool:
    """Whether a test types what the page says."""
    return page.startswith(FOLLOWED) or page in ELSEWHERE


def complaint(block: Block, folder: Path) -> str:
    """What is wrong with a block; empty where nothing is. `folder` is for a file to load."""
    if block.not_run:
        return "" if len(block.not_run) >= SHORTEST_REASON else "its reason is none"
    if is_followed(block.page) and (block.file or block.language in ("bash", "python", "text")):
        return ""  # typed, saved or compared
    match block.language:
        case "bash":
            return "; ".join(filter(None, map(against, commands(block.text))))
        case "toml":
            return toml_says(block.text, folder)
        case "json":
            return json_says(block.text)
        case "yaml":
            return yaml_says(block.text)
        case "python":
            return ""  # run, on every page
        case "text":
            return "nobody compares this text with what is printed"
        case "":
            return "has no language"
    return f"is in {block.language}, which nobody checks"


def toml_says(text: str, folder: Path) -> str:
    """What the real loader says of a config, or of a part of one laid over the smallest whole config."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    if set(data) == {"project"}:  # a plugin's pyproject.toml
        return "" if data["project"]["entry-points"]["labelers"] else "offers no labeler"
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    try:
        load(path, _missing(data, folder))
    except ConfigError as error:
        return str(error)
    return ""


def _missing(data: Mapping[str, Any], folder: Path) -> list[str]:
    """Settings that make a part of a config a whole one; what the part says itself stays."""
    (folder / "prompts.jsonl").write_text('{"prompt": "p"}\n', encoding="utf-8")
    replay = f'{{use = "replay", path = "{folder / "prompts.jsonl"}"}}'
    source, labeler = {"name": '"s"', "engine": replay}, {"use": '"compiles"'}
    found = [] if "name" in data else ['name="n"']
    found += [] if "path" in data.get("prompts", {}) else [f'prompts.path="{folder / "prompts.jsonl"}"']
    for key, parts in (("sources", source), ("labelers", labeler)):
        if key not in data:
            found.append(f"{key}=[{{{', '.join(f'{name} = {value}' for name, value in parts.items())}}}]")
        for place, table in enumerate(data.get(key, [])):
            found += [f"{key}.{place}.{name}={value}" for name, value in parts.items() if name not in table]
        for place, table in enumerate(data.get(key, [])):
            if table.get("engine", {}).get("use") == "replay":  # of a file that the reader has
                found.append(f'{key}.{place}.engine.path="{folder / "prompts.jsonl"}"')
    return found


def json_says(text: str) -> str:
    """Whether the text is JSON, or lines of it."""
    try:
        json.loads(text)
    except ValueError:
        try:
            [json.loads(line) for line in text.splitlines()]
        except ValueError as error:
            return f"is neither JSON nor lines of it: {error}"
    return ""


def yaml_says(text: str) -> str:
    """Whether the text is YAML."""
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        return str(error)
    return ""
