"""Which isolation a run asks for, whether this machine has it, and what is lost where it does not."""

from __future__ import annotations

import sys

from labelers import programs
from labelers.confine import REMEDY, REQUIRED, probe
from labelers.sandbox import Limits
from pipeline.config import Config, LabelerEntry
from pipeline.errors import EnvironmentLacks


def limits_of(config: Config, entry: LabelerEntry) -> Limits:
    """How the labeler's process is confined in this run."""
    granted = frozenset(name for name in ("network", "sandbox") if getattr(config, name))
    return Limits(entry.timeout_s, allow=granted, accept_weaker=frozenset(config.accept_weaker))


def require_isolation(config: Config) -> dict[str, str]:
    """What this machine lacks and the run goes on without: layer -> why; said on stderr.

    Raises:
        EnvironmentLacks: a compiler, a sandbox for programs or a needed layer cannot be had here, and the config does not
            accept it. Nothing has been sampled then.
    """
    needs = [entry.spec.build().needs for entry in config.labelers]
    for entry, each in zip(config.labelers, needs, strict=True):
        if lacking := programs.missing(each):
            raise EnvironmentLacks(f"labeler {entry.label}: {lacking}")
    lost = {layer: why for layer, why in probe().items() if why}
    missing = [layer for layer in REQUIRED if layer in lost and layer not in config.accept_weaker]
    if missing:
        layer = missing[0]
        raise EnvironmentLacks(
            f"labelers are confined by {layer}, which cannot be had here: {lost[layer]}; hint: {REMEDY[layer]}; "
            f'or accept_weaker = ["{layer}"] in the config, which the manifest and the card will say'
        )
    if any(each.programs for each in needs) and (why := programs.lost()):
        lost["bubblewrap"] = why
    for layer, why in lost.items():
        print(f"warning: this run goes on without the isolation layer {layer}: {why}", file=sys.stderr, flush=True)
    return lost
