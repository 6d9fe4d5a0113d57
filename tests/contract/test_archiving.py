"""Archives: what maintenance writes before it deletes or prunes."""

from __future__ import annotations

import fcntl
import gzip
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import files
from asm.export_files import archives, jsonl
from tests.conftest import an_artifact, an_event, events_of, in_loop, numbers
from tests.contract.other_clients import fetch_rows
from tests.contract.planted_files import (
    IRREGULAR,
    VICTIM,
    killed_at_every_step,
    names_in,
    plant,
)
from tests.contract.retention_data import (
    a_policy,
    a_session,
    append_types,
    days_ago,
    only_pruning,
    session_ids,
    stored_numbers,
)


def test_a_session_is_archived_with_all_its_rows_before_it_is_deleted(store: Any) -> None:
    session = a_session(deleted_days_ago=31)
    store.flush(session, asm.Run(session_id="ses_1"), events_of("ses_1", 3))
    store.artifacts.register(an_artifact(session_id="ses_1"))
    export = store.query.export_session("ses_1", include_artifacts=True)
    archived: list[asm.SessionExport] = []

    number = store.maintenance.hard_delete_expired_sessions(a_policy(archive=archived.append))

    assert (number, archived) == (1, [export])


def test_a_session_is_archived_before_it_is_pruned(store: Any) -> None:
    store.save_session(a_session())
    append_types(store, "ses_1", *["message_sent"] * 5)
    archived: list[asm.SessionExport] = []

    policy = a_policy(max_events_per_session=2, archive=archived.append)
    store.maintenance.prune_session_events("ses_1", policy)

    assert [numbers(export.events) for export in archived] == [[1, 2, 3, 4, 5]]


def test_a_session_without_prunable_events_is_not_archived(store: Any) -> None:
    store.save_session(a_session())
    append_types(store, "ses_1", *["session_created"] * 5)
    archived: list[asm.SessionExport] = []

    policy = a_policy(max_events_per_session=2, archive=archived.append)
    store.maintenance.prune_session_events("ses_1", policy)

    assert archived == []


def test_a_session_without_a_row_keeps_its_events_where_the_policy_has_an_archive(store: Any) -> None:
    append_types(store, "ses_1", *["message_sent"] * 5)

    policy = only_pruning(max_events_per_session=2, max_total_events=1, archive=lambda export: None)
    report = store.maintenance.execute(policy)

    assert (report.events_pruned, report.errors, stored_numbers(store)) == (0, [], [1, 2, 3, 4, 5])


def failing_for(session_id: str) -> Callable[[asm.SessionExport], None]:
    """An archive that fails for one session."""

    def archive(export: asm.SessionExport) -> None:
        if export.session.id == session_id:
            raise OSError("the disk is full")

    return archive


def test_a_session_that_could_not_be_archived_is_not_deleted_and_others_are(store: Any) -> None:
    for name in ("a", "b", "c"):
        store.save_session(a_session(name, deleted_days_ago=31))

    report = store.maintenance.execute(a_policy(archive=failing_for("b")))

    assert (report.sessions_hard_deleted, session_ids(store)) == (2, ["b"])
    assert [(failure.step, failure.session_id) for failure in report.errors] == [
        ("sessions_hard_deleted", "b")
    ]
    assert str(report.errors[0]) == "sessions_hard_deleted of session 'b': the disk is full"


def test_a_session_that_could_not_be_archived_is_not_pruned_and_others_are(store: Any) -> None:
    for name in ("a", "b", "c"):
        store.save_session(a_session(name))
        append_types(store, name, *["message_sent"] * 3)

    report = store.maintenance.execute(a_policy(max_events_per_session=1, archive=failing_for("b")))

    assert (report.events_pruned, len(report.errors), stored_numbers(store, "b")) == (4, 1, [1, 2, 3])


def test_a_single_operation_raises_the_error_of_the_archive_after_the_other_sessions(store: Any) -> None:
    for name in ("a", "b", "c"):
        store.save_session(a_session(name, deleted_days_ago=31))

    with pytest.raises(OSError, match="the disk is full"):
        store.maintenance.hard_delete_expired_sessions(a_policy(archive=failing_for("a")))

    assert session_ids(store) == ["a"]


def test_a_step_stops_after_ten_sessions_that_could_not_be_archived(store: Any) -> None:
    for number in range(15):
        store.save_session(a_session(f"ses_{number}", deleted_days_ago=31))
    archived = []

    def archive(export: asm.SessionExport) -> None:
        archived.append(export.session.id)
        raise OSError("the disk is full")

    report = store.maintenance.execute(a_policy(archive=archive))

    assert (len(archived), len(session_ids(store)), len(report.errors)) == (10, 15, 11)
    assert "without trying the others" in str(report.errors[-1])


