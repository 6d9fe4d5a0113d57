"""Keeps the sessions, runs and events of AI agents in PostgreSQL or SQLite.

The asynchronous store, the migrations and what runs agents are loaded when a program first uses them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asm import pricing as pricing
from asm.errors import (
    AlreadyExists,
    AsmError,
    Conflict,
    ConnectionFailed,
    EventNotFound,
    InvalidCursor,
    InvalidEventType,
    InvalidStatus,
    MigrationRequired,
    NotFound,
    ProviderError,
    RunActive,
    RunCancelled,
    RunLost,
    RunNotFound,
    RunTimeout,
    SequenceConflict,
    SessionNotFound,
    StorageError,
    StorageTimeout,
    StoreClosed,
    ValidationError,
)
from asm.maintenance.health import HealthIssue
from asm.maintenance.policy import MaintenanceReport, RetentionPolicy
from asm.models import Artifact, ArtifactStats, Event, EventType, Page, Run, RunStatus, Session, SessionStatus
from asm.operations.exports import SessionExport
from asm.operations.summaries import CostSummary, SessionStats, UsageSummary
from asm.provider_usage import token_usage
from asm.store import ArtifactRegistry, Maintenance, QueryAPI, SessionStore, Transaction

if TYPE_CHECKING:
    from asm.agents.blocking import SessionManager
    from asm.agents.limits import Limits
    from asm.agents.manager import AsyncSessionManager
    from asm.agents.results import RunResult
    from asm.agents.transcript import Transcript
    from asm.async_store import (
        AsyncArtifactRegistry,
        AsyncMaintenance,
        AsyncQueryAPI,
        AsyncSessionStore,
        AsyncTransaction,
    )
    from asm.migrations.runner import migrate, pending_migrations, rollback

    __version__: str

__all__ = [
    "AlreadyExists",
    "Artifact",
    "ArtifactRegistry",
    "ArtifactStats",
    "AsmError",
    "AsyncArtifactRegistry",
    "AsyncMaintenance",
    "AsyncQueryAPI",
    "AsyncSessionManager",
    "AsyncSessionStore",
    "AsyncTransaction",
    "Conflict",
    "ConnectionFailed",
    "CostSummary",
    "Event",
    "EventNotFound",
    "EventType",
    "HealthIssue",
    "InvalidCursor",
    "InvalidEventType",
    "InvalidStatus",
    "Limits",
    "Maintenance",
    "MaintenanceReport",
    "MigrationRequired",
    "NotFound",
    "Page",
    "ProviderError",
    "QueryAPI",
    "RetentionPolicy",
    "Run",
    "RunActive",
    "RunCancelled",
    "RunLost",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "RunTimeout",
    "SequenceConflict",
    "Session",
    "SessionExport",
    "SessionManager",
    "SessionNotFound",
    "SessionStats",
    "SessionStatus",
    "SessionStore",
    "StorageError",
    "StorageTimeout",
    "StoreClosed",
    "Transaction",
    "Transcript",
    "UsageSummary",
    "ValidationError",
    "__version__",
    "migrate",
    "pending_migrations",
    "rollback",
    "token_usage",
]

_LOADED_ON_FIRST_USE = {
    "AsyncSessionManager": "asm.agents.manager",
    "Limits": "asm.agents.limits",
    "RunResult": "asm.agents.results",
    "SessionManager": "asm.agents.blocking",
    "Transcript": "asm.agents.transcript",
    "AsyncArtifactRegistry": "asm.async_store",
    "AsyncMaintenance": "asm.async_store",
    "AsyncQueryAPI": "asm.async_store",
    "AsyncSessionStore": "asm.async_store",
    "AsyncTransaction": "asm.async_store",
    "migrate": "asm.migrations.runner",
    "pending_migrations": "asm.migrations.runner",
    "rollback": "asm.migrations.runner",
}


if not TYPE_CHECKING:
    # Type checkers do not see this function, so they report unknown names.

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("asm-store")
        elif name in _LOADED_ON_FIRST_USE:
            value = getattr(import_module(_LOADED_ON_FIRST_USE[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
