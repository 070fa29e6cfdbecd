"""A run on a machine that lacks a layer of isolation: refused, or loud and written down; the layers are really barred."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.plan import make_plan

ROOT = Path(__file__).parents[2]
BARRED = """
import sys
from labelers.confine import bar
bar(sys.argv[1].split(","))
sys.argv[1:] = sys.argv[2:]
from pipeline.cli.main import main
main()
"""


def run_under(bars: str, config: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline run` where these layers are barred."""
    command = [sys.executable, "-c", BARRED, bars, "run", str(config), "--root", str(config.parent / "runs")]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture
def config(replayed, tmp_path: Path) -> Path:
    replayed(labeler='use = "parses"\n            max_abstained = 1.0')
    (tmp_path / "completions.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"write function {i}", "family": "code", "completion": ["{}", "[]", "{", "x"]}) + "\n"
            for i in range(4)
        )
    )
    return tmp_path / "config.toml"


def test_without_seccomp_a_run_refuses_before_anything_is_sampled(config):
    done = run_under("seccomp", config)
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: labelers are confined by seccomp, which cannot be had here")
    assert "hint: Linux with CONFIG_SECCOMP_FILTER" in last
    assert 'accept_weaker = ["seccomp"]' in last
    assert not list(config.parent.glob("runs/replayed/completions-*"))


def test_the_override_is_loud_and_written_into_manifest_and_card(config):
    done = run_under("seccomp,landlock", config, 'accept_weaker=["seccomp"]')
    assert done.returncode == 0, done.stderr
    assert "warning: this run goes on without the isolation layer seccomp" in done.stderr
    assert "warning: this run goes on without the isolation layer landlock" in done.stderr
    folder = config.parent / "runs" / "replayed"
    manifest = json.loads((folder / "versions" / "0001.json").read_text())
    assert set(manifest["isolation_lost"]) == {"seccomp", "landlock"}
    assert "Labelled without the isolation layer seccomp" in (folder / "dataset" / "README.md").read_text()


def test_without_the_backup_layers_a_run_goes_on_and_says_so(config):
    done = run_under("namespaces", config)
    assert done.returncode == 0, done.stderr
    assert "warning: this run goes on without the isolation layer namespaces: unshare" in done.stderr


def test_with_every_layer_nothing_is_said(config):
    command = [sys.executable, "-m", "pipeline", "run", str(config), "--root", str(config.parent / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    assert "isolation" not in done.stderr
    assert "isolation" not in (config.parent / "runs" / "replayed" / "dataset" / "README.md").read_text()


@pytest.mark.parametrize(("needs", "what"), [("sandbox", "runs completions"), ("network", "opens connections")])
def test_what_a_labeler_needs_beyond_computing_is_allowed_in_the_config(replayed, tmp_path, needs, what):
    source = (ROOT / "examples/labeler/short.py").read_text().replace("Needs()", f"Needs({needs}=True)")
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ConfigError, match=f"labelers.0: .*Short {what}; hint: allow it with {needs} = true"):
        replayed(labeler='use = "./mine.py:Short"')
    granted = load(tmp_path / "config.toml", [f"{needs}=true", "labelers.0.timeout_s=5"])
    stage = make_plan(granted, tmp_path / "run").of_kind("labels")[0].stage
    assert (stage.limits.allow, stage.limits.timeout_s) == ({needs}, 5.0)


def test_a_layer_of_another_name_is_a_config_error(replayed):
    with pytest.raises(ConfigError, match="accept_weaker: 'secomp' is no layer; hint: rlimits"):
        replayed('accept_weaker=["secomp"]')
