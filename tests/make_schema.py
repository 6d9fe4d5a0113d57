"""What the migrations make, as text: `sql/<dialect>/schema.sql`, for people who read schemas.

`make schema` migrates an empty database of each kind and writes down what is there then. PostgreSQL is
read through its catalog and not through pg_dump, whose text changes from version to version.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

import asm
from asm import dsn as dsns
from asm.engine.registry import Dialect, sql_folder
from tests.servers import Server, installations

HEADER = "-- The tables as they stand today, generated from the migrations by `make schema`, never by hand.\n"


def main() -> None:
    with TemporaryDirectory() as folder:
        write("sqlite", f"sqlite:///{folder}/schema.db")
    with Server(installations()[0], settings={"fsync": "off"}) as server:
        write("postgres", server.dsn())


def write(dialect: Dialect, dsn: str) -> None:
    asm.migrate(dsn)
    schema_file(dialect).write_text(schema_of(dsn), "utf-8")


def schema_file(dialect: Dialect) -> Path:
    return sql_folder(dialect) / "schema.sql"


def schema_of(dsn: str) -> str:
    """Our tables in a database, their constraints, storage parameters and indexes; none of yoyo's."""
    place = dsns.parse_dsn(dsn)
    statements: Callable[[str], Iterator[str]] = {"sqlite": _sqlite, "postgres": _postgres}[place.dialect]
    return "\n".join([HEADER, *(f"{statement};\n" for statement in statements(place.address))])


def _sqlite(path: str) -> Iterator[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "select sql from sqlite_master where tbl_name like 'asm|_%' escape '|' and sql is not null"
            " order by tbl_name, type = 'index', name"
        )
        # SQLite keeps the text of each statement but its first words, which it puts in capitals.
        yield from (
            re.sub(r"^CREATE( UNIQUE)? \w+", lambda first: first[0].lower(), text) for (text,) in rows
        )


def _postgres(conninfo: str) -> Iterator[str]:
    with psycopg.connect(conninfo) as connection:
        tables = connection.execute(_TABLES).fetchall()
        for oid, name, options in tables:
            parts = [_column(*row) for row in connection.execute(_COLUMNS, [oid])]
            parts += [_constraint(*row) for row in connection.execute(_CONSTRAINTS, [oid])]
            yield _table(name, parts, options)
            yield from (_index(text) for (text,) in connection.execute(_INDEXES, [oid]))


_TABLES = """
select oid, quote_ident(relname), reloptions
  from pg_class
 where relnamespace = 'public'::regnamespace
   and relkind in ('r', 'p')
   and relname like 'asm\\_%'
 order by relname collate "C"
"""
_COLUMNS = """
select quote_ident(attname), format_type(atttypid, atttypmod), quote_ident(collname), attnotnull,
       pg_get_expr(adbin, adrelid), attidentity::text, attgenerated::text
  from pg_attribute
  join pg_type on pg_type.oid = atttypid
  left join pg_collation on pg_collation.oid = attcollation and attcollation <> typcollation
  left join pg_attrdef on adrelid = attrelid and adnum = attnum
 where attrelid = %s
   and attnum > 0
   and not attisdropped
 order by attnum
"""
# Newer versions list each `not null` as a constraint, too.
_CONSTRAINTS = """
select quote_ident(conname), pg_get_constraintdef(oid, true)
  from pg_constraint
 where conrelid = %s
   and contype <> 'n'
 order by contype <> 'p', conname collate "C"
"""
_INDEXES = """
select pg_get_indexdef(indexrelid, 0, true)
  from pg_index
  join pg_class on pg_class.oid = indexrelid
 where indrelid = %s
   and not exists (select from pg_constraint where conindid = indexrelid)
 order by relname collate "C"
"""


def _table(name: str, parts: list[str], options: list[str] | None) -> str:
    body = ",\n".join(f"    {part}" for part in parts)
    storage = ", ".join(option.replace("=", " = ", 1) for option in options or [])
    return f"create table {name} (\n{body}\n)" + (f"\nwith ({storage})" if storage else "")


def _column(
    name: str, type: str, collation: str | None, required: bool, default: Any, identity: str, generated: str
) -> str:
    words = [name, type.replace("timestamp with time zone", "timestamptz")]
    if collation:
        words.append(f"collate {collation}")
    if required:
        words.append("not null")
    if identity:
        words.append(f"generated {'always' if identity == 'a' else 'by default'} as identity")
    if generated:
        words.append(f"generated always as ({default}) {'stored' if generated == 's' else 'virtual'}")
    elif default is not None:
        words.append(f"default {default}")
    return " ".join(words)


def _constraint(name: str, definition: str) -> str:
    return f"constraint {name} {_quietly(definition)}"


def _index(definition: str) -> str:
    return _quietly(definition).replace(" using btree", "").replace(" where ", "\n where ", 1)


def _quietly(text: str) -> str:
    """The text in lower case, but for what is quoted in it."""
    pieces = re.split(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")""", text)
    return "".join(piece if quoted else piece.lower() for piece, quoted in _alternating(pieces))


def _alternating(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    return ((piece, bool(number % 2)) for number, piece in enumerate(pieces))


if __name__ == "__main__":
    main()