def test_sessions_that_cannot_be_archived_keep_no_other_from_it(
    store: Any, migrated: str, tmp_path: Path
) -> None:
    """Anybody who may write to the folder can plant a file for each, and agents choose the ids."""
    bad = [f"{kind}_{number:02}" for kind in ("planted", "unreadable", "wrong") for number in range(10)]
    for name in (*bad, "z"):
        store.save_session(a_session(name, deleted_days_ago=31))
    for name in bad[:10]:
        os.mkfifo(tmp_path / f"{name}.jsonl.gz")
    fetch_rows(migrated, "update asm_sessions set context = '{\"x\": 1e999}' where id like 'unreadable%'")
    for name in bad[20:]:
        fetch_rows(
            migrated,
            "insert into asm_session_sequences (session_id, last_sequence, pruned_events, updated_at) "
            f"values ('{name}', {2**62}, 0, '2026-01-01T00:00:00.000000Z')",
        )

    report = store.maintenance.execute(a_policy(archive=tmp_path))

    assert fetch_rows(migrated, "select id from asm_sessions order by id") == [(name,) for name in bad]
    assert sorted(failure.session_id for failure in report.errors) == bad


def test_an_async_store_awaits_an_async_archive_and_async_progress(migrated: str) -> None:
    calls: list[str] = []

    async def archive(export: asm.SessionExport) -> None:
        calls.append(export.session.id)

    async def progress(step: str, number: int) -> None:
        calls.append(f"{step} {number}")

    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.save_session(a_session(deleted_days_ago=31))
            await store.maintenance.execute(a_policy(archive=archive), progress=progress)

    in_loop(main())

    assert calls == ["ses_1", "sessions_hard_deleted 1"]


def test_a_blocking_store_refuses_an_async_archive_and_deletes_nothing(migrated: str) -> None:
    async def archive(export: asm.SessionExport) -> None:
        raise AssertionError("never awaited, so never called")

    with asm.SessionStore(migrated) as store:
        store.save_session(a_session(deleted_days_ago=31))
        report = store.maintenance.execute(a_policy(archive=archive))
        assert (session_ids(store), "AsyncSessionStore" in str(report.errors[0])) == (["ses_1"], True)


# A folder.


