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
Plan: TypeAlias = "Generator[Ask[Any], Rows, T]"


class Ask(Generic[T]):
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

    __slots__ = ("again", "instead", "params", "prepare", "query", "read")

    # What adds events may be joined by others of its kind, so it is no bare Ask.
    sessions: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        query: str,
        params: Mapping[str, Any],
        read: Callable[[Rows], T],
        instead: Callable[[], Plan[T]] | None = None,
        *,
        again: Callable[[], Plan[T]] | None = None,
        prepare: bool = True,
    ) -> None:
        self.again = again
        self.query = query
        self.params = params
        self.read = read
        self.instead = instead
        self.prepare = prepare

    def __iter__(self) -> Plan[T]:
        """Be a plan of this one question, so that `yield from` gives its answer."""
        if self.instead is not None:
            return (yield from self.instead())
        rows = yield self
        return self.read(rows)


class Steps(Generic[T]):
    """A plan that can be run again: each time it is iterated over, it is made anew.

    One that is a `snapshot` only reads, and all its questions see the database as it stood at
    the first; inside a caller's transaction they see what that one sees. `sessions` are those
    to which it may add events.
    """

    __slots__ = ("_make", "sessions", "snapshot")

    def __init__(
        self, make: Callable[[], Plan[T]], *, snapshot: bool = False, sessions: Sequence[str] = ()
    ) -> None:
        self._make = make
        self.snapshot = snapshot
        self.sessions = sessions

    def __iter__(self) -> Plan[T]:
        return self._make()


def once_more(question: Ask[T] | Steps[T] | Volley[T]) -> Ask[T] | Steps[T] | Volley[T]:
    """The question for a second attempt, when nobody knows what became of the first."""
    if isinstance(question, Ask) and question.again is not None:
        return Steps(question.again)
    return question


class Joining(Generic[T]):
    """A question that may be asked in one statement together with others of its kind.

    `together` makes one question of the parts of any number of them, and `answer` finds in
    its answer what this one wanted to know. Inside a transaction it is the plan that `alone` makes.
    `sessions` are those to which it may add events.
    """

    __slots__ = ("alone", "answer", "parts", "sessions", "size_bytes", "together")

    def __init__(
        self,
        parts: Sequence[Any],
        together: Callable[[Sequence[Any]], Ask[Any]],
        answer: Callable[[Any], T],
        alone: Callable[[], Plan[T]],
        *,
        sessions: Sequence[str],
        size_bytes: int,
    ) -> None:
        self.parts = parts
        self.together = together
        self.answer = answer
        self.alone = alone
        self.sessions = sessions
        self.size_bytes = size_bytes

    def __iter__(self) -> Plan[T]:
        return self.alone()


class Volley(Generic[T]):
    """Questions that do not wait for each other's answers: one trip to the server, one transaction.

    `read` makes the result of all their answers. `asks` gives the questions one by one, so that
    one is made ready while the server is busy with those before it; `size` is how many there are.
    `sessions` are those to which it may add events. It bets, like an Ask.
    """

    __slots__ = ("asks", "instead", "read", "sessions", "size")

    def __init__(
        self,
        asks: Callable[[], Iterable[Ask[Any]]],
        read: Callable[[list[Any]], T],
        instead: Callable[[], Plan[T]],
        *,
        size: int,
        sessions: Sequence[str],
    ) -> None:
        self.asks = asks
        self.read = read
        self.instead = instead
        self.size = size
        self.sessions = sessions

    def bet(self) -> Plan[T]:
        """The same, one question after the other."""
        answers = []
        for ask in self.asks():
            rows = yield ask
            answers.append(ask.read(rows))
        return self.read(answers)

    def __iter__(self) -> Plan[T]:
        return self.instead()


Question: TypeAlias = "Ask[T] | Joining[T] | Steps[T] | Volley[T]"


class Database(Protocol):
    """What questions are put to: a store's database, or one transaction of it."""

    def run(self, question: Question[T]) -> T: ...


class AsyncDatabase(Protocol):
    """The same, awaited."""

    async def run(self, question: Question[T]) -> T: ...


def drive(question: Question[T] | Plan[T], answer: Callable[[Ask[Any]], Rows]) -> T:
    """Put each question of a plan to `answer`, and give back what the plan returns."""
    plan = iter(question)
    try:
        ask = next(plan)
        while True:
            ask = plan.send(answer(ask))
    except StopIteration as end:
        result: T = end.value
        return result


async def drive_async(question: Question[T] | Plan[T], answer: Callable[[Ask[Any]], Awaitable[Rows]]) -> T:
    """Put each question of a plan to an `answer` that is awaited."""
    plan = iter(question)
    try:
        ask = next(plan)
        while True:
            ask = plan.send(await answer(ask))
    except StopIteration as end:
        result: T = end.value
        return result


def one_or_several(one: str, several: str, values: tuple[str, ...] | None) -> dict[str, Any]:
    """The parameters of a filter by a set of values.

    A single one goes by a name of its own, for a line of its own: only an equality lets an
    index give the rows in order, so that a limit ends the search.
    """
    if values is not None and len(values) == 1:
        return {one: values[0], several: None}
    return {one: None, several: values}


def nothing(rows: Rows) -> None:
    """Read the rows of a question that has no answer but having been done."""


def first(rows: Rows) -> Any:
    """Read the one value of the one row."""
    return rows[0][0]
