"""Keys and tokens out of what is said or stored: servers repeat them in their errors, and errors end up in files."""

from __future__ import annotations

import os
import re

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|WEBHOOK|DATABASE_URL", re.IGNORECASE)
"""Names of environment variables whose values nobody is to read."""
SHORTEST = 8
"""Shorter values are words like `none` and `true`, which texts may hold for other reasons."""


def redacted(text: str) -> str:
    """The text with each secret of this process's environment replaced by its variable's name."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET.search(name) and value in text:
            text = text.replace(value, f"${name}")
    return text
