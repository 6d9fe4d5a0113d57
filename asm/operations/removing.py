"""Removing events of a session: those that match a filter, or the newest.

Removed events count as pruned in the counter of the session, so that stored and pruned events add up to
the latest number. The other numbers stay, and none is used again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from asm.engine.script import Query, Rows, Script, UnitOfWork, one_or_many
from asm.errors import ValidationError
from asm.models import Event
from asm.operations.events import Types, read_events, types
from asm.validation import Texts, optional_count, optional_text, text, text_filter


def delete_events(
    session_id: str,
    *,
    ids: Texts | None = None,
    run_id: str | None = None,
    type: Types | None = None,
    after: int | None = None,
    before: int | None = None,
) -> UnitOfWork[int]:
    """Delete the events of a session that match all filters given, and return how many there were.

    `ids` are ids of events, one or several; `type` is one or several; `after` and `before` are sequence
    numbers, exclusive. `ids=[]` and `type=[]` match nothing. Without any filter it is a ValidationError:
    `delete_session` deletes all that a session has.

    The other events keep their numbers, and no number is used again: an id that was deleted may be
    appended again, under a new number. All events are deleted in one transaction, while appends to the
    session wait. If the response to the commit is lost and its outcome cannot be determined, ConnectionFailed
    has `details["outcome"] == "unknown"`.
    """
    params = {
        "session_id": text(session_id, "session_id"),
        "ids": text_filter(ids, "ids"),
        "run_id": optional_text(run_id, "run_id"),
        **one_or_many("type", "types", types(type)),
        "after": optional_count(after, "after"),
        "before": optional_count(before, "before"),
    }
    if all(value is None for name, value in params.items() if name != "session_id"):
        raise ValidationError(
            f"delete_events of session {session_id!r} has no filter: give ids, run_id, type, after or "
            "before, or call delete_session"
        )
    return UnitOfWork(partial(_delete, params), idempotent=False)


def pop_event(session_id: str, *, type: Types | None = None) -> UnitOfWork[Event | None]:
    """Delete the newest event of a session and return it; None if there is none.

    With `type`, which is one or several, it is the newest event of these types. Of any number of concurrent
    callers, each gets another event. The number of the event is not used again, and its id may be
    appended again, under a new number. If the response to the commit is lost and its outcome cannot be
    determined, ConnectionFailed has `details["outcome"] == "unknown"`.
    """
    params = {"session_id": text(session_id, "session_id"), **one_or_many("type", "types", types(type))}
    return UnitOfWork(partial(_pop, params), idempotent=False)


def _delete(params: dict[str, Any]) -> Script[int]:
    # A statement that waits for a lock does not see what the lock's last holder committed. The next does.
    locked = {"session_ids": (params["session_id"],)}
    if not (yield from Query("lock_existing_counters", locked, bool)):
        return 0
    return (yield from Query("delete_events", params, lambda rows: rows[0][0] if rows else 0))


def _pop(params: dict[str, Any]) -> Script[Event | None]:
    event = yield from Query("pop_event", params, _read_one)
    # If the first statement waited for the lock of the counter, it deleted nothing.
    return event or (yield from Query("pop_event", params, _read_one))


def _read_one(rows: Rows) -> Event | None:
    return read_events(rows)[0] if rows else None
