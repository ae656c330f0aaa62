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
    page.click(".vote button:nth-of-type(2)")
    page.wait("return document.querySelector('.vote').textContent.includes('kept')")
    row = json.loads(page.votes.read_text().splitlines()[-1])
    assert row["prompt"][-1] == {"role": "user", "content": "and the odd ones?"}
    assert row["chosen"][0]["role"] == "assistant" and row["meta"]["chosen_model"] == "foundling"


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
    page.resize(1280, 900)


def test_every_control_has_a_name(page: Any) -> None:
    """Guards screen readers: no input, select or button without a label."""
    nameless = page.run(
        "return [...document.querySelectorAll('input, select, textarea')]"
        ".filter(e => !e.labels.length && !e.getAttribute('aria-label')).map(e => e.id)"
    )
    assert nameless == []
