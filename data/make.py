"""Makes the prompts and the tiny model again from nothing: `python data/make.py all --out build/data`.

Steps: prompts, corpus, tokenizer (needs the corpus), model (needs both; calls `python -m trainer sft`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from data import corpus  # noqa: E402

PER_FAMILY: dict[corpus.Split, int] = {"train": 300, "heldout": 60}
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, BEGIN, END = 0, 1, 2
VOCAB = 1024
CONTEXT = 512
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.05,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "dtype": "bfloat16",
}
GENERATION = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": SPECIAL[PAD],
    "bos_token": SPECIAL[BEGIN],
    "eos_token": SPECIAL[END],
    "model_max_length": CONTEXT,
    "clean_up_tokenization_spaces": False,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# One pass over the corpus. The learning rate is high because the model is small and starts from nothing.
TRAINING = {
    "--init": "random", "--dtype": "bfloat16", "--epochs": "1", "--lr": "3e-3", "--warmup": "0.05", "--min-lr": "0.02",
    "--adam-beta2": "0.95", "--weight-decay": "0.1", "--batch-tokens": "3072", "--micro-batch-tokens": "2048",
    "--max-length": str(CONTEXT), "--log-every": "50", "--checkpoint-every": "500", "--seed": "0", "--device": "cpu",
    "--attention": "sdpa",
}  # fmt: skip
SHIPPED = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "generation_config.json",
)  # fmt: skip


def make_prompts(out: Path) -> None:
    """`prompts/train.jsonl` and `prompts/heldout.jsonl`."""
    for split, per_family in PER_FAMILY.items():
        _write_lines(out / "prompts" / f"{split}.jsonl", corpus.prompt_rows(split, per_family))


def make_corpus(out: Path) -> None:
    """`work/corpus.jsonl`: what the tokenizer and the model learn from; not shipped."""
    _write_lines(out / "work" / "corpus.jsonl", corpus.documents())


def make_tokenizer(out: Path) -> None:
    """`work/start/`: the tokenizer, the chat template and the configs. Byte-level BPE: every text has tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(out / "work" / "corpus.jsonl"), trainer)
    start = out / "work" / "start"
    start.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(start / "tokenizer.json"))
    (start / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, content in (("config", CONFIG), ("generation_config", GENERATION), ("tokenizer_config", TOKENIZER)):
        (start / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def make_model(out: Path) -> None:
    """`tiny-model/`: random weights, trained on the corpus by this project's own trainer."""
    work = out / "work"
    paths = {"--model": work / "start", "--data": work / "corpus.jsonl", "--out": work / "trained"}
    options = [part for pair in [*paths.items(), *TRAINING.items()] for part in map(str, pair)]
    command = [sys.executable, "-m", "trainer", "sft", *options, "--no-completion-only", "--no-tensorboard"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")  # the same sums in the same order: the same weights again
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    shipped = out / "tiny-model"
    shipped.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copyfile(work / "trained" / name, shipped / name)


STEPS = {"prompts": make_prompts, "corpus": make_corpus, "tokenizer": make_tokenizer, "model": make_model}


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"make: {path}: {len(rows)} rows", file=sys.stderr)


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["prompt"]
            yield row["completion"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python data/make.py", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("step", choices=[*STEPS, "all"])
    parser.add_argument("--out", type=Path, default=Path("build/data"), help="the folder to write to [build/data]")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    for name, step in STEPS.items():
        if arguments.step in (name, "all"):
            step(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
