"""The configuration of a run: a TOML file, checked to the last key before anything is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from labelers.discovery import LabelerError, LabelerSpec
from pipeline.auditing.limits import Audit
from pipeline.config_checks import check
from pipeline.engines import Sampling
from pipeline.engines.http import Http
from pipeline.engines.replay import Replay
from pipeline.engines.rewards import ImplicitReward, RewardModel
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError
from pipeline.executors.ray import Ray
from pipeline.label import Where
from pipeline.pairing.combine import Gate
from pipeline.pairing.settings import Pairs
from pipeline.prompts import Fields, Prompts
from pipeline.spending.budget import Budget, Price
from pipeline.storage.shards import read_json

QUICK_START = Path(__file__).resolve().parent.parent / "examples" / "quickstart.toml"

EngineSettings = Annotated[Vllm | Http | Replay, Field(discriminator="use")]
LabelerEngine = Annotated[Vllm | Http | Replay | RewardModel | ImplicitReward, Field(discriminator="use")]


@dataclass(frozen=True, kw_only=True)
class Source(Sampling):
    """Where completions come from: a way of sampling, with a name and an engine.

    Args:
        name: of your choosing; it names a folder and is kept with every completion. A judge never sees it.
        engine: what generates: `use` is vllm, http or replay. Sources with equal engines share one.
        price: what the model's tokens cost, for `budget.money` and the plan.
    """

    name: str
    engine: EngineSettings
    price: Price = field(default_factory=Price)

    @property
    def sampling(self) -> Sampling:
        """How this source samples, without its name."""
        return Sampling(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Sampling)})


@dataclass(frozen=True, kw_only=True)
class LabelerEntry:
    """A labeler in this run.

    Args:
        use: its name, `package.module:Class`, or `./file.py:Class`.
        options: the labeler's own fields.
        name: its name in this run; None takes the last part of `use`.
        where: metadata that a prompt must have, a value or several for each key; empty selects all prompts.
        weight: how much its scores count beside other labelers of the same completion.
        pass_at: scores of at least this much pass; None takes the labeler's own.
        max_abstained: the share of a shard's labels that may be abstentions before the run stops.
        match_ups: for pairwise labelers: comparisons per prompt, each in both orders.
        engine: the model that a judge asks: vllm, http or replay; or, for labelers that ask for rewards, reward_model or
            implicit_reward.
        reply_tokens: tokens of a judge's reply at most; models that think first need more.
        votes: for judges: extra answers in each order, drawn at temperature 1, where the two orders disagree; 0 makes each such
            comparison a tie at once. A judge that is right 80 % of the time decides 68 % of the questions with 0, 88 % with 2,
            94 % and 95 % of them rightly (tests/pipeline/test_votes.py).
        after: a cascade: the name of an earlier pointwise labeler; only prompts whose completions that one judged alike are asked
            about, so that a costly judge settles what a cheap verifier could not. Needs `pairs.combine = "lexicographic"`.
        gate: what this labeler must say whatever the others do: `chosen_must_pass`, `rejected_must_fail`, `both`; weight 0 makes
            it a gate alone.
        noise: the deviation of its score on the same text, for `pairs.min_margin_noise`; 0 for what computes.
        price: what a judge's tokens cost, for `budget.money` and the plan.
        timeout_s: seconds for one item, time in engines and programs not counted; then the item is an abstention (isolation.md).
    """

    use: str
    options: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    where: dict[str, str | list[str]] = field(default_factory=dict)
    weight: float = 1.0
    pass_at: float | None = None
    max_abstained: float = 0.5
    match_ups: int = 4
    engine: LabelerEngine | None = None
    reply_tokens: int = 512
    votes: int = 0
    after: str | None = None
    gate: Gate = "none"
    noise: float = 0.0
    price: Price = field(default_factory=Price)
    timeout_s: float = 2.0

    @property
    def spec(self) -> LabelerSpec:
        """The labeler itself."""
        return LabelerSpec(self.use, self.options)

    @property
    def label(self) -> str:
        """Its name in this run."""
        return self.name or self.use.rpartition(":")[2].rpartition(".")[2]

    @property
    def selection(self) -> Where:
        """`where` as the stages take it."""
        return tuple((key, (v,) if isinstance(v, str) else tuple(v)) for key, v in sorted(self.where.items()))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The dataset that a run publishes.

    Args:
        license: an SPDX name for the card; yours to state.
        min_pairs: fewer pairs than this is exit code 4.
        publish_to: where `refresh` publishes: folders, URLs of object stores, hf://datasets/OWNER/NAME.
        private: whether a Hub repository that does not exist yet is made private.
        keep: versions whose rows `refresh` keeps, here and where it publishes; 0 keeps all. Manifests always stay.
    """

    license: str = "other"
    min_pairs: int = 1
    publish_to: tuple[str, ...] = ()
    private: bool = True
    keep: int = 0

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise ConfigError(f"dataset.keep is {self.keep}; hint: 0 keeps all versions")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run.

    Args:
        name: names the run's folder.
        prompts: where prompts come from.
        sources: where completions come from.
        labelers: what judges them.
        pairs: how judged groups become pairs.
        dataset: what is published.
        audit: when the labels are not to be trusted.
        budget: what judges and sources may cost.
        executor: `local`, this machine alone, or `ray`, the cluster that `ray` describes.
        ray: the cluster, for `executor = "ray"`.
        sandbox: whether labelers may run completions (in bubblewrap).
        network: whether labelers may open connections; those that do have no seccomp filter and no Landlock.
        accept_weaker: layers of isolation (python -m pipeline doctor) that the run does without where they cannot be had; the
            manifest and the card say so.
        seed: every completion's seed is derived from it and the prompt.
        parent: the run whose policy this run samples from, for the lineage.
    """

    name: str
    prompts: Prompts
    sources: tuple[Source, ...]
    labelers: tuple[LabelerEntry, ...]
    pairs: Pairs = field(default_factory=Pairs)
    dataset: Published = field(default_factory=Published)
    audit: Audit = field(default_factory=Audit)
    budget: Budget = field(default_factory=Budget)
    executor: Literal["local", "ray"] = "local"
    ray: Ray = field(default_factory=Ray)
    sandbox: bool = False
    network: bool = False
    accept_weaker: tuple[str, ...] = ()
    seed: int = 0
    parent: str | None = None


for _section in (
    *(Config, Source, LabelerEntry, Published, Prompts, Fields, Pairs, Budget, Price, Ray),
    *(Vllm, Http, Replay, RewardModel, ImplicitReward),
):
    setattr(_section, "__pydantic_config__", {"extra": "forbid"})  # noqa: B010  an unknown key is an error


def stored_config(run: Path) -> Config:
    """The configuration that a run was last built with.

    Raises:
        ConfigError: it is of another version of this program, or names what is not there any more.
    """
    try:
        stored = read_json(run / "config.json")
        config: Config = TypeAdapter(Config).validate_python(stored)
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"{run / 'config.json'}: is of another version: {str(error).splitlines()[0]}; hint: build the run again"
        ) from error
    return config


def load(path: Path | None = None, settings: Sequence[str] = (), limit: int | None = None) -> Config:
    """The configuration in `path` (None: the quick start) with `--set` assignments laid over it.

    Raises:
        ConfigError: with the file, the key and the nearest right one.
    """
    path = path or QUICK_START
    data = _anchored(_read(path), path.resolve().parent)
    for setting in settings:
        _assign(data, setting)
    if limit is not None:
        data.setdefault("prompts", {})["limit"] = limit
    try:
        config: Config = TypeAdapter(Config).validate_python(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(path, detail) for detail in error.errors())) from None
    except LabelerError as error:
        raise ConfigError(f"{path}: {error}") from error
    check(config, path)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); hint: python -m pipeline run CONFIG.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _assign(data: dict[str, Any], setting: str) -> None:
    """Lays one `a.0.b=value` over the data; the value is TOML, or else text."""
    path, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting}: has no '='; hint: --set sources.0.n=8")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = path.strip().split(".")
    place: Any = data
    for key in parents:
        place = _step(place, key, setting)
    if isinstance(place, list):
        _step(place, last, setting)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"--set {setting}: {'.'.join(parents)} is {place!r} and has no {last!r}")


def _step(place: Any, key: str, setting: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(key, {})
    if not isinstance(place, list):
        raise ConfigError(f"--set {setting}: {key!r} is looked for in {place!r}, which is neither a table nor a list")
    if not key.isdecimal() or int(key) >= len(place):
        raise ConfigError(f"--set {setting}: {key!r} is no place in a list of {len(place)}; hint: places count from 0")
    return place[int(key)]


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data with relative paths looked up beside the config file; what is not there (a Hub name) stays as it is."""
    prompts = data.get("prompts")
    if isinstance(prompts, dict):
        path = prompts.get("path")
        if isinstance(prompts.get("decontaminate"), list):
            prompts["decontaminate"] = [_beside(p, folder) for p in prompts["decontaminate"]]
        prompts["path"] = [_beside(p, folder) for p in path] if isinstance(path, list) else _beside(path, folder)
    audit = data.get("audit")
    if isinstance(audit, dict) and "heldout" in audit:
        path = audit["heldout"]
        audit["heldout"] = [_beside(p, folder) for p in path] if isinstance(path, list) else _beside(path, folder)
    dataset = data.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("publish_to"), list):
        dataset["publish_to"] = [_placed(place, folder) for place in dataset["publish_to"]]
    for table in (*_tables(data, "sources"), *_tables(data, "labelers")):
        engine = table.get("engine")
        if isinstance(engine, dict):
            engine.update({k: _beside(engine[k], folder) for k in ENGINE_PATHS if k in engine})
        options = table.get("options")
        if isinstance(options, dict) and "{{" not in str(options.get("template", "{{")):
            options["template"] = _beside(options["template"], folder)
        if isinstance(table.get("use"), str) and ".py:" in table["use"]:
            file, _, name = table["use"].rpartition(":")
            table["use"] = f"{_beside(file, folder)}:{name}"
    return data


