"""A SQLite file that cannot be written for a while: writes fail at once and as a whole, and later succeed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import dsn as dsns
from tests.conftest import an_event, events_of, numbers
from tests.contract.other_clients import SHORT_S, fetch_rows, only, read_line, running, send_line

Opener = Callable[..., Any]

pytestmark = only(["sqlite"], why="a PostgreSQL server handles its own disk")

TIMEOUT_S = 30.0
LARGE = {"text": "x" * 50_000}


def writer(store: Any) -> sqlite3.Connection:
    database = getattr(store, "_target", store)._database
    connection: sqlite3.Connection = database.connection
    return connection


@contextmanager
def full(store: Any) -> Iterator[None]:
    """Let the database have no more pages than it has now."""
    connection = writer(store)
    (pages,) = connection.execute("pragma page_count").fetchone()
    connection.execute(f"pragma max_page_count = {pages}")
    try:
        yield
    finally:
        connection.execute(f"pragma max_page_count = {2**30}")


WRITES: dict[str, Callable[[Any], Any]] = {
    "append_event": lambda store: store.append_event(an_event(data=LARGE)),
    "append_events": lambda store: store.append_events([*events_of("ses_1", 3), an_event(data=LARGE)]),
    "append_events, many": lambda store: store.append_events(events_of("ses_1", 1_200)),
    "append_events, expected_sequence": lambda store: store.append_events(
        [an_event(), an_event(data=LARGE)], expected_sequence=1
    ),
    "flush": lambda store: store.flush(
        asm.Session(agent_id="agent", id="ses_1"), asm.Run(session_id="ses_1"), [an_event(data=LARGE)]
    ),
    "save_session": lambda store: store.save_session(asm.Session(agent_id="agent", context=LARGE)),
    "import_session": lambda store: store.import_session(
        asm.SessionExport(session=asm.Session(agent_id="agent", context=LARGE))
    ),
}


def everything(dsn: str) -> list[Any]:
    tables = ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts")
    return [fetch_rows(dsn, f"select * from {table} order by 1, 2") for table in tables]


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_is_an_error_at_once_and_nothing_is_half_written(
    migrated: str, opened: Opener, name: str
) -> None:
    store = opened(migrated)
    store.append_event(an_event())
    before = everything(migrated)
    with full(store):
        with pytest.raises(asm.StorageError) as raised:
            WRITES[name](store)
        assert not raised.value.retryable
        assert everything(migrated) == before
        assert numbers(store.get_events("ses_1")) == [1]
    WRITES[name](store)
    assert store.append_event(an_event()).sequence_number == store.get_latest_sequence("ses_1")


def test_concurrent_appends_on_a_full_disk_fail_and_lose_no_number(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.append_event(an_event())
    with full(store), ThreadPoolExecutor(16) as threads:
        appends = [threads.submit(store.append_event, an_event(data=LARGE)) for _ in range(32)]
        assert all(isinstance(append.exception(TIMEOUT_S), asm.StorageError) for append in appends)
    assert store.append_event(an_event(data=LARGE)).sequence_number == 2


def test_a_transaction_on_a_full_disk_keeps_nothing(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.append_event(an_event())
    with full(store), pytest.raises(asm.StorageError), store.transaction() as tx:
        tx.append_event(an_event())
        tx.append_event(an_event(data=LARGE))
    assert numbers(store.get_events("ses_1")) == [1]
    assert store.append_event(an_event()).sequence_number == 2


@pytest.mark.parametrize("name", WRITES)
def test_a_read_only_file_is_an_error_at_once_and_can_be_read(
    migrated: str, opened: Opener, name: str
) -> None:
    store = opened(migrated)
    store.append_event(an_event())
    writer(store).execute("pragma query_only = on")
    with pytest.raises(asm.StorageError) as raised:
        WRITES[name](store)
    assert not raised.value.retryable
    assert numbers(store.get_events("ses_1")) == [1]
    writer(store).execute("pragma query_only = off")
    WRITES[name](store)


@pytest.mark.parametrize("end", ["released", "killed"])
def test_writes_time_out_while_another_process_holds_the_lock(
    migrated: str, opened: Opener, end: str
) -> None:
    store = opened(migrated, timeout=SHORT_S)
    store.append_event(an_event())
    with running("tests.fault.lock_holder", dsns.parse_dsn(migrated).address) as holder:
        assert read_line(holder) == "held"
        with ThreadPoolExecutor(len(WRITES)) as threads:
            appends = [threads.submit(write, store) for write in WRITES.values()]
            assert all(isinstance(append.exception(TIMEOUT_S), asm.StorageTimeout) for append in appends)
        assert numbers(store.get_events("ses_1")) == [1]
        if end == "killed":
            holder.kill()
        else:
            send_line(holder)
        holder.wait(TIMEOUT_S)
    assert store.append_event(an_event()).sequence_number == 2


def test_writes_succeed_when_the_lock_is_released_in_time(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    with running("tests.fault.lock_holder", dsns.parse_dsn(migrated).address) as holder:
        assert read_line(holder) == "held"
        with ThreadPoolExecutor(8) as threads:
            appends = [threads.submit(store.append_event, an_event()) for _ in range(8)]
            send_line(holder)
            assert sorted(numbers([append.result(TIMEOUT_S) for append in appends])) == list(range(1, 9))


def moved(file: Path) -> None:
    file.rename(file.with_suffix(".old"))


def replaced(file: Path) -> None:
    asm.migrate(f"sqlite:///{file.with_suffix('.new')}")
    file.with_suffix(".new").replace(file)


REMOVE: dict[str, Callable[[Path], Any]] = {"deleted": Path.unlink, "moved": moved, "replaced": replaced}


@pytest.mark.parametrize(
    ("how", "name"),
    [*(("deleted", name) for name in WRITES), ("moved", "append_event"), ("replaced", "append_event")],
)
def test_no_write_to_a_file_that_was_deleted_moved_or_replaced_is_acknowledged(
    migrated: str, opened: Opener, how: str, name: str
) -> None:
    store = opened(migrated)
    store.append_event(an_event())
    REMOVE[how](Path(dsns.parse_dsn(migrated).address))
    with pytest.raises(asm.StorageError, match="deleted, moved or replaced") as raised:
        WRITES[name](store)
    assert not raised.value.retryable


def test_a_file_is_found_from_another_working_folder(
    migrated: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(dsns.parse_dsn(migrated).address)
    monkeypatch.chdir(file.parent)
    store = opened(f"sqlite:///{file.name}")
    monkeypatch.chdir("/")
    assert store.append_event(an_event()).sequence_number == 1


def test_a_file_can_be_a_symbolic_link(migrated: str, opened: Opener, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(dsns.parse_dsn(migrated).address)
    assert opened(f"sqlite:///{link}").append_event(an_event()).sequence_number == 1
    assert opened(migrated).append_event(an_event()).sequence_number == 2
