from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import QUICK_START, load
from pipeline.errors import ConfigError
from pipeline.pairing.settings import Pairs

MINIMAL = """
name = "mine"
[prompts]
path = "prompts.jsonl"
[[sources]]
name = "people"
engine = { use = "replay", path = "completions.jsonl" }
[[labelers]]
use = "compiles"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "completions.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "p"}\n')
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL)
    return path


def test_paths_are_looked_for_beside_the_config(config, tmp_path):
    loaded = load(config)
    assert loaded.prompts.path == str(tmp_path / "prompts.jsonl")
    assert loaded.sources[0].engine.path == str(tmp_path / "completions.jsonl")


def test_a_hub_name_stays_a_hub_name(config):
    config.write_text(MINIMAL.replace("prompts.jsonl", "openai/gsm8k"))
    assert load(config).prompts.path == "openai/gsm8k"


def test_set_lays_values_over_the_file(config):
    loaded = load(config, ["sources.0.n=16", "sources.0.temperature=0.5", "pairs.rule=best_vs_worst", "name=other"])
    assert (loaded.sources[0].n, loaded.sources[0].temperature) == (16, 0.5)
    assert (loaded.pairs.rule, loaded.name) == ("best_vs_worst", "other")


def test_limit_is_the_prompts_limit(config):
    assert load(config, limit=3).prompts.limit == 3


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sources.0.temprature=1", r"sources\.0\.temprature is not a key; hint: did you mean temperature\?"),
        ("pairs.rul=auto", r"pairs\.rul is not a key; hint: did you mean rule\?"),
        ("sampler.n=1", r"sampler is not a key; hint: .*sources"),
        ("sources.0.engine.pathh=x", r"engine\.replay\.pathh is not a key; hint: did you mean path\?"),
        ("labelers.0.optons={}", r"labelers\.0\.optons is not a key; hint: did you mean options\?"),
        ("prompts.fields.promt=x", r"prompts\.fields\.promt is not a key; hint: did you mean prompt\?"),
        ("sources.0.n=many", r"sources\.0\.n: .*integer.*'many'"),
        ("pairs.rule=best", r"pairs\.rule: .*best_vs_worst"),
        ("pairs.max_per_prompt=0", "1 or more"),
        ("prompts.shard_size=0", "1 or more"),
        ("sources.0.n=0", "1 or more"),
        ("sources.0.engine.use=vlm", "'vllm', 'http', 'replay'"),
        ("sources.3.n=1", "no place in a list of 1"),
        ("sources", "has no '='"),
        ("name=../../etc", "no folder's name"),
        ("name=", "no folder's name"),
        ("sources.0.engine.path=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("labelers.0.use=compile", "compiles"),
        ("labelers.0.options.langage=python", "language"),
        ("labelers.0.use=judge", "hint: engine = "),
        ("labelers=[]", "labelers is empty"),
        ("sources=[]", "sources is empty"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_a_hint(config, setting, says):
    with pytest.raises(ConfigError, match=says):
        load(config, [setting])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("min_margin=-1", "min_margin is -1.0; hint: 0 or more"),
        ("min_margin=nan", "min_margin is nan; hint: 0 or more"),
        ("min_margin_noise=-0.1", "min_margin_noise is -0.1; hint: 0 or more"),
        ("min_margin_noise=inf", "min_margin_noise is inf; hint: 0 or more"),
        ("quantiles=[0.9, 0.1]", "quantiles is .*; hint: two shares from 0 to 1, the lower first"),
        ("quantiles=[0.1, 1.5]", "quantiles is .*; hint: two shares from 0 to 1, the lower first"),
        ("threshold=[1, 1]", "threshold is .*; hint: .*rising"),
        ("threshold=[0, nan]", "threshold is .*; hint: .*rising"),
        ("near_duplicate=0", "near_duplicate is 0.0; hint: a share above 0 and up to 1"),
        ("near_duplicate=1.01", "near_duplicate is 1.01; hint: a share above 0 and up to 1"),
        ("max_similarity=0", "max_similarity is 0.0; hint: a share above 0 and up to 1"),
        ("pass_rate=[0.5, 0.5]", "pass_rate is .*; hint: two shares from 0 to 1, the lower first"),
        ("pass_rate=[-0.1, 0.5]", "pass_rate is .*; hint: two shares from 0 to 1, the lower first"),
        ("pass_rate=0.5", r"pairs\.pass_rate: .*tuple"),
        ("max_length_ratio=0.9", "max_length_ratio is 0.9; hint: 1 or more"),
        ("max_source_share=0", "max_source_share is 0.0; hint: a share above 0 and up to 1"),
        ("length=short", r"pairs\.length: .*residualise"),
        ("sources=two", r"pairs\.sources: .*different"),
        ("combine=product", r"pairs\.combine: .*lexicographic"),
        ("verdicts=all", r"pairs\.verdicts: .*ranked"),
        ("truncated_rejected=perhaps", r"pairs\.truncated_rejected: .*boolean"),
    ],
)
def test_an_option_of_pairs_out_of_its_range_is_refused(config, setting, says):
    with pytest.raises(ConfigError, match=says):
        load(config, [f"pairs.{setting}"])


NOISELESS = "min_margin_noise: every labeler's noise is 0; hint: noise = "


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["pairs.pass_rate=[0.1, 0.9]", "labelers.0.use=length"],
            "pairs.pass_rate: no labeler knows passing; hint: pass_at",
        ),
        (["pairs.rule=pass_vs_fail", "labelers.0.use=length"], "pairs.rule: no labeler knows passing; hint: pass_at"),
        (["pairs.max_source_share=0.9"], "which 1 sources cannot keep, .*hint: at least 1"),
        (["pairs.sources=different"], "there is one source; hint: another"),
        (["pairs.min_margin_noise=2"], NOISELESS),
        (["pairs.min_margin_noise=2", "labelers.0.noise=0.1", "pairs.combine=lexicographic"], "scores are ranks; hint"),
    ],
)
def test_an_option_of_pairs_that_cannot_do_anything_here_is_refused(config, settings, says):
    with pytest.raises(ConfigError, match=says):
        load(config, settings)


@pytest.mark.parametrize(
    "settings",
    [
        ["pairs.pass_rate=[0.1, 0.9]"],
        ["pairs.pass_rate=[0.1, 0.9]", "labelers.0.use=length", "labelers.0.pass_at=-100"],
        ["pairs.min_margin_noise=2", "labelers.0.noise=0.1"],
        ["pairs.min_margin_noise=2", "labelers.0.use=human"],
    ],
)
def test_the_same_options_stand_where_a_labeler_has_what_they_need(config, settings):
    assert load(config, settings).pairs != Pairs()


def test_two_sources_keep_a_share_of_a_half(config):
    another = '[[sources]]\nname = "others"\nengine = { use = "replay", path = "completions.jsonl" }\n'
    config.write_text(MINIMAL + another)
    assert load(config, ["pairs.max_source_share=0.5", "pairs.sources=different"]).pairs.max_source_share == 0.5


def test_temperature_0_with_several_completions_is_refused(config):
    with pytest.raises(ConfigError, match="hint: n = 1"):
        load(config, ["sources.0.temperature=0"])


def test_two_sources_of_one_name_are_refused(config):
    config.write_text(
        MINIMAL + '[[sources]]\nname = "people"\nengine = { use = "replay", path = "completions.jsonl" }\n'
    )
    with pytest.raises(ConfigError, match="people stands twice"):
        load(config)


def test_a_missing_key_and_a_missing_file_are_named(config, tmp_path):
    config.write_text(MINIMAL.replace('name = "mine"', ""))
    with pytest.raises(ConfigError, match="name is missing"):
        load(config)
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read"):
        load(tmp_path / "nothing.toml")


def test_a_file_that_is_not_toml_is_named_with_its_line(config):
    config.write_text("name = \n")
    with pytest.raises(ConfigError, match=r"config\.toml: is not TOML: .*line 1"):
        load(config)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("missing", "no such folder"),
        ("empty", "no config.json"),
        ("untokenized", "has no tokenizer .*hint"),
    ],
)
def test_a_model_folder_that_is_none_is_refused_before_anything_is_loaded(config, tmp_path, folder, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "untokenized").mkdir()
    (tmp_path / "untokenized" / "config.json").write_text("{}")
    engine = f'{{ use = "vllm", model = "{tmp_path / folder}" }}'
    with pytest.raises(ConfigError, match=says):
        load(config, [f"sources.0.engine={engine}"])


def test_the_quick_start_is_a_valid_config():
    loaded = load()
    assert QUICK_START.is_file()
    assert [entry.label for entry in loaded.labelers] == [
        "compiles",
        "body_compiles",
        "json_schema",
        "regression",
        "format",
    ]
