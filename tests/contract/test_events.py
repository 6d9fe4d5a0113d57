"""What a store promises about events: their order, their identity, and how they are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

import asm
from tests.conftest import an_event, events_of, numbers

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class TestAppending:
    def test_an_appended_event_is_read_back_equal(self, store: Any) -> None:
        event = an_event(
            type="tool_call_started",
            run_id="run_1",
            timestamp=NOON + timedelta(microseconds=7),
            data={"text": "\u0000 \ud83d", "n": -(2**99), "list": [0.1, None]},
            metadata={"k": {}},
            schema_version=3,
            provider="claude",
            correlation_id="c-1",
        )
        stored = store.append_event(event)
        assert store.get_events("ses_1") == [stored]
        assert stored.to_dict() == event.to_dict() | {"sequence_number": 1}

    def test_numbers_start_at_one_and_grow_by_one(self, store: Any) -> None:
        assert [store.append_event(an_event()).sequence_number for _ in range(3)] == [1, 2, 3]

    def test_each_session_has_numbers_of_its_own(self, store: Any) -> None:
        assert [store.append_event(an_event(session)).sequence_number for session in "abab"] == [1, 1, 2, 2]

    def test_a_sequence_number_given_by_the_caller_is_ignored(self, store: Any) -> None:
        assert store.append_event(an_event(sequence_number=77)).sequence_number == 1

    def test_an_event_may_come_before_its_session(self, store: Any) -> None:
        store.append_event(an_event("ses_later"))
        store.save_session(asm.Session(agent_id="a", id="ses_later"))
        assert numbers(store.get_events("ses_later")) == [1]

    def test_a_refused_event_leaves_no_gap(self, store: Any) -> None:
        event = an_event(data={"items": [{"score": 1.0}]})
        event.data["items"][0]["score"] = float("inf")
        with pytest.raises(asm.ValidationError, match=r"data\.items\[0\]\.score"):
            store.append_event(event)
        assert store.append_event(an_event()).sequence_number == 1

    def test_the_latest_number_of_an_empty_session_is_zero(self, store: Any) -> None:
        assert store.get_latest_sequence("ses_1") == 0

    def test_the_latest_number_is_that_of_the_last_event(self, store: Any) -> None:
        store.append_events(events_of("ses_1", 3))
        assert store.get_latest_sequence("ses_1") == 3

    def test_only_events_can_be_appended(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="append_event takes an Event, not dict"):
            store.append_event({"type": "message_sent"})

    def test_a_large_document_is_kept_whole(self, store: Any) -> None:
        event = an_event(data={"text": "é漢" * 500_000})
        store.append_event(event)
        assert store.get_events("ses_1")[0].data == event.data


class TestIdentity:
    def test_appending_the_same_id_twice_returns_the_first(self, store: Any) -> None:
        first = store.append_event(an_event(id="evt_1", data={"n": 1}))
        again = store.append_event(an_event(id="evt_1", data={"n": 2}))
        assert again == first

    def test_appending_the_same_id_twice_advances_no_counter(self, store: Any) -> None:
        for _ in range(3):
            store.append_event(an_event(id="evt_1"))
        assert (store.append_event(an_event()).sequence_number, len(store.get_events("ses_1"))) == (2, 2)

    def test_the_same_id_in_two_sessions_is_two_events(self, store: Any) -> None:
        assert [store.append_event(an_event(each, id="evt_1")).sequence_number for each in "ab"] == [1, 1]

    def test_the_same_id_twice_in_one_batch_is_one_event(self, store: Any) -> None:
        batch = [an_event(id="x", data={"n": 1}), an_event(id="y"), an_event(id="x", data={"n": 2})]
        stored = store.append_events(batch)
        assert numbers(stored) == [1, 2, 1]
        assert [event.data for event in store.get_events("ses_1")] == [{"n": 1}, {}]

    def test_a_batch_that_is_partly_stored_appends_only_the_rest(self, store: Any) -> None:
        old = store.append_events(events_of("ses_1", 2))
        new = events_of("ses_1", 2)
        stored = store.append_events([new[0], old[1], new[1], old[0]])
        assert numbers(stored) == [3, 2, 4, 1]
        assert store.append_event(an_event()).sequence_number == 5

    def test_a_batch_appended_again_returns_the_same_events(self, store: Any) -> None:
        batch = [event for pair in zip(events_of("a", 5), events_of("b", 5), strict=True) for event in pair]
        assert store.append_events(batch) == store.append_events(batch)


class TestBatches:
    def test_a_batch_is_one_block_in_the_order_given(self, store: Any) -> None:
        batch = events_of("ses_1", 50)
        assert numbers(store.append_events(batch)) == list(range(1, 51))
        assert [event.id for event in store.get_events("ses_1")] == [event.id for event in batch]

    def test_a_batch_may_span_sessions(self, store: Any) -> None:
        store.append_event(an_event("b"))
        batch = [an_event(session) for session in "abcab"]
        assert numbers(store.append_events(batch)) == [1, 2, 1, 2, 3]

    def test_an_empty_batch_appends_nothing(self, store: Any) -> None:
        assert store.append_events([]) == []

    def test_a_batch_may_be_any_iterable(self, store: Any) -> None:
        assert numbers(store.append_events(event for event in events_of("ses_1", 2))) == [1, 2]

    def test_a_generator_of_events_is_consumed_once(self, store: Any) -> None:
        assert numbers(store.append_events(iter(events_of("ses_1", 3)), expected_sequence=0)) == [1, 2, 3]
        assert len(store.append_events(iter(events_of("ses_2", 1_500)))) == 1_500

    def test_a_batch_larger_than_a_statement_is_one_block(self, store: Any) -> None:
        batch = events_of("ses_1", 2_500)
        assert numbers(store.append_events(batch)) == list(range(1, 2_501))

    def test_a_batch_larger_than_a_statement_is_idempotent(self, store: Any) -> None:
        batch = events_of("ses_1", 2_100)
        stored = store.append_events(batch)
        assert store.append_events([*batch[1_000:], an_event(id="new")])[:-1] == stored[1_000:]
        assert store.get_latest_sequence("ses_1") == 2_101

    def test_one_invalid_event_refuses_the_whole_batch(self, store: Any) -> None:
        batch = events_of("ses_1", 3)
        batch[2].data["bad"] = {1, 2}
        with pytest.raises(asm.ValidationError, match=r"data\.bad"):
            store.append_events(batch)
        assert store.get_events("ses_1") == []

    @pytest.mark.parametrize("events", [an_event(), None, 7, ["text"], [None]])
    def test_an_invalid_batch_is_refused(self, store: Any, events: Any) -> None:
        with pytest.raises(asm.ValidationError):
            store.append_events(events)

    def test_optional_fields_without_a_value_are_read_back_as_none(self, store: Any) -> None:
        batch = [an_event(), an_event(run_id="r", provider="p", correlation_id="c"), an_event()]
        store.append_events(batch)
        kept = store.get_events("ses_1")
        assert [(e.run_id, e.provider, e.correlation_id) for e in kept] == [
            (None,) * 3,
            ("r", "p", "c"),
            (None,) * 3,
        ]


class TestExpectedSequence:
    def test_an_append_at_the_expected_number_succeeds(self, store: Any) -> None:
        store.append_event(an_event(), expected_sequence=0)
        assert store.append_event(an_event(), expected_sequence=1).sequence_number == 2

    @pytest.mark.parametrize("expected", [0, 2, 99])
    def test_an_append_at_another_number_is_a_conflict(self, store: Any, expected: int) -> None:
        store.append_event(an_event())
        with pytest.raises(asm.SequenceConflict) as caught:
            store.append_event(an_event(), expected_sequence=expected)
        assert caught.value.details == {
            "session_id": "ses_1",
            "expected_sequence": expected,
            "latest_sequence": 1,
        }

    def test_a_conflict_writes_nothing(self, store: Any) -> None:
        with pytest.raises(asm.SequenceConflict):
            store.append_events(events_of("ses_1", 2), expected_sequence=5)
        assert (store.get_latest_sequence("ses_1"), store.get_events("ses_1")) == (0, [])

    def test_a_batch_at_the_expected_number_succeeds(self, store: Any) -> None:
        store.append_event(an_event())
        assert numbers(store.append_events(events_of("ses_1", 2), expected_sequence=1)) == [2, 3]

    def test_appending_again_after_a_lost_response_succeeds(self, store: Any) -> None:
        batch = events_of("ses_1", 2)
        first = store.append_events(batch, expected_sequence=0)
        assert store.append_events(batch, expected_sequence=0) == first

    def test_appending_again_succeeds_after_later_events(self, store: Any) -> None:
        event = an_event()
        first = store.append_event(event, expected_sequence=0)
        store.append_event(an_event())
        assert store.append_event(event, expected_sequence=0) == first

    def test_the_stored_part_of_a_batch_counts_as_appended(self, store: Any) -> None:
        batch = events_of("ses_1", 3)
        store.append_events(batch[:1])
        assert numbers(store.append_events(batch, expected_sequence=0)) == [1, 2, 3]

    def test_a_partly_stored_batch_conflicts_with_events_of_others(self, store: Any) -> None:
        batch = events_of("ses_1", 2)
        store.append_event(batch[0])
        store.append_event(an_event())
        with pytest.raises(asm.SequenceConflict):
            store.append_events(batch, expected_sequence=0)

    def test_a_batch_over_several_sessions_has_no_expected_number(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="one session"):
            store.append_events([an_event("a"), an_event("b")], expected_sequence=0)

    @pytest.mark.parametrize("expected", [-1, 1.0, "1", True])
    def test_an_expected_number_is_a_whole_number(self, store: Any, expected: Any) -> None:
        with pytest.raises(asm.ValidationError, match="expected_sequence"):
            store.append_event(an_event(), expected_sequence=expected)


class TestReading:
    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, [1, 2, 3, 4, 5, 6]),
            ({"after": 2}, [3, 4, 5, 6]),
            ({"after": 0}, [1, 2, 3, 4, 5, 6]),
            ({"before": 3}, [1, 2]),
            ({"after": 2, "before": 5}, [3, 4]),
            ({"after": 5, "before": 2}, []),
            ({"after": 2**63 - 1}, []),
            ({"limit": 2}, [1, 2]),
            ({"limit": 0}, []),
            ({"after": 2, "limit": 2}, [3, 4]),
            ({"run_id": "r"}, [2, 4, 6]),
            ({"run_id": "none"}, []),
            ({"type": "acme.plan"}, [3, 6]),
            ({"type": ["acme.plan", asm.EventType.ERROR_OCCURRED]}, [1, 3, 6]),
            ({"type": []}, []),
            ({"since": NOON + timedelta(minutes=4)}, [4, 5, 6]),
            ({"since": NOON + timedelta(minutes=4), "run_id": "r", "type": "acme.plan", "limit": 1}, [6]),
        ],
    )
    def test_filters(self, store: Any, filters: dict[str, Any], expected: list[int]) -> None:
        kinds = ["error_occurred", "message_sent", "acme.plan", "message_sent", "message_sent", "acme.plan"]
        store.append_events(
            an_event(type=kind, run_id=None if n % 2 else "r", timestamp=NOON + timedelta(minutes=n))
            for n, kind in enumerate(kinds, 1)
        )
        store.append_event(an_event("another", run_id="r"))
        assert numbers(store.get_events("ses_1", **filters)) == expected

    def test_a_known_type_is_read_back_as_its_enum_member(self, store: Any) -> None:
        store.append_event(an_event(type="message_sent"))
        assert store.get_events("ses_1")[0].type is asm.EventType.MESSAGE_SENT

    def test_a_type_from_an_enum_of_the_callers_own_is_its_text(self, store: Any) -> None:
        class Planned(str, Enum):  # noqa: UP042
            PLAN = "acme.plan"

        store.append_event(an_event(type=Planned.PLAN))
        assert store.get_events("ses_1", type="acme.plan")[0].type == "acme.plan"

    def test_a_misspelt_type_in_a_filter_is_refused(self, store: Any) -> None:
        with pytest.raises(asm.InvalidEventType, match="message_snet"):
            store.get_events("ses_1", type="message_snet")

    @pytest.mark.parametrize(
        "filters",
        [
            {"limit": -1},
            {"after": -1},
            {"before": "3"},
            {"since": datetime(2026, 1, 1)},
            {"run_id": ""},
            {"after": 2**63},
        ],
    )
    def test_invalid_filters_are_refused(self, store: Any, filters: dict[str, Any]) -> None:
        with pytest.raises(asm.ValidationError):
            store.get_events("ses_1", **filters)

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1_000])
    def test_iter_events_yields_what_get_events_returns(self, store: Any, page_size: int) -> None:
        store.append_events(events_of("ses_1", 6))
        assert list(store.iter_events("ses_1", page_size=page_size)) == store.get_events("ses_1")

    def test_iter_events_accepts_the_same_filters(self, store: Any) -> None:
        store.append_events(events_of("ses_1", 9))
        chosen = {"after": 1, "before": 9, "limit": 5, "type": "message_sent"}
        assert numbers(list(store.iter_events("ses_1", page_size=2, **chosen))) == [2, 3, 4, 5, 6]

    def test_iter_events_yields_events_that_are_appended_during_it(self, store: Any) -> None:
        store.append_events(events_of("ses_1", 2))
        events = store.iter_events("ses_1", page_size=2)
        seen = [next(events), next(events)]
        store.append_event(an_event())
        assert numbers([*seen, *events]) == [1, 2, 3]

    def test_iter_events_refuses_invalid_input_when_it_is_called(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="page_size"):
            store.iter_events("ses_1", page_size=0)


class TestFlushing:
    def test_a_flush_stores_session_run_and_events(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        run = asm.Run(session_id=session.id)
        stored = store.flush(session, run, events_of(session.id, 3, run_id=run.id))
        assert numbers(stored) == [1, 2, 3]
        assert (store.get_session(session.id), store.get_run(run.id)) == (session, run)
        assert store.get_events(session.id) == stored

    def test_a_flush_accepts_any_iterable(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        run = asm.Run(session_id=session.id)
        assert numbers(store.flush(session, run, iter(events_of(session.id, 3)))) == [1, 2, 3]

    def test_a_flush_without_events_stores_session_and_run(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        run = asm.Run(session_id=session.id)
        assert store.flush(session, run) == []
        assert (store.get_session(session.id), store.get_run(run.id)) == (session, run)

    def test_a_flush_that_is_repeated_adds_nothing(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        run = asm.Run(session_id=session.id)
        events = events_of(session.id, 3)
        assert store.flush(session, run, events) == store.flush(session, run, events)
        assert store.get_latest_sequence(session.id) == 3

    def test_a_flush_with_an_invalid_event_stores_nothing(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        run = asm.Run(session_id=session.id)
        events = events_of(session.id, 2)
        events[1].metadata["bad"] = object()
        with pytest.raises(asm.ValidationError):
            store.flush(session, run, events)
        assert (store.list_sessions(), store.list_runs(session.id), store.get_events(session.id)) == (
            [],
            [],
            [],
        )

    def test_a_flush_of_rows_of_different_sessions_is_refused(self, store: Any) -> None:
        session = asm.Session(agent_id="a")
        with pytest.raises(asm.ValidationError, match="the run belongs to session 'other'"):
            store.flush(session, asm.Run(session_id="other"))
        with pytest.raises(asm.ValidationError, match="belongs to session 'other'"):
            store.flush(session, asm.Run(session_id=session.id), [an_event("other")])
