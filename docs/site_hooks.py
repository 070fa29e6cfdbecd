"""For mkdocs: links out of docs/ lead to the repository, which is where those files are."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")
ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page with links to files outside docs/ as links to the repository, or as their path where it has no address."""
    repository = os.environ.get("DOCS_REPOSITORY_URL", "").rstrip("/")  # for example https://HOST/OWNER/NAME/blob/main

    def outside(found: re.Match[str]) -> str:
        text, up, path, anchor = found[1], found[2], found[3], found[4] or ""
        target = (ROOT / "docs" / page.file.src_uri).parent / up / path
        inside = target.resolve().relative_to(ROOT)
        if inside.parts[0] == "docs" or not target.exists():
            return found[0]  # mkdocs itself says what is wrong with it
        return f"[{text}]({repository}/{inside}{anchor})" if repository else f"{text} (`{inside}`)"

    return LINK.sub(outside, markdown)
