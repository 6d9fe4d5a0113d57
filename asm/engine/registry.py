"""The query registry: every SQL statement under its name, read from the files below `sql/`.

A file is a sequence of blocks. A block opens with a comment line that holds only the query's
name; comment lines below it describe the query; then comes the SQL, ended by a semicolon at the
end of a line. A line that ends in `-- if name` (or `-- if one and other`) is sent only when the
caller gives those names a value. Such lines form a whole `and …`, `order by …` or `limit …`
clause, so that any SQL tool can read the file; a clause of several lines repeats its condition.

`sql/citus` has only the blocks that differ on distributed tables. Such a block may have several statements,
which are sent in one transaction, and the rows are those of the last one that returns any. With the comment
`-- for each session_id in session_ids` it is sent once for each session: `session_id` is its id, and each
column of `session_ids`, which are lists, has the values of that session only. Columns with another prefix
may be named, too: `-- for each session_id in session_ids and ensured_id`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from asm.errors import ValidationError

Dialect: TypeAlias = Literal["postgres", "sqlite"]

TABLES = ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts")
OPTIONAL_TABLES = (
    *("asm_checkpoints", "asm_checkpoint_blobs", "asm_checkpoint_writes"),
    *("asm_event_words", "asm_unindexed_events"),
)

_NAME_LINE = re.compile(r"-- ([a-z][a-z0-9_]*)")
_OPTIONAL_LINE = re.compile(r"(?P<sql>.*?\S)\s+-- if (?P<condition>.*)")
_CONDITION = re.compile(r"[a-z][a-z0-9_]*(?: and [a-z][a-z0-9_]*)*")
_DIVISION = re.compile(r"-- for each (?P<name>\w+) in (?P<columns>\w+(?: and \w+)*)")
_OPTIONAL_CLAUSE = re.compile(r"\s*(?:and|order by|limit)\b")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_WRITES = re.compile(r"\b(insert|update|delete)\b")
_RETURNS = re.compile(r"\A\s*select\b|^\s*returning\b", re.MULTILINE)
_TABLE_NAME = re.compile(
    rf"\b(?:{'|'.join(TABLES + OPTIONAL_TABLES)}|asm_append_event|_yoyo_migration|_yoyo_log)\b"
)

_PLACEHOLDER = {
    "postgres": re.compile(r"%\(([a-z][a-z0-9_]*)\)s"),
    "sqlite": re.compile(r"(?<![:\w]):([a-z][a-z0-9_]*)"),
}
_NAME_OUTSIDE_QUOTES = re.compile(rf"{_QUOTED.pattern}|(?<![:\w]):(?P<name>[a-z][a-z0-9_]*)")
_WRONG_PLACEHOLDER = {
    "postgres": re.compile(r"(?<!%)%(?!%|\([a-z][a-z0-9_]*\)s)(?:\(\w*\)\w?)?|(?<![:\w]):[a-z]"),
    "sqlite": re.compile(r"%\(|\?"),
}


class BadQuery(Exception):
    """A query file that breaks a rule of this module, or a parameter that a query does not have."""


class Statement(NamedTuple):
    """One statement, as the driver receives it."""

    sql: str
    parameters: frozenset[str]
    returns: bool
    """Whether it returns rows, judged by its first word and its `returning`."""


class RenderedQuery(NamedTuple):
    """The statements of a query for one choice of its optional lines."""

    statements: tuple[Statement, ...]
    writes: bool


class TemplateLine(NamedTuple):
    """A line of a query, and the names that must have a value for it to be sent."""

    sql: str
    requires: frozenset[str]
    where: str


class Division(NamedTuple):
    """A block is sent once for each value of these columns, as the parameter of this name."""

    name: str
    columns: tuple[str, ...]


class NamedQuery:
    """One block of a query file."""

    def __init__(
        self,
        name: str,
        where: str,
        lines: list[TemplateLine],
        dialect: Dialect,
        division: Division | None = None,
    ) -> None:
        text = "\n".join(line.sql for line in lines)
        self.name = name
        self.where = where
        self.dialect = dialect
        self.lines = lines
        self.parameters = _parameters(text, dialect)
        self.options = tuple(sorted({option for line in lines for option in line.requires}))
        self.writes = _WRITES.search(text) is not None
        self.division = division
        self.is_divided = division is not None or len(_statements(text)) > 1
        """Whether it may be more than one statement on PostgreSQL."""
        self._names = self.parameters.union(self.options)
        self._rendered: dict[tuple[bool, ...], RenderedQuery] = {}

    def accept_parameters_of(self, replaced: NamedQuery) -> None:
        """Ignore the parameters that only the query has which this one replaces."""
        self._names |= replaced.parameters.union(replaced.options)

    def render(self, params: Mapping[str, Any]) -> RenderedQuery:
        """The statements for these values. Each choice of optional lines is rendered once."""
        given = tuple([params.get(option) is not None for option in self.options]) if self.options else ()
        rendered = self._rendered.get(given)
        if rendered is None:
            rendered = self._rendered[given] = self._render(given)
        if not params.keys() <= self._names:
            unknown = ", ".join(sorted(params.keys() - self._names))
            raise BadQuery(f"{self.where}: {self.name} has no parameter {unknown}")
        return rendered

    def _render(self, given: tuple[bool, ...]) -> RenderedQuery:
        names = {option for option, is_given in zip(self.options, given, strict=True) if is_given}
        text = "\n".join(line.sql for line in self.lines if line.requires <= names)
        return RenderedQuery(tuple(self._statement(sql) for sql in _statements(text)), self.writes)

    def _statement(self, sql: str) -> Statement:
        return Statement(sql, _parameters(sql, self.dialect), returns=_RETURNS.search(sql) is not None)


class QueryRegistry(dict[str, NamedQuery]):
    """All queries of one dialect by name, with the tables in one schema, which may be `distributed`."""

    def __init__(self, dialect: Dialect, schema: str | None = None, *, distributed: bool = False) -> None:
        super().__init__(_read_cached(sql_folder(dialect) / "queries", dialect, schema))
        if distributed:
            for name, query in _read_cached(
                sql_folder("citus") / "queries", "postgres", schema, divides=True
            ).items():
                query.accept_parameters_of(self[name])
                self[name] = query


def sql_folder(dialect: str) -> Path:
    """The folder of a dialect: inside the package in an installed wheel, next to it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "sql" / dialect
    return installed if installed.is_dir() else package.parent / "sql" / dialect


