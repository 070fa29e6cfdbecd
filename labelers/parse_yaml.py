"""YAML of one document, read as nodes and never built into objects: no alias is expanded, no tag is obeyed."""

from __future__ import annotations

from typing import Any

from labelers.malformed import MAX_DEPTH, Malformed, Undecided, check_encodable, check_not_blank

MAX_NODES = 100_000
"""100,000 nodes take 0.9 s; aliases count as what they stand for, so that nine levels of nine copies are beyond it."""
_OWN_TAGS = "tag:yaml.org,2002:"
_TYPES = {
    "map",
    "seq",
    "str",
    "int",
    "float",
    "bool",
    "null",
    "binary",
    "timestamp",
    "set",
    "omap",
    "pairs",
    "merge",
    "value",
}


def kind_of_yaml(text: str, *, allow_duplicate_keys: bool = False) -> str:
    """`object`, `array` or `scalar`: what the outermost value of YAML text is.

    Raises:
        Malformed: no YAML, more or less than one document, a key twice, a tag beyond YAML's own.
        Undecided: deeper than 200 levels, over 100,000 nodes when aliases are expanded, an alias inside its own anchor.
    """
    import yaml

    check_encodable(text)
    check_not_blank(text)
    try:
        _check_size(yaml, text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise Malformed(_said(error)) from None
    if node is None:
        raise Malformed("there is no value")
    _check_nodes(yaml, node, allow_duplicate_keys)
    return {"MappingNode": "object", "SequenceNode": "array"}.get(type(node).__name__, "scalar")


def _said(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark else problem.split("\n")[0]


def _check_size(yaml: Any, text: str) -> None:
    """Stops at the first event that goes too deep: the scanner's time grows with the square of the depth."""
    sizes: dict[str, int] = {}
    total, n_documents = 0, 0
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        match event:
            case yaml.DocumentStartEvent():
                n_documents += 1
            case yaml.AliasEvent() if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise Undecided(f"the alias *{event.anchor[:40]} stands inside its own anchor")
            case yaml.AliasEvent():
                total += sizes.get(event.anchor, 0)
            case yaml.ScalarEvent():
                total += 1
                if event.anchor:
                    sizes[event.anchor] = 1
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                open_nodes.append((event.anchor, total))
                total += 1
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                anchor, before = open_nodes.pop()
                if anchor:
                    sizes[anchor] = total - before
        if len(open_nodes) > MAX_DEPTH:
            raise Undecided(f"nested more than {MAX_DEPTH} deep")
        if total > MAX_NODES:
            raise Undecided(f"more than {MAX_NODES} nodes, aliases counted as what they stand for")
    if n_documents > 1:
        raise Malformed(f"{n_documents} documents; one is expected")


def _check_nodes(yaml: Any, root: Any, allow_duplicate_keys: bool) -> None:
    """Keys and tags of every node, each once: an alias is the same object as its anchor."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag.removeprefix(_OWN_TAGS) not in _TYPES:
            raise Malformed(f"line {node.start_mark.line + 1}: the tag {node.tag[:80]!r} is not one of YAML's own")
        if isinstance(node, yaml.MappingNode):
            if not allow_duplicate_keys:
                _check_keys(yaml, node)
            waiting.extend(part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)


def _check_keys(yaml: Any, mapping: Any) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise Malformed(f"line {key.start_mark.line + 1}: the key {key.value[:80]!r} is there twice")
            seen.add((key.tag, key.value))
