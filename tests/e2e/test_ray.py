"""A real Ray cluster of several machines (raylets) on this one: the same bytes as locally, whatever dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from labelers.types import Needs
from pipeline.config import Config, load
from pipeline.engines import Progress, Sampling
from pipeline.errors import EnvironmentLacks
from pipeline.executors import Executor
from pipeline.executors.ray import Ray, RayExecutor, connected
from pipeline.prompts import Prompts, import_prompts
from pipeline.run import run
from pipeline.runner import Outcome, Runner
from pipeline.sample import Sample
from pipeline.storage.shards import read_shard
from pipeline.storage.stores import place_of
from pipeline.work import Stage, Work
from tests.e2e.conftest import run_cli, write_jsonl
from tests.e2e.on_ray import SlowCopy, SlowEcho
from tests.e2e.test_kill import children
from tests.s3 import S3, canaries_in

pytestmark = pytest.mark.e2e

SOON = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
"""A machine that is gone is known to be after two seconds, not fifteen."""
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster(s3: S3) -> Iterator[Any]:
    """A cluster of three machines: a head without CPUs, and two of one CPU. They find the store `s3`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else Ray writes a token into the user's home
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all on the loopback address
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    head = {**MACHINE, "num_cpus": 0, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**MACHINE)
    cluster.add_node(**MACHINE)
    connected(cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def on_ray(cluster: Any) -> Callable[[], Executor]:
    return lambda: RayExecutor(Ray(address=cluster.address))


def config_of(folder: Path, labeler: str = 'use = "compiles"', n_prompts: int = 12) -> Config:
    """Replayed completions, some of which compile, in shards of two prompts."""
    prompts = [{"prompt": f"write function {i}", "family": "code"} for i in range(n_prompts)]
    texts = [
        "def f(x):\n    return x  # 1",
        "def f(x):\n    return x  # 2",
        "def f(x:\n    return 1",
        "def f(x:\n    return",
    ]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "completions.jsonl", [{**prompt, "completion": texts} for prompt in prompts])
    path = folder / "config.toml"
    path.write_text(
        'name = "run"\n[prompts]\npath = "prompts.jsonl"\nshard_size = 2\n'
        '[[sources]]\nname = "people"\nengine = { use = "replay", path = "completions.jsonl" }\n'
        f"[[labelers]]\n{labeler}\n"
    )
    return load(path)


def shards(folder: Path, kind: str) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*.parquet") if path.parent.name.startswith(f"{kind}-"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


def works(folder: Path, stage: Stage, n_shards: int = 8) -> list[Work]:
    """A work for each of `n_shards` shards of one prompt."""
    rows = write_jsonl(folder / "p.jsonl", [{"prompt": f"prompt {i}"} for i in range(n_shards)])
    imported = import_prompts(Prompts(path=str(rows), shard_size=1), folder / "prompts")
    return [Work(stage, (shard,), folder / "made" / shard.name) for shard in imported.shards]


def once(is_time: Callable[[Outcome], bool], then: Callable[[], None]) -> Callable[[Outcome], None]:
    """Calls `then` at the first tick at which it is time."""
    left = [then]
    return lambda outcome: left.pop()() if left and is_time(outcome) else None


def performed(todo: list[Work], executor: Executor, on_tick: Callable[[Outcome], None]) -> Outcome:
    try:
        return Runner(todo, executor, lambda outcome: (executor.progress(), on_tick(outcome))[1]).run()
    finally:
        executor.close()


def lose(cluster: Any, machine: Any) -> None:
    """Kills a machine: its raylet, and the workers, which would outlive it for a moment."""
    workers = children(machine.all_processes["raylet"][0].process.pid)
    cluster.remove_node(machine, allow_graceful=False)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def raylets() -> set[str]:
    """The processes of this machine that are raylets."""
    return {p.parent.name for p in Path("/proc").glob("[0-9]*/comm") if p.read_text().strip() == "raylet"}


def test_a_cluster_makes_the_bytes_that_one_machine_makes(on_ray, tmp_path):
    config = config_of(tmp_path)
    locally = run(config, tmp_path / "local")
    spread = run(config, tmp_path / "ray", on_ray)
    assert spread.failed == {}
    for kind in ("completions", "labels", "pairs"):
        assert shards(spread.folder, kind) == shards(locally.folder, kind)
    assert len(shards(spread.folder, "pairs")) == 6
    assert spread.rows == locally.rows == 24


