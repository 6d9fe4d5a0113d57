"""Sessions to keep and sessions to delete, and readers of the rows that maintenance leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asm
from tests.conftest import Where, an_artifact, an_event, numbers
from tests.contract.other_clients import fetch_rows

NOW = datetime.now(UTC)
PRUNED_FIRST = ("message_streamed", "token_usage_updated")
STEPS = (
    "sessions_soft_deleted",
    "sessions_hard_deleted",
    "events_pruned",
    "artifacts_cleaned",
    "orphaned_sequences_cleaned",
)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def a_session(
    id: str = "ses_1", *, updated_days_ago: float = 0, deleted_days_ago: float | None = None, **fields: Any
) -> Any:
    rest: dict[str, Any] = {"agent_id": "a", "status": "completed", "updated_at": days_ago(updated_days_ago)}
    deleted_at = None if deleted_days_ago is None else days_ago(deleted_days_ago)
    return asm.Session(id=id, deleted_at=deleted_at, **(rest | fields))


def a_policy(**fields: Any) -> asm.RetentionPolicy:
    return asm.RetentionPolicy(**fields)


def only_pruning(**fields: Any) -> asm.RetentionPolicy:
    return a_policy(max_completed_session_age_days=None, hard_delete_after_days=None, **fields)


def append_types(store: Any, session_id: str, *types: str, **fields: Any) -> list[asm.Event]:
    stored: list[asm.Event] = store.append_events([an_event(session_id, type, **fields) for type in types])
    return stored


def soft_deleted_ids(store: Any) -> list[str]:
    sessions = store.list_sessions(include_deleted=True)
    return sorted(session.id for session in sessions if session.deleted_at)


def session_ids(store: Any) -> list[str]:
    return sorted(session.id for session in store.list_sessions(include_deleted=True))


def stored_numbers(store: Any, session_id: str = "ses_1") -> list[int]:
    return numbers(store.get_events(session_id))


def counts(report: Any) -> dict[str, int]:
    return {step: getattr(report, step) for step in STEPS}


def pruned_count(where: Where, session_id: str = "ses_1") -> int:
    rows = fetch_rows(
        where.dsn, f"select pruned_events from asm_session_sequences where session_id = '{session_id}'"
    )
    return int(rows[0][0])


def fill(store: Any, where: Where) -> None:
    """Store rows that each step of maintenance deletes, and rows that it keeps."""
    with store.transaction() as tx:
        for number in range(12):
            statuses = list(asm.SessionStatus)
            session = a_session(
                f"ses_{number:02}",
                status=statuses[number % 6],
                updated_days_ago=80 + 3 * number,
                deleted_days_ago=28 + number if number % 4 == 3 else None,
                tags=("pinned",) if number % 5 == 0 else ("x",),
            )
            tx.flush(session, asm.Run(session_id=session.id, id=f"run_{number}"))
            tx.artifacts.register(an_artifact(f"key_{number}", session_id=session.id))
            tx.append_events(
                an_event(
                    session.id,
                    ["session_created", PRUNED_FIRST[0], "message_sent", PRUNED_FIRST[1]][n % 4],
                    id=f"evt_{number}_{n}",
                    timestamp=days_ago(40 - n - number / 20),
                )
                for n in range(4 + number)
            )
        tx.append_events(an_event("alone", id=f"evt_{n}", timestamp=days_ago(30)) for n in range(9))
        tx.append_event(an_event("orphan"))
        tx.artifacts.register(an_artifact("orphan", session_id="missing", created_at=days_ago(1)))
    fetch_rows(where.dsn, "delete from asm_events where session_id = 'orphan'")
    age_counters(where.dsn)


def age_counters(dsn: str, session_id: str = "%") -> None:
    """Have counters look as if they last changed a day ago, so that the grace period of orphans is over."""
    changed_at = days_ago(1).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fetch_rows(
        dsn,
        f"update asm_session_sequences set updated_at = '{changed_at}' where session_id like '{session_id}'",
    )


def all_rows(where: Where) -> list[Any]:
    """The rows of every table, by their keys and the columns that maintenance changes."""
    return [
        fetch_rows(where.dsn, "select id, status, updated_at, deleted_at from asm_sessions order by id"),
        fetch_rows(where.dsn, "select session_id, id from asm_runs order by session_id, id"),
        fetch_rows(where.dsn, "select session_id, sequence_number, id, type from asm_events order by 1, 2"),
        fetch_rows(
            where.dsn, "select session_id, last_sequence, pruned_events from asm_session_sequences order by 1"
        ),
        fetch_rows(where.dsn, "select key from asm_artifacts order by key"),
    ]


POLICIES: dict[str, dict[str, Any]] = {
    "the default": {},
    "ages": {"max_session_age_days": 100, "max_completed_session_age_days": 90, "hard_delete_after_days": 33},
    "a maximum per session": {"max_events_per_session": 6},
    "a total maximum": {"max_total_events": 60},
    "a total maximum that pruning cannot reach": {"max_total_events": 1},
    "both maximums": {"max_events_per_session": 7, "max_total_events": 55},
    "both maximums, one of which implies the other": {
        "max_events_per_session": 5,
        "max_total_events": 80,
    },
    "both maximums without deletion": {
        "max_events_per_session": 6,
        "max_total_events": 40,
        "hard_delete_after_days": None,
    },
    "nothing exempt": {"exempt_statuses": (), "exempt_tags": (), "max_events_per_session": 3},
    "an archive": {"archive": lambda export: None, "max_events_per_session": 6, "max_total_events": 50},
}
