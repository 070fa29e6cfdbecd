"""A version goes out: to a folder, an object store or a Hub repository. A reader sees all of it or the one before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, EnvironmentLacks, PipelineError
from pipeline.history import published_at, record
from pipeline.shards import file_sha256, sync, write_json
from pipeline.versions import current, folder_of, manifest_of, point

HUB = "hf://datasets/"
POINTER = "dataset.json"
"""The object in a store that says which version is the newest; written last, in one piece."""


@dataclass(frozen=True)
class Notice:
    """What a destination is told of a version: nothing of the machine that made it.

    Args:
        content: the version's content hash; two versions are the same exactly when these are.
        files: path in the version's folder -> SHA-256.
    """

    version: int
    content: str
    rows: int
    created: str
    files: dict[str, str]

    @property
    def path(self) -> str:
        """Where the version lies below the destination."""
        return f"versions/{self.version:04d}"


def publish_current(run: Path, destination: str, *, private: bool = True, again: bool = False) -> bool:
    """Gives `destination` the version that `dataset` points at. The caller holds the run's folder.

    Args:
        destination: a folder, any fsspec URL, or hf://datasets/OWNER/NAME.
        private: whether a Hub repository that does not exist yet is made private.
        again: even if it was given this version last.

    Returns:
        Whether there was anything to do.

    Raises:
        PipelineError: it cannot be reached, or holds another version under this number.
    """
    standing = current(run)
    if standing is None:
        raise ConfigError(f"{run}: has no version yet; hint: python -m pipeline run")
    number = standing["number"]
    destination = destination if "://" in destination else str(Path(destination).absolute())
    if published_at(run, destination) == number and not again:
        return False
    manifest_of(run, number)  # refuses a version whose rows were removed
    folder = folder_of(run, number)
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _files(folder)}
    notice = Notice(number, standing["content"], standing["rows"], standing["created"], files)
    send = _sender(destination, private)
    try:
        send(folder, notice)
    except PipelineError:
        raise
    except ImportError as error:
        raise EnvironmentLacks(f"{destination}: {error}; hint: install the package that it names") from error
    except Exception as error:  # stores and the Hub raise wide families: refused, unreachable, offline, no token
        why = str(error).strip().splitlines()
        raise PipelineError(
            f"{destination}: version {number} was not published: {type(error).__name__}: {why[0] if why else ''}; "
            "hint: what was there stands; the next refresh tries again, and so does python -m pipeline publish"
        ) from error
    record(run, "published", number, to=destination)
    return True


def _sender(destination: str, private: bool) -> Callable[[Path, Notice], None]:
    if destination.startswith(HUB):
        name = destination.removeprefix(HUB).strip("/")
        if name.count("/") != 1:
            raise ConfigError(f"{destination}: is no Hub repository; hint: {HUB}OWNER/NAME")
        return lambda folder, notice: _to_hub(folder, notice, name, private)
    scheme, separator, rest = destination.partition("://")
    if not separator or scheme == "file":
        return lambda folder, notice: _to_folder(folder, notice, Path(rest if separator else destination))
    return lambda folder, notice: _to_store(folder, notice, destination)


def _to_folder(folder: Path, notice: Notice, destination: Path) -> None:
    """Copies beside, renames, and swaps the link `dataset` last."""
    place = destination / notice.path
    told = place.with_suffix(".json")
    if not _is_there(told.read_text(encoding="utf-8") if told.is_file() else None, notice, str(place)):
        beside = place.with_name(f".{place.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)  # without its notice it was never published
        shutil.copytree(folder, beside)
        for path in [*beside.rglob("*"), beside]:
            sync(path)
        os.rename(beside, place)
        sync(place.parent)
        write_json(told, asdict(notice))
    point(destination / "dataset", place)


def _to_store(folder: Path, notice: Notice, url: str) -> None:
    """Uploads every file, then the notice, then the pointer: one object, which a store replaces in one step."""
    import fsspec

    store, root = fsspec.core.url_to_fs(url)
    root = root.rstrip("/")
    told = f"{root}/{notice.path}.json"
    said = store.cat_file(told).decode("utf-8") if store.exists(told) else None
    if not _is_there(said, notice, f"{url}/{notice.path}"):
        for name in notice.files:
            place = f"{root}/{notice.path}/{name}"
            store.makedirs(place.rpartition("/")[0], exist_ok=True)
            store.put_file(str(folder / name), place)
            if store.info(place)["size"] != (folder / name).stat().st_size:
                raise PipelineError(f"{url}/{notice.path}/{name}: is cut short; hint: publish again")
        store.pipe_file(told, _encoded(asdict(notice)))
    store.pipe_file(f"{root}/{POINTER}", _encoded({**asdict(notice), "path": notice.path}))


def _to_hub(folder: Path, notice: Notice, name: str, private: bool) -> None:
    """One commit that adds, replaces and deletes, and a tag that names the version."""
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        commit_message=f"version {notice.version}: {notice.rows} pairs",
        delete_patterns=["data/*", "sampler_logps/*"],
    )
    tag = f"v{notice.version:04d}-{notice.content[:8]}"
    hub.create_tag(name, repo_type="dataset", tag=tag, revision=commit.oid, exist_ok=True)


def _is_there(said: str | None, notice: Notice, place: str) -> bool:
    """Whether the destination holds this version. Raises PipelineError when it holds another one under its number."""
    if said is None:
        return False
    content = json.loads(said).get("content")
    if content != notice.content:
        raise PipelineError(
            f"{place}: holds another version {notice.version} (content {content}, this one is {notice.content}); "
            "nothing was changed; hint: another run publishes there, take another destination"
        )
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _encoded(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
