"""Cursors: encoding, decoding, and refusal of every other text."""

from __future__ import annotations

import re
import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from itertools import permutations
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.operations import search
from asm.operations.cursors import Order

ALPHABET = string.ascii_letters + string.digits + "-_"
MOMENT = datetime(2026, 1, 1, 12, 30, 15, 123_456, tzinfo=UTC)

ROWS: dict[str, Any] = {
    "sessions": asm.Session(id="ses_é", agent_id="a", created_at=MOMENT, updated_at=MOMENT),
    "runs": asm.Run(id="run_1", session_id="ses_1", started_at=MOMENT, token_usage={"input_tokens": 7}),
    "events": asm.Event(type="a.b", session_id="ses_1", timestamp=MOMENT, sequence_number=12),
}
EVERY_ORDER: list[Order[Any]] = [*search.SESSION_ORDERS, *search.RUN_ORDERS, *search.EVENT_ORDERS]


def order_id(order: Order[Any]) -> str:
    return f"{order.kind} {order.name}"


def encoded(order: Order[Any]) -> str:
    return order.cursor(ROWS[order.kind])


def forged(order: Order[Any], *values: str) -> str:
    """A cursor of any values with a valid checksum."""
    keyset = "\0".join(values).encode()
    checksum = crc32(f"{order.kind} {order.name} ".encode() + keyset).to_bytes(4, "big")
    return urlsafe_b64encode(checksum + keyset).decode().rstrip("=")


def order_of(kind: str, name: str) -> Order[Any]:
    (order,) = (each for each in EVERY_ORDER if (each.kind, each.name) == (kind, name))
    return order


@pytest.mark.parametrize("order", EVERY_ORDER, ids=order_id)
def test_a_cursor_encodes_the_keyset_of_its_row(order: Order[Any]) -> None:
    assert order.after(encoded(order)) == order.keyset(ROWS[order.kind])


@given(st.datetimes(timezones=st.just(UTC)), st.text(min_size=1, max_size=255))
def test_any_time_and_any_id_can_be_encoded(moment: datetime, id: str) -> None:
    order = order_of("sessions", "created_at_desc")
    try:
        session = asm.Session(id=id, agent_id="a", created_at=moment)
    except asm.ValidationError:
        return
    assert order.after(order.cursor(session)) == {"last_at": moment, "last_id": id}


WIDEST = "\U0010fffd" * 255
LONGEST: dict[str, Any] = {
    "sessions": asm.Session(id=WIDEST, agent_id="a", created_at=datetime.min.replace(tzinfo=UTC)),
    "runs": asm.Run(id=WIDEST, session_id=WIDEST, started_at=datetime.min.replace(tzinfo=UTC)),
    "events": asm.Event(
        type="a.b", session_id=WIDEST, timestamp=datetime.min.replace(tzinfo=UTC), sequence_number=2**63 - 1
    ),
}


@pytest.mark.parametrize("order", EVERY_ORDER, ids=order_id)
def test_the_longest_values_can_be_encoded_and_no_longer_cursor_is_read(order: Order[Any]) -> None:
    row = LONGEST[order.kind]

    assert order.after(order.cursor(row)) == order.keyset(row)
    # A number of so many digits would take minutes to convert.
    digits = "7" * 2_000_000
    with pytest.raises(asm.InvalidCursor):
        order.after(forged(order, *[digits] * len(order.parameters)))


def test_without_a_cursor_the_keyset_is_empty() -> None:
    assert order_of("runs", "started_at_asc").after(None) == {}


@pytest.mark.parametrize("order", EVERY_ORDER, ids=order_id)
def test_a_cursor_needs_no_quoting_in_a_url(order: Order[Any]) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encoded(order))


def test_a_cursor_is_compact() -> None:
    session = asm.Session(agent_id="a")
    assert len(order_of("sessions", "updated_at_desc").cursor(session)) < 80


