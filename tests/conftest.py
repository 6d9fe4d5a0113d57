"""Fixtures that run a test on every database, with both stores, and functions that make test data.

A test with the fixture `store` runs on SQLite and on PostgreSQL, with the blocking store and with the
async one behind `Blocking`. A test with `dsn` runs once per database, on an empty one without tables;
`migrated` is the same with tables.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import signal
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import asm
from asm.engine.registry import TABLES
from tests.servers import Server, installations

# Processes that tests start print UTF-8 in every locale.
os.environ["PYTHONUTF8"] = "1"

# They buffer their output, as those of users do.
os.environ.pop("PYTHONUNBUFFERED", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts a program in the background with Ctrl-C ignored, and the tests' own processes, which
    # are stopped with it, would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEST_DSN = os.environ.get("ASM_TEST_DSN")
CITUS_DSN = os.environ.get("ASM_TEST_CITUS_DSN")
"""A coordinator of Citus, in whose database the tests may create and drop schemas. They run there in place
of PostgreSQL, and one at a time."""
INSTALLATIONS = (
    {} if TEST_DSN or CITUS_DSN else {f"postgres-{each.version}": each for each in installations()}
)
POSTGRES = ["postgres-citus"] if CITUS_DSN else ["postgres"] if TEST_DSN else list(INSTALLATIONS)
DATABASES = ["sqlite", *POSTGRES]

# No test data has to survive a crash of the machine, so nothing has to be synced to the disk.
UNSYNCED = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "max_connections": "400",
    # Each `drop database` looks at all of them.
    "shared_buffers": "32MB",
}

Colour = Literal["sync", "async"]


class Where(NamedTuple):
    """The database of one test."""

    kind: str
    dsn: str

    @property
    def dialect(self) -> str:
        return self.kind.partition("-")[0]


class Cluster:
    """A PostgreSQL server that makes databases, migrated ones by copying a template."""

    def __init__(self, dsn: str, server: Server | None = None) -> None:
        self.dsn = dsn
        self.server = server
        self._admin = psycopg.connect(dsn, autocommit=True)
        self._template: str | None = None
        self._unused: list[str] = []

    @contextmanager
    def database(self, *, migrated: bool) -> Iterator[str]:
        name = f"asm_test_{uuid4().hex}"
        self._create(name, self._migrated_template() if migrated else "template0")
        try:
            yield make_conninfo(self.dsn, dbname=name)
        finally:
            # `drop database` sleeps for 100 ms if a backend of the test has not ended yet, so each
            # database is dropped after the next test.
            self._drop_unused()
            self._unused.append(name)

    def close(self) -> None:
        self._drop_unused()
        if self._template:
            self._drop(self._template)
        self._admin.close()

    def _drop_unused(self) -> None:
        while self._unused:
            self._drop(self._unused.pop())

    def _migrated_template(self) -> str:
        if self._template is None:
            name = f"asm_template_{uuid4().hex}"
            self._create(name, "template0")
            template = make_conninfo(self.dsn, dbname=name)
            asm.migrate(template)
            # This connection leaves a cache of the catalog, which is copied, and saves the first connection
            # to each copy 10 ms.
            psycopg.connect(template).close()
            self._template = name
        return self._template

    def _create(self, name: str, template: str) -> None:
        # Copying the files takes 40 ms, and writing them to the log 200. PostgreSQL 14 has no strategies.
        strategy = " strategy file_copy" if self._admin.info.server_version >= 150000 else ""
        statement = sql.SQL("create database {} template {}" + strategy)
        self._admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


class DistributedCluster(Cluster):
    """A coordinator of Citus, where a database is a schema. One that has tables is emptied and used again."""

    SHARDS = 2

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._migrated: list[str] = []
        self._objects: dict[str, list[Any]] = {}
        self._in_use = 0
        self._drop_what_tests_left()

    @contextmanager
    def database(self, *, migrated: bool) -> Iterator[str]:
        name = self._migrated.pop() if migrated and self._migrated else self._created(migrated)
        self._in_use += 1
        try:
            yield self._dsn_of(name)
        finally:
            self._in_use -= 1
            self._end_transactions(name)
            if migrated and self._is_emptied(name):
                self._migrated.append(name)
            else:
                self._drop_schema(name)
            if not self._in_use:
                self._drop_what_tests_left()

    def close(self) -> None:
        while self._migrated:
            self._drop_schema(self._migrated.pop())
        super().close()

    def _rows(self, query: str | sql.Composed, params: Any = None) -> list[Any]:
        # A test may end all connections to the database, which is that of every test.
        if self._admin.closed or self._admin.pgconn.status != psycopg.pq.ConnStatus.OK:
            self._admin = psycopg.connect(self.dsn, autocommit=True)
        try:
            found = self._admin.execute(query, params)
        except psycopg.OperationalError:
            if not self._admin.closed:
                raise
            return self._rows(query, params)
        return found.fetchall() if found.description else []

    def _dsn_of(self, schema: str) -> str:
        return make_conninfo(self.dsn, options=f"-csearch_path={schema}")

    def _created(self, migrated: bool) -> str:
        name = f"asm_test_{uuid4().hex}"
        self._rows(sql.SQL("create schema {}").format(sql.Identifier(name)))
        if migrated:
            asm.migrate(self._dsn_of(name), distributed=True, shards=self.SHARDS)
            self._objects[name] = self._objects_of(name)
        return name

    def _objects_of(self, schema: str) -> list[Any]:
        """The tables with their columns, constraints and triggers, the functions, and the migrations."""
        query = """
            with tables as (select oid, relname from pg_class where relnamespace = %(schema)s::regnamespace)
            select oid, relname from tables
            union all
            select attrelid, attname || attnotnull::text
              from pg_attribute where attrelid in (select oid from tables)
            union all
            select oid, conname from pg_constraint where connamespace = %(schema)s::regnamespace
            union all
            select oid, tgname from pg_trigger where tgrelid in (select oid from tables)
            union all
            select oid, proname from pg_proc where pronamespace = %(schema)s::regnamespace
            order by 1, 2
        """
        applied = sql.SQL("select migration_id from {} order by 1").format(
            sql.Identifier(schema, "_yoyo_migration")
        )
        found = self._rows(query, {"schema": schema})
        return found + (self._rows(applied) if "_yoyo_migration" in (name for _, name in found) else [])

    def _is_emptied(self, name: str) -> bool:
        if self._objects_of(name) != self._objects[name]:
            return False
        tables = sql.SQL(", ").join(sql.Identifier(name, table) for table in TABLES)
        self._rows(sql.SQL("truncate {}").format(tables))
        return True

    def _drop_what_tests_left(self) -> None:
        """Drop the schemas and tables that tests created, also those of a run that was killed."""
        schemas = """
            select nspname from pg_namespace
             where nspname !~ '^(pg_|citus|columnar)' and nspname not in ('public', 'information_schema')
        """
        for (name,) in self._rows(schemas):
            if name not in self._migrated:
                self._drop_schema(name)
        tables = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        for (name,) in self._rows(tables):
            self._rows(sql.SQL("drop table {} cascade").format(sql.Identifier("public", name)))

    def _drop_schema(self, name: str) -> None:
        self._rows(sql.SQL("drop schema {} cascade").format(sql.Identifier(name)))

    def _end_transactions(self, name: str) -> None:
        """End the transactions that a failed test has left open, which hold locks."""
        query = """
            select pg_terminate_backend(pid)
              from pg_locks
             where relation in (select oid from pg_class where relnamespace = %s::regnamespace)
               and database = (select oid from pg_database where datname = current_database())
               and pid <> pg_backend_pid()
        """
        self._rows(query, [name])


def pytest_itemcollected(item: pytest.Item) -> None:
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(
            f"{item.nodeid} has an address in its name, which differs from process to process: give its "
            "cases ids"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect repetitions of tests on further stores, unless ASM_TEST_ALL is set.

    Most tests run on SQLite with one store, blocking or async, and on PostgreSQL with the other one. Which
    of them is first alternates from test to test and from case to case, so that every promise is tested on
    both databases and with both stores. What is WRITTEN_FOR_EACH_STORE runs with both stores on both
    databases. In tests/fault, each case of a test with MANY runs with one store. The cases of a command
    alternate between the databases, because a command prints the same of both.

    An older PostgreSQL server runs tests/sql, the contract with one store, and tests that run on no newer
    one. The cases of a test with MANY alternate between it and the newest server.
    """
    if os.environ.get("ASM_TEST_ALL"):
        return
    variants: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        variants[item.nodeid.partition("[")[0]].append(item)
    tests = [Variants(of_test) for of_test in variants.values()]
    repeated = {each.item for test in tests for each in test.repetitions()}
    config.hook.pytest_deselected(items=[item for item in items if item in repeated])
    items[:] = [item for item in items if item not in repeated]


