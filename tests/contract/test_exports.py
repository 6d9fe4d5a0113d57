"""What a store promises about sessions that leave it, and come into another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import asm
from tests.conftest import an_artifact, an_event, events_of, numbers

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def a_session(store: Any, id: str = "ses_1", events: int = 3, **fields: Any) -> asm.Session:
    """A session that is kept with two runs, some events, and artifacts of which one is deleted."""
    session = asm.Session(
        agent_id="agent", id=id, tags=("b", "a"), metadata={"n": 10**30}, created_at=NOON, **fields
    )
    for number in range(2):
        run = asm.Run(
            id=f"run_{number}",
            session_id=id,
            input=[1, {"x": "\ud800"}],
            token_usage={"input_tokens": 3},
            started_at=NOON + timedelta(seconds=number),
            cost_usd=0.1,
            provider_metadata={"model": "gpt-4o"},
        )
        store.flush(session, run)
        store.artifacts.register(an_artifact(f"{id} {number}", session_id=id, run_id=run.id))
    store.artifacts.delete(f"{id} 1")
    store.append_events(events_of(id, events, run_id="run_0", timestamp=NOON))
    return session


# Exporting.


def test_an_export_holds_the_session_its_runs_and_its_events(store: Any) -> None:
    session = a_session(store)
    a_session(store, "ses_2")
    export = store.query.export_session("ses_1")
    assert export.session == session
    assert (export.runs, export.events) == (store.list_runs("ses_1"), store.get_events("ses_1"))
    assert (export.last_sequence, export.pruned_events) == (3, 0)


def test_artifacts_are_exported_when_they_are_asked_for(store: Any) -> None:
    a_session(store)
    assert store.query.export_session("ses_1").artifacts == []
    live, deleted = store.query.export_session("ses_1", include_artifacts=True).artifacts
    assert ([live], deleted.deleted_at is None) == (store.artifacts.list_by_session("ses_1"), False)


def test_a_session_of_nothing_else_is_exported(store: Any) -> None:
    session = asm.Session(agent_id="agent")
    store.save_session(session)
    assert store.query.export_session(session.id) == asm.SessionExport(session=session)


def test_a_soft_deleted_session_is_exported(store: Any) -> None:
    session = a_session(store, deleted_at=NOON)
    assert store.query.export_session("ses_1").session == session


def test_a_session_that_is_not_there_cannot_be_exported(store: Any) -> None:
    store.append_event(an_event("ses_1"))
    with pytest.raises(asm.SessionNotFound, match="'ses_1'"):
        store.query.export_session("ses_1")


@pytest.mark.parametrize("session_id", ["", None, 3, "a\0"])
def test_an_id_that_no_session_can_have_is_refused(store: Any, session_id: Any) -> None:
    with pytest.raises(asm.ValidationError, match="session_id"):
        store.query.export_session(session_id)


def test_a_transaction_exports_what_it_has_written(store: Any) -> None:
    with store.transaction() as tx:
        a_session(tx)
        assert numbers(tx.query.export_session("ses_1").events) == [1, 2, 3]
