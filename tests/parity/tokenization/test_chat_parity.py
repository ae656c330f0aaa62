"""Our renderer gives `transformers`' ids on public templates, and its masks end where generation stops."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parity.tokenization.templates import CONTROL_TOKENS, TEMPLATES

from foundling.tokenization.chat import render
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train

transformers = pytest.importorskip("transformers")
TURN = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4, naïvely 日本."}]
MORE = [
    {"role": "user", "content": "And why?\nTell me."},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo."},
]


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    made = train(
        iter(["User: what is the answer? It is four, Assistant says\n\n"] * 5),
        TokenizerConfig(vocab_size=290, pre_tokenizer="llama3"),
    )
    made.fast.add_special_tokens(list(CONTROL_TOKENS))
    return made


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("messages", [TURN[:1], TURN, TURN + MORE[:1], TURN + MORE], ids=["1", "2", "3", "4"])
def test_ids_equal_transformers(base: Tokenizer, tmp_path: Path, name: str, messages: list[dict[str, str]]) -> None:
    config = {**base.config, "bos_token": "<|begin_of_text|>", "eos_token": "</s>", "chat_template": TEMPLATES[name]}
    tokenizer = Tokenizer(base.fast, config)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (False, True):
        expected = theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompt)["input_ids"]
        rendered = render(tokenizer, messages, add_generation_prompt=prompt)
        assert rendered.ids == expected
        assert len(rendered.loss_mask) == len(rendered.ids)
    answers = [m["content"].split("</think>")[-1].strip() for m in messages if m["role"] == "assistant"]
    learned = tokenizer.decode([i for i, on in zip(rendered.ids, rendered.loss_mask) if on], skip_special=False)
    position = 0
    for answer in answers:
        assert answer in learned[position:]
        position = learned.index(answer, position) + len(answer)
    assert "What is 2" not in learned and "And why" not in learned
    assert bool(answers) == any(rendered.loss_mask)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"qwen3", "llama-3-always", "phi-3"}))
def test_a_conversation_begins_with_its_prompts(base: Tokenizer, name: str) -> None:
    config = {**base.config, "bos_token": "<|begin_of_text|>", "eos_token": "</s>", "chat_template": TEMPLATES[name]}
    tokenizer = Tokenizer(base.fast, config)
    whole = render(tokenizer, TURN + MORE)
    for n in (1, 3):
        prompt = render(tokenizer, (TURN + MORE)[:n], add_generation_prompt=True)
        assert whole.ids[: len(prompt.ids)] == prompt.ids
