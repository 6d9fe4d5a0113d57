"""Plans, driven by hand: what they ask, and what they make of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
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
from asm.operations import artifacts, events, sessions
from tests.conftest import an_artifact, an_event, numbers

T = TypeVar("T")


class Replay:
    """Answers that were written down before, and the questions they were given to."""

    def __init__(self, *answers: Sequence[Row]) -> None:
        self.answers = list(answers)
        self.asked: list[Query[Any]] = []

    def __call__(self, ask: Query[Any]) -> Rows:
        self.asked.append(ask)
        return self.answers.pop(0)

    async def awaited(self, ask: Query[Any]) -> Rows:
        return self(ask)

    @property
    def queries(self) -> list[str]:
        return [ask.query for ask in self.asked]


def count_of(query: str) -> Query[int]:
    return Query(query, {}, scalar)


def sum_of_two() -> Script[int]:
    abandoned = yield from count_of("left")
    right = yield from count_of("right")
    return int(abandoned + right)


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


def test_an_ask_is_a_plan_of_itself() -> None:
    script = Replay([(7,)])

    answer = run_script(iter(count_of("count_things")), script)

    assert (answer, script.queries) == (7, ["count_things"])


def test_driving_a_plan_gives_each_question_its_answer() -> None:
    script = Replay([(3,)], [(4,)])

    assert run_script(sum_of_two(), script) == 7


def test_a_plan_asks_in_its_order() -> None:
    script = Replay([(3,)], [(4,)])

    run_script(sum_of_two(), script)

    assert script.queries == ["left", "right"]


def test_driving_awaited_gives_the_same() -> None:
    script = Replay([(3,)], [(4,)])

    assert asyncio.run(run_script_async(sum_of_two(), script.awaited)) == 7


def test_an_error_of_an_answer_ends_the_plan() -> None:
    def answer(_: Query[Any]) -> Rows:
        raise ConnectionResetError("cut")

    with pytest.raises(ConnectionResetError, match="cut"):
        run_script(sum_of_two(), answer)


def test_inside_a_plan_a_bet_is_not_made() -> None:
    script = Replay([(2,)])
    run_sequentially = Query[int]("bet", {}, scalar, on_conflict=lambda: iter(count_of("certain")))

    run_script(iter(run_sequentially), script)

    assert script.queries == ["certain"]


def test_inside_a_plan_what_is_asked_instead_of_a_bet_gives_the_answer() -> None:
    run_sequentially = Query[int]("bet", {}, scalar, on_conflict=lambda: iter(count_of("certain")))

    assert run_script(iter(run_sequentially), Replay([(2,)])) == 2


def test_an_appended_event_carries_the_number_of_the_row() -> None:
    event = an_event()

    stored = answered(events.append_event(event), [(12,)])

    assert (stored.id, stored.sequence_number) == (event.id, 12)


def test_settling_locks_looks_and_appends() -> None:
    script = Replay([("ses_1", 4)], [], standing(ses_1=5))

    run_script(iter(events.append_event(an_event())), script)

    assert script.queries == ["lock_counters", "find_events", "append_events"]


def test_settling_appends_nothing_that_is_there() -> None:
    event = an_event()
    script = Replay([("ses_1", 4)], [row_of(event, 2)])

    stored = run_script(iter(events.append_event(event)), script)

    assert (stored.sequence_number, script.queries) == (2, ["lock_counters", "find_events"])


def test_settling_locks_the_sessions_in_one_order() -> None:
    script = Replay([("a", 0), ("b", 0), ("c", 0)], [], standing(a=1, b=1, c=1))

    run_script(iter(events.append_events([an_event("c"), an_event("a"), an_event("b")])), script)

    assert script.asked[0].params == {"session_ids": ["a", "b", "c"]}


def test_a_batch_is_numbered_in_its_order_within_each_session() -> None:
    batch = [an_event("a"), an_event("b"), an_event("a"), an_event("b"), an_event("a")]

    stored = answered(events.append_events(batch), standing(b=7, a=3))

    assert numbers(stored) == [1, 6, 2, 7, 3]


def test_the_events_of_several_callers_are_one_question() -> None:
    one, two = events.append_event(an_event("a")), events.append_event(an_event("a"))
    assert isinstance(one, Batchable)
    assert isinstance(two, Batchable)

    answers = one.merge([*one.items, *two.items]).read(standing(a=9))

    assert numbers([one.answer(answers), two.answer(answers)]) == [8, 9]


def test_an_event_that_stands_twice_in_a_batch_is_sent_once() -> None:
    event = an_event()
    question = events.append_events([event, event])
    assert isinstance(question, Batchable)

    assert question.merge(question.items).params["ids"] == [event.id]


def test_a_batch_too_large_for_a_statement_is_sent_in_several() -> None:
    many = [an_event() for _ in range(events.EVENTS_PER_STATEMENT + 1)]
    script = Replay(
        [("ses_1", 0)], [], [], standing(ses_1=events.EVENTS_PER_STATEMENT), standing(ses_1=len(many))
    )

    stored = run_script(iter(events.append_events(many)), script)

    assert numbers(stored) == list(range(1, len(many) + 1))


def test_an_empty_batch_asks_nothing() -> None:
    script = Replay()

    assert (run_script(iter(events.append_events([])), script), script.queries) == ([], [])


def test_an_append_at_the_expected_place_goes_on() -> None:
    script = Replay([("ses_1", 4)], [], standing(ses_1=5))

    stored = run_script(iter(events.append_event(an_event(), expected_sequence=4)), script)

    assert stored.sequence_number == 5


def test_an_append_at_another_place_asks_for_nothing_to_be_written() -> None:
    script = Replay([("ses_1", 4)], [])

    with pytest.raises(SequenceConflict):
        run_script(iter(events.append_event(an_event(), expected_sequence=3)), script)

    assert script.queries == ["lock_counters", "find_events"]


def test_deleting_a_session_takes_its_counter_last() -> None:
    script = Replay([("ses_1", 0)], [], [])

    run_script(sessions.delete_session("ses_1"), script)

    assert script.queries == ["lock_counters", "delete_session", "delete_counter"]


def test_flushing_is_one_plan_that_saves_session_and_run() -> None:
    session = Session(agent_id="a")
    script = Replay([(session.id, 0)], [], standing(**{session.id: 1}), [], [])

    run_script(sessions.flush(session, Run(session_id=session.id), [an_event(session.id)]), script)

    assert script.queries == ["lock_counters", "find_events", "append_events", "save_session", "save_run"]


def test_no_row_for_a_session_means_not_found() -> None:
    with pytest.raises(SessionNotFound) as missing:
        sessions.get_session("ses_1").read([])

    assert missing.value.details == {"session_id": "ses_1"}


def test_no_row_for_a_registration_means_that_the_key_is_taken() -> None:
    with pytest.raises(AlreadyExists):
        artifacts.register(an_artifact()).read([])


def test_making_a_question_of_bad_input_fails_before_anything_is_asked() -> None:
    with pytest.raises(ValueError, match="session_id"):
        events.get_events("")


def test_an_append_whose_answer_was_lost_is_answered_when_asked_again() -> None:
    event = an_event()
    run_script(
        iter(events.append_event(event, expected_sequence=4)), Replay([("ses_1", 4)], [], standing(ses_1=5))
    )

    stored = run_script(
        iter(events.append_event(event, expected_sequence=4)), Replay([("ses_1", 5)], [row_of(event, 5)])
    )

    assert stored.sequence_number == 5


def standing(**counters: int) -> list[Row]:
    """What says where sessions stand, after a batch of events."""
    return [(json.dumps(counters),)]


def answered(question: Operation[T], rows: Rows) -> T:
    """What a question that is asked by itself makes of the rows."""
    assert isinstance(question, Batchable)
    return question.answer(question.merge(question.items).read(rows))
