"""The checker finds each kind of planted violation, and none in a correct history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import asm
from tests.fault.checker import (
    FAULTS,
    STUCK_S,
    Evidence,
    Row,
    Rows,
    indeterminate,
    rows_in_postgres,
    rows_in_sqlite,
    violations,
)
from tests.fault.history import (
    CANCELLED,
    DIED_BEFORE_COMMIT,
    PIECE_BYTES,
    UNTYPED,
    Key,
    Op,
    Recorder,
    Seen,
    an_event,
    contents,
    fingerprint,
    read_history,
    unfinished,
)


class History:
    """A correct history to plant violations in: operations of two writers, and the rows they left."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.rows = Rows()
        self.clock = 0.0
        self.single = self.append("a", ["e1"])
        self.batch = self.append("a", ["e2", "e3", "e4"], do="batch")
        self.spanning = self.append("a", ["e5"], ("b", ["e6", "e7"]), do="batch")
        self.expecting = self.append("b", ["e8", "e9"], do="batch", expected=2)
        self.flush = self.append("b", ["e10"], do="flush", run="run-1")
        self.rows.runs.add("run-1")
        self.rows.sessions.add("b")
        self.again = self.op("append", events=[("a", "e1")], block=self.single.block, numbers=[1])
        self.reader = self.read("a", after=1)
        self.paged = self.read("b", do="iterate")
        self.latest = self.op("latest", session="a", latest=5)
        self.late = self.append("a", ["e11"])

    def op(self, do: Any, *, writer: str = "c1", **fields: Any) -> Op:
        self.clock += 2
        op = Op(
            id=f"op{len(self.ops)}",
            writer=writer,
            do=do,
            started_at=self.clock,
            ended_at=self.clock + 1,
            **fields,
        )
        self.ops.append(op)
        return op

    def append(self, session: str, ids: list[str], *more: Any, do: Any = "append", **fields: Any) -> Op:
        events: list[Key] = [(session, id) for id in ids]
        events += [(other, id) for other, others in more for id in others]
        given = [self.store(key) for key in events]
        block = f"block{len(self.ops)}"
        return self.op(do, session=session, events=events, block=block, numbers=given, **fields)

    def store(self, key: Key) -> int:
        session, id = key
        number = self.rows.counters.get(session, (0, 0))[0] + 1
        self.rows.counters[session] = (number, 0)
        self.rows.events.append(Row(session, number, id, fingerprint(contents(id))))
        return number

    def read(self, session: str, *, after: int = 0, do: Any = "get", **fields: Any) -> Op:
        rows = [row for row in self.rows.events if row.session == session and row.number > after]
        saw = [Seen(row.number, row.id, row.fingerprint) for row in rows]
        return self.op(do, session=session, after=after, saw=saw, **fields)

    def row(self, id: str) -> int:
        return next(n for n, row in enumerate(self.rows.events) if row.id == id)

    def change(self, id: str, **fields: Any) -> None:
        at = self.row(id)
        self.rows.events[at] = self.rows.events[at]._replace(**fields)

    def drop(self, id: str) -> None:
        """Remove an event as if it had never been appended: later ones move up."""
        removed = self.rows.events.pop(self.row(id))
        self.rows.events = [
            row._replace(number=row.number - (row.session == removed.session and row.number > removed.number))
            for row in self.rows.events
        ]
        self.rows.counters[removed.session] = (self.rows.counters[removed.session][0] - 1, 0)

    def exchange(self, one: str, other: str) -> None:
        """Exchange the numbers of two events, also in the results of all operations."""
        at = {id: self.rows.events[self.row(id)].number for id in (one, other)}
        self.change(one, number=at[other])
        self.change(other, number=at[one])
        for op in self.ops:
            for n, (_, id) in enumerate(op.events):
                if id in at and op.numbers:
                    op.numbers[n] = self.rows.events[self.row(id)].number
        for op in self.ops:
            if op.saw:
                seen = {row.number: row for row in self.rows.events if row.session == op.session}
                op.saw = [Seen(n, seen[n].id, seen[n].fingerprint) for n, *_ in op.saw]

    def found(self) -> list[str]:
        return list(violations(Evidence(self.ops, self.rows)))


def without_result(op: Op) -> None:
    op.ended_at = op.numbers = op.saw = op.latest = None


