"""Random appends give the same results as a short model of them in Python."""

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
    """Events to append, given as (session, id), and how to append them."""

    events: list[tuple[str, str]]
    as_batch: bool
    within: Literal["store", "committed", "rolled back"]
    expected_from_latest: int | None
    """`expected_sequence` relative to the latest sequence of the session. None: do not pass it."""


@dataclass
class Model:
    """What a store promises about appends, implemented on lists."""

    sessions: dict[str, list[asm.Event]] = field(default_factory=dict)

    def latest(self, session_id: str) -> int:
        return len(self.sessions.get(session_id, []))

    def find(self, event: asm.Event) -> asm.Event | None:
        stored = self.sessions.get(event.session_id, [])
        return next((each for each in stored if each.id == event.id), None)

    def refuses(self, batch: list[asm.Event], expected: int | None) -> bool:
        """Whether the batch gets a SequenceConflict. Its stored events count as appended."""
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


def test_appends_give_the_results_of_the_model(store: Any) -> None:
    @given(st.lists(steps(), max_size=8))
    def check(plan: list[Step]) -> None:
        model, prefix = Model(), new_id("")
        for number, step in enumerate(plan):
            batch = _batch(step, prefix, number)
            expected = _expected(step, model, batch)
            if model.refuses(batch, expected):
                with pytest.raises(asm.SequenceConflict):
                    _append(store, step, batch, expected)
            elif step.within == "rolled back":
                _append(store, step, batch, expected)
            else:
                assert _append(store, step, batch, expected) == model.append(batch)

        for name in SESSIONS:
            assert store.get_events(prefix + name) == model.sessions.get(prefix + name, [])
            assert store.get_latest_sequence(prefix + name) == model.latest(prefix + name)

    check()


def test_flush_appends_like_the_model(store: Any) -> None:
    @given(st.lists(st.lists(st.sampled_from(["1", "2", "3", "4"]), max_size=4), max_size=5))
    def check(batches: list[list[str]]) -> None:
        model, session = Model(), asm.Session(agent_id="agent")
        run = asm.Run(session_id=session.id)
        for number, ids in enumerate(batches):
            batch = [an_event(session.id, id=id, data={"at": [number, n]}) for n, id in enumerate(ids)]

            assert store.flush(session, run, batch) == model.append(batch)

        assert store.get_events(session.id) == model.sessions.get(session.id, [])

    check()


class _Rollback(Exception):
    pass


def _append(store: Any, step: Step, batch: list[asm.Event], expected: int | None) -> list[asm.Event]:
    if step.within == "store":
        return _append_step(store, step, batch, expected)
    stored: list[asm.Event] = []
    with suppress(_Rollback), store.transaction() as tx:
        stored = _append_step(tx, step, batch, expected)
        if step.within == "rolled back":
            raise _Rollback
    return stored


def _append_step(store: Any, step: Step, batch: list[asm.Event], expected: int | None) -> list[asm.Event]:
    if step.as_batch:
        stored: list[asm.Event] = store.append_events(batch, expected_sequence=expected)
        return stored
    return [store.append_event(event, expected_sequence=expected) for event in batch]


def _batch(step: Step, prefix: str, number: int) -> list[asm.Event]:
    """The events of a step. Their contents differ even if their ids are equal."""
    return [
        an_event(prefix + name, id=id, data={"at": [number, n]}) for n, (name, id) in enumerate(step.events)
    ]


def _expected(step: Step, model: Model, batch: list[asm.Event]) -> int | None:
    if step.expected_from_latest is None:
        return None
    return max(0, model.latest(batch[0].session_id) + step.expected_from_latest)


def _numbered(event: asm.Event, sequence_number: int) -> asm.Event:
    return asm.Event.from_dict(event.to_dict() | {"sequence_number": sequence_number})
