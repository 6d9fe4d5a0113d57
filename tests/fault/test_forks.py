"""A store in another process or event loop than its own, or at the end of its program."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import asm
from asm.awaited import in_threads
from tests.conftest import POSTGRES, Blocking, Where, an_event, events_of, numbers
from tests.contract.other_clients import ROOT, only, run_in_fork
from tests.contract.test_opening import CALLS, MAINTENANCE_CALLS, answered

SOON_S = 60.0

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_another_loop(work: Callable[[], Any]) -> Any:
    async def awaited() -> Any:
        return await work()

    return asyncio.run(awaited())


class Elsewhere(Blocking):
    """An async store that is called in another event loop."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in ("artifacts", "query", "maintenance"):
            return Elsewhere(value)
        return lambda *args, **kwargs: in_another_loop(lambda: _all(value(*args, **kwargs)))


async def _all(result: Any) -> Any:
    return [each async for each in result] if hasattr(result, "__aiter__") else await result


def elsewhere(store: Blocking) -> Elsewhere:
    return Elsewhere(store._target)


only_async = pytest.mark.parametrize("colour", ["async"], indirect=True)
only_sync = pytest.mark.parametrize("colour", ["sync"], indirect=True)


@only_async
def test_a_store_of_another_event_loop_is_closed_to_every_operation(
    where: Where, opened: Callable[..., Any]
) -> None:
    store = opened(where.dsn)
    assert answered(elsewhere(store)) == []
    for refused in (store._target.close, store._target.transaction().__aenter__):
        with pytest.raises(asm.StoreClosed, match="another event loop"):
            in_another_loop(refused)
    assert store.append_event(an_event()).sequence_number == 1


@forks
@only_async
def test_an_async_store_is_closed_to_every_operation_of_a_forked_child(
    where: Where, opened: Callable[..., Any]
) -> None:
    store = opened(where.dsn)
    assert run_in_fork(lambda: answered(elsewhere(store))) == []
    assert run_in_fork(lambda: in_another_loop(store._target.close)) is None
    assert store.append_event(an_event()).sequence_number == 1


@forks
@only_sync
def test_a_store_that_is_awaited_in_threads_is_closed_to_a_forked_child(
    where: Where, opened: Callable[..., Any]
) -> None:
    awaited = in_threads(opened(where.dsn))

    async def read() -> None:
        await asyncio.wait_for(awaited.get_events("ses_1"), SOON_S)
        await asyncio.wait_for(awaited.query.search_events(), SOON_S)

    asyncio.run(read())
    assert run_in_fork(lambda: asyncio.run(read())) is asm.StoreClosed
    asyncio.run(read())


