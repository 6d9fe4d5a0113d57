"""What `import_files` promises of files that change, of other clients, and of being killed."""

from __future__ import annotations

import os
import shutil
import threading
from io import BufferedReader
from pathlib import Path

import pytest

import asm
from asm import files
from asm.formats import import_files
from tests.contract.other_clients import read_line, running
from tests.formats.claude_logs import SAMPLE, SESSION, Writer, write
from tests.formats.samples import LOGS, MODIFIED_AT, SAMPLES
from tests.formats.test_properties import a_store, contents


def samples(folder: Path) -> Path:
    """A folder with a sample of each format."""
    folder.mkdir()
    for sample in SAMPLES:
        sample.copied(folder)
    return folder


@pytest.mark.parametrize("files_read", [1, 2, 3])
def test_an_import_that_is_killed_and_repeated_equals_one_import(
    migrated: str, files_read: int, tmp_path: Path
) -> None:
    folder = samples(tmp_path / "logs")
    with a_store(tmp_path / "whole.db") as store:
        assert import_files(store, [folder]).failures == []
        expected = contents(store)

    with running("tests.formats.import_process", migrated, str(folder)) as process:
        for _ in range(files_read):
            read_line(process)
        # The process goes on meanwhile, so the signal arrives at any point.
        process.kill()
        process.wait()

    with asm.SessionStore(migrated) as store:
        assert import_files(store, [folder]).failures == []
        assert contents(store) == expected


def test_two_imports_of_the_same_files_at_once_equal_one(migrated: str, tmp_path: Path) -> None:
    folder = samples(tmp_path / "logs")
    with a_store(tmp_path / "whole.db") as store:
        import_files(store, [folder])
        expected = contents(store)

    reports = []
    start = threading.Barrier(2)

    def import_all() -> None:
        with asm.SessionStore(migrated) as store:
            start.wait()
            reports.append(import_files(store, [folder]))

    threads = [threading.Thread(target=import_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [report.failures for report in reports] == [[], []]
    with asm.SessionStore(migrated) as store:
        assert contents(store) == expected


def test_a_file_of_the_same_size_and_time_is_not_read(migrated: str, tmp_path: Path) -> None:
    path = shutil.copyfile(SAMPLE, tmp_path / SAMPLE.name)
    os.utime(path, (MODIFIED_AT, MODIFIED_AT))
    with asm.SessionStore(migrated) as store:
        import_files(store, [path])
        path.write_bytes(b" " * path.stat().st_size)
        path.write_bytes(SAMPLE.read_bytes()[:4_096] + b"x" * (path.stat().st_size - 4_096))
        os.utime(path, (MODIFIED_AT, MODIFIED_AT))
        report = import_files(store, [path])
        assert (report.unchanged, report.failures) == (1, [])


@pytest.mark.parametrize("change", ["shorter", "longer", "another beginning"])
def test_a_file_that_was_replaced_is_read_from_its_start(migrated: str, change: str, tmp_path: Path) -> None:
    log = Writer()
    first, *rest = [log.user("one"), log.says("two"), log.user("three"), log.says("four", "msg_2")]
    others = [log.user(f"other {number}") for number in range({"shorter": 1}.get(change, 9))]
    path = write(tmp_path / f"{SESSION}.jsonl", [first, *rest])
    with asm.SessionStore(migrated) as store:
        import_files(store, [path])
        write(path, others if change == "another beginning" else [first, *others])
        assert import_files(store, [path]).failures == []

        said = [event.data.get("content") for event in store.iter_events(SESSION)]
        for record in [first, *rest, *others]:
            content = record["message"]["content"]
            assert said.count(content if isinstance(content, str) else content[0]["text"]) == 1


def test_a_session_that_another_program_wrote_is_a_conflict_and_stays_as_it_is(
    migrated: str, tmp_path: Path
) -> None:
    path = shutil.copyfile(SAMPLE, tmp_path / SAMPLE.name)
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="helper", id=SESSION))
        before = store.query.export_session(SESSION)
        (failure,) = import_files(store, [path]).failures
        assert isinstance(failure.error, asm.Conflict)
        assert failure.named
        assert store.query.export_session(SESSION) == before


def test_strict_raises_the_first_failure_with_the_name_of_the_file(migrated: str, tmp_path: Path) -> None:
    (tmp_path / "bad.traj").write_text("{")
    with (
        asm.SessionStore(migrated) as store,
        pytest.raises(asm.ValidationError, match=r"bad\.traj: not JSON"),
    ):
        import_files(store, [tmp_path / "bad.traj"], strict=True)


def test_the_files_of_the_store_are_not_opened(tmp_path: Path) -> None:
    """Closing one would end the locks that SQLite has on it."""
    SAMPLES[0].copied(tmp_path)
    with a_store(tmp_path / "store.db") as store:
        report = import_files(store, [tmp_path, tmp_path / "store.db"])

    own = {tmp_path / f"store.db{suffix}" for suffix in ("", "-wal", "-shm")}
    assert {path for path, reason in report.skipped if reason == "a file of the store"} == set(map(str, own))
    (failure,) = report.failures
    assert "to copy a store use `asm copy`" in str(failure)
    assert report.sessions > 0


def test_a_file_that_has_not_changed_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    logs = [sample.copied(folder) for sample in LOGS]
    opened: list[Path] = []
    open_file = files.reading

    def reading(path: Path, *, follow_links: bool = False) -> BufferedReader:
        opened.append(path)
        return open_file(path, follow_links=follow_links)

    with a_store(tmp_path / "store.db") as store:
        added = import_files(store, [folder]).sessions
        monkeypatch.setattr(files, "reading", reading)
        assert import_files(store, [folder]).sessions == 0 < added
    assert sorted(path for path in opened if path in logs) == sorted(logs)
