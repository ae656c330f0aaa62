"""What makes the server safe to leave running: bounds, limits, logs, metrics, guardrails, the answer cache."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.unit.serving.mock_model import mock_model
from tests.unit.serving.mock_server import wait_until

from foundling.core.errors import FoundlingError
from foundling.serving.config import ServeConfig
from foundling.serving.errors import ApiError
from foundling.serving.rate_limit import RateLimit
from foundling.serving.rules import read_rules

USER: Any = [{"role": "user", "content": "hi"}]


def test_a_full_queue_says_429_and_recovers(running: Any) -> None:
    """Guards memory: no more requests are held than were allowed, and a cancelled one makes room."""
    server = running(ServeConfig(max_requests=1))
    server.model.engine.go.clear()
    client = server.client()
    waiting = threading.Thread(target=lambda: client.chat.completions.create(model="foundling", messages=USER))
    waiting.start()
    engine = server.app.state.services.pick(None).engine
    assert wait_until(lambda: engine.held == 1)
    assert httpx.get(f"{server.url}/ready").status_code == 503
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="foundling", prompt=["a", "b"])
    assert caught.value.response.headers["retry-after"] == "1"
    server.model.engine.go.set()
    waiting.join()
    assert wait_until(lambda: engine.held == 0)
    assert client.chat.completions.create(model="foundling", messages=USER).choices[0].message.content == "hello"


def test_the_rate_limit_refills() -> None:
    """Guards the bucket's arithmetic: a burst of one minute's worth, then one each 60/n seconds, per caller."""
    clock = [0.0]
    limit = RateLimit(2, lambda: clock[0])
    limit.take(0)
    limit.take(0)
    limit.take(1)
    with pytest.raises(ApiError) as caught:
        limit.take(0)
    assert caught.value.status == 429 and caught.value.headers == {"Retry-After": "31"}
    clock[0] = 30.0
    limit.take(0)


def test_a_request_that_takes_too_long_is_ended(running: Any) -> None:
    """Guards against requests that hold their place for ever: a 504, and its blocks are free."""
    server = running(ServeConfig(timeout_seconds=0.2))
    server.model.engine.go.clear()
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "foundling", "messages": USER})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert wait_until(lambda: not server.model.engine.running)


def test_a_stream_that_takes_too_long_says_so(running: Any) -> None:
    """Guards a half answer that looks like a whole one: its last event is the error, and its blocks are free."""
    server = running(ServeConfig(timeout_seconds=0.3), reply="x" * 2000, context=4000)
    engine = server.model.engine
    with pytest.raises(openai.APIError, match=r"within 0\.3 seconds"):
        for _ in server.client().chat.completions.create(model="foundling", messages=USER, stream=True):
            engine.go.clear()
    assert wait_until(lambda: not engine.running)


def test_a_body_that_trickles_in_is_cut_off(running: Any) -> None:
    """Guards connections: a client that announces a body and never sends it holds its place for a bounded time."""
    server = running(ServeConfig(timeout_seconds=0.2))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection(server.socket.getsockname()) as connection:
        connection.settimeout(5)
        connection.sendall(head + b"{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_embeddings_leave_room_for_answers(running: Any) -> None:
    """Guards everybody's answers against one request with a long list: it is embedded a few texts at a time."""
    server = running()
    answer = server.client().embeddings.create(model="foundling", input=["x" * 300] * 5)
    assert len(answer.data) == 5 and server.model.engine.embedded == [1] * 5


def test_log_lines_say_who_and_how_much_but_not_what(running: Any, tmp_path: Path) -> None:
    """Guards privacy (no text unless asked for) and completeness (one whole line per request, refusals too)."""
    log = tmp_path / "log.jsonl"
    server = running(ServeConfig(log=log, api_keys=("secret-key",)))
    client = server.client(api_key="secret-key")
    list(client.chat.completions.create(model="foundling", messages=USER, stream=True, user="u1"))
    client.completions.create(model="foundling", prompt="very private")
    httpx.get(f"{server.url}/v1/models")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["status"] for row in rows] == [200, 200, 401]
    assert rows[0]["user"] == "u1" and rows[0]["completion_tokens"] == 5 and rows[0]["key"] == 0
    assert "private" not in log.read_text() and "secret-key" not in log.read_text()


def test_texts_are_logged_when_asked_for(running: Any, tmp_path: Path) -> None:
    """Guards that --log-prompts does what it says, streamed and whole."""
    log = tmp_path / "log.jsonl"
    server = running(ServeConfig(log=log, log_prompts=True))
    list(server.client().chat.completions.create(model="foundling", messages=USER, stream=True))
    server.client().completions.create(model="foundling", prompt="a question")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["answered"] for row in rows] == [["hello"], ["hello"]]
    assert rows[1]["asked"] == ["a question"]


