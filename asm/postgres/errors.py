"""PostgreSQL's errors as ours, by their SQLSTATE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from asm.errors import (
    ROW_EXISTS,
    TRANSACTION_FAILED,
    AsmError,
    Conflict,
    ConnectionFailed,
    MigrationRequired,
    StorageError,
    StorageTimeout,
    ValidationError,
    counter_at_end,
    store_closed,
    unreadable_value,
)
from asm.postgres.timeouts import ServerUnresponsive

Connected: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


OUT_OF_RANGE = psycopg.errors.NumericValueOutOfRange
"""Of all numbers that an append sends or computes, only a counter can exceed 64 bits."""


class translated:  # noqa: N801
    """Raise our errors for PostgreSQL's; statements use the `connection` and append to the `sessions`."""

    __slots__ = ("_connection", "_sessions")

    def __init__(self, connection: Connected | None = None, sessions: Sequence[str] = ()) -> None:
        self._connection = connection
        self._sessions = sessions

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, psycopg.Error | UnicodeEncodeError):
            raise_translated(error, self._connection, self._sessions)


def raise_translated(
    error: Exception, connection: Connected | None = None, sessions: Sequence[str] = ()
) -> None:
    """Raise our error for PostgreSQL's, if it is one of PostgreSQL or of its driver."""
    if (ours := translation(error, connection, sessions)) is not None:
        raise ours from error


def translation(
    error: Exception, connection: Connected | None = None, sessions: Sequence[str] = ()
) -> AsmError | None:
    if isinstance(error, UnicodeEncodeError):
        return StorageError(f"{_NOT_UTF8}: {error.reason}")
    if not isinstance(error, psycopg.Error):
        return None
    if isinstance(error, PoolClosed):
        return store_closed()
    if isinstance(error, PoolTimeout | TooManyRequests):
        return StorageTimeout(f"no connection became free in time: {error}")
    if not (state := error.sqlstate or ""):
        if isinstance(error, psycopg.OperationalError):
            return _connection_failed(error)
        if isinstance(error, psycopg.DataError):
            # The driver cannot represent what the server sent, such as the time `infinity`.
            return unreadable_value(error)
        return StorageError(f"the driver failed: {_message(error)}")
    if state in _RETRYABLE and (state != _NOT_SUPPORTED or _is_outdated_plan(error)):
        return StorageError(f"{_RETRYABLE[state]}: {_message(error)}", retryable=True, sqlstate=state)
    if isinstance(error, OUT_OF_RANGE) and sessions:
        return counter_at_end(sessions)
    kind, message = _STATES.get(state) or _CLASSES.get(state[:2]) or _REFUSED
    if state == _READ_ONLY and connection is not None and _is_set_read_only(connection):
        kind, message = _SET_BY_CLIENT if _is_set_by_client(connection) else _SET_READ_ONLY
    return kind(f"{message}: {_message(error)}", sqlstate=state)


def statement_error(error: psycopg.Error | UnicodeEncodeError | TypeError) -> AsmError:
    """Our error for that of an application's own statement, whose tables are not ours to migrate."""
    if isinstance(error, UnicodeEncodeError | TypeError):
        return ValidationError(f"the statement was not sent: {error}")
    if error.sqlstate is None and isinstance(error, psycopg.ProgrammingError | psycopg.DataError):
        return ValidationError(f"the statement was not sent: {_message(error)}")
    ours = translation(error)
    if ours is None or isinstance(ours, MigrationRequired):
        return StorageError(f"{_REFUSED[1]}: {_message(error)}", sqlstate=error.sqlstate)
    return ours


def _connection_failed(error: psycopg.OperationalError) -> ConnectionFailed:
    failed = ConnectionFailed(f"the connection failed: {_message(error)}")
    failed.retryable = not (_is_from_server(error) and _is_refused_login(error))
    return failed


def _is_from_server(error: psycopg.Error) -> bool:
    """Whether the server reported the error, and not libpq, which lost the connection.

    libpq shows a server's error as its severity in the server's language, a colon and two spaces.
    """
    return ":  " in str(error)


def _is_refused_login(error: psycopg.OperationalError) -> bool:
    """Whether the server asked for a password and then refused the login: another attempt fails, too.

    libpq gives no SQLSTATE for a failed connection. Where it is to choose among servers, it may also have
    refused one itself after a successful login, which says nothing about the next attempt.
    """
    if error.pgconn is None or not (error.pgconn.used_password or error.pgconn.needs_password):
        return False
    session_attrs = next(
        (option.val for option in error.pgconn.info if option.keyword == b"target_session_attrs"), None
    )
    return session_attrs in (None, b"any")


