"""A statement's way to PostgreSQL and back without the driver's cursor.

psycopg's cursor finds out for every call what this module finds out once for every statement.
For a single append that is 70 µs of client CPU instead of 120 (`bench/thin.py`); libpq, the
values' dumpers and loaders, and the waiting are psycopg's own.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import generators, pq
from psycopg.adapt import AdaptersMap, PyFormat, Transformer

from asm.plan import Rows

Sent: TypeAlias = Generator[Any, Any, list[pq.abc.PGresult]]

_PLACEHOLDER = re.compile(r"%\((\w+)\)([sbt])|%%")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class Wire:
    """One connection's way, with the statements that were prepared on it."""

    def __init__(self, connection: Any, adapters: AdaptersMap) -> None:
        self.connection = connection
        self.adapters = adapters
        self._pgconn: pq.abc.PGconn = connection.pgconn
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}

    def ask(self, sql: str, values: Mapping[str, Any], *, prepare: bool) -> Generator[Any, Any, Rows]:
        """Send a statement, and read its rows: for the connection to wait on."""
        statement = _numbered(sql)
        transformer = Transformer(self)
        dumped = transformer.dump_sequence([values[name] for name in statement.names], statement.formats)
        types, formats = transformer.types or (), transformer.formats
        if prepare:
            name = self._prepared.get((sql, types))
            if name is None:
                name = yield from self._prepare(sql, statement.text, types)
            self._pgconn.send_query_prepared(name, dumped, formats, result_format=pq.Format.BINARY)
        else:
            self._pgconn.send_query_params(statement.text, dumped, types, formats, pq.Format.BINARY)
        result = yield from self._result()
        if not result.ntuples:
            return []
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _prepare(self, sql: str, text: bytes, types: Sequence[int]) -> Generator[Any, Any, bytes]:
        name = f"asm_{len(self._prepared)}".encode()
        self._pgconn.send_prepare(name, text, types)
        yield from self._result()
        self._prepared[sql, tuple(types)] = name
        return name

    def _result(self) -> Generator[Any, Any, pq.abc.PGresult]:
        result: pq.abc.PGresult = (yield from generators.execute(self._pgconn))[-1]
        if result.status not in _GOOD:
            raise _error(result)
        return result


class _Numbered(NamedTuple):
    """A statement as libpq wants it: $1, $2, … for names."""

    text: bytes
    names: tuple[str, ...]
    formats: list[PyFormat]


@cache
def _numbered(sql: str) -> _Numbered:
    # A name that stands twice is one parameter, as it is for the driver's cursor.
    letters: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        name, letter = found.groups()
        if name is None:
            return "%"
        letters.setdefault(name, letter)
        return f"${list(letters).index(name) + 1}"

    text = _PLACEHOLDER.sub(number, sql).encode()
    return _Numbered(text, tuple(letters), [_FORMATS[letter] for letter in letters.values()])


def _error(result: pq.abc.PGresult) -> psycopg.Error:
    if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
        # libpq's own words, not the server's: the connection is gone.
        return psycopg.OperationalError(result.get_error_message())
    return psycopg.errors.error_from_result(result)
