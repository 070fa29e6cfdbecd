"""The report's figures, drawn once: as SVG that takes the page's colours, light or dark, and as PNG for slides and mails."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.reports.story import Rate, Story

INK, QUIET, LINES, CHOSEN, REJECTED = "#1c2330", "#6b7385", "#d7dbe3", "#1b66d6", "#c8590b"
THEME = {INK: "--ink", QUIET: "--quiet", LINES: "--lines", CHOSEN: "--chosen", REJECTED: "--rejected"}
"""Colour -> the page's variable for it. Blue and orange differ for the colour-blind, too."""
STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINES,
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a labeler may be called "$x$"
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
BINS = 40
PANELS = 6
"""Small multiples in a figure at most; the rest is in the tables."""


@dataclass(frozen=True)
class Figure:
    """A figure of the report: a file name, what it says, and how it is drawn on a matplotlib figure."""

    name: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Any], None]


def figures(story: Story) -> list[Figure]:
    """The figures that this story has data for."""
    return list(_figures(story))


def _figures(story: Story) -> Iterator[Figure]:
    if story.rates:
        rows = len({(r.family, r.source) for r in story.rates})
        yield Figure(
            "pass-rates", _passing_caption(story.rates), (7, 0.8 + 0.3 * rows), lambda f: _passing(f, story.rates)
        )
    if len({rate.temperature for rate in story.rates}) > 1:
        yield Figure("temperature", "Pass rate against temperature.", (7, 3), lambda f: _temperature(f, story.rates))
    if scores := story.scores():
        yield Figure(
            "scores", "Scores by labeler; abstentions have none.", _wide(scores), lambda f: _histograms(f, scores)
        )
    if graded := {name: values for name, values in story.margins().items() if np.ptp(values) > 0}:
        yield Figure("margins", _margin_caption(graded), _wide(graded), lambda f: _histograms(f, graded))
    if story.n_pairs:
        yield Figure("lengths", _length_caption(story), (7, 2.6), lambda f: _lengths(f, *story.lengths()))
    if len(story.older) > 1:
        yield Figure("versions", "Pairs in each version.", (7, 2.2), lambda f: _versions(f, story.older))
    for policy, steps in story.curves.items():
        caption = f"Training of {policy}, {len(steps)} logged steps."
        yield Figure(f"training-{policy}", caption, (7, 2.4), lambda f, steps=steps: _training(f, steps))  # type: ignore[misc]


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element whose colours are the page's variables."""
    text = _saved(figure, "svg").decode("utf-8")
    text = text[text.index("<svg") :]
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", text, count=1)
    return re.sub(r'\swidth="[\d.]+pt"', "", text, count=1)


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG on white, 160 dots an inch."""
    return _saved(figure, "png")


def _saved(figure: Figure, kind: str) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        out = io.BytesIO()
        canvas.savefig(out, format=kind, transparent=kind == "svg", dpi=160, metadata=_undated(kind))
    return out.getvalue()


def _undated(kind: str) -> dict[str, Any]:
    return {"Date": None} if kind == "svg" else {}


def _passing(canvas: Any, rates: Sequence[Rate]) -> None:
    """A row for each family and source, its temperatures side by side on it."""
    axes = canvas.subplots()
    names = list(dict.fromkeys((rate.family, rate.source) for rate in rates))
    places = [names.index((rate.family, rate.source)) for rate in rates]
    values, widths = [100 * rate.rate for rate in rates], [100 * rate.half_width for rate in rates]
    axes.axvspan(20, 80, color=LINES, alpha=0.35, lw=0)
    axes.errorbar(values, places, xerr=widths, fmt="o", color=CHOSEN, capsize=2, ms=5)
    one_source = len({source for _, source in names}) == 1
    axes.set_yticks(range(len(names)), [family if one_source else f"{family} · {source}" for family, source in names])
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel="completions that pass, %")


def _passing_caption(rates: Sequence[Rate]) -> str:
    outside = sorted({rate.family for rate in rates if not 0.2 <= rate.rate <= 0.8})
    said = f"; outside: {', '.join(outside)}" if outside else "; all are inside"
    return f"Pass rates with 95 % intervals by prompt. Pairs come easiest from the shaded band, 20 to 80 %{said}."


def _temperature(canvas: Any, rates: Sequence[Rate]) -> None:
    axes = canvas.subplots()
    for family, source in dict.fromkeys((rate.family, rate.source) for rate in rates):
        own = [r for r in rates if (r.family, r.source) == (family, source) and r.temperature is not None]
        own.sort(key=lambda rate: rate.temperature or 0.0)
        axes.plot(
            [r.temperature for r in own], [100 * r.rate for r in own], marker="o", ms=4, label=f"{family} · {source}"
        )
    axes.set(xlabel="temperature", ylabel="pass, %", ylim=(0, 103))
    axes.legend(fontsize=7, ncols=2)


def _wide(panels: Mapping[str, Any]) -> tuple[float, float]:
    return 7, 2.2 * (1 + (min(len(panels), PANELS) - 1) // 3)


def _histograms(canvas: Any, values: Mapping[str, Any]) -> None:
    """A small histogram for each name, the most frequent first."""
    shown = sorted(values.items(), key=lambda item: -len(item[1]))[:PANELS]
    rows = 1 + (len(shown) - 1) // 3
    grid = canvas.subplots(rows, min(len(shown), 3), squeeze=False).flatten()
    for axes, (name, numbers) in zip(grid, shown, strict=False):
        low, high = _view(numbers)
        inside = numbers[(numbers >= low) & (numbers <= high)]
        axes.hist(inside, bins=BINS if len(np.unique(inside)) > 12 else 12, color=CHOSEN)
        beyond = 1 - len(inside) / len(numbers)
        axes.set_title(_short(name) + (f" ({beyond:.1%} beyond)" if beyond else ""))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)


def _view(numbers: Any) -> tuple[float, float]:
    """The range worth drawing: five times the middle half's width to both sides, so that no outlier flattens it."""
    low, high = np.quantile(numbers, [0.25, 0.75])
    reach = 5 * (high - low)
    return (low - reach, high + reach) if reach else (numbers.min(), numbers.max())


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"


