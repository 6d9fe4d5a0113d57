"""Applies migrations to one database, with yoyo and nothing else.

yoyo marks a migration as applied in another transaction than the one that it runs in, keeps its own
lock as a row that a crash leaves behind, and identifies a migration by its file name only. None of the
three is reported upstream yet. So yoyo is given one connection, inside one transaction that holds a lock
of the database: all pending migrations are applied or none, a killed process leaves nothing, and
processes that start together wait for each other. The checksum of each file is written into the comment
of yoyo's log.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from asm.engine.registry import Dialect, QueryRegistry
from asm.engine.schema_version import OPTIONAL, OptionalTables, own_migrations
from asm.engine.script import Rows, sum_of_halves
from asm.errors import Conflict, ConnectionFailed, MigrationRequired, StorageError, StorageTimeout
from asm.migrations.files import list_files, needed_migrations
from asm.migrations.script import migration_script

T = TypeVar("T")

RETRY_S = 0.1
"""How long to wait before trying again to get the lock row of yoyo's own command."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The migrations of a database, and the number of rows by table, which is empty without tables."""

    dialect: Dialect
    version: str
    applied: list[str]
    pending: list[str]
    rows: dict[str, int]


class Migrator(ABC):
    """Migrates one database. Each dialect says how to lock it, and how to use its connection."""

    dialect: Dialect
    queries: QueryRegistry

    utc_now: str
    """The SQL of the current time, as yoyo stores it."""

    lock_timeout_s = 60.0
    """How long to wait for another process that migrates the database."""

    stale_after_s = 3_600.0
    """When the lock row of yoyo's own command is older than this, a crash has left it behind."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """A transaction during which no other process migrates."""

    @abstractmethod
    def backend(self) -> Any:
        """A yoyo backend on this connection."""

    @abstractmethod
    def rows(self, query: str) -> Rows:
        """The rows of a query without parameters."""

    @abstractmethod
    def script_head(self) -> str:
        """The statements that begin a script of migrations."""

    def migrate(self, optional: Collection[str] = ()) -> list[str]:
        """Apply what is pending. `optional` names the migrations of OPTIONAL that are asked for."""
        # Up to date is found out without a lock, which needs the right to write.
        return self._with_lock(partial(self._apply, optional)) if self.pending(optional) else []

    def rollback(self, steps: int | None) -> list[str]:
        return self._with_lock(partial(self._roll_back, steps)) if self._marked() else []

    def pending(self, optional: Collection[str] = ()) -> list[str]:
        self._check_unchanged()
        return self._pending(self._applied(), optional)

    def script(self, optional: Collection[str] = ()) -> str:
        """The pending migrations as a script for the database's own client."""
        pending = self.pending(optional)
        files = [file for file in list_files(self.dialect) if file.id in pending]
        return migration_script(self.script_head(), files, self._marked(), utc_now=self.utc_now)

    def status(self) -> StoreStatus:
        applied = self._applied()
        counts = self.rows("count_rows_by_counters") if applied else []
        rows = {table: sum_of_halves(upper, lower) for table, upper, lower in counts}
        for each in OPTIONAL.values():
            if not set(applied).isdisjoint(each.migrations):
                rows.update(self.rows(each.count_rows))
        return StoreStatus(
            self.dialect, self.rows("get_version")[0][0], applied, self._pending(applied), rows
        )

    def _with_lock(self, work: Callable[[Any], T]) -> T:
        give_up_at = time.monotonic() + self.lock_timeout_s
        while True:
            # The wait for yoyo's lock row is outside the transaction: the process that inserted the row
            # needs the database to finish.
            with _ignoring_conflicts(until=give_up_at), self.locked():
                backend = self.backend()
                if backend.insert_lock_row() or self._broke_stale_lock(backend):
                    backend.ensure_internal_schema_updated()
                    result = work(backend)
                    backend.break_lock()
                    return result
                holder = backend.lock_holder()
                if holder is not None and time.monotonic() > give_up_at:
                    raise StorageTimeout(
                        f"yoyo's own command, process {holder[0]}, has locked the migrations of this "
                        "database: wait for its end or, if it was killed, run `yoyo break-lock`"
                    )
            time.sleep(RETRY_S)

    def _broke_stale_lock(self, backend: Any) -> bool:
        """Whether a crash had left yoyo's lock row behind, and this process has the lock now."""
        holder = backend.lock_holder()
        if holder is None or (datetime.now(UTC) - holder[1]).total_seconds() < self.stale_after_s:
            return False
        backend.break_lock()
        locked: bool = backend.insert_lock_row()
        return locked

    def _apply(self, optional: Collection[str], backend: Any) -> list[str]:
        self._check_unchanged()
        applied = self._applied()
        pending = self._pending(applied, optional)
        migrations = backend.read_migrations()
        # Tables that are marked as created but were dropped by hand are created again.
        marked = backend.to_rollback(migrations)
        backend.unmark_migrations(marked.filter(lambda each: each.id not in applied))
        migrations = backend.to_apply(migrations).filter(lambda each: each.id in pending)
        backend.apply_migrations(migrations)
        return [migration.id for migration in migrations]

    def _roll_back(self, steps: int | None, backend: Any) -> list[str]:
        known = {file.id for file in list_files(self.dialect)}
        if newer := [id for id in self._marked() if id not in known]:
            raise Conflict(
                f"a newer version of asm has applied {', '.join(newer)}: roll back with that version first",
                migrations=newer,
            )
        migrations = list(backend.to_rollback(backend.read_migrations()))[:steps]
        backend.rollback_migrations(migrations)
        return [migration.id for migration in migrations]

    def _applied(self) -> list[str]:
        """The ids of the migrations marked as applied, without those of which a table is missing."""
        if not self._succeeds("check_tables"):
            return []
        marked = self._marked()
        lost = {id for each in OPTIONAL.values() if self._has_lost(each, marked) for id in each.migrations}
        return [id for id in marked if id not in lost]

    def _has_lost(self, optional: OptionalTables, marked: Collection[str]) -> bool:
        """Whether optional migrations are marked as applied, and their tables were dropped by hand."""
        return not set(marked).isdisjoint(optional.migrations) and not self._succeeds(optional.check)

    def _succeeds(self, check: str) -> bool:
        try:
            self.rows(check)
        except MigrationRequired:
            return False
        return True

    def _marked(self) -> list[str]:
        """The ids of asm's migrations that are marked as applied, whether the tables exist or not."""
        try:
            rows = self.rows("list_migrations")
        except MigrationRequired:
            return []
        return own_migrations(rows, known=[file.id for file in list_files(self.dialect)])

    def _pending(self, applied: list[str], optional: Collection[str] = ()) -> list[str]:
        # Optional ones whose tables were dropped by hand are still marked.
        return [id for id in needed_migrations(self._marked(), optional) if id not in applied]

    def _check_unchanged(self) -> None:
        """Conflict if the file of an applied migration has changed."""
        applied = self._applied()
        checksums: dict[str, str | None] = dict(self.rows("list_checksums")) if applied else {}
        for file in list_files(self.dialect):
            # yoyo's own command logs no checksum, so what it applied cannot be compared.
            if file.id in applied and checksums.get(file.id) not in (None, file.checksum):
                raise Conflict(
                    f"migration {file.id} was changed after it was applied: restore its file, "
                    "and make the change in a new migration",
                    migration=file.id,
                )


@contextmanager
def _ignoring_conflicts(until: float) -> Iterator[None]:
    """Ignore deadlocks and serialization failures until this time, so that the caller tries again."""
    try:
        yield
    except StorageError as error:
        # A migration may lock tables in another order than the programs that write to them.
        is_conflict = error.retryable and not isinstance(error, ConnectionFailed | StorageTimeout)
        if not is_conflict or time.monotonic() > until:
            raise
