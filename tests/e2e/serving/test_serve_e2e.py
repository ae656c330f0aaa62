"""`serve` in its own process on a tiny random Qwen3 directory, through the official client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["the quick brown fox jumps over the lazy dog", "def squares(xs): return [x * x for x in xs]"] * 20
PROGRAM = """
import json, sys, foundling
from foundling.serving.config import ServeConfig
from foundling.serving.server import serve
serve(foundling.load(sys.argv[1]), ServeConfig(port=0, name="tiny", drain_seconds=20, **json.loads(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of 300 kB whose tokenizer was trained a second ago."""
    path = tmp_path_factory.mktemp("tiny")
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    Tokenizer(fast, tokens).save(path)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=fast.get_vocab_size(), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
        tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


class Process:
    """`serve` in a child process."""

    def __init__(self, directory: Path, **config: Any) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, str(directory), json.dumps(config)]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        line = self.child.stdout.readline() if self.child.stdout else ""
        assert "Serving tiny on " in line, (line, self.child.stderr.read() if self.child.stderr else "")
        self.url = line.split()[3].removesuffix("/v1")
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def process(directory: Path) -> Iterator[Process]:
    """One server for the tests that do not end it."""
    process = Process(directory)
    yield process
    process.child.terminate()
    process.child.wait(30)


USER: Any = [{"role": "user", "content": "the quick brown"}]


def test_the_server_says_what_the_model_says(process: Process, directory: Path) -> None:
    """Guards that chat and completions are the engine's own answers to the rendered prompt."""
    import foundling

    model = foundling.load(str(directory))
    chat = process.client.chat.completions.create(model="tiny", messages=USER, temperature=0, max_tokens=12)
    assert chat.choices[0].message.content == model.generate(USER, max_tokens=12).text
    plain = process.client.completions.create(model="tiny", prompt="the quick", temperature=0, max_tokens=12)
    assert plain.choices[0].text == model.generate("the quick", max_tokens=12).text


def test_streams_equal_whole_answers(process: Process) -> None:
    """Guards text lost or doubled between pieces, and stop strings that straddle them."""
    asked = {"model": "tiny", "messages": USER, "temperature": 1.0, "seed": 3, "max_tokens": 40, "n": 2}
    whole = process.client.chat.completions.create(**asked)
    assert whole.choices[0].message.content != whole.choices[1].message.content
    said = ["", ""]
    for chunk in process.client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == [choice.message.content for choice in whole.choices]
    stop = said[0][5:8]
    cut = process.client.chat.completions.create(**{**asked, "n": 1}, stop=stop)
    assert cut.choices[0].message.content == said[0][: said[0].index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_logprobs_are_of_the_tokens_said(process: Process) -> None:
    """Guards logprobs that are negative, ranked, and in line with the greedy choice."""
    answer = process.client.chat.completions.create(
        model="tiny", messages=USER, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0 and token.top_logprobs[0].token == token.token
        assert abs(token.top_logprobs[0].logprob - token.logprob) < 1e-4


def test_many_clients_get_their_own_answers(process: Process) -> None:
    """Guards against events delivered to the wrong stream when requests share batches."""
    prompts = [f"squares {i}" for i in range(12)]

    def ask(prompt: str) -> str:
        return (
            process.client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=8).choices[0].text
        )

    alone = [ask(prompt) for prompt in prompts]
    together: dict[str, str] = {}
    threads = [threading.Thread(target=lambda p=p: together.update({p: ask(p)})) for p in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in prompts] == alone


def test_a_prompt_over_the_context_is_refused(process: Process) -> None:
    """Guards the numbers in the refusal."""
    answer = httpx.post(f"{process.url}/v1/completions", json={"model": "tiny", "prompt": [5] * 600})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert "600" in error["message"] and "512" in error["message"]


def test_sigterm_lets_running_answers_finish(directory: Path) -> None:
    """Guards a graceful drain: the stream in flight ends as it would have, then the process exits with 0."""
    process = Process(directory)
    asked: Any = {
        "model": "tiny",
        "messages": USER,
        "max_tokens": 200,
        "stream": True,
        "extra_body": {"ignore_eos": True},
    }
    stream = iter(process.client.chat.completions.create(**asked))
    next(stream)
    process.child.send_signal(signal.SIGTERM)
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert process.child.wait(30) == 0


def test_port_in_use_and_open_address_are_refused(process: Process, directory: Path) -> None:
    """Guards FoundlingError, not a traceback of ours, for the two commonest failures to start."""
    port = int(process.url.rsplit(":", 1)[1])
    program = PROGRAM.replace("port=0", f"port={port}")
    failed = subprocess.run(
        [sys.executable, "-c", program, str(directory), "{}"], capture_output=True, text=True, check=False
    )
    assert f"FoundlingError: port {port} on 127.0.0.1 is in use" in failed.stderr
    program = PROGRAM.replace("port=0", "port=0, host='0.0.0.0'")
    failed = subprocess.run(
        [sys.executable, "-c", program, str(directory), "{}"], capture_output=True, text=True, check=False
    )
    assert "without an API key" in failed.stderr


def test_echo_and_prompt_logprobs(process: Process) -> None:
    """Guards scoring through the API (lm-eval's way): max_tokens 0, echo, the prompt's own log-probabilities."""
    asked: Any = {"model": "tiny", "prompt": "the quick brown", "temperature": 0, "echo": True, "logprobs": 1}
    only = process.client.completions.create(**asked, max_tokens=0).choices[0]
    more = process.client.completions.create(**asked, max_tokens=3).choices[0]
    assert only.text == "the quick brown" and more.text.startswith(only.text)
    assert only.logprobs.token_logprobs[0] is None and all(value <= 0 for value in only.logprobs.token_logprobs[1:])
    scored = slice(1, len(only.logprobs.tokens))
    assert more.logprobs.token_logprobs[scored] == pytest.approx(only.logprobs.token_logprobs[1:], abs=1e-4)
    assert "".join(more.logprobs.tokens) == more.text


def test_biases_and_penalties_change_the_answer(process: Process) -> None:
    """Guards logit_bias and penalties that are accepted and never read."""
    asked: Any = {"model": "tiny", "prompt": "the quick", "temperature": 0, "max_tokens": 8}
    plain = process.client.completions.create(**asked).choices[0].text
    ids = httpx.post(f"{process.url}/tokenize", json={"prompt": "fox"}).json()["tokens"]
    biased = process.client.completions.create(**asked, logit_bias={str(ids[0]): 100}).choices[0].text
    first = httpx.post(f"{process.url}/detokenize", json={"tokens": ids[:1]}).json()["prompt"]
    assert biased == first * 8 != plain
    assert process.client.completions.create(**asked, frequency_penalty=2).choices[0].text != plain


def test_embeddings(process: Process) -> None:
    """Guards unit vectors, one per input, the same in both encodings and whatever else is in the list."""
    alone = process.client.embeddings.create(model="tiny", input="the quick").data[0].embedding
    pair = process.client.embeddings.create(model="tiny", input=["def squares", "the quick"], encoding_format="float")
    assert pair.data[1].embedding == pytest.approx(alone, abs=1e-5)
    assert sum(x * x for x in alone) == pytest.approx(1, abs=1e-4)
    assert pair.usage.prompt_tokens == pair.usage.total_tokens > 0


def test_a_kill_loses_nothing_that_was_acknowledged(directory: Path, tmp_path: Path) -> None:
    """Guards votes and log lines against SIGKILL in the middle of a stream: all that was answered is on the disk."""
    votes, log = tmp_path / "votes.jsonl", tmp_path / "log.jsonl"
    process = Process(directory, votes=str(votes), log=str(log))
    for number in range(5):
        process.client.completions.create(model="tiny", prompt=f"squares {number}", max_tokens=2)
        vote = {
            "prompt": USER,
            "chosen": f"a{number}",
            "rejected": "b",
            "chosen_model": "tiny",
            "rejected_model": "tiny",
        }
        assert httpx.post(f"{process.url}/playground/votes", json=vote).json() == {"kept": True}
    asked: Any = {
        "model": "tiny",
        "messages": USER,
        "max_tokens": 200,
        "stream": True,
        "extra_body": {"ignore_eos": True},
    }
    next(iter(process.client.chat.completions.create(**asked)))
    process.child.kill()
    process.child.wait(10)
    kept = [json.loads(line)["chosen"][0]["content"] for line in votes.read_text().splitlines()]
    assert kept == [f"a{number}" for number in range(5)]
    assert [json.loads(line)["path"] for line in log.read_text().splitlines()].count("/v1/completions") == 5
