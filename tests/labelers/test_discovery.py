"""How a labeler is found, and what is said when it is not."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labelers import discovery
from labelers.discovery import BUILTIN, BrokenPlugin, LabelerError, LabelerSpec, OptionError, UnknownLabeler, WrongShape
from labelers.types import Candidate, Completion, Prompt, Score

ROOT = Path(__file__).parents[2]
SHORT = f"{ROOT}/examples/labeler/short.py:Short"
SOURCE = (ROOT / "examples/labeler/short.py").read_text()


def write(folder: Path, text: str, name: str = "plugin.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:Short"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_labeler_is_built_by_its_own_name(name: str) -> None:
    assert discovery.build(name).name == name


def test_a_class_in_a_module_is_found() -> None:
    assert discovery.load("labelers.parses:Parses").__name__ == "Parses"


def test_a_class_in_a_file_is_found_relative_to_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples/labeler")
    assert discovery.build("./short.py:Short", {"limit": 3}).limit == 3  # type: ignore[union-attr]


def test_loading_a_file_leaves_the_import_path_alone() -> None:
    before = list(sys.path)
    discovery.load(SHORT)
    assert sys.path == before


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a package that offers a labeler: its metadata alone, on the import path."""

    def install(name: str, value: str) -> None:
        folder = tmp_path / "offering-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[labelers]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_an_installed_package_offers_labelers_by_entry_point(offer: Callable[[str, str], None]) -> None:
    offer("mine", "labelers.parses:Parses")
    assert discovery.build("mine").name == "parses"


def test_an_installed_labeler_may_not_take_a_builtin_name(offer: Callable[[str, str], None]) -> None:
    offer("compiles", "evil:Compiles")
    with pytest.raises(LabelerError, match="built in, and an installed package offers one too"):
        discovery.build("compiles")


def test_a_broken_entry_point_breaks_only_itself(offer: Callable[[str, str], None]) -> None:
    offer("broken", "no_such_module:X")
    assert discovery.build("parses").name == "parses"
    with pytest.raises(UnknownLabeler, match="no_such_module"):
        discovery.build("broken")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("compilez", "did you mean 'compiles'"),
        ("labelers.parses:Parser", "did you mean 'Parses'"),
        ("labelers.no:Parses", "no module 'labelers.no'"),
        ("short.py", "no class; hint: write short.py:ClassName"),
        ("./nowhere/short.py:Short", "cannot read"),
        ("", "has no name"),
    ],
)
def test_a_near_miss_gets_a_hint(use: str, said: str) -> None:
    with pytest.raises(UnknownLabeler, match=said):
        discovery.load(use)


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(BrokenPlugin, match=r"plugin\.py:2: syntax error.*hint: correct that line"):
        discovery.load(write(tmp_path, "x = 1\ndef f(:\n"))


