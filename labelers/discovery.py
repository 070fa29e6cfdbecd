"""A labeler from its name and options: built in, installed, in a module or in a file. Importing this loads none.

A load failure is always an error that says what happened, where, and what to do; it is never a warning.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from labelers.errors import BrokenPlugin, LabelerError, OptionError, UnknownLabeler, WrongShape
from labelers.loading import class_in_file, class_in_module
from labelers.options import checked, near
from labelers.protocol import Labeler
from labelers.shape import check_class, check_instance
from labelers.types import content_id

__all__ = [
    "BUILTIN",
    "BrokenPlugin",
    "LabelerError",
    "LabelerSpec",
    "OptionError",
    "UnknownLabeler",
    "WrongShape",
    "build",
    "fingerprint",
    "identity",
    "installed",
    "load",
]

ENTRY_POINT_GROUP = "labelers"

BUILTIN: Mapping[str, str] = {
    "compiles": "labelers.compiles:Compiles",
    "format": "labelers.format:Format",
    "human": "labelers.human:Human",
    "implicit_reward": "labelers.implicit_reward:ImplicitReward",
    "json_schema": "labelers.json_schema:JsonSchema",
    "judge": "labelers.judge:Judge",
    "length": "labelers.length:Length",
    "math": "labelers.math_answer:Math",
    "parses": "labelers.parses:Parses",
    "regression": "labelers.regression:Regression",
    "repetition": "labelers.repetition:Repetition",
    "reward_model": "labelers.reward_model:RewardModel",
    "rubric": "labelers.rubric:Rubric",
    "tests": "labelers.unit_tests:Tests",
    "weak_vs_strong": "labelers.weak_vs_strong:WeakVsStrong",
}


@dataclass(frozen=True)
class LabelerSpec:
    """A labeler as a run's config names it; picklable, so that a worker process can build its own.

    Args:
        use: a name, `package.module:Class`, or `./file.py:Class` (relative to the current folder, or absolute).
        options: the labeler's fields, as TOML or JSON give them.
    """

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Labeler:
        """The labeler, with its options checked. Raises: LabelerError."""
        return build(self.use, self.options)

    def fingerprint(self) -> str:
        """What decides this labeler's labels, as 32 hexadecimal digits. Raises: LabelerError."""
        return fingerprint(self)

    def __hash__(self) -> int:
        return hash((self.use, json.dumps(_plain(self.options), sort_keys=True)))


def load(use: str) -> type:
    """The labeler's class, of the right shape.

    Raises:
        LabelerError: no such labeler, a file or module that fails, or a class that is not a labeler.
    """
    labeler: type = _find(use)
    check_class(labeler, use)
    return labeler


def build(use: str, options: Mapping[str, Any] | None = None) -> Labeler:
    """A labeler, ready to be called: loaded, its options checked, its attributes of the right types.

    Raises:
        LabelerError: see `load`; or an option is unknown, missing, mistyped or refused by the labeler.
    """
    labeler = load(use)
    arguments = checked(labeler, options or {})
    try:
        built = labeler(**arguments)
    except LabelerError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(str(error), where=use) from error
    except Exception as error:
        raise BrokenPlugin(f"it could not be made: {type(error).__name__}: {error}", where=use) from error
    check_instance(built, use)
    return built


def identity(spec: LabelerSpec) -> dict[str, Any]:
    """What decides the labels: class, name, version, every option (defaults too), hashes of the files they come from.

    A file plugin's path is not part of it, its content is: a moved file is the same labeler, an edited one is another.
    """
    labeler = spec.build()
    fields = {f.name: _plain(getattr(labeler, f.name)) for f in dataclasses.fields(labeler) if f.init}  # type: ignore[arg-type]
    kind = type(labeler)
    file_plugin = getattr(kind, "__labeler_file_sha256__", None) if _is_file(spec.use) else None
    return {
        "class": kind.__qualname__ if file_plugin else f"{kind.__module__}:{kind.__qualname__}",
        "name": labeler.name,
        "version": labeler.version,
        "options": fields,
        "file_sha256": file_plugin,
        "reads_sha256": [_sha256(Path(path)) for path in getattr(labeler, "reads", ())],
    }


def fingerprint(spec: LabelerSpec) -> str:
    """The hash of `identity(spec)`: equal fingerprints, equal labels."""
    return content_id(identity(spec))


def installed() -> dict[str, metadata.EntryPoint]:
    """The labelers that installed packages offer under the entry-point group `labelers`; none is loaded."""
    return dict(_offered(tuple(sys.path)))


@functools.lru_cache(maxsize=4)
def _offered(path: tuple[str, ...]) -> dict[str, metadata.EntryPoint]:
    """Reading every installed package's metadata takes 5 ms or more, and a run builds its labelers many times."""
    found: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda e: (e.name, e.value)):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise LabelerError(
                f"two installed packages offer a labeler named {entry.name!r}: {other.value} and {entry.value}",
                hint="uninstall one, or name the class itself: package.module:Class",
            )
        found[entry.name] = entry
    return found


def _is_file(use: str) -> bool:
    return use.rpartition(":")[0].endswith(".py")


def _find(use: str) -> Any:
    if not isinstance(use, str) or not use.strip():
        raise UnknownLabeler("the labeler has no name", hint="set `use` to a name, module:Class or ./file.py:Class")
    if use.endswith(".py"):
        raise UnknownLabeler(f"{use!r} names a file but no class", hint=f"write {use}:ClassName")
    place, _, class_name = use.rpartition(":")
    if place.endswith(".py"):
        return class_in_file(Path(place), class_name)
    if place:
        return class_in_module(place, class_name)
    return _find_by_name(use)


def _find_by_name(name: str) -> Any:
    others = installed()
    if name in BUILTIN and name in others:
        raise LabelerError(
            f"{name!r} is built in, and an installed package offers one too ({others[name].value})",
            hint=f"name the class itself: {BUILTIN[name]} or {others[name].value}",
        )
    target = BUILTIN.get(name) or (others[name].value if name in others else None)
    if target is None:
        hint = near(name, [*BUILTIN, *others], "labelers")
        if "/" in name or "." in name:
            hint = f"a class is named package.module:Class or ./file.py:Class; {hint}"
        raise UnknownLabeler(f"there is no labeler {name!r}", hint=hint)
    module, _, class_name = target.split("[")[0].strip().partition(":")
    return class_in_module(module.strip(), class_name.strip())


def _plain(value: Any) -> Any:
    """An option as a JSON value, for hashing."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(v) for v in value), key=repr)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LabelerError(f"cannot read {path}: {error.strerror}", hint="check the path in the options") from error
