"""A lone statement's way to PostgreSQL and back, without the driver's cursor.

The cursor finds out for every call what stands fast for every statement: how its values are
spelled, and what its rows are made of. Here a statement is numbered once, prepared once for a
connection, and its values are packed as the protocol takes them, lists as binary arrays.
libpq and the loaders of rows are psycopg's own.

Only a connection that nobody else can use at the moment goes this way: one that the pool has
lent to us, outside of any transaction of a caller.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from struct import Struct
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import abc, pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.string import TextBinaryLoader
from psycopg.waiting import Ready, Wait

from asm.engine.script import Rows

T = TypeVar("T")
PQGen: TypeAlias = Generator[Any, Any, T]
"""For the connection to wait on: whether it wants to read or to write, and at the end what came."""
Buffer: TypeAlias = bytes | None

_PLACEHOLDER = re.compile(r"%\((\w+)\)[sbt]|%%")
_SUCCESS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_BINARY = pq.Format.BINARY
_COUNTER = itertools.count()
_STALE_STATEMENT = (b"26000", b"0A000")
"""No statement of that name: somebody said `deallocate all`. Or its plan no longer fits the tables."""


class FastPath:
    """The way of one connection, with the statements that were prepared on it."""

    __slots__ = ("_loaders", "_named", "_pgconn", "prepares")

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._named: dict[str, bytes] = {}
        self._loaders: dict[str, abc.Transformer] = {}
        self.prepares = True
        """Whether what is prepared under a name is found there again."""

    @property
    def speaks_utf8(self) -> bool:
        """Whether the connection is set to what values are packed as. An application may set another."""
        return self._pgconn.parameter_status(b"client_encoding") == b"UTF8"

    def ask(self, sql: str, params: Mapping[str, Any], *, prepare: bool) -> PQGen[Rows]:
        """Send a statement with its values, and read its rows."""
        prepare = prepare and self.prepares
        is_old = prepare and sql in self._named
        if prepare and not is_old:
            name = self._send_prepare(sql)
            _check((yield from self._result()))
            self._named[sql] = name
        self._send(sql, params, self._named[sql] if prepare else None)
        result = yield from self._result()
        if is_old and _is_stale(result):
            self._forget(sql)
            return (yield from self.ask(sql, params, prepare=True))
        return self._rows(sql, _check(result))

    def ask_all(
        self, questions: Iterable[tuple[str, Mapping[str, Any]]], *, prepare: bool
    ) -> PQGen[list[Rows]]:
        """Send statements in one trip and one transaction, and read the rows of each.

        The server begins with the first while the next is made ready.
        """
        prepare = prepare and self.prepares
        pgconn, sent, named = self._pgconn, list[str | None](), dict[str, bytes]()
        pgconn.enter_pipeline_mode()
        for sql, params in questions:
            name = named.get(sql, self._named.get(sql)) if prepare else None
            if prepare and name is None:
                name = named[sql] = self._send_prepare(sql)
                sent.append(None)
            self._send(sql, params, name)
            sent.append(sql)
            pgconn.flush()
        pgconn.pipeline_sync()
        results = []
        for _ in sent:
            result = yield from self._result()
            results.append(result)
        end = yield from self._next()
        while end is not None and end.status != pq.ExecStatus.PIPELINE_SYNC:
            # Here, too: what fails at the commit has no statement of its own.
            results.append(end)
            end = yield from self._next()
        pgconn.exit_pipeline_mode()
        if self._named.keys() & sent and any(map(_is_stale, results)):
            for sql in filter(None, sent):
                self._forget(sql)
            return (yield from self.ask_all(questions, prepare=True))
        for result in results:
            _check(result)
        self._named.update(named)
        return [
            self._rows(sql, result) for sql, result in zip(sent, results, strict=False) if sql is not None
        ]

    def _forget(self, sql: str) -> None:
        self._named.pop(sql, None)
        self._loaders.pop(sql, None)

    def _send_prepare(self, sql: str) -> bytes:
        # Counted on, and never by what was forgotten: another statement may have that name.
        name = f"asm_{next(_COUNTER)}".encode()
        self._pgconn.send_prepare(name, positional_statement(sql).text)
        return name

    def _send(self, sql: str, params: Mapping[str, Any], name: bytes | None) -> None:
        statement = positional_statement(sql)
        values = [
            None if value is None else _PACK[type(value)](value)
            for value in map(params.__getitem__, statement.names)
        ]
        if name is None:
            self._pgconn.send_query_params(
                statement.text, values, param_formats=statement.formats, result_format=_BINARY
            )
        else:
            self._pgconn.send_query_prepared(name, values, statement.formats, result_format=_BINARY)

    def _result(self) -> PQGen[pq.abc.PGresult]:
        """The one result of a statement."""
        answer: pq.abc.PGresult | None = None
        while (result := (yield from self._next())) is not None:
            # Rows are no promise: what fails at the commit is told after them.
            if answer is None or answer.status in _SUCCESS:
                answer = result
        if answer is None:
            raise psycopg.OperationalError(self._pgconn.get_error_message())
        return answer

    def _next(self) -> PQGen[pq.abc.PGresult | None]:
        # What the driver's generators do, for one statement: 7 µs less of 300.
        pgconn = self._pgconn
        while pgconn.flush():
            # Stopped and gone on with, the driver sends nothing at first.
            if (yield Wait.RW) != Ready.W:
                pgconn.consume_input()
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        return pgconn.get_result()

    def _rows(self, sql: str, result: pq.abc.PGresult) -> Rows:
        if not result.ntuples:
            return []
        loader = self._loaders.get(sql)
        if loader is not None:
            loader.set_pgresult(result, set_loaders=False)
        else:
            loader = Transformer(_CONTEXT)
            loader.set_pgresult(result)
            if sql in self._named:
                self._loaders[sql] = loader
        rows = loader.load_rows(0, result.ntuples, tuple)
        # Kept for its loaders, not for megabytes of rows that are read.
        loader.set_pgresult(None, set_loaders=False)
        return rows


class _Context(NamedTuple):
    """What psycopg asks for when it is to read rows. It knows of no connection, and so of no time zone."""

    adapters: AdaptersMap
    connection: None = None


def _context() -> _Context:
    adapters = AdaptersMap(psycopg.adapters)
    # A document as it stands, for documents.py to read.
    adapters.register_loader("json", TextBinaryLoader)
    return _Context(adapters)


_CONTEXT = _context()


class PositionalStatement(NamedTuple):
    """A statement as libpq wants it: $1, $2, … for names."""

    text: bytes
    names: tuple[str, ...]
    formats: list[pq.Format]


@cache
def positional_statement(sql: str) -> PositionalStatement:
    # A name that stands twice is one parameter, as it is for the driver's cursor.
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        name = found.group(1)
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = _PLACEHOLDER.sub(number, sql).encode()
    return PositionalStatement(text, tuple(names), [_BINARY] * len(names))


def _check(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status in _SUCCESS:
        return result
    if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
        # libpq's own words, not the server's: the connection is gone.
        raise psycopg.OperationalError(result.get_error_message())
    raise psycopg.errors.error_from_result(result)


def _is_stale(result: pq.abc.PGresult) -> bool:
    return (
        result.status not in _SUCCESS and result.error_field(pq.DiagnosticField.SQLSTATE) in _STALE_STATEMENT
    )


# Values as the protocol takes them. The statement says what each of them is: by the column it
# goes to, or by a cast.


def _array(values: Sequence[Any]) -> bytes:
    """A list or a tuple of one type, nulls among them, as a binary array."""
    kind = next((type(value) for value in values if value is not None), str)
    oid = _OID[kind]
    head = _ARRAY_HEAD.pack(1 if values else 0, 1, oid)
    if not values:
        return head
    head += _ARRAY_SIZE.pack(len(values), 1)
    if values.count(values[0]) == len(values):
        # As many columns of a batch are: one session, one run, one type.
        return head + _array_item(values[0]) * len(values)
    if None in values:
        return head + b"".join(map(_array_item, values))
    if oid == _TEXT:
        return head + _text_items(list(map(str.encode, values)))
    if oid == _TIMESTAMPTZ:
        values = [_microseconds(value) for value in values]
    return head + b"".join(map(_FIXED_WIDTH[kind], values))


def _text_items(texts: Sequence[bytes]) -> bytes:
    lengths = list(map(len, texts))
    if lengths.count(lengths[0]) == len(lengths):
        length = _INT32.pack(lengths[0])
        return length + length.join(texts)
    return b"".join([part for text in texts for part in (_INT32.pack(len(text)), text)])


def _array_item(value: Any) -> bytes:
    if value is None:
        return _NULL
    data = _PACK[type(value)](value)
    return _INT32.pack(len(data)) + data


def _microseconds(value: datetime) -> int:
    # A subclass may have another idea of what a difference is.
    return datetime.__sub__(value, _EPOCH) // _MICROSECOND


def _timestamp(value: datetime) -> bytes:
    return _INT64.pack(_microseconds(value))


class _ByType(dict[type, T]):
    """What is known for a type holds for those derived from it: an enum of strings is a string."""

    def __missing__(self, kind: type) -> T:
        found = next((self[base] for base in kind.__mro__[1:] if base in self), None)
        if found is None:
            raise TypeError(f"no value of type {kind.__name__} goes to PostgreSQL")
        self[kind] = found
        return found


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ARRAY_HEAD, _ARRAY_SIZE = Struct("!iiI"), Struct("!ii")
_INT32, _INT64, _FLOAT64 = Struct("!i"), Struct("!q"), Struct("!d")
_NULL = _INT32.pack(-1)
_PACK = _ByType(
    {
        str: str.encode,
        int: _INT64.pack,
        float: _FLOAT64.pack,
        datetime: _timestamp,
        list: _array,
        tuple: _array,
    }
)
_WITH_INT64, _WITH_FLOAT64 = (partial(Struct(render).pack, 8) for render in ("!iq", "!id"))
_FIXED_WIDTH = _ByType({int: _WITH_INT64, datetime: _WITH_INT64, float: _WITH_FLOAT64})
"""Values of one width, with that before them, as elements of an array."""
_TEXT, _INT8, _FLOAT8, _TIMESTAMPTZ = 25, 20, 701, 1184
_OID = _ByType({str: _TEXT, int: _INT8, float: _FLOAT8, datetime: _TIMESTAMPTZ})
