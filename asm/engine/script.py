"""Operations as values: they say what to send to the database, and do no I/O themselves.

A Query is one SQL statement: its name, its values, and a reader of its rows. A Script is a
generator that yields one Query after another, is sent the rows of each, and returns a result.
A Script reads no clock and makes no ids, so it can be run again after a lost connection, run
inside a caller's transaction, and handed to another thread as a whole.

Each has a `name` for the log: the store's method that made it, or "".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = Sequence[Row]
Params: TypeAlias = "Sequence[Any] | Mapping[str, Any]"
"""The values of an application's own statement, by position or by name."""
Script: TypeAlias = "Generator[Query[Any], Rows, T]"


class Query(Generic[T]):
    """One SQL statement, sent in autocommit: one round trip.

    `query` is its name in the query files. In `params` a tuple is a set of values to filter by,
    a list is a column of a batch. `read` makes the result of the rows.

    `on_conflict` makes the script that replaces a query which assumes that its rows are new. The
    script runs when the database reports that a row exists, and always inside a transaction,
    where PostgreSQL accepts no statement after one that failed.

    `on_unknown_outcome` makes the script that replaces the query when the connection was lost
    before its result arrived, so that it may have been applied already.

    `prepare=False` has the server plan the query for its values each time. PostgreSQL may
    otherwise use one plan for all values, which is slow where the best plan depends on them.

    Two attributes are for those who observe the query, and set only where they say something:
    `requests` are the group commit's of which a query was merged, and `waits` marks one that is
    repeated until it finds something.
    """

    __slots__ = (
        "name",
        "on_conflict",
        "on_unknown_outcome",
        "params",
        "prepare",
        "query",
        "read",
        "requests",
        "waits",
    )

    requests: Sequence[Any]
    waits: bool

    # Queries that append events are sent as a Batchable, a UnitOfWork or a Pipeline.
    sessions: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        query: str,
        params: Mapping[str, Any],
        read: Callable[[Rows], T],
        on_conflict: Callable[[], Script[T]] | None = None,
        *,
        on_unknown_outcome: Callable[[], Script[T]] | None = None,
        prepare: bool = True,
    ) -> None:
        self.query = query
        self.params = params
        self.read = read
        self.on_conflict = on_conflict
        self.on_unknown_outcome = on_unknown_outcome
        self.prepare = prepare
        self.name = ""

    def __iter__(self) -> Script[T]:
        """The script of this one query, so that `yield from` gives its result."""
        if self.on_conflict is not None:
            return (yield from self.on_conflict())
        rows = yield self
        return self.read(rows)


class UnitOfWork(Generic[T]):
    """A script that runs in one transaction and can be run again: each iteration makes a new one.

    A `snapshot` only reads, and all its queries see the database as it was at the first one; inside
    a caller's transaction they see what that transaction sees. `sessions` are those to which the
    script may append events.

    One that is not `idempotent` is applied at most once. When the response to its commit is lost, the
    database determines whether it was applied, and raises ConnectionFailed where it cannot.
    """

    __slots__ = ("_make", "idempotent", "name", "sessions", "snapshot")

    def __init__(
        self,
        make: Callable[[], Script[T]],
        *,
        snapshot: bool = False,
        sessions: Sequence[str] = (),
        idempotent: bool = True,
    ) -> None:
        self.name = ""
        self._make = make
        self.snapshot = snapshot
        self.sessions = sessions
        self.idempotent = idempotent

    def __iter__(self) -> Script[T]:
        return self._make()


class Batchable(Generic[T]):
    """A write that may share a statement with others of its kind.

    `merge` makes one query, or one pipeline, of the `items` of any number of them, and `extract` finds the
    result of this one in the result of that. Inside a transaction the script that `unbatched` makes
    runs instead. `sessions` are those to which it may append events; `size_bytes` is the size of
    its JSON. `observation` is set by those who observe it.
    """

    __slots__ = (
        "extract",
        "items",
        "merge",
        "name",
        "observation",
        "sessions",
        "size_bytes",
        "unbatched",
    )

    observation: Any

    def __init__(
        self,
        items: Sequence[Any],
        merge: Callable[[Sequence[Any]], Query[Any] | Pipeline[Any]],
        extract: Callable[[Any], T],
        unbatched: Callable[[], Script[T]],
        *,
        sessions: Sequence[str],
        size_bytes: int,
    ) -> None:
        self.items = items
        self.merge = merge
        self.extract = extract
        self.unbatched = unbatched
        self.sessions = sessions
        self.size_bytes = size_bytes
        self.name = ""

    def __iter__(self) -> Script[T]:
        return self.unbatched()


