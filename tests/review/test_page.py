"""The review page in a real browser: keys, undo, reload, two people at once, hostile texts, and who is let in."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from pipeline.review.serve import is_loopback
from tests.review.conftest import HOSTILE

pytestmark = pytest.mark.e2e


def judge(tab, key: str) -> None:
    """Presses a key that judges, and waits for the page after it."""
    with tab.expect_navigation(url="**/?said=*"):
        tab.keyboard.press(key)


def shown(tab) -> tuple[str, str]:
    return tab.locator("section.left pre").first.inner_text(), tab.locator("section.right pre").first.inner_text()


def test_twenty_pairs_are_judged_by_keys_alone_with_one_undone_and_a_reload_in_the_middle(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    keys = ["1", "2", "3", "4", "ArrowLeft", "ArrowRight", "t", "b", "1", "2"]
    for key in keys:
        judge(tab, key)
    before = shown(tab)
    tab.reload()
    assert shown(tab) == before
    assert len(page.lines()) == 10
    judge(tab, "1")
    with tab.expect_navigation(url="**/?item=*"):
        tab.keyboard.press("u")
    assert shown(tab) == before
    assert len(page.lines()) == 10
    for key in keys:
        judge(tab, key)
    lines = page.lines()
    assert len(lines) == 20
    wanted = {"1": "a", "ArrowLeft": "a", "2": "b", "ArrowRight": "b", "3": "tie", "t": "tie", "4": "tie", "b": "tie"}
    assert [line["prefers"] for line in lines] == [wanted[key] for key in (*keys, *keys)]
    assert sum("both_bad" in line for line in lines) == 4
    assert len({(line["prompt_id"], *sorted((line["a_id"], line["b_id"]))) for line in lines}) == 20
    assert all(line["seconds"] >= 0 and line["reviewer"] == "ada" for line in lines)


def test_a_verdict_is_about_the_texts_that_were_shown(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    left, right = shown(tab)
    judge(tab, "2")
    (line,) = page.lines()
    group = page.page.index.group(line["prompt_id"])
    assert (group.completions[line["a_id"]].text.strip(), group.completions[line["b_id"]].text.strip()) == (left, right)


def test_two_reviewers_at_once_never_judge_the_same_item_when_each_needs_one(served, window, reviewed):
    page = served(reviewed, "ada", "bob")
    ada, bob = window(page.link("ada")), window(page.link("bob"))
    assert shown(ada) != shown(bob)
    for _ in range(4):
        judge(ada, "1")
        judge(bob, "2")
    lines = page.lines()
    assert [line["reviewer"] for line in lines] == ["ada", "bob"] * 4
    assert len({tuple(sorted((line["a_id"], line["b_id"]))) for line in lines}) == 8


def test_two_reviewers_judge_the_same_items_when_each_needs_two(served, window, reviewed):
    page = served(reviewed, "ada", "bob", n_items=3, per_item=2)
    for name in ("ada", "bob"):
        tab = window(page.link(name))
        for _ in range(3):
            judge(tab, "3")
        assert tab.get_by_role("heading", name="Nothing left for you").is_visible()
    lines = page.lines()
    assert len(lines) == 6
    assert len({tuple(sorted((line["a_id"], line["b_id"]))) for line in lines}) == 3
    tab.goto(f"{page.url}/progress")
    assert "each other" in tab.inner_text("main")
    assert "100 %" in tab.inner_text("main")


def test_hostile_texts_are_shown_and_do_nothing(served, window, hostile):
    page = served(hostile)
    tab = window(page.link("ada"))
    seen = ""
    for _ in range(4):
        assert tab.title() == "Which one is better?"
        tab.keyboard.press("d")
        seen += tab.locator("main").inner_text()
        assert tab.locator("main :is(script, img, svg, iframe, a[href^='javascript'], style, object)").count() == 0
        assert tab.locator("main form").count() == 4
        judge(tab, "s")
    for kind in ("pairs", "groups"):
        tab.goto(f"{page.url}/{kind}")
        for number in range(tab.locator("tbody a").count()):
            tab.locator("tbody a").nth(number).click()
            assert tab.title().startswith("Group")
            assert tab.locator("main :is(script, img, svg, iframe, style)").count() == 0
            seen += tab.locator("main").inner_text()
            tab.go_back()
    for text in HOSTILE[:3]:
        assert text[5:40] in seen
    assert "300,005 characters" in seen
    assert "\u202e" not in seen
    assert "\x1b" not in seen


def test_the_whole_of_a_long_text_is_plain_text(served, window, hostile):
    page = served(hostile)
    tab = window(page.link("ada"))
    index = page.page.index
    prompt = next(
        p
        for p in index.prompts["prompt_id"].to_pylist()
        if any(len(c.text) > 9_999 for c in index.group(p).completions.values())
    )
    completion = next(c for c in index.group(prompt).completions.values() if len(c.text) > 9_999)
    answer = tab.goto(f"{page.url}/text/{prompt}/{completion.completion_id}")
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.text()) == 300_005


def test_an_edited_response_is_kept_for_a_human_source(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    tab.keyboard.press("e")
    tab.locator("#text-left").fill("a better answer\nof two lines")
    tab.locator("#write form").first.get_by_role("button").click()
    tab.wait_for_url("**/?item=*")
    (line,) = page.lines("responses.jsonl")
    assert (line["completion"], line["reviewer"]) == ("a better answer\nof two lines", "ada")
    assert line["prompt"][0]["role"] == "user"


def test_typing_a_note_judges_nothing(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    tab.locator("summary", has_text="note").click()
    tab.locator("#note").type("1 is better but 2 is shorter")
    assert page.lines() == []
    tab.keyboard.press("Escape")
    judge(tab, "1")
    assert page.lines()[0]["note"] == "1 is better but 2 is shorter"


def test_differences_are_shown_word_by_word(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    assert not tab.locator("section.left ins, section.left del").first.is_visible()
    tab.keyboard.press("d")
    assert tab.locator("section.left del").first.is_visible()
    assert tab.get_by_role("button", name="Show differences").get_attribute("aria-pressed") == "true"


def test_it_works_at_phone_width_and_without_a_script(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"), viewport={"width": 390, "height": 844}, java_script_enabled=False)
    left, right = (tab.locator(f"section.{side}").bounding_box() for side in ("left", "right"))
    assert right["y"] > left["y"] + left["height"] - 1
    tab.get_by_role("button", name="Right", exact=False).click()
    assert [line["prefers"] for line in page.lines()] == ["b"]


def test_nothing_is_wider_than_a_phone(served, window, hostile):
    page = served(hostile)
    tab = window(page.link("ada"), viewport={"width": 390, "height": 844})
    for path in ("/", "/pairs", "/groups", "/progress"):
        tab.goto(page.url + path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_control_has_a_name_and_is_reached_by_tab(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    names = tab.locator("button, a, summary, select, input:not([type=hidden])").evaluate_all(
        "all => all.map(e => (e.textContent || e.labels?.[0]?.textContent || '').trim())"
    )
    assert names
    assert all(names)
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.value || ''"))
    assert {"left", "right", "tie", "both_bad", "skip"} <= reached


def test_pairs_are_filtered_and_paged(served, window, reviewed):
    page = served(reviewed)
    tab = window(page.link("ada"))
    tab.goto(f"{page.url}/pairs?order=small")
    margins = [float(text) for text in tab.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert margins == sorted(margins)
    total = page.page.index.pairs.num_rows
    assert f"{total} pairs, showing 1 to 25" in tab.inner_text("[role=status]")
    tab.get_by_role("link", name="after").click()
    assert f"showing 26 to {min(50, total)}" in tab.inner_text("[role=status]")
    tab.goto(f"{page.url}/pairs?min_margin=1000")
    assert "0 pairs" in tab.inner_text("[role=status]")


@pytest.mark.parametrize("cookie", [None, "ada", "ada:0123", "eve:" + "0" * 40])
@pytest.mark.parametrize("path", ["/", "/pairs", "/progress", "/static/review.js"])
def test_without_a_token_nothing_is_shown(served, reviewed, path, cookie):
    page = served(reviewed)
    request = urllib.request.Request(page.url + path, headers={"Cookie": f"reviewer={cookie}"} if cookie else {})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value:
        assert refused.value.code == 403
        assert "your token" in refused.value.read().decode()


def test_a_token_of_another_run_is_refused(served, reviewed, tmp_path):
    page = served(reviewed)
    token = page.page.access.token("ada")
    other = page.page.access.__class__(tmp_path / "other", ["ada"])
    assert page.page.access.reviewer(token) == "ada"
    assert other.reviewer(token) is None


@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_form_of_another_page_counts_for_nothing(served, reviewed, headers):
    page = served(reviewed)
    asked = page.page.store.next("ada")
    body = f"item={asked.item_id}&choice=left".encode()
    cookie = {"Cookie": f"reviewer={page.page.access.token('ada')}"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{page.url}/verdict", body, {**cookie, **headers}))
    with refused.value:
        assert refused.value.code == 403
    assert page.lines() == []


def test_the_same_reviewer_has_the_same_link_after_a_restart(served, reviewed):
    first = served(reviewed).page.access.token("ada")
    assert served(reviewed).page.access.token("ada") == first


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.4", False)],
)
def test_what_reaches_beyond_this_machine_is_known(host, alone):
    assert is_loopback(host) is alone