@pytest.mark.parametrize("order", EVERY_ORDER, ids=order_id)
def test_a_cursor_with_any_character_altered_is_refused(order: Order[Any]) -> None:
    cursor = encoded(order)
    for index, right in enumerate(cursor):
        for wrong in set(ALPHABET + "=+/ .\0é") - {right}:
            with pytest.raises(asm.InvalidCursor):
                order.after(cursor[:index] + wrong + cursor[index + 1 :])


@pytest.mark.parametrize("order", EVERY_ORDER, ids=order_id)
def test_a_truncated_or_lengthened_cursor_is_refused(order: Order[Any]) -> None:
    cursor = encoded(order)
    shorter = [cursor[:end] for end in range(len(cursor))] + [
        cursor[start:] for start in range(1, len(cursor))
    ]
    longer = [f"{cursor}{more}" for more in [*ALPHABET, "=", "==", " ", "\n", "\0", cursor]]
    for other in [*shorter, *longer, f" {cursor}", cursor.swapcase(), cursor[::-1]]:
        with pytest.raises(asm.InvalidCursor):
            order.after(other)


@pytest.mark.parametrize(("order", "other"), list(permutations(EVERY_ORDER, 2)), ids=order_id)
def test_a_cursor_is_bound_to_its_kind_and_order(order: Order[Any], other: Order[Any]) -> None:
    with pytest.raises(asm.InvalidCursor, match=f"not a cursor of {other.kind} by {other.name}"):
        other.after(encoded(order))


@given(
    st.one_of(st.text(), st.text(ALPHABET), st.binary().map(lambda noise: urlsafe_b64encode(noise).decode()))
)
def test_random_text_is_refused(noise: str) -> None:
    for order in EVERY_ORDER:
        with pytest.raises(asm.InvalidCursor):
            order.after(noise)


@pytest.mark.parametrize("value", [7, 1.5, b"AAAA", ["AAAA"], object(), True])
def test_a_value_that_is_not_text_is_refused(value: Any) -> None:
    with pytest.raises(asm.InvalidCursor):
        order_of("sessions", "created_at_asc").after(value)


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("sessions", "created_at_asc", ["x", "ses_1"]),
        ("sessions", "created_at_asc", ["1.5", "ses_1"]),
        ("sessions", "created_at_asc", [str(10**18), "ses_1"]),
        ("sessions", "created_at_asc", ["9" * 5_000, "ses_1"]),
        ("sessions", "created_at_asc", ["01", "ses_1"]),
        ("sessions", "created_at_asc", ["1_000", "ses_1"]),
        ("sessions", "created_at_asc", ["\u0661", "ses_1"]),
        ("sessions", "created_at_asc", ["1", ""]),
        ("sessions", "created_at_asc", ["1", "x" * 256]),
        ("sessions", "created_at_asc", ["1"]),
        ("sessions", "created_at_asc", ["1", "a", "b"]),
        ("runs", "token_usage_desc", ["1", "", "r"]),
        ("runs", "token_usage_desc", ["1", "s" * 256, "r"]),
        ("runs", "token_usage_desc", ["-1", "s", "r"]),
        ("runs", "token_usage_desc", [str(2**63), "s", "r"]),
        ("events", "sequence_asc", ["s", str(2**63)]),
        ("events", "sequence_asc", ["s", "-5"]),
    ],
)
def test_a_forged_keyset_that_no_row_can_have_is_refused(kind: str, name: str, values: list[str]) -> None:
    order = order_of(kind, name)
    with pytest.raises(asm.InvalidCursor):
        order.after(forged(order, *values))


def test_the_error_does_not_repeat_the_cursor() -> None:
    order = order_of("sessions", "created_at_asc")
    with pytest.raises(asm.InvalidCursor) as caught:
        order.after("x" * 100_000)
    assert len(str(caught.value)) < 200
    assert caught.value.details == {"path": "cursor"}


def test_forged_cursors_are_encoded_like_real_ones() -> None:
    order = order_of("events", "sequence_asc")
    assert forged(order, "ses_1", "12") == encoded(order)
    assert urlsafe_b64decode(encoded(order) + "==")[4:] == b"ses_1\x0012"
