"""What vLLM makes of a reward model's folder, in a process of its own: conversations in on stdin (JSON), numbers out on stdout.

python -m tests.trainer.vllm_rewards FOLDER < conversations.json
"""

from __future__ import annotations

import json
import os
import sys

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}


def main(folder: str) -> None:
    """Loads the folder as docs/training.md says, with no word on pooling or activation."""
    os.environ.update(SETTINGS)
    from vllm import LLM

    llm = LLM(model=folder, dtype="float32", enforce_eager=True)
    tokenizer = llm.get_tokenizer()
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in json.load(sys.stdin)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    answers = llm.classify([{"prompt_token_ids": row} for row in ids], use_tqdm=False)
    print(json.dumps([answer.outputs.probs for answer in answers]))


if __name__ == "__main__":
    main(*sys.argv[1:])
