"""Kills runs at random moments and says what it did to their results, as JSON; exits 1 when it did anything.

    python -m tests.e2e.chaos [--full] [--only PART ...] [--seed N] [--kills N]

Parts: sample, label, compare, pair, publish (SIGKILL in that stage, sampling replayed), publishing (with a reader in a loop),
vllm (SIGKILL while real vLLM samples), engine (SIGKILL of vLLM's engine process). Without --full a tenth of the kills.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.chaos.engine import engine_under_fire
from tests.e2e.chaos.kills import Fire
from tests.e2e.chaos.publishing import publish_under_fire
from tests.e2e.chaos.runs import STAGES, make_golden
from tests.e2e.chaos.zygote import Zygote

KILLS = {**dict.fromkeys(STAGES, 100), "publishing": 30, "vllm": 20, "engine": 20}
"""part -> kills of a full run."""


def main() -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(KILLS), default=list(KILLS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, help="of each part, instead of its own number")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as home:
        for part in options.only:
            kills = options.kills or (KILLS[part] if options.full else KILLS[part] // 10)
            found[part] = under_fire(part, Path(home) / part, kills, options.seed)
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    command = "python -m tests.e2e.chaos " + " ".join(sys.argv[1:])
    hardware = f"{os.cpu_count()} cores, {platform.machine()}"
    print(json.dumps({"command": command, "hardware": hardware, "found": found}, indent=1))
    sys.exit(not all(each["passed"] for each in found.values()))


def under_fire(part: str, home: Path, kills: int, seed: int) -> dict[str, Any]:
    """One part."""
    home.mkdir(parents=True)
    if part == "engine":
        return engine_under_fire(home, kills, seed).as_json()
    with Zygote.started(["vllm"] if part == "vllm" else []) as zygote:
        golden = make_golden(zygote, home, "vllm", 16, 25) if part == "vllm" else make_golden(zygote, home)
        if part == "publishing":
            return publish_under_fire(zygote, golden, home, kills, seed).as_json()
        return Fire(zygote, golden, "sample" if part == "vllm" else part, home, seed).run(kills).as_json()


if __name__ == "__main__":
    main()
