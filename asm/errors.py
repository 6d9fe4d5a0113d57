"""The exceptions of asm, ordered by what a caller can do about them.

AsmError
  ValidationError      a value is not accepted: change it        (also a ValueError)
    InvalidStatus  InvalidEventType  InvalidCursor
  NotFound             no row has that id                        (also a LookupError)
    SessionNotFound  RunNotFound  EventNotFound
  Conflict             another row or state is in the way
    AlreadyExists  SequenceConflict
    RunActive          another run of the session is going on: wait for its end, or cancel it
    RunLost            another program ended the run: read what it stored
  ProviderError        a model's provider failed: retry if `retryable`
  RunCancelled         the run was cancelled
  RunTimeout           the run took longer than its timeout
  StorageError         the database failed
    ConnectionFailed   retry: ids make writes idempotent
    StorageTimeout     retry, or allow more time
    MigrationRequired  run `asm migrate`
    StoreClosed        open another store
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from asm import shown

E = TypeVar("E", bound=BaseException)


class AsmError(Exception):
    """The base class of all exceptions that asm raises on purpose.

    `code` is text for programs and logs that does not change between releases. `details` has the values
    that the message mentions. `retryable` says whether the same call may succeed later. `__cause__` is
    the driver's exception, if there is one.

    Message and details can be printed and logged, whatever the values contain. The message is one line of at
    most 2,000 characters. Control, bidirectional and invisible characters in the message and in the texts of
    `details` are escapes, such as `\\x1b`, so a value with such a character differs from the caller's. A
    text in `details` has at most 4,096 characters; an id or a key is never longer.
    """

    code: ClassVar[str] = "asm_error"
    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(shown.message(str(message)))
        self.details: dict[str, Any] = shown.details(details)
        if retryable is not None:
            self.retryable = retryable


class ValidationError(AsmError, ValueError):
    """Raised before anything is written if a value is not accepted. Change the value at `details["path"]`."""

    code = "validation_error"


class InvalidStatus(ValidationError):
    """Raised for a status that does not exist. Use a member of SessionStatus or RunStatus."""

    code = "invalid_status"


class InvalidEventType(ValidationError):
    """Raised for an unknown event type without a dot. Use a member of EventType, or add a dot."""

    code = "invalid_event_type"


class InvalidCursor(ValidationError):
    """Raised for a cursor of another search or order, or a modified one. Pass `Page.cursor` unchanged."""

    code = "invalid_cursor"


class NotFound(AsmError, LookupError):
    """Raised if no row has the given id. Check the id, or save the row first."""

    code = "not_found"


class SessionNotFound(NotFound):
    """Raised if no session has the given id. Check the id, or save the session first."""

    code = "session_not_found"


class RunNotFound(NotFound):
    """Raised if no run has the given id. Check the id, or save the run first."""

    code = "run_not_found"


class EventNotFound(NotFound):
    """Raised if a session has no event of the given id. It may have been removed, or never appended."""

    code = "event_not_found"


class Conflict(AsmError):
    """Raised before anything is written if stored rows contradict the given ones. Read them, then decide."""

    code = "conflict"
    full_sessions: Sequence[str] = ()
    """The sessions with no sequence number left, for which a statement with events of others has failed."""


class AlreadyExists(Conflict):
    """Raised if a row with that key or id exists. Use another one, or delete that row."""

    code = "already_exists"


class SequenceConflict(Conflict):
    """Raised if the session is not at `expected_sequence`. Read the new events, then append again."""

    code = "sequence_conflict"


class RunActive(Conflict):
    """Raised if another run of the session is going on. Wait for its end, or cancel it."""

    code = "run_active"


class RunLost(Conflict):
    """Raised if another program ended the run, or claimed its session. Read what it stored."""

    code = "run_lost"


class ProviderError(AsmError):
    """Raised if a model's provider fails, after the run is stored as failed.

    `status` is the HTTP status of its answer and `request_id` its id, if there was one; `provider_code`
    is the provider's own name of the error. Retry if `retryable` is true.
    """

    code = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        provider_code: str | None = None,
        retryable: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(
            message,
            retryable=retryable,
            status=status,
            request_id=request_id,
            provider_code=provider_code,
            **details,
        )
        self.status = status
        self.request_id = request_id
        self.provider_code = provider_code


class RunCancelled(AsmError):
    """Raised if a run is cancelled while it goes on, after it is stored as cancelled."""

    code = "run_cancelled"


class RunTimeout(AsmError):
    """Raised if a run takes longer than its `timeout`, after it is stored as timed out."""

    code = "run_timeout"


class StorageError(AsmError):
    """Raised if the database fails. Retry if `retryable` is true; otherwise mend what the message names."""

    code = "storage_error"


class ConnectionFailed(StorageError):
    """Raised if the database cannot be reached or the connection is lost. Retry when it is reachable."""

    code = "storage_connection_failed"
    retryable = True


class StorageTimeout(StorageError):
    """Raised if a connection, a lock or a statement takes too long. Retry, or raise the timeout."""

    code = "timeout"
    retryable = True


class MigrationRequired(StorageError):
    """Raised if tables are missing or older than this version of asm. Run `asm migrate`."""

    code = "migration_required"


class StoreClosed(StorageError):
    """Raised if the store is closed, or was opened in another process or event loop. Open a new one."""

    code = "store_closed"


def copied(error: E) -> E:
    """A copy of an error. Raising one instance in several threads would mix their tracebacks."""
    duplicate = copy.copy(error)
    duplicate.__cause__ = error.__cause__
    return duplicate


# The texts that both databases share.

ROW_EXISTS = "a row with this key exists already: read it, or use another key"
TRANSACTION_FAILED = (
    "an earlier statement of this transaction failed, so nothing of it is committed: "
    "begin another transaction"
)


def counter_at_end(session_ids: Sequence[str]) -> Conflict:
    """The error for an append to these sessions, of which at least one has no sequence number left."""
    which = "session" if len(session_ids) == 1 else "one of the sessions"
    error = Conflict(
        f"{which} {', '.join(map(repr, session_ids[:10]))} has no sequence number left, because its counter "
        "is at the end of 64 bits: correct its row in asm_session_sequences, or append to another session",
        session_id=session_ids[0] if len(session_ids) == 1 else None,
    )
    error.full_sessions = tuple(session_ids)
    return error


def unreadable_value(error: Exception) -> ValidationError:
    """The error for a value in the database that asm did not write."""
    return ValidationError(
        f"a row has a value that asm does not write, and cannot be read: {error}: find out which program "
        "wrote it, and correct or delete the row"
    )


def store_closed() -> StoreClosed:
    return StoreClosed("this store is closed: open another store")


def transaction_ended() -> StoreClosed:
    return StoreClosed("this transaction has ended: begin another with `store.transaction()`")


def transaction_failed() -> StorageError:
    return StorageError(TRANSACTION_FAILED)


def transaction_interrupted() -> StorageError:
    return StorageError(
        "an operation of this transaction was interrupted, so nothing of it is committed: begin another "
        "transaction"
    )


def ended_by_application() -> StorageError:
    """The error for a transaction whose application did what only `transaction()` may do."""
    return StorageError(
        "this transaction was committed or rolled back through `tx.connection` or `tx.execute`: leave that "
        "to `transaction()`"
    )


def missing_extra(module: str, package: str, extra: str) -> ImportError:
    """The error for a module whose extra is not installed."""
    return ImportError(f"{module} needs {package}: pip install 'asm-store[{extra}]'", name=package)
