"""A SQLite file that other processes and programs use: what a store acknowledges, every process reads."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import dsn as dsns
from tests.conftest import an_event, numbers
from tests.contract.other_clients import (
    ROOT,
    obey_file_permissions,
    only,
    open_files,
    read_line,
    run_in_fork,
    running,
    send_line,
)

Opener = Callable[..., Any]

pytestmark = [
    only(["sqlite"], why="a PostgreSQL server handles its own files"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

only_sync = pytest.mark.parametrize("colour", ["sync"], indirect=True)

SOON_S = 60.0


def file_of(dsn: str) -> Path:
    return Path(dsns.parse_dsn(dsn).address)


def log_of(dsn: str) -> Path:
    return Path(f"{file_of(dsn).resolve()}-wal")


def append(store: Any) -> int:
    """Append an event and return its number."""
    return numbers([store.append_event(an_event())])[0]


READ = """
import sys, asm
with asm.SessionStore(sys.argv[1]) as store:
    print(*(event.sequence_number for event in store.get_events("ses_1")))
    assert store._database.connection.execute("pragma integrity_check").fetchall() == [("ok",)]
"""

WRITE_AND_CLOSE = """
import sys, asm
with asm.SessionStore(sys.argv[1]) as store:
    print(store.append_event(asm.Event(type="message_sent", session_id="ses_1")).sequence_number)
"""

WRITE_AND_DIE = """
import os, sys, asm
store = asm.SessionStore(sys.argv[1])
print(store.append_event(asm.Event(type="message_sent", session_id="ses_1")).sequence_number, flush=True)
os._exit(0)
"""


def in_process(program: str, dsn: str) -> list[int]:
    """The numbers that a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, dsn],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=SOON_S,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]


# Forked processes


def open_sync(dsn: str) -> None:
    asm.SessionStore(dsn).close()


def open_async(dsn: str) -> None:
    async def opened() -> None:
        async with asm.AsyncSessionStore(dsn):
            pass

    asyncio.run(opened())


OPENINGS: dict[str, Callable[[str], object]] = {
    "SessionStore": open_sync,
    "AsyncSessionStore": open_async,
    "migrate": asm.migrate,
    "pending_migrations": asm.pending_migrations,
    "in a child of the child": lambda dsn: run_in_fork(partial(_refused, dsn)),
}


def _refused(dsn: str) -> None:
    with pytest.raises(asm.StorageError, match="before the fork"):
        open_sync(dsn)


@only_sync
@pytest.mark.parametrize("name", OPENINGS)
def test_a_forked_child_cannot_open_a_file_that_its_parent_has_open(
    migrated: str, opened: Opener, name: str
) -> None:
    store = opened(migrated)
    assert append(store) == 1
    opening = OPENINGS[name]
    assert run_in_fork(lambda: opening(migrated)) in (asm.StorageError, None)
    assert run_in_fork(partial(_refused, migrated)) is None
    assert append(store) == 2
    assert in_process(READ, migrated) == [1, 2]


@contextmanager
def child(dsn: str) -> Iterator[Callable[[], Any]]:
    """A forked child that opens a store when the function is called, which returns the error."""
    (ours, theirs), pid = multiprocessing.Pipe(), os.fork()
    if pid == 0:
        try:
            theirs.recv()
            theirs.send(_opening_error(dsn))
        finally:
            os._exit(0)

    def open_now() -> Any:
        ours.send(None)
        return ours.recv()

    try:
        yield open_now
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _opening_error(dsn: str) -> str:
    try:
        open_sync(dsn)
    except asm.StorageError as error:
        return str(error)
    return ""


@only_sync
def test_a_forked_child_is_refused_also_after_its_parent_has_closed_the_file(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated)
    with child(migrated) as open_now:
        store.close()
        assert "before the fork" in open_now()


def test_a_forked_child_is_refused_a_file_that_the_parents_application_has_open(migrated: str) -> None:
    with closing(sqlite3.connect(file_of(migrated))) as connection:
        connection.execute("select * from asm_events").fetchall()
        assert run_in_fork(partial(_refused, migrated)) is None


