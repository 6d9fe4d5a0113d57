"""A conversation that is used again after retention has soft-deleted it is restored with all that it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import asm
from tests.integrations.conversations import MESSAGES, Say, google_adk, langgraph

POLICY = asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",))

# ADK's sessions are read before each append, and a soft-deleted one is not found.
RESTORING = [say for say in (*MESSAGES, langgraph) if say is not google_adk]


@pytest.mark.parametrize("say", RESTORING)
def test_a_conversation_that_is_used_again_is_restored(migrated: str, say: Say) -> None:
    def soft_delete(row: asm.Session) -> asm.Session:
        return replace(row, deleted_at=datetime.now(UTC) - timedelta(days=40))

    with asm.SessionStore(migrated) as store:
        assert say(store, "one", 0) == 1
        for row in store.list_sessions():
            store.update_session(row.id, soft_delete)

        assert say(store, "two", 1) == 2
        store.maintenance.execute(POLICY)

        assert all(row.deleted_at is None for row in store.list_sessions(include_deleted=True))
        assert say(store, "three", 2) == 3
