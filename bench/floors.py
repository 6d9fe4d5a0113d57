"""The floors: the same statements and rows without the store."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asm.engine.registry import QueryRegistry, sql_folder
from bench import payload
from bench.databases import PostgresSchema, SQLiteFile
from bench.harness import Sample, Side, by_threads
from bench.payload import COLUMNS, Row

# pgbench computes with numbers only, so both sides have ids of nineteen digits (see `payload`): the same
# statement and the same bytes, growing with time. Ids of 36 characters, built in the statement, cost 9 % of
# the floor's rate where no disk bounds it. The number is microseconds, then the client.
_PREPARATION = r"""
\set number :number + 1000
\set id :number + :client_id
\set session :first_session + random(0, :sessions - 1)
"""
_VARIABLES = {"session_id": "session", "run_id": "session"}
_PARAMETER = re.compile(r"%\((\w+)\)[sbt]")


def one_statement(database: PostgresSchema, clients: int, *, sessions: int = payload.SESSIONS) -> Side:
    """The append statement from this many clients: by pgbench if it is installed, else by psycopg."""
    name = f"{clients} client{'s' if clients > 1 else ''}"
    if database.pgbench is None:
        return Side(f"bare psycopg, {name}", _by_psycopg(database, clients, sessions))
    return Side(f"pgbench, {name}", _by_pgbench(database, database.pgbench, clients, sessions))


def _by_pgbench(
    database: PostgresSchema, pgbench: Path, clients: int, sessions: int
) -> Callable[[float], Sample]:
    statement = _PARAMETER.sub(
        lambda found: f":{_VARIABLES.get(found[1], found[1])}", database.statement("append_event")
    )
    script = _PREPARATION + statement.replace("%%", "%")
    first_session, *_ = payload.numbered_sessions(sessions)
    # pgbench sends a variable that is not defined here, correlation_id, as null.
    values = {
        "type": "message_sent",
        "timestamp": "2026-01-01T00:00:00Z",
        "first_session": first_session,
        "sessions": str(sessions),
        "data": payload.TEXTS[0],
        "metadata": "{}",
        "schema_version": "1",
        "provider": "claude",
    }

    per_client = 200.0

    def run(seconds: float) -> Sample:
        nonlocal per_client
        # pgbench counts whole seconds. For less, run as many statements as it did in that time before.
        size = (
            f"--time={round(seconds)}" if seconds >= 1 else f"--transactions={5 + int(per_client * seconds)}"
        )
        with tempfile.TemporaryDirectory(prefix="asm-pgbench-") as folder:
            file = Path(folder) / "append.sql"
            file.write_text(script)
            numbered = values | {"number": str(payload.number_of_now())}
            command = [
                *(str(pgbench), "--no-vacuum", "--protocol=prepared", "--log"),
                *(f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}"),
                *(size, f"--file={file}"),
                *(f"--define={name}={value}" for name, value in numbered.items()),
                _without_password(database.dsn),
            ]
            server_s = database.server() if database.server else None
            client_s = _children_s()
            outcome = subprocess.run(
                command, cwd=folder, env=os.environ | _password(database.dsn), capture_output=True, text=True
            )
            if outcome.returncode:
                raise RuntimeError(f"pgbench: {outcome.stderr}")
            client_s = _children_s() - client_s
            server_s = database.server() - (server_s or 0.0) if database.server else None
            latencies = list(_logged(Path(folder)))
            rate = float(re.findall(r"^tps = ([\d.]+)", outcome.stdout, re.MULTILINE)[0])
        per_client = rate / clients
        return Sample(len(latencies), len(latencies) / rate, latencies, client_s, server_s)

    return run


def _logged(folder: Path) -> Iterator[float]:
    for log in folder.glob("pgbench_log.*"):
        with log.open() as lines:
            yield from (int(line.split()[2]) / 1e6 for line in lines)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _without_password(dsn: str) -> str:
    given = {name: value for name, value in conninfo_to_dict(dsn).items() if name != "password"}
    return make_conninfo("", **given)


def _password(dsn: str) -> dict[str, str]:
    password = conninfo_to_dict(dsn).get("password")
    return {"PGPASSWORD": str(password)} if password else {}


def _by_psycopg(database: PostgresSchema, clients: int, sessions: int) -> Callable[[float], Sample]:
    statement = database.statement("append_event")
    supply = payload.Supply(payload.numbered_sessions(sessions), payload.numbered_event)

    def run(seconds: float) -> Sample:
        supply.fill(seconds)
        connections = [database.connect() for _ in range(clients)]
        cursors = [connection.cursor() for connection in connections]

        def step(cursor: psycopg.Cursor[tuple[object, ...]]) -> Callable[[], int]:
            def append() -> int:
                values = payload.row(supply.take(), 0)._asdict()
                del values["sequence_number"]
                return len(cursor.execute(statement.encode(), values, prepare=True, binary=True).fetchall())

            return append

        sample = by_threads([step(cursor) for cursor in cursors], seconds, database.server)
        for connection in connections:
            connection.close()
        supply.learn(sample.rate)
        return sample

    return run


def copy(connection: psycopg.Connection[tuple[object, ...]], schema: str, rows: Sequence[Row]) -> None:
    """COPY rows into the events of a schema, and commit."""
    statement = sql.SQL(f"copy {{}}.asm_events ({COLUMNS}) from stdin")
    with (
        connection.cursor() as cursor,
        cursor.copy(statement.format(sql.Identifier(schema))) as writer,
    ):
        for row in rows:
            writer.write_row(row)


@contextmanager
def reference_schema(database: PostgresSchema) -> Iterator[str]:
    """The reference library's table of events, with jsonb documents and seven indexes."""
    name = f"{database.schema}_reference"
    with database.connect() as connection:
        schema = sql.Identifier(name)
        for statement in _REFERENCE:
            connection.execute(sql.SQL(statement).format(schema=schema))
        try:
            yield name
        finally:
            connection.execute(sql.SQL("drop schema {} cascade").format(schema))