def test_metrics_count_what_happened(running: Any) -> None:
    """Guards the numbers an operator pages on: tokens, latencies, statuses, what a token costs."""
    server = running(ServeConfig(cost_per_hour=3.6))
    server.client().chat.completions.create(model="foundling", messages=USER)
    httpx.post(f"{server.url}/v1/chat/completions", json={})
    page = httpx.get(f"{server.url}/metrics").text
    assert "foundling_generated_tokens_total 5.0" in page
    assert "foundling_time_to_first_token_seconds_count 1.0" in page
    assert "foundling_inter_token_seconds_count 4.0" in page
    assert 'foundling_requests_total{path="/v1/chat/completions",status="400"} 1.0' in page
    assert 'foundling_cost_per_million_tokens{model="foundling"} 10.0' in page  # 100 tokens/s at 0.001 a second


def test_the_answer_cache_keeps_only_pinned_requests(running: Any) -> None:
    """Guards against one user's random answer served to another, and against keys that forget a parameter."""
    server = running(ServeConfig(answer_cache=2))
    ask = server.client().chat.completions.create
    for fields in (
        {"temperature": 0},
        {"temperature": 0},
        {"seed": 1},
        {"seed": 1},
        {"temperature": 0, "max_tokens": 2},
    ):
        ask(model="foundling", messages=USER, **fields)
    assert len(server.model.engine.seen) == 3
    for _ in range(2):
        ask(model="foundling", messages=USER)
    assert len(server.model.engine.seen) == 5
    ask(model="foundling", messages=USER, temperature=0)  # the least recently used of three, so no longer kept
    assert len(server.model.engine.seen) == 6


def test_guardrails(running: Any, tmp_path: Path) -> None:
    """Guards questions refused by field, answers replaced or redacted, and streams that leak nothing before the end."""
    path = tmp_path / "rules.yaml"
    path.write_text("refuse_questions: ['(?i)bomb']\nredact: {'[a-z]+@[a-z.]+': '<e-mail>'}\nrefuse_answers: ['zzz']\n")
    server = running(ServeConfig(rules=path), reply="write to ann@x.org!")
    client = server.client()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="foundling", messages=[{"role": "user", "content": "a Bomb"}])
    assert caught.value.param == "messages[0].content" and caught.value.code == "content_filter"
    whole = client.chat.completions.create(model="foundling", messages=USER).choices[0].message.content
    said = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(model="foundling", messages=USER, stream=True)
    ]
    assert whole == "".join(said) == "write to <e-mail>!"
    assert client.completions.create(model="foundling", prompt="x", max_tokens=30).choices[0].text == whole
    server.model.engine.reply = "zzz"
    answer = client.chat.completions.create(model="foundling", messages=USER)
    assert answer.choices[0].message.content == "I cannot help with that."


def test_rules_change_logprobs_with_the_text(running: Any, tmp_path: Path) -> None:
    """Guards against logprobs that spell what a rule took out."""
    path = tmp_path / "rules.yaml"
    path.write_text("redact_personal: [email, phone, ip]\n")
    server = running(ServeConfig(rules=path), reply="ask a@b.org, (212) 555-0187 8.8.8.8")
    choice = server.client().chat.completions.create(model="foundling", messages=USER, logprobs=True).choices[0]
    assert choice.message.content == "ask <email>, <phone> <ip>" and choice.logprobs.content == []
    server.model.engine.reply = "ask me"
    choice = server.client().chat.completions.create(model="foundling", messages=USER, logprobs=True).choices[0]
    assert [token.token for token in choice.logprobs.content] == list("ask me")


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_answer_is_tried_again(running: Any, tmp_path: Path, stream: bool) -> None:
    """Guards retries: a second try where it can come out differently, and usage that counts both."""
    path = tmp_path / "rules.yaml"
    path.write_text("refuse_answers: [bad]\nretries: 1\n")
    server = running(ServeConfig(rules=path), reply="bad", later="good")
    asked: Any = {"model": "foundling", "messages": USER, "seed": 1}
    if stream:
        usage: Any = {"include_usage": True}
        chunks = list(server.client().chat.completions.create(**asked, stream=True, stream_options=usage))
        said, used = "".join(c.choices[0].delta.content or "" for c in chunks[:-1]), chunks[-1].usage
    else:
        answer = server.client().chat.completions.create(**asked)
        said, used = answer.choices[0].message.content, answer.usage
    assert said == "good" and used.completion_tokens == len("badgood")
    first, second = server.model.engine.seen
    assert first.params.seed != second.params.seed
    server.model.engine.later = "bad"
    answer = server.client().chat.completions.create(model="foundling", messages=USER, temperature=0)
    assert answer.choices[0].message.content == "I cannot help with that." and len(server.model.engine.seen) == 3