def fail(op: Op, error: str) -> None:
    op.numbers = op.saw = op.latest = None
    op.error = error


def a_damaged_file(h: History) -> None:
    h.rows.integrity = "row 1 missing from index"


def a_hole_in_the_numbers(h: History) -> None:
    h.change("e11", number=7)
    h.late.numbers = [7]
    h.rows.counters["a"] = (7, 0)


def a_number_taken_twice(h: History) -> None:
    h.change("e11", number=5)


def an_event_stored_twice(h: History) -> None:
    h.store(("a", "e1"))


def a_counter_ahead(h: History) -> None:
    h.rows.counters["a"] = (7, 0)


def a_counter_behind(h: History) -> None:
    h.rows.counters["a"] = (5, 0)


def a_counter_missing(h: History) -> None:
    del h.rows.counters["a"]


def a_counter_without_its_events(h: History) -> None:
    h.rows.counters["c"] = (1, 0)


def a_pruned_event(h: History) -> None:
    h.rows.counters["a"] = (6, 1)


def an_event_that_nobody_appended(h: History) -> None:
    h.store(("a", "ghost"))


def other_contents(h: History) -> None:
    h.change("e11", fingerprint=1)


def an_acknowledged_event_lost(h: History) -> None:
    h.drop("e11")


def an_acknowledged_event_with_another_number(h: History) -> None:
    h.late.numbers = [5]


def fewer_numbers_than_events(h: History) -> None:
    h.batch.numbers = [2, 3]


def a_repeat_given_another_number(h: History) -> None:
    h.again.numbers = [2]


def a_refused_event_stored(h: History) -> None:
    fail(h.expecting, "sequence_conflict")


def an_event_of_a_killed_client_stored(h: History) -> None:
    h.late.do = "die"
    fail(h.late, DIED_BEFORE_COMMIT)


def half_a_batch(h: History) -> None:
    without_result(h.batch)
    h.drop("e4")
    without_result(h.reader)


def half_a_batch_over_sessions(h: History) -> None:
    without_result(h.spanning)
    h.drop("e5")


def another_event_within_a_batch(h: History) -> None:
    h.exchange("e4", "e5")


def a_batch_out_of_order(h: History) -> None:
    h.exchange("e2", "e3")


def another_number_than_expected(h: History) -> None:
    h.expecting.expected = 1


def a_refusal_without_reason(h: History) -> None:
    fail(h.op("append", events=[("b", "e12")], block="x", expected=5), "sequence_conflict")


def a_refusal_because_of_itself(h: History) -> None:
    fail(h.op("append", events=[("a", "e11")], block=h.late.block, expected=5), "sequence_conflict")
    h.late.expected = 5


def a_flush_without_its_run(h: History) -> None:
    without_result(h.flush)
    h.rows.runs.clear()


def a_flush_without_its_events(h: History) -> None:
    without_result(h.flush)
    h.drop("e10")
    without_result(h.paged)


def a_flush_without_its_session(h: History) -> None:
    h.rows.sessions.clear()


def a_gap_in_what_was_read(h: History) -> None:
    assert h.reader.saw
    del h.reader.saw[1]


def a_gap_before_what_was_read(h: History) -> None:
    assert h.paged.saw
    del h.paged.saw[0]


def a_gap_in_what_was_read_before_an_error(h: History) -> None:
    h.paged.error = FAULTS[0]
    a_gap_before_what_was_read(h)


def more_events_read_than_the_limit(h: History) -> None:
    h.reader.limit = 2


def another_event_read_than_stored(h: History) -> None:
    assert h.reader.saw
    h.reader.saw[1] = h.reader.saw[1]._replace(id="other")


def other_contents_read_than_stored(h: History) -> None:
    assert h.reader.saw
    h.reader.saw[1] = h.reader.saw[1]._replace(fingerprint=1)


def a_rolled_back_event_read(h: History) -> None:
    assert h.paged.saw
    h.paged.saw.append(Seen(6, "taken back", 0))


def an_acknowledged_event_not_read(h: History) -> None:
    assert h.paged.saw
    h.paged.saw.pop()


def an_acknowledged_event_not_counted(h: History) -> None:
    h.latest.latest = 4


def fewer_events_read_than_another_client_read(h: History) -> None:
    for op in (h.single, h.batch, h.spanning, h.again):
        without_result(op)
    h.latest.latest = 4


