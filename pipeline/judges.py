"""What is odd about the judges of a run: said when it starts, in its outcome, and in the manifest."""

from __future__ import annotations

from typing import Any

from pipeline.config import Config
from pipeline.config_checks import REWARDING


def warnings(config: Config) -> list[str]:
    """A sentence for each judge that judges a source of its own model."""
    return [
        f"labeler {entry.label} and source {source.name} are the same model ({model_name(entry.engine)}), and a model prefers "
        "its own answers; hint: judge with another model, or audit the labels"
        for entry in config.labelers
        if entry.engine is not None and entry.engine.use not in REWARDING
        for source in config.sources
        if model_name(entry.engine) == model_name(source.engine)
    ]


def model_name(engine: Any) -> str:
    """The model's name without its folder or organisation, so that a path and a server's name for it are one."""
    return str(getattr(engine, "model", "")).rstrip("/").rpartition("/")[2].lower()
