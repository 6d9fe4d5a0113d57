"""Values of subclasses become plain ones where they enter, and messages show any value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum, StrEnum
from typing import Any

import pytest

import asm
from asm.operations import reading, search, sessions
from asm.validation import safe_repr
from tests.conftest import an_event

HUGE = 10**5_000
"""Python refuses to convert an integer with this many digits to text."""


class Id(StrEnum):
    ONE = "ses_1"


class OldId(str, Enum):  # noqa: UP042
    ONE = "ses_1"


class Size(IntEnum):
    ONE = 1


class Timestamp(datetime):
    """A datetime of another library, such as pandas, that has a format of its own."""

    def isoformat(self, *_: object, **__: object) -> str:
        return "tomorrow"


@pytest.mark.parametrize("value", [Id.ONE, OldId.ONE])
def test_an_id_that_is_an_enum_member_becomes_its_plain_text(value: Any) -> None:
    event = an_event(value, id=value, run_id=value)

    ids = [event.id, event.session_id, event.run_id]
    assert [(type(each), each) for each in ids] == [(str, "ses_1")] * 3


def test_a_number_of_a_subclass_becomes_a_plain_one() -> None:
    policy = asm.RetentionPolicy(batch_size=Size.ONE, max_events_per_session=Size.ONE)
    stream = reading.iter_events("ses_1", page_size=Size.ONE)
    event = an_event(schema_version=Size.ONE)

    numbers = (policy.batch_size, policy.max_events_per_session, stream.page_size, event.schema_version)
    assert list(map(type, numbers)) == [int, int, int, int]


def test_a_time_of_a_subclass_becomes_a_plain_datetime() -> None:
    event = an_event(timestamp=Timestamp(2025, 1, 1, tzinfo=UTC))

    assert (type(event.timestamp), event.timestamp) == (datetime, datetime(2025, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: asm.Session(agent_id="a", status=HUGE),  # type: ignore[arg-type]
        lambda: an_event(type=HUGE),  # type: ignore[arg-type]
        lambda: search.search_events(order_by=HUGE),  # type: ignore[arg-type]
        lambda: search.search_runs(order_by=[HUGE]),  # type: ignore[arg-type]
        lambda: an_event(data={HUGE: 1}),
    ],
)
def test_an_integer_too_long_for_a_message_is_refused_like_any_other(refused: Any) -> None:
    with pytest.raises(asm.ValidationError):
        refused()


@pytest.mark.parametrize("name", ["timeout", "statement_timeout"])
def test_a_timeout_too_large_for_a_float_is_a_validation_error(name: str) -> None:
    with pytest.raises(asm.ValidationError, match=name):
        asm.SessionStore("sqlite://", **{name: HUGE})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_flag_is_true_or_false_and_not_another_value_with_a_truth_value(value: Any) -> None:
    with pytest.raises(asm.ValidationError, match="include_deleted must be True or False"):
        sessions.list_sessions(include_deleted=value)


class Unshown:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_value_without_a_repr_is_shown_by_its_type() -> None:
    assert safe_repr([Unshown()]) == "a list without a repr"
    assert safe_repr(Unshown()) == "an Unshown without a repr"
    assert safe_repr(timedelta(1)) == "datetime.timedelta(days=1)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (HUGE, "an integer of 16,610 bits"),
        ([HUGE], "[an integer of 16,610 bits]"),
        ({"n": -HUGE}, "{'n': an integer of 16,610 bits}"),
        ({HUGE}, "{an integer of 16,610 bits}"),
        (list(range(1_000_000)), "[0, 1, 2, 3, 4, 5, ...]"),
        (dict.fromkeys(range(1_000_000)), "{0: None, 1: None, 2: None, 3: None, ...}"),
        (set(range(1_000_000)), "{0, 1, 2, 3, 4, 5, ...}"),
        (frozenset(range(1_000_000)), "frozenset({0, 1, 2, 3, 4, 5, ...})"),
        ([[[[[]], [[1]]]]], "[[[[...], [...]]]]"),
    ],
    ids=[
        "an integer",
        *("in a list", "in a dict", "in a set"),
        "a list",
        "a dict",
        "a set",
        "a frozenset",
        "deep",
    ],
)
def test_a_message_shows_the_beginning_of_a_large_value(value: Any, shown: str) -> None:
    assert safe_repr(value) == shown


@pytest.mark.parametrize("value", ["x" * 1_000_000, b"x" * 1_000_000, ["x" * 100] * 100, Unshown], ids=type)
def test_a_message_shows_at_most_80_characters_of_a_value(value: Any) -> None:
    assert len(safe_repr(value)) <= 80


TAGS = [f"tag_{n}" for n in range(1_001)]


def test_a_session_a_filter_and_a_policy_have_at_most_1_000_tags() -> None:
    assert asm.Session(agent_id="a", tags=TAGS[:1_000]).tags == tuple(TAGS[:1_000])
    assert asm.RetentionPolicy(exempt_tags=TAGS[:1_000]).exempt_tags == tuple(TAGS[:1_000])
    search.search_sessions(tags=[*TAGS[:1_000], *TAGS[:1_000]])

    for refused in (
        lambda: asm.Session(agent_id="a", tags=TAGS),
        lambda: asm.Session.from_dict({"agent_id": "a", "tags": TAGS}),
        lambda: asm.RetentionPolicy(exempt_tags=TAGS),
        lambda: search.search_sessions(tags=TAGS),
        lambda: search.iter_sessions(tags=TAGS),
    ):
        with pytest.raises(
            asm.ValidationError, match="1,001 values, more than the maximum of 1,000"
        ) as refusal:
            refused()
        assert refusal.value.details["path"] in ("tags", "exempt_tags")


def test_a_status_that_is_given_many_times_is_sent_once() -> None:
    query = sessions.list_sessions(status=["failed", "active"] * 1_000)

    assert query.params["statuses"] == ("failed", "active")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [(object(), "is an object, which is not JSON"), ({1}, "is a set, which"), (b"", "is a bytes, which")],
)
def test_an_error_names_a_type_with_its_article(value: Any, complaint: str) -> None:
    with pytest.raises(asm.ValidationError, match=complaint):
        an_event(data={"value": value})


def test_a_misspelled_order_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(
        asm.ValidationError, match=r"'created_desc' is not an order \(did you mean 'created_at_desc'"
    ):
        search.search_sessions(order_by="created_desc")  # type: ignore[arg-type]
