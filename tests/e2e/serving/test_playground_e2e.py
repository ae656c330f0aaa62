"""The playground in a headless Chromium, on the server of tests/e2e/serving and its random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.serving.browser import Browser, available
from tests.unit.serving.mock_model import mock_model
from tests.unit.serving.mock_server import Running

from foundling.serving.config import ServeConfig

pytestmark = pytest.mark.skipif(not available(), reason="needs chromium and chromedriver")
ANSWER = "Here is one way:\n\n[x * x for x in xs if x % 2 == 0]<|im_end|>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser at the playground of a server whose model says ANSWER; `votes` is the server's file of votes."""
    votes = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    model = mock_model(reply=ANSWER, special=True, context=4000)
    server = Running(model, ServeConfig(votes=votes))
    browser = Browser()
    browser.votes, browser.engine = votes, model.engine
    browser.open(f"{server.url}/")
    browser.wait("return document.querySelector('#model-a').options.length")
    yield browser
    browser.close()
    server.stop()


def ask(page: Any, text: str) -> None:
    """Type and send a question by keyboard, and wait for the end of the answer."""
    before = page.run("return history.length")
    page.type("#question", text)
    page.press("Enter")
    page.wait(f"return !running && history.length === {before} + 2")


def test_send_stream_and_alternatives(page: Any) -> None:
    """Guards the first thing anybody does: ask, read, point at a word and see what else it might have been."""
    ask(page, "the squares of the even numbers in xs")
    shown = page.run("return [...document.querySelectorAll('.turn.assistant .token')].map(t => t.textContent).join('')")
    assert shown == ANSWER.removesuffix("<|im_end|>")
    page.hover(".token:nth-of-type(9)")
    assert page.run("return document.querySelectorAll('#chart li').length") == 3
    assert page.run("return document.querySelector('#chart .said').textContent") == "o"
    assert page.run("return document.querySelectorAll('#peek:not([hidden]) .odds').length") == 3  # beside the word, too
    page.press("Escape")
    assert page.run("return byId('peek').hidden")


def test_sliders_reach_the_request_and_the_chart(page: Any) -> None:
    """Guards controls that look alive and change nothing."""
    page.run("temperature.value = 0.2; temperature.dispatchEvent(new Event('input', {bubbles: true}))")
    page.run("top_k.value = 2; top_k.dispatchEvent(new Event('input', {bubbles: true}))")
    page.hover(".token:nth-of-type(9)")
    shares = page.run("return [...document.querySelectorAll('#chart span')].map(s => parseFloat(s.textContent))")
    assert shares == [100.0, 0.0, 0.0]
    ask(page, "again")
    params = page.engine.seen[-1].params
    assert (params.temperature, params.top_k) == (0.2, 2)


def test_arrow_keys_move_between_tokens(page: Any) -> None:
    """Guards use without a mouse: one tab stop per answer, arrows inside."""
    page.run("document.querySelector('.turn.assistant:last-of-type .token').focus()")
    page.press("ArrowRight", "ArrowRight")
    assert page.run("return document.activeElement.textContent") == "r"
    assert page.run("return document.querySelector('.picked') === document.activeElement")


def test_a_vote_is_kept_as_a_preference_row(page: Any) -> None:
    """Guards the whole way from the button to the file that `foundling prefer` reads."""
    page.click("#compare")
    ask(page, "and the odd ones?")
    names = page.run("return [...document.querySelectorAll('.pair h3')].map(h => h.textContent)")
    assert names == ["Answer A", "Answer B"]  # a model's name would sway the vote
    page.click(".vote button:nth-of-type(2)")
    page.wait("return document.querySelector('.vote').textContent.includes('kept')")
    assert page.run("return document.querySelector('.chosen h3').textContent") == "B: foundling"
    row = json.loads(page.votes.read_text().splitlines()[-1])
    assert row["prompt"][-1] == {"role": "user", "content": "and the odd ones?"}
    assert row["chosen"][0]["role"] == "assistant" and row["meta"]["chosen_model"] == "foundling"


def test_keyboard_only(page: Any) -> None:
    """Guards use without a mouse from end to end: ask, walk the answer, compare, vote, start over."""
    votes = len(page.votes.read_text().splitlines())
    page.run("document.querySelector('#question').focus()")
    page.press(*"by keyboard", "Enter")
    page.wait("return !running && document.querySelector('.vote:last-child button')")
    seen = []
    for _ in range(12):  # backwards from the message: the vote's buttons, then one stop for each answer
        page.press("Shift+Tab")
        seen.append(page.run("return document.activeElement.className || document.activeElement.textContent"))
        if seen[-1].startswith("token"):
            break
    assert seen[:2] == ["B is better", "A is better"] and seen[2].startswith("token")
    page.press("ArrowRight")
    assert page.run("return document.activeElement.getAttribute('aria-describedby') === 'peek' && !byId('peek').hidden")
    page.press("Tab", "Enter")
    page.wait("return document.querySelector('.vote:last-child').textContent.includes('kept')")
    assert len(page.votes.read_text().splitlines()) == votes + 1
    assert page.run("return document.activeElement.id") == "question"
    page.run("document.querySelector('#reset').focus()")
    page.press("Enter")
    assert page.run("return history.length === 0 && !document.querySelector('.turn') && !byId('welcome').hidden")
    page.run("byId('compare').focus()")
    page.press("Space")
    assert not page.run("return byId('compare').checked")


def test_a_schema_is_sent(page: Any) -> None:
    """Guards the schema editor: what is in it constrains the answer."""
    page.run("document.querySelector('#schema-box').open = true")
    page.click("#example")
    ask(page, "a film")
    assert page.engine.seen[-1].params.grammar.kind == "json_schema"
    page.run("byId('schema').value = ''")


def test_a_refused_schema_is_said(page: Any) -> None:
    """Guards a schema that is not JSON: said beside the editor, nothing sent."""
    sent = len(page.engine.seen)
    page.run("document.querySelector('#schema-box').open = true")
    page.type("#schema", "{not json")
    page.type("#question", "x")
    page.press("Enter")
    page.wait("return document.querySelector('#schema-status').textContent.includes('Not JSON')")
    assert len(page.engine.seen) == sent
    page.run("document.querySelector('#schema-box').open = false")


def test_a_narrow_screen_does_not_scroll_sideways(page: Any) -> None:
    """Guards phones."""
    page.resize(420, 850)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.run("return !byId('settings').offsetHeight")  # out of the way, until they are asked for
    page.click("#open-settings")
    assert page.run("return byId('settings').offsetHeight > 0 && document.documentElement.scrollWidth <= innerWidth")
    page.click("#open-settings")
    page.resize(1280, 900)


def test_every_control_has_a_name(page: Any) -> None:
    """Guards screen readers: no input, select or button without a label."""
    nameless = page.run(
        "return [...document.querySelectorAll('input, select, textarea')]"
        ".filter(e => !e.labels.length && !e.getAttribute('aria-label')).map(e => e.id)"
    )
    assert nameless == []
