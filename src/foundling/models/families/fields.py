"""Reading a Hugging Face config.json so that nothing is ignored: what is left unread at the end is refused by name."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

from foundling.core.errors import FoundlingError, nearest

# Fields that cannot change a forward pass: provenance, training-only settings, generation defaults, class labels.
_HARMLESS = """
_attn_implementation _attn_implementation_autoset _from_model_config _name_or_path add_cross_attention architectures
attention_dropout attn_dropout attn_pdrop auto_map bad_words_ids begin_suppress_tokens bos_token_id
cache_implementation chunk_size_feed_forward classifier_activation classifier_dropout cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample dropout_rate dtype early_stopping embd_pdrop embedding_dropout
encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob id2label initializer_factor
initializer_range is_decoder is_encoder_decoder keys_to_ignore_at_inference label2id length_penalty max_length
min_length mlp_dropout model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
output_attentions output_hidden_states output_router_logits output_scores pad_token_id prefix pretraining_tp
problem_type pruned_heads remove_invalid_values repetition_penalty resid_pdrop return_dict return_dict_in_generate
router_jitter_noise sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version typical_p
unsloth_fixed unsloth_version use_bfloat16 use_cache
"""
HARMLESS = frozenset(_HARMLESS.split())
_REQUIRED = object()
Head = Literal["main", "labels", "none"]


class Fields:
    """The fields of one config.json. Each `take` marks a field as understood; `finish` refuses the rest.

    Args:
        data: the parsed JSON object.
        where: the file, for messages.
    """

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data, self.where = data, where
        self.read: set[str] = set()
        self.head: Head = "main"  # which of the family's classes the files are of

    def take(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value of a field; its default (the one `transformers` has) if absent or null."""
        self.read.add(name)
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise FoundlingError(f"{self.where}: field '{name}' is missing", f"expected: {kind.__name__}")
            return default
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise FoundlingError(f"{self.where}: field '{name}' is {value!r}", f"expected: {kind.__name__}")
        return value

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuse any value but the allowed ones (absent or null is the default, and allowed)."""
        self.read.add(name)
        value = self.data.get(name)
        if value is not None and value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise FoundlingError(
                f"{self.where}: field '{name}' is {value!r}, which changes the mathematics and is not supported",
                f"supported: {choices}",
            )

    def refuse(self, name: str, supported: str) -> NoReturn:
        """Refuse a field's value."""
        value = self.data.get(name)
        raise FoundlingError(f"{self.where}: field '{name}' is {value!r}, not supported", f"supported: {supported}")

    def skip(self, *names: str) -> None:
        """Fields of this family that say nothing new about the forward pass."""
        self.read.update(names)

    def choice(self, name: str, table: dict[str, Any], default: str) -> Any:
        """The table's entry for a field's value.

        Raises:
            FoundlingError: naming the field, its value and the values known.
        """
        value = self.take(name, str, default)
        if value not in table:
            raise FoundlingError(
                f"{self.where}: field '{name}' is {value!r}, which is not supported",
                f"supported: {', '.join(table)}",
                nearest(value, table),
            )
        return table[value]

    def choice_of_list(self, name: str, table: dict[str, Any], default: str) -> Any:
        """As `choice`, for a field that holds a list of one."""
        values = self.take(name, list, [default])
        if len(values) != 1 or values[0] not in table:
            self.refuse(name, " or ".join(table))
        return table[values[0]]

    @property
    def n_labels(self) -> int:
        """Scores of a classifier: as many as it has names for, two if it does not say."""
        return len(self.data.get("id2label") or (0, 1))

    def tokens(self) -> dict[str, Any]:
        """The special token ids, as ModelConfig's fields."""
        eos = self.data.get("eos_token_id")
        return {
            "bos_token_id": self.data.get("bos_token_id"),
            "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
            "pad_token_id": self.data.get("pad_token_id"),
        }

    def finish(self) -> None:
        """Refuse every field that was neither taken nor is known to be harmless (a null one says nothing)."""
        known = self.read | HARMLESS
        unknown = [name for name, value in self.data.items() if name not in known and value is not None]
        if unknown:
            name = sorted(unknown)[0]
            raise FoundlingError(
                f"{self.where}: field '{name}' (value {self.data[name]!r}) is not known for model_type "
                f"{self.data.get('model_type')!r}, and may change the mathematics",
                "a field is used or refused, never ignored",
                nearest(name, self.read),
            )


def token_fields(bos: int | None, eos: int | tuple[int, ...] | None, pad: int | None) -> dict[str, Any]:
    """The special token ids as config.json has them."""
    return {"bos_token_id": bos, "eos_token_id": list(eos) if isinstance(eos, tuple) else eos, "pad_token_id": pad}
