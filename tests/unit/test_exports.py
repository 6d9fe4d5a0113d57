"""SessionExport: its defaults and its validation."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import asm

SESSION = asm.Session(agent_id="a", id="ses_1")


def an_event(number: int | None, session_id: str = "ses_1") -> asm.Event:
    return asm.Event(type="message_sent", session_id=session_id, sequence_number=number)


def an_export(*numbers: int, **fields: Any) -> asm.SessionExport:
    run = asm.Run(session_id="ses_1", input=[1])
    events = [an_event(number) for number in numbers]
    parts: dict[str, Any] = {"session": SESSION, "runs": [run], "events": events}
    return asm.SessionExport(**(parts | fields))


def test_without_a_last_sequence_an_export_ends_with_its_last_event() -> None:
    export = an_export(2, 5)
    assert (export.last_sequence, export.pruned_events) == (5, 3)


def test_an_export_keeps_a_given_counter() -> None:
    export = an_export(2, 5, last_sequence=9, pruned_events=7)
    assert (export.last_sequence, export.pruned_events) == (9, 7)


def test_exports_with_equal_contents_are_equal() -> None:
    export = an_export(1)
    same = asm.SessionExport(session=SESSION, runs=list(export.runs), events=list(export.events))
    assert (export == same, hash(export) == hash(same), export == an_export(1)) == (True, True, False)


def test_from_dict_reverses_to_dict() -> None:
    export = an_export(2, 5, last_sequence=9, pruned_events=7)
    assert asm.SessionExport.from_dict(export.to_dict()) == export


def test_a_dict_without_a_counter_is_an_export() -> None:
    export = an_export(1, 2)
    parts = {name: value for name, value in export.to_dict().items() if name in ("session", "runs", "events")}
    assert asm.SessionExport.from_dict(parts) == export


@pytest.mark.parametrize(
    ("numbers", "counter"),
    [
        ([], {"last_sequence": 2**52}),
        ([], {"pruned_events": 5}),
        ([], {"last_sequence": 3, "pruned_events": 2}),
        ([1, 2], {"last_sequence": 2, "pruned_events": 1}),
        ([1, 3], {"last_sequence": 3}),
        ([1, 3], {"pruned_events": 2}),
        ([2, 5], {"last_sequence": 9, "pruned_events": 3}),
    ],
)
def test_an_export_that_does_not_add_up_is_refused(numbers: list[int], counter: dict[str, int]) -> None:
    for make in (an_export, partial(from_dict, an_export(*numbers))):
        with pytest.raises(asm.ValidationError, match=r"does not add up: .*: correct pruned_events"):
            make(*numbers, **counter)


def from_dict(export: asm.SessionExport, *_: int, **changes: Any) -> asm.SessionExport:
    counter = {"last_sequence": 0, "pruned_events": 0, **changes}
    return asm.SessionExport.from_dict({**export.to_dict(), **counter})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"session": "ses_1"}, "session must be a Session, not str"),
        ({"runs": ()}, "runs must be a list, not tuple"),
        ({"runs": [SESSION]}, r"runs\[0\] must be a Run, not Session"),
        ({"runs": [asm.Run(session_id="ses_2")]}, r"runs\[0\] belongs to session 'ses_2', not to 'ses_1'"),
        ({"events": [an_event(1), an_event(2, "ses_2")]}, r"events\[1\] belongs to session 'ses_2'"),
        ({"events": [an_event(None)]}, r"events\[0\] has the sequence number None, which must be 1 or more"),
        ({"events": [an_event(0)]}, r"events\[0\] has the sequence number 0, which must be 1 or more"),
        ({"events": [an_event(3), an_event(3)]}, r"events\[1\] has the sequence number 3, .* 4 or more"),
        ({"events": [an_event(3)], "last_sequence": 2}, "last_sequence is 2, but the export has an event 3"),
        ({"last_sequence": -1}, "last_sequence must be from 0"),
        ({"last_sequence": 2**53, "pruned_events": 2**53}, "last_sequence must be from 0 to 9,007"),
        ({"last_sequence": 10**5_000}, "last_sequence must be from 0 to 9,007"),
        ({"last_sequence": 3, "pruned_events": -1}, "pruned_events must be from 0"),
        ({"last_sequence": 3, "pruned_events": 1.5}, "pruned_events must be a whole number"),
    ],
)
def test_an_invalid_export_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        an_export(**fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"SessionExport\.from_dict takes a dict, not list"),
        ({}, "the export has no session"),
        ({"session": SESSION.to_dict(), "event": []}, "SessionExport has no field 'event'"),
        ({"session": {"id": "ses_1"}}, "session: .*agent_id"),
        ({"session": SESSION.to_dict(), "runs": {}}, "runs must be a list, not dict"),
        ({"session": SESSION.to_dict(), "runs": [{"odd": 1}]}, r"runs\[0\]: Run has no field 'odd'"),
        ({"session": SESSION.to_dict(), "events": [3]}, r"events\[0\]: Event\.from_dict takes a dict"),
    ],
)
def test_an_invalid_dict_is_refused(values: Any, message: str) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        asm.SessionExport.from_dict(values)
