"""What the `asm` command does with the conversations of every framework."""

from __future__ import annotations

from pathlib import Path

import pytest

import asm
from tests.integrations.command import output_of
from tests.integrations.conversations import MESSAGES, Say


@pytest.fixture(params=MESSAGES)
def session_id(request: pytest.FixtureRequest, migrated: str) -> str:
    """The session of a conversation of two messages."""
    say: Say = request.param
    with asm.SessionStore(migrated) as store:
        assert [say(store, "Is my refund there?", 0), say(store, "And now?", 1)] == [1, 2]
        with_events = [row.id for row in store.list_sessions() if store.get_latest_sequence(row.id) > 1]
    (id,) = with_events
    return id


def test_the_messages_are_listed_shown_and_found(migrated: str, session_id: str) -> None:
    assert "Is my refund there?" in output_of("sessions", "--dsn", migrated)
    shown = output_of("show", session_id, "--dsn", migrated)
    assert shown.index("Is my refund there?") < shown.index("And now?")
    found = output_of("search", "events", "--session", session_id, "--dsn", migrated)
    assert "Is my refund there?" in found


def test_an_export_is_imported_as_it_was(migrated: str, session_id: str, tmp_path: Path) -> None:
    file, other = tmp_path / "export.jsonl", f"sqlite:///{tmp_path / 'other.db'}"
    output_of("export", session_id, "--output", str(file), "--dsn", migrated)
    output_of("import", str(file), "--dsn", other)

    with asm.SessionStore(migrated) as store, asm.SessionStore(other) as copy:
        assert copy.query.export_session(session_id) == store.query.export_session(session_id)
        assert store.maintenance.health_check() == copy.maintenance.health_check() == []
