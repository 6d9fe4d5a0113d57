"""LangGraph's checkpoints in a store of asm: `graph = builder.compile(checkpointer=AsyncAsmSaver(store))`.

The checkpoints are in three tables of their own, which `migrate(dsn)`, `saver.setup()` or
`asm migrate --langgraph` creates. A thread is a session of the store: its id is the session's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar

from asm.async_store import AsyncSessionStore
from asm.awaited import result_of
from asm.engine.jobs import Job, run_job_async
from asm.engine.script import Operation
from asm.errors import MigrationRequired, ValidationError, missing_extra
from asm.integrations.common import awaited, settled
from asm.migrations.runner import migrate_with
from asm.opening import migrate_store
from asm.operations import checkpoint_pruning, checkpoints
from asm.operations.checkpoints import Config, StoredCheckpoint, config_of, key_of
from asm.store import SessionStore

try:
    from langgraph.checkpoint import base
    from langgraph.checkpoint.base import CheckpointTuple
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "langgraph":
        raise
    raise missing_extra(__name__, "langgraph-checkpoint", "langgraph") from error

T = TypeVar("T")
OPTIONAL = ("langgraph",)


def migrate(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """As `asm.migrate`, and creates the tables of the checkpoints. Returns the migrations applied."""
    return migrate_with(OPTIONAL, dsn, schema=schema)


class _Saver(base.BaseCheckpointSaver[str]):
    """What both savers have: the awaited methods, on either kind of store."""

    _blocks = False

    def __init__(self, store: SessionStore | AsyncSessionStore, *, serde: Any = None) -> None:
        super().__init__(serde=serde)
        self._lent: Any = store
        self._store = awaited(store, type(self).__name__)

    def get_next_version(self, current: str | int | None, channel: None = None) -> str:
        # As LangGraph's own savers: branches of a thread must not give different values one version.
        number = int(str(current or 0).partition(".")[0]) + 1
        return f"{number:032}.{random.random():016}"

    async def aget_tuple(self, config: Config) -> CheckpointTuple | None:
        found = await self._run(checkpoints.get_checkpoint(config))
        return None if found is None else self._tuple(found)

    async def alist(
        self, config: Config, *, filter: Any = None, before: Config = None, limit: int | None = None
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first, whose metadata has the values of `filter`."""
        last = None
        for size in checkpoints.page_sizes(limit):
            page = await self._run(checkpoints.list_checkpoints(config, filter, before, last, size))
            for last in page:
                yield self._tuple(last)
            if len(page) < size:
                return

    async def aput(
        self, config: Config, checkpoint: Any, metadata: Any, new_versions: Mapping[str, Any]
    ) -> Config:
        saved, dumps = base.get_serializable_checkpoint_metadata(config, metadata), self.serde.dumps_typed
        await self._write(checkpoints.put_checkpoint(config, checkpoint, saved, new_versions, dumps))
        return config_of(*key_of(config)[:2], checkpoint["id"])

    async def aput_writes(
        self, config: Config, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        typed = {
            base.WRITES_IDX_MAP.get(channel, index): (channel, self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        }
        if typed:
            await self._write(checkpoints.put_writes(config, task_id, task_path, typed))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints, and its session with all that it has."""
        await self._write(checkpoints.delete_thread(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._job(checkpoint_pruning.delete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread. The session of the copy is a child of the thread's."""
        await self._write(checkpoints.copy_thread(source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of these threads ("delete"), or all but the newest of each namespace.

        The ancestors from which a DeltaChannel of a kept checkpoint is read stay, too. A call of a subgraph
        goes with the checkpoint that it started from.
        """
        await self._job(checkpoint_pruning.prune_threads(thread_ids, strategy))

    async def aexpire(self, *, max_age_days: int | None = None, max_checkpoints: int | None = None) -> int:
        """Prune all threads, in short transactions, and return how many checkpoints were deleted.

        Of each namespace of a thread `max_checkpoints` stay, and of these those of the last `max_age_days`;
        the newest and what `aprune` keeps with it stay always.
        """
        return await self._job(checkpoint_pruning.expire(max_age_days, max_checkpoints))

    def _tuple(self, found: StoredCheckpoint) -> CheckpointTuple:
        loads, (session_id, namespace, _) = self.serde.loads_typed, found.key
        checkpoint = loads(found.value)
        checkpoint["channel_values"].update((name, loads(value)) for name, value in found.blobs.items())
        return CheckpointTuple(
            config_of(*found.key),
            checkpoint,
            found.metadata,
            config_of(session_id, namespace, found.parent_id) if found.parent_id else None,
            [(write.task_id, write.channel, loads(write.value)) for write in found.writes],
        )

    async def _run(self, operation: Operation[T]) -> T:
        try:
            lent, store = self._lent._database, self._store._database
            result: T = lent.run(operation) if self._blocks else await store.run(operation)
            return result
        except MigrationRequired as error:
            raise checkpoints.tables_missing() from error

    async def _write(self, operation: Operation[T]) -> T:
        return await (self._run(operation) if self._blocks else settled(self._run(operation)))

    async def _job(self, job: Job[T]) -> T:
        return await run_job_async(job, SimpleNamespace(run=self._write), "prune")


class AsyncAsmSaver(_Saver):
    """A checkpointer for `ainvoke` and `astream`. The store is lent.

    With an AsyncSessionStore it belongs to one event loop, with a SessionStore to any number of them. A task
    that is cancelled awaits the outcome of its write first.
    """

    async def setup(self) -> None:
        """Create the tables, or bring them up to date, as `asm migrate --langgraph` does."""
        await asyncio.to_thread(migrate_store, self._lent, OPTIONAL)


def _blocking(method: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    @wraps(method)
    def call(self: AsmSaver, *args: Any, **kwargs: Any) -> T:
        return result_of(method(self._at_once(), *args, **kwargs))

    return call


class AsmSaver(_Saver):
    """A checkpointer for `invoke` and `stream`, and for `ainvoke` and `astream`, too. The store is lent."""

    def __init__(self, store: Any, *, serde: Any = None) -> None:
        if isinstance(store, AsyncSessionStore):
            raise ValidationError("AsmSaver takes a SessionStore; AsyncAsmSaver takes an async one, too")
        super().__init__(store, serde=serde)

    def setup(self) -> None:
        """Create the tables, or bring them up to date, as `asm migrate --langgraph` does."""
        migrate_store(self._lent, OPTIONAL)

    get_tuple = _blocking(_Saver.aget_tuple)
    put = _blocking(_Saver.aput)
    put_writes = _blocking(_Saver.aput_writes)
    delete_thread = _blocking(_Saver.adelete_thread)
    delete_for_runs = _blocking(_Saver.adelete_for_runs)
    copy_thread = _blocking(_Saver.acopy_thread)
    prune = _blocking(_Saver.aprune)
    expire = _blocking(_Saver.aexpire)

    def list(self, config: Config, **options: Any) -> Iterator[CheckpointTuple]:
        found = self._at_once().alist(config, **options)
        while (each := result_of(_next(found))) is not None:
            yield each

    def _at_once(self) -> AsmSaver:
        saver = type(self).__new__(type(self))
        saver.__dict__.update(self.__dict__, _blocks=True)
        return saver


async def _next(found: AsyncIterator[T]) -> T | None:
    return await anext(found, None)
