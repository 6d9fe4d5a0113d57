"""What importing a file promises, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.export_files import jsonl
from asm.formats import import_files, registry
from tests.formats.samples import LOGS, MODIFIED_AT, SAMPLES, Sample

named = pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
grown = pytest.mark.parametrize("sample", LOGS, ids=[sample.name for sample in LOGS])

CUTS = 12


@contextmanager
def a_store(file: Path) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(f"sqlite:///{file}", migrate=True) as store:
        yield store


def imported(store: asm.SessionStore, path: Path) -> asm.formats.ImportReport:
    report = import_files(store, [path])
    assert report.failures == []
    return report


def contents(store: asm.SessionStore) -> list[Any]:
    """All sessions with all their rows, without what they keep of their files."""
    found = []
    for session in sorted(store.list_sessions(include_deleted=True), key=lambda each: each.id):
        export = store.query.export_session(session.id)
        metadata = {name: value for name, value in session.metadata.items() if name != "source"}
        found.append(replace(export, session=replace(session, metadata=metadata)))
    assert store.maintenance.health_check() == []
    return found


@named
def test_importing_again_adds_nothing(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    with a_store(tmp_path / "store.db") as store:
        assert imported(store, path).events > 0
        before = contents(store)

        assert imported(store, path).sessions == 0
        os.utime(path)
        assert imported(store, path).sessions == 0
        assert contents(store) == before


@grown
def test_importing_each_prefix_of_a_log_equals_importing_all_of_it(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    whole = path.read_bytes()
    with a_store(tmp_path / "whole.db") as store:
        imported(store, path)
        expected = contents(store)
    lines = whole.splitlines(keepends=True)
    with a_store(tmp_path / "prefixes.db") as store:
        for number in range(1, len(lines) + 1):
            _write(path, b"".join(lines[:number]))
            imported(store, path)
        assert contents(store) == expected


@grown
def test_a_last_line_that_is_cut_is_read_when_it_is_whole(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    whole = path.read_bytes()
    with a_store(tmp_path / "whole.db") as store:
        imported(store, path)
        expected = contents(store)
    with a_store(tmp_path / "cut.db") as store:
        for size in range(len(whole) // CUTS, len(whole), len(whole) // CUTS):
            _write(path, whole[:size])
            imported(store, path)
        _write(path, whole)
        imported(store, path)
        assert contents(store) == expected


@grown
def test_a_line_that_is_no_record_is_named_and_what_is_before_it_is_stored_once(
    sample: Sample, tmp_path: Path
) -> None:
    path = sample.copied(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    with a_store(tmp_path / "whole.db") as store:
        imported(store, path)
        expected = contents(store)
    with a_store(tmp_path / "store.db") as store:
        _write(path, b"".join([*lines[:-1], b"no record\n", lines[-1]]))
        (failure,) = import_files(store, [path]).failures
        assert str(failure).startswith(f"{path}: line {len(lines):,}: not JSON")

        _write(path, whole)
        imported(store, path)
        assert contents(store) == expected


@grown
def test_an_older_copy_of_a_log_takes_nothing_back(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    with a_store(tmp_path / "store.db") as store:
        imported(store, path)
        before = contents(store)

        older = sample.copied(tmp_path / "backup")
        lines = older.read_bytes().splitlines(keepends=True)
        _write(older, b"".join(lines[: len(lines) // 2]))
        imported(store, older)

        assert contents(store) == before


@named
def test_an_export_of_what_was_imported_is_imported_as_it_is(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    with a_store(tmp_path / "store.db") as store, a_store(tmp_path / "other.db") as other:
        imported(store, path)
        exports = [store.query.export_session(session.id) for session in store.list_sessions()]
        (tmp_path / "export.jsonl").write_bytes(b"".join(jsonl.dump(exports)))
        imported(other, tmp_path / "export.jsonl")
        assert contents(other) == contents(store)


def _retitled(session: asm.Session) -> asm.Session:
    return replace(session, tags=["mine"], metadata={**session.metadata, "title": "Mine"}, status="paused")


def _deleted(session: asm.Session) -> asm.Session:
    return replace(session, deleted_at=session.updated_at)


@grown
@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (_retitled, lambda session: (session.tags, session.status, session.metadata["title"])),
        (_deleted, lambda session: session.deleted_at),
    ],
    ids=["its tags, status and title", "its deletion"],
)
def test_what_was_changed_in_the_store_stays(
    sample: Sample,
    change: Callable[[asm.Session], asm.Session],
    kept: Callable[[asm.Session], object],
    tmp_path: Path,
) -> None:
    path = sample.copied(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    with a_store(tmp_path / "store.db") as store:
        _write(path, b"".join(lines[: len(lines) // 2]))
        imported(store, path)
        changed = {session.id: store.update_session(session.id, change) for session in store.list_sessions()}

        _write(path, whole)
        assert imported(store, path).events > 0

        for id, before in changed.items():
            assert kept(store.get_session(id)) == kept(before)


@named
def test_a_sample_is_recognised_by_its_own_format_only(sample: Sample) -> None:
    head = sample.path.read_bytes()[: registry.HEAD_BYTES]
    assert [reader.name for reader in registry.READERS if reader.sniff(sample.path, head)] == [sample.name]


def test_every_format_has_a_sample() -> None:
    ours = {"asm export"}
    assert {reader.name for reader in registry.READERS} - ours == {sample.name for sample in SAMPLES}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (MODIFIED_AT, MODIFIED_AT))
