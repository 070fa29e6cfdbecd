"""The site builds without a warning, loads nothing from elsewhere, and the papers around the project are in order."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT

CITATION_KEYS = {
    *(
        "abstract",
        "authors",
        "cff-version",
        "commit",
        "contact",
        "date-released",
        "doi",
        "identifiers",
        "keywords",
        "license",
    ),
    *(
        "license-url",
        "message",
        "preferred-citation",
        "references",
        "repository",
        "repository-artifact",
        "repository-code",
    ),
    *("title", "type", "url", "version"),
}
"""Of citation-file-format 1.2.0, schema.json; it also demands the four of NEEDED."""
NEEDED = {"authors", "cff-version", "message", "title"}
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a dead link, a dead anchor or a page outside the navigation fails."""
    pytest.importorskip("mkdocs", reason="needs mkdocs; hint: pip install 'preference-pipeline[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=840, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")} - {
        Path("index")
    }
    assert [page for page in pages if not (site / page / "index.html").is_file()] == []


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    elsewhere = re.compile(
        r"""<(?:script|img|iframe)[^>]+src=["']https?://|<link[^>]+rel=["']stylesheet["'][^>]+https?://"""
    )
    assert [page.name for page in site.rglob("*.html") if elsewhere.search(page.read_text(encoding="utf-8"))] == []


def test_limits_are_said_first(site: Path) -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    assert text.index("## Limits first") == text.index("## ")


def test_the_citation_file_has_the_keys_of_its_format_and_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert set(citation) <= CITATION_KEYS
    assert set(citation) >= NEEDED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_a_form(template: Path) -> None:
    form = yaml.safe_load(template.read_text())
    if template.stem == "config":
        return
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
