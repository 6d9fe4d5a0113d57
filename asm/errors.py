"""What can go wrong, sorted by what the caller can do about it.

AsmError
  ValidationError      the question was wrong: change it        (also a ValueError)
    InvalidStatus  InvalidEventType  InvalidCursor
  NotFound             nothing there under that name            (also a LookupError)
    SessionNotFound  RunNotFound
  Conflict             something else is there already
    AlreadyExists  SequenceConflict
  StorageError         the database could not do it
    ConnectionFailed   ask again: ids make that harmless
    StorageTimeout     ask again, with more patience
    MigrationRequired  run `asm migrate`
    StoreClosed        open a store of your own
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class AsmError(Exception):
    """The root of all errors this library raises.

    `code` is stable text for logs and programs, `details` are the facts, `retryable`
    says whether the same call may succeed later. The driver's error, if there was one,
    is the `__cause__`.
    """

    code: ClassVar[str] = "asm_error"
    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = details
        if retryable is not None:
            self.retryable = retryable


class ValidationError(AsmError, ValueError):
    """A value that cannot be kept as it is. Nothing was sent."""

    code = "validation_error"


class InvalidStatus(ValidationError):
    """A status that is not in SessionStatus or RunStatus."""

    code = "invalid_status"


class InvalidEventType(ValidationError):
    """An event type that is neither in EventType nor carries a dot."""

    code = "invalid_event_type"


class InvalidCursor(ValidationError):
    """A cursor of another kind or order, or one that was altered."""

    code = "invalid_cursor"


class NotFound(AsmError, LookupError):
    """Nothing is stored under that id."""

    code = "not_found"


class SessionNotFound(NotFound):
    """No session has that id."""

    code = "session_not_found"


class RunNotFound(NotFound):
    """No run has that id."""

    code = "run_not_found"


class Conflict(AsmError):
    """Something else is there already. Nothing was written."""

    code = "conflict"


class AlreadyExists(Conflict):
    """A live row holds that name."""

    code = "already_exists"


class SequenceConflict(Conflict):
    """The session does not stand where the caller expected it."""

    code = "sequence_conflict"


class StorageError(AsmError):
    """The database could not do what it was asked."""

    code = "storage_error"


class ConnectionFailed(StorageError):
    """The database could not be reached, or was lost on the way."""

    code = "storage_connection_failed"
    retryable = True


class StorageTimeout(StorageError):
    """A connection, a lock or a statement took longer than allowed."""

    code = "timeout"
    retryable = True


class MigrationRequired(StorageError):
    """The tables are missing or older than this version of asm."""

    code = "migration_required"


class StoreClosed(StorageError):
    """The store was closed, or belongs to another process or event loop."""

    code = "store_closed"


def copied(error: E) -> E:
    """The same error for one more: raised in several threads, one would collect the tracebacks of all."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