def a_latest_number_that_is_not_stored(h: History) -> None:
    h.ops.remove(h.late)
    h.rows.events.pop()
    h.rows.counters["a"] = (5, 0)
    h.latest.latest = 6


def a_part_of_a_batch_read(h: History) -> None:
    without_result(h.batch)
    h.reader.started_at = h.batch.started_at + 0.5
    h.reader.ended_at = h.batch.started_at + 0.7
    assert h.reader.saw
    del h.reader.saw[2:]


def one_writers_events_out_of_order(h: History) -> None:
    h.exchange("e1", "e11")


def two_writers_events_out_of_order(h: History) -> None:
    one, other = h.append("c", ["e20"], writer="c1"), h.append("c", ["e21"], writer="c2")
    h.exchange("e20", "e21")
    assert one.ended_at is not None
    assert one.ended_at < other.started_at


def an_operation_that_took_too_long(h: History) -> None:
    h.late.ended_at = h.late.started_at + STUCK_S + 1


def an_error_after_all_faults(h: History) -> None:
    h.read("a", is_last=True)
    fail(h.ops[-1], FAULTS[0])


def no_result_after_all_faults(h: History) -> None:
    h.read("a", is_last=True)
    without_result(h.ops[-1])


def an_error_of_the_driver(h: History) -> None:
    fail(h.op("latest", session="a"), UNTYPED)


def a_conflict_without_expected_sequence(h: History) -> None:
    fail(h.op("append", events=[("a", "e12")], block="x"), "sequence_conflict")


class Planted(NamedTuple):
    plant: Callable[[History], None]
    words: str


PLANTED = [
    Planted(a_damaged_file, "the file is damaged"),
    Planted(a_hole_in_the_numbers, "are not 1..6"),
    Planted(a_number_taken_twice, "are not 1..6"),
    Planted(an_event_stored_twice, "stored 2 times"),
    Planted(a_counter_ahead, "counter of a is at"),
    Planted(a_counter_behind, "counter of a is at"),
    Planted(a_counter_missing, "counter of a is at"),
    Planted(a_counter_without_its_events, "counter of c is at"),
    Planted(a_pruned_event, "counter of a is at"),
    Planted(an_event_that_nobody_appended, "no client appended it"),
    Planted(other_contents, "stored with other contents"),
    Planted(an_acknowledged_event_lost, "it is lost"),
    Planted(an_acknowledged_event_with_another_number, "as number 5, and it is 6"),
    Planted(fewer_numbers_than_events, "for 3 events"),
    Planted(a_repeat_given_another_number, "as number 2, and it is 1"),
    Planted(a_refused_event_stored, "was refused: sequence_conflict"),
    Planted(an_event_of_a_killed_client_stored, "was refused: died"),
    Planted(half_a_batch, "2 of 3 events"),
    Planted(half_a_batch_over_sessions, "2 of 3 events"),
    Planted(another_event_within_a_batch, "not contiguous"),
    Planted(a_batch_out_of_order, "out of order in a"),
    Planted(another_number_than_expected, "expected its session at 1"),
    Planted(a_refusal_without_reason, "no other event has number 6"),
    Planted(a_refusal_because_of_itself, "no other event has number 6"),
    Planted(a_flush_without_its_run, "the run is not stored and the events are stored"),
    Planted(a_flush_without_its_events, "the run is stored and the events are not stored"),
    Planted(a_flush_without_its_session, "its run or session is missing"),
    Planted(a_gap_in_what_was_read, "after 1 with a gap"),
    Planted(a_gap_before_what_was_read, "after 0 with a gap"),
    Planted(a_gap_in_what_was_read_before_an_error, "after 0 with a gap"),
    Planted(more_events_read_than_the_limit, "with a limit of 2"),
    Planted(another_event_read_than_stored, "and stored is"),
    Planted(other_contents_read_than_stored, "and stored is"),
    Planted(a_rolled_back_event_read, "and stored is None"),
    Planted(an_acknowledged_event_not_read, "was known before it started"),
    Planted(an_acknowledged_event_not_counted, "was known before it started"),
    Planted(fewer_events_read_than_another_client_read, "was known before it started"),
    Planted(a_latest_number_that_is_not_stored, "which is not stored"),
    Planted(a_part_of_a_batch_read, "read a part of block"),
    Planted(one_writers_events_out_of_order, "acknowledged before the append of the other started"),
    Planted(two_writers_events_out_of_order, "acknowledged before the append of the other started"),
    Planted(an_operation_that_took_too_long, "took 91 s"),
    Planted(an_error_after_all_faults, "after all faults, got storage_error"),
    Planted(no_result_after_all_faults, "after all faults, got no result"),
    Planted(an_error_of_the_driver, "failed without a reason: untyped"),
    Planted(a_conflict_without_expected_sequence, "failed without a reason: sequence_conflict"),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.plant.__name__)
