"""Compares the results that clients got with the rows in the tables, and reports contradictions.

The rows are read with the drivers, not through the store. Every check is a generator of violations as
texts; `test_checker.py` plants each of them.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from tests.fault.history import CANCELLED, DIED_BEFORE_COMMIT, Key, Op, contents, fingerprint

STUCK_S = 90.0
"""The longest an operation may take, far above all timeouts of the clients' stores."""

CONFLICT = "sequence_conflict"

REFUSED: tuple[str, ...] = (CONFLICT, DIED_BEFORE_COMMIT)
"""Errors after which nothing was written, retries included."""

REFUSED_BY_SQLITE: tuple[str, ...] = (*REFUSED, "storage_error", "storage_connection_failed", "timeout")
"""On SQLite the result of a commit cannot be lost, so nothing was written after any error."""

FAULTS = ("storage_error", "storage_connection_failed", "timeout", CANCELLED, DIED_BEFORE_COMMIT)
"""The errors that injected faults explain."""


class Row(NamedTuple):
    """An event as it is stored."""

    session: str
    number: int
    id: str
    fingerprint: int


@dataclass(kw_only=True)
class Rows:
    """The stored rows."""

    events: list[Row] = field(default_factory=list)
    counters: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The last number and the number of pruned events of each session."""
    sessions: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    integrity: str = "ok"
    """The result of SQLite's integrity check."""


class Evidence:
    """Operations and rows, indexed for the checks."""

    def __init__(self, ops: Sequence[Op], rows: Rows, *, refused: Iterable[str] = REFUSED) -> None:
        self.ops = ops
        self.rows = rows
        self.refused = frozenset(refused)
        self.by_key = {(row.session, row.id): row for row in rows.events}
        self.by_session: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(rows.events, key=attrgetter("session", "number")):
            self.by_session[row.session].append(row)
        self.by_number = {(row.session, row.number): row for row in rows.events}

    @cached_property
    def appends(self) -> dict[Key, list[Op]]:
        """The operations that append each event."""
        appends: dict[Key, list[Op]] = defaultdict(list)
        for op in self.ops:
            for key in op.events:
                appends[key].append(op)
        return appends

    @cached_property
    def acknowledged_at(self) -> dict[Key, float]:
        """When an operation that appended an event first succeeded."""
        first: dict[Key, float] = {}
        for op in self.ops:
            if op.succeeded and op.ended_at is not None:
                for key in op.events:
                    first[key] = min(first.get(key, op.ended_at), op.ended_at)
        return first

    @cached_property
    def blocks(self) -> dict[str, list[Op]]:
        """The operations that write the same block, in order of their starts."""
        blocks: dict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            if op.block:
                blocks[op.block].append(op)
        return blocks

    @cached_property
    def known(self) -> dict[str, tuple[list[float], list[int]]]:
        """The moments and numbers, both increasing, up to which every later read must see a session."""
        known: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for op in self.ops:
            if op.ended_at is None:
                continue
            for (session, _), number in zip(op.events, op.numbers or [], strict=False):
                known[session].append((op.ended_at, number))
            if op.saw:
                known[op.session].append((op.ended_at, op.saw[-1].number))
            if op.latest is not None:
                known[op.session].append((op.ended_at, op.latest))
        return {session: _growing(each) for session, each in known.items()}

    def known_at(self, session: str, moment: float) -> int:
        """The highest number that any client knew before a moment."""
        times, numbers = self.known.get(session, ([], []))
        before = bisect_left(times, moment)
        return numbers[before - 1] if before else 0

    def is_refused(self, op: Op) -> bool:
        return op.error in self.refused


def violations(evidence: Evidence) -> Iterator[str]:
    """All violations."""
    for check in CHECKS:
        yield from check(evidence)


def undamaged(evidence: Evidence) -> Iterator[str]:
    if evidence.rows.integrity != "ok":
        yield f"the file is damaged: {evidence.rows.integrity}"


def numbered_without_holes(evidence: Evidence) -> Iterator[str]:
    for session, rows in evidence.by_session.items():
        if [row.number for row in rows] != list(range(1, len(rows) + 1)):
            wrong = next(row for n, row in enumerate(rows, 1) if row.number != n)
            yield f"numbers of {session} are not 1..{len(rows)}: wrong from {wrong.number} on"


def stored_once(evidence: Evidence) -> Iterator[str]:
    for key, times in Counter((row.session, row.id) for row in evidence.rows.events).items():
        if times > 1:
            yield f"event {key} is stored {times} times"


def counted_right(evidence: Evidence) -> Iterator[str]:
    sessions = {*evidence.by_session, *evidence.rows.counters}
    for session in sorted(sessions):
        stored = len(evidence.by_session.get(session, ()))
        counter = evidence.rows.counters.get(session, (0, 0))
        if counter != (stored, 0):
            yield f"counter of {session} is at {counter}, last and pruned; {stored} events are stored"


