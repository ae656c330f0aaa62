"""Real schemas: what is accepted decides instances rightly, and what is not supported is refused before generation."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tests.unit.inference.conftest import tokenizer  # noqa: F401

from foundling.inference.structured.grammar import BadGrammar, json_schema
from foundling.inference.structured.matcher import MatcherFactory
from foundling.tokenization.tokenizer import Tokenizer

SAMPLE = Path(os.environ.get("FOUNDLING_DATA", ".")) / "structured" / "jsonschemabench_sample.jsonl.gz"


@pytest.mark.skipif(not SAMPLE.is_file(), reason="needs structured/jsonschemabench_sample.jsonl.gz in FOUNDLING_DATA")
def test_jsonschemabench(tokenizer: Tokenizer) -> None:  # noqa: F811
    """Guards against a compiler option that loses keywords; 200 real schemas, each with valid and invalid instances."""
    factory = MatcherFactory(tokenizer, tokenizer.vocab_size)
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file][::6]
    compiled, wrongly_refused, wrongly_taken, valid, invalid = 0, 0, 0, 0, 0
    for record in records:
        try:
            grammar = json_schema(record["schema"], whitespace=True)
            factory.matcher(grammar)
        except BadGrammar as error:
            assert error.why, record["id"]
            continue
        compiled += 1
        for case in record["tests"]:
            matcher = factory.matcher(grammar)
            tokens = tokenizer.encode(json.dumps(case["data"], ensure_ascii=False, indent=None))
            taken = matcher._matcher.validate_tokens(tokens) == len(tokens)
            if taken:
                matcher._matcher.consume_tokens(tokens)
                taken = matcher.complete
            valid, invalid = valid + case["valid"], invalid + (not case["valid"])
            wrongly_refused += case["valid"] and not taken
            wrongly_taken += taken and not case["valid"]
    print(
        f"{compiled}/{len(records)} compiled; {wrongly_refused}/{valid} valid refused, {wrongly_taken}/{invalid} taken"
    )
    assert compiled / len(records) > 0.8
    assert wrongly_taken / invalid < 0.05 and wrongly_refused / valid < 0.1
