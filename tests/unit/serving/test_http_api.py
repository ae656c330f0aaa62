"""The HTTP surface on a mock engine: shapes, streams, refusals, cancellation, keys."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from tests.unit.serving.mock_server import wait_until

from foundling.core.errors import FoundlingError
from foundling.serving.config import ServeConfig

USER = [{"role": "user", "content": "hi"}]


def test_chat_answers_with_text_and_usage(running: Any) -> None:
    """Guards the shape the official client parses, and usage that counts rendered prompt tokens."""
    server = running(reply="hello")
    answer = server.client().chat.completions.create(model="foundling", messages=USER)
    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"
    prompt = len(server.model.engine.seen[0].prompt_ids)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 5)
    assert answer.usage.total_tokens == prompt + 5


def test_every_sampling_field_reaches_the_engine(running: Any) -> None:
    """Guards against the field's commonest defect: a parameter accepted and never read."""
    server = running()
    server.client().chat.completions.create(
        model="foundling",
        messages=USER,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        n=2,
        stop=["x", "yy"],
        max_completion_tokens=3,
        extra_body={"top_k": 5, "min_p": 0.1},
    )
    params = server.model.engine.seen[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 5, 0.1)
    assert (params.seed, params.n, params.stop, params.max_tokens) == (7, 2, ("x", "yy"), 3)


def test_chat_stream_equals_the_whole_answer(running: Any) -> None:
    """Guards role first, one finish per choice, usage last, and no lost pieces with n > 1."""
    client = running(reply="hello wörld").client()
    said, reasons, usage = {0: "", 1: ""}, {}, None
    stream = client.chat.completions.create(
        model="foundling", messages=USER, n=2, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            reasons.setdefault(choice.index, choice.finish_reason)
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert said == {0: "hello wörld", 1: "hello wörld"}
    assert reasons == {0: "stop", 1: "stop"}
    assert usage.completion_tokens == 24


def test_completions_take_texts_and_token_lists(running: Any) -> None:
    """Guards the four spellings of `prompt` and the numbering of choices."""
    server = running(reply="ab")
    client = server.client()
    assert client.completions.create(model="foundling", prompt="x").choices[0].text == "ab"
    answer = client.completions.create(model="foundling", prompt=["x", "y"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    client.completions.create(model="foundling", prompt=[5, 6])
    assert list(server.model.engine.seen[-1].prompt_ids) == [5, 6]
    stream = client.completions.create(model="foundling", prompt=["x", "y"], stream=True)
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "ab", 1: "ab"}


def test_logprobs_in_both_forms(running: Any) -> None:
    """Guards alternatives that are ranked, cut to the asked number, and aligned with the tokens."""
    client = running(reply="abc").client()
    chat = client.chat.completions.create(model="foundling", messages=USER, logprobs=True, top_logprobs=2)
    content = chat.choices[0].logprobs.content
    assert [token.token for token in content] == ["a", "b", "c"]
    assert all(len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob == token.logprob for token in content)
    plain = client.completions.create(model="foundling", prompt="x", logprobs=1).choices[0].logprobs
    assert plain.tokens == ["a", "b", "c"] and plain.text_offset == [0, 1, 2]
    assert [list(top) for top in plain.top_logprobs] == [["a"], ["b"], ["c"]]


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


SCHEMA = "response_format.json_schema.schema"
LARGE = {"enum": ["x" * 70_000]}
BAD_CHAT = [
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"n": 0}, "n"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1000}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x" * 100}]}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages[0].name"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": LARGE}}}, SCHEMA),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"$ref": "file:///etc/passwd"}},
            }
        },
        SCHEMA,
    ),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": LARGE}}]}, "tools[0].function.parameters"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"audio": {}}, "audio"),
    ({"temprature": 1}, "temprature"),
    ({"store": True}, "store"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT)
def test_bad_fields_are_refused_by_name(quiet: Any, fields: dict[str, Any], param: str) -> None:
    """Guards OpenAI's error shape with the field in `param`, for wrong, unknown and unsupported fields alike."""
    body = {"model": "foundling", "messages": USER, **fields}
    answer = httpx.post(f"{quiet.url}/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert not quiet.model.engine.seen


DEEP = json.dumps({"model": "foundling", "messages": USER, **schema_format({"HERE": 1})}).encode()
DEEP = DEEP.replace(b'{"HERE": 1}', b'{"items": ' * 900 + b"{}" + b"}" * 900)
BROKEN = [b"{", b"\xff\xfe", b"[]", b"", b'"x"', b'{"model": "\\ud800"}', b"[" * 100_000, DEEP]


@pytest.mark.parametrize("content", BROKEN)
def test_broken_bodies_get_the_error_shape(quiet: Any, content: bytes) -> None:
    """Guards against tracebacks and HTML for JSON that is none."""
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{quiet.url}/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_paths_methods_and_models(running: Any) -> None:
    """Guards that what is not there is said in OpenAI's shape too."""
    server = running()
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == "unknown_url"
    responses = httpx.post(f"{server.url}/v1/responses", json={}).json()["error"]
    assert "Responses API" in responses["message"] and responses["code"] == "unknown_url"
    assert httpx.get(f"{server.url}/v1/chat/completions").json()["error"]["code"] == "method_not_allowed"
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        server.client().chat.completions.create(model="gpt-9", messages=USER)
    assert [model.id for model in server.client().models.list()] == ["foundling"]
    assert server.client().models.retrieve("foundling").id == "foundling"


def test_tokenize_round_trip(running: Any) -> None:
    """Guards that /tokenize shows what the model is fed and /detokenize inverts it."""
    server = running()
    ids = httpx.post(f"{server.url}/tokenize", json={"prompt": "wör"}).json()["tokens"]
    assert httpx.post(f"{server.url}/detokenize", json={"tokens": ids}).json()["prompt"] == "wör"
    chat = httpx.post(f"{server.url}/tokenize", json={"messages": USER}).json()
    server.client().chat.completions.create(model="foundling", messages=USER)
    assert chat["tokens"] == list(server.model.engine.seen[-1].prompt_ids)
    assert httpx.post(f"{server.url}/detokenize", json={"tokens": [99999]}).json()["error"]["param"] == "tokens"


def test_disconnect_cancels_streams_and_whole_answers(running: Any) -> None:
    """Guards against requests that go on computing for nobody and hold their cache blocks."""
    server = running(reply="x" * 40)
    engine = server.model.engine
    engine.go.clear()
    for stream in (True, False):
        body = {"model": "foundling", "messages": USER, "stream": stream}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.3)
        assert wait_until(lambda: not engine.running and not server.app.state.services.pick(None).engine.streams)
    assert len(engine.cancelled) == 2


