"""From one starting policy, on the shipped task: DPO and its relatives, and reward model then RL, on the same data budget.

    .venv/bin/python benchmarks/stages.py [--root build/stages] [--steps sample dpo ... table] [--result FILE.json]

The budget is N labelled completions of each of PROMPTS training prompts. Everything goes through the commands a user has:
`pipeline run` samples (real vLLM) and labels, `trainer` trains, `pipeline.evaluating.evaluate` measures on the held-out prompts.

    dpo, ...      the pairs made of those completions
    kto           the completions themselves, each good or bad as the labelers passed it: those that make no pair too
    rm_rl         a reward model from the same pairs, then ROUNDS rounds of RL on new samples that it alone rates
    label_rl      RL on the labels themselves: the same number of labelled completions, but drawn from the current policy
    measure       samples each policy on the held-out prompts
    table         pass rate, KL, tokens and CPU minutes of each

The starting policy is the sft stage's (data/README.md). One seed; every completion is trained on once. Minutes are CPU time of a
step's processes, so other work does not count; sampling and labelling stand apart from training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")

MODEL = ROOT / "data" / "tiny-model"
TRAIN, HELD_OUT = (ROOT / "data" / "prompts" / f"{name}.jsonl" for name in ("train", "heldout"))
N = 8  # completions of a prompt
PROMPTS = 500  # training prompts: the budget is PROMPTS * N labelled completions
ROUNDS = 2  # of RL, each on its share of the prompts
EVALUATED = 4  # completions of a held-out prompt, at temperature 1

COMMON = "--lr 1e-4 --dtype bfloat16 --no-tensorboard --checkpoint-every 0"
PAIRWISE = {  # lr and beta as the demo's (docs/log.md), where the loss measures sums; none is tuned here
    "dpo": "--loss sigmoid --beta 0.5 --reference sampler",
    "dpo_positive": "--loss dpo_positive --beta 0.5 --reference sampler",
    "ipo": "--loss ipo --beta 0.5 --reference sampler",
    "simpo": "--loss simpo",
}
RL = "--schedule constant --warmup 0 --batch-prompts 16 --beta 0.05"
REWARDED = """
[[labelers]]
use = "reward_model"
engine = {{ use = "reward_model", model = "{model}", device = "cpu" }}
pass_at = 0.0
"""


def command(*arguments: object) -> dict[str, Any]:
    """Runs `python -m ...`; its JSON line, where it prints one."""
    words = [str(word) for word in arguments]
    print("$ python -m", *words, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *words], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    return json.loads(last[0]) if last[0].startswith("{") else {}


def timed(train: Callable[[Path], dict[str, Any]], root: Path) -> dict[str, Any]:
    """What a policy's training gives, with its own minutes and those of sampling: the pairs', unless it sampled for itself."""
    before = cpu_minutes()
    result = train(root)
    own = result.pop("own_sampling_minutes", 0.0)
    shared = 0.0 if train is label_rl else json.loads((root / "sample.json").read_text())["sampling_minutes"]
    return result | {"minutes": cpu_minutes() - before - own, "sampling_minutes": own + shared}


def cpu_minutes() -> float:
    """CPU time of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def labelled(root: Path, name: str, prompts: Path, model: Path = MODEL, rater: Path | None = None) -> Path:
    """A run: N completions of each prompt, labelled by the task's own labelers, or by a reward model."""
    config = root / f"{name}.toml"
    text = (ROOT / "examples" / "demo.toml").read_text()
    if rater is not None:
        text = text[: text.index("[[labelers]]")] + REWARDED.format(model=rater) + '\n[pairs]\nrule = "best_vs_worst"\n'
    config.write_text(text.replace("../data/", f"{ROOT}/data/"))
    settings = {"name": name, "prompts.path": prompts, "prompts.limit": PROMPTS, "sources.0.n": N}
    settings["sources.0.engine.model"] = model
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command("pipeline", "run", config, *chosen, "--root", root)
    return root / name


