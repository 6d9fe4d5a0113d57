"""Operations as questions.

An Ask is one question to the database: which query, with what values, and how to read
the rows. A Plan is a generator that puts one Ask after another and returns a result. It
does no I/O, reads no clock and makes no ids, so it can be run again after a lost
connection, gathered with others, put inside a caller's transaction, and crosses to
another thread in one hop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = Sequence[Row]
Script: TypeAlias = "Generator[Query[Any], Rows, T]"


class Query(Generic[T]):
    """One question. Alone, it is one statement in autocommit: one trip to the server.

    In `params` a tuple is a set of values to look for, a list is a column of a batch.

    `instead` is for a question that bets on its rows being new. Where the bet is lost (the
    database says a row is there already), and inside a transaction, where a lost bet would
    spoil everything before it, the plan that `instead` makes is asked in its place.

    `again` is for a question that answers otherwise once it has been heard. Where nobody knows
    whether it was, because the connection was lost, the plan that `again` makes is asked.

    `prepare=False` is for a question whose best way depends on its values. It is planned for them
    each time, where PostgreSQL may plan a prepared one once for all values.
    """

    __slots__ = ("on_conflict", "on_unknown_outcome", "params", "prepare", "query", "read")

    # What adds events may be joined by others of its kind, so it is no bare Ask.
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
        self.on_unknown_outcome = on_unknown_outcome
        self.query = query
        self.params = params
        self.read = read
        self.on_conflict = on_conflict
        self.prepare = prepare

    def __iter__(self) -> Script[T]:
        """Be a plan of this one question, so that `yield from` gives its answer."""
        if self.on_conflict is not None:
            return (yield from self.on_conflict())
        rows = yield self
        return self.read(rows)


class UnitOfWork(Generic[T]):
    """A plan that can be run again: each time it is iterated over, it is made anew.

    One that is a `snapshot` only reads, and all its questions see the database as it stood at
    the first; inside a caller's transaction they see what that one sees. `sessions` are those
    to which it may add events.
    """

    __slots__ = ("_make", "sessions", "snapshot")

    def __init__(
        self, make: Callable[[], Script[T]], *, snapshot: bool = False, sessions: Sequence[str] = ()
    ) -> None:
        self._make = make
        self.snapshot = snapshot
        self.sessions = sessions

    def __iter__(self) -> Script[T]:
        return self._make()


def for_retry(question: Query[T] | UnitOfWork[T] | Pipeline[T]) -> Query[T] | UnitOfWork[T] | Pipeline[T]:
    """The question for a second attempt, when nobody knows what became of the first."""
    if isinstance(question, Query) and question.on_unknown_outcome is not None:
        return UnitOfWork(question.on_unknown_outcome)
    return question


class Batchable(Generic[T]):
    """A question that may be asked in one statement together with others of its kind.

    `together` makes one question of the parts of any number of them, and `answer` finds in
    its answer what this one wanted to know. Inside a transaction it is the plan that `alone` makes.
    `sessions` are those to which it may add events.
    """

    __slots__ = ("alone", "answer", "items", "merge", "sessions", "size_bytes")

    def __init__(
        self,
        items: Sequence[Any],
        merge: Callable[[Sequence[Any]], Query[Any]],
        answer: Callable[[Any], T],
        alone: Callable[[], Script[T]],
        *,
        sessions: Sequence[str],
        size_bytes: int,
    ) -> None:
        self.items = items
        self.merge = merge
        self.answer = answer
        self.alone = alone
        self.sessions = sessions
        self.size_bytes = size_bytes

    def __iter__(self) -> Script[T]:
        return self.alone()


class Pipeline(Generic[T]):
    """Questions that do not wait for each other's answers: one trip to the server, one transaction.

    `read` makes the result of all their answers. `asks` gives the questions one by one, so that
    one is made ready while the server is busy with those before it; `size` is how many there are.
    `sessions` are those to which it may add events. It bets, like an Ask.
    """

    __slots__ = ("asks", "on_conflict", "read", "sessions", "size")

    def __init__(
        self,
        asks: Callable[[], Iterable[Query[Any]]],
        read: Callable[[list[Any]], T],
        on_conflict: Callable[[], Script[T]],
        *,
        size: int,
        sessions: Sequence[str],
    ) -> None:
        self.asks = asks
        self.read = read
        self.on_conflict = on_conflict
        self.size = size
        self.sessions = sessions

    def run_sequentially(self) -> Script[T]:
        """The same, one question after the other."""
        answers = []
        for ask in self.asks():
            rows = yield ask
            answers.append(ask.read(rows))
        return self.read(answers)

    def __iter__(self) -> Script[T]:
        return self.on_conflict()


Operation: TypeAlias = "Query[T] | Batchable[T] | UnitOfWork[T] | Pipeline[T]"


class Database(Protocol):
    """What questions are put to: a store's database, or one transaction of it."""

    def run(self, question: Operation[T]) -> T: ...


class AsyncDatabase(Protocol):
    """The same, awaited."""

    async def run(self, question: Operation[T]) -> T: ...


def run_script(question: Operation[T] | Script[T], answer: Callable[[Query[Any]], Rows]) -> T:
    """Put each question of a plan to `answer`, and give back what the plan returns."""
    plan = iter(question)
    try:
        ask = next(plan)
        while True:
            ask = plan.send(answer(ask))
    except StopIteration as end:
        result: T = end.value
        return result


async def run_script_async(
    question: Operation[T] | Script[T], answer: Callable[[Query[Any]], Awaitable[Rows]]
) -> T:
    """Put each question of a plan to an `answer` that is awaited."""
    plan = iter(question)
    try:
        ask = next(plan)
        while True:
            ask = plan.send(await answer(ask))
    except StopIteration as end:
        result: T = end.value
        return result


def one_or_many(one: str, several: str, values: tuple[str, ...] | None) -> dict[str, Any]:
    """The parameters of a filter by a set of values.

    A single one goes by a name of its own, for a line of its own: only an equality lets an
    index give the rows in order, so that a limit ends the search.
    """
    if values is not None and len(values) == 1:
        return {one: values[0], several: None}
    return {one: None, several: values}


def no_result(rows: Rows) -> None:
    """Read the rows of a question that has no answer but having been done."""


def scalar(rows: Rows) -> Any:
    """Read the one value of the one row."""
    return rows[0][0]
