"""How long the review page takes on a run of 100,000 pairs: from the command to the first page, and each of its pages, in a
real browser.

python benchmarks/review.py [--prompts 25000] [--run RUNS/large] [--browser /usr/bin/chromium] [--out FILE.json]

Make the run first (half a minute) and keep it with --run, so that what is timed is the page alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
REPEATS = 5
PAGES = ("/", "/pairs", "/pairs?order=small", "/pairs?order=small&start=50000", "/groups?start=20000", "/progress")


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=25_000, help="each with 8 completions and 4 pairs")
    parser.add_argument("--run", type=Path, help="a run that is there already")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or made(Path(folder), arguments.prompts)
        figures = measured(run, Path(folder), arguments.browser)
    hardware = f"{os.cpu_count()} cores, {platform.machine()}, {platform.processor() or 'no GPU'}"
    command = "python " + " ".join(sys.argv)
    said = json.dumps({"date": f"{date.today()}", "command": command, "hardware": hardware, **figures}, indent=1) + "\n"
    print(said, end="")
    if arguments.out:
        arguments.out.write_text(said)


def made(folder: Path, n_prompts: int) -> Path:
    """A run of replayed completions, four pairs a prompt."""
    from pipeline.config import load
    from pipeline.run import run

    draw = random.Random(0)
    with (folder / "prompts.jsonl").open("w") as prompts, (folder / "said.jsonl").open("w") as said:
        for number in range(n_prompts):
            prompt = {"prompt": f"Write function {number}.", "family": f"family {number % 5}"}
            body = "\n".join(f"    y{i} = x + {draw.randint(0, 999)}" for i in range(6))
            texts = [f"def f{i}(x{':' if i % 2 else '):'}\n{body}\n    return y5" for i in range(8)]
            prompts.write(json.dumps(prompt) + "\n")
            said.write(json.dumps({**prompt, "completion": texts}) + "\n")
    config = folder / "config.toml"
    config.write_text(
        """
        name = "large"
        [prompts]
        path = "prompts.jsonl"
        shard_size = 1000
        [[sources]]
        name = "people"
        n = 8
        engine = { use = "replay", path = "said.jsonl" }
        [[labelers]]
        use = "compiles"
        [pairs]
        rule = "pass_vs_fail"
        max_per_prompt = 4
        near_duplicate = 1.0
        """
    )
    return run(load(config), folder / "runs").folder


def measured(run: Path, folder: Path, browser: str) -> dict[str, Any]:
    """Seconds from the command to the first page, to open the run alone, and medians of the seconds to show each page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        tab = chromium.new_page()
        commands = [_from_command(tab, run, folder / f"{number}") for number in range(REPEATS)]
        pages = _pages(tab, run, folder / "people")
        chromium.close()
    return {"command_to_first_page_s": [round(value, 2) for value in commands], **pages}


def _from_command(tab: Any, run: Path, people: Path) -> float:
    """Seconds from typing `python -m pipeline review` to the first page in the browser."""
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "review",
        str(run),
        "--reviewer",
        "ada",
        "--port",
        "0",
        "--folder",
        str(people),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        link = re.search(r"http://\S+", process.stderr.readline())
        assert link is not None
        tab.goto(link[0], wait_until="load")
        assert tab.title() == "Which one is better?", tab.title()
        return time.monotonic() - started
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _pages(tab: Any, run: Path, people: Path) -> dict[str, Any]:
    import uvicorn

    from pipeline.review.serve import opened

    started = time.monotonic(), time.process_time()
    page = opened(run, people, ["ada"], 500, 1)
    opening, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(page.app(), log_level="warning", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    tab.goto(f"{url}/enter?token={page.access.token('ada')}")
    seconds = {path: statistics.median(_shown(tab, url + path) for _ in range(REPEATS)) for path in PAGES}
    tab.goto(f"{url}/pairs?order=small")
    group = tab.locator("tbody a").first.get_attribute("href")
    seconds["/group"] = statistics.median(_shown(tab, url + str(group)) for _ in range(REPEATS))
    kilobytes = {path: len(tab.goto(url + path).body()) // 1024 for path in PAGES}
    return {
        "pairs": page.index.pairs.num_rows,
        "opening_s": round(opening, 2),
        "opening_cpu_s": round(cpu, 2),
        "median_s": {path: round(value, 3) for path, value in seconds.items()},
        "page_kilobytes": kilobytes,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _shown(tab: Any, url: str) -> float:
    started = time.monotonic()
    tab.goto(url, wait_until="load")
    return time.monotonic() - started


if __name__ == "__main__":  # the run's workers import this module
    main()