def sliced(root: Path, k: int) -> Path:
    """The training prompts of round k: every ROUNDS-th of those in the budget."""
    path = root / f"prompts-{k}.jsonl"
    path.write_text("\n".join(TRAIN.read_text().splitlines()[k:PROMPTS:ROUNDS]) + "\n")
    return path


def sample(root: Path) -> dict[str, float]:
    """The data: labelled completions and pairs of the training prompts, and pairs of the held-out prompts to test on."""
    before = cpu_minutes()
    labelled(root, "train", TRAIN)
    minutes = cpu_minutes() - before
    labelled(root, "heldout", HELD_OUT)
    return {"sampling_minutes": minutes}


def pairwise(name: str) -> Callable[[Path], dict[str, Any]]:
    """One loss of `trainer dpo` on the pairs."""

    def train(root: Path) -> dict[str, Any]:
        options = f"--batch-pairs 32 {COMMON} {PAIRWISE[name]}".split()
        return command(
            *("trainer", "dpo", "--data", root / "train/dataset", "--model", MODEL, "--out", root / name),
            *options,
        )

    return train


def kto(root: Path) -> dict[str, Any]:
    """`trainer kto` on every completion, as `pipeline export` writes them."""
    rated = root / "rated"
    if not rated.exists():
        command("pipeline", "export", root / "train", "--as", "kto", "--out", rated)
    return command(
        *("trainer", "kto", "--data", rated, "--model", MODEL, "--out", root / "kto", "--beta", 0.5),
        *("--batch-completions", 64, *COMMON.split()),
    )


def rm_rl(root: Path) -> dict[str, Any]:
    """Reward model, then RL against it."""
    rated = command(
        *("trainer", "reward", "--data", root / "train/dataset", "--eval-data", root / "heldout/dataset"),
        *("--model", MODEL, "--out", root / "reward", "--batch-pairs", 32, *COMMON.split()),
    )
    last = rounds(root, "rm_rl", root / "reward", "--scores raw")
    return last | {"tokens": last["tokens"] + rated["tokens"], "held_out": rated["held_out"]}


def label_rl(root: Path) -> dict[str, Any]:
    """RL on the labels: by rank, as `regression` gives -1e6 to what holds no number."""
    return rounds(root, "label_rl", None, "--scores rank")


def rounds(root: Path, name: str, rater: Path | None, scores: str) -> dict[str, Any]:
    """ROUNDS rounds of sampling from the current policy and RL; the last one's folder is the policy."""
    policy, tokens, minutes, result = MODEL, 0, 0.0, {}
    for k in range(ROUNDS):
        before = cpu_minutes()
        run = labelled(root, f"{name}-{k}", sliced(root, k), policy, rater)
        minutes += cpu_minutes() - before
        out = root / (name if k == ROUNDS - 1 else f"{name}-{k}-policy")
        result = command(
            *("trainer", "rl", "--data", run, "--model", policy, "--out", out, "--reference-model", MODEL),
            *(*RL.split(), *scores.split(), *COMMON.split()),
        )
        tokens += result["tokens"]
        policy = out
    return result | {"tokens": tokens, "own_sampling_minutes": minutes}


def measured(root: Path, name: str) -> dict[str, float]:
    """A policy's pass rate on the held-out prompts with its interval, KL to the reference and tokens a completion."""
    from pipeline.config import load
    from pipeline.evaluating.evaluate import ALL, evaluate

    model = str(MODEL if name == "reference" else root / name)
    found = evaluate(
        load(ROOT / "examples/demo.toml", []),
        {name: model},
        str(HELD_OUT),
        (1.0,),
        EVALUATED,
        root / f"held-out-{name}",
    )
    rate = next(rate for rate in found.rates() if rate.family == ALL)
    families = {rate.family: rate.rate for rate in found.rates() if rate.family != ALL}
    return {"pass": rate.rate, "low": rate.low, "high": rate.high, **distance(root, name), "families": families}


