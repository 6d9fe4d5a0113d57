"""Scripts, run with rows that a test wrote: the queries they send, and the results they return."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from asm.engine.script import (
    Batchable,
    Operation,
    Query,
    Row,
    Rows,
    Script,
    run_script,
    run_script_async,
    scalar,
)
from asm.errors import AlreadyExists, SequenceConflict, SessionNotFound
from asm.models import Event, Run, Session
from asm.operations import appending, artifacts, events, sessions
from tests.conftest import an_artifact, an_event, numbers

T = TypeVar("T")


class Replay:
    """Gives recorded rows to queries in order, and keeps the queries."""

    def __init__(self, *recorded: Sequence[Row]) -> None:
        self.recorded = list(recorded)
        self.queries: list[Query[Any]] = []

    def __call__(self, query: Query[Any]) -> Rows:
        self.queries.append(query)
        return self.recorded.pop(0)

    async def awaited(self, query: Query[Any]) -> Rows:
        return self(query)

    @property
    def names(self) -> list[str]:
        return [query.query for query in self.queries]


def count_of(query: str) -> Query[int]:
    return Query(query, {}, scalar)


def sum_of_two() -> Script[int]:
    left = yield from count_of("left")
    right = yield from count_of("right")
    return int(left + right)


def row_of(event: Event, sequence_number: int) -> Row:
    return (
        event.id,
        str(event.type),
        event.timestamp,
        event.session_id,
        event.run_id,
        sequence_number,
        "{}",
        "{}",
        event.schema_version,
        event.provider,
        event.correlation_id,
    )


def test_a_query_is_a_script_of_itself() -> None:
    replay = Replay([(7,)])

    result = run_script(iter(count_of("count_things")), replay)

    assert (result, replay.names) == (7, ["count_things"])


def test_each_query_of_a_script_receives_its_rows() -> None:
    replay = Replay([(3,)], [(4,)])

    assert run_script(sum_of_two(), replay) == 7


def test_a_script_sends_its_queries_in_order() -> None:
    replay = Replay([(3,)], [(4,)])

    run_script(sum_of_two(), replay)

    assert replay.names == ["left", "right"]


def test_an_awaited_script_returns_the_same_result() -> None:
    replay = Replay([(3,)], [(4,)])

    assert asyncio.run(run_script_async(sum_of_two(), replay.awaited)) == 7


def test_an_error_of_a_query_ends_the_script() -> None:
    def execute(_: Query[Any]) -> Rows:
        raise ConnectionResetError("connection lost")

    with pytest.raises(ConnectionResetError, match="connection lost"):
        run_script(sum_of_two(), execute)


def test_inside_a_script_the_conflict_script_replaces_a_query() -> None:
    replay = Replay([(2,)])
    optimistic = Query[int]("optimistic", {}, scalar, on_conflict=lambda: iter(count_of("certain")))

    result = run_script(iter(optimistic), replay)

    assert (result, replay.names) == (2, ["certain"])


def test_an_appended_event_carries_the_number_of_the_row() -> None:
    event = an_event()

    stored = result_of(appending.append_event(event), [(12,)])

    assert (stored.id, stored.sequence_number) == (event.id, 12)


def test_an_idempotent_append_locks_the_counter_finds_stored_events_and_appends() -> None:
    replay = Replay([], [], counters(ses_1=5))

    run_script(iter(appending.append_event(an_event())), replay)

    assert replay.names == ["lock_counters", "find_events", "append_events"]


def test_an_idempotent_append_looks_for_no_events_of_a_session_without_a_counter() -> None:
    replay = Replay([("ses_1",)], counters(ses_1=1))

    run_script(iter(appending.append_event(an_event())), replay)

    assert replay.names == ["lock_counters", "append_events"]


def test_an_idempotent_append_does_not_append_a_stored_event() -> None:
    event = an_event()
    replay = Replay([], [row_of(event, 2)])

    stored = run_script(iter(appending.append_event(event)), replay)

    assert (stored.sequence_number, replay.names) == (2, ["lock_counters", "find_events"])


def test_an_idempotent_append_locks_the_sessions_in_the_order_of_their_ids() -> None:
    replay = Replay([], [], counters(a=1, b=1, c=1))

    run_script(iter(appending.append_events([an_event("c"), an_event("a"), an_event("b")])), replay)

    assert replay.queries[0].params == {"session_ids": ["a", "b", "c"]}


def test_a_batch_is_numbered_in_its_order_within_each_session() -> None:
    batch = [an_event("a"), an_event("b"), an_event("a"), an_event("b"), an_event("a")]

    stored = result_of(appending.append_events(batch), counters(b=7, a=3))

    assert numbers(stored) == [1, 6, 2, 7, 3]


def test_appends_of_two_callers_merge_into_one_query() -> None:
    one, two = appending.append_event(an_event("a")), appending.append_event(an_event("a"))
    assert isinstance(one, Batchable)
    assert isinstance(two, Batchable)

    merged = one.merge([*one.items, *two.items]).read(counters(a=9))

    assert numbers([one.extract(merged), two.extract(merged)]) == [8, 9]


def test_appends_with_and_without_sessions_merge_into_one_query() -> None:
    """Each session is sent once, as ensuring one after another would leave it: with the newest time."""
    first = Session(id="a", agent_id="first", tags=["x"])
    later = replace(first, agent_id="later", updated_at=first.updated_at + timedelta(seconds=1))
    other = Session(id="b", agent_id="other", deleted_at=first.created_at)
    appends = [
        appending.append_event(an_event("a"), session=first),
        appending.append_event(an_event("c")),
        appending.append_events([an_event("b"), an_event("b")], session=other),
        appending.append_event(an_event("a"), session=later),
        appending.append_event(an_event("a"), session=first),
    ]
    batchable = [each for each in appends if isinstance(each, Batchable)]

    query = batchable[0].merge([item for each in batchable for item in each.items])

    assert isinstance(query, Query)
    assert (len(batchable), query.query) == (5, "append_events_with_sessions")
    assert {name: query.params[f"ensured_{name}"] for name in ("id", "agent_id", "updated_at", "tags")} == {
        "id": ["a", "b"],
        "agent_id": ["first", "other"],
        "updated_at": [later.updated_at, other.updated_at],
        "tags": ['["x"]', "[]"],
    }


def test_an_event_that_occurs_twice_in_a_batch_is_sent_once() -> None:
    event = an_event()
    operation = appending.append_events([event, event])
    assert isinstance(operation, Batchable)

    query = operation.merge(operation.items)
    assert isinstance(query, Query)
    assert query.params["ids"] == [event.id]


def test_a_batch_too_large_for_one_statement_is_sent_in_several() -> None:
    many = [an_event() for _ in range(appending.EVENTS_PER_STATEMENT + 1)]
    replay = Replay([], [], [], counters(ses_1=appending.EVENTS_PER_STATEMENT), counters(ses_1=len(many)))

    stored = run_script(iter(appending.append_events(many)), replay)

    assert numbers(stored) == list(range(1, len(many) + 1))


def test_an_empty_batch_sends_no_query() -> None:
    replay = Replay()

    assert (run_script(iter(appending.append_events([])), replay), replay.names) == ([], [])


def test_an_append_at_the_expected_sequence_succeeds() -> None:
    replay = Replay([], [], [(4,)], counters(ses_1=5))

    stored = run_script(iter(appending.append_event(an_event(), expected_sequence=4)), replay)

    assert stored.sequence_number == 5


def test_an_append_at_another_sequence_sends_no_write() -> None:
    replay = Replay([], [], [(4,)])

    with pytest.raises(SequenceConflict):
        run_script(iter(appending.append_event(an_event(), expected_sequence=3)), replay)

    assert replay.names == ["lock_counters", "find_events", "get_latest_sequence"]


def test_deleting_a_session_locks_its_counter_before_its_rows_are_deleted() -> None:
    replay = Replay([], [], [], [])

    run_script(sessions.delete_session("ses_1"), replay)

    assert replay.names == [
        *("lock_counters", "delete_session", "delete_session_rows", "delete_session_artifacts")
    ]


def test_a_flush_inside_a_transaction_appends_and_saves_session_and_run() -> None:
    session = Session(agent_id="a")
    replay = Replay([], [], counters(**{session.id: 1}), [], [])

    run_script(sessions.flush(session, Run(session_id=session.id), [an_event(session.id)]), replay)

    assert replay.names == ["lock_counters", "find_events", "append_events", "save_session", "save_run"]


def test_a_session_without_a_row_is_not_found() -> None:
    with pytest.raises(SessionNotFound) as missing:
        sessions.get_session("ses_1").read([])

    assert missing.value.details == {"session_id": "ses_1"}


def test_a_registration_without_a_row_means_that_the_key_exists() -> None:
    with pytest.raises(AlreadyExists):
        artifacts.register(an_artifact()).read([])


def test_invalid_input_is_refused_before_a_query_exists() -> None:
    with pytest.raises(ValueError, match="session_id"):
        events.get_events("")


def test_a_repeated_append_at_the_expected_sequence_returns_the_stored_event() -> None:
    event = an_event()
    run_script(
        iter(appending.append_event(event, expected_sequence=4)), Replay([], [], [(4,)], counters(ses_1=5))
    )

    stored = run_script(
        iter(appending.append_event(event, expected_sequence=4)), Replay([], [row_of(event, 5)])
    )

    assert stored.sequence_number == 5


def counters(**counters: int) -> list[Row]:
    """The row that an append of a batch returns: the counters after it."""
    return [(json.dumps(counters),)]


def result_of(operation: Operation[T], rows: Rows) -> T:
    """The result of a batchable operation that is sent alone and receives these rows."""
    assert isinstance(operation, Batchable)
    query = operation.merge(operation.items)
    assert isinstance(query, Query)
    return operation.extract(query.read(rows))