def test_a_schema_for_every_answer(running: Any, tmp_path: Path) -> None:
    """Guards that a server's own schema reaches the engine, and that a request's form beside it is refused by name."""
    path = tmp_path / "rules.yaml"
    path.write_text("answer_schema: {type: object, properties: {a: {type: integer}}}\n")
    server = running(ServeConfig(rules=path))
    server.client().chat.completions.create(model="foundling", messages=USER)
    server.client().completions.create(model="foundling", prompt="x")
    assert all(request.params.grammar.kind == "json_schema" for request in server.model.engine.seen)
    with pytest.raises(openai.BadRequestError) as caught:
        form: Any = {"type": "json_object"}
        server.client().chat.completions.create(model="foundling", messages=USER, response_format=form)
    assert caught.value.param == "response_format"


def test_files_that_cannot_be_written_are_said_at_the_start(tmp_path: Path) -> None:
    """Guards against a server that finds out with the first vote."""
    from foundling.serving.app import create_app

    for name in ("votes", "log"):
        with pytest.raises(FoundlingError, match="cannot write to"):
            create_app(mock_model(), ServeConfig(**{name: tmp_path / "nowhere" / "file"}))  # type: ignore[arg-type]


def test_further_models_by_name() -> None:
    """Guards `--also` and `--adapters`: names for requests, and one clear error for what is none."""
    config = ServeConfig(also=("base=life/base", "x=a=b"), adapters=("y=there",))
    assert config.others() == ({"base": "life/base", "x": "a=b"}, {"y": "there"})
    for wrong in (("base",), ("=x",), ("a=",), ("foundling=x",), ("a=x", "a=y")):
        with pytest.raises(FoundlingError):
            ServeConfig(also=wrong).others()


@pytest.mark.parametrize(
    "text",
    ["answer_schema: {type: 3}", "retries: -1", "refuse_question: [x]", "redact: {'(': ''}", "- a", "a: [", "\x00"],
)
def test_broken_rules_are_one_clear_error(tmp_path: Path, text: str) -> None:
    """Guards against a server that starts without the rules that were meant."""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(FoundlingError, match=r"rules\.yaml"):
        read_rules(path)
    with pytest.raises(FoundlingError, match=r"nowhere\.yaml"):
        read_rules(tmp_path / "nowhere.yaml")


def test_votes_are_off_without_a_file(running: Any) -> None:
    """Guards against a vote that is thanked for and thrown away."""
    vote = {"prompt": USER, "chosen": "a", "rejected": "b", "chosen_model": "x", "rejected_model": "y"}
    answer = httpx.post(f"{running().url}/playground/votes", json=vote)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "votes_off")


def test_several_models_side_by_side(running: Any) -> None:
    """Guards that each model answers for itself and all are listed."""
    server = running(others={"second": "other words"})
    client = server.client()
    assert [model.id for model in client.models.list()] == ["foundling", "second"]
    assert client.completions.create(model="second", prompt="x").choices[0].text == "other words"
    assert client.completions.create(model="foundling", prompt="x").choices[0].text == "hello"


def test_adapters_are_models(running: Any) -> None:
    """Guards that a request which names an adapter gets it, from its base's engine, and that both are listed."""
    server = running(adapters=["tuned"])
    client = server.client()
    assert [(model.id, model.parent) for model in client.models.list()] == [
        ("foundling", None),
        ("tuned", "foundling"),
    ]
    for name in ("tuned", "foundling"):
        client.chat.completions.create(model=name, messages=USER)
        client.completions.create(model=name, prompt="x")
    assert [request.adapter for request in server.model.engine.seen] == ["tuned", "tuned", None, None]
    with pytest.raises(openai.BadRequestError, match="come from foundling"):
        client.embeddings.create(model="tuned", input="x")
    page = httpx.get(f"{server.url}/metrics").text
    assert 'held{model="foundling"}' in page and 'held{model="tuned"}' not in page


def test_a_body_without_a_length_is_counted_too(running: Any) -> None:
    """Guards the limit against chunked uploads, and the answer against a cut connection."""
    server = running(ServeConfig(max_body_bytes=2000))
    for content in (b"x" * 100_000, (b"x" * 1000 for _ in range(5))):
        answer = httpx.post(f"{server.url}/v1/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_hopeless_prompt_is_refused_before_it_is_encoded(running: Any) -> None:
    """Guards every other request's latency against a megabyte that would be tokenised only to be refused."""
    server = running()
    for body in ({"prompt": "x" * 1_000_000}, {"messages": [{"role": "user", "content": "x" * 1_000_000}]}):
        path = "completions" if "prompt" in body else "chat/completions"
        answer = httpx.post(f"{server.url}/v1/{path}", json={"model": "foundling", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