def test_a_folder_gets_a_file_for_each_session(store: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        store.flush(a_session(name, deleted_days_ago=31), asm.Run(session_id=name), events_of(name, 3))
        store.artifacts.register(an_artifact(name, session_id=name))
    exports = [store.query.export_session(name, include_artifacts=True) for name in ("a", "b")]
    folder = tmp_path / "new" / "folder"

    store.maintenance.execute(a_policy(archive=folder))

    assert sorted(file.name for file in folder.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]
    assert [archives.read(folder / f"{name}.jsonl.gz") for name in ("a", "b")] == exports


def test_a_folder_may_be_named_by_a_string(store: Any, tmp_path: Path) -> None:
    store.save_session(a_session(deleted_days_ago=31))

    store.maintenance.execute(a_policy(archive=str(tmp_path / "archive")))

    assert (tmp_path / "archive" / "ses_1.jsonl.gz").is_file()


def test_what_was_archived_can_be_imported_again(store: Any, tmp_path: Path) -> None:
    store.flush(a_session(deleted_days_ago=31), asm.Run(session_id="ses_1"), events_of("ses_1", 3))
    export = store.query.export_session("ses_1")
    store.maintenance.execute(a_policy(archive=tmp_path))

    store.import_session(archives.read(tmp_path / "ses_1.jsonl.gz"))

    assert store.query.export_session("ses_1") == export


def test_the_archive_of_a_session_that_is_pruned_repeatedly_is_complete(store: Any, tmp_path: Path) -> None:
    store.save_session(a_session())
    policy = a_policy(max_events_per_session=2, archive=tmp_path)
    stored = []
    for _ in range(4):
        stored += append_types(store, "ses_1", "session_created", "message_streamed", "message_sent")
        store.maintenance.prune_session_events("ses_1", policy)

    archived = archives.read(tmp_path / "ses_1.jsonl.gz")

    assert (archived.events, archived.last_sequence, archived.pruned_events) == (stored, 12, 0)


def test_a_later_archive_has_the_changes_since_the_earlier_one(store: Any, tmp_path: Path) -> None:
    first = a_session(metadata={"at": 1})
    policy = a_policy(max_events_per_session=1, archive=tmp_path)
    store.flush(first, asm.Run(session_id="ses_1", id="run_1", turn_count=1), events_of("ses_1", 2))
    store.maintenance.prune_session_events("ses_1", policy)
    second = a_session(metadata={"at": 2})
    store.flush(second, asm.Run(session_id="ses_1", id="run_1", turn_count=2), events_of("ses_1", 2))
    store.maintenance.prune_session_events("ses_1", policy)

    archived = archives.read(tmp_path / "ses_1.jsonl.gz")

    assert (archived.session, [run.turn_count for run in archived.runs]) == (second, [2])


def numbered(events: list[asm.Event]) -> list[asm.Event]:
    return [replace(event, sequence_number=number) for number, event in enumerate(events, 1)]


def test_a_session_that_begins_again_with_the_same_ids_does_not_change_its_archive(
    store: Any, tmp_path: Path
) -> None:
    created_at = days_ago(40)
    archived: list[asm.SessionExport] = []
    for command in ("rm -rf /", "ls"):
        store.save_session(a_session(created_at=created_at, deleted_days_ago=31))
        store.append_event(an_event(id="evt_1", timestamp=created_at, data={"command": command}))
        store.append_event(an_event(data={"n": len(archived)}))
        archived.append(store.query.export_session("ses_1"))
        store.maintenance.execute(a_policy(archive=tmp_path))

    assert session_ids(store) == []
    assert [archives.read(tmp_path / name) for name in ("ses_1.jsonl.gz", "ses_1.2.jsonl.gz")] == archived


EARLIER = asm.SessionExport(
    session=a_session(created_at=days_ago(9)),
    runs=[
        asm.Run(id="run_1", session_id="ses_1", started_at=days_ago(9)).set_output("rm -rf /"),
        asm.Run(id="run_2", session_id="ses_1", started_at=days_ago(8), status="running"),
    ],
    events=numbered(events_of("ses_1", 4))[1:],
    artifacts=[
        an_artifact("live", id="art_1", session_id="ses_1"),
        an_artifact("deleted", id="art_2", session_id="ses_1", deleted_at=days_ago(7)),
    ],
    last_sequence=4,
    pruned_events=1,
)
ANNOTATED = [replace(EARLIER.runs[0], metadata={"rating": 5}, cost_usd=0.5), EARLIER.runs[1].set_error("no")]
NEXT = replace(an_event(), sequence_number=5)


def later(**changes: Any) -> asm.SessionExport:
    """What a session may become while it exists, with these changes."""
    usual: dict[str, Any] = {
        "session": replace(EARLIER.session, status="active", metadata={"at": 2}, tags=("new",)),
        "runs": [*ANNOTATED, asm.Run(session_id="ses_1")],
        "events": [EARLIER.events[-1], NEXT],
        "artifacts": [replace(EARLIER.artifacts[0], deleted_at=days_ago(1)), EARLIER.artifacts[1]],
        "last_sequence": 5,
        "pruned_events": 3,
    }
    return asm.SessionExport(**(usual | changes))


def test_what_changes_while_a_session_exists_is_merged(tmp_path: Path) -> None:
    for export in (EARLIER, after := later()):
        archives.archive_session(tmp_path, export)

    merged = replace(after, events=[*EARLIER.events, NEXT], pruned_events=1)
    assert [archives.read(file) for file in tmp_path.iterdir()] == [merged]


def test_a_session_that_is_saved_with_another_time_is_recognised_by_its_events(tmp_path: Path) -> None:
    for export in (EARLIER, later(session=a_session())):
        archives.archive_session(tmp_path, export)

    assert [file.name for file in tmp_path.iterdir()] == ["ses_1.jsonl.gz"]


LAST = EARLIER.events[-1]
ENDED = replace(EARLIER.runs[0], cost_usd=2.5)
CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "an event with other data": {"events": [replace(LAST, data={"n": "forged"}), NEXT]},
    "another event under a number": {"events": [replace(LAST, id="evt_forged"), NEXT]},
    "an event of before the archive": {
        "events": [replace(LAST, id="evt_forged", sequence_number=1), LAST, NEXT],
        "pruned_events": 2,
    },
    "an event under another number": {"events": [replace(LAST, sequence_number=5)], "pruned_events": 4},
    "fewer events": {"events": [replace(LAST, sequence_number=1)], "last_sequence": 1, "pruned_events": 0},
    "no event of the archive": {"session": a_session(), "events": [NEXT], "pruned_events": 4},
    "another agent": {"session": replace(EARLIER.session, agent_id="another")},
    "another parent": {"session": replace(EARLIER.session, parent_session_id="ses_0")},
    "another output of a run": {"runs": [ENDED.set_output("ls")]},
    "another cost of a run": {"runs": [replace(ENDED, cost_usd=0.0)]},
    "a run that has not ended": {"runs": [ENDED.update_status("running")]},
    "another artifact": {"artifacts": [replace(EARLIER.artifacts[0], checksum_sha256="1" * 64)]},
    "a restored artifact": {"artifacts": [replace(EARLIER.artifacts[1], deleted_at=None)]},
}


