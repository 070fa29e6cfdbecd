"""Equal as mathematics; what cannot be finished or read is undecided."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from labelers.cpu_limit import TimeIsUp, cpu_limit
from labelers.discovery import LabelerSpec
from labelers.testing import check

EQUAL = [
    ("The answer is 72.", 72),
    ("$\\boxed{0.5}$", "\\frac{1}{2}"),
    ("It is 1/2.", "$\\frac12$"),
    ("$\\boxed{1024}$", "2^{10}"),
    ("so 72.0", "8 * 9 = 72\n#### 72"),
    ("$\\boxed{50\\%}$", 0.5),
    ("\\boxed{1{,}234}", "1,234"),
    ("it is 10 cm", "10 \\text{ cm}"),
    ("\\boxed{\\{1, 2\\}}", "\\{2, 1\\}"),
    ("\\boxed{(-\\infty, 3]}", "(-\\infty,3]"),
    ("\\boxed{(1, 2)}", "(1,2)"),
    ("\\boxed{x = 3}", "3"),
    ("\\boxed{(x+1)^2}", "$x^2+2x+1$"),
    ("\\boxed{\\text{yes}}", "yes"),
    ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"),
    ("#### -4", -4),
]
DIFFERENT = [
    ("The answer is 70.", 72),
    ("I do not know.", 72),
    ("", 72),
    ("\\boxed{}", 72),
    ("-5", "5"),
    ("\\boxed{(2,1)}", "(1,2)"),
    ("\\boxed{[0,1)}", "[0,1]"),
    ("\\boxed{1, 2, 3}", "2"),
    ("0.33", "1/3"),
    ("nan", 5),
    ("[[A]] Score: 10", 5),
    ("SystemExit(0)", 5),
]


@pytest.mark.parametrize(("text", "target"), EQUAL)
def test_an_equal_answer_scores_1(value: Any, text: str, target: Any) -> None:
    assert value("math", text, target=target) == 1.0


@pytest.mark.parametrize(("text", "target"), DIFFERENT)
def test_another_answer_or_none_scores_0(ask: Any, text: str, target: Any) -> None:
    answer = ask("math", text, target=target)
    assert (answer.value, bool(answer.reason)) == (0.0, True)


@pytest.mark.parametrize("target", [None, True, [1], "", " ", "\\frac{", "nobody knows what this is", {"a": 1}])
def test_a_target_that_cannot_be_read_abstains(value: Any, target: Any) -> None:
    assert value("math", "5", target=target) == "unparsable"


@pytest.mark.parametrize(
    "text", ["9^{9^{9^{9}}}", "99999999!", "(10^9)!", "9^{99999999}", "(" * 1000 + "1" + ")" * 1000]
)
def test_a_bomb_is_undecided_in_time(value: Any, text: str) -> None:
    value("math", "1", target=1)  # loads the library
    started = time.monotonic()
    assert value("math", f"\\boxed{{{text}}}", target="5", timeout_s=0.4) in ("timeout", "crashed")
    assert time.monotonic() - started < 20


def test_a_box_can_be_asked_for(value: Any) -> None:
    assert value("math", "The answer is 72.", target=72, answer="boxed") == 0.0
    assert value("math", "\\boxed{72}", target=72, answer="boxed") == 1.0


def test_a_long_text_is_not_judged(value: Any) -> None:
    assert value("math", "9" * 1_000_000, target=9) == "not_applicable"


def test_it_keeps_the_contract() -> None:
    spec = LabelerSpec("math")
    assert check(spec.build(), spec=spec) == []


def stubborn() -> None:
    """Swallows the first interruption, as a library's `except:` does."""
    for swallow in (True, False):
        try:
            while True:
                sum(range(1000))
        except TimeIsUp:
            if not swallow:
                raise


def test_the_limit_interrupts_what_swallows_exceptions_and_leaves_no_trace() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(TimeIsUp), cpu_limit(0.05):
        stubborn()
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_outside_the_main_thread_there_is_no_limit() -> None:
    done: list[int] = []

    def work() -> None:
        with cpu_limit(0.0001):
            done.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [sum(range(100_000))]
