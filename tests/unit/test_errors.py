"""The exceptions of asm: their classes, codes, details and copies."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing

import pytest

import asm
from asm.errors import AsmError, copied
from asm.sqlite.errors import translated

CODES = {
    "ValidationError": "validation_error",
    "InvalidStatus": "invalid_status",
    "InvalidEventType": "invalid_event_type",
    "InvalidCursor": "invalid_cursor",
    "NotFound": "not_found",
    "SessionNotFound": "session_not_found",
    "RunNotFound": "run_not_found",
    "Conflict": "conflict",
    "AlreadyExists": "already_exists",
    "SequenceConflict": "sequence_conflict",
    "RunActive": "run_active",
    "RunLost": "run_lost",
    "ProviderError": "provider_error",
    "RunCancelled": "run_cancelled",
    "RunTimeout": "run_timeout",
    "StorageError": "storage_error",
    "ConnectionFailed": "storage_connection_failed",
    "StorageTimeout": "timeout",
    "MigrationRequired": "migration_required",
    "StoreClosed": "store_closed",
}
PARENTS = {
    "ValidationError": [AsmError, ValueError],
    "InvalidStatus": [asm.ValidationError],
    "InvalidEventType": [asm.ValidationError],
    "InvalidCursor": [asm.ValidationError],
    "NotFound": [AsmError, LookupError],
    "SessionNotFound": [asm.NotFound],
    "RunNotFound": [asm.NotFound],
    "Conflict": [AsmError],
    "AlreadyExists": [asm.Conflict],
    "SequenceConflict": [asm.Conflict],
    "RunActive": [asm.Conflict],
    "RunLost": [asm.Conflict],
    "ProviderError": [AsmError],
    "RunCancelled": [AsmError],
    "RunTimeout": [AsmError],
    "StorageError": [AsmError],
    "ConnectionFailed": [asm.StorageError],
    "StorageTimeout": [asm.StorageError],
    "MigrationRequired": [asm.StorageError],
    "StoreClosed": [asm.StorageError],
}
RETRYABLE = {"ConnectionFailed", "StorageTimeout"}


@pytest.mark.parametrize("name", CODES)
def test_an_error_has_the_code_of_its_class(name: str) -> None:
    assert getattr(asm, name)("no").code == CODES[name]


@pytest.mark.parametrize("name", PARENTS)
def test_an_error_has_the_promised_base_classes(name: str) -> None:
    assert list(getattr(asm, name).__bases__) == PARENTS[name]


@pytest.mark.parametrize("name", CODES)
def test_an_error_says_whether_the_same_call_may_succeed_later(name: str) -> None:
    assert getattr(asm, name)("no").retryable is (name in RETRYABLE)


def test_an_error_may_be_retryable_although_its_class_is_not() -> None:
    error = asm.StorageError("deadlock", retryable=True)

    assert (error.retryable, asm.StorageError("no").retryable) == (True, False)


def test_an_error_carries_its_details() -> None:
    error = asm.SequenceConflict("no", expected_sequence=3, latest_sequence=4)

    assert error.details == {"expected_sequence": 3, "latest_sequence": 4}


def test_the_text_of_an_error_is_its_message() -> None:
    assert str(asm.SessionNotFound("no session there", session_id="ses_1")) == "no session there"


@pytest.mark.parametrize("name", CODES)
def test_a_pickled_error_keeps_its_message_and_attributes(name: str) -> None:
    error = getattr(asm, name)("no", retryable=True, path="data.x")

    again = pickle.loads(pickle.dumps(error))

    assert (type(again), str(again), again.retryable) == (type(error), "no", True)
    assert again.details == error.details
    assert again.details["path"] == "data.x"
    assert vars(again) == vars(error)


def test_the_error_of_a_provider_carries_its_answer() -> None:
    error = asm.ProviderError(
        "no", status=529, request_id="req_1", provider_code="overloaded", retryable=True
    )

    assert (error.status, error.request_id, error.provider_code) == (529, "req_1", "overloaded")
    assert error.details == {"status": 529, "request_id": "req_1", "provider_code": "overloaded"}


def test_a_copied_error_keeps_its_details_and_cause() -> None:
    error = asm.NotFound("no", id="x")
    error.__cause__ = KeyError("x")

    duplicate = copied(error)

    assert (duplicate is error, duplicate.details, duplicate.__cause__) == (
        False,
        {"id": "x"},
        error.__cause__,
    )


@pytest.mark.parametrize("name", CODES)
def test_the_docstring_of_an_error_says_when_it_is_raised(name: str) -> None:
    assert (getattr(asm, name).__doc__ or "").startswith("Raised ")


def test_only_a_closed_connection_of_sqlite_is_a_closed_store() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(asm.StorageError, match="the driver failed") as raised, translated():
        connection.execute("select :a", {})
    assert not isinstance(raised.value, asm.StoreClosed)
    cursor = connection.cursor()
    cursor.close()
    with pytest.raises(asm.StoreClosed), translated():
        cursor.execute("select 1")
    connection.close()
    with pytest.raises(asm.StoreClosed), translated():
        connection.execute("select 1")


def test_a_sqlite_without_fts5_is_named_as_the_cause() -> None:
    without = pytest.raises(asm.StorageError, match="was built without FTS5, which searches by text need")
    with closing(sqlite3.connect(":memory:")) as connection, without, translated():
        # This name begins like those of the modules that FTS5 has.
        connection.execute("create virtual table t using fts5_of_nobody (words)")
