"""Ids that integrations make of a framework's ids."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
from hypothesis import example, given

import asm
from asm.integrations.common import ID_LENGTH_MAX, joined_id, plain_id

ANY_TEXT = st.text(st.characters(), max_size=300)

LONG = "x" * ID_LENGTH_MAX
HASH = hashlib.sha256(f"adk:{LONG}".encode()).hexdigest()


def is_valid(id: str) -> bool:
    return asm.Session(id=id, agent_id="a").id == id and len(id) <= ID_LENGTH_MAX


@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.lists(ANY_TEXT, min_size=1, max_size=4))
@example(["a", "b:c"], ["a:b", "c"])
@example(["a", ""], ["a"])
@example(["a\0"], ["a"])
@example(["a%3Ab"], ["a:b"])
@example(["\ud800"], ["\ud801"])
@example([LONG], ["sha256", HASH])
@example([LONG], [f"sha256!{HASH}"])
def test_ids_of_different_parts_are_different_and_valid(parts: list[str], others: list[str]) -> None:
    one, other = joined_id("adk", *parts), joined_id("adk", *others)

    assert (one == other) == (parts == others)
    assert is_valid(one)
    assert is_valid(other)


@given(ANY_TEXT, ANY_TEXT)
@example("sha256:" + "0" * 64, "a\0")
def test_plain_ids_of_different_ids_are_different_and_valid(value: str, other: str) -> None:
    assert (plain_id(value) == plain_id(other)) == (value == other)
    assert is_valid(plain_id(value))


def test_an_id_that_the_store_takes_stays_as_it_is() -> None:
    assert plain_id("5f0c:gespräch/1") == "5f0c:gespräch/1"
    assert joined_id("claude", "-work-app", "5f0c") == "claude:-work-app:5f0c"