def distance(root: Path, name: str) -> dict[str, float]:
    """KL(policy || reference) a completion, on the policy's own evaluation samples: mean of log pi - log pi_ref."""
    import pyarrow.parquet as pq
    import torch

    from trainer.logps import logps_of
    from trainer.model import load
    from trainer.options import ModelOptions
    from trainer.packing import Tree

    loaded = load(ModelOptions(data=(), out="", model=str(MODEL), device="cpu"))
    files = sorted((root / f"held-out-{name}").glob("*/completions-*/*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist() if row["token_ids"]]
    gaps = []
    with torch.no_grad():
        for at in range(0, len(rows), 64):
            some = rows[at : at + 64]
            trees = [Tree(*_ids(row)) for row in some]
            reference = logps_of(loaded.model, trees, loaded.device, 1 << 28)
            gaps += [row["logp"] - logp for row, logp in zip(some, reference.tolist(), strict=True)]
    return {"kl": sum(gaps) / len(gaps), "tokens_each": sum(row["n_tokens"] for row in rows) / len(rows)}


def _ids(row: dict[str, Any]) -> tuple[Any, tuple[Any]]:
    from array import array

    return array("i", row["prompt_token_ids"]), (array("i", row["token_ids"]),)


def table(notes: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        "| stages | pass rate, % (95 %) | KL, nats | tokens a completion | tokens trained on | CPU minutes: training, sampling |",
        "|---|---|---|---|---|---|",
    ]
    for name, note in notes.items():
        held, spent = note["held-out"], "|"
        if "tokens" in note:
            spent = f"{note['tokens']:,} | {note['minutes']:.1f}, {note['sampling_minutes']:.1f}"
        rate = f"{100 * held['pass']:.1f} ({100 * held['low']:.1f} to {100 * held['high']:.1f})"
        lines.append(f"| {name} | {rate} | {held['kl']:.2f} | {held['tokens_each']:.1f} | {spent} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the steps asked for; the last one prints the table."""
    policies = {**{name: pairwise(name) for name in PAIRWISE}, "kto": kto, "rm_rl": rm_rl, "label_rl": label_rl}
    steps = ["sample", *policies, "measure", "table"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "build" / "stages", help="where everything goes")
    parser.add_argument("--steps", nargs="+", choices=steps, default=steps, help="what to do")
    parser.add_argument("--measure", nargs="+", default=["reference", *policies], help="which policies to measure")
    parser.add_argument("--result", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    root: Path = arguments.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    for name in arguments.steps:
        if name == "sample":
            keep(root / "sample.json", sample(root))
        elif name in policies:
            keep(root / f"{name}.json", timed(policies[name], root))
        elif name == "measure":
            for policy in arguments.measure:
                keep(root / f"{policy}.held-out.json", measured(root, policy))
    if "table" in arguments.steps:
        notes = {
            name: noted(root, name) for name in ("reference", *policies) if (root / f"{name}.held-out.json").exists()
        }
        print(table(notes))
        if arguments.result:
            hardware = f"{os.cpu_count()} shared cores, {platform.machine()}, Python {platform.python_version()}"
            record = {
                "command": " ".join(sys.argv),
                "hardware": hardware,
                "seed": 0,
                "table": table(notes),
                "stages": notes,
            }
            arguments.result.write_text(json.dumps(record, indent=1) + "\n")


def keep(path: Path, note: dict[str, Any]) -> None:
    """Writes one step's figures."""
    path.write_text(json.dumps(note, indent=1) + "\n")


def noted(root: Path, name: str) -> dict[str, Any]:
    """A policy's figures: of its training, and on the held-out prompts."""
    trained, held = root / f"{name}.json", root / f"{name}.held-out.json"
    return (json.loads(trained.read_text()) if trained.exists() else {}) | {"held-out": json.loads(held.read_text())}


if __name__ == "__main__":  # vLLM and the worker pool spawn processes that import this module
    main()
