"""A plan that is cut at any of its questions has done nothing, and is done whole when it is asked again."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import pytest
from psycopg.conninfo import make_conninfo

import asm
from asm.cli import copying
from asm.engine.jobs import run_job
from asm.engine.script import Operation, Pipeline, Query, Rows, Script, UnitOfWork
from asm.maintenance import retention
from asm.operations import events, exports, imports, search, sessions
from tests.conftest import POSTGRES, Where, an_event, events_of, in_loop
from tests.contract.other_clients import driver_connection, only
from tests.contract.retention_data import a_session, fill

T = TypeVar("T")


class CutError(Exception):
    """What a plan meets that is no error of the database."""


class Stopped(BaseException):
    """As when the process is told to end: nothing in a procedure answers it."""


class Scissors:
    """Cuts plans: before the first question, or after the answer to one of them, and once only."""

    def __init__(self, at: int, cut: Callable[[], None]) -> None:
        self._left = at
        self._cut = cut

    @property
    def has_cut(self) -> bool:
        return self._left <= 0

    def around(self, question: Operation[T]) -> UnitOfWork[T] | Pipeline[T]:
        """The same question, cut."""
        if not isinstance(question, Pipeline):
            return UnitOfWork(lambda: self._plan(iter(question)), snapshot=is_snapshot(question))
        return Pipeline(
            lambda: self._with_retry(question.queries()),
            question.read,
            lambda: self._plan(question.on_conflict()),
            size=question.size,
            sessions=question.sessions,
        )

    def _plan(self, plan: Script[T]) -> Script[T]:
        self._snip()
        try:
            ask = next(plan)
            while True:
                rows: Rows = yield ask
                self._snip()
                ask = plan.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result

    def _with_retry(self, asks: Iterable[Query[Any]]) -> Iterator[Query[Any]]:
        self._snip()
        for ask in asks:
            yield ask
            self._snip()

    def _snip(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._cut()


class Cutting:
    """A store's database, whose plans are cut."""

    def __init__(self, store: asm.SessionStore, scissors: Scissors) -> None:
        self._database = store._database
        self._scissors = scissors

    def run(self, question: Operation[T]) -> T:
        return asked(self._database, self._scissors.around(question))


def is_snapshot(question: Operation[Any]) -> bool:
    return isinstance(question, UnitOfWork) and question.snapshot


def asked(database: Any, question: Operation[T]) -> T:
    answer = database.run(question)
    return cast(T, in_loop(answer) if inspect.isawaitable(answer) else answer)


def refuse() -> None:
    raise CutError


def stop() -> None:
    raise Stopped


class Severed:
    """Ends the server's side of every connection of the store."""

    def __init__(self, beside: Any) -> None:
        self._beside = beside

    def __call__(self) -> None:
        assert self._beside.execute(SEVER).fetchall()


SEVER = (
    "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
    "where application_name = 'to be cut' and datname = current_database()"
)
KEPT = (
    "select id, status, deleted_at is null from asm_sessions order by id",
    "select session_id, id, status from asm_runs order by session_id, id",
    "select session_id, sequence_number, id, type from asm_events order by session_id, sequence_number",
    "select session_id, last_sequence, pruned_events from asm_session_sequences order by session_id",
    "select key, session_id, deleted_at is null from asm_artifacts order by key, id",
)
EMPTY = ("sessions", "runs", "events", "session_sequences", "artifacts")


def rows(beside: Any) -> list[list[Any]]:
    return [list(beside.execute(statement).fetchall()) for statement in KEPT]


def emptied(beside: Any) -> None:
    for table in EMPTY:
        beside.execute(f"delete from asm_{table}")


OLD = [an_event("ses_old", id=f"old_{n}") for n in range(3)]
NEW = [an_event(name, id=f"new_{name}_{n}") for n in range(2) for name in ("ses_old", "ses_new", "ses_more")]
OF_ONE = [an_event("ses_old", id=f"new_{n}") for n in range(2)]


