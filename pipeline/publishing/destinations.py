"""Where versions go, as the config names it: a wrong name is found before anything is sampled."""

from __future__ import annotations

from pipeline.errors import ConfigError

HUB = "hf://datasets/"


def repository_of(destination: str) -> str | None:
    """OWNER/NAME of the Hub repository that the destination names; None where it is a folder or a URL.

    Raises:
        ConfigError: it names the Hub and no repository there.
    """
    if not destination.startswith("hf://"):
        return None
    parts = destination.removeprefix(HUB).strip("/").split("/")
    if not destination.startswith(HUB) or len(parts) != 2 or not all(parts):
        raise ConfigError(f"{destination}: is no Hub repository; hint: {HUB}OWNER/NAME")
    return "/".join(parts)