def stored_as_appended(evidence: Evidence) -> Iterator[str]:
    for row in evidence.rows.events:
        if (row.session, row.id) not in evidence.appends:
            yield f"event {row.id} of {row.session} is stored, and no client appended it"
        elif row.fingerprint != fingerprint(contents(row.id)):
            yield f"event {row.id} of {row.session} is stored with other contents"


def kept_as_acknowledged(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if not (op.writes and op.succeeded):
            continue
        if op.numbers is None or len(op.numbers) != len(op.events):
            yield f"{op.id} returned numbers {op.numbers} for {len(op.events)} events"
            continue
        for key, number in zip(op.events, op.numbers, strict=True):
            row = evidence.by_key.get(key)
            if row is None:
                yield f"{op.id} stored {key} as number {number}, and it is lost"
            elif row.number != number:
                yield f"{op.id} stored {key} as number {number}, and it is {row.number}"


def absent_when_refused(evidence: Evidence) -> Iterator[str]:
    for key, ops in evidence.appends.items():
        if key in evidence.by_key and all(evidence.is_refused(op) for op in ops):
            yield f"{key} is stored, and {ops[0].id} was refused: {ops[0].error}"


def whole_blocks(evidence: Evidence) -> Iterator[str]:
    """A block is stored whole or not at all, contiguous and in order. Repeated events may be within it."""
    for block, ops in evidence.blocks.items():
        own = ops[0].own
        stored = [evidence.by_key[key] for key in own if key in evidence.by_key]
        if 0 < len(stored) < len(own):
            yield f"of block {block} {len(stored)} of {len(own)} events are stored"
        for session in {row.session for row in stored}:
            numbers = [row.number for row in stored if row.session == session]
            if any(one >= next for one, next in pairwise(numbers)):
                yield f"block {block} is out of order in {session}: {numbers}"
            own_events = set(ops[0].events)
            between = (evidence.by_number.get((session, n)) for n in range(min(numbers) + 1, max(numbers)))
            if any(row is None or (row.session, row.id) not in own_events for row in between):
                yield f"block {block} is not contiguous in {session}: {numbers}"


def expected_sequence_holds(evidence: Evidence) -> Iterator[str]:
    for block, ops in evidence.blocks.items():
        expected = ops[0].expected
        if expected is None:
            continue
        numbers = [evidence.by_key[key].number for key in ops[0].events if key in evidence.by_key]
        if numbers and numbers != list(range(expected + 1, expected + 1 + len(numbers))):
            yield f"block {block} expected its session at {expected}, and has numbers {numbers}"
        ours = set(ops[0].events)
        for op in ops:
            next_one = evidence.by_number.get((op.events[0][0], expected + 1))
            is_reason = next_one is not None and (next_one.session, next_one.id) not in ours
            if op.error == CONFLICT and not is_reason:
                yield f"{op.id} was refused, and no other event has number {expected + 1}"


def flushed_together(evidence: Evidence) -> Iterator[str]:
    for block, ops in evidence.blocks.items():
        if ops[0].run is None:
            continue
        has_run = ops[0].run in evidence.rows.runs
        has_events = ops[0].events[0] in evidence.by_key
        if has_run != has_events:
            yield f"of flush {block} the run is {_stored(has_run)} and the events are {_stored(has_events)}"
        if any(op.succeeded for op in ops) and not (has_run and ops[0].session in evidence.rows.sessions):
            yield f"flush {block} was acknowledged, and its run or session is missing"


def read_without_gaps(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if op.saw is None:
            continue
        numbers = [seen.number for seen in op.saw]
        if numbers != list(range(op.after + 1, op.after + 1 + len(numbers))):
            yield f"{op.id} read {op.session} after {op.after} with a gap: {numbers[:20]}"
        if op.limit is not None and len(numbers) > op.limit:
            yield f"{op.id} read {len(numbers)} events with a limit of {op.limit}"


def read_as_stored(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        for seen in op.saw or ():
            row = evidence.by_number.get((op.session, seen.number))
            if row is None or (row.id, row.fingerprint) != (seen.id, seen.fingerprint):
                yield f"{op.id} read {seen} in {op.session}, and stored is {row}"
                break


def read_up_to_what_was_known(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if not op.succeeded or op.writes:
            continue
        known = evidence.known_at(op.session, op.started_at)
        if op.saw is not None:
            end = op.saw[-1].number if op.saw else op.after
            known = known if op.limit is None else min(known, op.after + op.limit)
        else:
            end = op.latest or 0
        if end < known:
            yield f"{op.id} saw {op.session} up to {end}, and {known} was known before it started"
        if op.latest is not None and op.latest > len(evidence.by_session.get(op.session, ())):
            yield f"{op.id} returned latest number {op.latest} of {op.session}, which is not stored"


def read_whole_blocks(evidence: Evidence) -> Iterator[str]:
    """A read to the end in one statement returns all or nothing of a block."""
    block_of = {key: block for block, ops in evidence.blocks.items() for key in ops[0].own}
    for op in evidence.ops:
        if op.do not in ("get", "wait") or op.limit is not None or not op.succeeded or not op.saw:
            continue
        last = evidence.by_number.get((op.session, op.saw[-1].number))
        next_one = evidence.by_number.get((op.session, op.saw[-1].number + 1))
        if last is None or next_one is None:
            continue
        block = block_of.get((last.session, last.id))
        if block is not None and block == block_of.get((next_one.session, next_one.id)):
            yield f"{op.id} read a part of block {block}, up to {last.number} in {op.session}"


def ordered_in_time(evidence: Evidence) -> Iterator[str]:
    """An event acknowledged before the append of another started has the lower number."""
    for session, rows in evidence.by_session.items():
        first_acknowledged, acknowledged = float("inf"), None
        for row in reversed(rows):
            ops = evidence.appends.get((session, row.id))
            if ops and acknowledged and min(op.started_at for op in ops) > first_acknowledged:
                yield (
                    f"{session} has {row.id} as {row.number} before {acknowledged.id} as "
                    f"{acknowledged.number}, which was acknowledged before the append of the other started"
                )
                break
            at = evidence.acknowledged_at.get((session, row.id))
            if at is not None and at < first_acknowledged:
                first_acknowledged, acknowledged = at, row


def ends_in_time(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if op.ended_at is not None and op.ended_at - op.started_at > STUCK_S:
            yield f"{op.id} ({op.do}) took {op.ended_at - op.started_at:.0f} s"


def succeeds_after_the_faults(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if op.is_last and not op.succeeded:
            outcome = op.error or "no result"
            yield f"{op.id} ({op.do}), started after all faults, got {outcome}: {op.message}"


def fails_for_a_reason(evidence: Evidence) -> Iterator[str]:
    for op in evidence.ops:
        if op.error is not None and op.error not in (*FAULTS, *[CONFLICT] * (op.expected is not None)):
            yield f"{op.id} ({op.do}) failed without a reason: {op.error}: {op.message}"


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    undamaged,
    numbered_without_holes,
    stored_once,
    counted_right,
    stored_as_appended,
    kept_as_acknowledged,
    absent_when_refused,
    whole_blocks,
    expected_sequence_holds,
    flushed_together,
    read_without_gaps,
    read_as_stored,
    read_up_to_what_was_known,
    read_whole_blocks,
    ordered_in_time,
    ends_in_time,
    succeeds_after_the_faults,
    fails_for_a_reason,
)


def indeterminate(evidence: Evidence) -> int:
    """The number of writes with an unknown outcome."""
    return sum(op.writes and not op.succeeded and not evidence.is_refused(op) for op in evidence.ops)


def errors(ops: Iterable[Op]) -> Counter[str]:
    """The errors and their counts, separately for transactions, in which nothing is retried."""
    return Counter(
        f"{op.error} in a transaction" if op.do in ("transaction", "die") else op.error
        for op in ops
        if op.error and op.error not in (CANCELLED, DIED_BEFORE_COMMIT)
    )


def rows_in_sqlite(path: str) -> Rows:
    with sqlite3.connect(path) as connection:
        rows = _rows(lambda sql: connection.execute(sql).fetchall())
        [(rows.integrity,)] = connection.execute("pragma integrity_check(1)").fetchall()
    connection.close()
    return rows


def rows_in_postgres(dsn: str) -> Rows:
    with psycopg.connect(dsn) as connection:
        # One snapshot for all tables.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _rows(lambda sql: connection.execute(sql.encode()).fetchall())


def _rows(fetch: Callable[[str], list[tuple[Any, ...]]]) -> Rows:
    return Rows(
        events=[
            Row(session, number, id, fingerprint(json.loads(data)))
            for session, number, id, data in fetch(
                "select session_id, sequence_number, id, cast(data as text) from asm_events"
            )
        ],
        counters={
            session: (last, pruned)
            for session, last, pruned in fetch(
                "select session_id, last_sequence, pruned_events from asm_session_sequences"
            )
        },
        sessions={id for (id,) in fetch("select id from asm_sessions")},
        runs={id for (id,) in fetch("select id from asm_runs")},
    )


def _growing(known: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    times, highest = list[float](), list[int]()
    for moment, number in sorted(known):
        if not highest or number > highest[-1]:
            times.append(moment)
            highest.append(number)
    return times, highest


def _stored(is_stored: bool) -> str:
    return "stored" if is_stored else "not stored"