def flush(*new: asm.Event) -> Operation[Any]:
    return sessions.flush(a_session("ses_old", status="failed"), asm.Run(session_id="ses_old"), new)


def an_export() -> exports.SessionExport:
    numbered = [an_event("ses_new", id=f"new_{n}", sequence_number=n) for n in (1, 2, 3)]
    return exports.SessionExport(
        session=a_session("ses_new"), runs=[asm.Run(session_id="ses_new", id="run_new")], events=numbered
    )


class Asked(NamedTuple):
    question: Callable[[], Operation[Any]]
    writes: bool = True


ASKED: dict[str, Asked] = {
    "append": Asked(lambda: events.append_event(NEW[0])),
    "append again": Asked(lambda: events.append_events([*OLD, *NEW])),
    "append expecting": Asked(lambda: events.append_event(NEW[0], expected_sequence=3)),
    "append many": Asked(lambda: events.append_events([*NEW, *events_of("ses_many", 2_500)])),
    "flush": Asked(lambda: flush(*OF_ONE)),
    "flush again": Asked(lambda: flush(*OLD, *OF_ONE)),
    "delete": Asked(lambda: sessions.delete_session("ses_old")),
    "import": Asked(lambda: imports.import_session(an_export())),
    "export": Asked(lambda: exports.export_session("ses_old", include_artifacts=True), writes=False),
    "search": Asked(lambda: search.search_sessions(count_total=True), writes=False),
}


def prepared(store: Any, beside: Any) -> None:
    emptied(beside)
    store.save_session(a_session("ses_old"))
    store.save_run(asm.Run(session_id="ses_old", id="run_old"))
    store.append_events(OLD)


@pytest.mark.parametrize("question", ASKED)
def test_an_operation_that_fails_at_any_query_writes_nothing(
    where: Where, opened: Callable[..., Any], question: str
) -> None:
    store = opened(where.dsn, max_size=1, timeout=10.0)
    with driver_connection(where.dsn) as beside:
        prepared(store, beside)
        before = rows(beside)
        for at in itertools.count(1):
            scissors = Scissors(at, refuse)
            cut = scissors.around(ASKED[question].question())
            if not meets(CutError, partial(asked, store._database, cut)):
                break
            assert rows(beside) == before
            assert store.get_latest_sequence("ses_old") == 3
        assert at > 1
        assert (rows(beside) != before) == ASKED[question].writes


def meets(error: type[BaseException], work: Callable[[], object]) -> bool:
    try:
        work()
    except error:
        return True
    return False


only_postgres = only(
    POSTGRES[-1:], why="SQLite has no connection that could be severed, and one server ends it like another"
)


@only_postgres
@pytest.mark.parametrize("question", ASKED)
def test_an_operation_whose_connection_is_lost_at_any_query_writes_nothing(
    where: Where, opened: Callable[..., Any], question: str
) -> None:
    dsn = make_conninfo(where.dsn, application_name="to be cut")
    once, on_unknown_outcome = opened(dsn, max_size=1, timeout=10.0, retry_for=0), opened(where.dsn)
    with driver_connection(where.dsn) as beside:
        prepared(on_unknown_outcome, beside)
        before = rows(beside)
        for at in itertools.count(1):
            scissors = Scissors(at, Severed(beside))
            cut = scissors.around(ASKED[question].question())
            if not meets(asm.ConnectionFailed, partial(asked, once._database, cut)):
                break
            assert rows(beside) == before
        assert not scissors.has_cut
        assert at > 1


