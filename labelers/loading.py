"""A class from a module or from one file, or an error that names file, line and remedy."""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from labelers.errors import BrokenPlugin, UnknownLabeler
from labelers.options import near

_FILE_HINT = "a file plugin may import installed packages only; for several files make a package: package.module:Class"


def class_in_module(module_name: str, class_name: str) -> Any:
    """`class_name` from an importable module.

    Raises:
        UnknownLabeler: there is no such module or class.
        BrokenPlugin: importing the module failed.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UnknownLabeler(
                f"there is no module {error.name!r} (for {module_name}:{class_name})",
                hint="install its package, or use ./file.py:Class for a file",
            ) from error
        raise _broken(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module_name, error) from error
    return _member(module, class_name, module_name)


def class_in_file(path: Path, class_name: str) -> Any:
    """`class_name` from a file, which is executed once for each content; `sys.path` is left alone.

    Raises:
        UnknownLabeler: there is no such file or class.
        BrokenPlugin: the file has a syntax error, or raised while it ran.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UnknownLabeler(
            f"cannot read {path}: {error.strerror or error}",
            hint=_file_hint(path),
        ) from error
    digest = hashlib.sha256(source).hexdigest()
    module = _execute(path.resolve(), source, f"labelers_file_{path.stem}_{digest[:16]}")
    found = _member(module, class_name, str(path))
    if isinstance(found, type) and found.__module__ == module.__name__:
        found.__labeler_file_sha256__ = digest  # type: ignore[attr-defined]
    elif isinstance(found, type):
        raise UnknownLabeler(
            f"{class_name} in {path} is imported from {found.__module__}",
            hint=f"use {found.__module__}:{found.__qualname__}",
        )
    return found


def _execute(path: Path, source: bytes, module_name: str) -> types.ModuleType:
    """The file as a module; the bytes that were hashed are the bytes that run."""
    if module_name in sys.modules:
        return sys.modules[module_name]
    module = types.ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up here
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _broken(str(path), error) from error
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _file_hint(path: Path) -> str:
    if path.is_dir():
        return "that is a folder; name the file in it"
    there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    if not there:
        return f"paths are relative to the current folder, {Path.cwd()}"
    return near(path.name, there, f"files in {path.parent}")


def _member(module: types.ModuleType, class_name: str, where: str) -> Any:
    if class_name and hasattr(module, class_name):
        return getattr(module, class_name)
    own = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
    raise UnknownLabeler(f"there is no class {class_name!r}", where=where, hint=near(class_name, own, "classes there"))


def _broken(where: str, error: BaseException) -> BrokenPlugin:
    """The failure with the deepest line outside of the import machinery, and what to do about it."""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
        return BrokenPlugin(f"syntax error: {error.msg}", where=place, hint="correct that line")
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename != __file__ and "importlib" not in f.filename and not f.filename.startswith("<")
    ]
    named = [f for f in frames if f.filename == where] or frames
    place = f"{named[-1].filename}:{named[-1].lineno}" if named else where
    if isinstance(error, ImportError):
        hint = f"install {error.name}" if error.name else "check what it imports"
        hint = f"{hint}; {_FILE_HINT}" if where.endswith(".py") else hint
    else:
        hint = "correct that line; a labeler's file should only define things when it is loaded"
    return BrokenPlugin(f"loading it raised {type(error).__name__}: {error}", where=place, hint=hint)