@pytest.mark.parametrize("changes", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_an_export_that_contradicts_an_archive_is_written_beside_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    session = replace(EARLIER.session, parent_session_id="ses_parent")
    earlier = replace(EARLIER, session=session, runs=[ENDED])
    forged = later(**({"session": session, "runs": [ENDED]} | changes))
    for export in (earlier, forged):
        archives.archive_session(tmp_path, export)

    assert archives.read(tmp_path / "ses_1.jsonl.gz") == earlier
    assert archives.read(tmp_path / "ses_1.2.jsonl.gz") == forged


def test_a_session_that_reuses_an_id_has_an_archive_of_its_own(store: Any, tmp_path: Path) -> None:
    exports = []
    for number in (3, 5, 2):
        store.save_session(a_session(deleted_days_ago=31))
        store.append_events(events_of("ses_1", number))
        exports.append(store.query.export_session("ses_1"))
        store.maintenance.execute(a_policy(archive=tmp_path))

    files = ["ses_1.jsonl.gz", "ses_1.2.jsonl.gz", "ses_1.3.jsonl.gz"]
    assert [archives.read(tmp_path / file) for file in files] == exports


@pytest.mark.parametrize("id", ["../up", "a/b", "é" * 255, "%", "con.", "A b\n"])
def test_an_id_with_any_characters_has_a_file_in_the_folder(store: Any, tmp_path: Path, id: str) -> None:
    store.save_session(a_session(id, deleted_days_ago=31))

    report = store.maintenance.execute(a_policy(archive=tmp_path / "archive"))

    (file,) = (tmp_path / "archive").iterdir()
    assert (report.errors, archives.read(file).session.id) == ([], id)


def test_an_unreadable_archive_is_kept_and_its_session_is_not_deleted(store: Any, tmp_path: Path) -> None:
    store.save_session(a_session(deleted_days_ago=31))
    file = tmp_path / "ses_1.jsonl.gz"
    file.write_bytes(gzip.compress(b"something else\n"))

    report = store.maintenance.execute(a_policy(archive=tmp_path))

    (failure,) = report.errors
    assert isinstance(failure.error, asm.StorageError)
    assert str(file) in str(failure)
    assert (session_ids(store), gzip.decompress(file.read_bytes())) == (["ses_1"], b"something else\n")


ARCHIVE, LOCK = "ses_1.jsonl.gz", ".asm-archive.lock"


@pytest.mark.parametrize(("name", "what"), [*product((ARCHIVE, LOCK), IRREGULAR), (ARCHIVE, "a hard link")])
def test_what_is_planted_in_the_place_of_a_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, what: str
) -> None:
    victim = plant(path := tmp_path / name, what)
    before = names_in(tmp_path), path.lstat().st_ino

    with pytest.raises(asm.StorageError, match=name) as raised:
        archives.archive_session(tmp_path, EARLIER)

    assert raised.value.details["path"] == str(path)
    assert (names_in(tmp_path), path.lstat().st_ino) == before
    assert victim.read_bytes() == VICTIM


def test_a_planted_hard_link_to_a_lock_is_not_written_into(tmp_path: Path) -> None:
    victim = plant(tmp_path / LOCK, "a hard link")

    archives.archive_session(tmp_path, EARLIER)

    assert (victim.read_bytes(), names_in(tmp_path)) == (VICTIM, {ARCHIVE, "victim"})


def test_a_session_whose_archive_is_a_pipe_is_not_deleted_and_others_are(store: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ARCHIVE)
    for name in ("ses_1", "ses_2"):
        store.save_session(a_session(name, deleted_days_ago=31))

    report = store.maintenance.execute(a_policy(archive=tmp_path))

    (failure,) = report.errors
    assert isinstance(failure.error, asm.StorageError)
    assert f"{tmp_path / ARCHIVE}: it is a named pipe" in str(failure)
    assert session_ids(store) == ["ses_1"]


