"""Claims: JSON schemas are held to as well as by llguidance itself; what is not supported is refused; masks are cheap.

    python benchmarks/structured.py [--every 4] [--no-mask]    # xgrammar too, if it can be imported

Data: structured/ in FOUNDLING_DATA: JSON-Schema-Test-Suite (draft 2020-12, required tests) and a sample of
JSONSchemaBench, real schemas with valid and invalid instances. An instance is taken if a matcher of the schema accepts
its text (in the order in which it is written: all of these engines want a schema's properties in their order) and may
end there. Last, the time of a mask beside that of a decoding step on this machine.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from foundling import load
from foundling.inference.engine import Request, SamplingParams
from foundling.inference.structured.grammar import BadGrammar, json_schema
from foundling.inference.structured.matcher import MatcherFactory
from foundling.tokenization.tokenizer import Tokenizer

DATA = Path(os.environ.get("FOUNDLING_DATA", ".")) / "structured"
SUITE, BENCH = DATA / "json_schema_test_suite.json.gz", DATA / "jsonschemabench_sample.jsonl.gz"
Accepts = Callable[[str], bool]
Compile = Callable[[Any], Accepts]  # of a schema; ValueError: refused
Case = tuple[Any, list[tuple[str, bool]]]  # a schema; texts, and whether they are valid


def suite() -> Iterator[Case]:
    with gzip.open(SUITE, "rt", encoding="utf-8") as file:
        files = json.load(file)
    for path in sorted(path for path in files if path.startswith("tests/draft2020-12/") and "optional" not in path):
        for group in files[path]:
            yield group["schema"], [(written(test["data"]), test["valid"]) for test in group["tests"]]


def bench(every: int) -> Iterator[Case]:
    with gzip.open(BENCH, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number % every == 0:
                record = json.loads(line)
                yield record["schema"], [(written(case["data"]), case["valid"]) for case in record["tests"]]


def written(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def ours(tokenizer: Tokenizer) -> Compile:
    factory = MatcherFactory(tokenizer, tokenizer.vocab_size)

    def compile_(schema: Any) -> Accepts:
        try:
            grammar = json_schema(schema, whitespace=True)
            factory.matcher(grammar)
        except BadGrammar as error:
            raise ValueError(str(error)) from None
        return lambda text: takes(factory.matcher(grammar)._matcher, tokenizer.encode(text))

    return compile_


def llguidance(tokenizer: Tokenizer) -> Compile:
    known = LLTokenizer(tokenizer.fast.to_str(), eos_token=tokenizer.eot_id)

    def compile_(schema: Any) -> Accepts:
        matcher = LLMatcher(known, LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return lambda text: takes(matcher.deep_copy(), tokenizer.encode(text))

    return compile_


def takes(matcher: LLMatcher, tokens: list[int]) -> bool:
    if matcher.validate_tokens(tokens) != len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())


def xgrammar(tokenizer: Tokenizer) -> Compile:
    import xgrammar as xgr

    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    info = xgr.TokenizerInfo(pieces, xgr.VocabType.RAW, stop_token_ids=[tokenizer.eot_id])
    compiler = xgr.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_(schema: Any) -> Accepts:
        try:
            compiled = compiler.compile_json_schema(json.dumps(schema), any_whitespace=True, strict_mode=False)
        except Exception as error:
            raise ValueError(str(error)) from None

        def accepts(text: str) -> bool:
            matcher = xgr.GrammarMatcher(compiled)
            return matcher.accept_string(text) and matcher.accept_token(tokenizer.eot_id)

        return accepts

    return compile_


def coverage(name: str, cases: Iterator[Case], compile_: Compile) -> str:
    """One line: schemas compiled, those of them right on all instances, and instances decided wrongly."""
    total, compiled, right = 0, 0, 0
    refused_valid, taken_invalid, valid, invalid = 0, 0, 0, 0
    times = []
    for schema, tests in cases:
        total += 1
        begin = time.process_time()
        try:
            accepts = compile_(schema)
        except ValueError:
            continue
        times.append(time.process_time() - begin)
        compiled += 1
        verdicts = [(accepts(text), expected) for text, expected in tests]
        right += all(taken == expected for taken, expected in verdicts)
        valid += sum(expected for _, expected in verdicts)
        invalid += sum(not expected for _, expected in verdicts)
        refused_valid += sum(expected and not taken for taken, expected in verdicts)
        taken_invalid += sum(taken and not expected for taken, expected in verdicts)
    return (
        f"{name:11} {compiled:5}/{total} compiled, {right:4} right on all; valid refused {refused_valid:4}/{valid}, "
        f"invalid taken {taken_invalid:4}/{invalid}; {statistics.median(times) * 1e3:.1f} ms of CPU to compile"
    )


def mask_share(model: str) -> str:
    """Time of a mask against that of the decoding step that it is for, at batch 1."""
    loaded = load(model)
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "note": {"type": "string"}}}
    request = loaded.request("Name and note, as JSON: ")
    params = SamplingParams(max_tokens=64, ignore_eos=True, min_tokens=64)
    loaded.engine.generate([Request(request.prompt_ids, params)])
    step = loaded.engine.stats().decode_seconds / 63
    matcher = loaded.engine._matchers.matcher(json_schema(schema))
    for token in loaded.tokenizer.encode('{"name":"'):
        matcher.accept(token)
    times = []
    for token in loaded.tokenizer.encode("a name of many words and letters, as long as anyone could wish for"):
        begin = time.perf_counter()
        matcher.allowed()
        times.append(time.perf_counter() - begin)
        matcher.accept(token)
    mask = statistics.median(times)
    return f"mask {mask * 1e6:.0f} us, decoding step {step * 1e3:.2f} ms: {mask / step:.1%} (at most 5%)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--every", type=int, default=4, help="take every n-th schema of JSONSchemaBench's sample")
    parser.add_argument("--mask", action=argparse.BooleanOptionalAction, default=True, help="time masks too")
    args = parser.parse_args()
    tokenizer = load(args.model).tokenizer
    engines = {"foundling": ours(tokenizer), "llguidance": llguidance(tokenizer)}
    if importlib.util.find_spec("xgrammar"):
        engines["xgrammar"] = xgrammar(tokenizer)
    for title, cases in {"JSON-Schema-Test-Suite": suite, "JSONSchemaBench": lambda: bench(args.every)}.items():
        print(title)
        for name, compile_ in engines.items():
            print("  " + coverage(name, cases(), compile_), flush=True)
    if args.mask:
        print(mask_share(args.model))


if __name__ == "__main__":
    main()
