"""RoBERTa (arXiv:1907.11692): BERT trained longer; positions start after the padding token's row."""

from __future__ import annotations

from foundling.models.config import ModelConfig
from foundling.models.families.bert import bert, encoder_rules
from foundling.models.families.bert import to_hf as to_hf
from foundling.models.families.fields import Fields
from foundling.models.tensor_rules import Rule

ARCHITECTURE = "RobertaForMaskedLM"
HEAD = {"transform.dense": "lm_head.dense", "transform.norm": "lm_head.layer_norm", "output_bias": "lm_head"}
UNUSED_HEAD = ["lm_head.decoder.weight", "lm_head.decoder.bias"]


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a RobertaConfig."""
    return bert(hf, "roberta", offset=hf.take("pad_token_id", int, 1) + 1, types=2)


def rules(config: ModelConfig) -> list[Rule]:
    """BERT's names, with another head."""
    return encoder_rules(config, "roberta", HEAD, UNUSED_HEAD)
