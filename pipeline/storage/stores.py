"""Folders in an object store: to the pipeline, s3://bucket/prefix is what a local path is.

A store has objects, not files: each appears whole or not at all, so nothing is written beside and renamed. It has no links and
no file locks (lease.py has what there is instead). Whoever asks a store gets FileNotFoundError where there is no such
object, and EnvironmentLacks, with a hint, where the store cannot be reached or refuses.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from pipeline.errors import ConfigError, EnvironmentLacks
from pipeline.storage.memory import MEMORIES, Memory, Seen, Tag, memory_of

SCHEMES = ("s3", "gs", "az", "memory")
"""Stores that write on a condition, which a lock needs; memory is this process's own, for tests."""
RETRIES = 10
"""Of a request without an answer, or with a 5xx; the waits between them double from 0.1 s to 15 s: a minute in all."""
FIRST_RETRIES = 3
"""Of the first request of a command: a wrong address is said at once."""
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS in the environment, or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in the environment, or the machine's identity",
}
ADDRESS = "is AWS_ENDPOINT_URL (any store but Amazon's) right, and the network up"
HINTS = (
    (r"NoSuchBucket|ContainerNotFound|bucket does not exist", "make the bucket first; a run makes none"),
    (r"Redirect|AuthorizationHeaderMalformed|region", "AWS_REGION must name the bucket's region"),
    (r"error sending request|builder error|timed? ?out|dns", ADDRESS),
)
"""What a store's answer hints at; anything else is a matter of who asks."""

T = TypeVar("T")


if TYPE_CHECKING:
    Text = Path  # what this project asks of a path, a StorePath does as well
else:
    Text = PurePosixPath