@pytest.mark.parametrize("line", ["1 / 0", "import no_such_package", "raise SystemExit(0)"])
def test_an_exception_while_loading_names_file_and_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(BrokenPlugin, match=r"plugin\.py:2: loading it raised .*hint: "):
        discovery.load(write(tmp_path, f"x = 1\n{line}\n"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name, version, needs = "short", "1", Needs()', 'version, needs = "1", Needs()', "has no name"),
        ('name, version, needs = "short", "1", Needs()', 'name, needs = "short", Needs()', "has no version"),
        ("    def score", "    def grade", "no method score"),
        ("@dataclass(frozen=True)", "@dataclass", "is not frozen"),
        ("@dataclass(frozen=True)", "", "is not a dataclass"),
        ('"short", "1", Needs()', '"short", 1, Needs()', "version is int"),
        ('"short", "1", Needs()', '"a/b", "1", Needs()', "name is 'a/b'"),
        ('"short", "1", Needs()', '"short", "1", None', "needs is NoneType|has no attribute"),
        ("examples = [Example", "samples = [Example", "has no examples"),
        ("    def score", "    def compare", "no symmetric"),
        ("pass_at = 1.0", "pass_at = float('nan')", "pass_at is nan"),
    ],
)
def test_a_wrong_shape_says_which_part(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SOURCE
    with pytest.raises(WrongShape, match=said):
        discovery.build(write(tmp_path, SOURCE.replace(old, new)))


@pytest.mark.parametrize(
    ("use", "options", "said"),
    [
        ("regression", {"tolerence": 1}, "did you mean 'tolerance'"),
        ("regression", {"worst_error": "1"}, "expected a number"),
        ("regression", {"worst_error": float("nan")}, "expected a finite number"),
        ("regression", {"which": "lats"}, "did you mean 'last'"),
        ("compiles", {"max_chars": 1.5}, "expected a whole number"),
        ("compiles", {"max_chars": True}, "which is true or false; expected a whole number"),
        ("compiles", {"max_chars": 0}, "hint: at least 1"),
        ("parses", {"format": "yml"}, "did you mean .yaml."),
        ("parses", {"allow_nan": 1}, "expected true or false"),
        ("format", {"constraints": "no comma"}, "expected a list, each a table"),
        ("format", {"constraints": [{"id": "punctuation:no_coma"}]}, "did you mean 'punctuation:no_comma'"),
        ("json_schema", {"schema": {"type": "strin"}}, "the schema cannot be used"),
        ("judge", {"template": "{{ a }} {{ c }}"}, "unknown variable 'c'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(use: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        discovery.build(use, options)


def test_a_list_becomes_a_tuple_and_an_integer_a_float() -> None:
    built: Any = discovery.build("format", {"constraints": [{"id": "punctuation:no_comma"}], "regex_timeout_s": 2})
    assert built.constraints == ({"id": "punctuation:no_comma"},)
    assert isinstance(built.regex_timeout_s, float)


def test_an_error_survives_the_way_back_from_a_worker() -> None:
    error = OptionError("x is wrong", where="here", hint="do y")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (OptionError, "here: x is wrong; hint: do y")


def _score_in_worker(spec: LabelerSpec) -> list[Score]:
    prompt = Prompt.of("x")
    batch = [Candidate(prompt, Completion.of(prompt, text)) for text in ("hi", "x" * 200)]
    return list(spec.build().score(batch, None))  # type: ignore


def test_a_file_plugin_is_rebuilt_in_a_spawned_worker() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(build_and_score, (LabelerSpec(SHORT),)) == [1.0, 0.0]


def build_and_score(spec: LabelerSpec) -> list[float]:
    return [score.value for score in _score_in_worker(spec)]


def test_the_fingerprint_says_name_version_options_and_the_files_hash(tmp_path: Path) -> None:
    identity = discovery.identity(LabelerSpec(SHORT, {"limit": 7}))
    assert (identity["name"], identity["version"], identity["options"]) == ("short", "1", {"limit": 7})
    assert len(identity["file_sha256"]) == 64


def test_a_moved_file_is_the_same_labeler_and_an_edited_one_is_another(tmp_path: Path) -> None:
    moved, edited = write(tmp_path, SOURCE, "a.py"), write(tmp_path, SOURCE + "# edited\n", "b.py")
    assert LabelerSpec(moved).fingerprint() == LabelerSpec(SHORT).fingerprint()
    assert LabelerSpec(edited).fingerprint() != LabelerSpec(SHORT).fingerprint()


def test_an_edited_file_is_loaded_again(tmp_path: Path) -> None:
    use = write(tmp_path, SOURCE)
    assert discovery.build(use).version == "1"
    write(tmp_path, SOURCE.replace('"1"', '"2"'))
    assert discovery.build(use).version == "2"


def test_a_spelled_out_default_has_the_same_fingerprint() -> None:
    assert LabelerSpec("parses", {"allow_nan": False}).fingerprint() == LabelerSpec("parses").fingerprint()
    assert LabelerSpec("parses", {"allow_nan": True}).fingerprint() != LabelerSpec("parses").fingerprint()


def test_a_judges_template_file_is_in_the_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("{{prompt}} {{a}} {{b}}")
    spec = LabelerSpec("judge", {"template": str(file)})
    before = spec.fingerprint()
    file.write_text("{{prompt}} {{a}} or {{b}}")
    assert spec.fingerprint() != before


def test_a_spec_can_be_a_key() -> None:
    assert {LabelerSpec("format", {"constraints": [{"id": "x"}]}): 1}
