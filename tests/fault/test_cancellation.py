"""A cancelled operation leaves all of itself or nothing in the database, and the store goes on working."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

import asm
from asm import dsn as dsns
from asm.engine.script import Script, UnitOfWork
from asm.operations.appending import append_event
from tests.conftest import POSTGRES, Where, an_artifact, an_event, events_of
from tests.contract.other_clients import driver_connection, fetch_rows, only, open_files
from tests.contract.retention_data import a_session

TIMEOUT_S = 10.0
"""An operation that waits for a leaked connection or lock ends after this time."""

SOON_S = 60.0


class Stepped:
    """Awaits something, and cancels its own task at some of its suspensions."""

    def __init__(self, awaited: Awaitable[Any], *suspensions: int) -> None:
        self._awaited = awaited
        self._suspensions = suspensions
        self._suspended = 0

    @property
    def was_cancelled(self) -> bool:
        return self._suspended >= min(self._suspensions)

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                wanted = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                # Here and below: the error refers to this frame, which would refer to the error.
                thrown = None
            self._suspended += 1
            if self._suspended == self._suspensions[0]:
                cancel_soon()
            elif self._suspended in self._suspensions:
                cancel_at_once()
            try:
                yield wanted
            except BaseException as error:
                thrown = error
            del wanted


def cancel_soon() -> None:
    """Cancel this task once it waits, as another task would do it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


