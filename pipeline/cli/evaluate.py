"""The commands that ask whether the data made a better model: evaluate, and rounds that go on while it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import RUNS, AsJson, ConfigFile, Root, Set
from pipeline.errors import ConfigError
from pipeline.observing.logs import say

commands = typer.Typer()

Heldout = Annotated[str, typer.Option(help="A prompt file that nothing was trained on.")]


@commands.command()
def evaluate(
    config: ConfigFile = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME=MODEL", help="A model; give it once for each.")] = None,
    heldout: Heldout = "",
    temperature: Annotated[list[float] | None, typer.Option(help="Of sampling; once for each. None is 1.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Completions of each prompt (1 at temperature 0).")] = 8,
    reference: Annotated[str, typer.Option(help="The NAME that the others are measured against; none is the first.")] = "",
    kl: Annotated[bool, typer.Option(help="Measure the divergence from the reference, too.")] = True,
    figures: Annotated[Path | None, typer.Option(help="A folder for the two figures.")] = None,
    settings: Set = None, root: Root = RUNS, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure models on held-out prompts, by the sampling and the labelers of a config."""
    from pipeline.config import QUICK_START, load
    from pipeline.evaluating import evaluation
    from pipeline.evaluating.evaluate import evaluate as measure
    from pipeline.evaluating.evaluate import messages_of

    models = _models(model or [])
    if not heldout:
        raise ConfigError("--heldout: is missing; hint: a prompt file that nothing was trained on")
    first = reference or next(iter(models))
    if first not in models:
        raise ConfigError(f"--reference {first}: is none of the models; hint: {', '.join(models)}")
    loaded = load(config or QUICK_START, settings or ())
    measured = measure(loaded, models, heldout, temperature or [1.0], n, root)
    found = evaluation.standings(measured, first, models, messages_of(loaded, root), loaded.seed, kl=kl)
    if figures:
        figures.mkdir(parents=True, exist_ok=True)
        evaluation.draw_temperatures(found, figures / "temperature.png")
        evaluation.draw_frontier(found, measured, first, figures / "frontier.png")
        say(f"figures in {figures}")
    print(json.dumps(evaluation.as_json(found, measured)) if as_json else evaluation.table(found))