def _is_outdated_plan(error: psycopg.Error) -> bool:
    # SQLSTATE 0A000 also stands for what the server cannot do at all; only the name of this function
    # tells an outdated plan from that. The driver drops the statement when the transaction rolls back.
    return error.diag.source_function == "RevalidateCachedQuery"


def is_unusable_server(error: BaseException, connection: Connected) -> bool:
    """Whether the server is read-only or unresponsive, and all the connections of a pool lead to it."""
    if isinstance(error, ServerUnresponsive) or isinstance(error.__cause__, ServerUnresponsive):
        return True
    state = error.sqlstate if isinstance(error, psycopg.Error) else _details(error).get("sqlstate")
    return state == _READ_ONLY and not (_is_set_read_only(connection) and _is_set_by_client(connection))


def _is_set_read_only(connection: Connected) -> bool:
    """Whether default_transaction_read_only is on, on a server that is no standby."""
    if connection.closed:
        return False
    status = connection.pgconn.parameter_status
    return status(b"default_transaction_read_only") == b"on" and status(b"in_hot_standby") == b"off"


def _is_set_by_client(connection: Connected) -> bool:
    """Whether the role, the database or the DSN sets it, so that another attempt is of no use.

    What the server's configuration sets may pass: it ends with a switchover, or when a full disk has room
    again. Connections that are not of our own class do not know who sets it.
    """
    return getattr(connection, "is_read_only_by_client", False)


def _details(error: BaseException) -> dict[str, Any]:
    return error.details if isinstance(error, AsmError) else {}


def _message(error: psycopg.Error) -> str:
    if error.diag.message_primary:
        return error.diag.message_primary
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    # Of several hosts, each has its own line; the first line repeats the last host's.
    reasons = [line.removeprefix("- ") for line in more if line.startswith("- host")] or [first]
    return "; ".join(reason.rpartition("connection failed: ")[2] for reason in reasons)


_READ_ONLY = "25006"
_SET_BY_CLIENT: tuple[type[AsmError], str] = (
    StorageError,
    (
        "default_transaction_read_only is on for this role, database or DSN, so the store can only be read: "
        "for a store that writes, turn it off and open the store again"
    ),
)
_SET_READ_ONLY: tuple[type[AsmError], str] = (
    ConnectionFailed,
    (
        "the server is read-only, because default_transaction_read_only is on: turn it off for the server, "
        "the role, the database or the DSN that sets it"
    ),
)
_NOT_UTF8 = "the connection's encoding cannot represent every character, set client_encoding=UTF8"
_STATES: dict[str, tuple[type[AsmError], str]] = {
    "22021": (StorageError, _NOT_UTF8),
    "22P05": (StorageError, _NOT_UTF8),
    "23505": (Conflict, ROW_EXISTS),
    _READ_ONLY: (ConnectionFailed, "the server is read-only"),
    "25P02": (StorageError, TRANSACTION_FAILED),
    "25P03": (ConnectionFailed, "the server closed a connection that was idle in a transaction"),
    "25P04": (StorageTimeout, "the transaction took too long"),
    "42P01": (MigrationRequired, "a table is missing, run `asm migrate`"),
    "3F000": (StorageError, "no schema in the connection's search_path exists, name one with schema=…"),
    "42501": (StorageError, "this role lacks a grant, which the documentation lists under Roles"),
    "42703": (MigrationRequired, "a column is missing, run `asm migrate`"),
    "55P03": (StorageTimeout, "could not obtain a lock within the timeout"),
    "57014": (StorageTimeout, "the statement was cancelled"),
    "57P01": (ConnectionFailed, "the server closed the connection"),
    "57P02": (ConnectionFailed, "the server crashed"),
    "57P03": (ConnectionFailed, "the server does not accept connections at the moment"),
    "57P05": (ConnectionFailed, "the server closed an idle connection"),
    "53300": (ConnectionFailed, "the server has too many connections"),
}
_NOT_SUPPORTED = "0A000"
_RETRYABLE = {
    _NOT_SUPPORTED: "the tables changed after a statement was prepared, and it has to be prepared again",
    "40001": "serialization failure, retry the transaction",
    "40P01": "deadlock, retry the transaction",
}
_CLASSES: dict[str, tuple[type[AsmError], str]] = {
    "08": (ConnectionFailed, "the connection failed"),
    "28": (ConnectionFailed, "the server refused the login"),
    "53": (StorageError, "insufficient server resources"),
    "54": (StorageError, "a limit of the server was exceeded"),
    "58": (StorageError, "the server had a system error"),
    "XX": (StorageError, "internal server error"),
}
_REFUSED = (StorageError, "the server refused the statement")
