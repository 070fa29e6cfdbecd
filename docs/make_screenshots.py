"""Takes docs/figures/review.png, report.png and report-dark.png in a real headless Chromium, of a real run.

python docs/make_screenshots.py [--browser /usr/bin/chromium] [--out docs/figures]

The run's completions are those that real vLLM gave for the tutorials (tests/docs/recorded/); labels, pairs, audit, report and
review page are made here.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "docs" / "recorded"
CONFIG = """
name = "shown"
[prompts]
path = "prompts.jsonl"
fields = { target = "target" }
[[sources]]
name = "tiny"
n = 8
temperature = 1.0
engine = { use = "replay", path = "said.jsonl", model = "data/tiny-model" }
[[labelers]]
use = "compiles"
where = { family = "functions" }
[[labelers]]
use = "json_schema"
where = { family = "records" }
[[labelers]]
use = "regression"
where = { family = "estimates" }
options = { error = "relative", tolerance = 0.2 }
"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]


def main() -> None:
    """Takes them and says where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run, code = made(Path(folder) / "all", "*"), made(Path(folder) / "code", "code")
        chromium = playwright.chromium.launch(executable_path=arguments.browser, args=ARGUMENTS)
        taken = [*of_report(chromium, run, arguments.out), of_review(chromium, code, arguments.out)]
        chromium.close()
    print("\n".join(map(str, taken)))


def made(folder: Path, recording: str) -> Path:
    """A run of the recorded completions (`*`: all of them), without sampling. Returns its folder."""
    from pipeline.config import load
    from pipeline.run import run

    folder.mkdir()
    said = [
        line
        for file in sorted(RECORDED.glob(f"{recording}.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    known = {json.loads(line)["prompt"] for line in said}
    prompts = (ROOT / "data" / "prompts" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "said.jsonl").write_text("\n".join(said) + "\n", encoding="utf-8")
    wanted = [line for line in prompts if json.loads(line)["prompt"] in known]
    (folder / "prompts.jsonl").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    (folder / "config.toml").write_text(CONFIG)
    return run(load(folder / "config.toml"), folder / "runs").folder


def of_report(chromium: Any, run: Path, out: Path) -> Iterator[Path]:
    """The head of the report, as who likes it light and who likes it dark sees it."""
    from pipeline.reports.page import write_report

    page = write_report(run, None)
    for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
        tab = chromium.new_page(color_scheme=scheme, viewport={"width": 1180, "height": 1150})
        tab.goto(page.absolute().as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false })")
        tab.screenshot(path=str(out / name))
        yield out / name


def of_review(chromium: Any, run: Path, out: Path) -> Path:
    """The review page with an item, differences shown."""
    with serving(run) as link:
        tab = chromium.new_page(viewport={"width": 1180, "height": 680})
        tab.goto(link)
        tab.keyboard.press("d")
        tab.screenshot(path=str(out / "review.png"))
    return out / "review.png"


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """Serves the review page of a run; gives the link of its reviewer."""
    import uvicorn

    from pipeline.review.serve import opened

    page = opened(run, run / "people", ["ada"], 50, 1)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(page.app(), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/enter?token={page.access.token('ada')}"
    finally:
        server.should_exit = True
        thread.join(10)
        page.store.close()


if __name__ == "__main__":  # the run's workers import this module
    sys.path.insert(0, str(ROOT))
    main()