def test_engine_refusal_is_a_400_and_others_go_on(running: Any) -> None:
    """Guards that FoundlingError from the engine is the caller's to see, streamed or not."""
    server = running(refuse=FoundlingError("the prompt is too long"))
    client = server.client()
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="too long"):
            client.chat.completions.create(model="foundling", messages=USER, stream=stream)
    server.model.engine.refuse = None
    assert client.chat.completions.create(model="foundling", messages=USER).choices[0].message.content == "hello"


@pytest.mark.parametrize(("ending", "status"), [("prompt_too_long", 400), ("out_of_blocks", 503), ("nan_logits", 500)])
def test_failed_continuations_are_errors(running: Any, ending: str, status: int) -> None:
    """Guards against a broken model's half answer passed off as an answer, whole or at the end of a stream."""
    server = running(ending=ending)
    client = server.client()
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="foundling", messages=USER)
    assert caught.value.status_code == status
    with pytest.raises(openai.APIError, match="gave up"):
        list(client.chat.completions.create(model="foundling", messages=USER, stream=True))


def test_a_fault_of_ours_in_a_stream_is_told(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a stream that just stops, which its caller takes for a whole answer."""
    server = running()
    monkeypatch.setattr("foundling.serving.chat_completions.ChatStream.closing", lambda self: 1 / 0)
    with pytest.raises(openai.APIError, match="the server failed while answering"):
        list(server.client().chat.completions.create(model="foundling", messages=USER, stream=True))


def test_the_stop_token_is_counted_but_not_shown(running: Any) -> None:
    """Guards logprobs that spell exactly the content, beside usage that bills what was computed."""
    server = running(reply="ab<|im_end|>", special=True)
    answer = server.client().chat.completions.create(model="foundling", messages=USER, logprobs=True)
    assert answer.choices[0].message.content == "ab" and answer.usage.completion_tokens == 3
    assert [token.token for token in answer.choices[0].logprobs.content] == ["a", "b"]


def test_a_broken_engine_answers_500_and_health_says_so(running: Any) -> None:
    """Guards against requests that wait for ever on a dead engine thread."""
    server = running(broken=True)
    assert httpx.get(f"{server.url}/health").status_code == 200
    with pytest.raises(openai.InternalServerError):
        server.client().chat.completions.create(model="foundling", messages=USER)
    assert httpx.get(f"{server.url}/health").status_code == 503
    with pytest.raises(openai.InternalServerError, match="stopped"):
        server.client().chat.completions.create(model="foundling", messages=USER)


def test_keys_and_body_limit(running: Any) -> None:
    """Guards the door: a wrong key is a 401 everywhere but /health, an over-long body a 413."""
    server = running(ServeConfig(api_keys=("right", "other"), max_body_bytes=2000))
    assert httpx.get(f"{server.url}/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="wrong").models.list()
    assert server.client(api_key="other").models.list()
    long = [{"role": "user", "content": "x" * 3000}]
    with pytest.raises(openai.APIStatusError) as caught:
        server.client(api_key="right").chat.completions.create(model="foundling", messages=long)
    assert caught.value.status_code == 413


def test_web_pages_of_others_are_not_answered(running: Any) -> None:
    """Guards a server without keys against a page in its user's browser: of another origin, or under a name of ours."""
    server = running()
    ask = lambda **headers: httpx.get(f"{server.url}/v1/models", headers=headers).status_code  # noqa: E731
    assert ask() == ask(Host="localhost:8000") == ask(Origin="http://127.0.0.1:3000") == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "[::1"}):
        assert ask(**headers) == 403, headers
    keyed = running(ServeConfig(api_keys=("k",)))
    headers = {"Host": "models.example", "Authorization": "Bearer k"}
    assert httpx.get(f"{keyed.url}/v1/models", headers=headers).status_code == 200


def test_an_open_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against serving a network without a key, by config or by environment."""
    monkeypatch.delenv("FOUNDLING_API_KEYS", raising=False)
    with pytest.raises(FoundlingError, match="without an API key"):
        ServeConfig(host="0.0.0.0").refuse_open_server()
    ServeConfig(host="0.0.0.0", api_keys=("k",)).refuse_open_server()
    ServeConfig(host="::1").refuse_open_server()
    monkeypatch.setenv("FOUNDLING_API_KEYS", "a, b")
    ServeConfig(host="0.0.0.0").refuse_open_server()
    assert ServeConfig().keys() == ("a", "b")


def test_a_port_in_use_is_one_clear_error(running: Any) -> None:
    """Guards against a traceback for the commonest way to fail to start."""
    from foundling.serving.server import listen

    server = running()
    with pytest.raises(FoundlingError, match="in use"):
        listen("127.0.0.1", server.socket.getsockname()[1])
