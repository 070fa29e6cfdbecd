"""What the command line's files share: their arguments' types, and what they say and refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline import leaving
from pipeline.errors import AuditFailed, ConfigError, Interrupted, PipelineError
from pipeline.observing.logs import say
from pipeline.storage.stores import place_of, require_reachable

if TYPE_CHECKING:
    from pipeline.auditing.audit import Audited
    from pipeline.config import Config
    from pipeline.imported import Imported
    from pipeline.run import Finished

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.toml]", help="The run's configuration; none is the quick start.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the config: sources.0.n=8")
]
Root = Annotated[Path, typer.Option(parser=place_of, help="The folder that holds runs: local, or s3://BUCKET/PREFIX.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Prompts to take at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[Path, typer.Argument(parser=place_of, metavar="RUN", help="A run's folder, e.g. runs/quickstart.")]
Executor = Annotated[str | None, typer.Option(help="local, or ray: a cluster (docs/cluster.md).")]

MetricsFile = Annotated[
    Path | None, typer.Option("--metrics-file", help="Keep the run's numbers for Prometheus in this file (*.prom).")
]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", min=0, max=65535, help="Serve the run's numbers for Prometheus while it works."),
]

RUNS = Path("runs")
JSON_LOGS = "--json-logs"


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The command line with --json-logs before the command, wherever it was written."""
    found = [word for word in arguments if word == JSON_LOGS]
    return [*found[:1], *(word for word in arguments if word != JSON_LOGS)]


@contextmanager
def measured(name: str, file: Path | None, port: int | None) -> Iterator[None]:
    """The run inside gives its numbers to Prometheus, where a file or a port is named."""
    if file is None and port is None:
        yield
        return
    from pipeline.observing.metrics import Metrics
    from pipeline.observing.progress import watched

    metrics = Metrics(name, file, port)
    if metrics.port is not None:
        say(f"metrics on port {metrics.port}")
    with watched(metrics):
        yield


class Commands(TyperGroup):
    """The commands. Whichever Ctrl-C ends says that the same command goes on."""

    def invoke(self, ctx: Any) -> Any:
        """Raises Interrupted where the command was interrupted; click itself would say `Aborted!`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(leaving.SAID) from None


def load_warned(config: Path | None, settings: Sequence[str] | None, executor: str | None, limit: int | None) -> Config:
    """The config of a run; what is doubtful about its judges is said."""
    from pipeline import judges
    from pipeline.config import load

    loaded = load(config, [*(settings or ()), *([f"executor={executor}"] if executor else ())], limit)
    for warning in judges.warnings(loaded):
        say(f"warning: {warning}")
    return loaded


def tell_imported(imported: Imported) -> None:
    """Says which prompts were left out."""
    for row in imported.bad:
        say(f"skipped {row}")
    if imported.duplicates:
        say(f"dropped {imported.duplicates} repeated prompts")
    if imported.contaminated:
        say(f"dropped {imported.contaminated} prompts that an evaluation set holds too")


def require_run(run: Path) -> None:
    """Raises ConfigError when the folder holds no run, EnvironmentLacks when its store does not answer."""
    require_reachable(run)
    if not (run / "config.json").is_file():
        raise ConfigError(
            f"{run}: holds no run; hint: a folder like runs/quickstart that `python -m pipeline run` made"
        )


def refuse_failures(finished: Finished, *, enforced: bool) -> None:
    """Raises PipelineError when shards could not be made, AuditFailed when the audit failed (unless told to go on)."""
    from pipeline.run import describe_failures

    if finished.failed:
        raise PipelineError(f"{len(finished.failed)} shards could not be made:\n{describe_failures(finished.failed)}")
    if finished.audited and finished.audited.failed:
        refuse(finished.audited, finished.folder, enforced=enforced)


def refuse(audited: Audited, folder: Path, *, enforced: bool) -> None:
    """Says which checks failed. Raises AuditFailed unless the config says to publish all the same."""
    from pipeline.auditing.audit import table

    found = f"{len(audited.failed)} checks of the audit failed:\n{table(audited.failed)}"
    if enforced:
        hint = f"python -m pipeline audit {folder} shows all; docs/auditing.md says what to do"
        raise AuditFailed(f"{found}\nnothing was published; hint: {hint}")
    say(f"WARNING: {found}\npublished all the same, since audit.enforce = false")
