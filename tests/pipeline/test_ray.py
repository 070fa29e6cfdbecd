"""What the Ray executor decides without a cluster; tests/e2e/test_ray.py has the cluster."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from labelers.types import Needs
from pipeline.engines.http import Http
from pipeline.engines.replay import Replay
from pipeline.engines.rewards import RewardModel
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, EnvironmentLacks
from pipeline.executors.hosts import require_inputs
from pipeline.executors.machines import Machines, engine_gpus, resources
from pipeline.executors.ray import Ray, connected
from pipeline.sample import Sample
from pipeline.storage.shards import receipt_path
from pipeline.work import Work


def work(shard: Path) -> Work:
    stage = Sample("people", Replay("x.jsonl"), sampling=None)  # type: ignore[arg-type]
    return Work(stage, (shard,), shard.with_name("made.parquet"))


def complete(shard: Path) -> None:
    shard.touch()
    receipt_path(shard).touch()


def test_a_machine_that_does_not_see_the_runs_folder_says_so(tmp_path):
    with pytest.raises(
        EnvironmentLacks, match=r"does not see .*prompts\.parquet.*hint: --root must name a folder that all"
    ):
        require_inputs(work(tmp_path / "prompts.parquet"), within_s=0)


def test_a_file_that_shows_up_late_on_a_network_folder_is_waited_for(tmp_path):
    shard = tmp_path / "prompts.parquet"
    late = threading.Timer(0.3, complete, [shard])
    late.start()
    begun = time.monotonic()
    require_inputs(work(shard), within_s=20)
    assert 0.2 < time.monotonic() - begun < 10
    late.join()


def test_a_damaged_shard_is_left_to_the_stage_to_name(tmp_path):
    shard = tmp_path / "prompts.parquet"
    complete(shard)
    require_inputs(work(shard), within_s=0)


@pytest.mark.parametrize(
    ("spec", "has_gpus", "asked", "gpus"),
    [
        (Vllm("m"), True, -1, 1),
        (Vllm("m", tensor_parallel_size=4), True, -1, 4),
        (Vllm("m", tensor_parallel_size=4), False, -1, 0),
        (Vllm("m"), False, 2, 2),
        (RewardModel(model="m"), True, -1, 1),
        (RewardModel(model="m", device="cpu"), True, -1, 0),
        (Http("http://h", "m"), True, -1, 0),
        (Replay("p"), True, -1, 0),
    ],
)
def test_an_engine_takes_the_gpus_that_its_model_runs_on(spec, has_gpus, asked, gpus):
    assert engine_gpus(spec, asked, has_gpus=has_gpus) == gpus


class Nodes:
    """Ray's list of a cluster's machines: two with four GPUs each, one lost."""

    @staticmethod
    def nodes():
        big = {"CPU": 16.0, "GPU": 4.0, "memory": 64e9}
        return [
            {"Alive": True, "Resources": big},
            {"Alive": True, "Resources": {**big, "GPU": 3.0}},
            {"Alive": False, "Resources": big},
        ]


@pytest.mark.parametrize(("needs", "times"), [({"GPU": 2}, 3), ({"GPU": 4}, 1), ({"GPU": 8}, 0), ({"CPU": 0.0}, 2)])
def test_room_is_counted_machine_by_machine_on_those_that_are_there(needs, times):
    assert Machines(Nodes()).room(needs) == times


def test_needs_become_rays_resources():
    assert resources(Needs(cpus=2, gpus=0.5, memory_gb=1.5)) == {"CPU": 2, "GPU": 0.5, "memory": 1.5e9}


def test_an_address_where_nobody_listens_is_an_error_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EnvironmentLacks, match=rf"no Ray cluster at {address}: .*refused.*hint: `ray status`"):
            connected(address)


def test_the_config_names_executor_and_cluster(replayed):
    config = replayed("executor=ray", "ray.address=auto", "ray.replicas=2")
    assert (config.executor, config.ray) == ("ray", Ray(address="auto", replicas=2))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("executor=slurm", "executor: .*'local' or 'ray'"),
        ("ray.adress=auto", "did you mean address"),
        ("ray.replicas=-1", "replicas"),
    ],
)
def test_a_wrong_key_of_the_cluster_is_an_error(replayed, setting, says):
    with pytest.raises(ConfigError, match=says):
        replayed(setting)


PAGE = (Path(__file__).parents[2] / "docs/cluster.md").read_text()


def blocks(kind: str) -> list[str]:
    """The page's code blocks of this kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_pages_settings_are_the_defaults_but_for_the_address():
    settings = tomllib.loads(blocks("toml")[0])
    assert settings == {"executor": "ray", "ray": {**asdict(Ray()), "address": "auto"}}


@pytest.mark.parametrize("script", blocks("bash"))
def test_the_pages_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False, timeout=30).returncode == 0


def test_ray_up_takes_the_pages_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(blocks("yaml")[0])))


def pods() -> list[dict[str, Any]]:
    """The page's KubeRay job's pods, as Kubernetes would be asked for them."""
    cluster = yaml.safe_load(blocks("yaml")[2])["spec"]["rayClusterSpec"]
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template} for template in templates]


@pytest.mark.parametrize("manifest", [yaml.safe_load(blocks("yaml")[1]), *pods()], ids=["secret", "head", "workers"])
def test_kubernetes_takes_the_pages_secret_and_pods(manifest):
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_every_container_of_the_page_has_the_identity_for_the_store_and_the_run_lies_there():
    secret, job = (yaml.safe_load(text) for text in blocks("yaml")[1:3])
    containers = [container for pod in pods() for container in pod["spec"]["containers"]]
    assert [c["envFrom"] for c in containers] == [[{"secretRef": {"name": secret["metadata"]["name"]}}]] * 2
    assert " --root s3://" in job["spec"]["entrypoint"]


def test_every_recipe_of_the_page_runs_the_pipeline_with_options_that_it_has(replayed):
    commands = re.findall(r"python -m pipeline run \S+((?: --[\w-]+ \S+)+)", PAGE)
    assert len(commands) >= 5
    for options in commands:
        assert set(re.findall(r"--[\w-]+", options)) <= {"--root", "--executor", "--set"}
        assert replayed(*re.findall(r"--set ([^\s']+)", options)).ray.address in ("auto", "")
