"""A version goes out: to a folder, an object store or a Hub repository. A reader sees all of it or the one before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import ConfigError, EnvironmentLacks, PipelineError
from pipeline.publishing.destinations import repository_of
from pipeline.publishing.history import events, published_at, record
from pipeline.publishing.versions import current, folder_of, manifest_of, manifests
from pipeline.storage.folders import appearing, files_in, on_this_machine, point, pointed, remove, upload
from pipeline.storage.shards import file_sha256, read_json, write_json
from pipeline.storage.stores import is_store, place_of, require_reachable
from pipeline.storage.storing import storing


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


def publish_current(run: Path, destination: str, *, private: bool = True, again: bool = False) -> bool:
    """Gives `destination` the version that `dataset` points at. The caller holds the run's folder.

    Args:
        destination: a folder, a URL of an object store, or hf://datasets/OWNER/NAME.
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
    destination = _named(destination)
    if published_at(run, destination) == number and not again:
        return False
    manifest_of(run, number)  # refuses a version whose rows were removed
    send = _sender(destination, private)
    try:
        with on_this_machine(folder_of(run, number)) as folder:
            files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files_in(folder)}
            send(folder, Notice(number, standing["content"], standing["rows"], standing["created"], files))
    except EnvironmentLacks as error:
        raise EnvironmentLacks(f"{destination}: version {number} was not published: {error}") from error
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


def remove_published(run: Path, destination: str, keep: int) -> list[int]:
    """Removes what this run gave to a folder or an object store, but the last `keep` versions and the one that stands there.

    Versions of other runs stay, and so does all of a Hub repository: its history is one of commits. The notice goes first: what
    lies there without one was never published, and a version that comes back is copied again.

    Args:
        keep: 0 keeps all.

    Raises:
        EnvironmentLacks: the place cannot be reached, or does not let go of a file.
    """
    destination = _named(destination)
    if not keep or repository_of(destination):
        return []
    given = {e["version"] for e in events(run) if e["event"] == "published" and e["to"] == destination}
    made = {m["number"]: m["content"] for m in manifests(run)}
    place = place_of(destination)
    with storing(place):
        names = {path.stem for path in (place / "versions").glob("[0-9]*")}
        lying = [n for n in sorted(given) if f"{n:04d}" in names]
        # One without a notice is what a kill left of its removal.
        ours = [n for n in lying if _content_at(_notice_at(place, n)) in (None, made.get(n))]
        old = [n for n in ours[:-keep] if folder_of(place, n) != pointed(place / "dataset")]
        for number in old:
            record(run, "removed", number, to=destination)
            _notice_at(place, number).unlink(missing_ok=True)
            remove(folder_of(place, number))
    return old


def _notice_at(place: Path, number: int) -> Path:
    return folder_of(place, number).with_suffix(".json")


def _named(destination: str) -> str:
    """The destination as the run's history names it."""
    return destination if "://" in destination else str(Path(destination).absolute())


def _sender(destination: str, private: bool) -> Callable[[Path, Notice], None]:
    if name := repository_of(destination):
        return lambda folder, notice: _to_hub(folder, notice, name, private)
    place = place_of(destination)
    return lambda folder, notice: _to_place(folder, notice, place)


def _to_place(folder: Path, notice: Notice, destination: Path) -> None:
    """The files first, then the notice that names them, and last the pointer `dataset`: what is half there nobody reads."""
    require_reachable(destination)
    place, told = folder_of(destination, notice.version), _notice_at(destination, notice.version)
    if not _is_there(told, notice):
        if is_store(place):
            remove(place)  # without its notice it was never published
            upload(folder, place)
        else:
            with appearing(place) as beside:
                shutil.copytree(folder, beside, dirs_exist_ok=True)
        write_json(told, asdict(notice))
    point(destination / "dataset", place)


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


def _is_there(told: Path, notice: Notice) -> bool:
    """Whether the destination holds this version. Raises PipelineError when it holds another one under its number."""
    content = _content_at(told)
    if content is None:
        return False
    if content != notice.content:
        raise PipelineError(
            f"{told.with_suffix('')}: holds another version {notice.version} (content {content}, this one is "
            f"{notice.content}); nothing was changed; hint: another run publishes there, take another destination"
        )
    return True


def _content_at(told: Path) -> str | None:
    """The content hash that a notice tells; None where there is no notice."""
    try:
        return str(read_json(told).get("content"))
    except FileNotFoundError:
        return None