class StorePath(Text):
    """A path in an object store: does what this project asks of a `pathlib.Path`. A text until it is asked."""

    def __str__(self) -> str:
        text = super().__str__()
        return text.replace(":/", "://", 1) if self.parts[:1] and self.parts[0].endswith(":") else text

    def __fspath__(self) -> str:
        raise TypeError(f"{self} lies in a store; hint: ask the path itself, not `os` or `shutil`")

    @property
    def bucket(self) -> str:
        """The store: s3://bucket."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """The object's name in the store."""
        return "/".join(self.parts[2:])

    def read_bytes(self) -> bytes:
        """The object's content. Raises: FileNotFoundError."""
        memory = memory_of(self.bucket, self.key)
        if memory and self.suffix == ".json":
            self.stat()
            return memory.content(self.key, lambda key: StorePath(self.bucket, key)._fetched())
        return self._fetched()

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The object's text. Raises: FileNotFoundError."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "rb") -> io.BytesIO:  # type: ignore[override]
        """The object's content as a file, whole in memory: shards are small."""
        if mode != "rb":
            raise ValueError(f"{self}: cannot be opened for {mode!r}; hint: pipeline.storage.shards.replacing")
        return io.BytesIO(self.read_bytes())

    def write(self, content: bytes | Path, condition: str | Tag = "overwrite") -> Tag:
        """Makes the object in one step, from bytes or a local file, and says its tag.

        Args:
            condition: `create`: only where there is none; a tag: only where it still has that one.

        Raises:
            Unmet: the condition is not met; nothing was written.
        """
        exceptions = _obstore().exceptions
        try:
            tag = self._asked(lambda store, key: _tag(_obstore().put(store, key, content, mode=condition)))
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise Unmet(str(self)) from error
        self._note(Seen(len(content) if isinstance(content, bytes) else content.stat().st_size, tag))
        return tag

    def stat(self) -> Seen:  # type: ignore[override]
        """Size and tag. Raises: FileNotFoundError."""
        if memory := memory_of(self.bucket, self.key):
            if self.key not in memory.seen:
                raise FileNotFoundError(f"{self}: there is no such object")
            return memory.seen[self.key]
        return self._looked()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            return bool(self.key and self.stat())
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether any object lies below."""
        return not memory_of(self.bucket, self.key) and self._asked(_holds_any)

    def exists(self) -> bool:
        """Whether there is such an object, or any below."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Never: a store has no links."""
        return False

    def iterdir(self) -> Generator[StorePath, None, None]:
        """What lies in this folder, sorted; nothing where there is no such folder."""
        found = self._asked(lambda store, key: _obstore().list_with_delimiter(store, key))
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        yield from (self / name.rstrip("/").rpartition("/")[2] for name in sorted(names))

    def glob(self, pattern: str) -> Generator[StorePath, None, None]:
        """What lies in this folder under a name like `pattern`, sorted."""
        yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Generator[StorePath, None, None]:
        """The objects below under a name like `pattern`, sorted. Folders are not among them."""
        pages = self._asked(lambda store, key: list(_obstore().list(store, key)))
        found = (StorePath(self.bucket, each["path"]) for page in pages for each in page)
        yield from (path for path in sorted(found) if fnmatchcase(path.name, pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            self._asked(lambda store, key: _obstore().delete(store, key))
        except FileNotFoundError:
            if not missing_ok:
                raise
        self._note(None)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store's folders are there while something lies in them."""

    def rmdir(self) -> None:
        """Nothing: a store's folders go with the last object in them."""

    def absolute(self) -> StorePath:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> StorePath:
        """Itself."""
        return self

    def _looked(self) -> Seen:
        found = self._asked(lambda store, key: _obstore().head(store, key))
        return Seen(found["size"], _tag(found))

    def _fetched(self) -> bytes:
        return self._asked(lambda store, key: bytes(_obstore().get(store, key).bytes()))

    def _note(self, seen: Seen | None) -> None:
        for name, memory in MEMORIES.items():
            if name.startswith(self.bucket + "/"):
                memory.note(self.key, seen)

    def _asked(self, question: Callable[[Any, str], T], retries: int = RETRIES) -> T:
        return answered(self, lambda: question(_store(self.bucket, retries), self.key))


class Unmet(Exception):
    """An object was not written, since it has changed."""


def place_of(text: str | Path) -> Path:
    """The folder that a user names: a local path, or a URL in an object store. `Path` stands for what both can do.

    Raises:
        ConfigError: nothing can lie there, or the URL holds a password.
    """
    scheme, is_url, rest = str(text).partition("://")
    if not is_url:
        return Path(text)
    bucket, _, prefix = rest.partition("/")
    if "@" in rest or "?" in rest or ":" in bucket:
        raise ConfigError(
            f"{scheme}://...: no passwords or settings in a URL; hint: {CREDENTIALS.get(scheme, ADDRESS)}"
        )
    if scheme == "file":
        return Path("/", prefix)
    if scheme not in SCHEMES or not bucket or ".." in prefix.split("/"):
        known = ", ".join(f"{each}://BUCKET/PREFIX" for each in CREDENTIALS)
        raise ConfigError(f"{text}: is no folder that can be written; hint: a local path, {known}")
    return StorePath(f"{scheme}://{bucket}", prefix)


def is_store(path: Path) -> TypeGuard[StorePath]:
    """Whether the path lies in an object store."""
    return isinstance(path, StorePath)


def readable(path: Path) -> Any:
    """What pyarrow opens: a local path, or a store's object as a file."""
    return path.open("rb") if is_store(path) else path


def stamp(path: Path) -> str:
    """What the disk or store says of a file and says otherwise once it is written to: on a disk its size and times, of which one
    nobody can set."""
    if is_store(path):
        return json.dumps(path.stat().tag)
    seen = path.stat()
    return f"{seen.st_size}-{seen.st_mtime_ns}-{seen.st_ctime_ns}"


@contextmanager
def remembering(folder: Path) -> Iterator[None]:
    """Knows inside, from one listing, which shards and receipts lie in a run's folder that this process alone changes."""
    if not is_store(folder):
        yield
        return
    name = f"{folder}/"
    pages = folder._asked(lambda store, key: list(_obstore().list(store, key)))
    MEMORIES[name] = Memory(f"{folder.key}/")
    for each in (each for page in pages for each in page):
        MEMORIES[name].note(each["path"], Seen(each["size"], _tag(each)))
    try:
        yield
    finally:
        del MEMORIES[name]


def sent_out(shard: Path) -> None:
    """Takes note that from now on another process may write this shard and its receipt."""
    if is_store(shard):
        for memory in MEMORIES.values():
            memory.away |= {shard.key, shard.with_suffix(".json").key}


def came_back(shard: Path) -> None:
    """Looks at a shard and its receipt that another process has finished: from now on they are known."""
    if is_store(shard):
        for path in (shard, shard.with_suffix(".json")):
            for memory in MEMORIES.values():
                memory.away.discard(path.key)
            path._note(path._looked())


def require_reachable(place: Path) -> None:
    """Raises EnvironmentLacks when a store does not answer, has no such bucket or shows us nothing. Local paths pass."""
    if is_store(place):
        place._asked(_holds_any, FIRST_RETRIES)


def answered(place: StorePath, question: Callable[[], T]) -> T:
    """What a store answers. Raises FileNotFoundError and conditions as they are, all else as EnvironmentLacks."""
    exceptions = _obstore().exceptions
    try:
        return question()
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise FileNotFoundError(f"{place}: there is no such object") from None
        raise refused(place, error) from error
    except (exceptions.BaseError, ValueError) as error:
        raise refused(place, error) from error


def refused(place: StorePath, error: Exception) -> EnvironmentLacks:
    """A store's refusal in one line: what it said and what that hints at."""
    said = str(error).partition("\n\nDebug source")[0]
    found = re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", said, re.DOTALL)
    why = (
        ": ".join(part for part in found.groups() if part)
        if found
        else said.strip().splitlines()[0].rpartition(" - ")[2]
    )
    who = f"who asks is taken from {CREDENTIALS.get(place.bucket.partition(':')[0], 'the environment')}"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, said, re.IGNORECASE)), who)
    return EnvironmentLacks(
        f"{place.bucket}: the store refuses or does not answer ({why}); hint: {hint}; what is finished is kept"
    )


def _tag(said: Mapping[str, Any]) -> Tag:
    return {name: said[name] for name in ("e_tag", "version") if said[name] is not None}


def _holds_any(store: Any, key: str) -> bool:
    return any(page for page in _obstore().list(store, key, chunk_size=1))


@functools.cache
def _store(bucket: str, retries: int) -> Any:
    """The client of a store. Who it is comes from the environment and is written nowhere."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://"
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"AWS_ENDPOINT_URL is {endpoint!r}; hint: http://HOST:PORT or https://HOST")
    if bucket.startswith("memory:"):
        return _memory(bucket)
    return _obstore().store.from_url(
        bucket,
        client_options={"allow_http": endpoint.startswith("http://")},
        retry_config={"max_retries": retries, "retry_timeout": timedelta(minutes=3)},
    )


@functools.cache
def _memory(bucket: str) -> Any:
    return _obstore().store.MemoryStore()


def _obstore() -> Any:
    """The library, loaded when a store is first asked: local runs do without."""
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise EnvironmentLacks(
            f"object stores need the package obstore ({error}); hint: pip install 'preference-pipeline[s3]'"
        ) from None
    return obstore
