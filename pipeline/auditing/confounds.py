"""Whether labels follow something that is not quality: length, place, source, temperature, order, chance.

Pure functions: facts in, findings out. scipy.special alone is loaded: scipy.stats takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.facts import TRAITS, Facts, codes, numbers
from pipeline.auditing.limits import Audit, Finding, graded

Floats = np.ndarray[Any, Any]


def two_sided(k: int, n: int) -> float:
    """The chance that n fair coins fall at least as unevenly as k of n (exact binomial test)."""
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(k, n - k), n, 0.5))) if n else 1.0


def explained(values: Floats, traits: Floats, groups: Floats) -> tuple[float, float, int]:
    """The share of the values' variance within groups that linear traits explain, its chance (F test), and the groups that vary.

    Args:
        traits: (rows, traits).
    """
    from scipy.special import fdtrc

    known = np.isfinite(values) & np.isfinite(traits).all(axis=1)
    _, group = np.unique(groups[known], return_inverse=True)
    y, x = _within(values[known][:, None], group)[:, 0], _within(traits[known], group)
    x = x[:, (x**2).sum(axis=0) > 1e-9]
    total, n = float(y @ y), len(y)
    rank = int(np.linalg.matrix_rank(x)) if x.size else 0
    free = n - (int(group.max()) + 1 if n else 0) - rank
    if not rank or total < 1e-9 or free < 1:
        return 0.0, 1.0, n
    n = len(np.unique(group[(np.abs(y) > 1e-12) & (np.abs(x) > 1e-12).any(axis=1)]))
    residue = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    share = min(1.0, max(0.0, 1.0 - float(residue @ residue) / total))
    if share > 1 - 1e-12:
        return 1.0, 0.0, n
    return share, float(fdtrc(rank, free, (share / rank) / ((1 - share) / free))), n


def _within(values: Floats, group: Floats) -> Floats:
    """The values less their group's mean."""
    sizes = np.maximum(np.bincount(group), 1)
    means = np.stack([np.bincount(group, weights=column) / sizes for column in values.T], axis=1)
    return np.asarray(values - means[group])


def confounds(facts: Facts, settings: Audit, by_design: dict[str, frozenset[str]]) -> Iterator[Finding]:
    """A finding for each trait of the pairs and of the labels.

    Args:
        by_design: trait -> labelers that follow it on purpose; their labels and pairs are left out.
    """
    yield longer_chosen(facts, settings, by_design.get("length", frozenset()))
    for trait in TRAITS:
        yield _follows(facts, trait, settings, by_design.get(trait, frozenset()))


def longer_chosen(facts: Facts, settings: Audit, left_out: Collection[str]) -> Finding:
    """How often the longer completion is the chosen one."""
    pairs = _without(facts.pairs, "labelers", left_out)
    chosen, rejected = numbers(pairs["length_chosen"]), numbers(pairs["length_rejected"])
    gaps = (chosen - rejected)[np.isfinite(chosen - rejected)]
    n, k = int((gaps != 0).sum()), int((gaps > 0).sum())
    if not n:
        return Finding("pairs by length", "skipped", f"no pair of two lengths{_left(left_out)}")
    share, p = k / n, two_sided(k, n)
    state = graded(max(share, 1 - share), n, settings.warn_longer, settings.max_longer, settings, p)
    kind, most = ("longer", share) if share >= 0.5 else ("shorter", 1 - share)
    means = f"{np.nanmean(chosen):.0f} against {np.nanmean(rejected):.0f} tokens"
    seen = f"chosen is the {kind} one in {most:.0%} of {n} pairs, {means}{_left(left_out)}"
    hint = "" if state == "ok" else "; hint: length control in [pairs], or a labeler that does not count words"
    return Finding("pairs by length", state, seen + hint, most, settings.max_longer, p, n)


def _follows(facts: Facts, trait: str, settings: Audit, left_out: Collection[str]) -> Finding:
    """The worst of: how much of one labeler's scores the trait explains, and how well it predicts the chosen."""
    found = [_in_labels(labels, name, trait) for name, labels in _by_labeler(facts.labels, left_out)]
    found += (
        [_in_pairs(_without(facts.pairs, "labelers", left_out), trait)] if trait in ("source", "temperature") else []
    )
    known = [each for each in found if each is not None]
    check = f"labels by {'place in group' if trait == 'place' else trait}"
    if not known:
        return Finding(check, "skipped", f"{_alike(trait)}{_left(left_out)}")
    grade = [graded(v, n, settings.warn_explained, settings.max_explained, settings, p) for v, p, n, _ in known]
    order = {"FAIL": 2, "warn": 1, "ok": 0, "skipped": -1}
    state, (value, p, n, who) = max(zip(grade, known, strict=True), key=lambda each: (order[each[0]], each[1][0]))
    seen = f"{value:.0%} explained, {who}{_left(left_out)}"
    hint = "" if state == "ok" else f"; hint: {_REMEDY[trait]}"
    return Finding(check, state, seen + hint, value, settings.max_explained, p, n)