@forks
@only_sync
def test_a_stream_does_not_go_on_in_a_forked_child(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    store.append_events(events_of("ses_1", 3))
    for stream in (store.iter_events("ses_1", page_size=1), store.follow_events("ses_1", page_size=1)):
        next(stream)
        assert run_in_fork(partial(next, stream)) is asm.StoreClosed
        assert next(stream).sequence_number == 2


@forks
@only_sync
@pytest.mark.parametrize("raised", [None, ValueError], ids=["ended", "left by an exception"])
def test_a_forked_child_cannot_end_its_parents_transaction(
    where: Where, opened: Callable[..., Any], raised: type[Exception] | None
) -> None:
    store = opened(where.dsn)
    ended = store.transaction()
    tx = ended.__enter__()
    tx.append_event(an_event())
    outcome = run_in_fork(lambda: ended.__exit__(raised, raised and raised(), None))
    assert outcome in (asm.StoreClosed, False, None)
    assert tx.append_event(an_event()).sequence_number == 2
    ended.__exit__(None, None, None)
    assert numbers(store.get_events("ses_1")) == [1, 2]


FORKED = """
import asyncio, os, sys, warnings
import asm
warnings.simplefilter("ignore", DeprecationWarning)
dsn, colour = sys.argv[1:]

class Left(BaseException):
    pass

def leave():
    child = os.fork()
    if child == 0:
        # Leave every block, with its cleanup.
        raise Left
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

def event():
    return asm.Event(type="message_sent", session_id="ses_1")

def blocking():
    with asm.SessionStore(dsn) as store:
        store.append_event(event())
        with store.transaction() as tx:
            tx.append_event(event())
            leave()
            tx.append_event(event())
        leave()
        assert store.append_event(event()).sequence_number == 4

async def awaited():
    async with asm.AsyncSessionStore(dsn) as store:
        await store.append_event(event())
        async with store.transaction() as tx:
            await tx.append_event(event())
            leave()
            await tx.append_event(event())
        leave()
        assert (await store.append_event(event())).sequence_number == 4

async def main():
    try:
        await awaited()
    except Left:
        # Closing a forked event loop would disturb its parent's.
        os._exit(7)

if colour == "async":
    asyncio.run(main(), debug=False)
else:
    try:
        blocking()
    except Left:
        sys.exit(7)
"""


def ran(program: str, *arguments: str) -> str:
    """The standard error of a program, which has to end with status 0."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=SOON_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_forked_child_that_exits_does_not_disturb_its_parent(where: Where, colour: str) -> None:
    assert ran(FORKED, where.dsn, colour) == ""
    with asm.SessionStore(where.dsn) as store:
        assert numbers(store.get_events("ses_1")) == [1, 2, 3, 4]


LEFT_OPEN = """
import asyncio, sys
import asm
dsn, colour = sys.argv[1:]

async def awaited():
    store = await asm.AsyncSessionStore(dsn).open()
    await store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
    return store

if colour == "sync":
    store = asm.SessionStore(dsn)
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
else:
    store = asyncio.run(awaited())
"""


def test_a_program_that_leaves_its_store_open_ends(where: Where, colour: str) -> None:
    ran(LEFT_OPEN, where.dsn, colour)


LEFT_CONNECTING = """
import asyncio, sys
import asm

async def left_after(steps):
    store = await asm.AsyncSessionStore(sys.argv[1], max_size=4).open()
    asking = [asyncio.create_task(store.get_latest_sequence("ses_1")) for _ in range(8)]
    for _ in range(steps):
        await asyncio.sleep(0)

for steps in range(20):
    asyncio.run(left_after(steps))
"""


@only(POSTGRES, why="SQLite has no pool that connects in the background")
def test_a_program_that_leaves_its_store_open_while_it_connects_ends(where: Where) -> None:
    ran(LEFT_CONNECTING, where.dsn)


def spawned(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        store.append_event(an_event())


@only_sync
def test_a_spawned_process_opens_a_store_of_its_own(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    store.append_event(an_event())
    process = multiprocessing.get_context("spawn").Process(target=spawned, args=(where.dsn,))
    process.start()
    process.join(SOON_S)
    assert process.exitcode == 0
    assert store.append_event(an_event()).sequence_number == 3


FORGOTTEN = """
import asyncio, gc, sys, time
import psycopg
import asm
dsn, colour = sys.argv[1:]
WHO = "application_name = 'forgotten' and datname = current_database()"

def forget():
    store = asm.SessionStore(dsn + " application_name=forgotten")
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))

async def forget_async():
    store = await asm.AsyncSessionStore(dsn + " application_name=forgotten").open()
    await store.append_event(asm.Event(type="message_sent", session_id="ses_1"))

forget() if colour == "sync" else asyncio.run(forget_async())
gc.collect()
with psycopg.connect(dsn, autocommit=True) as other:
    while other.execute(f"select pid from pg_stat_activity where {WHO}").fetchall():
        time.sleep(0.01)
"""


@only(POSTGRES, why="SQLite has no connections that a server counts")
def test_a_store_that_is_garbage_collected_closes_its_connections(where: Where, colour: str) -> None:
    # In a program of its own: if a worker thread drops the last reference to the pool, psycopg_pool warns
    # that a thread cannot join itself, and pytest keeps the warning and with it the pool.
    ran(FORGOTTEN, where.dsn, colour)


def transact(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event("ses_tx"))
        tx.get_latest_sequence("ses_tx")


def test_calls_during_close_return_or_raise_store_closed(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    store.append_events(events_of("ses_1", 20))
    work: list[Callable[[Any], Any]] = [
        *(CALLS[name] for name in ("append_event", "get_events", "flush", "iter_events", "delete_session")),
        *(CALLS[name] for name in ("query.export_session", "save_session")),
        MAINTENANCE_CALLS["health_check"],
        transact,
    ]
    begun = threading.Barrier(len(work) + 1)

    def call_until_closed(call: Callable[[Any], Any]) -> int:
        begun.wait()
        answers = 0
        while True:
            try:
                call(store)
            except asm.SessionNotFound:
                pass
            except asm.StoreClosed:
                return answers
            answers += 1

    with ThreadPoolExecutor(len(work)) as threads:
        calling = [threads.submit(call_until_closed, each) for each in work]
        begun.wait()
        store.get_latest_sequence("ses_1")
        store.close()
        for each in calling:
            each.result(SOON_S)
    assert answered(store) == []
