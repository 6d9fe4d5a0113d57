"""Files that were damaged, or made to harm, in the shape of each format."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

import asm
from asm.formats import databases, import_files
from tests.formats.samples import SAMPLES, Sample
from tests.formats.test_properties import a_store

SEED = 20_260_203
MUTATIONS = 60
"""For each format. Each is imported on top of those before, so that ids occur again with another content."""

DEPTH = 1_500
HUGE = "9" * 5_000
VALUES = (
    *('""', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"' + "é" * 300 + '"', '"../../etc/passwd"'),
    *("null", "true", "[]", "{}", "[null]", '{"": {"": []}}', "[" * DEPTH + "]" * DEPTH),
    *("0", "-1", "1.5", "1e308", "NaN", "-Infinity", str(2**53), str(2**70), HUGE),
    *('"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"2026-02-03T09:00:00"'),
)
"""What a field is replaced by, as JSON texts."""

Mutation = Callable[[bytes, Random], bytes]


def cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def with_damage(content: bytes, random: Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(random.randint(1, 8)):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged)


def in_another_order(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def with_a_line_twice(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    return b"".join(lines)


def without_a_line(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    return b"".join(lines)


def with_another_value(content: bytes, random: Random) -> bytes:
    """A field of some record has a value of another kind."""
    return _with_record(content, random, lambda text: _replaced(text, random, random.choice(VALUES)))


def with_the_value_of_another_field(content: bytes, random: Random) -> bytes:
    def swapped(text: str) -> str:
        other = random.choice(list(_places(json.loads(text))))
        return _replaced(text, random, json.dumps(_at(json.loads(text), other)))

    return _with_record(content, random, swapped)


def with_equal_ids(content: bytes, random: Random) -> bytes:
    """All ids of some record are one."""
    id = random.choice(["one", "", "é" * 300])

    def equal(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: id if name.lower().endswith(("id", "uuid")) and isinstance(each, str) else equal(each)
                for name, each in value.items()
            }
        return [equal(each) for each in value] if isinstance(value, list) else value

    return _with_record(content, random, lambda text: json.dumps(equal(json.loads(text))))


MUTATE: tuple[Mutation, ...] = (
    *(cut, with_damage, in_another_order, with_a_line_twice, without_a_line),
    *(with_another_value,) * 6,
    *(with_the_value_of_another_field, with_equal_ids) * 2,
)


def _with_record(content: bytes, random: Random, change: Callable[[str], str]) -> bytes:
    """The content with one of its records changed: a line of a log, or the document."""
    try:
        return change(content.decode()).encode()
    except json.JSONDecodeError:
        lines = content.decode().splitlines()
        number = random.choice([number for number, line in enumerate(lines) if line])
        lines[number] = change(lines[number])
        return "\n".join([*lines, ""]).encode()


def _replaced(text: str, random: Random, value: str) -> str:
    """The JSON text with another value at one place."""
    mark = "\x7fhere\x7f"
    document = json.loads(text)
    place = random.choice(list(_places(document)))
    if not place:
        return value
    _at(document, place[:-1])[place[-1]] = mark
    return json.dumps(document).replace(json.dumps(mark), value)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _places(each, (*place, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def write(path: Path, sample: Sample, random: Random) -> None:
    """Write a mutation of a sample."""
    content = sample.path.read_bytes()
    mutate = random.choice(MUTATE)
    if not content.startswith(b"SQLite"):
        path.write_bytes(mutate(content, random))
        return
    if mutate in (cut, with_damage):
        path.write_bytes(mutate(content, random))
        return
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as connection:
        _mutate_row(connection, random)


def _mutate_row(connection: sqlite3.Connection, random: Random) -> None:
    """Change a value in some row of a database, in the way of a text or of a JSON document."""
    tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    (table,) = random.choice(tables)
    rows = connection.execute(f"select rowid, * from {table}")
    names = [column[0] for column in rows.description][1:]
    id, *values = random.choice(rows.fetchall())
    index = random.randrange(len(names))
    new: Any = random.choice(["", "é\0", -1, 2**62, 1e308, b"\xff\xfe", values[index]])
    with suppress(json.JSONDecodeError, IndexError):
        # The value is a JSON document.
        new = with_another_value(str(values[index]).encode(), random).decode()
    with suppress(sqlite3.IntegrityError):
        connection.execute(f"update {table} set {names[index]} = ? where rowid = ?", (new, id))
        connection.commit()


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_a_hostile_file_is_refused_or_leaves_a_healthy_store(sample: Sample, tmp_path: Path) -> None:
    path = sample.copied(tmp_path)
    random = Random(SEED)
    refused = 0
    with asm.SessionStore("sqlite://", migrate=True) as store:
        for number in range(MUTATIONS):
            path.unlink()
            write(path, sample, random)
            failures = import_files(store, [path]).failures
            assert all(isinstance(failure.error, asm.AsmError) for failure in failures), number
            refused += len(failures)
            assert store.maintenance.health_check() == [], number
    # Neither kind is the rule: the test would not say much of the other one.
    assert 0 < refused < MUTATIONS


CLAUDE_LINE = (
    '{"parentUuid": null, "isSidechain": false, "type": "user", "uuid": "1", "sessionId": "s", '
    '"timestamp": "2026-02-03T09:00:00Z", "message": {"role": "user", "content": "Hello."}, "more": %s}'
)
CODEX_LINE = (
    '{"timestamp": "2026-02-03T09:00:00Z", "type": "session_meta", "payload": {"id": "s", "more": %s}}'
)


@pytest.mark.parametrize("line", [CLAUDE_LINE, CODEX_LINE], ids=["Claude Code", "Codex"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"[" * 600 + b"]" * 600, "is nested deeper than 500 levels"),
        (b"1e999", "the number 1e999 is inf as a float"),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', "contains a surrogate pair as two characters"),
    ],
    ids=["deep", "infinite", "surrogates"],
)
def test_what_no_store_can_have_is_refused_with_the_number_of_its_line(
    line: str, value: bytes, fault: str, tmp_path: Path
) -> None:
    good, bad = (line.encode() % each for each in (b"null", value))
    path = tmp_path / "log.jsonl"
    path.write_bytes(good + b"\n" + bad.replace(b'"1"', b'"2"') + b"\n")

    with a_store(tmp_path / "store.db") as store:
        (failure,) = import_files(store, [path]).failures
        assert "log.jsonl: line 2: " in str(failure)
        assert fault in str(failure)
        assert store.list_sessions() == []


def _remove(path: Path) -> None:
    path.unlink()


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def _link_outside(path: Path) -> None:
    path.unlink()
    outside = path.parents[3] / "outside.txt"
    outside.write_text('{"id": "outside"}')
    path.symlink_to(outside)


@pytest.mark.parametrize("place", [_make_folder, _make_pipe, _link_to_nothing, _link_outside])
def test_what_is_no_file_of_a_conversation_is_read_as_if_it_were_absent(
    place: Callable[[Path], None], tmp_path: Path
) -> None:
    (sample,) = (sample for sample in SAMPLES if sample.name == "OpenHands conversation")
    imported = []
    for change in (place, _remove):
        folder = tmp_path / change.__name__ / "files"
        folder.parent.mkdir()
        first = sample.copied(folder)
        change(first)
        change(first.parents[1] / "base_state.json")
        with a_store(folder.parent / "store.db") as store:
            assert import_files(store, [folder]).failures == []
            (session,) = store.list_sessions()
            imported.append((session.id, [event.id for event in store.get_events(session.id)]))
            assert import_files(store, [folder]).events == 0
    assert imported[0] == imported[1]


def test_ids_of_records_that_look_like_numbered_ones_lose_no_event(tmp_path: Path) -> None:
    ids = ["a", "a#2", "a", "#2", None, None, "#1", "a#2"]
    message = {"source": "user", "kind": "MessageEvent", "timestamp": "2026-02-03T09:00:00"}
    records = [{"id": id, **message, "llm_message": {"content": "Hello."}} for id in ids]
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(records))
    with a_store(tmp_path / "store.db") as store:
        assert import_files(store, [path]).events == len(ids) + 1


@pytest.mark.parametrize(
    ("column", "value", "is_read"),
    [
        ("message_data", "cast(x'227bff22' as text)", True),
        ("message_data", "zeroblob(140000000)", False),
        ("session_id", "cast(x'ff' as text)", False),
        ("session_id", "x'ff'", False),
        ("session_id", f"'{'-' * 5_000}{'0' * 32}'", True),
    ],
)
def test_one_session_of_a_database_does_not_hinder_the_others(
    column: str, value: str, is_read: bool, tmp_path: Path
) -> None:
    # SQLite opens a file of any name.
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff?#%41.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            create table agent_sessions (session_id primary key, created_at, updated_at);
            create table agent_messages (
                id integer primary key, session_id references agent_sessions, message_data, created_at);
            """
        )
        for name in ("'a'", "'b'", "'c'"):
            values = {"session_id": name, "message_data": """'{"role": "user", "content": "Hello."}'"""}
            values |= {column: value} if name == "'b'" else {}
            connection.execute(f"insert into agent_sessions values ({values['session_id']}, 1, 1)")
            connection.execute(
                "insert into agent_messages (session_id, message_data, created_at) "
                f"values ({values['session_id']}, {values['message_data']}, 1)"
            )
        connection.commit()
    with a_store(tmp_path / "store.db") as store:
        report = import_files(store, [path])
        assert report.sessions == 2 + is_read
        assert bool(report.failures) != is_read
        assert all(len(str(failure)) < 1_000 for failure in report.failures)
        assert import_files(store, [path]).sessions == 0


def test_a_database_that_changes_whenever_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "changing.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table one (id)")
    times = count(1)
    with (
        pytest.raises(asm.ValidationError, match="again and again"),
        databases.reading(path) as database,
    ):
        database.read(lambda: os.utime(path, (0, next(times))))
    assert next(times) < 100