def test_a_forked_child_opens_a_file_that_its_parent_closed_before(migrated: str, opened: Opener) -> None:
    # Another process has the file open, so that the parent cannot know that nobody needs its locks.
    with opened(migrated) as store, running("tests.fault.lock_holder", str(file_of(migrated))) as holder:
        assert append(store) == 1
        assert read_line(holder) == "held"
        store.close()
        send_line(holder)
        assert run_in_fork(lambda: append(asm.SessionStore(migrated))) == 2
    assert in_process(READ, migrated) == [1, 2]


@only_sync
def test_a_forked_child_opens_another_file_than_its_parent(migrated: str, other: str, opened: Opener) -> None:
    store = opened(migrated)
    assert run_in_fork(lambda: append(asm.SessionStore(other))) == 1
    assert append(store) == 1
    assert in_process(READ, other) == [1]


def append_when_told(dsn: str, pipe: Connection) -> None:
    with asm.SessionStore(dsn) as store:
        while pipe.recv():
            pipe.send(append(store))


@pytest.mark.parametrize(
    ("method", "colour"), [("spawn", "sync"), ("forkserver", "async")], indirect=["colour"]
)
def test_a_process_that_is_not_a_fork_appends_after_its_parent_has_closed(
    migrated: str, opened: Opener, method: str
) -> None:
    store = opened(migrated)
    assert append(store) == 1
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=append_when_told, args=(migrated, theirs))
    process.start()
    ours.send(True)
    assert ours.recv() == 2
    assert append(store) == 3
    store.close()
    ours.send(True)
    assert ours.recv() == 4
    assert in_process(READ, migrated) == [1, 2, 3, 4]
    ours.send(False)
    process.join(SOON_S)
    assert in_process(READ, migrated) == [1, 2, 3, 4]


