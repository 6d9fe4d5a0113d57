"""A store for the sessions of AI agents, on PostgreSQL or SQLite."""

from asm.async_store import AsyncSessionStore
from asm.errors import (
    AlreadyExists,
    AsmError,
    Conflict,
    ConnectionFailed,
    InvalidCursor,
    InvalidEventType,
    InvalidStatus,
    MigrationRequired,
    NotFound,
    RunNotFound,
    SequenceConflict,
    SessionNotFound,
    StorageError,
    StorageTimeout,
    StoreClosed,
    ValidationError,
)
from asm.maintenance.policy import RetentionPolicy
from asm.migrations.runner import migrate, pending_migrations, rollback
from asm.models import Artifact, Event, EventType, Page, Run, RunStatus, Session, SessionStatus
from asm.operations.exports import SessionExport
from asm.store import SessionStore

__all__ = [
    "AlreadyExists",
    "Artifact",
    "AsmError",
    "AsyncSessionStore",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "EventType",
    "InvalidCursor",
    "InvalidEventType",
    "InvalidStatus",
    "MigrationRequired",
    "NotFound",
    "Page",
    "RetentionPolicy",
    "Run",
    "RunNotFound",
    "RunStatus",
    "SequenceConflict",
    "Session",
    "SessionExport",
    "SessionNotFound",
    "SessionStatus",
    "SessionStore",
    "StorageError",
    "StorageTimeout",
    "StoreClosed",
    "ValidationError",
    "migrate",
    "pending_migrations",
    "rollback",
]
