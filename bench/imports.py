"""How long does it take to import a tree of logs of agents, and to find that it has not changed?

The floor of the import parses each line by `orjson.loads`, serialises the documents of the same rows by
`orjson.dumps`, and inserts them by `executemany` into the same tables, in one transaction for each file.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, TypeVar

import orjson

import asm
from asm.formats.importing import import_files
from bench import agent_logs, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Side, comparison, in_turn

FILES = 60
LONG_BYTES = 200_000_000

_TABLES = {
    "asm_sessions": "id",
    "asm_session_tags": "id",
    "asm_runs": "session_id",
    "asm_session_sequences": "session_id",
    "asm_events": "session_id",
}
"""The tables that an import writes, and the column that has the id of the session."""

_DOCUMENTS = frozenset(
    ("metadata", "context", "tags", "input", "output", "error", "token_usage", "provider_metadata", "data")
)

_IMPORT_OF_ONE = """
import json
import sys
import time

import asm
from asm.formats.importing import import_files

def peak_kb():
    # ru_maxrss begins with that of the process which began this one.
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0])

with asm.SessionStore(sys.argv[1]) as store:
    start, cpu = time.perf_counter(), time.process_time()
    report = import_files(store, sys.argv[2:])
    elapsed_s, client_s = time.perf_counter() - start, time.process_time() - cpu
assert not report.failures, report.failures
print(json.dumps([report.events, elapsed_s, client_s, peak_kb() / 1e3]))
"""
"""Run by a process of its own, whose memory nothing else has used."""

Rows: TypeAlias = dict[str, list[dict[str, Any]]]
"""The rows of one session by table, with their documents as values."""

Opened = TypeVar("Opened")


def comparisons(
    rounds: Rounds, databases: Databases, files: int = FILES, long_bytes: int = LONG_BYTES
) -> Iterator[Comparison]:
    with TemporaryDirectory(dir=databases.folder) as folder, databases.file() as file:
        rounds.say(f"writing {files:,} logs")
        importing = Importing(Path(folder), file.path, files)
        # Each call imports the whole tree.
        yield rounds.compare(targets.IMPORT, importing.by_hand(), importing.importing(), share=0.01)
        yield rounds.compare(
            targets.IMPORT_AGAIN, importing.walking(), importing.importing_again(), unit="file", share=0.2
        )
        sizes = (long_bytes // 10, long_bytes)
        rounds.say(f"importing a log of {long_bytes / 1e6:,.0f} MB")
        short, long = ([importing.of_one(size)] for size in sizes)
        yield comparison(targets.IMPORT_LONG, "event", "a tenth of it", short, long)


class Importing:
    """A tree of logs, and the ways to import it into a new store."""

    def __init__(self, folder: Path, empty: Path, files: int) -> None:
        self._folder = folder
        self._tree = folder / "tree"
        self._empty = empty
        self._logs = agent_logs.write_tree(self._tree, files)
        self._stored = folder / "stored.db"
        shutil.copy(empty, self._stored)
        with asm.SessionStore(f"sqlite:///{self._stored}") as store:
            import_files(store, [self._tree])
        with closing(sqlite3.connect(self._stored)) as connection:
            self._rows = [_rows_of(connection, _session_of(log)) for log in self._logs]

    def importing(self) -> Side:
        def step(store: asm.SessionStore) -> int:
            return import_files(store, [self._tree]).events

        return Side("import_files", self._into_new(lambda path: asm.SessionStore(f"sqlite:///{path}"), step))

    def by_hand(self) -> Side:
        def step(connection: sqlite3.Connection) -> int:
            for log, rows in zip(self._logs, self._rows, strict=True):
                with log.open("rb") as file:
                    for line in file:
                        orjson.loads(line)
                _insert(connection, rows)
            return sum(len(rows["asm_events"]) for rows in self._rows)

        return Side("orjson and executemany", self._into_new(lambda path: closing(_connected(path)), step))

    def importing_again(self) -> Side:
        def run(seconds: float) -> Sample:
            with asm.SessionStore(f"sqlite:///{self._stored}") as store:
                return in_turn(lambda: import_files(store, [self._tree]).unchanged, seconds)

        return Side("import_files of the same files", run)

    def walking(self) -> Side:
        def step() -> int:
            walked = os.walk(self._tree)
            return len([os.stat(os.path.join(parent, name)) for parent, _, names in walked for name in names])  # noqa: PTH116, PTH118 - the floor makes no paths

        return Side("os.walk and os.stat", lambda seconds: in_turn(step, seconds))

    def of_one(self, size_bytes: int) -> Sample:
        """The import of one log by a process of its own."""
        log, path = self._folder / f"{agent_logs.ID}.jsonl", self._folder / "long.db"
        agent_logs.write_long(log, size_bytes)
        shutil.copy(self._empty, path)
        command = [sys.executable, "-c", _IMPORT_OF_ONE, f"sqlite:///{path}", str(log)]
        printed = subprocess.run(command, capture_output=True, check=True).stdout
        events, elapsed_s, client_s, peak_mb = orjson.loads(printed)
        return Sample(events, elapsed_s, [elapsed_s], client_s, peak_mb=peak_mb)

    def _into_new(
        self, opened: Callable[[Path], AbstractContextManager[Opened]], step: Callable[[Opened], int]
    ) -> Callable[[float], Sample]:
        """Run a step once in a new store, which is made before the clock starts."""

        def run(seconds: float) -> Sample:
            with TemporaryDirectory(dir=self._folder) as folder:
                path = Path(folder, "new.db")
                shutil.copy(self._empty, path)
                with opened(path) as store:
                    waiting = deque([store])
                    return in_turn(lambda: step(waiting.popleft()), seconds)

        return run


def _session_of(log: Path) -> str:
    """The id of the session of a log, with which its name ends."""
    return log.stem[-len(agent_logs.ID) :]


def _rows_of(connection: sqlite3.Connection, session_id: str) -> Rows:
    return {table: list(_select(connection, table, key, session_id)) for table, key in _TABLES.items()}


def _select(
    connection: sqlite3.Connection, table: str, key: str, session_id: str
) -> Iterator[dict[str, Any]]:
    found = connection.execute(f"select * from {table} where {key} = ?", (session_id,))
    names = [column[0] for column in found.description]
    for row in found:
        yield {
            name: orjson.loads(value) if name in _DOCUMENTS and value is not None else value
            for name, value in zip(names, row, strict=True)
        }


def _connected(path: Path) -> sqlite3.Connection:
    """A connection with the durability of a store's."""
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = wal", "synchronous = full", "wal_autocheckpoint = 10000"):
        connection.execute(f"pragma {setting}").fetchall()
    return connection


def _insert(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.execute("begin immediate")
    for table, own in rows.items():
        if own:
            marks = ", ".join("?" * len(own[0]))
            connection.executemany(
                f"insert into {table} ({', '.join(own[0])}) values ({marks})", map(_encoded, own)
            )
    connection.execute("commit")


def _encoded(row: dict[str, Any]) -> list[object]:
    return [
        orjson.dumps(value).decode() if name in _DOCUMENTS and value is not None else value
        for name, value in row.items()
    ]
