"""What made a version: enough to make it again, in our words and as an OpenLineage event."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labelers.discovery import identity, load
from pipeline import judges
from pipeline.auditing.evidence import read_columns
from pipeline.config import Config, LabelerEntry
from pipeline.plan import Plan
from pipeline.publishing.code import code
from pipeline.schema import COMPLETIONS
from pipeline.storage.shards import file_sha256, input_sha256

MODEL = ["model", "model_hash", "tokenizer_hash", "template_hash"]
SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/"


def made_by(config: Config, plan: Plan) -> dict[str, Any]:
    """What decides a version's rows, beside the prompts: part of its content, so that what is equal is one version."""
    return {
        "parent": config.parent,
        "sources": {step.name: step.stage.identity() for step in plan.of_kind("completions")},  # type: ignore[attr-defined]
        "labelers": {entry.label: _labeler(entry) for entry in config.labelers},
        "warnings": judges.warnings(config),
        "pairs": asdict(config.pairs),
        "license": config.dataset.license,
        "seed": config.seed,
    }


def lineage(config: Config, plan: Plan, made: Mapping[str, Any]) -> dict[str, Any]:
    """`made_by`, and what is known of code, models, labelers' sources and prompt files: it decides nothing that is not decided
    by hashes already, and a commit that changes no row makes no version."""
    return {
        **made,
        "code": code(),
        "models": {step.name: _model(step.folder) for step in plan.of_kind("completions")},
        "labeler_sources": {entry.label: _source(entry) for entry in config.labelers},
        "prompts": [_file(path) for path in _listed(config.prompts.path)],
    }


def event(config: Config, run: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The version as an OpenLineage event: a run of a job that read prompts and wrote a dataset."""
    said, number = manifest["lineage"], manifest["number"]
    producer = f"urn:preference-pipeline:{said['code']['version']}"
    facet = {"_producer": producer, "_schemaURL": f"{FACET}JobFacet"}
    return {
        "eventType": "COMPLETE",
        "eventTime": manifest["created"],
        "producer": producer,
        "schemaURL": SCHEMA,
        "run": {
            "runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{producer}/{config.name}/{number}/{manifest['content']}")),
            "facets": {"lineage": {**facet, "_schemaURL": f"{FACET}RunFacet", **said}},
        },
        "job": {"namespace": "preference-pipeline", "name": config.name},
        "inputs": [{"namespace": "file", "name": each["path"], "facets": _hashed(each, facet)} for each in said["prompts"]],
        "outputs": [
            {
                "namespace": "file",
                "name": f"{run}/versions/{number:04d}",
                "facets": {
                    "version": {**facet, "_schemaURL": f"{FACET}DatasetFacet", "datasetVersion": manifest["content"]},
                },
                "outputFacets": {
                    "outputStatistics": {
                        **facet, "_schemaURL": f"{FACET}OutputDatasetFacet", "rowCount": manifest["rows"],
                        "fileCount": len(manifest["files"]),
                    }
                },
            }
        ],
    }  # fmt: skip


def _labeler(entry: LabelerEntry) -> dict[str, Any]:
    return {
        "use": entry.use,
        "version": entry.spec.build().version,
        "fingerprint": entry.spec.fingerprint(),
        "engine": dict(entry.engine.identity()) if entry.engine else None,
    }


def _source(entry: LabelerEntry) -> dict[str, Any]:
    """The file that a labeler's class stands in, and the files that it reads, by hash."""
    path = inspect.getsourcefile(load(entry.use))
    found = identity(entry.spec)
    own = found["file_sha256"] or (file_sha256(Path(path)) if path else None)
    return {"file_sha256": own, "reads_sha256": found["reads_sha256"]}


def _model(folder: Path) -> dict[str, Any] | None:
    """What the first completion says of its model, tokenizer and template; None where there is no completion."""
    for shard in sorted(folder.glob("[0-9]*.parquet")):
        table = read_columns([shard], MODEL, COMPLETIONS)
        if table.num_rows:
            found: dict[str, Any] = table.slice(0, 1).to_pylist()[0]
            return found
    return None


def _file(path: str) -> dict[str, Any]:
    """A prompt file; its hash where it lies here."""
    place = Path(path)
    return {"path": path, "sha256": input_sha256(place) if place.is_file() else None}


def _hashed(file: Mapping[str, Any], facet: Mapping[str, Any]) -> dict[str, Any]:
    if file["sha256"] is None:
        return {}
    return {"version": {**facet, "_schemaURL": f"{FACET}DatasetFacet", "datasetVersion": file["sha256"]}}


def _listed(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths
