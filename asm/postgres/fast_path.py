"""Executes statements on libpq directly, without the driver's cursor.

A cursor works out for every call how to encode the values and what the rows are made of, which does not
change between two executions of a statement. Here the placeholders of a statement are numbered once,
the statement is prepared once for a connection, and its values are encoded in the binary format, lists as
binary arrays. This halves the client's CPU time of a call (`bench/single_append.py`).

Only a connection that no other caller can use takes the fast path: one that is checked out of the pool
and not in a transaction of the application.

Beside psycopg's documented API this package uses `psycopg.adapt.Transformer`, `psycopg.waiting.Wait` and
`Ready`, `errors.error_from_result`, and in async_connections.py `errors._WaitTimeout` and the `timeout`
of `Connection.wait` (since 3.3.6), in client_state.py the connection's `_adapters` and lists of handlers,
and in async_session_reset.py the pool's `_configure` and the connection's `_expire_at`. They exist in
every release of psycopg 3.3 since then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from operator import methodcaller
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import abc, pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.string import TextBinaryLoader
from psycopg.waiting import Ready, Wait

from asm.engine.registry import QueryRegistry
from asm.engine.script import Pipeline, Rows
from asm.postgres.distributed import Part, merged, parts

T = TypeVar("T")
PQGen: TypeAlias = Generator[Any, Any, T]
"""As in psycopg: yields whether it wants to read or to write, and returns a result."""
SQL: TypeAlias = tuple[str, Mapping[str, Any]]
"""A statement with its values."""

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_SUCCESS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_BINARY = pq.Format.BINARY
_COUNTER = itertools.count()
FLUSH_FROM_BYTES = 64 * 1024
"""A statement of a pipeline this long is sent at once. Each of the shorter ones would take a system call."""

_STALE_STATEMENT = (b"26000", b"0A000")
"""No statement of that name, after `deallocate all`; or its plan no longer fits the tables."""

_BEGIN: SQL = ("begin isolation level read committed", {})
_COMMIT: SQL = ("commit", {})


class FastPath:
    """The fast path of one connection, with the statements that were prepared on it."""

    __slots__ = ("_loaders", "_names", "_pgconn", "prepares")

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._names: dict[str, bytes] = {}
        self._loaders: dict[str, abc.Transformer] = {}
        self.prepares = True
        """Whether a prepared statement is found again, which a pooler does not guarantee."""

    def execute(self, sql: str, params: Mapping[str, Any], prepare: bool) -> PQGen[Rows]:
        """Send a statement with its values, and read its rows."""
        prepare = prepare and self.prepares
        name = self._names.get(sql) if prepare else None
        if prepare and name is None:
            name = self._send_prepare(sql)
            _check((yield from self._fetch()))
            self._send(sql, params, name)
            result = yield from self._fetch()
            self._names[sql] = name
        else:
            self._send(sql, params, name)
            result = yield from self._fetch()
            if name is not None and result.status not in _SUCCESS and _is_stale(result):
                self._forget(sql)
                return (yield from self.execute(sql, params, True))
        if result.status not in _SUCCESS:
            _check(result)
        return self._rows(sql, result) if result.ntuples else []

    def execute_pipeline(
        self, statements: Iterable[SQL], prepare: bool, *, commits: bool = True
    ) -> PQGen[list[Rows]]:
        """Send statements in one round trip and one transaction, and read the rows of each.

        Unless it `commits`, the transaction is still open afterwards; but not if a statement failed.
        The server executes a long one while the next is encoded. The transaction is explicit, because
        distributed PostgreSQL executes the statements of a pipeline's implicit transaction one by one.
        """
        prepare = prepare and self.prepares
        sent, names = yield from self._send_pipeline(statements, prepare, [_COMMIT] if commits else [])
        results = yield from self._fetch_pipeline(len(sent))
        status = self._pgconn.transaction_status
        if status != pq.TransactionStatus.IDLE and (commits or status != pq.TransactionStatus.INTRANS):
            yield from self._rollback()
        if self._names.keys() & sent and any(map(_is_stale, results)):
            for statement in filter(None, sent):
                self._forget(statement)
            return (yield from self.execute_pipeline(statements, True, commits=commits))
        # A statement stays prepared when the transaction fails. Its result precedes that of its execution.
        for next_sql, result in zip(sent[1:], results, strict=False):
            if next_sql is not None and next_sql in names and result.status in _SUCCESS:
                self._names[next_sql] = names[next_sql]
        for result in results:
            _check(result)
        rows = [
            self._rows(sql, result) for sql, result in zip(sent, results, strict=False) if sql is not None
        ]
        return rows[1:-1] if commits else rows[1:]

    def _send_pipeline(
        self, statements: Iterable[SQL], prepare: bool, last: Sequence[SQL]
    ) -> PQGen[tuple[list[str | None], dict[str, bytes]]]:
        sent, names = list[str | None](), dict[str, bytes]()
        self._pgconn.enter_pipeline_mode()
        for sql, params in itertools.chain([_BEGIN], statements, last):
            name = names.get(sql, self._names.get(sql)) if prepare else None
            if prepare and name is None:
                name = names[sql] = self._send_prepare(sql)
                sent.append(None)
            size_bytes = self._send(sql, params, name)
            sent.append(sql)
            if size_bytes >= FLUSH_FROM_BYTES:
                # The socket takes less at once, and the server begins when it has all of the statement.
                yield from self._flush()
        self._pgconn.pipeline_sync()
        return sent, names

    def _flush(self) -> PQGen[None]:
        while self._pgconn.flush():
            # After a timeout psycopg resumes the generator by sending None.
            if (yield Wait.RW) != Ready.W:
                self._pgconn.consume_input()

    def _fetch_pipeline(self, size: int) -> PQGen[list[pq.abc.PGresult]]:
        results = []
        for _ in range(size):
            result = yield from self._fetch()
            results.append(result)
        while (end := (yield from self._fetch_next())) is not None:
            if end.status == pq.ExecStatus.PIPELINE_SYNC:
                break
            results.append(end)
        if end is None:
            # The connection was lost, and the first error says why.
            for result in results:
                _check(result)
            raise psycopg.OperationalError("the connection was lost before the end of a pipeline")
        self._pgconn.exit_pipeline_mode()
        return results

    def _rollback(self) -> PQGen[None]:
        self._pgconn.send_query(b"rollback")
        yield from self._fetch()

    def _forget(self, sql: str) -> None:
        self._names.pop(sql, None)
        self._loaders.pop(sql, None)

    def _send_prepare(self, sql: str) -> bytes:
        # A number is never used again: a statement that is forgotten here may still exist on the server.
        name = f"asm_{next(_COUNTER)}".encode()
        self._pgconn.send_prepare(name, positional_statement(sql).text)
        return name

    def _send(self, sql: str, params: Mapping[str, Any], name: bytes | None) -> int:
        """Send a statement, and return the size of its values in bytes. A short one stays in a buffer."""
        statement = positional_statement(sql)
        values: list[bytes | None] = []
        for parameter in statement.names:
            value = params[parameter]
            values.append(None if value is None else _ENCODE[type(value)](value))
        if name is None:
            self._pgconn.send_query_params(
                statement.text, values, param_formats=statement.formats, result_format=_BINARY
            )
        else:
            self._pgconn.send_query_prepared(name, values, statement.formats, result_format=_BINARY)
        return sum([len(value) for value in values if value])

    def _fetch(self) -> PQGen[pq.abc.PGresult]:
        """The one result of a statement."""
        found: pq.abc.PGresult | None = None
        pgconn = self._pgconn
        # What psycopg's generators do, for one statement: 7 µs less of 300.
        if pgconn.flush():
            yield from self._flush()
        while True:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            # An error that occurs at the commit arrives after the rows.
            if found is None or found.status in _SUCCESS:
                found = result
        if found is None:
            raise psycopg.OperationalError(pgconn.get_error_message())
        return found

    def _fetch_next(self) -> PQGen[pq.abc.PGresult | None]:
        pgconn = self._pgconn
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
            if sql in self._names:
                self._loaders[sql] = loader
        rows = loader.load_rows(0, result.ntuples, tuple)
        # The transformer is kept for its loaders, and would keep the rows in memory.
        loader.set_pgresult(None, set_loaders=False)
        return rows


class PipelineRun(Generic[T]):
    """One execution of a Pipeline: iterated over, it gives the statements; then `read` takes their rows."""

    def __init__(self, queries: QueryRegistry, pipeline: Pipeline[T]) -> None:
        self._queries = queries
        self._pipeline = pipeline
        self._readers: list[Callable[[Rows], Any]] = []

    def __iter__(self) -> Iterator[SQL]:
        self._readers = []
        for query in self._pipeline.queries():
            self._readers.append(query.read)
            yield self._queries[query.query].render(query.params).statements[0].sql, query.params

    def read(self, rows: Sequence[Rows]) -> T:
        return self._pipeline.read([read(each) for read, each in zip(self._readers, rows, strict=True)])


class DividedPipelineRun(PipelineRun[T]):
    """The same on distributed tables, where a query may be several statements."""

    def __iter__(self) -> Iterator[SQL]:
        self._readers, self._parts = [], list[list[Part]]()
        for query in self._pipeline.queries():
            found = list(parts(self._queries[query.query], query.params))
            self._readers.append(query.read)
            self._parts.append(found)
            for part in found:
                yield part.sql, part.params

    def read(self, rows: Sequence[Rows]) -> T:
        each = iter(rows)
        return super().read([merged([(part, next(each)) for part in found]) for found in self._parts])


class _Context(NamedTuple):
    """What psycopg reads rows with. Without a connection, times have no time zone but UTC."""

    adapters: AdaptersMap
    connection: None = None


def _context() -> _Context:
    adapters = AdaptersMap(psycopg.adapters)
    # The text of a document, for documents.py to parse.
    adapters.register_loader("json", TextBinaryLoader)
    return _Context(adapters)


_CONTEXT = _context()


class PositionalStatement(NamedTuple):
    """A statement as libpq takes it: $1, $2, … for names."""

    text: bytes
    names: tuple[str, ...]
    formats: list[pq.Format]


@cache
def positional_statement(sql: str) -> PositionalStatement:
    # A name that occurs twice is one parameter, as with psycopg's cursor.
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


def _check(result: pq.abc.PGresult) -> None:
    if result.status in _SUCCESS:
        return
    if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
        # An error of libpq and not of the server: the connection is lost.
        raise psycopg.OperationalError(result.get_error_message())
    raise psycopg.errors.error_from_result(result)


def _is_stale(result: pq.abc.PGresult) -> bool:
    return (
        result.status not in _SUCCESS and result.error_field(pq.DiagnosticField.SQLSTATE) in _STALE_STATEMENT
    )


# Values in the binary format. Their types follow from the statement: from the column a value is
# compared with or stored in, or from a cast.


def _array(values: Sequence[Any]) -> bytes:
    """A list or a tuple of values of one type or None, as a binary array."""
    kind = next((type(value) for value in values if value is not None), str)
    oid = _OID[kind]
    head = _ARRAY_HEAD.pack(1 if values else 0, 1, oid)
    if not values:
        return head
    head += _ARRAY_SIZE.pack(len(values), 1)
    if values.count(values[0]) == len(values):
        # Many columns of a batch hold one value: a session, a run, a type.
        return head + _array_item(values[0]) * len(values)
    if None in values:
        return head + b"".join(map(_array_item, values))
    if oid == _TEXT:
        return head + _items(list(map(str.encode, values)))
    if oid == _BYTEA:
        return head + _items(values)
    if oid == _TIMESTAMPTZ:
        values = [(value - _EPOCH) // _MICROSECOND for value in values]
    return head + b"".join(map(_FIXED_WIDTH[kind], values))


def typed_array(values: Sequence[Any], type_name: str, encoding: str) -> bytes:
    """A list of values of a type of ARRAY_TYPES or None, as a binary array; all may be None."""
    oid, encode = ARRAY_TYPES[type_name]
    if oid == _TEXT:
        encode = methodcaller("encode", encoding)
    head = _ARRAY_HEAD.pack(1 if values else 0, 1, oid)
    if not values:
        return head
    items = [None if value is None else encode(value) for value in values]
    with_lengths = [_NULL if item is None else _INT32.pack(len(item)) + item for item in items]
    return head + _ARRAY_SIZE.pack(len(values), 1) + b"".join(with_lengths)


def _items(items: Sequence[bytes]) -> bytes:
    lengths = list(map(len, items))
    if lengths.count(lengths[0]) == len(lengths):
        length = _INT32.pack(lengths[0])
        return length + length.join(items)
    return b"".join([part for item in items for part in (_INT32.pack(len(item)), item)])


def _array_item(value: Any) -> bytes:
    if value is None:
        return _NULL
    data = _ENCODE[type(value)](value)
    return _INT32.pack(len(data)) + data


def _timestamp(value: datetime) -> bytes:
    return _INT64.pack((value - _EPOCH) // _MICROSECOND)


class _ByType(dict[type, T]):
    """An entry for a type holds for its subclasses, too: an enum of strings is a string."""

    def __missing__(self, kind: type) -> T:
        found = next((self[base] for base in kind.__mro__[1:] if base in self), None)
        if found is None:
            raise TypeError(f"cannot send a value of type {kind.__name__} to PostgreSQL")
        self[kind] = found
        return found


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ARRAY_HEAD, _ARRAY_SIZE = Struct("!iiI"), Struct("!ii")
_INT32, _INT64, _FLOAT64 = Struct("!i"), Struct("!q"), Struct("!d")
_NULL = _INT32.pack(-1)
_ENCODE: _ByType[Callable[[Any], bytes]] = _ByType(
    {
        str: str.encode,
        bytes: bytes,
        int: _INT64.pack,
        float: _FLOAT64.pack,
        datetime: _timestamp,
        list: _array,
        tuple: _array,
    }
)
_WITH_INT64, _WITH_FLOAT64 = (partial(Struct(format).pack, 8) for format in ("!iq", "!id"))
_FIXED_WIDTH = _ByType({int: _WITH_INT64, datetime: _WITH_INT64, float: _WITH_FLOAT64})
"""Encoders of array items of a fixed width, which precedes each of them."""
_TEXT, _BYTEA, _INT8, _FLOAT8, _TIMESTAMPTZ = 25, 17, 20, 701, 1184
_OID = _ByType({str: _TEXT, bytes: _BYTEA, int: _INT8, float: _FLOAT8, datetime: _TIMESTAMPTZ})
ARRAY_TYPES: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    "text": (_TEXT, str.encode),
    "bytea": (_BYTEA, bytes),
    "bigint": (_INT8, _INT64.pack),
    "double precision": (_FLOAT8, _FLOAT64.pack),
    "timestamptz": (_TIMESTAMPTZ, _timestamp),
}
"""The types of the arrays in our statements, with the encoders of their items."""