class Disturbed(RayExecutor):
    """Loses an engine's process and then a machine in the middle of a run."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._doomed = cluster.add_node(**MACHINE)
        self._troubles = [self._lose_engine, lambda: lose(cluster, self._doomed)]
        super().__init__(Ray(replicas=2))

    def progress(self) -> Progress:
        n_made = sum(p.parent.name.startswith(("completions-", "labels-")) for p in self._folder.rglob("*.json"))
        if self._troubles and n_made > 4 * (3 - len(self._troubles)):
            self._troubles.pop(0)()
        return super().progress()

    def _lose_engine(self) -> None:
        import ray

        ray.kill(self._replicas[0].actor, no_restart=False)

    def close(self, grace_s=None) -> None:
        assert self._troubles == []
        super().close(grace_s)


def test_an_engine_and_a_machine_lost_in_mid_run_change_no_byte_in_a_store_that_all_share(cluster, tmp_path):
    config = config_of(tmp_path, n_prompts=40)
    locally = run(config, tmp_path / "local")
    store = place_of("s3://runs/disturbed")
    spread = run(config, store, lambda: Disturbed(cluster, store))
    assert spread.failed == {}
    assert shards(spread.folder, "pairs") == shards(locally.folder, "pairs")
    assert len(shards(spread.folder, "pairs")) == 20
    assert canaries_in(store) == []


def test_a_machine_lost_in_mid_run_loses_and_doubles_nothing(cluster, on_ray, tmp_path, capfd):
    visits = tmp_path / "visits"
    visits.mkdir()
    doomed = cluster.add_node(**MACHINE)

    def visited(machine: str) -> set[str]:
        return {path.name.split("-")[1] for path in visits.glob(f"{machine}-*")}

    kill = once(lambda _: bool(visited(doomed.node_id)), lambda: lose(cluster, doomed))
    todo = works(tmp_path, SlowCopy(visits), 12)
    outcome = performed(todo, on_ray(), kill)
    assert doomed not in cluster.worker_nodes
    assert outcome.failed == {}
    begun = Counter(path.name.split("-")[1] for path in visits.iterdir())
    assert max(begun.values()) > 1, "nothing was in flight on the machine that was lost"
    rows = [row["prompt_id"] for work in todo for row in read_shard(work.output).to_pylist()]
    assert sorted(rows) == sorted(set(begun))
    assert len(rows) == 12
    assert capfd.readouterr().out == ""


def test_an_engine_that_dies_with_its_process_is_loaded_again(on_ray, tmp_path):
    lives = tmp_path / "lives"
    lives.mkdir()
    stage = Sample("echo", SlowEcho(lives), Sampling(n=1))

    def kill() -> None:
        os.kill(int(next(lives.iterdir()).name), signal.SIGKILL)

    todo = works(tmp_path, stage, 20)
    outcome = performed(todo, on_ray(), once(lambda outcome: len(outcome.made) > 2, kill))
    assert outcome.failed == {}
    assert len(list(lives.iterdir())) == 2
    assert [read_shard(work.output)["text"].to_pylist() for work in todo] == [[f"prompt {i}"] for i in range(20)]


KILLER = """
import os
from dataclasses import dataclass
from labelers.types import Example, Needs, Prompt, Score

@dataclass(frozen=True)
class Killer:
    name, version, needs = "killer", "1", Needs()
    examples = [Example(Prompt.of("p"), better="x" * 100, worse="x")]
    def score(self, batch, ctx):
        if any("function 0" in c.prompt.messages[0].content for c in batch): os._exit(3)
        return [Score(float(len(c.completion.text))) for c in batch]
"""


def test_a_labeler_that_ends_its_process_costs_those_items_only_as_locally(on_ray, tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    config = config_of(tmp_path, f'use = "{tmp_path / "killer.py"}:Killer"\nmax_abstained = 1.0', n_prompts=4)
    locally = run(config, tmp_path / "local")
    spread = run(config, tmp_path / "ray", on_ray)
    assert shards(spread.folder, "labels") == shards(locally.folder, "labels")
    labels = [row for p in spread.folder.glob("labels-*/*.parquet") for row in pq.read_table(p).to_pylist()]
    assert [row["abstain"] for row in labels].count("crashed") == 4
    assert len(labels) == 16


def test_labelers_that_need_the_gpus_that_an_engine_holds_take_their_turn(cluster, tmp_path, capsys):
    lives, visits = tmp_path / "lives", tmp_path / "visits"
    lives.mkdir()
    visits.mkdir()
    machine = cluster.add_node(**MACHINE, num_gpus=1)
    echo = works(tmp_path, Sample("echo", SlowEcho(lives), Sampling(n=1)), 4)
    copy = SlowCopy(visits, seconds=0.1, needs=Needs(cpus=0, gpus=1))
    copies = [Work(copy, work.inputs, tmp_path / "copied" / work.output.name) for work in echo]
    try:
        executor = RayExecutor(Ray(engine_gpus=1))
        executor.submit(echo[0]).result(timeout=120)  # from now on the engine holds the one GPU
        outcome = performed([*echo, *copies], executor, lambda _: None)
    finally:
        cluster.remove_node(machine)
    assert outcome.failed == {}
    assert len(outcome.made) == 7
    assert "the engine, which has nothing to do, gives its own back" in capsys.readouterr().err


def test_work_that_no_machine_can_hold_stops_the_run_and_says_so(cluster, tmp_path):
    executor = RayExecutor(Ray(wait_for_machines_s=1))
    todo = works(tmp_path, SlowCopy(tmp_path, needs=Needs(gpus=2)), 1)
    with pytest.raises(EnvironmentLacks, match=r"needs 1 CPU, 2 GPU, 1e\+09 memory: there are \d, .* 0 GPU.*hint"):
        performed(todo, executor, lambda _: None)


def test_a_run_starts_a_cluster_for_itself_and_leaves_nothing_behind(tmp_path):
    config_of(tmp_path, n_prompts=2)
    before = raylets()
    done = run_cli("pipeline", "run", tmp_path / "config.toml", "--executor", "ray", "--root", "runs", cwd=tmp_path)
    assert "4 pairs" in done.stdout
    assert len(shards(tmp_path / "runs" / "run", "pairs")) == 1
    assert raylets() == before