ENGINE_PATHS = ("model", "path", "chat_template", "policy", "reference")


def _tables(data: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    tables = data.get(key)
    yield from (table for table in (tables if isinstance(tables, list) else ()) if isinstance(table, dict))


def _beside(path: Any, folder: Path) -> Any:
    if not isinstance(path, str) or "://" in path or Path(path).is_absolute():
        return path
    found = folder / path
    return str(found.resolve()) if path.startswith(("./", "../")) or found.exists() else path


def _placed(path: Any, folder: Path) -> Any:
    return str((folder / path).resolve()) if isinstance(path, str) and "://" not in path else path


def _describe(path: Path, detail: Any) -> str:
    """A validation error in words: the file, the key, what is wrong, the nearest right key."""
    *place, last = detail["loc"]
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        known = _keys_at(place)
        near = difflib.get_close_matches(str(last), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
        return f"{path}: {key} is not a key; hint: {hint}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: {key} is missing; hint: python -m pipeline run without a config is an example"
    return f"{path}: {key}: {detail['msg'].removeprefix('Value error, ')} (it is {detail['input']!r:.80})"


def _keys_at(place: Sequence[Any]) -> list[str]:
    """The keys of the table at a place in the configuration."""
    kind: Any = Config
    for part in place:
        options = list(_dataclasses_in(kind))
        tagged = [k for k in options if part in typing.get_args(typing.get_type_hints(k).get("use", None))]
        if tagged:
            kind = tagged[0]
        elif not isinstance(part, int):
            kind = typing.get_type_hints(options[0], include_extras=True)[part] if options else None
    return [f.name for found in _dataclasses_in(kind) for f in dataclasses.fields(found)]


def _dataclasses_in(kind: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(kind):
        yield typing.cast(type, kind)
    for inner in typing.get_args(kind):
        yield from _dataclasses_in(inner)