def test_the_checker_finds(planted: Planted) -> None:
    history = History()
    planted.plant(history)
    assert any(planted.words in violation for violation in history.found()), history.found()


def test_the_checker_finds_nothing_in_a_correct_history() -> None:
    assert History().found() == []


def test_a_write_without_a_result_may_be_stored_or_not() -> None:
    history = History()
    without_result(history.late)
    fail(history.append("c", ["e12"]), CANCELLED)
    fail(history.op("append", events=[("c", "e13")], block="absent"), "timeout")
    assert history.found() == []
    assert indeterminate(Evidence(history.ops, history.rows)) == 3


def test_a_refused_write_that_is_repeated_may_be_stored() -> None:
    history = History()
    fail(history.append("c", ["e12"], expected=0), "sequence_conflict")
    history.op("append", events=[("c", "e12")], block=history.ops[-1].block, expected=0, numbers=[1])
    assert [found for found in history.found() if "no other event has" not in found] == []


def test_a_repeated_event_may_be_within_its_block() -> None:
    history = History()
    fail(history.op("append", events=[("c", "guest")], block="lost"), "timeout")
    brought = history.append("c", ["e12", "guest", "e13"], do="batch")
    brought.repeated = [("c", "guest")]
    assert history.found() == []


def test_a_repeated_event_may_be_stored_before_its_block() -> None:
    history = History()
    history.append("c", ["guest"])
    history.store(("c", "e12"))
    history.store(("c", "e13"))
    events = [("c", "e12"), ("c", "guest"), ("c", "e13")]
    history.op("batch", events=events, repeated=[events[1]], block="x", numbers=[2, 1, 3])
    assert history.found() == []


def test_on_sqlite_an_error_is_a_refusal() -> None:
    history = History()
    fail(history.late, "storage_error")
    assert list(violations(Evidence(history.ops, history.rows))) == []
    found = list(violations(Evidence(history.ops, history.rows, refused=["storage_error"])))
    assert any("was refused: storage_error" in violation for violation in found)


def test_a_history_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    written = History().ops
    recorder = Recorder(tmp_path, "c1")
    for op in written:
        recorder.record_start(op)
        recorder.record_end(op)
    recorder.close()
    assert read_history(tmp_path) == written


def test_the_pieces_of_a_history_are_read_as_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "c1")
    op = History().batch
    op.message = "x" * (PIECE_BYTES // 2)
    for n in range(6):
        op.id = f"op{n}"
        recorder.record_start(op)
        recorder.record_end(op)
    recorder.close()
    assert len(list(tmp_path.iterdir())) > 1
    assert all(path.stat().st_size <= PIECE_BYTES for path in tmp_path.iterdir())
    assert [op.numbers for op in read_history(tmp_path)] == [[2, 3, 4]] * 6


def test_a_truncated_line_is_ignored(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "c1")
    op = History().batch
    recorder.record_start(op)
    recorder.record_end(op)
    recorder.close()
    [path] = tmp_path.glob("c1-*.jsonl")
    path.write_bytes(path.read_bytes()[:-1])
    [cut] = read_history(tmp_path)
    assert cut.ended_at is None
    assert list(unfinished([cut])) == [cut]


def test_the_rows_are_read_as_they_are_stored(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        event = an_event(("ses", "e1"), "run")
        store.flush(asm.Session(agent_id="a", id="ses"), asm.Run(session_id="ses", id="run"), [event])
    path = migrated.removeprefix("sqlite:///")
    rows = rows_in_postgres(migrated) if path == migrated else rows_in_sqlite(path)
    assert rows == Rows(
        events=[Row("ses", 1, "e1", fingerprint(contents("e1")))],
        counters={"ses": (1, 0)},
        sessions={"ses"},
        runs={"run"},
    )
