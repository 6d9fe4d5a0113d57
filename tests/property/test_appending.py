"""Appends in any order and of any kind leave what a few lines of Python say they leave."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.models import new_id
from tests.conftest import an_event

SESSIONS = ["a", "b", "c"]


@dataclass(frozen=True)
class Step:
    """Some events to append: where, under which ids, and under what conditions."""

    events: list[tuple[str, str]]
    at_once: bool
    within: Literal["store", "committed", "rolled back"]
    expected_from_latest: int | None
    """Where the session is expected to stand, counted from where it stands."""


@dataclass
class Journal:
    """What a store promises about appending, kept in lists."""

    sessions: dict[str, list[asm.Event]] = field(default_factory=dict)

    def latest(self, session_id: str) -> int:
        return len(self.sessions.get(session_id, []))

    def find(self, event: asm.Event) -> asm.Event | None:
        stored = self.sessions.get(event.session_id, [])
        return next((each for each in stored if each.id == event.id), None)

    def refuses(self, batch: list[asm.Event], expected: int | None) -> bool:
        """Whether a batch meets another state than it expects, what it brought itself not counted."""
        known = {event.id: found for event in batch if (found := self.find(event))}
        if expected is None or len(known) == len({event.id for event in batch}):
            return False
        ours = [event for event in known.values() if (event.sequence_number or 0) > expected]
        return self.latest(batch[0].session_id) - len(ours) != expected

    def append(self, batch: list[asm.Event]) -> list[asm.Event]:
        return [self.find(event) or self._new(event) for event in batch]

    def _new(self, event: asm.Event) -> asm.Event:
        stored = self.sessions.setdefault(event.session_id, [])
        stored.append(_numbered(event, len(stored) + 1))
        return stored[-1]


def steps() -> st.SearchStrategy[Step]:
    id = st.sampled_from(["1", "2", "3", "4", "5", "6"])
    of_several = st.lists(st.tuples(st.sampled_from(SESSIONS), id), min_size=1, max_size=6)
    of_one = st.builds(
        lambda session, ids: [(session, each) for each in ids],
        st.sampled_from(SESSIONS),
        st.lists(id, min_size=1, max_size=6),
    )
    within = st.sampled_from(["store", "store", "committed", "rolled back"])
    return st.one_of(
        st.builds(Step, of_several, st.booleans(), within, st.none()),
        st.builds(Step, of_one, st.just(True), within, st.integers(-3, 2)),
    )


def test_every_append_answers_as_the_journal_does(store: Any) -> None:
    @given(st.lists(steps(), max_size=8))
    def check(plan: list[Step]) -> None:
        journal, prefix = Journal(), new_id("")
        for number, step in enumerate(plan):
            batch = _batch(step, prefix, number)
            expected = _expected(step, journal, batch)
            if journal.refuses(batch, expected):
                with pytest.raises(asm.SequenceConflict):
                    _append(store, step, batch, expected)
            elif step.within == "rolled back":
                _append(store, step, batch, expected)
            else:
                assert _append(store, step, batch, expected) == journal.append(batch)

        for name in SESSIONS:
            assert store.get_events(prefix + name) == journal.sessions.get(prefix + name, [])
            assert store.get_latest_sequence(prefix + name) == journal.latest(prefix + name)

    check()


def test_flushing_appends_as_the_journal_does(store: Any) -> None:
    @given(st.lists(st.lists(st.sampled_from(["1", "2", "3", "4"]), max_size=4), max_size=5))
    def check(batches: list[list[str]]) -> None:
        journal, session = Journal(), asm.Session(agent_id="agent")
        run = asm.Run(session_id=session.id)
        for number, ids in enumerate(batches):
            batch = [an_event(session.id, id=id, data={"at": [number, n]}) for n, id in enumerate(ids)]

            assert store.flush(session, run, batch) == journal.append(batch)

        assert store.get_events(session.id) == journal.sessions.get(session.id, [])

    check()


class _TakeBack(Exception):
    pass


def _append(store: Any, step: Step, batch: list[asm.Event], expected: int | None) -> list[asm.Event]:
    if step.within == "store":
        return _asked(store, step, batch, expected)
    stored: list[asm.Event] = []
    with suppress(_TakeBack), store.transaction() as tx:
        stored = _asked(tx, step, batch, expected)
        if step.within == "rolled back":
            raise _TakeBack
    return stored


def _asked(store: Any, step: Step, batch: list[asm.Event], expected: int | None) -> list[asm.Event]:
    if step.at_once:
        stored: list[asm.Event] = store.append_events(batch, expected_sequence=expected)
        return stored
    return [store.append_event(event, expected_sequence=expected) for event in batch]


def _batch(step: Step, prefix: str, number: int) -> list[asm.Event]:
    """The events of a step; no two have the same contents, whatever their ids."""
    return [
        an_event(prefix + name, id=id, data={"at": [number, n]}) for n, (name, id) in enumerate(step.events)
    ]


def _expected(step: Step, journal: Journal, batch: list[asm.Event]) -> int | None:
    if step.expected_from_latest is None:
        return None
    return max(0, journal.latest(batch[0].session_id) + step.expected_from_latest)


def _numbered(event: asm.Event, sequence_number: int) -> asm.Event:
    return asm.Event.from_dict(event.to_dict() | {"sequence_number": sequence_number})
