"""What does a SessionManager's run cost, with an adapter that costs nothing, compared with bare appends?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asm
from asm.agents import AdapterEvent, Request
from asm.operations.runs import with_lease
from bench import appends, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Side, by_tasks
from bench.targets import Target, of_operation

SHARE = 0.5
CONCURRENT = 200
ENDED = (100, 20_000)
STALE = 20
TO_END = 1_000
"""The stale runs that are made before a round ends them."""


class Free:
    """An adapter that asks for a tool in two turns, and answers in the third."""

    provider = "free"
    capabilities = frozenset({"tools"})

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        number = Counter(message["role"] for message in request.messages)["assistant"]
        data = {"role": "assistant", "content": "Let me see." if number < 2 else "Here it is."}
        yield AdapterEvent("message_received", data)
        if number < 2:
            call = {"name": "lookup", "input": {"q": number}}
            yield AdapterEvent("tool_call_started", call, correlation_id=f"c{number}")
        yield AdapterEvent("token_usage_updated", {"input_tokens": 10, "output_tokens": 5, "model": "m"})


async def tool(_name: str, _input: Any) -> str:
    return "42"


def comparisons(
    rounds: Rounds, databases: Databases, ended: tuple[int, int] = ENDED, concurrent: int = CONCURRENT
) -> Iterator[Comparison]:
    with asyncio.Runner() as runner, ExitStack() as stack:
        for name in ("PostgreSQL", "SQLite"):
            few, many = (_Bench(rounds, name, runner, databases, stack) for _ in range(2))
            yield from few.of_one_run()
            yield from few.of_concurrent_runs(concurrent)
            yield from many.of_stale_runs(few, ended)
            yield from few.of_an_end()


class _Bench:
    """The comparisons on one database."""

    def __init__(
        self, rounds: Rounds, name: str, runner: asyncio.Runner, databases: Databases, stack: ExitStack
    ) -> None:
        self._rounds = rounds
        self._name = name
        self._runner = runner
        if name == "PostgreSQL":
            place = stack.enter_context(databases.postgres())
            self._server = place.server
            self._store = stack.enter_context(appends.opened(runner, place.dsn, place.schema))
        else:
            self._server = None
            self._store = stack.enter_context(
                appends.opened(runner, stack.enter_context(databases.file()).dsn)
            )
        self._manager = asm.AsyncSessionManager(self._store)
        self._to_end: list[asm.Run] = []

    def of_one_run(self) -> Iterator[Comparison]:
        yield self._compared(targets.ONE_RUN, self._bare(), self._side("a run", [self._run]))

    def of_concurrent_runs(self, number: int) -> Iterator[Comparison]:
        batches = self._runner.run(self._batches_of_a_run())
        direct = self._side("the same appends", [lambda: self._append_all(batches)] * number)
        yield self._compared(targets.CONCURRENT_RUNS, direct, self._side("runs", [self._run] * number))

    def of_stale_runs(self, other: _Bench, ended: tuple[int, int]) -> Iterator[Comparison]:
        """Find stale runs here, among many runs that have ended, and in another database among few."""
        for bench, number in zip((other, self), ended, strict=True):
            self._runner.run(bench._save_ended(number))
            self._runner.run(bench._save_stale(STALE))
        few = other._side(f"among {ended[0]:,} ended runs", [other._find])
        yield self._compared(targets.STALE_RUNS, few, self._side("among many", [self._find]))

    def of_an_end(self) -> Iterator[Comparison]:
        def run(seconds: float) -> Sample:
            self._to_end = self._runner.run(self._save_stale(TO_END))
            return by_tasks(self._runner, [self._end], seconds, self._server)

        yield self._compared(targets.ENDING, self._bare(), Side("an end", run))

    def _compared(self, target: Target, floor: Side, ours: Side) -> Comparison:
        return self._rounds.compare(of_operation(self._name, target), floor, ours, unit="call", share=SHARE)

    def _bare(self) -> Side:
        return self._side("append_event", [self._append])

    def _side(self, name: str, steps: Sequence[Callable[[], Awaitable[Any]]]) -> Side:
        return Side(name, lambda seconds: by_tasks(self._runner, steps, seconds, self._server))

    # The steps.

    async def _append(self) -> None:
        data = {"role": "assistant", "content": "Let me see."}
        await self._store.append_event(asm.Event(type="message_received", session_id="ses_bare", data=data))

    async def _run(self) -> asm.RunResult:
        return await self._manager.run_once(Free(), "Hi", on_tool=tool)

    async def _find(self) -> list[asm.Run]:
        return await self._store.maintenance.list_stale_runs()

    def _end(self) -> Awaitable[asm.Run]:
        return self._manager.cancel(self._to_end.pop().id)

    async def _batches_of_a_run(self) -> list[list[dict[str, Any]]]:
        """The events of a run, in the batches in which it appends them."""
        batches: list[list[dict[str, Any]]] = [[]]
        events = (await self._run()).events
        for event, following in pairwise([*events, None]):
            assert event is not None
            batches[-1].append({"type": event.type, "data": event.data})
            if event.type in ("message_sent", "turn_completed", "tool_call_completed"):
                # The last turn is stored with the end of the run.
                batches += [[]] if following is not None and following.type != "run_completed" else []
        return batches

    async def _append_all(self, batches: Sequence[Sequence[dict[str, Any]]]) -> None:
        session = asm.Session(agent_id="direct", status="active")
        for batch in batches:
            events = [asm.Event(session_id=session.id, **fields) for fields in batch]
            await self._store.append_events(events, session=session if batch is batches[0] else None)

    # The rows.

    async def _save_ended(self, number: int) -> None:
        async def save(tx: asm.AsyncTransaction) -> None:
            for _ in range(number):
                await tx.save_run(asm.Run(session_id="ses_ended", status="completed"))

        await self._store.run_transaction(save)

    async def _save_stale(self, number: int) -> list[asm.Run]:
        over = datetime.now(UTC) - timedelta(hours=1)
        runs = [
            with_lease(asm.Run(session_id="ses_stale", status="running"), over, owner="gone")
            for _ in range(number)
        ]

        async def save(tx: asm.AsyncTransaction) -> None:
            for run in runs:
                await tx.save_run(run)

        await self._store.run_transaction(save)
        return runs
