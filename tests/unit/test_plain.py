"""What enters is taken for what it is, whatever its class makes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from enum import IntEnum, StrEnum
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest

import asm
from asm import dsn
from asm.documents import dump_object
from asm.operations import artifacts, events, reading, runs, search, sessions
from asm.validation import safe_repr
from tests.conftest import an_event

HUGE = 10**5_000
"""Python refuses to write out an integer of so many digits."""


class Id(StrEnum):
    ONE = "ses_1"


class Size(IntEnum):
    ONE = 1


class Unequal(str):
    __slots__ = ()

    def __eq__(self, _: object) -> bool:
        return False

    __hash__ = str.__hash__


class Empty(dict[str, Any]):
    def __len__(self) -> int:
        return 0


class Broken(tzinfo):
    def utcoffset(self, _: datetime | None) -> NoReturn:
        raise ZeroDivisionError

    dst = tzname = utcoffset


class Elsewhere(datetime):
    """A datetime of a library that has its own spelling."""

    def isoformat(self, *_: object, **__: object) -> str:
        return "tomorrow"


@pytest.mark.parametrize("value", [Id.ONE, Unequal("ses_1")])
def test_an_id_of_another_class_becomes_plain_text(value: Any) -> None:
    event = an_event(value, id=value, run_id=value)

    assert [type(each) for each in (event.id, event.session_id, event.run_id)] == [str, str, str]
    assert event.session_id == "ses_1"


def test_a_number_of_another_class_becomes_a_plain_one() -> None:
    policy = asm.RetentionPolicy(batch_size=Size.ONE, max_events_per_session=Size.ONE)
    stream = reading.iter_events("ses_1", page_size=Size.ONE)
    event = an_event(schema_version=Size.ONE)

    numbers = (policy.batch_size, policy.max_events_per_session, stream.page_size, event.schema_version)
    assert list(map(type, numbers)) == [int, int, int, int]


def test_a_time_of_another_class_becomes_a_plain_one() -> None:
    event = an_event(timestamp=Elsewhere(2025, 1, 1, tzinfo=UTC))

    assert (type(event.timestamp), event.timestamp) == (datetime, datetime(2025, 1, 1, tzinfo=UTC))


def test_a_time_zone_that_fails_is_a_validation_error() -> None:
    with pytest.raises(asm.ValidationError, match="timestamp has a time zone that fails"):
        an_event(timestamp=datetime(2025, 1, 1, tzinfo=Broken()))


def test_a_dict_that_says_it_is_empty_keeps_what_is_in_it() -> None:
    assert dump_object(Empty(a=1), "data").strip() == '{"a":1}'


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (events.append_event, asm.Event),
        (sessions.save_session, asm.Session),
        (runs.save_run, asm.Run),
        (artifacts.register, asm.Artifact),
    ],
)
def test_a_mock_is_no_model(operation: Any, kind: type) -> None:
    with pytest.raises(asm.ValidationError, match="Mock"):
        operation(Mock(spec=kind))


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
def test_an_integer_too_long_to_be_shown_is_refused_like_any_other(refused: Any) -> None:
    with pytest.raises(asm.ValidationError):
        refused()


@pytest.mark.parametrize("name", ["timeout", "statement_timeout"])
def test_a_limit_too_large_for_a_float_is_a_validation_error(name: str) -> None:
    with pytest.raises(asm.ValidationError, match=name):
        asm.SessionStore("sqlite://", **{name: HUGE})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_flag_is_true_or_false_and_nothing_that_counts_as_it(value: Any) -> None:
    with pytest.raises(asm.ValidationError, match="include_deleted must be True or False"):
        sessions.list_sessions(include_deleted=value)


def test_a_dsn_of_another_class_is_what_it_spells() -> None:
    assert dsn.parse_dsn(Unequal("sqlite:///a.db")).address == "a.db"


def test_a_value_that_cannot_be_shown_is_told_by_its_class() -> None:
    assert safe_repr([HUGE]) == "a list that cannot be shown"
    assert safe_repr(HUGE) == "an integer of 16,610 bits"
    assert safe_repr(timedelta(1)) == "datetime.timedelta(days=1)"