def _margin_caption(margins: Mapping[str, Any]) -> str:
    said = [f"{name}: median {np.median(values):.3g}, lowest {values.min():.3g}" for name, values in margins.items()]
    return f"Margins (chosen less rejected) of labelers that grade. {'; '.join(said[:PANELS])}."


def _lengths(canvas: Any, chosen: Any, rejected: Any) -> None:
    axes = canvas.subplots()
    top = float(np.nanquantile(np.concatenate([chosen, rejected]), 0.99))
    edges = np.linspace(0, max(top, 1.0), BINS + 1)
    for values, colour, name in ((chosen, CHOSEN, "chosen"), (rejected, REJECTED, "rejected")):
        axes.hist(np.clip(values, 0, edges[-1]), edges, histtype="step", lw=1.6, color=colour, label=name)
    axes.set(xlabel="length in tokens", ylabel="pairs")
    axes.legend()


def _length_caption(story: Story) -> str:
    chosen, rejected = story.lengths()
    longer, shorter = int((chosen > rejected).sum()), int((chosen < rejected).sum())
    share = 100 * longer / (longer + shorter) if longer + shorter else 50.0
    return (
        f"Length of chosen and rejected: {np.nanmean(chosen):.0f} against {np.nanmean(rejected):.0f} on average; "
        f"the longer one is chosen in {share:.0f} % of the pairs of unequal length."
    )


def _versions(canvas: Any, manifests: Sequence[Mapping[str, Any]]) -> None:
    axes = canvas.subplots()
    axes.plot([m["number"] for m in manifests], [m["rows"] for m in manifests], marker="o", color=CHOSEN)
    axes.set(xlabel="version", ylabel="pairs", ylim=(0, None), xticks=[m["number"] for m in manifests])


def _training(canvas: Any, steps: Sequence[Mapping[str, float]]) -> None:
    known = [name for name in ("loss", "accuracy", "margin", "kl") if name in steps[0]]
    for axes, name in zip(canvas.subplots(1, len(known), squeeze=False).flatten(), known, strict=True):
        axes.plot([s["step"] for s in steps], [s.get(name, float("nan")) for s in steps], color=CHOSEN, lw=1.2)
        axes.set_title(name)
        axes.set_xlabel("step")
