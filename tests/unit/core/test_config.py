"""Configs: what a user mistypes must be refused by name, and what cannot change a result must not change a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundling.core.config import Config, canonical_json, identity, option, parse
from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for


class Inner(Config):
    rate: float = option(0.1, "the rate", gt=0)
    threads: int = option(1, "threads", affects_result=False)


class Outer(Config):
    epochs: int = option(1, "passes over the data", ge=1)
    workers: int = option(2, "processes", affects_result=False)
    inner: Inner = option(Inner(), "nested")


def test_unknown_field_names_the_nearest_one() -> None:
    with pytest.raises(FoundlingError, match=r"unknown field 'epocks'.*Did you mean 'epochs'"):
        parse(Outer, {"epocks": 2}, "stage 'sft'")


def test_unknown_nested_field_is_looked_up_in_its_own_config() -> None:
    with pytest.raises(
        FoundlingError, match=r"unknown field 'inner.rat'. Did you mean 'rate'\? Valid fields: rate, threads"
    ):
        parse(Outer, {"inner": {"rat": 2}}, "stage 'sft'")


def test_wrong_value_names_field_value_and_meaning() -> None:
    with pytest.raises(FoundlingError, match=r"field 'epochs' is 0.*greater than or equal to 1.*passes over the data"):
        parse(Outer, {"epochs": 0}, "stage 'sft'")


def test_identity_leaves_out_what_cannot_change_the_result() -> None:
    base = identity(Outer())
    assert base == {"epochs": 1, "inner": {"rate": 0.1}}
    assert identity(Outer(workers=9, inner=Inner(threads=7))) == base
    assert identity(Outer(inner=Inner(rate=0.2))) != base


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_seeds_are_stable_and_fit_in_63_bits(parts: list[str]) -> None:
    assert 0 <= seed_for(*parts) < 2**63
    assert seed_for(*parts) == seed_for(*parts)


def test_seed_is_the_same_on_every_machine() -> None:
    assert seed_for(0, "batch", 1) == seed_for("0", "batch", "1")
    assert seed_for("ab", "c") != seed_for("a", "bc"), "the parts' borders must count"


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": [1.5]}) == canonical_json({"a": [1.5], "b": 1}) == '{"a":[1.5],"b":1}'