class Pipeline(Generic[T]):
    """Queries that do not depend on each other's rows: one round trip and one transaction.

    `queries` yields them one by one, so that the next is encoded while the server executes those
    before it; `size` is their number. `read` makes the result of the list of their results.
    `sessions` are those to which they may append events. `on_conflict` and `requests` are as for a Query.
    """

    __slots__ = ("name", "on_conflict", "queries", "read", "requests", "sessions", "size")

    requests: Sequence[Any]

    def __init__(
        self,
        queries: Callable[[], Iterable[Query[Any]]],
        read: Callable[[list[Any]], T],
        on_conflict: Callable[[], Script[T]] | None,
        *,
        size: int,
        sessions: Sequence[str],
    ) -> None:
        self.queries = queries
        self.read = read
        self.on_conflict = on_conflict
        self.size = size
        self.sessions = sessions
        self.name = ""

    def as_unit(self) -> UnitOfWork[T]:
        """The unit of work that sends the same queries one after another."""
        unit = UnitOfWork(self.run_sequentially, sessions=self.sessions)
        unit.name = self.name
        return unit

    def run_sequentially(self) -> Script[T]:
        """The script of that unit of work."""
        results = []
        for query in self.queries():
            rows = yield query
            results.append(query.read(rows))
        return self.read(results)

    def __iter__(self) -> Script[T]:
        return self.run_sequentially() if self.on_conflict is None else self.on_conflict()


Unbatched: TypeAlias = "Query[T] | UnitOfWork[T] | Pipeline[T]"
"""What is sent to the database without others."""

Operation: TypeAlias = "Unbatched[T] | Batchable[T]"


class Database(Protocol):
    """What runs operations: the database of a store, or one transaction of it."""

    def run(self, operation: Operation[T]) -> T: ...


class AsyncDatabase(Protocol):
    """The same, awaited."""

    async def run(self, operation: Operation[T]) -> T: ...


def for_retry(operation: Unbatched[T]) -> Unbatched[T]:
    """The operation for another attempt, when the outcome of the first is unknown."""
    if isinstance(operation, Query) and operation.on_unknown_outcome is not None:
        unit = UnitOfWork(operation.on_unknown_outcome)
        unit.name = operation.name
        return unit
    return operation


def run_script(operation: Operation[T] | Script[T], execute: Callable[[Query[Any]], Rows]) -> T:
    """Execute each query of a script, and return what the script returns."""
    script = iter(operation)
    try:
        query = next(script)
        while True:
            query = script.send(execute(query))
    except StopIteration as end:
        result: T = end.value
        return result


def resume(script: Script[T], rows: Rows) -> Script[T]:
    """The rest of a script, of which the first query was executed and has these rows."""
    try:
        while True:
            rows = yield script.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def run_script_async(
    operation: Operation[T] | Script[T], execute: Callable[[Query[Any]], Awaitable[Rows]]
) -> T:
    """The same, awaited."""
    script = iter(operation)
    try:
        query = next(script)
        while True:
            query = script.send(await execute(query))
    except StopIteration as end:
        result: T = end.value
        return result


def one_or_many(one: str, many: str, values: tuple[str, ...] | None) -> dict[str, Any]:
    """The parameters of a filter by a set of values.

    A single value has a parameter and a line of its own: only an equality lets an index give the
    rows in order, so that a limit ends the scan.
    """
    if values is not None and len(values) == 1:
        return {one: values[0], many: None}
    return {one: None, many: values}


def no_result(rows: Rows) -> None:
    """Read the rows of a query that returns nothing."""


def sum_of_halves(upper: int, lower: int) -> int:
    """A sum that the database has made of the upper and the lower 32 bits of its numbers, each by itself."""
    return (upper << 32) + lower


def scalar(rows: Rows) -> Any:
    """Read the one value of the one row."""
    return rows[0][0]
