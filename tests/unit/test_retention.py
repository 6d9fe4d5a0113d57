"""Retention: the queries that it sends, in which transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asm.engine.jobs import run_job
from asm.engine.script import Operation, Query, Rows, run_script
from asm.maintenance import retention, run
from asm.maintenance.policy import RetentionPolicy


class ScriptedDatabase:
    """Returns the given rows for the first query of each name, and no rows for others."""

    def __init__(self, **rows: Rows) -> None:
        self._rows = rows
        self.queries: list[Query[Any]] = []
        self.transactions: list[list[str]] = []

    def run(self, operation: Operation[Any]) -> Any:
        self.transactions.append([])
        return run_script(operation, self._execute)

    def _execute(self, query: Query[Any]) -> Rows:
        self.queries.append(query)
        self.transactions[-1].append(query.query)
        return self._rows.pop(query.query, [])

    def params(self, name: str) -> list[Mapping[str, Any]]:
        return [query.params for query in self.queries if query.query == name]


def with_long_sessions(**rows: Rows) -> ScriptedDatabase:
    defaults: dict[str, Rows] = {
        "find_long_sessions": [("a", 30, 0), ("b", 20, 5)],
        "lock_existing_counters": [("a", 30, 0), ("b", 20, 5)],
        "count_prunable_by_session": [("a", 20), ("b", 5)],
    }
    return ScriptedDatabase(**(defaults | rows))


def prune(database: ScriptedDatabase, **fields: Any) -> int:
    policy = RetentionPolicy(max_events_per_session=10, **fields)
    return run_job(retention.prune_session_events("a", policy), database)


def test_a_batch_is_pruned_in_one_transaction() -> None:
    database = with_long_sessions()

    number = prune(database)

    assert number == 25
    assert database.transactions == [
        ["find_long_sessions"],
        ["lock_existing_counters", "count_prunable_by_session", "prune_events"],
        ["find_long_sessions"],
    ]


def test_each_session_is_pruned_up_to_its_own_sequence_number_whatever_the_order_of_the_rows() -> None:
    database = with_long_sessions(count_prunable_by_session=[("b", 5), ("a", 20)])

    prune(database)

    (params,) = database.params("prune_events")
    assert (params["session_ids"], params["max_sequences"], params["numbers"]) == (
        ["b", "a"],
        [20, 30],
        [5, 20],
    )


def test_a_session_whose_counter_has_changed_is_not_counted() -> None:
    database = with_long_sessions(
        lock_existing_counters=[("a", 29, 0), ("b", 20, 6)], count_prunable_by_session=[]
    )

    prune(database)

    assert database.params("count_prunable_by_session")[0]["session_ids"] == []


def test_protected_types_are_never_among_the_types_to_prune_first() -> None:
    database = with_long_sessions()

    prune(database, prune_event_types_first=["run_started", "message_sent", "error_occurred"])

    assert database.params("prune_events")[0]["first_types"] == ("message_sent",)


def test_counters_are_locked_before_sessions_are_deleted() -> None:
    database = ScriptedDatabase(
        find_due_sessions=[(None, "b"), (None, "a")],
        lock_counters=[("a", 1), ("b", 2)],
        lock_due_sessions=[("a",)],
    )

    number = run_job(retention.hard_delete_expired_sessions(RetentionPolicy()), database)

    assert (number, database.params("delete_sessions")) == (1, [{"session_ids": ("a",)}])
    deletion = ["delete_sessions", "delete_artifacts_of_sessions"]
    assert ["lock_counters", "lock_due_sessions", *deletion] in database.transactions


def test_a_transaction_deletes_a_limited_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 10)
    database = ScriptedDatabase(
        find_due_sessions=[(None, name) for name in "abcde"],
        find_counters=[("a", 6, 0), ("b", 5, 0), ("c", 25, 20), ("d", 90, 0)],
    )

    run_job(retention.hard_delete_expired_sessions(RetentionPolicy()), database)

    batches = [params["session_ids"] for params in database.params("lock_due_sessions")]
    assert batches == [("a",), ("b", "c"), ("d",), ("e",)]


def test_events_that_are_appended_during_a_run_do_not_prolong_it() -> None:
    class Growing(ScriptedDatabase):
        def _execute(self, query: Query[Any]) -> Rows:
            rows = super()._execute(query)
            always: dict[str, Rows] = {
                "count_stored": [(70,)],
                "count_stored_by_counters": [(0, 70)],
                "find_oldest_events": [("a", 90, 0, query.params.get("limit"), None)],
                "lock_existing_counters": [("a", 90, 0)],
                "count_prunable_by_session": [("a", sum(query.params.get("limits", [])))],
            }
            return always.get(query.query, rows)

    report = run_job(retention.execute(RetentionPolicy(max_total_events=50)), Growing())

    assert report.events_pruned == 20


def test_a_dry_run_sends_only_reading_queries() -> None:
    database = with_long_sessions(
        find_due_sessions=[(None, "b")],
        find_expired_sessions=[(None, "c")],
        find_orphaned_artifacts=[("d", 3)],
        find_orphaned_counters=[("e",)],
        count_stored=[(100,)],
        count_stored_by_counters=[(0, 100)],
        count_prunable_events=[(40,)],
    )

    policy = RetentionPolicy(max_events_per_session=10, max_total_events=50)
    report = run_job(retention.execute(policy, dry_run=True), database)

    assert {query.query.partition("_")[0] for query in database.queries} == {"find", "count"}
    assert report.events_pruned == 40