@only_sync
def test_a_forked_child_that_executes_another_program_appends(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    assert append(store) == 1
    pid = os.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-c", WRITE_AND_CLOSE, migrated])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert append(store) == 3
    assert in_process(READ, migrated) == [1, 2, 3]


# A process that closes a descriptor of the file loses its POSIX locks


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has locks that survive this")
@pytest.mark.parametrize(
    ("name", "colour"),
    [("store.db", "sync"), ("store.db-shm", "sync"), ("store.db-wal", "sync"), ("store.db", "async")],
    indirect=["colour"],
)
def test_an_application_may_open_and_close_the_files_of_an_open_store(
    migrated: str, opened: Opener, name: str
) -> None:
    store = opened(migrated)
    assert append(store) == 1
    file_of(migrated).with_name(name).read_bytes()
    assert in_process(WRITE_AND_CLOSE, migrated) == [2]
    assert append(store) == 3
    assert in_process(READ, migrated) == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has locks that survive this")
def test_two_stores_of_one_file_and_a_symbolic_link_to_it_close_one_after_the_other(
    migrated: str, opened: Opener, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link.db"
    link.symlink_to(file_of(migrated))
    first, second = opened(migrated), opened(f"sqlite:///{link}")
    assert [append(first), append(second)] == [1, 2]
    first.close()
    file_of(migrated).read_bytes()
    assert in_process(WRITE_AND_CLOSE, migrated) == [3]
    assert append(second) == 4
    assert in_process(READ, migrated) == [1, 2, 3, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a lock")
def test_a_transaction_whose_lock_the_application_lost_is_not_acknowledged(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated)
    with pytest.raises(asm.StorageError, match="lost SQLite's lock"), store.transaction() as tx:
        assert append(tx) == 1
        file_of(migrated).with_name("store.db-shm").read_bytes()
        # Another process no longer waits for the end of the transaction.
        assert in_process(WRITE_AND_CLOSE, migrated) == [1]
    assert append(store) == 2
    assert in_process(READ, migrated) == [1, 2]


def test_a_hard_link_is_refused(migrated: str, opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "link.db").hardlink_to(file_of(migrated))
    for dsn in (migrated, f"sqlite:///{tmp_path / 'link.db'}"):
        with pytest.raises(asm.StorageError, match="one of 2 hard links"):
            opened(dsn)
    (tmp_path / "link.db").unlink()
    assert append(opened(migrated)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_no_file_of_another_user_in_a_public_folder_is_taken_for_that_of_a_store(
    migrated: str, opened: Opener, tmp_path: Path, suffix: str
) -> None:
    """SQLite would replay a log or a journal, and replace all rows by those of whoever wrote it."""
    dsn = copied_with_log(migrated, folder := tmp_path / "public")
    (planted := folder / f"store.db{suffix}").touch()
    os.chown(planted, 65_534, 65_534)
    before = planted.read_bytes()

    folder.chmod(0o1777)
    with pytest.raises(asm.StorageError, match=rf"{planted}: it is another user's.* move the database"):
        opened(dsn)

    assert planted.read_bytes() == before
    folder.chmod(0o700)
    assert append(opened(dsn)) == 1


def copied_with_log(dsn: str, folder: Path) -> str:
    """A copy of a database, beside it the log of another one with the same tables."""
    folder.mkdir()
    shutil.copyfile(file_of(dsn), folder / "store.db")
    with asm.SessionStore(dsn) as other:
        other.save_session(asm.Session(agent_id="a", id="planted"))
        shutil.copyfile(log_of(dsn), folder / "store.db-wal")
    return f"sqlite:///{folder / 'store.db'}"


# Another program deletes or replaces the file or its log


def moved(dsn: str) -> None:
    file_of(dsn).rename(file_of(dsn).with_suffix(".old"))


def replaced(dsn: str) -> None:
    # As rsync and most editors do it.
    new = file_of(dsn).with_suffix(".new")
    asm.migrate(f"sqlite:///{new}")
    new.replace(file_of(dsn))


def recreated(dsn: str) -> None:
    for file in (file_of(dsn), log_of(dsn), file_of(dsn).with_name("store.db-shm")):
        file.unlink()
    asm.migrate(dsn)


def log_replaced(dsn: str) -> None:
    log_of(dsn).unlink()
    log_of(dsn).touch()


REMOVALS: dict[str, Callable[[str], object]] = {
    "deleted": lambda dsn: file_of(dsn).unlink(),
    "moved": moved,
    "replaced": replaced,
    "deleted and made again": recreated,
    "its folder moved": lambda dsn: file_of(dsn).parent.rename(file_of(dsn).parent.with_suffix(".old")),
    "log deleted": lambda dsn: log_of(dsn).unlink(),
    "log replaced": log_replaced,
}
removals = pytest.mark.parametrize("how", REMOVALS)
REPLACED = "(deleted, moved|deleted) or replaced while the store had it open"


@pytest.fixture
def in_folder(migrated: str, tmp_path: Path) -> str:
    """The DSN of a database in a folder of its own."""
    (tmp_path / "folder").mkdir()
    return f"sqlite:///{file_of(migrated).rename(tmp_path / 'folder' / 'store.db')}"


@removals
def test_no_write_to_a_file_or_log_that_was_deleted_or_replaced_is_acknowledged(
    in_folder: str, opened: Opener, how: str
) -> None:
    store = opened(in_folder)
    append(store)
    REMOVALS[how](in_folder)
    for call in (append, lambda store: store.save_session(asm.Session(agent_id="agent"))):
        with pytest.raises(asm.StorageError, match=REPLACED) as raised:
            call(store)
        assert not raised.value.retryable


@removals
def test_no_transaction_is_acknowledged_whose_file_or_log_is_deleted_or_replaced_during_it(
    in_folder: str, opened: Opener, how: str
) -> None:
    store = opened(in_folder)
    with pytest.raises(asm.StorageError, match=REPLACED), store.transaction() as tx:
        append(tx)
        REMOVALS[how](in_folder)


@removals
def test_reads_end_with_an_error_after_the_file_or_its_log_was_deleted_or_replaced(
    in_folder: str, opened: Opener, how: str
) -> None:
    store = opened(in_folder)
    append(store)
    follower = store.follow_events("ses_1")
    assert next(follower).sequence_number == 1
    REMOVALS[how](in_folder)
    with pytest.raises(asm.StorageError, match=REPLACED):
        next(follower)
    with pytest.raises(asm.StorageError, match=REPLACED):
        while True:
            store.get_events("ses_1")


@pytest.mark.parametrize("how", ["replaced", "log deleted"])
def test_closing_a_store_deletes_no_log_that_belongs_to_others(
    migrated: str, opened: Opener, how: str
) -> None:
    store = opened(migrated)
    append(store)
    if how == "log deleted":
        store.close()
        store = opened(migrated)
    REMOVALS[how](migrated)
    acknowledged = in_process(WRITE_AND_DIE, migrated)
    assert len(acknowledged) == 1
    assert log_of(migrated).stat().st_size > 0
    store.close()
    assert in_process(READ, migrated)[-1:] == acknowledged


def test_closing_a_store_saves_what_was_in_its_deleted_log(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    assert append(store) == 1
    log_of(migrated).unlink()
    with pytest.raises(asm.StorageError, match="write-ahead log"):
        append(store)
    store.close()
    assert in_process(READ, migrated)[:1] == [1]


# What a store leaves behind


def test_a_store_that_is_closed_has_no_file_open(migrated: str, opened: Opener) -> None:
    def ours() -> list[Path]:
        return [file for file in open_files() if file.parent == file_of(migrated).parent]

    first, second = opened(migrated), opened(migrated)
    append(first)
    with running("tests.fault.lock_holder", str(file_of(migrated))) as holder:
        assert read_line(holder) == "held"
        first.close()
        second.close()
        send_line(holder)
        holder.wait(SOON_S)
    opened(migrated).close()
    assert ours() == []
    assert not log_of(migrated).exists()


def test_a_store_that_is_forgotten_does_not_keep_the_log(migrated: str) -> None:
    append(asm.SessionStore(migrated))
    gc.collect()
    assert in_process(WRITE_AND_CLOSE, migrated) == [2]
    assert not log_of(migrated).exists()


# Files that cannot be opened


def error_of(call: Callable[[str], object], dsn: str) -> str:
    """The message of a call in a forked child that obeys the permissions of files."""

    def message() -> str:
        obey_file_permissions()
        with pytest.raises(asm.StorageError) as raised:
            call(dsn)
        return str(raised.value)

    return str(run_in_fork(message))


def test_the_error_for_a_folder_in_the_place_of_a_file_names_it(migrated: str) -> None:
    folder = file_of(migrated).parent
    assert f"cannot open {folder}: it is a folder" in error_of(open_sync, f"sqlite:///{folder}")


def test_the_error_for_too_many_open_files_names_their_limit(dsn: str) -> None:
    def open_with_few_files(dsn: str) -> None:
        # Two more descriptors are free: enough for the file, and not for its log.
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, lowest + 2))
        asm.SessionStore(dsn, migrate=True)

    assert "check the limit of open files" in error_of(open_with_few_files, dsn)


@pytest.mark.parametrize("opening", [open_sync, open_async, asm.migrate, asm.pending_migrations])
def test_the_error_for_a_folder_that_can_only_be_read_names_it_and_the_remedy(
    migrated: str, opening: Callable[[str], object]
) -> None:
    folder = file_of(migrated).parent
    folder.chmod(0o555)
    try:
        message = error_of(opening, migrated)
    finally:
        folder.chmod(0o755)
    assert f"cannot write to the folder {folder}" in message
    assert "store.db-shm" in message
    assert "copy the file to a folder" in message


def test_the_error_for_a_file_that_cannot_be_created_names_the_folder(migrated: str) -> None:
    folder = file_of(migrated).parent / "read-only"
    folder.mkdir(mode=0o555)
    message = error_of(asm.migrate, f"sqlite:///{folder / 'new.db'}")
    assert f"cannot create {folder / 'new.db'}: this process cannot write to its folder" in message


READ_ONLY_MOUNT = """
set -e
mount -t tmpfs none "$2"
cp "$1" "$2/store.db"
mount -o remount,ro "$2"
exec "$3" -c "$4" "sqlite:///$2/store.db"
"""
PRINT_ERROR = """
import sys, asm
try:
    asm.SessionStore(sys.argv[1])
except asm.StorageError as error:
    print(error)
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="needs the right to mount a file system",
)
def test_the_error_for_a_medium_that_can_only_be_read_names_the_remedy(migrated: str, tmp_path: Path) -> None:
    (tmp_path / "medium").mkdir()
    arguments = [str(file_of(migrated)), str(tmp_path / "medium"), sys.executable, PRINT_ERROR]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", READ_ONLY_MOUNT, "sh", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=SOON_S,
        check=True,
    )
    assert "copy the file to a folder that this process can write to" in done.stdout


def test_a_file_that_can_only_be_read_is_read(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        append(store)
    file_of(migrated).chmod(0o444)

    def read() -> list[int]:
        obey_file_permissions()
        with asm.SessionStore(migrated) as store:
            with pytest.raises(asm.StorageError, match="the file is read-only"):
                append(store)
            return numbers(store.get_events("ses_1"))

    assert run_in_fork(read) == [1]
