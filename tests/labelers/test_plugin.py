"""examples/plugin is installed for real, found by its name, and passes its own test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the plugin was installed, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"  # a build leaves files beside its source
    shutil.copytree(ROOT / "examples" / "plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        command = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--offline",
            "--python",
            sys.executable,
        ]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def run(installed: Path, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{installed / 'site'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=installed,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_listed_and_explained_by_its_name(installed: Path) -> None:
    assert "shouting" in run(installed, "-m", "labelers", "list").stdout
    page = run(installed, "-m", "labelers", "explain", "shouting")
    assert page.returncode == 0, page.stderr
    assert "Prefers completions in which few words are written in capitals." in page.stdout


def test_it_keeps_the_contract(installed: Path) -> None:
    done = run(installed, "-m", "labelers", "check", "shouting")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_labels_rows(installed: Path) -> None:
    row = '{"prompt": "Say hi", "completion": "HI THERE MY FRIEND"}\n'
    done = run(installed, "-m", "labelers", "score", "shouting", text=row)
    assert done.stdout == '{"value": 0.5, "abstain": null, "reason": "4 words in capitals"}\n', done.stderr


def test_its_own_test_passes(installed: Path) -> None:
    test = str(installed / "source" / "test_shouting.py")
    done = run(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(installed), test
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_being_installed_it_is_not_found() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labelers", "explain", "shouting"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no labeler 'shouting'" in done.stderr


def test_new_writes_a_labeler_and_a_test_that_passes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def python(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert python("-m", "labelers", "new", "mine").stdout == "./mine.py:Mine\n"
    assert sorted(path.name for path in tmp_path.glob("*.py")) == ["mine.py", "test_mine.py"]
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), "test_mine.py"
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert python("-m", "labelers", "check", "./mine.py:Mine").returncode == 0
