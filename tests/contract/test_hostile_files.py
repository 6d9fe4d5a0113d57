"""Files that somebody made to do harm: each is refused by its name and line, and nothing else is affected."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import asm
from asm import documents
from asm.cli.command import cli
from asm.export_files import jsonl
from asm.formats.export_imports import import_export
from tests.conftest import an_artifact, an_event, events_of
from tests.contract.test_cli import SMALL, exports_of, invoke, output_of

MIB = 1024 * 1024


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    """A store with a session of somebody else."""
    with asm.SessionStore(migrated) as store:
        store.append_events(events_of("ses_kept", 30), session=asm.Session(agent_id="a", id="ses_kept"))
        yield store


def an_export(events: int = 3) -> list[bytes]:
    """The lines of an export."""
    numbered = [an_event("ses_1", id=f"evt_{n}", sequence_number=n) for n in range(1, events + 1)]
    session = asm.Session(agent_id="a", id="ses_1")
    runs = [asm.Run(session_id="ses_1", id="run_1")]
    return list(jsonl.dump([asm.SessionExport(session=session, runs=runs, events=numbered)]))


def changed(line: int, old: str, new: str, *, events: int = 3) -> bytes:
    """An export with a change in one line."""
    lines = an_export(events)
    assert old.encode() in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old.encode(), new.encode())
    return b"".join(lines)


def without(line: int) -> bytes:
    return b"".join(text for number, text in enumerate(an_export(), 1) if number != line)


FORGED = changed(2, '"last_sequence":0', f'"last_sequence":{2**62}', events=0)

FILES: dict[str, tuple[bytes, str]] = {
    "a counter of 2**62.jsonl": (FORGED, "line 2: last_sequence must be from 0 to 9,007,199,254,740,991"),
    "a counter of 2**52.jsonl": (
        FORGED.replace(b"%d" % 2**62, b"%d" % 2**52),
        "line 2: the export does not add up",
    ),
    "a counter of many digits.jsonl": (
        FORGED.replace(b"%d" % 2**62, b"9" * 100_000),
        "line 2: an integer of 100,000 digits",
    ),
    "an event of another session.jsonl": (
        changed(5, '"session_id":"ses_1"', '"session_id":"ses_kept"'),
        "line 5: the event belongs to session 'ses_kept', not to 'ses_1'",
    ),
    "an event too few.jsonl": (without(5), "line 6: expected `event`, not `end`"),
    "a number twice.jsonl": (
        changed(5, '"sequence_number":2', '"sequence_number":1'),
        "line 5: the event has the sequence number 1, which must be from 2",
    ),
    "a number too high.jsonl": (
        changed(6, '"sequence_number":3', '"sequence_number":4'),
        "line 6: the event has the sequence number 4",
    ),
    "a deep document.jsonl": (
        changed(4, '"data":{}', '"data":{"x":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "line 4: the document is nested too deeply",
    ),
    "a less deep document.jsonl": (
        changed(4, '"data":{}', '"data":{"x":' + "[" * 600 + "]" * 600 + "}"),
        "line 4: data.x",
    ),
    "an integer.jsonl": (
        changed(4, '"data":{}', '"data":{"n":' + "1" * MIB + "}"),
        "line 4: an integer of 1,048,576 digits",
    ),
    "a time.jsonl": (
        changed(4, '"timestamp":"', '"timestamp":"0001-01-01T00:00:00+14:00","x":"'),
        "line 4: Event has no field 'x'",
    ),
    "a damaged file.jsonl.gz": (
        gzip.compress(b"".join(an_export()))[:200],
        "the compressed file is truncated",
    ),
    "not gzip.jsonl.gz": (b"\x1f\x8b\x08\x00garbage", "unknown file format"),
    "an integer.traj": (b'{"trajectory": [], "n": ' + b"1" * MIB + b"}", "an integer of 1,048,576 digits"),
    "a deep document.traj": (b'{"trajectory": ' + b"[" * MIB, "the document is nested too deeply"),
    "steps.traj": (b'{"trajectory": [' + b"{}," * 100_000 + b"{}]}", "100,001 steps and history entries"),
    "a bomb.traj": (gzip.compress(bytes(129 * MIB)), "the file has more than 134,217,728 bytes"),
}


def test_each_hostile_file_is_reported_and_the_others_are_imported(
    store: asm.SessionStore, migrated: str, tmp_path: Path
) -> None:
    before = exports_of(store)
    for name, (content, _) in FILES.items():
        (tmp_path / name).write_bytes(content)

    result = invoke("import", *(tmp_path / name for name in FILES), SMALL, "--dsn", migrated)

    assert result.exit_code == 1
    assert result.stdout == f"imported 1 session with 23 events, {len(FILES)} could not be read\n"
    reported = dict(zip(FILES, result.stderr.splitlines(), strict=True))
    for name, (_, message) in FILES.items():
        assert reported[name].startswith(f"asm: {tmp_path / name}: "), reported[name]
        assert message in reported[name]
    assert [each for each in exports_of(store) if each.session.id == "ses_kept"] == before
    assert output_of("health", "--dsn", migrated) == "healthy\n"


def test_a_forged_counter_has_no_event_of_another_session_deleted(
    store: asm.SessionStore, migrated: str, tmp_path: Path
) -> None:
    for number, content in enumerate([FORGED, FORGED.replace(b"ses_1", b"ses_2")]):
        (tmp_path / f"{number}.jsonl").write_bytes(content)
    assert invoke("import", tmp_path, "--strict", "--dsn", migrated).exit_code == 1
    report = store.maintenance.execute(asm.RetentionPolicy(max_total_events=1_000))
    assert (report.events_pruned, report.errors) == (0, [])
    assert len(store.get_events("ses_kept")) == 30


def test_a_long_session_is_imported_as_a_whole_or_not_at_all(
    store: asm.SessionStore, migrated: str, tmp_path: Path
) -> None:
    lines = an_export(2_500)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    whole.write_bytes(b"".join(lines))
    # In the last of several batches an event has the id of the first one, which only the database knows.
    twice = lines[-2].replace(b'"evt_2500"', b'"evt_1"')
    before = exports_of(store)
    for content in ([*lines[:-2], b"{}\n"], [*lines[:-2], twice, lines[-1]], lines[:-2]):
        broken.write_bytes(b"".join(content))
        assert invoke("import", broken, "--dsn", migrated).exit_code == 1
        assert exports_of(store) == before
    assert output_of("import", whole, "--dsn", migrated) == "imported 1 session with 2,500 events\n"
    assert store.append_event(an_event("ses_1")).sequence_number == 2_501
    assert (
        output_of("import", whole, "--dsn", migrated)
        == "imported 0 sessions with 0 events, 1 already existed\n"
    )
    store.maintenance.prune_session_events("ses_1", asm.RetentionPolicy(max_events_per_session=2_000))
    result = invoke("import", whole, "--dsn", migrated)
    assert (result.exit_code, "no longer has its event 1" in result.stderr) == (1, True)
    assert len(store.get_events("ses_1")) == 2_000


def test_a_session_that_conflicts_is_passed_over_and_the_next_one_is_imported(
    store: asm.SessionStore, migrated: str, tmp_path: Path
) -> None:
    store.append_event(an_event("ses_1", id="another"))
    lines = [*an_export(1_500)[:-1], *next_session(), b'{"end":{"sessions":2}}\n']
    (tmp_path / "two.jsonl").write_bytes(b"".join(lines))
    result = invoke("import", tmp_path / "two.jsonl", "--dsn", migrated)
    assert result.exit_code == 1
    assert result.stdout == "imported 1 session with 3 events, 1 existed with different contents\n"
    assert "session 'ses_1' already has another event 1" in result.stderr
    assert len(store.get_events("ses_2")) == 3


def next_session() -> list[bytes]:
    return [line.replace(b"ses_1", b"ses_2").replace(b"run_1", b"run_2") for line in an_export()[1:-1]]


def test_the_standard_input_is_named_like_a_file(store: asm.SessionStore, migrated: str) -> None:
    result = CliRunner().invoke(cli, ["import", "-", "--dsn", migrated], input=FORGED)
    assert (result.exit_code, result.stdout) == (
        1,
        "imported 0 sessions with 0 events, 1 could not be read\n",
    )
    assert result.stderr.startswith("asm: the standard input: line 2: last_sequence must be from 0")


def test_a_row_that_is_too_long_to_store_is_reported_with_its_file(
    store: asm.SessionStore, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "ROW_LENGTH_MAX", 1_000)
    long = "x" * 900
    (tmp_path / "a.jsonl").write_bytes(
        changed(3, '"input":null,"output":null', f'"input":"{long}","output":"{long}"')
    )
    (tmp_path / "a.traj").write_text(
        json.dumps({"trajectory": [], "info": {"submission": long, "exit_status": ""}})
    )
    result = invoke("import", tmp_path / "a.jsonl", tmp_path / "a.traj", "--dsn", migrated)
    assert result.exit_code == 1
    for line, name in zip(result.stderr.splitlines(), ("a.jsonl", "a.traj"), strict=True):
        assert line.startswith(f"asm: {tmp_path / name}: the documents of ")


def test_others_write_while_a_long_session_is_read_whose_writer_may_stall(
    store: asm.SessionStore, migrated: str
) -> None:
    content = an_export(events=2_500)

    with asm.SessionStore(migrated) as other:

        def lines() -> Iterator[bytes]:
            for number, line in enumerate(content):
                if number % 600 == 0:
                    other.append_event(an_event("ses_kept"))
                yield line

        (counts,) = [import_export(store, parsed) for parsed in jsonl.iterate_lines(lines())]

    assert (counts.events, len(store.get_events("ses_1"))) == (2_500, 2_500)
    assert len(store.get_events("ses_kept")) == 35


@pytest.mark.parametrize("row", ["run", "event", "artifact"])
def test_a_row_that_is_in_a_file_twice_is_a_conflict(
    store: asm.SessionStore, migrated: str, tmp_path: Path, row: str
) -> None:
    rows: dict[str, list[Any]] = {
        "run": [asm.Run(session_id="ses_1", id=f"id_{n}", turn_count=n) for n in range(2)],
        "event": [an_event("ses_1", id=f"id_{n}", sequence_number=n + 1) for n in range(2)],
        "artifact": [an_artifact(f"key_{n}", session_id="ses_1", id=f"id_{n}") for n in range(2)],
    }
    given: dict[str, Any] = {f"{row}s": rows[row]}
    export = asm.SessionExport(session=asm.Session(agent_id="a", id="ses_1"), **given)
    content = b"".join(jsonl.dump([export])).replace(b"id_1", b"id_0")
    (tmp_path / "twice.jsonl").write_bytes(content)
    result = invoke("import", tmp_path / "twice.jsonl", "--dsn", migrated)
    assert (result.exit_code, result.stdout.count("different contents")) == (1, 1)
    assert f"{row} 'id_0' is in the import twice, and nothing was written" in result.stderr
    assert [session.id for session in store.list_sessions()] == ["ses_kept"]


def test_a_file_for_which_the_memory_is_too_small_is_reported_and_the_next_one_is_imported(
    tmp_path: Path,
) -> None:
    bomb = tmp_path / "bomb.jsonl"
    bomb.write_bytes(an_export()[0] + b'{"session": "')
    with bomb.open("r+b") as file:
        file.truncate(500 * MIB)
    dsn = f"sqlite:///{tmp_path / 'new.db'}"
    result = subprocess.run(
        [sys.executable, "-m", "asm", "import", bomb, SMALL, "--dsn", dsn],
        capture_output=True,
        encoding="utf-8",
        preexec_fn=limit_memory,
        check=False,
    )
    assert result.stderr == f"asm: {bomb}: line 2: there is not enough memory to read the line\n"
    assert result.stdout == "imported 1 session with 23 events, 1 could not be read\n"
    assert result.returncode == 1


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (400 * MIB, 400 * MIB))
