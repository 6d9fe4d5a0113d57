"""Claims and ends of many runs share a commit with each other and with appends, and fail each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import asm
from asm.async_store import run_operation
from asm.engine.script import Batchable, Operation, Pipeline
from asm.operations import appending, claims, owned_runs, run_ends
from asm.operations.runs import with_lease
from tests.agents.conftest import types
from tests.conftest import POSTGRES, Where, an_event
from tests.contract.other_clients import only
from tests.fault.proxy import Moment, Proxy

Test = Callable[[asm.AsyncSessionStore], Coroutine[Any, Any, None]]

NUMBER = 8
FIRST = asm.Session(id="ses_first", agent_id="agent")


def with_store(dsn: str, test: Test) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(dsn) as store:
            await test(store)

    asyncio.run(main())


def a_run(session_id: str, owner: str = "host:1:aa") -> asm.Run:
    run = asm.Run(id=f"run_of_{session_id}", session_id=session_id, status="running")
    return with_lease(run, datetime.now(UTC) + timedelta(hours=1), owner=owner, attempt=1)


def of_run(run: asm.Run, type: str) -> asm.Event:
    return asm.Event(id=f"{run.id}.{type}", type=type, session_id=run.session_id, run_id=run.id)


def a_claim(run: asm.Run) -> Operation[list[asm.Event]]:
    session = asm.Session(id=run.session_id, agent_id="agent", status="active")
    return claims.claim_run(run, session, [of_run(run, "session_started"), of_run(run, "run_started")], None)


def an_end(run: asm.Run) -> Operation[run_ends.Ended]:
    ended = run.set_output({"text": "Done."})
    status = asm.SessionStatus.COMPLETED
    return run_ends.end_run(ended, [of_run(run, "run_completed"), of_run(run, "session_completed")], status)


async def together(
    store: asm.AsyncSessionStore, operations: Sequence[Operation[Any]], database: Any = None
) -> tuple[int, list[Any]]:
    """Run operations that all wait for one append, and return in how many sends, with their outcomes."""
    group: Any = (database or store._database).group_commit
    send, sent, may_go = group.send, [], asyncio.Event()

    async def held(query: Any, /, **limits: Any) -> Any:
        sent.append(query)
        if len(sent) == 1:
            await may_go.wait()
        return await send(query, **limits)

    group.send = held
    try:
        first = asyncio.create_task(store.append_event(an_event("ses_first"), session=FIRST))
        tasks = [asyncio.create_task(run_operation(store, each)) for each in operations]
        while len(group._queue.requests) < len(tasks):  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0)
        may_go.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await first
    finally:
        group.send = send
    return len(sent) - 1, outcomes


def test_claims_and_ends_share_a_commit_with_each_other_and_with_appends(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore) -> None:
        runs = [a_run(f"ses_{n}") for n in range(NUMBER)]
        appends: list[Operation[Any]] = [appending.append_event(an_event("ses_0"))]

        sends, outcomes = await together(store, [*map(a_claim, runs), *appends])

        assert (sends, [types(each) for each in outcomes[:-1]]) == (
            *(1, [["session_started", "run_started"]] * NUMBER),
        )
        assert [await store.get_active_run(run.session_id) for run in runs] == runs
        sends, outcomes = await together(store, [*map(an_end, runs[1:]), a_claim(a_run("ses_x"))])
        assert sends == 1
        for run, ended in zip(runs[1:], outcomes, strict=False):
            assert ended.run == await store.get_run(run.id)
            assert ended.session == await store.get_session(run.session_id)
            assert (ended.run.status, ended.session.status) == ("completed", "completed")
            assert ended.events == (await store.get_events(run.session_id))[-2:]
        assert await store.maintenance.health_check() == []

    with_store(where.dsn, test)


def test_what_follows_the_appends_of_several_sessions_is_in_the_order_of_the_sessions() -> None:
    """Or two batches of the same sessions could deadlock."""
    claimed = [a_claim(a_run(f"ses_{n}")) for n in (3, 1, 2)]
    ended = [an_end(a_run(f"ses_{n}")) for n in (5, 4)]
    batchable = [each for each in (*claimed, *ended) if isinstance(each, Batchable)]

    merged = batchable[0].merge([item for each in batchable for item in each.items])

    assert isinstance(merged, Pipeline)
    _append, *more, guard = merged.queries()
    sessions = [query.params.get("session_id", query.params.get("id")) for query in more]
    assert sessions == sorted(sessions)
    assert (guard.query, guard.params["session_ids"]) == ("refuse_changed_runs", ["ses_5", "ses_4"])
    assert {*sessions} == {f"ses_{n}" for n in range(1, 6)}


def test_a_claim_that_fails_in_a_shared_commit_fails_no_other(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore) -> None:
        runs = [a_run(f"ses_{n}") for n in range(NUMBER)]
        await run_operation(store, a_claim(replace(a_run("ses_3", owner="host:2:bb"), id="run_other")))

        _, outcomes = await together(store, [*map(a_claim, runs), a_claim(a_run("ses_5", "host:3:cc"))])

        failed = [n for n, each in enumerate(outcomes) if isinstance(each, claims.ActiveRunFound)]
        assert (failed[0], len(failed)) == (3, 2)
        assert failed[1] in (5, NUMBER)
        assert all(isinstance(each, list) for n, each in enumerate(outcomes) if n not in failed)
        for n in range(NUMBER):
            assert types(await store.get_events(f"ses_{n}")) == ["session_started", "run_started"]
            (stored,) = await store.list_runs(f"ses_{n}", status="running")
            assert stored.id == ("run_other" if n == 3 else f"run_of_ses_{n}")
        assert await store.maintenance.health_check() == []

    with_store(where.dsn, test)


@pytest.mark.parametrize("is_named", [False, True], ids=["a new id", "an id of the caller's"])
def test_a_claim_that_is_sent_again_keeps_what_others_stored_since(where: Where, is_named: bool) -> None:
    def claim(run: asm.Run) -> Operation[list[asm.Event]]:
        if not is_named:
            return a_claim(run)
        session = asm.Session(id=run.session_id, agent_id="agent", status="active")
        return claims.claim_named_run(run, session, [of_run(run, "run_started")], None, None)

    async def test(store: asm.AsyncSessionStore) -> None:
        run = a_run("ses_1")
        claimed = await run_operation(store, claim(run))
        event = of_run(run, "asm.cancel_requested")
        requested = await run_operation(store, owned_runs.request_cancel(run, event))

        assert await run_operation(store, claim(run)) == claimed
        assert await store.get_run(run.id) == requested

        ended = await store.update_run(run.id, lambda stored: stored.set_error("abandoned"))
        assert await run_operation(store, claim(run)) == claimed
        assert await store.get_run(run.id) == ended

    with_store(where.dsn, test)


def test_an_end_that_fails_in_a_shared_commit_fails_no_other(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore) -> None:
        runs = [a_run(f"ses_{n}") for n in range(NUMBER)]
        await together(store, list(map(a_claim, runs)))
        await run_operation(
            store, owned_runs.request_cancel(runs[2], of_run(runs[2], "asm.cancel_requested"))
        )
        await store.update_run(runs[5].id, lambda run: with_lease(run, datetime.now(UTC), owner="host:2:bb"))

        _, outcomes = await together(store, [*map(an_end, runs), an_end(a_run("ses_none"))])

        kinds = dict.fromkeys(range(NUMBER), run_ends.Ended) | {2: asm.RunCancelled, 5: asm.RunLost}
        assert [type(each) for each in outcomes] == [*kinds.values(), asm.RunLost]
        for n, kind in kinds.items():
            status = "completed" if kind is run_ends.Ended else "running"
            assert (await store.get_run(runs[n].id)).status == status
            assert ("run_completed" in types(await store.get_events(f"ses_{n}"))) == (status == "completed")
        assert await store.get_events("ses_none") == []

    with_store(where.dsn, test)


@only(POSTGRES, why="a file has no connection that can be lost")
@pytest.mark.parametrize("moment", ["before", "in", "after"])
def test_a_shared_commit_whose_connection_is_cut_is_applied_once(where: Where, moment: Moment) -> None:
    runs = [a_run(f"ses_{n}") for n in range(NUMBER)]
    with Proxy(where.dsn) as proxy:

        async def test(store: asm.AsyncSessionStore) -> None:
            proxy.cut_when(b"run_of_ses_0.run_started", moment)
            _, claimed = await together(store, list(map(a_claim, runs)))
            proxy.cut_when(b"run_of_ses_0.run_completed", moment)
            _, ended = await together(store, list(map(an_end, runs)))

            assert proxy.faults == {f"cut {moment}": 2}
            for run, its, end in zip(runs, claimed, ended, strict=True):
                assert await store.get_events(run.session_id) == [*its, *end.events]
                assert [event.sequence_number for event in [*its, *end.events]] == [1, 2, 3, 4]
                assert end.run == await store.get_run(run.id)
            assert await store.maintenance.health_check() == []

        with_store(proxy.dsn, test)
