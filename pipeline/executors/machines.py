"""What a cluster's machines have, and what engines and work need of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from labelers.types import Needs
from pipeline.engines import EngineSpec

ON_DEVICE = ("vllm", "reward_model", "implicit_reward")
"""Kinds of engine that run a model themselves, on a GPU where there is one."""
Resources = dict[str, float]
"""Ray's names for what a machine has or work needs: CPU, GPU, memory in bytes."""


@dataclass
class Machines:
    """The machines of a cluster that are there, looked at now and then."""

    ray: Any
    present: list[Resources] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Takes in who joined and who left."""
        self.present = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def total(self, name: str) -> float:
        """How much of one resource all machines have together."""
        return sum(machine.get(name, 0.0) for machine in self.present)

    def room(self, needs: Resources) -> int:
        """How many times the needs fit on machines that do nothing else; 1 for each machine where nothing is needed."""
        asked = {name: amount for name, amount in needs.items() if amount > 0}
        return sum(
            int(min((machine.get(name, 0.0) / amount for name, amount in asked.items()), default=1))
            for machine in self.present
        )

    def lacking(self, needs: Resources) -> str:
        """Why work with these needs cannot run here."""
        asked = ", ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount > 0)
        most = ", ".join(f"{max((m.get(name, 0.0) for m in self.present), default=0):g} {name}" for name in needs)
        return (
            f"no machine of the cluster can hold work that needs {asked}: there are {len(self.present)}, with at most {most}; "
            "hint: `ray status` lists them; add one, or raise ray.wait_for_machines_s where they are started on demand"
        )


def resources(needs: Needs) -> Resources:
    """A stage's needs in Ray's words."""
    return {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_gb * 1e9}


def engine_gpus(spec: EngineSpec, asked: int, *, has_gpus: bool) -> int:
    """The GPUs that one copy of the engine takes.

    Args:
        asked: what the config says; -1 leaves it to the engine.
    """
    if asked >= 0:
        return asked
    if not has_gpus or spec.use not in ON_DEVICE or getattr(spec, "device", "auto") == "cpu":
        return 0
    return int(getattr(spec, "tensor_parallel_size", 1))
