"""How each trainer wants its pairs: rows in Arrow, and the config that names them.

The keys come from each trainer's documentation and loader as of August 2026; tests/pipeline/test_export.py states them
again. Parquet throughout, never JSON lines: Arrow's JSON reader turns texts that look like dates into timestamps.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Layout = Literal["trl", "axolotl", "openrlhf", "llama-factory", "torchtune", "open-instruct", "nemo-rl"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Columns = dict[str, pa.Array]
Counts = np.ndarray[Any, np.dtype[np.integer[Any]]]


@dataclass(frozen=True)
class Kind:
    """One trainer: how its rows look, its config's name and text, and the command that reads it.

    Args:
        columns: a batch of pairs to the trainer's columns.
        config: the config's file name.
        text: the config's text, from the export's folder and its shards' names.
        command: how to start the trainer, to be completed with a model.
        extra: further files, name to text.
    """

    columns: Callable[[pa.RecordBatch], Columns]
    config: str
    text: Callable[[Path, list[str]], str]
    command: str
    extra: dict[str, str] = field(default_factory=dict)


def _explicit(batch: pa.RecordBatch) -> Columns:
    return {name: batch[name] for name in ("prompt", "chosen", "rejected")}


def _implicit(batch: pa.RecordBatch) -> Columns:
    """Both sides as whole conversations, the prompt's turns first."""
    return {name: _joined(batch["prompt"], batch[name]) for name in ("chosen", "rejected")}


def _one_message(batch: pa.RecordBatch) -> Columns:
    sides = {name: pc.list_element(batch[name], 0) for name in ("chosen", "rejected")}
    return {"messages": batch["prompt"], **sides}


def _ranked(batch: pa.RecordBatch) -> Columns:
    """A context and its completions, rank 0 the preferred one."""
    n = batch.num_rows
    both = pa.concat_arrays([batch["chosen"], batch["rejected"]])
    sides = both.take(pa.array(np.arange(2 * n).reshape(2, n).T.ravel()))
    ranks = pa.array(np.tile(np.array([0, 1], dtype=np.int64), n))
    completions = pa.StructArray.from_arrays([ranks, sides], names=["rank", "completion"])
    return {"context": batch["prompt"], "completions": as_lists(np.full(n, 2), completions)}


def _joined(first: pa.Array, second: pa.Array) -> pa.Array:
    """Row by row, the list of `first` followed by that of `second`."""
    counts = [list_lengths(first), list_lengths(second)]
    rows = np.concatenate([np.repeat(np.arange(len(first)), each) for each in counts])
    values = pa.concat_arrays([pc.list_flatten(first), pc.list_flatten(second)])
    return as_lists(counts[0] + counts[1], values.take(pa.array(np.argsort(rows, kind="stable"))))


def list_lengths(column: pa.Array) -> Counts:
    """How many items each row's list has."""
    lengths: Counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    return lengths


def as_lists(lengths: Counts, values: pa.Array) -> pa.Array:
    """A list column: the next `lengths[i]` of `values` are row i."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


# Configs: only what names the data. A JSON string is a YAML string too.


def _quoted(path: Path | str) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _trl(out: Path, names: list[str]) -> str:
    return f"dataset_name: {_quoted(out)}\ndataset_train_split: train\n"


def _axolotl(out: Path, names: list[str]) -> str:
    return f"""rl: dpo
chat_template: tokenizer_default
datasets:
  - path: {_quoted(out)}
    split: train
    type: chat_template.default
    field_messages: messages
    field_chosen: chosen
    field_rejected: rejected
    message_property_mappings:
      role: role
      content: content
    roles:
      user: [user]
      assistant: [assistant]
      system: [system]
      tool: [tool]
"""


def _openrlhf(out: Path, names: list[str]) -> str:
    return f"""--data.dataset {shlex.quote(str(out))}
--data.dataset_split train
--data.prompt_key prompt
--data.chosen_key chosen
--data.rejected_key rejected
--data.apply_chat_template
"""


def _llama_factory(out: Path, names: list[str]) -> str:
    return f"stage: dpo\ndo_train: true\ndataset_dir: {_quoted(out)}\ndataset: preference_pairs\n"


def _dataset_info() -> dict[str, str]:
    """LLaMA-Factory's table of data sets; `sharegpt` and not `openai`, which adds words to the system prompt."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {"system_tag": "system", "observation_tag": "tool", "function_tag": "function_call"}
    entry = {
        "file_name": "data",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": tags,
    }
    return {"dataset_info.json": json.dumps({"preference_pairs": entry}, indent=2) + "\n"}


def _torchtune(out: Path, names: list[str]) -> str:
    files = "".join(f"    - {_quoted(out / name)}\n" for name in names)
    return f"""dataset:
  _component_: torchtune.datasets.preference_dataset
  source: parquet
  data_files:
{files}  split: train
"""


def _open_instruct(out: Path, names: list[str]) -> str:
    # 1.0, not 1: a number without a point is a count of rows there.
    mixed = " ".join(f"{shlex.quote(str(out / name))} 1.0" for name in names)
    return f"--mixer_list {mixed}\n--mixer_list_splits train\n"


def _nemo_rl(out: Path, names: list[str]) -> str:
    return f"""# defaults: /path/to/NeMo-RL/examples/configs/dpo.yaml
data:
  train:
    dataset_name: PreferenceDataset
    data_path: {_quoted(out)}
    split: train
  validation: null
"""


KINDS: dict[Layout, Kind] = {
    "trl": Kind(_explicit, "dpo.yaml", _trl, "trl dpo --config dpo.yaml --model_name_or_path MODEL --output_dir OUT"),
    "axolotl": Kind(_one_message, "axolotl.yaml", _axolotl, "axolotl train axolotl.yaml --base-model MODEL"),
    "openrlhf": Kind(
        _explicit, "openrlhf.args", _openrlhf,
        "xargs -a openrlhf.args deepspeed --module openrlhf.cli.train_dpo --model.model_name_or_path MODEL",
    ),
    "llama-factory": Kind(
        _one_message, "llama-factory.yaml", _llama_factory,
        "llamafactory-cli train llama-factory.yaml model_name_or_path=MODEL template=TEMPLATE output_dir=OUT",
        _dataset_info(),
    ),
    "torchtune": Kind(
        _implicit, "torchtune.yaml", _torchtune,
        "tune run lora_dpo_single_device --config RECIPE.yaml   # with `dataset` from torchtune.yaml",
    ),
    "open-instruct": Kind(
        _implicit, "open-instruct.args", _open_instruct,
        "xargs -a open-instruct.args uv run torchrun open_instruct/dpo.py --model_name_or_path MODEL",
    ),
    "nemo-rl": Kind(
        _ranked, "nemo-rl.yaml", _nemo_rl,
        "uv run examples/run_dpo.py --config nemo-rl.yaml policy.model_name=MODEL   # set its `defaults` first",
    ),
}  # fmt: skip
