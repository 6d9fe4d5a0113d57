"""Retention, with a database that a test plays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asm.engine.jobs import run_job
from asm.engine.script import Operation, Query, Rows, run_script
from asm.maintenance import retention, run
from asm.maintenance.policy import RetentionPolicy


class Played:
    """A database that answers by the name of the query, and otherwise with no rows."""

    def __init__(self, **answers: Rows) -> None:
        self._answers = answers
        self.asked: list[Query[Any]] = []
        self.transactions: list[list[str]] = []

    def run(self, question: Operation[Any]) -> Any:
        self.transactions.append([])
        return run_script(question, self._answer)

    def _answer(self, ask: Query[Any]) -> Rows:
        self.asked.append(ask)
        self.transactions[-1].append(ask.query)
        return self._answers.pop(ask.query, [])

    def params(self, query: str) -> list[Mapping[str, Any]]:
        return [ask.params for ask in self.asked if ask.query == query]


def pruning(**answers: Rows) -> Played:
    return Played(
        find_long_sessions=[("a", 30, 0), ("b", 20, 5)],
        hold_counters=[("a", 30, 0), ("b", 20, 5)],
        count_prunable=[("a", 20), ("b", 5)],
        **answers,
    )


def pruned(database: Played, **fields: Any) -> int:
    policy = RetentionPolicy(max_events_per_session=10, **fields)
    return run_job(retention.prune_session_events("a", policy), database)


def test_a_batch_is_pruned_in_one_transaction() -> None:
    database = pruning()

    number = pruned(database)

    assert number == 25
    assert database.transactions == [
        ["find_long_sessions"],
        ["hold_counters", "count_prunable", "prune_events"],
        ["find_long_sessions"],
    ]


def test_each_session_is_pruned_up_to_its_own_sequence_number_whatever_the_order_of_the_rows() -> None:
    database = pruning()
    database._answers["count_prunable"] = [("b", 5), ("a", 20)]

    pruned(database)

    (params,) = database.params("prune_events")
    assert (params["session_ids"], params["uptos"], params["numbers"]) == (["b", "a"], [20, 30], [5, 20])


def test_a_session_whose_counter_has_changed_is_not_counted() -> None:
    database = pruning()
    database._answers["hold_counters"] = [("a", 29, 0), ("b", 20, 6)]
    database._answers["count_prunable"] = []

    pruned(database)

    assert database.params("count_prunable")[0]["session_ids"] == []


def test_protected_types_are_never_among_the_types_to_prune_first() -> None:
    database = pruning()

    pruned(database, prune_event_types_first=["run_started", "message_sent", "error_occurred"])

    assert database.params("prune_events")[0]["first_types"] == ("message_sent",)


def test_counters_are_locked_before_sessions_are_deleted() -> None:
    database = Played(
        find_due_sessions=[(None, "b"), (None, "a")],
        lock_counters=[("a", 1), ("b", 2)],
        hold_due_sessions=[("a",)],
    )

    number = run_job(retention.hard_delete_expired_sessions(RetentionPolicy()), database)

    assert (number, database.params("delete_sessions")) == (1, [{"session_ids": ("a",)}])
    assert ["lock_counters", "hold_due_sessions", "delete_sessions"] in database.transactions


def test_a_transaction_deletes_a_limited_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 10)
    database = Played(
        find_due_sessions=[(None, name) for name in "abcde"],
        find_counters=[("a", 6, 0), ("b", 5, 0), ("c", 25, 20), ("d", 90, 0)],
    )

    run_job(retention.hard_delete_expired_sessions(RetentionPolicy()), database)

    batches = [params["session_ids"] for params in database.params("hold_due_sessions")]
    assert batches == [("a",), ("b", "c"), ("d",), ("e",)]


def test_events_that_are_appended_during_a_run_do_not_prolong_it() -> None:
    class Growing(Played):
        def _answer(self, ask: Query[Any]) -> Rows:
            rows = super()._answer(ask)
            number = ask.params.get("limit", 0) if ask.query == "find_oldest" else 0
            always: dict[str, Rows] = {
                "count_stored": [(70,)],
                "find_oldest": [("a", 90, 0, number, None)],
                "hold_counters": [("a", 90, 0)],
                "count_prunable": [("a", sum(ask.params.get("mosts", [])))],
            }
            return always.get(ask.query, rows)

    report = run_job(retention.execute(RetentionPolicy(max_total_events=50)), Growing())

    assert report.events_pruned == 20


def test_a_dry_run_sends_only_reading_queries() -> None:
    database = pruning(
        find_due_sessions=[(None, "b")],
        find_expired_sessions=[(None, "c")],
        find_orphaned_artifacts=[("d", 3)],
        find_orphaned_counters=[("e",)],
        count_stored=[(100,)],
        count_oldest=[(40,)],
    )

    policy = RetentionPolicy(max_events_per_session=10, max_total_events=50)
    report = run_job(retention.execute(policy, dry_run=True), database)

    assert {ask.query.partition("_")[0] for ask in database.asked} == {"find", "count"}
    assert report.events_pruned == 40
