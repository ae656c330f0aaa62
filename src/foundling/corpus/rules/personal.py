"""Secrets and personal data: private keys, access tokens, e-mail addresses, public IP addresses, phone numbers.

What takes their place stays valid where it stands, also inside code: addresses and numbers that are reserved for
examples (RFC 2606, RFC 5737, RFC 3849; 555-0100 in North America).
"""

from __future__ import annotations

import ipaddress
import re

import polars as pl

from foundling.corpus.config import CorpusConfig, Treatment
from foundling.corpus.rules.rule import Drop, Edit, Rule, Select

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
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?[\w-])"
_HEX = r"[0-9A-Fa-f]{1,4}"
_IPV6 = rf"[23][0-9A-Fa-f]{{3}}:(?:(?:{_HEX}:){{6}}{_HEX}|(?:{_HEX}:){{0,5}}(?::{_HEX}){{1,6}})(?![\w:])"
IP = re.compile(rf"(?<![\w.:-])(?:{_IPV4}|{_IPV6})")  # what touches four numbers tells an address from a version
_LIKE_AN_IP = r"\d\.\d{1,3}\.\d{1,3}\.\d|\b[23][0-9A-Fa-f]{3}:"
# North American numbers with an area code, and numbers in international form, written in groups.
PHONE = (
    r"(?m)(^|[^\w.+/-])(?:(?:\+?1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])\d{3}[-. ]\d{4}"
    r"|\+[1-9]\d{0,2}(?:[-. ]?\(\d{1,4}\))?(?:[-. ]\d{2,4}){2,5})\b"
)
EMAIL_INSTEAD = "email@example.com"
SECRET_INSTEAD = "<secret>"
IPV4_INSTEAD, IPV6_INSTEAD = "192.0.2.1", "2001:db8::1"
PHONE_INSTEAD = "+1-202-555-0100"


def rules(config: CorpusConfig) -> list[Rule]:
    """The rules on secrets and personal data, as the config wants each kind treated."""
    return [
        *_treat("secret", config.secrets, _holds(SECRETS), _replaced(SECRETS, SECRET_INSTEAD)),
        *_treat("e-mail address", config.emails, _holds(EMAIL), _replaced(EMAIL, EMAIL_INSTEAD)),
        *_treat("IP address", config.ip_addresses, _has_public_ip, _without_public_ips),
        *_treat("phone number", config.phone_numbers, _holds(PHONE), _replaced(PHONE, f"${{1}}{PHONE_INSTEAD}")),
    ]


def _treat(name: str, treatment: Treatment, holds: Select, redacted: Select) -> list[Rule]:
    if treatment == "drop":
        return [Drop(name, holds)]
    return [Edit(f"{name} redacted", redacted)] if treatment == "redact" else []


def _holds(pattern: str) -> Select:
    return lambda documents: documents["text"].str.contains(pattern)


def _replaced(pattern: str, instead: str) -> Select:
    return lambda documents: documents["text"].str.replace_all(pattern, instead)


def _has_public_ip(documents: pl.DataFrame) -> pl.Series:
    return _without_public_ips(documents) != documents["text"]


def _without_public_ips(documents: pl.DataFrame) -> pl.Series:
    """Texts with their public addresses replaced; private, local and documentation addresses stay (as in FineWeb)."""
    texts = documents["text"]
    suspects = texts.str.contains(_LIKE_AN_IP)  # few: they are looked at one by one
    changed = [_redact_ips(text) if suspect else text for text, suspect in zip(texts, suspects, strict=True)]
    return pl.Series(changed, dtype=pl.String)


def _redact_ips(text: str) -> str:
    return IP.sub(lambda m: (IPV6_INSTEAD if ":" in m[0] else IPV4_INSTEAD) if _is_public(m[0]) else m[0], text)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