def test_a_process_that_may_read_the_folder_cannot_keep_others_from_archiving(tmp_path: Path) -> None:
    reader = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_EX)

    archives.archive_session(tmp_path, EARLIER)

    os.close(reader)
    assert names_in(tmp_path) == {ARCHIVE}


def test_waiting_for_another_process_that_archives_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LOCK_TIMEOUT_S", 0.05)

    with files.locked(tmp_path / LOCK, timeout_s=60), pytest.raises(asm.StorageTimeout) as raised:
        archives.archive_session(tmp_path, EARLIER)

    assert raised.value.details["path"] == str(tmp_path / LOCK)
    assert "another process has had it locked" in str(raised.value)


def test_an_archive_folder_that_is_a_file_is_reported(store: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store.save_session(a_session(deleted_days_ago=31))

    report = store.maintenance.execute(a_policy(archive=tmp_path / "file"))

    (failure,) = report.errors
    assert isinstance(failure.error, asm.StorageError)
    assert failure.error.details["path"] == str(tmp_path / "file")
    assert session_ids(store) == ["ses_1"]


def test_a_failed_write_leaves_the_earlier_archive(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_session(a_session())
    append_types(store, "ses_1", *["message_sent"] * 3)
    policy = a_policy(max_events_per_session=1, archive=tmp_path / "archive")
    store.maintenance.prune_session_events("ses_1", policy)
    before = archives.read(tmp_path / "archive" / "ses_1.jsonl.gz")
    append_types(store, "ses_1", *["message_sent"] * 3)

    def fail(exports: Any) -> Any:
        yield b"half a li"
        raise OSError("the disk is full")

    monkeypatch.setattr(jsonl, "dump", fail)
    with pytest.raises(asm.StorageError, match="the disk is full"):
        store.maintenance.prune_session_events("ses_1", policy)

    assert archives.read(tmp_path / "archive" / "ses_1.jsonl.gz") == before
    assert [file.name for file in (tmp_path / "archive").iterdir()] == ["ses_1.jsonl.gz"]
    assert stored_numbers(store) == [3, 4, 5, 6]


def test_concurrent_archives_of_one_session_lose_no_event(tmp_path: Path) -> None:
    session = a_session()
    events = numbered(events_of("ses_1", 24))
    exports = [asm.SessionExport(session=session, events=[event]) for event in events]

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(partial(archives.archive_session, tmp_path), exports))

    # An export that is older than the archive has a file of its own.
    archived = [event for file in tmp_path.iterdir() for event in archives.read(file).events]
    assert sorted(archived, key=lambda event: event.sequence_number or 0) == events


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_process_leaves_the_earlier_archive_or_the_later_one_and_no_lock(tmp_path: Path) -> None:
    session, events = a_session(), numbered(events_of("ses_1", 3))
    exports = [asm.SessionExport(session=session, events=events[:n]) for n in (1, 2, 3)]
    archives.archive_session(tmp_path, exports[0])
    file = tmp_path / "ses_1.jsonl.gz"

    archiving = killed_at_every_step(partial(archives.archive_session, tmp_path, exports[1]))
    seen = [len(archives.read(file).events) for _ in archiving]
    archives.archive_session(tmp_path, exports[2])

    assert (seen == sorted(seen), set(seen)) == (True, {1, 2})
    assert archives.read(file) == exports[2]
    # What a killed process had not finished remains, and nothing reads it.
    assert {name for name in names_in(tmp_path) if not name.endswith(".new")} == {file.name}


def test_a_file_and_its_name_are_synced_before_anything_is_deleted(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store.save_session(a_session(deleted_days_ago=31))

    store.maintenance.execute(a_policy(archive=tmp_path / "archive"))

    assert [name.partition("-")[0] for name in synced] == [tmp_path.name, ".asm", "archive"]


def test_an_archive_is_not_written_in_the_event_loop(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    archive_session = archives.archive_session

    def record(folder: Path, export: asm.SessionExport) -> None:
        threads.append(threading.current_thread())
        archive_session(folder, export)

    monkeypatch.setattr(archives, "archive_session", record)

    async def main() -> bool:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.save_session(a_session(deleted_days_ago=31))
            await store.maintenance.execute(a_policy(archive=tmp_path))
        return threading.current_thread() in threads

    assert (in_loop(main()), len(threads)) == (False, 1)
