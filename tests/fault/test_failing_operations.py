"""An operation that fails at any of its queries has written nothing, and succeeds when it is repeated."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import pytest
from psycopg.conninfo import make_conninfo

import asm
from asm.cli import copying
from asm.engine.jobs import run_job
from asm.engine.script import Operation, Pipeline, Query, Rows, Script, UnitOfWork
from asm.maintenance import retention
from asm.operations import appending, exports, forks, imports, removing, runs, search, sessions
from tests.conftest import POSTGRES, Where, an_event, events_of, in_loop
from tests.contract.other_clients import driver_connection, only
from tests.contract.retention_data import a_session, fill

T = TypeVar("T")


class InjectedError(Exception):
    """An error that is not one of the database."""


class Stopped(BaseException):
    """Ends a job like a killed process: no code of the job handles it."""


class FailurePoint:
    """Makes operations fail once: before their first query, or after the rows of query `at` - 1."""

    def __init__(self, at: int, fail: Callable[[], None]) -> None:
        self._remaining = at
        self._fail = fail

    @property
    def has_failed(self) -> bool:
        return self._remaining <= 0

    def wrap(self, operation: Operation[T]) -> UnitOfWork[T] | Pipeline[T]:
        """The same operation, with the failure."""
        if not isinstance(operation, Pipeline):
            return UnitOfWork(
                lambda: self._script(iter(operation)),
                snapshot=is_snapshot(operation),
                idempotent=not isinstance(operation, UnitOfWork) or operation.idempotent,
            )
        on_conflict = operation.on_conflict
        return Pipeline(
            lambda: self._queries(operation.queries()),
            operation.read,
            None if on_conflict is None else lambda: self._script(on_conflict()),
            size=operation.size,
            sessions=operation.sessions,
        )

    def _script(self, script: Script[T]) -> Script[T]:
        self._step()
        try:
            query = next(script)
            while True:
                rows: Rows = yield query
                self._step()
                query = script.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result

    def _queries(self, queries: Iterable[Query[Any]]) -> Iterator[Query[Any]]:
        self._step()
        for query in queries:
            yield query
            self._step()

    def _step(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._fail()


class FailingDatabase:
    """A store's database whose operations have a failure point."""

    def __init__(self, store: asm.SessionStore, failure: FailurePoint) -> None:
        self._database = store._database
        self._failure = failure

    def run(self, operation: Operation[T]) -> T:
        return run(self._database, self._failure.wrap(operation))


def is_snapshot(operation: Operation[Any]) -> bool:
    return isinstance(operation, UnitOfWork) and operation.snapshot


def run(database: Any, operation: Operation[T]) -> T:
    """Run an operation on the database of a blocking or an asynchronous store."""
    result = database.run(operation)
    return cast(T, in_loop(result) if inspect.isawaitable(result) else result)


def raise_error() -> None:
    raise InjectedError


def stop() -> None:
    raise Stopped


