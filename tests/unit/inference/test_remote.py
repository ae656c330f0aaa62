"""The engine's methods over a URL: against our own server around a real model, and against servers that fail."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.unit.serving.mock_server import Running

from foundling.core.errors import FoundlingError
from foundling.inference.endpoint import Endpoint, EndpointError
from foundling.inference.model import Model, load, load_or_connect
from foundling.inference.parameters import SamplingParams
from foundling.inference.remote import RemoteCompletion, RemoteModel, RemoteRequest, connect
from foundling.inference.requests import PROMPT_TOO_LONG
from foundling.inference.structured.grammar import json_schema
from foundling.models.language_model import LanguageModel
from foundling.serving.config import ServeConfig
from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def model(exact: LanguageModel, tokenizer: Tokenizer) -> Model:
    chat = Tokenizer(tokenizer.fast, {**tokenizer.config, "chat_template": CHATML})
    return Model(exact, chat, max_tokens_in_cache=1024)


@pytest.fixture(scope="module")
def server(exact: LanguageModel, model: Model) -> Iterator[Running]:
    running = Running(Model(exact, model.tokenizer, max_tokens_in_cache=1024), ServeConfig(name="tiny"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def remote(server: Running) -> RemoteModel:
    return connect(server.url)


def test_it_generates_what_the_local_engine_generates(model: Model, remote: RemoteModel) -> None:
    sampling: dict[str, Any] = {"max_tokens": 12, "temperature": 0.9, "top_k": 50, "min_p": 0.01, "seed": 3, "n": 2}
    sampling |= {"stop": "zz", "logit_bias": {7: 1.5}, "repetition_penalty": 1.2, "logprobs": 2}
    for prompt in ("the cat", MESSAGES):
        local, far = model.generate_n(prompt, **sampling), remote.generate_n(prompt, **sampling)
        assert [one.text for one in far] == [one.text for one in local]
        assert [one.finish_reason for one in far] == [one.finish_reason for one in local]
        for here, there in zip(local, far, strict=True):
            assert isinstance(there, RemoteCompletion) and there.prompt_tokens == here.prompt_tokens
            np.testing.assert_allclose(there.logprobs, here.logprobs[: len(there.logprobs)], atol=1e-6)
            assert len(there.pieces) == len(there.logprobs) and all(len(top) <= 2 for top in there.top_pieces or [])


def test_many_requests_keep_their_order(model: Model, remote: RemoteModel) -> None:
    prompts = [f"number {i}" for i in range(20)]
    far = remote.engine.generate([remote.request(prompt, max_tokens=4) for prompt in prompts])
    local = model.engine.generate([model.request(prompt, max_tokens=4) for prompt in prompts])
    assert [one.text for one in far] == [one.text for one in local]


def test_scores_are_the_local_engines(model: Model, remote: RemoteModel) -> None:
    texts = [("the cat", " sat"), ("a", "bé"), ("half é", "é"), ("the cat", " ran away")]
    far = remote.engine.score([remote.pair(*pair) for pair in texts])
    local = model.engine.score([model.pair(*pair) for pair in texts])
    for here, there in zip(local, far, strict=True):
        assert there.logprob == pytest.approx(here.logprob, abs=1e-5) and there.is_greedy == here.is_greedy
        np.testing.assert_allclose(there.tokens_logprobs, here.tokens_logprobs, atol=1e-5)
    ids = [([1, 2, 3], [4, 5])]
    assert remote.engine.score(ids)[0].logprob == pytest.approx(model.engine.score(ids)[0].logprob, abs=1e-5)
    greedy = model.generate("the cat", max_tokens=1).tokens
    pair = (model.tokenizer.encode("the cat"), greedy)
    assert remote.engine.score([pair])[0].is_greedy


def test_embeddings_are_the_local_engines(model: Model, remote: RemoteModel) -> None:
    texts = [f"text {i}" for i in range(70)]  # more than one call takes
    np.testing.assert_allclose(remote.embed(texts), model.embed(texts), atol=1e-5)
    assert remote.embed([]).shape[0] == 0


def test_it_streams(model: Model, remote: RemoteModel) -> None:
    for prompt in ("the cat", MESSAGES):
        events = list(remote.stream(prompt, max_tokens=6))
        whole = model.generate(prompt, max_tokens=6)
        assert "".join(event.text for event in events) == whole.text
        last = events[-1]
        assert last.finish_reason == whole.finish_reason and last.completion and last.completion.text == whole.text


def test_a_schema_goes_with_messages_only(remote: RemoteModel) -> None:
    grammar = json_schema({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]})
    done = remote.generate(MESSAGES, max_tokens=60, grammar=grammar)
    assert set(json.loads(done.text)) >= {"a"}
    with pytest.raises(FoundlingError, match="grammar cannot be asked"):
        remote.generate("text", grammar=grammar)


def test_what_a_url_cannot_do_is_refused_by_name(remote: RemoteModel) -> None:
    for name, value in {"bad_words": ("x",), "stop_ids": (1,), "echo": True, "prompt_logprobs": 0}.items():
        with pytest.raises(FoundlingError, match=name):
            remote.generate("text", **{name: value})
    with pytest.raises(FoundlingError, match="empty"):
        remote.generate("")


def test_one_prompt_that_is_too_long_does_not_harm_the_others(remote: RemoteModel) -> None:
    long, short = (RemoteRequest(text, SamplingParams(max_tokens=2)) for text in ("x" * 500, "x"))
    done = remote.engine.generate([long, short])
    assert done[0].finish_reason == PROMPT_TOO_LONG and "context" in done[0].message
    assert done[1].finish_reason in ("stop", "length")
    with pytest.raises(FoundlingError, match="context"):
        remote.generate("x" * 500)


def test_a_model_argument_may_be_a_url(server: Running) -> None:
    assert isinstance(load_or_connect(f"{server.url}/v1#tiny"), RemoteModel)
    assert connect(server.url).context == 128
    with pytest.raises(FoundlingError, match=r"does not serve 'tyni'.*'tiny'"):
        connect(f"{server.url}/v1#tyni")
    with pytest.raises(FoundlingError, match="is a URL"):
        load(server.url)


class Script(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next (status, body, headers) of its server's list; the last one again and again."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Any]:
    servers = []

    def start(*answers: tuple[int, bytes, dict[str, str]], **options: Any) -> tuple[Endpoint, Any]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
        server.answers, server.seen = list(answers), []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", **{"backoff": 0.001, **options}), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_may_pass_is_asked_again(scripted: Any) -> None:
    endpoint, server = scripted((503, b"busy", {}), (429, b"{}", {"Retry-After": "0.01"}), (200, b'{"ok": 1}', {}))
    assert endpoint.post("/x", {}) == {"ok": 1} and len(server.seen) == 3
    endpoint, server = scripted((500, b'{"error": {"message": "out of luck"}}', {}), retries=2)
    with pytest.raises(EndpointError, match=r"500.*Out of luck"):
        endpoint.post("/x", {})
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"message": "max_tokens is -1"}}', "max_tokens is -1"),
        (401, b'{"error": {"message": "no key"}}', "FOUNDLING_API_KEY"),
        (404, b"<html>", "/v1"),
        (302, b"", "Redirects"),
        (200, b"<html>hello</html>", "not a JSON object"),
    ],
)
def test_a_refusal_is_told_at_once(scripted: Any, status: int, body: bytes, said: str) -> None:
    endpoint, server = scripted((status, body, {}))
    with pytest.raises(EndpointError, match=said):
        endpoint.post("/x", {})
    assert len(server.seen) == 1


def test_the_key_comes_from_the_environment(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDLING_API_KEY", "mine")
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")  # is for openai.com only
    endpoint, server = scripted((200, b"{}", {}))
    endpoint.get("/models")
    assert server.seen == ["Bearer mine"]


def test_nobody_there() -> None:
    with pytest.raises(EndpointError, match="cannot be reached"):
        connect("http://127.0.0.1:9", backoff=0.001)
    with pytest.raises(FoundlingError, match="not a base URL"):
        Endpoint("ftp://example.org")


def test_an_endpoint_without_echo_cannot_score(scripted: Any) -> None:
    reply = {"choices": [{"index": 0, "text": "x", "logprobs": None, "finish_reason": "stop"}]}
    endpoint, _ = scripted((200, b'{"data": [{"id": "m"}]}', {}), (200, json.dumps(reply).encode(), {}))
    with pytest.raises(EndpointError, match="cannot score"):
        connect(endpoint.url).score("a", "b")
