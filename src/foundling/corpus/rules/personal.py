"""Secrets and personal data: private keys, access tokens, e-mail addresses."""

from __future__ import annotations

import polars as pl

from foundling.corpus.config import CorpusConfig, Treatment
from foundling.corpus.rules.rule import Drop, Edit, Rule

# Published token shapes (their makers document the prefixes for secret scanners), and keys with a body: a text that
# only mentions "BEGIN PRIVATE KEY" is no secret.
SECRETS = "|".join(
    (
        r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----\s[A-Za-z0-9+/=\s:,.-]{64,}?-----END",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
        r"\bgithub_pat_[A-Za-z0-9_]{22,}\b",
        r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}",
        r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
        r"\bAIza[0-9A-Za-z_-]{35}\b",
        r"\bhf_[A-Za-z]{34}\b",
        r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        r"""(?i:api_?key|secret_?key|access_?token|password)["']?\s*[:=]\s*["'][A-Za-z0-9/+_-]{32,}["']""",
    )
)
_DOMAINS = "com|org|net|edu|gov|mil|info|biz|io|dev|ai|me|co|eu|uk|de|fr|nl|be|ch|at|it|es|pt|se|no|fi|dk|pl|cz|ru"
_DOMAINS += "|ua|hu|ro|gr|tr|il|in|cn|jp|kr|tw|sg|au|nz|ca|us|br|mx|ar|za|ie"
EMAIL = rf"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.(?i:{_DOMAINS})\b"
EMAIL_INSTEAD = "email@example.com"  # stays valid where it stands, also inside code
SECRET_INSTEAD = "<secret>"


def rules(config: CorpusConfig) -> list[Rule]:
    """The rules on secrets and e-mail addresses, as the config wants them treated."""
    return [
        *_treat("secret", SECRETS, SECRET_INSTEAD, config.secrets),
        *_treat("e-mail address", EMAIL, EMAIL_INSTEAD, config.personal_data),
    ]


def _treat(name: str, pattern: str, instead: str, treatment: Treatment) -> list[Rule]:
    if treatment == "drop":
        return [Drop(name, lambda d: d["text"].str.contains(pattern))]
    if treatment == "redact":
        return [Edit(f"{name} redacted", lambda d: _redact(d, pattern, instead))]
    return []


def _redact(documents: pl.DataFrame, pattern: str, instead: str) -> pl.Series:
    return documents["text"].str.replace_all(pattern, instead)
