"""`import asm`: which names it offers, and which libraries it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import asm

PUBLIC = [
    "SessionStore",
    "AsyncSessionStore",
    "SessionManager",
    "AsyncSessionManager",
    "Limits",
    "RunResult",
    "Transcript",
    "Transaction",
    "AsyncTransaction",
    "Session",
    "Run",
    "Event",
    "Artifact",
    "SessionStatus",
    "RunStatus",
    "EventType",
    "EventNotFound",
    "RetentionPolicy",
    "Page",
    "SessionStats",
    "UsageSummary",
    "CostSummary",
    "SessionExport",
    "MaintenanceReport",
    "HealthIssue",
    "ArtifactStats",
    "AsmError",
    "ValidationError",
    "InvalidStatus",
    "InvalidEventType",
    "InvalidCursor",
    "NotFound",
    "SessionNotFound",
    "RunNotFound",
    "Conflict",
    "AlreadyExists",
    "RunActive",
    "RunLost",
    "ProviderError",
    "RunCancelled",
    "RunTimeout",
    "SequenceConflict",
    "StorageError",
    "ConnectionFailed",
    "StorageTimeout",
    "MigrationRequired",
    "StoreClosed",
    "migrate",
    "rollback",
    "pending_migrations",
    "token_usage",
    "QueryAPI",
    "Maintenance",
    "ArtifactRegistry",
    "AsyncQueryAPI",
    "AsyncMaintenance",
    "AsyncArtifactRegistry",
    "__version__",
]

USE_SQLITE = """
import json, sys, asm
with asm.SessionStore("sqlite://", migrate=True) as store:
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
print(json.dumps(sorted(sys.modules)))
"""


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after it ran the code."""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.partition(".")[0] for name in json.loads(output)}


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    assert dir(asm) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(asm, name) is not None


def test_the_public_modules_are_attributes_of_the_package() -> None:
    assert asm.pricing.LISTED_ON


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'asm' has no attribute 'SesionStore'"):
        asm.SesionStore  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert asm.__version__ == version("asm-store")


def test_importing_asm_loads_no_driver_and_no_terminal_library() -> None:
    loaded = modules_after("import json, sys, asm; print(json.dumps(list(sys.modules)))")
    assert loaded & {"psycopg", "psycopg_pool", "yoyo", "click", "rich"} == set()


def test_a_sqlite_store_loads_no_postgresql_driver_and_no_terminal_library() -> None:
    assert modules_after(USE_SQLITE) & {"psycopg", "psycopg_pool", "click", "rich"} == set()
