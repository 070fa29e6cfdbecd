"""Match-ups to, and verdicts from, the tools that teams have: records of Argilla 2 and tasks of Label Studio, as JSON.

Sources: docs.argilla.io, "Record" (fields, metadata, responses with value and user_id); labelstud.io, "Label Studio Task Format"
and the tag `Pairwise` (value.selected is left or right). The side on which a completion stands is drawn by hash, as on our page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.review.index import Index
from pipeline.review.queue import Item
from pipeline.review.store import CHOICES, Asked, Choice, Store

Tool = Literal["argilla", "label-studio"]
TOOLS: tuple[Tool, ...] = ("argilla", "label-studio")
LABEL_STUDIO_VIEW = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="verdict" toName="left,right"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
  <Choices name="neither" toName="prompt" choice="single"><Choice value="tie"/><Choice value="both_bad"/></Choices>
</View>"""
ARGILLA_SETTINGS = """rg.Settings(
    fields=[rg.TextField(name="prompt"), rg.TextField(name="left"), rg.TextField(name="right")],
    questions=[rg.LabelQuestion(name="verdict", labels=["left", "right", "tie", "both_bad"])],
    metadata=[rg.TermsMetadataProperty(name="item_id"), rg.TermsMetadataProperty(name="side")],
)"""


def as_tool(name: str) -> Tool:
    """The tool of this name. Raises ConfigError when it is none that is known."""
    found = next((tool for tool in TOOLS if tool == name), None)
    if found is None:
        raise ConfigError(f"{name}: is no tool that records are known of; hint: {' or '.join(TOOLS)}")
    return found


def export(tool: Tool, items: Sequence[Item], index: Index) -> list[dict[str, Any]]:
    """The items as records of `tool`."""
    made = _argilla if tool == "argilla" else _label_studio
    return [made(item, *sides) for item in items if (sides := _texts(item, index))]


def settings_of(tool: Tool) -> str:
    """What has to be set up in `tool` for these records."""
    return ARGILLA_SETTINGS if tool == "argilla" else LABEL_STUDIO_VIEW


def keep(tool: Tool, path: Path, store: Store) -> tuple[int, int]:
    """Keeps the verdicts in a file of `tool`. Returns how many, and how many are of items that the store does not know.

    Raises:
        ConfigError: the file cannot be read, or is no export of `tool`; then nothing is kept.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        read = _from_argilla if tool == "argilla" else _from_label_studio
        found = [verdict for record in records for verdict in read(record)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is no export of {tool} ({type(error).__name__}: {error}); hint: a JSON list of its records"
        ) from error
    unknown = 0
    for item, left_is_a, reviewer, choice, seconds in found:
        asked = _asked(store, item, left_is_a)
        unknown += asked is None
        if asked:
            store.judge(asked, reviewer, choice, seconds)
    return len(found) - unknown, unknown


Read = tuple[str, bool, str, Choice, float | None]
"""Item, whether a stood left, reviewer, choice, seconds."""


def _left_is_a(item: Item) -> bool:
    return int(item.id[0], 16) % 2 == 0


def _texts(item: Item, index: Index) -> tuple[str, str, str] | None:
    group = index.group(item.prompt_id)
    if group is None or not {item.a_id, item.b_id} <= group.completions.keys():
        return None
    ids = (item.a_id, item.b_id) if _left_is_a(item) else (item.b_id, item.a_id)
    prompt = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in group.messages)
    left, right = (group.completions[one].text for one in ids)
    return prompt, left, right


def _side(item: Item) -> str:
    return "a" if _left_is_a(item) else "b"


def _argilla(item: Item, prompt: str, left: str, right: str) -> dict[str, Any]:
    return {
        "id": item.id,
        "fields": {"prompt": prompt, "left": left, "right": right},
        "metadata": {"item_id": item.id, "side": _side(item)},
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _label_studio(item: Item, prompt: str, left: str, right: str) -> dict[str, Any]:
    return {"data": {"prompt": prompt, "left": left, "right": right, "item_id": item.id, "side": _side(item)}}


def _from_argilla(record: Mapping[str, Any]) -> Iterator[Read]:
    metadata = record["metadata"]
    for said in (record.get("responses") or {}).get("verdict", ()):
        if said.get("status", "submitted") == "submitted":
            yield metadata["item_id"], metadata["side"] == "a", str(said["user_id"]), _choice(said["value"]), None


def _from_label_studio(task: Mapping[str, Any]) -> Iterator[Read]:
    data = task["data"]
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        values = {result["from_name"]: result["value"] for result in annotation["result"]}
        said = values["neither"]["choices"][0] if "neither" in values else values["verdict"]["selected"]
        who = annotation.get("completed_by", "")
        name = who.get("email", who.get("id")) if isinstance(who, dict) else who
        yield data["item_id"], data["side"] == "a", str(name), _choice(said), annotation.get("lead_time")


def _choice(said: object) -> Choice:
    found = next((choice for choice in CHOICES if choice == said), None)
    if found is None:
        raise ValueError(f"{said!r} is no verdict: {', '.join(CHOICES)}")
    return found


def _asked(store: Store, item_id: str, left_is_a: bool) -> Asked | None:
    """The item with its sides as the tool showed them."""
    asked = store.asked(item_id, "")
    if asked is None:
        return None
    a, b = sorted((asked.left_id, asked.right_id))
    return Asked(asked.item_id, asked.prompt_id, *((a, b) if left_is_a else (b, a)))
