"""A server that fails request after request: it is left alone, said, tried with one request at a time, and given up."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from labelers.types import Message
from pipeline.engines import Generation, Request, Sampling
from pipeline.engines.breaker import Breaker
from pipeline.engines.http import Http
from pipeline.errors import EngineFailed
from tests.serving import Answer, Body, ChatServer, completion, failing, hang_up, serving, silent

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer()) as running:
        yield running


def ask(server: ChatServer, n: int, **options: float) -> dict[str, Generation]:
    engine = Http(server.url, "served", **{"max_retries": 0, "concurrency": 8, **options}).open()  # type: ignore[arg-type]
    requests = [Request(str(i), (Message("user", f"question {i}"),), Sampling(n=1), 0) for i in range(n)]
    try:
        return {answer.request_id: answer for answer in engine.generate(requests)}
    finally:
        engine.close()


class Down:
    """Fails every request for a while from the first, then answers."""

    def __init__(self, seconds: float, answer: Answer) -> None:
        self.seconds, self.until, self.answer, self.asked = seconds, math.inf, answer, 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def __call__(self, body: Body, tries: int) -> Answer:
        self.until = min(self.until, time.monotonic() + self.seconds)
        if self.is_over:
            return completion(body)
        self.asked += 1
        return self.answer


@pytest.mark.parametrize("answer", [failing(500), failing(503, None), failing(429, None), hang_up])
def test_a_server_that_is_down_for_a_while_costs_no_request_and_is_hardly_asked(
    server: ChatServer, capsys: pytest.CaptureFixture[str], answer: Answer
) -> None:
    server.answer = down = Down(1.0, answer)
    server.is_up = lambda: down.asked == 0 or down.is_over
    found = ask(server, 50)
    assert [g.error for g in found.values()] == [None] * 50
    assert down.asked < 8 + 25, "8 were in flight, then one after each pause"
    said = capsys.readouterr().err
    assert re.search(rf"server {server.url}: (\d+ requests in a row|a request) failed, the last: ", said)
    assert "nothing is asked until" in said
    assert f"server {server.url}: answers again after" in said


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_stays_down_is_given_up_by_name_with_what_it_said_last(server: ChatServer, status: int) -> None:
    server.answer = lambda body, tries: failing(status, None, "no worker left")
    with pytest.raises(EngineFailed, match=r"\d+ requests in a row failed .*no worker left.*patience_s = 0.5.*hint"):
        ask(server, 60, patience_s=0.5)


def test_a_server_that_answers_nobody_in_time_is_given_up_too(server: ChatServer) -> None:
    server.answer = lambda body, tries: silent
    with pytest.raises(EngineFailed, match=r"requests in a row failed .*timed out.*patience_s = 0.5.*hint"):
        ask(server, 60, timeout_s=0.2, patience_s=0.5)


def test_a_server_that_is_gone_costs_no_question_however_few_there_are(server: ChatServer) -> None:
    def leave(body: Body, tries: int) -> Answer:
        server.socket.close()  # the next connections are refused
        return hang_up

    server.answer = leave
    with pytest.raises(EngineFailed, match="APIConnectionError"):
        ask(server, 6, patience_s=1.0)


def test_what_the_server_says_about_when_to_come_back_is_kept_to_beyond_what_the_client_waits(
    server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda body, tries: failing(429, "600")
    with pytest.raises(EngineFailed):
        ask(server, 10, patience_s=0.3)
    assert "(in 600 s)" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [failing(500), failing(503, None), hang_up])
def test_questions_that_break_the_server_get_no_answer_and_the_others_get_theirs(
    server: ChatServer, answer: Answer
) -> None:
    poison = {f"question {i}" for i in range(10, 14)}
    server.answer = lambda body, tries: answer if body["messages"][-1]["content"] in poison else completion(body)
    found = ask(server, 60)
    assert {f"question {i}" for i, g in found.items() if g.error} == poison


@pytest.mark.parametrize("concurrency", [1, 4])
def test_where_few_ask_at_a_time_a_server_that_is_down_costs_no_request_either(
    server: ChatServer, concurrency: int
) -> None:
    server.answer = down = Down(1.0, failing(503, None))
    server.is_up = lambda: down.asked == 0 or down.is_over
    found = ask(server, 6, concurrency=concurrency)
    assert [g.error for g in found.values()] == [None] * 6


def test_what_was_sent_before_the_circuit_opened_is_not_taken_for_the_request_that_is_tried() -> None:
    breaker = Breaker("s", 60, lambda said: None, lambda: True)
    for number in range(5):
        breaker.failed(number, "x")
    let_in: list[bool] = []
    threads = [threading.Thread(target=lambda: let_in.append(breaker.enter())) for _ in range(2)]
    for thread in threads:
        thread.start()
    _until(lambda: bool(let_in))
    assert not breaker.failed("sent before", "x")
    time.sleep(0.3)
    assert let_in == [True]  # the other one still waits
    breaker.stop()
    for thread in threads:
        thread.join(5)


def test_the_last_questions_may_fail_without_stopping_the_run(server: ChatServer) -> None:
    server.answer = lambda body, tries: failing(503, None)
    found = ask(server, 7)
    assert all("InternalServerError" in str(g.error) for g in found.values())
    assert len(server.bodies) <= 7 * 3 + 8


def test_refusals_open_nothing(server: ChatServer) -> None:
    server.answer = lambda body, tries: failing(400, message="too long")
    found = ask(server, 30)
    assert len(server.bodies) == 30
    assert all("too long" in str(g.error) for g in found.values())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (failing(401, message="wrong key"), r"the key is not accepted .*\$OPENAI_API_KEY"),
        (failing(402), "no credit left"),
        (failing(429, None, code="insufficient_quota"), "no credit left"),
    ],
)
def test_an_account_that_gets_no_answer_at_all_stops_the_run(server: ChatServer, answer: Answer, says: str) -> None:
    server.answer = lambda body, tries: answer
    with pytest.raises(EngineFailed, match=says):
        ask(server, 3)


def test_a_closed_engine_lets_those_who_wait_go_and_makes_no_answer_of_it(server: ChatServer) -> None:
    server.answer = lambda body, tries: failing(503, None)
    engine = Http(server.url, "served", max_retries=0, concurrency=8).open()
    requests = [Request(str(i), (Message("user", f"question {i}"),), Sampling(n=1), 0) for i in range(10)]
    failures: list[BaseException] = []

    def generate() -> None:
        try:
            list(engine.generate(requests))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    _until(lambda: bool(engine.progress().note))
    engine.close()
    thread.join(10)
    assert len(failures) == 1


def test_one_request_at_a_time_is_tried_while_the_circuit_is_open() -> None:
    breaker = Breaker("s", 60, lambda said: None, lambda: True)
    for number in range(5):
        breaker.failed(number, "x")
    let_in: list[float] = []

    def enter() -> None:
        breaker.enter()
        let_in.append(time.monotonic())

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    _until(lambda: bool(let_in))
    time.sleep(0.2)
    assert len(let_in) == 1
    breaker.answered()
    for thread in threads:
        thread.join(5)
    assert len(let_in) == 5


def _until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