_REFERENCE = (
    "create schema {schema}",
    """create table {schema}.asm_events (
        id varchar(255) primary key,
        type varchar(255) not null,
        timestamp timestamp not null,
        session_id varchar(255) not null,
        run_id varchar(255),
        sequence_number integer not null,
        data jsonb,
        metadata jsonb,
        schema_version integer not null,
        provider varchar(255),
        correlation_id varchar(255)
    )""",
    "create unique index on {schema}.asm_events (session_id, sequence_number)",
    "create index on {schema}.asm_events (session_id, type)",
    "create index on {schema}.asm_events (session_id, run_id)",
    "create index on {schema}.asm_events (correlation_id)",
    "create index on {schema}.asm_events (provider)",
    "create index on {schema}.asm_events (timestamp)",
)


class RawSQLite:
    """One sqlite3 connection with the store's durability and the store's statements.

    Without a file it is in memory, with its own tables.
    """

    def __init__(self, file: SQLiteFile | None = None) -> None:
        path = file.path if file else ":memory:"
        self.connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        if file:
            self.connection.execute("pragma journal_mode = wal")
            self.connection.execute("pragma synchronous = full")
        else:
            for migration in sorted((sql_folder("sqlite") / "migrations").glob("*.sql")):
                if not migration.name.endswith(".rollback.sql"):
                    self.connection.executescript(migration.read_text())
        render = QueryRegistry("sqlite")["append_event"].render({})
        self._counter, self._insert = (statement.sql for statement in render.statements)

    def append(self, row: Row) -> int:
        """Begin immediate, upsert the counter, insert the event, commit."""
        values = row._asdict()
        execute = self.connection.execute
        execute("begin immediate")
        execute(self._counter, values)
        number = execute(self._insert, values).fetchall()
        execute("commit")
        return len(number)

    def append_many(self, session_id: str, rows: Sequence[Row]) -> int:
        """In one transaction, insert a counter and rows that are numbered already."""
        self.connection.execute("begin immediate")
        self.connection.execute(
            "insert into asm_session_sequences (session_id, last_sequence, updated_at) values (?, ?, '')",
            (session_id, len(rows)),
        )
        marks = ", ".join("?" * len(Row._fields))
        self.connection.executemany(f"insert into asm_events ({COLUMNS}) values ({marks})", rows)
        self.connection.execute("commit")
        return len(rows)

    def close(self) -> None:
        self.connection.close()
