"""What a run's configuration must fulfil beyond its types: found before anything is loaded or sampled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labelers.confine import LAYERS
from labelers.errors import LabelerError
from labelers.weak_vs_strong import WeakVsStrong
from pipeline.errors import ConfigError
from pipeline.publishing.destinations import repository_of
from pipeline.storage.stores import place_of

if TYPE_CHECKING:
    from pipeline.config import Config, LabelerEntry

REWARDING = ("reward_model", "implicit_reward")
"""Engines that give numbers, not replies."""


def check(config: Config, path: Path) -> None:
    """Raises: ConfigError, with the file, the key and a hint."""
    if not config.sources:
        raise ConfigError(f"{path}: sources is empty; hint: [[sources]] with a name and an engine")
    if not config.labelers:
        raise ConfigError(f"{path}: labelers is empty; hint: [[labelers]] with use = ...; python -m labelers list")
    _require_names(path, "sources", [source.name for source in config.sources])
    _require_names(path, "labelers", [entry.label for entry in config.labelers])
    _require_names(path, "name", [config.name])
    for number, source in enumerate(config.sources):
        if source.n < 1 or source.max_tokens < 1:
            raise ConfigError(f"{path}: sources.{number}: n and max_tokens are 1 or more")
        if source.temperature == 0 and source.n > 1:
            raise ConfigError(
                f"{path}: sources.{number}.n is {source.n} at temperature 0, where all completions are equal; hint: n = 1"
            )
        source.engine.check()
    prices = [*(source.price for source in config.sources), *(entry.price for entry in config.labelers)]
    if config.budget.money and not any(price.input or price.output for price in prices):
        raise ConfigError(
            f"{path}: budget.money is {config.budget.money:g} and nothing has a price; "
            "hint: price = { input = 0.5, output = 1.5 } at a source or labeler, per million tokens"
        )
    for number, entry in enumerate(config.labelers):
        _check_labeler(entry, f"{path}: labelers.{number}")
        _check_granted(config, entry, f"{path}: labelers.{number}")
        _check_cascade(config, number, f"{path}: labelers.{number}.after")
        _check_ranking(config, entry, f"{path}: labelers.{number}.options.ranking")
    _check_pairs(config, f"{path}: pairs")
    _check_destinations(config, f"{path}: dataset.publish_to")
    for name in config.accept_weaker:
        if name not in LAYERS:
            raise ConfigError(f"{path}: accept_weaker: {name!r} is no layer; hint: {', '.join(LAYERS)}")


def _check_pairs(config: Config, where: str) -> None:
    """Refuses options that could change nothing, and those under which no pair can be made."""
    pairs, n_sources = config.pairs, len(config.sources)
    built = [(entry, entry.spec.build()) for entry in config.labelers]
    pointwise = [(entry, labeler) for entry, labeler in built if not hasattr(labeler, "compare")]
    knows = any(e.pass_at is not None or getattr(labeler, "pass_at", None) is not None for e, labeler in pointwise)
    for key, needs in (("pass_rate", pairs.pass_rate is not None), ("rule", pairs.rule == "pass_vs_fail")):
        if needs and not knows:
            raise ConfigError(f"{where}.{key}: no labeler knows passing; hint: pass_at = ... of a pointwise labeler")
    if pairs.max_source_share * n_sources < 1:
        raise ConfigError(
            f"{where}.max_source_share is {pairs.max_source_share}, which {n_sources} sources cannot keep, so that no pair "
            f"would be left; hint: at least {1 / n_sources:.3g}"
        )
    if pairs.sources == "different" and n_sources == 1:
        raise ConfigError(f'{where}.sources is "different", and there is one source; hint: another [[sources]]')
    in_turn = pairs.combine == "lexicographic" and bool(pointwise)  # ranks, which have no noise
    noisy = any(entry.noise > 0 for entry, _ in pointwise) or len(pointwise) < len(built)
    if pairs.min_margin_noise > 0 and (in_turn or not noisy):
        why = 'under combine = "lexicographic" scores are ranks' if in_turn else "every labeler's noise is 0"
        raise ConfigError(f"{where}.min_margin_noise: {why}; hint: noise = ... of a labeler, or min_margin")


def _check_destinations(config: Config, where: str) -> None:
    """Refuses what is no place: it would be met after hours of sampling."""
    for destination in config.dataset.publish_to:
        try:
            repository_of(destination) or place_of(destination)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def _check_labeler(entry: LabelerEntry, where: str) -> None:
    try:
        labeler = entry.spec.build()
    except LabelerError as error:
        raise ConfigError(f"{where}: {error}") from error
    pass_at = entry.pass_at if entry.pass_at is not None else getattr(labeler, "pass_at", None)
    if entry.gate != "none" and (pass_at is None or hasattr(labeler, "compare")):
        raise ConfigError(
            f"{where}.gate: {entry.use} does not know passing; hint: pass_at = ... of a pointwise labeler"
        )
    if not 0 <= entry.noise < float("inf"):
        raise ConfigError(f"{where}.noise is {entry.noise}; hint: 0 or more")
    wants_rewards = getattr(labeler, "asks", "") == "rewards"
    example = 'use = "reward_model", model = ...' if wants_rewards else 'use = "http", base_url = ..., model = ...'
    if labeler.needs.engine and entry.engine is None:
        raise ConfigError(f"{where}: {entry.use} asks a model; hint: engine = {{ {example} }}")
    if entry.votes < 0 or entry.reply_tokens < 1:
        raise ConfigError(f"{where}: votes is 0 or more, and reply_tokens is 1 or more")
    if entry.engine is not None:
        if hasattr(labeler, "asks") and wants_rewards != (entry.engine.use in REWARDING):
            raise ConfigError(f"{where}: {entry.use} cannot ask {entry.engine.use}; hint: engine = {{ {example} }}")
        entry.engine.check()


def _check_cascade(config: Config, number: int, where: str) -> None:
    before = {e.label: e for e in config.labelers[:number] if not hasattr(e.spec.build(), "compare")}
    after = config.labelers[number].after
    if after is None:
        return
    if after not in before:
        known = ", ".join(before) or "there is none"
        raise ConfigError(f"{where}: {after!r} is no pointwise labeler above this one; hint: {known}")
    if config.pairs.combine != "lexicographic":
        raise ConfigError(
            f'{where}: a cascade is decided one labeler after the other; hint: pairs.combine = "lexicographic"'
        )


def _check_ranking(config: Config, entry: LabelerEntry, where: str) -> None:
    """A misspelt source would be an abstention on every completion of it, and no error."""
    labeler: object = entry.spec.build()
    if not isinstance(labeler, WeakVsStrong):
        return
    sources = [source.name for source in config.sources]
    if unknown := [name for name in labeler.ranking if name not in sources]:
        raise ConfigError(f"{where}: {unknown[0]!r} is no source; hint: the sources are {', '.join(sources)}")
    if len(labeler.ranking) < 2:
        raise ConfigError(f"{where} names fewer than two sources; hint: the strongest first, of {', '.join(sources)}")


def _check_granted(config: Config, entry: LabelerEntry, where: str) -> None:
    needs = entry.spec.build().needs
    if needs.sandbox and not config.sandbox:
        raise ConfigError(
            f"{where}: {entry.use} runs completions; hint: allow it with sandbox = true at the top of the config"
        )
    if needs.network and not config.network:
        raise ConfigError(
            f"{where}: {entry.use} opens connections; hint: allow it with network = true at the top of the config"
        )
    if entry.timeout_s <= 0:
        raise ConfigError(f"{where}: timeout_s is {entry.timeout_s}; hint: seconds, above 0")


def _require_names(path: Path, key: str, names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigError(
                f"{path}: {key}: the name {name!r} is no folder's name; hint: letters, digits, '.', '_', '-'"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: {key}: {', '.join(twice)} stands twice; hint: give each its own name")
