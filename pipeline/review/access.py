"""Who may open the page: people who hold a link with their token."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError

KEY = "key"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
COOKIE = "reviewer"


class Access:
    """Reviewers and their tokens, the same after every start.

    Args:
        folder: holds the key that tokens are made with, readable by its owner alone.
        names: reviewers. Letters, digits and ._@- only: a name stands in links and files.

    Raises:
        ConfigError: a name is none.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        if wrong := [name for name in names if not NAME.fullmatch(name)]:
            raise ConfigError(f"reviewer {wrong[0]!r}: is no name; hint: letters, digits and . _ @ -, at most 64")
        self._key = _key(folder / KEY)
        self.names = tuple(dict.fromkeys(names))

    def token(self, name: str) -> str:
        """The reviewer's token: the name, and proof that it was given out here."""
        proof = hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:40]
        return f"{name}:{proof}"

    def reviewer(self, token: str | None) -> str | None:
        """Whose token it is; None for no token, a wrong one, and one of a reviewer who is not asked any more."""
        name = (token or "").partition(":")[0]
        if name in self.names and hmac.compare_digest((token or "").encode(), self.token(name).encode()):
            return name
        return None


def _key(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise ConfigError(f"{path}: is damaged; hint: delete it, and every reviewer gets a new link") from error
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return _key(path)