def read_folder(
    folder: Path, dialect: Dialect, schema: str | None = None, *, divides: bool = False
) -> dict[str, NamedQuery]:
    """Every query of every file in a folder, by name. `divides` allows several statements in a block."""
    queries: dict[str, NamedQuery] = {}
    for file in sorted(folder.glob("*.sql")):
        for query in _blocks(file, dialect, schema):
            if dialect == "postgres" and not divides and query.is_divided:
                raise BadQuery(
                    f"{query.where}: {query.name} has two statements, or is sent for each of several values; "
                    "PostgreSQL prepares one at a time"
                )
            if query.name in queries:
                raise BadQuery(
                    f"{query.where}: the name {query.name} is used at {queries[query.name].where}, too"
                )
            queries[query.name] = query
    return queries


# Reading the files takes 20 ms, a third of the time in which a store opens.
_read_cached = lru_cache(maxsize=32)(read_folder)


def _blocks(file: Path, dialect: Dialect, schema: str | None) -> Iterator[NamedQuery]:
    name, opened_at, lines, division = "", "", list[TemplateLine](), None
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        where = f"{file.name}:{number}"
        if opening := _NAME_LINE.fullmatch(line):
            if name:
                yield _checked(name, opened_at, lines, dialect, division)
            name, opened_at, lines, division = opening.group(1), where, [], None
        elif divides := _DIVISION.fullmatch(line):
            division = Division(divides["name"], tuple(divides["columns"].split(" and ")))
        elif not line.strip() or line.startswith("--"):
            continue
        elif not name:
            raise BadQuery(f"{where}: SQL before the first query's name")
        else:
            lines.append(_line(line, f"{where}: {name}", schema))
    if name:
        yield _checked(name, opened_at, lines, dialect, division)