_REMEDY = {
    "length": "score length on its own, or residualise on it in [pairs]",
    "place": "the labeler's answer depends on its neighbours: python -m labelers check SPEC",
    "source": "is the better model meant? then weak_vs_strong says so; else cap pairs per source",
    "temperature": "compare within one temperature, or sample every source at all of them",
}


def _in_labels(labels: pa.Table, name: str, trait: str) -> tuple[float, float, int, str] | None:
    """What the trait explains of a labeler's scores; None where it does not vary."""
    if trait == "place":  # in a file of people's answers the place is the file's, not the sampler's
        labels = labels.filter(pc.is_valid(labels["temperature"]))
    values = numbers(labels["value"])
    if trait == "source":
        kinds = codes(labels["source"])
        wanted = np.unique(kinds)
        if len(wanted) < 2:
            return None
        traits = (kinds[:, None] == wanted[None, 1:]).astype(float)
    else:
        traits = numbers(labels[trait])[:, None]
        if len(np.unique(traits[np.isfinite(traits)])) < 2:
            return None
    share, p, n = explained(values, traits, codes(labels["prompt_id"]))
    return share, p, n, f"of the scores of {name}"


def _in_pairs(pairs: pa.Table, trait: str) -> tuple[float, float, int, str] | None:
    """How far the trait alone tells chosen from rejected, among the pairs whose sides differ in it: (2 x share - 1) squared."""
    sides = [pairs[f"{trait}_{side}"] for side in ("chosen", "rejected")]
    differ = pairs.filter(pc.fill_null(pc.not_equal(*sides), False))
    n = differ.num_rows
    if not n:
        return None
    if trait == "temperature":
        hotter = pc.greater(differ["temperature_chosen"], differ["temperature_rejected"])
        won = {"hotter": (int(pc.sum(hotter).as_py() or 0), n)}
    else:
        chosen, rejected = differ["source_chosen"].to_pylist(), differ["source_rejected"].to_pylist()
        won = {name: (chosen.count(name), chosen.count(name) + rejected.count(name)) for name in {*chosen, *rejected}}
    name = max(sorted(won), key=lambda each: abs(2 * won[each][0] / won[each][1] - 1))
    k, of = won[name]
    p = min(1.0, two_sided(k, of) * len(won))  # Bonferroni: the most uneven of several was picked
    return (2 * k / of - 1) ** 2, p, of, f"{name} chosen in {k} of {of} pairs where it differs"


def entangled(facts: Facts) -> Iterator[Finding]:
    """Whether source and temperature always go together, so that neither's effect can be told."""
    labels = facts.labels.filter(pc.is_valid(facts.labels["temperature"]))
    both = {(row["source"], row["temperature"]) for row in _distinct(labels, ["source", "temperature"])}
    sources, temperatures = {s for s, _ in both}, {t for _, t in both}
    if len(sources) > 1 and len(temperatures) > 1 and len(both) == len(sources) == len(temperatures):
        seen = "every source has a temperature of its own; hint: sample each source at each temperature"
        yield Finding("source and temperature", "warn", seen, n=labels.num_rows)


def orders(facts: Facts, settings: Audit, symmetric: Collection[str]) -> Iterator[Finding]:
    """For each labeler that was asked in both orders: does it follow the position, and how often does it flip?"""
    for name, rows in _by_labeler(facts.comparisons, symmetric):
        forward, backward = rows["prefers_forward"].to_pylist(), rows["prefers_backward"].to_pylist()
        first = sum(f == "a" for f in forward) + sum(b == "b" for b in backward)
        second = sum(f == "b" for f in forward) + sum(b == "a" for b in backward)
        both = [(f, b) for f, b in zip(forward, backward, strict=True) if f and b]
        flips = sum({f, b} == {"a", "b"} for f, b in both)
        n = first + second
        share = max(first, second) / n if n else 0.5
        p = two_sided(first, n)
        state = graded(share, n, settings.warn_first, settings.max_first, settings, p)
        where = "first" if first >= second else "second"
        seen = f"{name} prefers the one shown {where} in {share:.0%} of {n} decided verdicts"
        seen += "" if state == "ok" else f"; {flips} of {len(both)} verdicts flip with the order and make no pair"
        yield Finding("position", state, seen, share, settings.max_first, p, n)
        rate = flips / len(both) if both else 0.0
        state = graded(rate, len(both), settings.warn_flips, settings.max_flips, settings, tested=False)
        seen = f"{name}: {flips} of {len(both)} verdicts flip when the two are swapped"
        seen += "" if state == "ok" else "; hint: another model or template, or a rubric"
        yield Finding("order flips", state, seen, rate, settings.max_flips, None, len(both))


