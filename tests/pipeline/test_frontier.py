"""What the two figures compare: ways to train, their seeds taken together, and a command that does not outlive its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.commands import printed
from pipeline.evaluating.evaluate import Measured
from pipeline.evaluating.figures import Curve, Spot, _frame, canvas_of, exactly
from pipeline.evaluating.frontier import Best, Found, Point, draw_both, leaders, settings, table
from pipeline.evaluating.measures import Estimate, mean_rate, over_seeds
from pipeline.evaluating.ways import DEFAULT, Trained, Way, Workshop

DPO = Way.parse("DPO/beta 0.1=dpo --beta 0.1")


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 20)


def test_a_way_is_a_curve_a_setting_and_a_command():
    assert Way.parse("RL/beta 0.05=rl --beta 0.05 --clip 0.1") == Way(
        "RL", "beta 0.05", "rl", ("--beta", "0.05", "--clip", "0.1")
    )
    assert DPO.name == "dpo-beta-0-1"


@pytest.mark.parametrize("text", ["", "DPO", "DPO=dpo", "/x=dpo", "DPO/x=reward", "DPO/x="])
def test_what_is_no_way_is_refused(text):
    with pytest.raises(ConfigError, match="hint: FAMILY/SETTING="):
        Way.parse(text)


def test_the_usual_ways_are_five_kinds_of_training_with_names_of_their_own():
    assert {way.family for way in DEFAULT} == {"DPO", "DPO-Positive", "IPO", "SFT on the chosen", "RL"}
    assert len({way.name for way in DEFAULT}) == len(DEFAULT)


def test_rl_labels_as_many_completions_in_all_its_rounds_as_the_pairs_are_made_of(tmp_path):
    config = Path(__file__).resolve().parents[2] / "examples" / "demo.toml"
    shop = Workshop(config, ["prompts.limit=500"], tmp_path, tmp_path, {}, rounds=2)
    way = Way.parse("RL/x=rl")
    first, second = (shop._round_settings(way, 3, k, "policy") for k in (1, 2))
    assert {"prompts.part=1/2", "prompts.limit=250", "name=demo-rl-r1"} < set(first)
    assert {"prompts.part=2/2", "prompts.limit=250", "sources.0.engine.model=policy"} < set(second)


def test_the_first_round_of_rl_is_sampled_once_for_all_seeds(tmp_path):
    config = Path(__file__).resolve().parents[2] / "examples" / "demo.toml"
    shop = Workshop(config, [], tmp_path, tmp_path, {})
    ways = Way.parse("RL/x=rl"), Way.parse("RL/y=rl")
    assert shop._round_settings(ways[0], 0, 1, "m") == shop._round_settings(ways[1], 1, 1, "m")
    assert shop._round_settings(ways[0], 0, 2, "m") != shop._round_settings(ways[0], 1, 2, "m")


def test_a_prompt_counts_once_however_many_seeds_there_are():
    rates = [{"a": {"p": 0.0, "q": 1.0}, "b": {"r": 0.5}}, {"a": {"p": 1.0, "q": 1.0}, "b": {"r": 0.5}}]
    together = mean_rate(over_seeds(rates))
    assert (together.value, together.n) == (pytest.approx((0.75 + 0.5) / 2), 3)


def test_seeds_of_a_setting_are_one_point_and_rounds_are_points_of_their_own():
    rl = Way.parse("RL/beta 1=rl")
    trained = [
        Trained(rl, seed, Path(f"rl-r{k}-s{seed}"), f"round {k}") for seed in (0, 1) for k in (1, 2)
    ]  # fmt: skip
    rate = {"rl-r1-s0": 0.2, "rl-r1-s1": 0.4, "rl-r2-s0": 0.6, "rl-r2-s1": 0.6}
    measured = Measured({(name, 1.0): {"a": {"p": value, "q": value}} for name, value in rate.items()}, 4)
    apart = {name: ({"p": [value], "q": [value + 0.5]}, {"p": [5], "q": [5]}) for name, value in rate.items()}
    first, second = settings(measured, trained, apart)
    assert (first.note, first.rate.value, first.by_seed) == ("beta 1, round 1", pytest.approx(0.3), (0.2, 0.4))
    assert (first.kl.value, first.kl_by_seed) == (pytest.approx(0.55), pytest.approx((0.45, 0.65)))
    assert leaders([first, second]) == [second]


def test_what_is_reckoned_may_run_out_of_a_frame_that_ends_where_the_policies_end():
    trained = Curve("DPO", [Spot(estimate(0.3), estimate(0.6))])
    best = Curve("best of n", [Spot(exactly(kl), estimate(0.9)) for kl in (0.0, 2.0)], reckoned=True)
    for curves, right in (([trained, best], 0.48), ([trained], 1.0)):
        axes = canvas_of(3, 2).subplots()
        axes.set_xlim(0, 1)
        _frame(axes, curves)
        assert axes.get_xlim()[1] == pytest.approx(right)


def test_both_figures_and_the_table_are_made(tmp_path):
    points = tuple(Point("DPO", f"beta {b}", 1.0, estimate(0.6), (0.5, 0.7), estimate(b), (b, b)) for b in (0.1, 0.3))
    hot = tuple(Point(f, "", t, estimate(0.5), (0.5,)) for f in ("reference", "DPO") for t in (0.0, 1.0))
    best = tuple(Best(n, t, 0.1 * n, estimate(0.5)) for t in (0.0, 1.0) for n in ((1, 2) if t else (1,)))
    found = Found(points, hot, best)
    draw_both(found, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frontier.png", "temperature.png"]
    assert "60.0 [50.0, 70.0]" in table(found)


def test_a_command_that_fails_is_an_error_that_names_it(capfd):
    with pytest.raises(PipelineError, match="`python -m pipeline run` ended with 2"):
        printed("pipeline", "run", "no-such.toml")
    assert "no-such.toml" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no word for it")
def test_a_command_ends_with_the_process_that_started_it_however_that_ends(tmp_path):
    (tmp_path / "forever.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    root = Path(__file__).resolve().parents[2]
    starter = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.evaluating.commands import printed; printed('forever')"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
    )  # fmt: skip
    child = int(eventually(lambda: (tmp_path / "pid").read_text()))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    eventually(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def eventually(what):
    """The first true answer within 20 s."""
    for _ in range(400):
        with contextlib.suppress(OSError):
            if found := what():
                return found
        time.sleep(0.05)
    raise AssertionError("it did not come to be")
