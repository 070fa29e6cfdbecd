"""The report as one HTML file that needs nothing else: no script, nothing remote, every text of a model escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from labelers.printable import printable
from pipeline.reports.examples import KINDS
from pipeline.reports.figures import Figure, as_png, as_svg, figures
from pipeline.reports.story import Story, read_story
from pipeline.storage.shards import replacing

LONGEST = 4000
"""Characters of a text that the page shows; a whole group of long completions must not make it slow."""
ABOUT = {
    "clearest": "The clearest: large margins",
    "closest": "The closest: small margins",
    "contested": "The contested: labelers disagree",
}
VERDICTS = {
    "ok": "Good to train on",
    "warn": "Usable: read the warnings first",
    "FAIL": "Not to be trusted",
    "skipped": "Not audited yet",
}


@dataclass(frozen=True)
class Step:
    """A line of the funnel. `share` is of the longest line, in percent."""

    name: str
    n: int
    note: str = ""
    share: float = 0.0


def write_report(run: Path, out: Path | None = None) -> Path:
    """Writes `index.html` and a PNG for each figure, and returns the page's path.

    Args:
        out: the folder; None is `report/` in the run.

    Raises:
        ConfigError: the run has no build to report on.
    """
    story = read_story(run)
    drawn = figures(story)
    folder = out or run / "report"
    for figure in drawn:
        with replacing(folder / f"{figure.name}.png") as beside:
            beside.write_bytes(as_png(figure))
    with replacing(folder / "index.html") as beside:
        beside.write_text(render(story, drawn), encoding="utf-8")
    return folder / "index.html"


def render(story: Story, drawn: Sequence[Figure]) -> str:
    """The page's text."""
    notable = [f for f in story.findings if f.state in ("FAIL", "warn")]
    shown_figures = [{"caption": figure.caption, "svg": as_svg(figure)} for figure in drawn]
    page: str = _template().render(
        story=story,
        verdict=verdict(story),
        because=because(story),
        tiles=[{"name": name, "value": value} for name, value in tiles(story)],
        notable=sorted(notable, key=lambda finding: finding.state != "FAIL"),
        quiet=[f for f in story.findings if f not in notable],
        funnel=funnel(story),
        lost=[*story.reasons("dropped").most_common(), *_abstentions(story)],
        figures=shown_figures,
        examples=[(kind, ABOUT[kind], [e for e in story.examples if e.kind == kind]) for kind in KINDS],
        costs=list(costs(story)),
        versions=list(versions(story)),
    )
    return page


def verdict(story: Story) -> str:
    """The answer to "is this dataset any good?" in a few words."""
    return VERDICTS[story.state] if story.n_pairs else "No pairs were made"


def because(story: Story) -> str:
    """Why the verdict is what it is."""
    states = [finding.state for finding in story.findings]
    n_failed, n_warned = states.count("FAIL"), states.count("warn")
    checked = f"{_count(len(states), 'check')} of the labels: "
    found = [f"{n_failed} failed"] * bool(n_failed) + [_count(n_warned, "warning")] * bool(n_warned)
    published = "" if story.version else " Nothing is published."
    return (checked + (", ".join(found) or "nothing speaks against them") if states else "") + "." + published


def tiles(story: Story) -> Iterator[tuple[str, str]]:
    """The few numbers that stand on top: (name, value)."""
    prompts = story.total("prompts")
    yield "pairs", f"{story.n_pairs:,}"
    yield "prompts", f"{prompts:,}"
    yield "completions", f"{story.total('completions'):,}"
    scored = story.total("scored")
    known = [family for family in story.families if family.pass_rate is not None]
    if known and scored:
        passed = sum((family.pass_rate or 0.0) * family.scored for family in known)
        yield "pass", f"{100 * passed / sum(family.scored for family in known):.0f} %"
    yield "not judged (abstained)", f"{100 * sum(story.reasons('abstained').values()) / max(scored, 1):.1f} %"
    if story.n_pairs:
        yield "tokens sampled per pair", f"{story.cost.tokens / story.n_pairs:,.0f}"


def funnel(story: Story) -> list[Step]:
    """What became of the prompts, step by step."""
    failed, truncated = story.total("failed"), story.total("truncated")
    lost = [f"{failed:,} failed"] * bool(failed) + [f"{truncated:,} cut at the limit"] * bool(truncated)
    steps = [
        Step("prompts", story.total("prompts")),
        Step("completions", story.total("completions"), ", ".join(lost)),
        Step("scores and verdicts", story.total("scored")),
        Step("pairs", story.n_pairs),
    ]
    longest = max(step.n for step in steps) or 1
    return [Step(s.name, s.n, s.note, round(100 * s.n / longest, 1)) for s in steps]


def costs(story: Story) -> Iterator[tuple[str, str]]:
    """What the build took: (name, value)."""
    cost, pairs = story.cost, max(story.n_pairs, 1)
    yield "tokens sampled", f"{cost.tokens:,} ({cost.tokens / pairs:,.0f} a pair)"
    for kind, seconds in cost.seconds.items():
        yield f"seconds in {kind}, all shards together", f"{seconds:,.1f} ({1000 * seconds / pairs:,.1f} ms a pair)"
    if cost.money is not None:
        yield "price", f"{cost.money:,.2f} ({cost.money / pairs:,.4f} a pair)"


def versions(story: Story) -> Iterator[dict[str, Any]]:
    """A row for each version, the newest first, with what changed from the one before."""
    diffs = {diff["after"]: diff for diff in story.diffs}
    for manifest in reversed(story.older):
        diff = diffs.get(manifest["number"], {})
        moved = [drift["measure"] for drift in diff.get("drift", ()) if drift["state"] == "DRIFT"]
        yield {
            **{key: manifest[key] for key in ("number", "prompts", "rows")},
            "created": manifest["created"][:16].replace("T", " "),
            "is_current": bool(story.version) and manifest["number"] == (story.version or {}).get("number"),
            **{key: diff.get(key, "-") for key in ("added", "removed", "relabelled")},
            "drift": ", ".join(moved) or "-",
        }


def _abstentions(story: Story) -> list[tuple[str, int]]:
    return [(f"abstained: {kind}", n) for kind, n in story.reasons("abstained").most_common()]


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def shown(text: object) -> str:
    """Text fit for the page: nothing invisible or reordering, and not endless. The template escapes it."""
    whole = str(text)
    cut = whole if len(whole) <= LONGEST else f"{whole[:LONGEST]} … ({len(whole):,} characters)"
    return printable(cut)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _model(engine: Any) -> str:
    """What generates, by its name alone: a path is nobody's business in a file that is passed on."""
    said: Mapping[str, Any] = vars(engine)
    return str(said.get("model") or said.get("path") or said.get("use")).rstrip("/").rpartition("/")[2]


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("pipeline.reports", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(shown=shown, percent=_percent, model=_model)
    return environment.get_template("page.html.jinja")