@commands.command()
def rounds(
    config: ConfigFile = None,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds at most.")] = 3,
    heldout: Heldout = "",
    trainer: Annotated[str, typer.Option(help="Options for `python -m trainer dpo`.")] = "",
    fresh: Annotated[bool, typer.Option(help="Each round takes prompts of its own, a part of all.")] = True,
    reference: Annotated[str, typer.Option(help="DPO's reference: last (the policy that sampled) or first.")] = "last",
    n: Annotated[int, typer.Option(min=1, help="Held-out completions of each prompt.")] = 8,
    max_kl: Annotated[float, typer.Option(help="Stop beyond so many nats a sequence from the first model.")] = 10.0,
    max_growth: Annotated[float, typer.Option(help="Stop when answers are so many times as long as the first model's.")] = 2.0,
    min_gain: Annotated[float, typer.Option(help="Stop unless the held-out gain is surely more than this; a share.")] = 0.0,
    repeat: Annotated[int, typer.Option(min=1, help="Do it all so many times, with seeds and runs of their own.")] = 1,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figure, rounds.png.")] = None,
    settings: Set = None, root: Root = RUNS, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Sample, label, pair, train, evaluate, and again from the better policy, while it gets better."""
    import shlex
    from dataclasses import asdict
    from typing import get_args, get_type_hints

    from pipeline.config import QUICK_START
    from pipeline.evaluating import rounds_told
    from pipeline.evaluating.rounds import Plan, Rounds, repetition

    if not heldout:
        raise ConfigError("--heldout: is missing; hint: a prompt file that no round trains on")
    known = get_args(get_type_hints(Plan)["reference"])
    if reference not in known:
        raise ConfigError(f"--reference {reference}: hint: {' or '.join(known)}")
    plan = Plan(n_rounds, heldout, shlex.split(trainer), fresh, reference, n, max_kl, max_growth, min_gain)  # type: ignore[arg-type]
    file = config or QUICK_START
    settings = settings or []
    rows = [Rounds(file, repetition(file, settings, k, n_rounds), root, plan, say).run() for k in range(repeat)]
    if figures:
        rounds_told.draw(rows, figures / "rounds.png")
        say(f"figure in {figures}")
    print(json.dumps([[asdict(each) for each in row] for row in rows]) if as_json else rounds_told.table(rows))


@commands.command()
def ablate(
    config: ConfigFile = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE|NAME:KEY=VALUE,...", help="A way to build pairs; once for each. None is the main rules."),
    ] = None,
    heldout: Heldout = "",
    seeds: Annotated[int, typer.Option(min=1, help="Policies of each variant.")] = 3,
    trainer: Annotated[str, typer.Option(help="Options for `python -m trainer dpo`.")] = "",
    pairs: Annotated[int, typer.Option(min=0, help="Pairs to train on; 0 is as many as the poorest variant makes.")] = 0,
    n: Annotated[int, typer.Option(min=1, help="Held-out completions of each prompt.")] = 8,
    settings: Set = None, root: Root = RUNS, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say which pairs are worth it: pairs by several rules from the same candidates, a policy each, one evaluation."""
    import shlex

    from pipeline.config import QUICK_START
    from pipeline.evaluating.ablation import DEFAULT, Ablation, Variant
    from pipeline.evaluating.ablation_told import as_json as told_json
    from pipeline.evaluating.ablation_told import table

    if not heldout:
        raise ConfigError("--heldout: is missing; hint: a prompt file that nothing is trained on")
    variants = [Variant.parse(text) for text in variant or DEFAULT]
    asked = Ablation(
        config or QUICK_START,
        settings or (),
        root,
        variants,
        heldout,
        range(seeds),
        shlex.split(trainer),
        pairs,
        n,
        say,
    )
    results = asked.run()
    print(json.dumps(told_json(results)) if as_json else table(results))


@commands.command()
def frontier(
    config: ConfigFile = None,
    way: Annotated[
        list[str] | None,
        typer.Option(metavar="FAMILY/SETTING=COMMAND OPTIONS", help="A way to train; once for each. None is the usual ones."),
    ] = None,
    heldout: Heldout = "",
    seeds: Annotated[int, typer.Option(min=1, help="Policies of each way.")] = 3,
    trainer: Annotated[str, typer.Option(help="Options for every `python -m trainer` command.")] = "",
    dpo: Annotated[str, typer.Option(help="The same for `dpo` alone.")] = "",
    sft: Annotated[str, typer.Option(help="The same for `sft` alone.")] = "",
    rl: Annotated[str, typer.Option(help="The same for `rl` alone.")] = "",
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of RL, each on its share of the prompts.")] = 2,
    n: Annotated[int, typer.Option(min=1, help="Held-out completions of each prompt.")] = 4,
    best_of: Annotated[int, typer.Option(min=1, help="The same of the reference, for best-of-n.")] = 16,
    temperature: Annotated[list[float] | None, typer.Option(help="Of the second figure; once for each.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for frontier.png and temperature.png.")] = None,
    settings: Set = None, root: Root = RUNS, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare ways to train on this data: reward against divergence, and against temperature, as figures."""
    import shlex

    from pipeline.config import QUICK_START, load
    from pipeline.evaluating import frontier as frontiers
    from pipeline.evaluating.ways import DEFAULT, Way, Workshop

    if not heldout:
        raise ConfigError("--heldout: is missing; hint: a prompt file that nothing is trained on")
    ways = [Way.parse(text) for text in way] if way else DEFAULT
    file, laid = config or QUICK_START, settings or ()
    options = {name: shlex.split(f"{trainer} {own}") for name, own in (("dpo", dpo), ("sft", sft), ("rl", rl))}
    folder = root / f"{load(file, laid).name}-frontier"
    temperatures = sorted({*(temperature or frontiers.Frontier.temperatures), 1.0})
    workshop = Workshop(file, laid, root, folder, options, n_rounds, say)
    found = frontiers.Frontier(workshop, heldout, ways, range(seeds), n, best_of, temperatures).run()
    if figures:
        frontiers.draw_both(found, figures)
        say(f"figures in {figures}")
    print(json.dumps(frontiers.as_json(found)) if as_json else frontiers.table(found))


def _models(given: list[str]) -> dict[str, str]:
    """NAME=MODEL -> the model by its name."""
    found = {}
    for text in given:
        name, _, model = text.partition("=")
        if not name or not model or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--model {text}: hint: NAME=MODEL, the name of letters, digits, - and _")
        found[name] = model
    if not found:
        raise ConfigError("--model: is missing; hint: --model before=data/tiny-model --model after=policy")
    return found