def noise(facts: Facts, settings: Audit, symmetric: Collection[str]) -> Iterator[Finding]:
    """How many pairs may be noise: margins within a repeated score's deviation, verdicts of a judge that flips."""
    for name, rows in _by_labeler(facts.comparisons, symmetric):
        forward, backward = rows["prefers_forward"].to_pylist(), rows["prefers_backward"].to_pylist()
        decided = [(f, b) for f, b in zip(forward, backward, strict=True) if f in ("a", "b") and b in ("a", "b")]
        wrong = expected_wrong(sum(f != b for f, b in decided) / len(decided)) if decided else 0.0
        n = sum(f == b for f, b in decided)
        state = graded(wrong, n, settings.warn_noise, settings.max_noise, settings, tested=False)
        seen = f"{name}: about {wrong:.0%} of {n} agreed verdicts are wrong, if its errors are chance"
        yield Finding("noise", state, seen, wrong, settings.max_noise, None, n)
    exact = 0
    for name, rows in _by_labeler(facts.labels, ()):
        deviation, repeats = repeat_deviation(rows)
        margins = numbers(facts.pairs.filter(pc.equal(facts.pairs["labelers"], name))["margin"])
        exact += repeats if not deviation else 0
        if not deviation or not len(margins):
            continue
        share = float((margins <= settings.noise_margins * deviation).mean())
        state = graded(share, len(margins), settings.warn_noise, settings.max_noise, settings, tested=False)
        seen = (
            f"{name}: {share:.0%} of {len(margins)} margins are within its noise, {deviation:.2g} on {repeats} repeats"
        )
        seen += "" if state == "ok" else "; hint: raise pairs.min_margin"
        yield Finding("noise", state, seen, share, settings.max_noise, None, len(margins))
    if exact:
        yield Finding(
            "noise", "ok", f"{exact} repeated texts got the same score again", 0.0, settings.max_noise, None, exact
        )


def expected_wrong(flip_rate: float) -> float:
    """The share of wrong verdicts among those that both orders agree on, for independent errors.

    A judge that errs in a share e flips in f = 2e(1 - e), and both orders agree on the wrong one in e2 of e2 + (1 - e)2.
    """
    error = 0.5 if flip_rate >= 0.5 else (1 - math.sqrt(1 - 2 * flip_rate)) / 2
    return error**2 / (error**2 + (1 - error) ** 2)


def repeat_deviation(labels: pa.Table) -> tuple[float, int]:
    """The standard deviation of scores of one text under one prompt, pooled, and how many repeats there are."""
    kept = labels.filter(pc.is_valid(labels["value"]))
    if not kept.num_rows:
        return 0.0, 0
    keys = np.stack([codes(kept["prompt_id"]), numbers(kept["text_code"]).astype(int)])
    _, group = np.unique(keys, axis=1, return_inverse=True)
    group = group.reshape(-1)
    repeats = kept.num_rows - (int(group.max()) + 1)
    spread = _within(numbers(kept["value"])[:, None], group)
    return (math.sqrt(float((spread**2).sum()) / repeats) if repeats else 0.0), repeats


def abstentions(facts: Facts, settings: Audit) -> Iterator[Finding]:
    """For each labeler that abstained: how often, by kind. One line for all that never did."""
    silent = 0
    for table in (facts.labels, facts.comparisons):
        for name, rows in _by_labeler(table, ()):
            kinds = {row["values"]: row["counts"] for row in pc.value_counts(rows["abstain"].drop_null()).to_pylist()}
            share = sum(kinds.values()) / rows.num_rows
            if not kinds:
                silent += rows.num_rows
                continue
            state = graded(
                share, rows.num_rows, settings.warn_abstained, settings.max_abstained, settings, tested=False
            )
            counted = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items(), key=lambda kind: -kind[1]))
            seen = f"{name}: {share:.1%} of {rows.num_rows} ({counted})"
            yield Finding("abstentions", state, seen, share, settings.max_abstained, None, rows.num_rows)
    if silent:
        yield Finding("abstentions", "ok", f"none among {silent} labels", 0.0, settings.max_abstained, None, silent)


def _alike(trait: str) -> str:
    named = {"source": "all completions come from one source", "temperature": "all were sampled at one temperature"}
    return named.get(trait, "there is nothing to compare")


def _left(names: Collection[str]) -> str:
    return f" (without {', '.join(sorted(names))}: by design)" if names else ""


def _without(table: pa.Table, column: str, names: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], value_set=pa.array(sorted(names), pa.string()))))


def _by_labeler(table: pa.Table, left_out: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    for name in sorted(set(pc.unique(table["labeler"]).to_pylist()) - set(left_out)):
        yield name, table.filter(pc.equal(table["labeler"], name))


def _distinct(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.group_by(columns).aggregate([]).to_pylist()
    return rows