def _checked(
    name: str, where: str, lines: list[TemplateLine], dialect: Dialect, division: Division | None
) -> NamedQuery:
    """The query of a block, or BadQuery where the block breaks a rule."""
    if not lines:
        raise BadQuery(f"{where}: {name} has no SQL")
    if not lines[-1].sql.endswith(";"):
        raise BadQuery(f"{lines[-1].where} does not end in a semicolon")
    for line in lines:
        if wrong := _WRONG_PLACEHOLDER[dialect].search(_QUOTED.sub("''", line.sql)):
            raise BadQuery(f"{line.where} has {wrong.group()!r}, which is not a named {dialect} parameter")
    for requires, clause in groupby(lines, attrgetter("requires")):
        if requires:
            _check_optional(list(clause))
    return NamedQuery(name, where, lines, dialect, division)


def _check_optional(clause: list[TemplateLine]) -> None:
    bare = [_QUOTED.sub("''", line.sql) for line in clause]
    depths = [text.count("(") - text.count(")") for text in bare]
    if not _OPTIONAL_CLAUSE.match(bare[0]) or sum(depths) != 0:
        raise BadQuery(
            f"{clause[0].where} has an optional line that is not a whole `and …`, `order by …` or "
            "`limit …` clause: write a query of its own"
        )


def _line(line: str, where: str, schema: str | None) -> TemplateLine:
    requires: frozenset[str] = frozenset()
    if optional := _OPTIONAL_LINE.fullmatch(line):
        line, condition = optional.group("sql"), optional.group("condition").strip()
        if not _CONDITION.fullmatch(condition):
            raise BadQuery(f"{where} has a condition that is not `name` or `one and other`: {condition!r}")
        requires = frozenset(condition.split(" and "))
    bare = _QUOTED.sub("''", line)
    if "--" in bare:
        raise BadQuery(f"{where} has a comment in the middle of a line")
    if ";" in bare.rstrip().removesuffix(";"):
        raise BadQuery(f"{where} has a second statement on one line")
    if requires and bare.endswith(";"):
        raise BadQuery(f"{where} ends on an optional line: put the semicolon on a line of its own")
    return TemplateLine(_in_schema(line, schema), requires, where)


def _in_schema(line: str, schema: str | None) -> str:
    # psycopg reads placeholders inside quoted identifiers, too, so percent signs are doubled.
    return line if schema is None else in_schema(line, quote_identifier(schema).replace("%", "%%"))


def in_schema(line: str, quoted: str | None) -> str:
    """The line, in which the names of tables have a schema, which is a quoted identifier."""
    return line if quoted is None else _TABLE_NAME.sub(lambda table: f"{quoted}.{table.group()}", line)


@cache
def positional(sql: str) -> tuple[str, tuple[str, ...]]:
    """A SQLite statement with ?1, ?2, … in place of its names, and the names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if (name := found.group("name")) is None:
            return found.group()
        if name not in names:
            names.append(name)
        return f"?{names.index(name) + 1}"

    return _NAME_OUTSIDE_QUOTES.sub(number, sql), tuple(names)


def quote_identifier(name: str) -> str:
    """A name as a quoted PostgreSQL identifier."""
    if not name or "\0" in name or len(name.encode("utf-8", "replace")) > 63:
        raise ValidationError(
            f"schema {name!r:.80} is not a PostgreSQL name: give 1 to 63 bytes without a NUL character"
        )
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _parameters(sql: str, dialect: Dialect) -> frozenset[str]:
    return frozenset(_PLACEHOLDER[dialect].findall(_QUOTED.sub("''", sql)))


def _statements(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"(?<=;)\n", text) if part.strip(" ;\n"))
