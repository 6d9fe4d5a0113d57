"""PostgreSQL's errors as ours, told by their SQLSTATE."""

from __future__ import annotations

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from asm.errors import (
    AsmError,
    Conflict,
    ConnectionFailed,
    MigrationRequired,
    StorageError,
    StorageTimeout,
    StoreClosed,
)


class translated:  # noqa: N801
    """Our errors for PostgreSQL's. What is not in the table goes through untouched."""

    # Not a generator made into a context manager, because every question goes through it.
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, psycopg.Error):
            ours = _translation(error)
            if ours is not None:
                raise ours from error
        elif isinstance(error, UnicodeEncodeError):
            raise StorageError(f"{_SPEAK_UTF8}: {error.reason}") from error


def _translation(error: psycopg.Error) -> AsmError | None:
    if isinstance(error, PoolClosed):
        return StoreClosed("this store is closed")
    if isinstance(error, PoolTimeout | TooManyRequests):
        return StorageTimeout(f"no connection in time: {error}")
    state = error.sqlstate or ""
    if state in _STATES:
        kind, message = _STATES[state]
        return kind(f"{message}: {_said(error)}", sqlstate=state)
    if state in _AGAIN and (state != _UNSUPPORTED or _is_outdated(error)):
        return StorageError(f"{_AGAIN[state]}: {_said(error)}", retryable=True, sqlstate=state)
    if state[:2] in _CLASSES:
        kind, message = _CLASSES[state[:2]]
        return kind(f"{message}: {_said(error)}", sqlstate=state)
    if not state and isinstance(error, psycopg.OperationalError):
        return ConnectionFailed(f"the connection failed: {_said(error)}")
    return None


def _is_outdated(error: psycopg.Error) -> bool:
    # Nothing but this and the message tells it from what the server cannot do at all. The driver
    # forgets the statement when the transaction is rolled back.
    return error.diag.source_function == "RevalidateCachedQuery"


def only_reads(error: ConnectionFailed | psycopg.Error) -> bool:
    """Whether the server refused to write because it may not."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else error.details.get("sqlstate")
    return state == "25006"


def _said(error: psycopg.Error) -> str:
    if error.diag.message_primary:
        return error.diag.message_primary
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    # Of several hosts, each has its own line; the first is the last host's again.
    reasons = [line.removeprefix("- ") for line in more if line.startswith("- host")] or [first]
    return "; ".join(reason.rpartition("connection failed: ")[2] for reason in reasons)


_SPEAK_UTF8 = "not all characters can be written in the connection's encoding, give it client_encoding=UTF8"
_STATES: dict[str, tuple[type[AsmError], str]] = {
    "22021": (StorageError, _SPEAK_UTF8),
    "22P05": (StorageError, _SPEAK_UTF8),
    "23505": (Conflict, "a row with these keys is there already"),
    "25006": (ConnectionFailed, "the server only reads"),
    "25P02": (StorageError, "an earlier statement of this transaction failed, so nothing of it is kept"),
    "25P03": (ConnectionFailed, "the server ended the connection"),
    "25P04": (StorageTimeout, "the transaction took too long"),
    "42P01": (MigrationRequired, "a table is missing, run `asm migrate`"),
    "3F000": (StorageError, "the connection's search_path leads to no schema, name one with schema=…"),
    "42501": (StorageError, "the database's user lacks a right"),
    "42703": (MigrationRequired, "a column is missing, run `asm migrate`"),
    "55P03": (StorageTimeout, "a lock was not to be had in time"),
    "57014": (StorageTimeout, "the statement was stopped"),
    "57P01": (ConnectionFailed, "the server shut the connection down"),
    "57P02": (ConnectionFailed, "the server crashed"),
    "57P03": (ConnectionFailed, "the server does not take connections now"),
    "57P05": (ConnectionFailed, "the server ended an idle connection"),
    "53300": (ConnectionFailed, "the server has no connection to spare"),
}
_UNSUPPORTED = "0A000"
_AGAIN = {
    _UNSUPPORTED: "the tables were changed under a statement, which has to be prepared again",
    "40001": "the transaction met another and has to be run again",
    "40P01": "the transaction met another and has to be run again",
}
_CLASSES: dict[str, tuple[type[AsmError], str]] = {
    "08": (ConnectionFailed, "the connection failed"),
    "28": (ConnectionFailed, "the server refused the user"),
    "53": (StorageError, "the server lacks something"),
    "54": (StorageError, "the server's limits do not allow this"),
    "58": (StorageError, "the server's disk failed"),
    "XX": (StorageError, "the server found something wrong with itself"),
}