@only_postgres
@pytest.mark.parametrize("question", ASKED)
def test_an_operation_whose_connection_is_lost_at_any_query_is_retried_as_a_whole(
    where: Where, opened: Callable[..., Any], question: str
) -> None:
    store = opened(make_conninfo(where.dsn, application_name="to be cut"), max_size=1, timeout=10.0)
    with driver_connection(where.dsn) as beside:
        prepared(store, beside)
        asked(store._database, ASKED[question].question())
        end = without_ids(rows(beside))
        for at in itertools.count(1):
            prepared(store, beside)
            scissors = Scissors(at, Severed(beside))
            asked(store._database, scissors.around(ASKED[question].question()))
            if not scissors.has_cut:
                break
            assert without_ids(rows(beside)) == end
        assert at > 1


def without_ids(kept: list[list[Any]]) -> list[list[Any]]:
    """The rows of a store, but of those with an id of their own only how many."""
    sessions, runs, events, counters, artifacts = kept
    return [
        sessions,
        [run[0] for run in runs],
        [event if event[2].startswith(("old", "new")) else event[:2] for event in events],
        counters,
        artifacts,
    ]


# Procedures: each of their plans is a transaction, and they are gone on with


def a_policy() -> asm.RetentionPolicy:
    return asm.RetentionPolicy(
        max_session_age_days=95, max_events_per_session=5, max_total_events=60, batch_size=3
    )


def moments(where: Where) -> Iterator[int]:
    """At which questions to cut: on PostgreSQL, where it takes long, every tenth, from a random one on."""
    step = 1 if where.kind == "sqlite" else 10
    start = random.randint(1, step)
    print(f"from question {start} on")  # noqa: T201
    return itertools.count(start, step)


@pytest.fixture
def kept(where: Where) -> Iterator[asm.SessionStore]:
    dsn = where.dsn if where.kind == "sqlite" else make_conninfo(where.dsn, application_name="to be cut")
    with asm.SessionStore(dsn, max_size=1, timeout=10.0) as store:
        yield store


def test_maintenance_that_is_stopped_at_any_query_is_completed_by_the_next_run(
    where: Where, kept: asm.SessionStore
) -> None:
    with driver_connection(where.dsn) as beside:
        fill(kept, where)
        kept.maintenance.execute(a_policy())
        end = rows(beside)
        for at in moments(where):
            emptied(beside)
            fill(kept, where)
            scissors = Scissors(at, stop)
            was_cut = meets(Stopped, partial(run_job, retention.execute(a_policy()), Cutting(kept, scissors)))
            assert was_cut == scissors.has_cut
            assert kept.maintenance.execute(a_policy()).errors == []
            assert rows(beside) == end
            if not scissors.has_cut:
                break
        assert at > 20


@only_postgres
def test_maintenance_whose_connection_is_lost_at_any_query_has_the_same_result(
    where: Where, kept: asm.SessionStore
) -> None:
    with driver_connection(where.dsn) as beside:
        fill(kept, where)
        kept.maintenance.execute(a_policy())
        end = rows(beside)
        for at in moments(where):
            emptied(beside)
            fill(kept, where)
            scissors = Scissors(at, Severed(beside))
            assert run_job(retention.execute(a_policy()), Cutting(kept, scissors)).errors == []
            assert rows(beside) == end
            if not scissors.has_cut:
                break
        assert at > 20


class Target:
    """A store to copy into, whose plans are cut."""

    def __init__(self, store: asm.SessionStore, scissors: Scissors) -> None:
        self._database = Cutting(store, scissors)


def test_a_copy_that_fails_at_any_query_is_completed_by_the_next_copy(
    where: Where, kept: asm.SessionStore, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_PER_BATCH", 30)
    fill(kept, where)
    with (
        driver_connection(where.dsn) as source,
        asm.SessionStore(other) as target,
        driver_connection(other) as beside,
    ):
        for at in moments(where):
            emptied(beside)
            cut = cast(asm.SessionStore, Target(target, Scissors(at, refuse)))
            was_cut = meets(CutError, partial(list, copying.copy(kept, cut)))
            list(copying.copy(kept, target))
            assert rows(beside) == rows(source)
            if not was_cut:
                break
        assert at > 20