def cancel_at_once() -> None:
    """Cancel this task before it begins to wait."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


class Work(NamedTuple):
    """An operation, and how many events it appends to a new session."""

    do: Callable[[asm.AsyncSessionStore, str], Awaitable[Any]]
    size: int = 0


async def flush(store: asm.AsyncSessionStore, name: str) -> None:
    session = asm.Session(id=name, agent_id="a")
    await store.flush(session, asm.Run(session_id=name), events_of(name, 2))


async def transact(store: asm.AsyncSessionStore, name: str) -> None:
    async with store.transaction() as tx:
        await tx.append_event(an_event(name))
        await tx.append_events(events_of(name, 2))
        await tx.get_latest_sequence(name)


async def run_transaction(store: asm.AsyncSessionStore, name: str) -> None:
    await store.run_transaction(lambda tx: tx.append_event(an_event(name)))


async def read(iterator: AsyncIterator[object]) -> None:
    async for _each in iterator:
        pass


async def import_session(store: asm.AsyncSessionStore, name: str) -> None:
    session = asm.Session(id=name, agent_id="a")
    numbered = [an_event(name, sequence_number=n) for n in (1, 2, 3)]
    await store.import_session(asm.SessionExport(session=session, events=numbered))


async def delete_events(store: asm.AsyncSessionStore, name: str) -> None:
    # Each call has a name that ends in another number, and removes one more event.
    last = REMOVED - int(name.rpartition("_")[2])
    await store.delete_events("ses_deleted", after=max(last, 0))


async def register(store: asm.AsyncSessionStore, name: str) -> None:
    await store.artifacts.register(an_artifact(name))


def unchanged(model: Any) -> Any:
    return model


REMOVED = 200
"""More events than are removed one by one."""

POLICY = asm.RetentionPolicy(max_events_per_session=2, batch_size=1)

WORK: dict[str, Work] = {
    "save_session": Work(lambda store, name: store.save_session(asm.Session(id=name, agent_id="a"))),
    "update_session": Work(lambda store, _: store.update_session("ses_read", unchanged)),
    "get_session": Work(lambda store, _: store.get_session("ses_read")),
    "get_sessions": Work(lambda store, _: store.get_sessions(["ses_read", "ses_absent"])),
    "fork_session": Work(lambda store, name: store.fork_session("ses_read", id=name), 3),
    "list_sessions": Work(lambda store, _: store.list_sessions(limit=3)),
    "delete_session": Work(lambda store, name: store.delete_session(name)),
    "save_run": Work(lambda store, name: store.save_run(asm.Run(session_id=name))),
    "update_run": Work(lambda store, _: store.update_run("run_read", unchanged)),
    "get_run": Work(lambda store, _: store.get_run("run_read")),
    "list_runs": Work(lambda store, _: store.list_runs("ses_read")),
    "get_active_run": Work(lambda store, _: store.get_active_run("ses_read")),
    "append_event": Work(lambda store, name: store.append_event(an_event(name)), 1),
    "append_expected": Work(lambda store, name: store.append_event(an_event(name), expected_sequence=0), 1),
    "pop_event": Work(lambda store, _: store.pop_event("ses_popped")),
    "delete_events": Work(delete_events),
    "append_again": Work(lambda store, _: store.append_event(an_event("ses_read", id="evt_read"))),
    "append_events": Work(lambda store, name: store.append_events(events_of(name, 3)), 3),
    "append_many": Work(lambda store, name: store.append_events(events_of(name, 1_500)), 1_500),
    "get_latest_sequence": Work(lambda store, _: store.get_latest_sequence("ses_read")),
    "flush": Work(flush, 2),
    "import_session": Work(import_session, 3),
    "get_event": Work(lambda store, _: store.get_event("ses_read", "evt_read")),
    "get_events": Work(lambda store, _: store.get_events("ses_read")),
    "wait": Work(lambda store, _: store.get_events("ses_read", after=9, wait_timeout=0.02)),
    "iter_events": Work(lambda store, _: read(store.iter_events("ses_read", page_size=1))),
    "follow_events": Work(lambda store, _: read(store.follow_events("ses_read", idle_timeout=0.02))),
    "transaction": Work(transact, 3),
    "run_transaction": Work(run_transaction, 1),
    "search_sessions": Work(lambda store, _: store.query.search_sessions(limit=3, count_total=True)),
    "search_runs": Work(lambda store, _: store.query.search_runs(limit=3)),
    "search_events": Work(lambda store, _: store.query.search_events(limit=3)),
    "iter_sessions": Work(lambda store, _: read(store.query.iter_sessions(page_size=1))),
    "iter_runs": Work(lambda store, _: read(store.query.iter_runs(page_size=1))),
    "count_events": Work(lambda store, _: store.query.count_events()),
    "get_session_stats": Work(lambda store, _: store.query.get_session_stats("ses_read")),
    "get_usage_summary": Work(lambda store, _: store.query.get_usage_summary()),
    "get_cost_summary": Work(lambda store, _: store.query.get_cost_summary()),
    "export_session": Work(lambda store, _: store.query.export_session("ses_read", include_artifacts=True)),
    "artifacts.register": Work(register),
    "artifacts.get_by_key": Work(lambda store, _: store.artifacts.get_by_key("key_read")),
    "artifacts.list_by_session": Work(lambda store, _: store.artifacts.list_by_session("ses_read")),
    "artifacts.session_stats": Work(lambda store, _: store.artifacts.session_stats("ses_read")),
    "artifacts.delete": Work(lambda store, name: store.artifacts.delete(name)),
    "maintenance.execute": Work(lambda store, _: store.maintenance.execute(POLICY)),
    "soft_delete": Work(lambda store, _: store.maintenance.soft_delete_expired_sessions(POLICY)),
    "hard_delete": Work(lambda store, _: store.maintenance.hard_delete_expired_sessions(POLICY)),
    "prune": Work(lambda store, _: store.maintenance.prune_session_events("ses_read", POLICY)),
    "clean_artifacts": Work(lambda store, _: store.maintenance.clean_orphaned_artifacts()),
    "clean_sequences": Work(lambda store, _: store.maintenance.clean_orphaned_sequences()),
    "health_check": Work(lambda store, _: store.maintenance.health_check()),
}


def test_every_operation_is_cancelled_in_these_tests() -> None:
    parts = (asm.AsyncSessionStore, type(a_store().query), type(a_store().artifacts))
    members = [vars(part) | vars(part.__base__) for part in parts]
    operations = {
        name for each in members for name in each if name[0] != "_" and not isinstance(each[name], property)
    }
    known = {name.removeprefix("artifacts.") for name in WORK}
    assert operations - known - {"open", "close"} == set()


def a_store() -> asm.AsyncSessionStore:
    return asm.AsyncSessionStore("sqlite://")


ONE_OF_EACH = only(["sqlite", *POSTGRES[-1:]], why="what is cancelled is Python, the same for every server")


def options(where: Where) -> dict[str, Any]:
    return {"max_size": 1, "timeout": TIMEOUT_S, "retry_for": TIMEOUT_S}


@asynccontextmanager
async def prepared(where: Where) -> AsyncIterator[asm.AsyncSessionStore]:
    async with asm.AsyncSessionStore(where.dsn, **options(where)) as store:
        await store.save_session(a_session("ses_read", updated_days_ago=5))
        await store.save_run(asm.Run(session_id="ses_read", id="run_read", status="running"))
        await store.append_events([an_event("ses_read", id="evt_read"), *events_of("ses_read", 2)])
        for session_id in ("ses_popped", "ses_deleted"):
            await store.append_events(events_of(session_id, REMOVED))
        yield store


async def cancelled_everywhere(
    work: Callable[[int], Awaitable[Any]], check: Callable[[int], Awaitable[None]], *offsets: int
) -> int:
    """Repeat an operation, cancelled at its first suspension, its second, and so on; check after each."""
    for at in itertools.count(1):
        was_cancelled = await is_cancelled(Stepped(work(at), at, *(at + each for each in offsets)))
        await check(at)
        if not was_cancelled:
            return at
    raise AssertionError


async def is_cancelled(stepped: Stepped) -> bool:
    task = asyncio.ensure_future(_awaited(stepped))
    async with asyncio.timeout(SOON_S):
        await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    return stepped.was_cancelled


async def _awaited(what: Awaitable[Any]) -> Any:
    return await what


once_or_twice = pytest.mark.parametrize(
    "offsets", [(), (1,), (2,)], ids=["once", "again at the next suspension", "again at the one after"]
)


@ONE_OF_EACH
@once_or_twice
def test_an_operation_cancelled_at_any_await_stores_all_or_nothing_and_the_store_goes_on(
    where: Where, offsets: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with prepared(where) as store:
            with driver_connection(where.dsn) as observer:
                for name, work in WORK.items():
                    await assert_goes_on(observer, store, name, work, offsets)
            issues = await store.maintenance.health_check()
            assert {issue.code for issue in issues} <= {"events_without_session", "runs_without_session"}

    asyncio.run(main())


async def assert_goes_on(
    observer: Any, store: asm.AsyncSessionStore, name: str, work: Work, offsets: tuple[int, ...]
) -> None:
    before = asyncio.all_tasks()

    async def check(at: int) -> None:
        try:
            await store.append_event(an_event("ses_next"))
            await store.get_events("ses_read", limit=1)
        except asm.AsmError as error:
            raise AssertionError(f"after {name} was cancelled at suspension {at}") from error
        assert stored(observer, f"{name}_{at}") in (0, work.size), f"{name} at suspension {at}"

    times = await cancelled_everywhere(lambda at: work.do(store, f"{name}_{at}"), check, *offsets)
    assert times > 1
    await until_gone(before)


async def until_gone(before: set[asyncio.Task[Any]]) -> None:
    """Wait until no task is left that was not there before."""
    async with asyncio.timeout(TIMEOUT_S):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def stored(observer: Any, session_id: str) -> int:
    rows = observer.execute(f"select count(*) from asm_events where session_id = '{session_id}'").fetchall()
    return int(rows[0][0])


@ONE_OF_EACH
@once_or_twice
def test_cancelling_a_task_that_waits_for_another_does_not_disturb_others(
    where: Where, offsets: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with prepared(where) as store:

            async def blocked(at: int) -> None:
                async with store.transaction() as tx:
                    await tx.append_event(an_event("ses_held"))
                    cancelled = [
                        asyncio.ensure_future(_awaited(Stepped(work, at, *(at + each for each in offsets))))
                        for work in (store.delete_session("gone"), store.append_event(an_event("ses_1")))
                    ]
                    await asyncio.wait(cancelled, timeout=0.01)
                    others = [asyncio.ensure_future(store.delete_session("gone")) for _ in range(2)]
                    await asyncio.wait(others, timeout=0.01)
                async with asyncio.timeout(SOON_S):
                    await asyncio.gather(*others)
                    await asyncio.wait(cancelled)
                assert all(each.cancelled() or each.exception() is None for each in cancelled)

            for at in range(1, 12):
                await blocked(at)
                await store.append_event(an_event("ses_next"))
                await store.delete_session("gone")
            async with store.transaction() as tx:
                assert await tx.get_latest_sequence("ses_held") == 11

    asyncio.run(main())


@ONE_OF_EACH
def test_half_of_an_operation_is_not_committed_where_a_task_goes_on_after_a_cancellation(
    where: Where,
) -> None:
    def half() -> Script[None]:
        yield from append_event(an_event("ses_half"))
        raise asyncio.CancelledError

    async def main() -> None:
        async with asm.AsyncSessionStore(where.dsn) as store:
            with pytest.raises(asm.StorageError, match="nothing of it is"):
                async with store.transaction() as tx:
                    with pytest.raises(asyncio.CancelledError):
                        await tx._database.run(UnitOfWork(half))
            assert await store.get_latest_sequence("ses_half") == 0

    asyncio.run(main())


@ONE_OF_EACH
@once_or_twice
def test_a_store_whose_opening_is_cancelled_anywhere_has_nothing_open(
    where: Where, offsets: tuple[int, ...]
) -> None:
    dsn = counted(where)

    async def main() -> None:
        before = asyncio.all_tasks()

        async def check(_: int) -> None:
            await until_gone(before)

        async def opened(_: int) -> None:
            async with asm.AsyncSessionStore(dsn):
                pass

        assert await cancelled_everywhere(opened, check, *offsets) > 3
        await until_no_connection(where)

    asyncio.run(main())


@only(["sqlite"], why="files are counted here, and connections above")
def test_opening_a_store_while_another_task_runs_leaves_no_file_open(where: Where) -> None:
    async def cancelled(store: asm.AsyncSessionStore) -> None:
        opening = asyncio.ensure_future(store.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])

    async def closed(store: asm.AsyncSessionStore) -> None:
        opening = asyncio.ensure_future(store.open())
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(asm.StoreClosed):
            await opening

    async def opened_twice(store: asm.AsyncSessionStore) -> None:
        await asyncio.gather(store.open(), store.open())
        await store.close()

    file = Path(dsns.parse_dsn(where.dsn).address)
    gc.collect()
    gc.disable()
    try:
        for work in (cancelled, closed, opened_twice):
            asyncio.run(work(asm.AsyncSessionStore(where.dsn)))
            assert file not in open_files()
    finally:
        gc.enable()


@ONE_OF_EACH
@once_or_twice
def test_a_store_whose_closing_is_cancelled_anywhere_is_closed_or_can_be_closed(
    where: Where, offsets: tuple[int, ...]
) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        stores: list[asm.AsyncSessionStore] = []

        async def closed(_: int) -> None:
            await stores[-1].close()

        async def check(_: int) -> None:
            await stores[-1].close()
            with pytest.raises(asm.StoreClosed):
                await stores[-1].get_events("ses_1")
            await until_gone(before)
            stores.append(await a_used_store(where))

        stores.append(await a_used_store(where))
        assert await cancelled_everywhere(closed, check, *offsets) > 1
        await stores[-1].close()
        await until_no_connection(where)

    asyncio.run(main())


async def a_used_store(where: Where) -> asm.AsyncSessionStore:
    store = await asm.AsyncSessionStore(counted(where)).open()
    await asyncio.gather(store.append_event(an_event()), *(store.get_events("ses_1") for _ in range(3)))
    return store


def counted(where: Where) -> str:
    return where.dsn if where.kind == "sqlite" else make_conninfo(where.dsn, application_name="counted")


async def until_no_connection(where: Where) -> None:
    """Wait until no connection of a `counted` store is left."""
    if where.kind != "sqlite":
        async with asyncio.timeout(TIMEOUT_S):
            while fetch_rows(where.dsn, COUNTED):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


COUNTED = (
    "select pid from pg_stat_activity where application_name = 'counted' and datname = current_database()"
)


@only(POSTGRES[:1], why="SQLite has no pool, and it is the driver's, whatever the server")
def test_a_task_that_is_cancelled_when_the_pool_gives_it_a_connection_ends(migrated: str) -> None:
    async def cancelled() -> bool:
        async with (
            AsyncConnectionPool(migrated, min_size=1, max_size=1) as pool,
            asm.AsyncSessionStore(pool=pool) as store,
        ):
            async with store.transaction():
                waiting = asyncio.ensure_future(store.get_events("ses_1", wait_timeout=float("inf")))
                while not pool.get_stats()["requests_waiting"]:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=SOON_S)
            return waiting.cancelled()

    assert asyncio.run(cancelled())