class TerminateBackends:
    """Terminates the server's backends of all connections of the store."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    def __call__(self) -> None:
        assert self._admin.execute(TERMINATE).fetchall()


TERMINATE = (
    "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
    "where application_name = 'to be terminated' and datname = current_database()"
)
CONTENTS = (
    "select id, status, deleted_at is null from asm_sessions order by id",
    "select session_id, id, status from asm_runs order by session_id, id",
    "select session_id, sequence_number, id, type from asm_events order by session_id, sequence_number",
    "select session_id, last_sequence, pruned_events from asm_session_sequences order by session_id",
    "select key, session_id, deleted_at is null from asm_artifacts order by key, id",
)
TABLES = ("sessions", "runs", "events", "session_sequences", "artifacts")


def contents(connection: Any) -> list[list[Any]]:
    return [list(connection.execute(statement).fetchall()) for statement in CONTENTS]


def empty(connection: Any) -> None:
    for table in TABLES:
        connection.execute(f"delete from asm_{table}")


OLD = [an_event("ses_old", id=f"old_{n}") for n in range(3)]
NEW = [an_event(name, id=f"new_{name}_{n}") for n in range(2) for name in ("ses_old", "ses_new", "ses_more")]
TOUCHED = a_session("ses_old")
OF_ONE = [an_event("ses_old", id=f"new_{n}") for n in range(2)]


def flush(*new: asm.Event) -> Operation[Any]:
    return sessions.flush(a_session("ses_old", status="failed"), asm.Run(session_id="ses_old"), new)


def an_export() -> exports.SessionExport:
    numbered = [an_event("ses_new", id=f"new_{n}", sequence_number=n) for n in (1, 2, 3)]
    return exports.SessionExport(
        session=a_session("ses_new"), runs=[asm.Run(session_id="ses_new", id="run_new")], events=numbered
    )


def failed(model: Any) -> Any:
    return replace(model, status="failed")


class Case(NamedTuple):
    operation: Callable[[], Operation[Any]]
    writes: bool = True


OPERATIONS: dict[str, Case] = {
    "append": Case(lambda: appending.append_event(NEW[0])),
    "append again": Case(lambda: appending.append_events([*OLD, *NEW])),
    "append expecting": Case(lambda: appending.append_event(NEW[0], expected_sequence=3)),
    "append many": Case(lambda: appending.append_events([*NEW, *events_of("ses_many", 2_500)])),
    "append with a session": Case(lambda: appending.append_event(OF_ONE[0], session=TOUCHED)),
    "append again with a session": Case(lambda: appending.append_events([OLD[0], *OF_ONE], session=TOUCHED)),
    "append many with a session": Case(
        lambda: appending.append_events(events_of("ses_old", 2_500), session=TOUCHED)
    ),
    "pop": Case(lambda: removing.pop_event("ses_old")),
    "delete events": Case(lambda: removing.delete_events("ses_old", ids=["old_1"])),
    "flush": Case(lambda: flush(*OF_ONE)),
    "flush again": Case(lambda: flush(*OLD, *OF_ONE)),
    "delete": Case(lambda: sessions.delete_session("ses_old")),
    "update session": Case(lambda: sessions.update_session("ses_old", failed)),
    "update run": Case(lambda: runs.update_run("run_old", failed)),
    "fork": Case(lambda: forks.fork_session("ses_old", id="ses_fork")),
    "import": Case(lambda: imports.import_session(an_export())),
    "export": Case(lambda: exports.export_session("ses_old", include_artifacts=True), writes=False),
    "search": Case(lambda: search.search_sessions(count_total=True), writes=False),
}


def prepare(store: Any, connection: Any) -> None:
    empty(connection)
    store.save_session(a_session("ses_old"))
    store.save_run(asm.Run(session_id="ses_old", id="run_old"))
    store.append_events(OLD)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_fails_at_any_query_writes_nothing(
    where: Where, opened: Callable[..., Any], operation: str
) -> None:
    store = opened(where.dsn, max_size=1, timeout=10.0)
    with driver_connection(where.dsn) as connection:
        prepare(store, connection)
        before = contents(connection)
        for at in itertools.count(1):
            failure = FailurePoint(at, raise_error)
            failing = failure.wrap(OPERATIONS[operation].operation())
            if not raises(InjectedError, partial(run, store._database, failing)):
                break
            assert contents(connection) == before
            assert store.get_latest_sequence("ses_old") == 3
        assert at > 1
        assert (contents(connection) != before) == OPERATIONS[operation].writes


def raises(error: type[BaseException], work: Callable[[], object]) -> bool:
    try:
        work()
    except error:
        return True
    return False


only_postgres = only(
    POSTGRES[-1:], why="SQLite has no server, and all versions of PostgreSQL terminate a backend alike"
)


@only_postgres
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_whose_connection_is_lost_at_any_query_writes_nothing(
    where: Where, opened: Callable[..., Any], operation: str
) -> None:
    dsn = make_conninfo(where.dsn, application_name="to be terminated")
    store, preparing = opened(dsn, max_size=1, timeout=10.0, retry_for=0), opened(where.dsn)
    with driver_connection(where.dsn) as connection:
        prepare(preparing, connection)
        before = contents(connection)
        for at in itertools.count(1):
            failure = FailurePoint(at, TerminateBackends(connection))
            failing = failure.wrap(OPERATIONS[operation].operation())
            if not raises(asm.ConnectionFailed, partial(run, store._database, failing)):
                break
            assert contents(connection) == before
        assert not failure.has_failed
        assert at > 1


@only_postgres
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_whose_connection_is_lost_at_any_query_is_retried_as_a_whole(
    where: Where, opened: Callable[..., Any], operation: str
) -> None:
    store = opened(make_conninfo(where.dsn, application_name="to be terminated"), max_size=1, timeout=10.0)
    with driver_connection(where.dsn) as connection:
        prepare(store, connection)
        run(store._database, OPERATIONS[operation].operation())
        end = without_ids(contents(connection))
        for at in itertools.count(1):
            prepare(store, connection)
            failure = FailurePoint(at, TerminateBackends(connection))
            run(store._database, failure.wrap(OPERATIONS[operation].operation()))
            if not failure.has_failed:
                break
            assert without_ids(contents(connection)) == end
        assert at > 1


def without_ids(contents: list[list[Any]]) -> list[list[Any]]:
    """The contents without generated ids."""
    sessions, runs, events, counters, artifacts = contents
    return [
        sessions,
        [run[0] for run in runs],
        [event if event[2].startswith(("old", "new")) else event[:2] for event in events],
        counters,
        artifacts,
    ]


# Jobs, which are completed by running them again.


def a_policy() -> asm.RetentionPolicy:
    return asm.RetentionPolicy(
        max_session_age_days=95, max_events_per_session=5, max_total_events=60, batch_size=3
    )


def failure_points(where: Where) -> Iterator[int]:
    """The queries at which to fail: every third on SQLite, every tenth on PostgreSQL, which is slower.

    The first one is random, so that many runs of the test fail at each.
    """
    step = 3 if where.kind == "sqlite" else 10
    start = random.randint(1, step)
    print(f"starting with query {start}")  # noqa: T201
    return itertools.count(start, step)


@pytest.fixture
def store(where: Where) -> Iterator[asm.SessionStore]:
    is_sqlite = where.kind == "sqlite"
    dsn = where.dsn if is_sqlite else make_conninfo(where.dsn, application_name="to be terminated")
    with asm.SessionStore(dsn, max_size=1, timeout=10.0) as store:
        yield store


def test_maintenance_that_is_stopped_at_any_query_is_completed_by_the_next_run(
    where: Where, store: asm.SessionStore
) -> None:
    with driver_connection(where.dsn) as connection:
        fill(store, where)
        store.maintenance.execute(a_policy())
        end = contents(connection)
        for at in failure_points(where):
            empty(connection)
            fill(store, where)
            failure = FailurePoint(at, stop)
            has_failed = raises(
                Stopped, partial(run_job, retention.execute(a_policy()), FailingDatabase(store, failure))
            )
            assert has_failed == failure.has_failed
            assert store.maintenance.execute(a_policy()).errors == []
            assert contents(connection) == end
            if not failure.has_failed:
                break
        assert at > 20


@only_postgres
def test_maintenance_whose_connection_is_lost_at_any_query_has_the_same_result(
    where: Where, store: asm.SessionStore
) -> None:
    with driver_connection(where.dsn) as connection:
        fill(store, where)
        store.maintenance.execute(a_policy())
        end = contents(connection)
        for at in failure_points(where):
            empty(connection)
            fill(store, where)
            failure = FailurePoint(at, TerminateBackends(connection))
            assert run_job(retention.execute(a_policy()), FailingDatabase(store, failure)).errors == []
            assert contents(connection) == end
            if not failure.has_failed:
                break
        assert at > 20


class FailingTarget:
    """A store to copy into, whose operations have a failure point."""

    def __init__(self, store: asm.SessionStore, failure: FailurePoint) -> None:
        self._database = FailingDatabase(store, failure)


def test_a_copy_that_fails_at_any_query_is_completed_by_the_next_copy(
    where: Where, store: asm.SessionStore, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_PER_BATCH", 30)
    fill(store, where)
    with (
        driver_connection(where.dsn) as source,
        asm.SessionStore(other) as target,
        driver_connection(other) as connection,
    ):
        for at in failure_points(where):
            empty(connection)
            failing = cast(asm.SessionStore, FailingTarget(target, FailurePoint(at, raise_error)))
            has_failed = raises(InjectedError, partial(list, copying.copy(store, failing)))
            list(copying.copy(store, target))
            assert contents(connection) == contents(source)
            if not has_failed:
                break
        assert at > 20
