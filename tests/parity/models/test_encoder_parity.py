"""Encoders, encoder-decoders and classifiers against transformers on the same random weights, both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from foundling.models.checkpoint import load_module, save_module
from foundling.models.context import CacheView, Context, Encoded
from foundling.models.language_model import LanguageModel

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MODERN = SHAPE | {"local_attention": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN |= {"cls_token_id": 1, "sep_token_id": 2}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0}
SMALL = SHAPE | {"num_key_value_heads": 2, "pad_token_id": 0}
ENCODERS = {
    "bert": ("bert", SHAPE, "AutoModelForMaskedLM"),
    "bert-bare": ("bert", SHAPE | {"hidden_act": "gelu_new"}, "AutoModel"),
    "roberta": ("roberta", SHAPE | {"pad_token_id": 1, "type_vocab_size": 1}, "AutoModelForMaskedLM"),
    "modernbert": ("modernbert", MODERN, "AutoModelForMaskedLM"),
    "modernbert-bare": ("modernbert", MODERN, "AutoModel"),
}
T5S = {
    "t5": T5,
    "t5-gated": T5 | {"feed_forward_proj": "gated-gelu"},
    "flan-t5": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def saved(model_type: str, fields: dict, auto: str, path: Path) -> torch.nn.Module:
    """A random transformers model, in a directory."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **fields)
    reference = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(path)
    return reference


def tokens(rows: int, time: int) -> Tensor:
    return torch.randint(3, 97, (rows, time), generator=torch.Generator().manual_seed(1))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", ENCODERS)
def test_encoders_with_padding_packing_and_token_types(case: str, tmp_path: Path) -> None:
    model_type, fields, auto = ENCODERS[case]
    reference, ids = saved(model_type, fields, auto, tmp_path), tokens(2, 24)
    ours = load_module(tmp_path)
    bare = auto == "AutoModel"

    def run(module: LanguageModel, ids: Tensor, ctx: Context | None = None) -> Tensor:
        return module.hidden(ids, ctx) if bare else module(ids, ctx)

    def expected(**inputs: Tensor) -> Tensor:
        out = reference(**inputs)
        return out.last_hidden_state if bare else out.logits

    close(run(ours, ids), expected(input_ids=ids))
    mask = torch.ones_like(ids)
    mask[1, 17:] = 0
    padded = torch.where(mask == 1, ids, fields.get("pad_token_id", 0))
    segments = torch.where(mask == 1, 0, -1)
    close(
        run(ours, padded, Context.packed(segments))[mask == 1],
        expected(input_ids=padded, attention_mask=mask)[mask == 1],
    )
    packed = run(ours, ids, Context.packed(torch.tensor([[0] * 9 + [1] * 15]).expand(2, -1)))
    close(packed[:, :9], expected(input_ids=ids[:, :9]))
    close(packed[:, 9:], expected(input_ids=ids[:, 9:]))
    if model_type == "bert":
        ctx = Context.full(2, 24)
        ctx.token_types = torch.tensor([[0] * 10 + [1] * 14]).expand(2, -1)
        close(run(ours, ids, ctx), expected(input_ids=ids, token_type_ids=ctx.token_types))
        if bare:
            close(ours.pooled(ours.hidden(ids)), reference(input_ids=ids).pooler_output)

    save_module(ours, tmp_path / "again")
    again = getattr(transformers, auto).from_pretrained(tmp_path / "again")
    assert type(again) is type(reference)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@torch.no_grad()
@pytest.mark.parametrize("case", T5S)
def test_encoder_decoder(case: str, tmp_path: Path) -> None:
    reference = saved("t5", T5S[case], "AutoModelForSeq2SeqLM", tmp_path)
    if case == "flan-t5":  # as the published files: a head of its own
        reference.lm_head.weight = torch.nn.Parameter(torch.randn(97, 32))
        reference.save_pretrained(tmp_path)
    ours = load_module(tmp_path)
    source, target = tokens(2, 24), tokens(2, 15)
    close(ours(target, encoder_tokens=source), reference(input_ids=source, decoder_input_ids=target).logits)

    mask = torch.ones_like(source)
    mask[1, 10:] = 0
    encoded = ours.encode(source, Context.packed(torch.where(mask == 1, 0, -1)))
    ctx = Context.full(2, 15)
    ctx.encoded = encoded
    expected = reference(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    close(ours(target, ctx), expected)
    close(decoded_in_steps(ours, target, encoded), expected)

    save_module(ours, tmp_path / "again")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    close(again(input_ids=source, decoder_input_ids=target).logits, ours(target, encoder_tokens=source))
    greedy = again.generate(source, max_new_tokens=64, min_new_tokens=64, do_sample=False)
    ids = greedy[:, :1]
    encoded = ours.encode(source)
    for _ in range(greedy.shape[1] - 1):
        ctx = Context.full(2, ids.shape[1])
        ctx.encoded = encoded
        logits = ours(ids, ctx)[:, -1]
        logits[:, again.generation_config.eos_token_id] = -torch.inf
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    assert ids.tolist() == greedy.tolist()


def decoded_in_steps(module: LanguageModel, target: Tensor, encoded: Encoded) -> Tensor:
    """Cached decoding, five tokens and then one at a time."""
    rows, time = target.shape
    state = module.new_state(rows, 9, 4, torch.float32, "cpu")
    table = torch.arange(1, 9).view(rows, 4)
    outputs, start = [], 0
    for count in [5] + [1] * (time - 5):
        index = torch.arange(start, start + count)
        slots = table[:, index // 4] * 4 + index % 4
        view = CacheView(
            slots, table, torch.full((rows,), start), torch.full((rows,), count), state_slots=torch.arange(rows)
        )
        ctx = Context(index.expand(rows, -1), cache=view, encoded=encoded)
        outputs.append(module(target[:, start : start + count], ctx, state))
        start += count
    return torch.cat(outputs, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mixtral"])
@pytest.mark.parametrize("n_labels", [1, 3])
def test_classifiers_and_reward_models(model_type: str, n_labels: int, tmp_path: Path) -> None:
    fields = SMALL | {"num_labels": n_labels}
    reference, ids = saved(model_type, fields, "AutoModelForSequenceClassification", tmp_path), tokens(2, 12)
    ours = load_module(tmp_path)
    close(ours(ids)[:, -1], reference(ids).logits)  # transformers scores the last token
    save_module(ours, tmp_path / "again")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    close(again(ids).logits, reference(ids).logits)