MANY = 3
WRITTEN_FOR_EACH_STORE = {
    "test_concurrent_appends.py",
    "test_connections.py",
    "test_group_commit.py",
    "test_opening.py",
    "test_polling.py",
    "test_run_transaction.py",
    "test_transactions.py",
}
"""Tests of what the blocking and the async store do with code of their own."""


class Variant(NamedTuple):
    """A test with one set of parameters: its store, and the number of the other ones."""

    item: pytest.Item
    kind: str | None
    colour: str | None
    case: int

    @property
    def is_on_postgres(self) -> bool:
        return self.kind in POSTGRES

    @property
    def is_on_an_older_server(self) -> bool:
        return self.kind in POSTGRES[1:]


class Variants:
    """All variants of one test."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.all: list[Variant] = []
        numbers = Counter[tuple[str | None, str | None]]()
        for item in items:
            call: Any = getattr(item, "callspec", None)
            kind, colour = (call.params.get(name) if call else None for name in ("kind", "colour"))
            self.all.append(Variant(item, kind, colour, numbers[kind, colour]))
            numbers[kind, colour] += 1
        are_paired = len({number for (_, colour), number in numbers.items() if colour}) == 1
        path = items[0].path
        self._name = items[0].nodeid.partition("[")[0]
        self._folder = path.parent.name
        self._kinds = {each.kind for each in self.all}
        self._stores = {(each.kind, each.colour, each.case) for each in self.all}
        self._are_many = len({each.case for each in self.all}) >= MANY
        are_cases = max(numbers.values()) > 1
        self._is_of_a_command = path.name.startswith("test_cli_") and are_cases
        self._is_on_both = bool(POSTGRES) and {"sqlite", POSTGRES[0]} <= self._kinds
        if self._folder in ("agents", "contract", "property", "telemetry"):
            alternate = are_cases or (self._is_on_both and path.name not in WRITTEN_FOR_EACH_STORE)
        else:
            alternate = self._folder == "fault" and self._are_many
        self._alternate = alternate and are_paired

    def repetitions(self) -> list[Variant]:
        repeated = [each for each in self.all if self._is_repetition(each)]
        kept = [each for each in self.all if each not in repeated]
        if _tested(kept) != _tested(self.all):
            raise pytest.UsageError(f"{self._name} is not selected for every database, store and case")
        return repeated

    def _is_repetition(self, each: Variant) -> bool:
        return (
            self._is_with_the_second_store(each)
            or self._is_on_a_second_server(each)
            or self._is_on_a_second_database(each)
        )

    def _is_with_the_second_store(self, each: Variant) -> bool:
        other = (each.kind, "async" if each.colour == "sync" else "sync", each.case)
        if not self._alternate or other not in self._stores:
            return False
        database = DATABASES.index(each.kind) if each.kind in DATABASES else 0
        is_even = (zlib.crc32(self._name.encode()) + each.case + database) % 2 == 0
        return is_even != (each.colour == "sync")

    def _is_on_a_second_server(self, each: Variant) -> bool:
        if not each.is_on_postgres or not set(POSTGRES) <= self._kinds or self._folder == "sql":
            return False
        if self._folder != "contract" or each.colour is None:
            return each.is_on_an_older_server
        if self._are_many:
            return POSTGRES.index(str(each.kind)) != each.case // 2 % len(POSTGRES)
        return each.is_on_an_older_server and each.colour == "async" and not self._alternate

    def _is_on_a_second_database(self, each: Variant) -> bool:
        if not self._is_of_a_command or each.colour or not self._is_on_both:
            return False
        return (zlib.crc32(self._name.encode()) + each.case) % 2 == (each.kind == "sqlite")


def _tested(variants: list[Variant]) -> set[object]:
    """The databases, the stores and the cases."""
    databases = {"postgres" if each.is_on_postgres else each.kind for each in variants}
    return {*databases, *(each.colour for each in variants), *(each.case for each in variants)}


def pytest_collection_finish() -> None:
    # Excludes thousands of tests from garbage collection.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[str], Cluster]]:
    """Returns the server of a kind, and starts it at the first call."""
    started: dict[str, Cluster] = {}

    def cluster(kind: str) -> Cluster:
        if kind not in started:
            started[kind] = _started(kind)
        return started[kind]

    yield cluster
    for each in started.values():
        each.close()
        if each.server:
            each.server.close()


def _started(kind: str) -> Cluster:
    if CITUS_DSN:
        return DistributedCluster(CITUS_DSN)
    if TEST_DSN:
        return Cluster(TEST_DSN)
    server = Server(INSTALLATIONS[kind], folder=in_memory(), settings=UNSYNCED, hashes_once=True)
    server.start()
    return Cluster(server.dsn(), server)


def in_memory() -> Path | None:
    """A file system in memory with 2 GB of free space, if there is one."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2**31 else None


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with tables, to be copied."""
    file = tmp_path_factory.mktemp("template") / "migrated.db"
    asm.migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def new_database(
    kind: str, tmp_path: Path, clusters: Callable[[str], Cluster], migrated_file: Path
) -> Callable[[str], AbstractContextManager[str]]:
    """Makes a database with tables; its argument names a SQLite file."""

    @contextmanager
    def copied(name: str) -> Iterator[str]:
        yield f"sqlite:///{shutil.copyfile(migrated_file, tmp_path / name)}"

    def made(name: str) -> AbstractContextManager[str]:
        return copied(name) if kind == "sqlite" else clusters(kind).database(migrated=True)

    return made


@pytest.fixture
def where(kind: str, new_database: Callable[[str], AbstractContextManager[str]]) -> Iterator[Where]:
    """A database with tables."""
    with new_database("store.db") as dsn:
        yield Where(kind, dsn)


@pytest.fixture
def migrated(where: Where) -> str:
    """The DSN of a database with tables, on every kind of database."""
    return where.dsn


@pytest.fixture
def other(new_database: Callable[[str], AbstractContextManager[str]]) -> Iterator[str]:
    """The DSN of a second database with tables, of the same kind as `migrated`."""
    with new_database("other.db") as dsn:
        yield dsn


@pytest.fixture
def dsn(kind: str, tmp_path: Path, clusters: Callable[[str], Cluster]) -> Iterator[str]:
    """The DSN of an empty database without tables, on every kind of database."""
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with clusters(kind).database(migrated=False) as dsn:
            yield dsn


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return "sync" if request.param == "sync" else "async"


@pytest.fixture
def opened(colour: Colour) -> Iterator[Callable[..., Any]]:
    """Opens blocking or async stores with the options of `SessionStore`, and closes them after the test."""
    stores: list[Any] = []

    def open_store(*args: Any, **options: Any) -> Any:
        store = asm.SessionStore(*args, **options) if colour == "sync" else Blocking.opened(*args, **options)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[..., Any], migrated: str) -> Any:
    """A store on every kind of database, blocking and async."""
    return opened(migrated)


class Blocking:
    """An async store, or a part of one, with the methods of a blocking one."""

    def __init__(self, target: Any) -> None:
        self._target = target

    @classmethod
    def opened(cls, *args: Any, **options: Any) -> Blocking:
        store = asm.AsyncSessionStore(*args, **options)
        in_loop(store.open())
        return cls(store)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in ("artifacts", "query", "maintenance"):
            return Blocking(value)
        if name == "transaction":
            return self._transaction
        return self._called(value) if callable(value) else value

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *error: object) -> None:
        in_loop(self._target.close())

    def __repr__(self) -> str:
        return repr(self._target)

    @contextmanager
    def _transaction(self) -> Iterator[Blocking]:
        manager = self._target.transaction()
        tx = in_loop(manager.__aenter__())
        try:
            yield Blocking(tx)
        except BaseException as error:
            if not in_loop(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            in_loop(manager.__aexit__(None, None, None))

    def run_transaction(self, work: Any, **options: Any) -> Any:
        async def awaited(tx: Any) -> Any:
            return await asyncio.to_thread(work, Blocking(tx))

        return in_loop(self._target.run_transaction(awaited if callable(work) else work, **options))

    @staticmethod
    def _called(method: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                return in_loop(result)
            return _blocking_iterator(result) if hasattr(result, "__aiter__") else result

        return call


def _blocking_iterator(iterator: Any) -> Iterator[Any]:
    while True:
        try:
            yield in_loop(iterator.__anext__())
        except StopAsyncIteration:
            return


def in_loop(awaitable: Any) -> Any:
    """Await in the event loop that all tests share."""

    async def awaited() -> Any:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(awaited(), _loop()).result()


_running: list[asyncio.AbstractEventLoop] = []
_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        if not _running:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="tests' loop", daemon=True).start()
            _running.append(loop)
    return _running[0]


def an_event(session_id: str = "ses_1", type: str = "message_sent", **fields: Any) -> asm.Event:
    return asm.Event(type=type, session_id=session_id, **fields)


def events_of(session_id: str, number: int, **fields: Any) -> list[asm.Event]:
    return [an_event(session_id, data={"n": n}, **fields) for n in range(number)]


def an_artifact(key: str = "report.pdf", **fields: Any) -> asm.Artifact:
    rest: dict[str, Any] = {
        "byte_size": 1_024,
        "checksum_sha256": "0" * 64,
        "storage_backend": "s3",
        "storage_ref": f"s3://bucket/{key}",
    }
    return asm.Artifact(key=key, **(rest | fields))


def numbers(events: list[asm.Event]) -> list[int]:
    """The sequence numbers of events; 0 for one that was never appended."""
    return [event.sequence_number or 0 for event in events]
