"""Figures of what was measured: curves of estimates with their intervals, on white, for a page that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluating.measures import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by colour-blind people, too (Okabe and Ito, 2008)."""
GREY = "#777777"


@dataclass(frozen=True)
class Spot:
    """A place on a curve, and what is written beside it.

    Args:
        y: a share; it is drawn in percent.
    """

    x: Estimate
    y: Estimate
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Spots of one colour, joined.

    Args:
        single: (x, y) of what the spots are means of, drawn as small dots.
        reckoned: dashed and grey: nothing was trained for it.
    """

    name: str
    spots: Sequence[Spot]
    single: Sequence[tuple[float, float]] = ()
    reckoned: bool = False


def exactly(value: float) -> Estimate:
    """A number that is known, such as a temperature."""
    return Estimate(value, value, value, 1)


def draw(curves: Sequence[Curve], path: Path, across: str, up: str, title: str = "") -> None:
    """One panel with all curves, as PNG. Args: `across`, `up`: what the axes are."""
    canvas = canvas_of(8, 5.2)
    axes = canvas.subplots()
    colours = iter(COLOURS * (1 + len(curves) // len(COLOURS)))
    for number, curve in enumerate(curves):
        lay(axes, curve, GREY if curve.reckoned else next(colours), above=number % 2 == 1)
    axes.set(xlabel=across, ylabel=up, title=title)
    _frame(axes, curves)
    axes.legend(frameon=False, fontsize=8)
    save(canvas, path)


def _frame(axes: Any, curves: Sequence[Curve]) -> None:
    """Ends the axes where the curves that are not reckoned end: a reckoned one that goes on far beyond would squeeze them."""
    own = [_high(spot.x) for curve in curves if not curve.reckoned for spot in curve.spots]
    spots = [spot for curve in curves for spot in curve.spots]
    if not own or max(spot.x.value for spot in spots) <= 1.5 * max(own):
        return
    right = 1.2 * max(own)
    shown = [spot.y for spot in spots if spot.x.value <= right]
    low, high = (100 * end for end in (min(y.value for y in shown), max(_high(y) for y in shown)))
    axes.set(xlim=(-0.05 * right, right), ylim=(low - 0.2 * (high - low), high + 0.1 * (high - low)))


def _high(value: Estimate) -> float:
    return value.high if value.high == value.high else value.value


def lay(axes: Any, curve: Curve, colour: str, *, above: bool = False) -> None:
    """Puts a curve onto axes: bars for its intervals, small dots for what its spots are means of, notes below or `above`."""
    if curve.single:
        axes.scatter(*zip(*((x, 100 * y) for x, y in curve.single), strict=True), s=9, color=colour, alpha=0.35, lw=0)
    x, y = [spot.x for spot in curve.spots], [spot.y for spot in curve.spots]
    axes.errorbar(
        [v.value for v in x], [100 * v.value for v in y], yerr=_bars(y, 100), xerr=_bars(x, 1), label=curve.name,
        color=colour, ls="--" if curve.reckoned else "-", lw=1.2, marker="o", ms=4, capsize=2, elinewidth=0.8,
    )  # fmt: skip
    for spot in curve.spots:
        place = (spot.x.value, 100 * spot.y.value)
        beside = {"xytext": (-4, 4), "ha": "right"} if above else {"xytext": (4, -9), "ha": "left"}
        axes.annotate(spot.note, place, textcoords="offset points", fontsize=7, color=colour, **beside)


def canvas_of(width: float, height: float) -> Any:
    """An empty figure, without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(canvas: Any, path: Path) -> None:
    """Writes the figure; a grid and no frame help the eye."""
    for axes in canvas.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=130)


def _bars(values: Sequence[Estimate], scale: float) -> list[list[float]]:
    """Lengths below and above; none where an end is not known. A bootstrap's end may lie a hair on the wrong side."""
    known = [v if v.low == v.low else exactly(v.value) for v in values]
    return [[scale * max(v.value - v.low, 0) for v in known], [scale * max(v.high - v.value, 0) for v in known]]
