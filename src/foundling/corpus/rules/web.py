"""What the meta fields of a web page say: address, votes, licence, robots directives."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.robotparser import RobotFileParser

import polars as pl

from foundling.core.errors import FoundlingError
from foundling.corpus.readers.streams import open_stream
from foundling.corpus.rules.config import WebSignals
from foundling.corpus.rules.rule import Drop

_HOST = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//(?:[^/@]*@)?([^/:?#]+)"


def rules(config: WebSignals) -> list[Drop]:
    """The rules that the config sets; a page without the field passes, except where only listed values may."""
    url = _meta(config.url_field)
    host = domain(url)
    found: list[tuple[str, pl.Expr]] = []
    if config.blocked_domains:
        found.append(("url: blocked domain", _in_domains(host, config.blocked_domains)))
    if config.allowed_domains:
        found.append(("url: domain not allowed", ~_in_domains(host, config.allowed_domains)))
    if config.blocked_url_words:
        found.append(("url: blocked word", _has_word(url, config.blocked_url_words)))
    if config.min_votes is not None:
        votes = _meta(config.votes_field).cast(pl.Int64, strict=False)
        found.append(("votes: too few", votes.fill_null(0) < config.min_votes))
    if config.allowed_licences:
        names = [name.lower() for name in config.allowed_licences]
        found.append(("licence: not allowed", ~_meta(config.licence_field).str.to_lowercase().is_in(names)))
    if config.refused_robots:
        found.append(("robots: refused", _has_word(_meta(config.robots_field), config.refused_robots)))
    if config.refused_terms:
        found.append(("terms: refused", _has_word(_meta(config.terms_field), config.refused_terms)))
    drops = [_drop(reason, bad) for reason, bad in found]
    return [*drops, *_robots_txt(config, url, host)]


def _robots_txt(config: WebSignals, url: pl.Expr, host: pl.Expr) -> list[Drop]:
    """Drops pages whose host's robots.txt (RFC 9309) forbids them to one of the agents."""
    if config.robots_txt is None:
        return []
    sites = _parsed_robots(Path(config.robots_txt).expanduser())

    def forbidden(documents: pl.DataFrame) -> pl.Series:
        pages = documents.select(url.alias("url"), host.alias("host")).iter_rows()
        return pl.Series(
            [
                site is not None and not all(site.can_fetch(agent, address) for agent in config.robots_agents)
                for address, site in ((address, sites.get(name)) for address, name in pages)
            ],
            dtype=pl.Boolean,
        )

    return [Drop("robots.txt: forbidden", forbidden)]


def _parsed_robots(path: Path) -> dict[str, RobotFileParser]:
    """Host -> its robots.txt.

    Raises:
        FoundlingError: a line is not {"host": ..., "robots": ...}.
    """
    sites = {}
    with open_stream(str(path)) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                host, text = row["host"].lower(), row["robots"]
                sites[host] = RobotFileParser()
                sites[host].parse(text.splitlines())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"robots_txt: line {number} of {path.name} is not understood"
                raise FoundlingError(
                    what, f'expected {{"host": "a.org", "robots": "User-agent: ..."}} ({error})'
                ) from None
    return sites


def domain(url: pl.Expr) -> pl.Expr:
    """The host of an address, in lower case; null if there is none."""
    return url.str.extract(_HOST, 1).str.to_lowercase().str.strip_chars_end(".")


def _drop(reason: str, bad: pl.Expr) -> Drop:
    allowed_only = reason.endswith("not allowed")
    return Drop(reason, lambda documents: documents.select(bad.fill_null(allowed_only)).to_series())


def _in_domains(host: pl.Expr, domains: tuple[str, ...]) -> pl.Expr:
    """Whether the host is one of the domains or below it."""
    endings = pl.any_horizontal([host.str.ends_with("." + domain.lower()) for domain in domains])
    return host.is_in([domain.lower() for domain in domains]) | endings


def _has_word(text: pl.Expr, words: tuple[str, ...]) -> pl.Expr:
    return text.str.to_lowercase().str.contains_any([word.lower() for word in words])


def _meta(field: str) -> pl.Expr:
    return pl.col("meta").str.json_path_match(f"$.{field}")
