"""Saving, reading and listing the runs of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from asm.documents import Document, check_together, dump, dump_object, load
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result, one_or_many
from asm.enums import RUN_STATUSES, RunStatus, run_status, status_filter
from asm.errors import RunNotFound, ValidationError
from asm.models import Run, now, run_from_row, token_counts
from asm.operations.changes import Change, applied
from asm.validation import is_text, optional_count, optional_text, plain_function, seconds, text

T = TypeVar("T")

_DOCUMENTS = ("input", "output", "error", "metadata", "token_usage", "provider_metadata")


def save_run(run: Run) -> Query[None]:
    """Insert a run, or replace everything but the ids of the stored one."""
    if not isinstance(run, Run):
        raise ValidationError(f"save_run takes a Run, not {type(run).__name__}")
    model = run.provider_metadata.get("model")
    params = {
        "id": run.id,
        "session_id": run.session_id,
        "status": str(run.status),
        "input": _dump_optional(run.input, "input"),
        "output": _dump_optional(run.output, "output"),
        "error": _dump_optional(run.error, "error"),
        "metadata": dump_object(run.metadata, "metadata"),
        "turn_count": run.turn_count,
        "token_usage": dump_object(run.token_usage, "token_usage"),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "provider": run.provider,
        "provider_metadata": dump_object(run.provider_metadata, "provider_metadata"),
        "cost_usd": run.cost_usd,
        "model": model if is_text(model) else None,
        **token_counts(run.token_usage),
    }
    check_together([params[name] for name in _DOCUMENTS], f"run {run.id!r}")
    return Query("save_run", params, no_result)


def get_run(run_id: str, *, session_id: str | None = None) -> Query[Run]:
    """The run of that id; RunNotFound if there is none.

    Without `session_id`, and with several sessions that have a run of that id, the one started last.
    """
    return _one("get_run", text(run_id, "run_id"), optional_text(session_id, "session_id"))


def find_run(run: Run) -> Query[Run | None]:
    """What is stored of a run; None if nothing is."""
    return Query("get_run", {"id": run.id, "session_id": run.session_id}, _first_or_none)


def update_run(
    run_id: str, change: Callable[[Run], Run], *, session_id: str | None = None
) -> UnitOfWork[Run]:
    """Replace a run by what `change(run)` returns, and return that; RunNotFound if there is none.

    Without `session_id` it is the run that `get_run` returns. `change` gets the stored run, which is locked
    until the result is stored: of concurrent updates none is lost. It is a plain function that does nothing
    but make a run of the same id and session; it may be called again after a failure, and in another thread.
    If it raises, nothing is written. The update is applied at most once: if the response to the commit is
    lost and its outcome cannot be determined, ConnectionFailed has `details["outcome"] == "unknown"`.

    A run of a SessionManager keeps its lease, `metadata["asm"]`, if the result leaves that out.
    """
    run_id, session_id = text(run_id, "run_id"), optional_text(session_id, "session_id")
    kept = partial(_keeping_lease, plain_function(change, "change"))
    return UnitOfWork(partial(change_run, run_id, session_id, kept), idempotent=False)


def _keeping_lease(change: Change[Run], stored: Run) -> Run:
    changed = change(stored)
    if lease_end(stored) is None or not isinstance(changed, Run):
        return changed
    return replace(changed, metadata={"asm": stored.metadata["asm"], **changed.metadata})


def change_run(run_id: str, session_id: str | None, change: Change[Run]) -> Script[Run]:
    run = applied(change, (yield from _one("lock_run", run_id, session_id)), "id", "session_id")
    yield from save_run(run)
    return run


def _one(query: str, run_id: str, session_id: str | None) -> Query[Run]:
    def read(rows: Rows) -> Run:
        if not rows:
            of_session = "" if session_id is None else f" in session {session_id!r}"
            raise RunNotFound(
                f"no run has the id {run_id!r}{of_session}", run_id=run_id, session_id=session_id
            )
        return read_run(rows[0])

    return Query(query, {"id": run_id, "session_id": session_id}, read)


def list_runs(
    session_id: str,
    *,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    limit: int | None = None,
) -> Query[list[Run]]:
    """The runs of a session, the oldest first. `status` is one or several."""
    params = {
        "session_id": text(session_id, "session_id"),
        **one_or_many("status", "statuses", status_filter(status, run_status)),
        "limit": optional_count(limit, "limit"),
    }
    return Query("list_runs", params, read_runs)


def get_active_run(session_id: str) -> Query[Run | None]:
    """The newest run of a session whose status is running, or None."""
    return Query("find_active_run", {"session_id": text(session_id, "session_id")}, _first_or_none)


# Leases. A program that runs an agent keeps one in `metadata["asm"]` of the run, and renews it.


def lease(run: Run) -> dict[str, Any]:
    """What a run stores of its lease: `lease_until`, the `owner` and what else that needs; {} if none."""
    stored = run.metadata.get("asm")
    return stored if isinstance(stored, dict) else {}


def owner(run: Run) -> Any:
    """The program that runs a run, or None if it keeps no lease."""
    return lease(run).get("owner")


def lease_end(run: Run) -> datetime | None:
    """When others may end a run, or None if it has no lease."""
    try:
        until = datetime.fromisoformat(lease(run)["lease_until"])
    except (KeyError, TypeError, ValueError):
        return None
    return until if until.tzinfo else None


def is_stale(run: Run, *, grace_s: float = 0.0) -> bool:
    """Whether a run has a lease that ended at least `grace_s` seconds ago."""
    return _ends_before(run, _ago(grace_s))


def _ends_before(run: Run, at: datetime) -> bool:
    until = lease_end(run)
    return until is not None and until < at


def with_lease(run: Run, until: datetime, **fields: Any) -> Run:
    """The run with a lease until a time, and with more fields beside it."""
    return replace(run, metadata=lease_metadata(run.metadata, until, {**lease(run), **fields}))


def lease_metadata(metadata: Document, until: datetime, fields: Document) -> Document:
    """The metadata of a run with a lease until a time.

    find_stale_runs reads the first text that looks like a lease, so the lease is stored before all other
    metadata, which an agent may write.
    """
    others = {name: value for name, value in metadata.items() if name != "asm"}
    kept = {name: value for name, value in fields.items() if name != "lease_until"}
    return {"asm": {"lease_until": _lease_text(until), **kept}, **others}


def list_stale_runs(*, grace: float = 30.0) -> Query[list[Run]]:
    """The runs that nobody is running any more: running, with a lease that ended `grace` seconds ago.

    Only runs of a SessionManager have a lease. `grace` allows for clocks that differ between machines.
    """
    return find_stale_runs(seconds(grace, "grace") or 0.0, list)


def find_stale_runs(grace_s: float, read: Callable[[list[Run]], T], **bounds: Any) -> Query[T]:
    until = _ago(grace_s)
    params = {"until": _lease_text(until), "after": None, "up_to": None, "limit": None, **bounds}

    def read_stale(rows: Rows) -> T:
        # The query finds what looks like an ended lease anywhere in the metadata, which an agent may write.
        return read([run for run in read_runs(rows) if _ends_before(run, until)])

    return Query("find_stale_runs", params, read_stale)


def _ago(duration_s: float) -> datetime:
    try:
        return now() - timedelta(seconds=duration_s)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _lease_text(at: datetime) -> str:
    """A time as text that sorts like the time."""
    return at.isoformat(timespec="microseconds")


# Reading rows.


def _dump_optional(value: Any, name: str) -> str | None:
    return None if value is None else dump(value, name)


def _load_optional(text: Any) -> Any:
    return None if text is None else load(text)


def _first_or_none(rows: Rows) -> Run | None:
    return read_run(rows[0]) if rows else None


def read_run(row: Row) -> Run:
    (
        id,
        session_id,
        status,
        input,
        output,
        error,
        metadata,
        turn_count,
        token_usage,
        started_at,
        ended_at,
        provider,
        provider_metadata,
        cost_usd,
    ) = row
    return run_from_row(
        id,
        session_id,
        RUN_STATUSES.get(status, status),
        _load_optional(input),
        _load_optional(output),
        _load_optional(error),
        load(metadata),
        turn_count,
        load(token_usage),
        started_at,
        ended_at,
        provider,
        load(provider_metadata),
        cost_usd,
    )


def read_runs(rows: Rows) -> list[Run]:
    return [read_run(row) for row in rows]
