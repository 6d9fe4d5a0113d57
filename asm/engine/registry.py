"""The query registry: every statement by its name, as the files under `sql/` have it.

A file is a run of blocks. A block opens with a comment line that holds only the query's
name; comment lines under it say what it does; then comes the SQL, ended by a semicolon at
the end of a line. A line that ends in `-- if name` (or `-- if one and other`) is sent only
when the caller gives those names a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from asm.errors import ValidationError

Dialect: TypeAlias = Literal["postgres", "sqlite"]

TABLES = ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts")

_NAME_LINE = re.compile(r"-- ([a-z][a-z0-9_]*)")
_OPTIONAL_LINE = re.compile(r"(?P<sql>.*?\S)\s+-- if (?P<condition>.*)")
_CONDITION = re.compile(r"[a-z][a-z0-9_]*(?: and [a-z][a-z0-9_]*)*")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_WRITES = re.compile(r"\b(insert|update|delete)\b")
_RETURNS = re.compile(r"\A\s*select\b|^\s*returning\b", re.MULTILINE)
_TABLE_NAME = re.compile(rf"\b(?:{'|'.join(TABLES)}|_yoyo_migration|_yoyo_log)\b")
_NULL = "\0"

_PLACEHOLDER = {
    "postgres": re.compile(r"%\(([a-z][a-z0-9_]*)\)[sbt]"),
    "sqlite": re.compile(r"(?<![:\w]):([a-z][a-z0-9_]*)"),
}
_NAME_OUTSIDE_QUOTES = re.compile(rf"{_QUOTED.pattern}|(?<![:\w]):(?P<name>[a-z][a-z0-9_]*)")
_WRONG_PLACEHOLDER = {
    "postgres": re.compile(r"(?<!%)%(?![%(])|(?<![:\w]):[a-z]"),
    "sqlite": re.compile(r"%\(|\?"),
}


class BadQuery(Exception):
    """A query file that cannot be read as one: our own mistake, found when it is loaded."""


class Statement(NamedTuple):
    """What the driver gets."""

    sql: str
    parameters: frozenset[str]
    returns: bool
    """Whether it gives rows, as far as its beginning and its `returning` tell: SQLite asks."""


class RenderedQuery(NamedTuple):
    """A query with its optional lines decided."""

    statements: tuple[Statement, ...]
    writes: bool


class TemplateLine(NamedTuple):
    sql: str
    requires: frozenset[str]


class NamedQuery:
    """One block of a file."""

    def __init__(self, name: str, where: str, lines: list[TemplateLine], dialect: Dialect) -> None:
        text = "\n".join(line.sql for line in lines)
        if dialect == "postgres" and len(_statements(text)) > 1:
            raise BadQuery(f"{where}: {name} has two statements; PostgreSQL takes one at a time")
        if misplaced := _WRONG_PLACEHOLDER[dialect].search(_QUOTED.sub("''", text)):
            raise BadQuery(
                f"{where}: {name} has {misplaced.group()!r}, which is no named {dialect} parameter"
            )
        self.name = name
        self.where = where
        self.dialect = dialect
        self.lines = lines
        self.parameters = frozenset(_PLACEHOLDER[dialect].findall(_QUOTED.sub("''", text)))
        self.options = tuple(sorted({option for line in lines for option in line.requires}))
        self.writes = _WRITES.search(text) is not None
        self._names = self.parameters.union(self.options)
        self._forms: dict[tuple[bool, ...], RenderedQuery] = {}

    def render(self, params: Mapping[str, Any]) -> RenderedQuery:
        """The statements for these values. A form is put together once and kept."""
        given = tuple([params.get(option) is not None for option in self.options])
        render = self._forms.get(given)
        if render is None:
            render = self._forms[given] = self._render(given)
        if not params.keys() <= self._names:
            unknown = ", ".join(sorted(params.keys() - self._names))
            raise BadQuery(f"{self.where}: {self.name} has no parameter {unknown}")
        return render

    def _render(self, given: tuple[bool, ...]) -> RenderedQuery:
        names = {option for option, is_given in zip(self.options, given, strict=True) if is_given}
        text = "\n".join(line.sql for line in self.lines if line.requires <= names)
        return RenderedQuery(tuple(self._statement(sql) for sql in _statements(text)), self.writes)

    def _statement(self, sql: str) -> Statement:
        parameters = frozenset(_PLACEHOLDER[self.dialect].findall(_QUOTED.sub("''", sql)))
        return Statement(sql, parameters, returns=_RETURNS.search(sql) is not None)


class QueryRegistry:
    """All queries of one dialect, with the tables in one schema."""

    def __init__(self, dialect: Dialect, schema: str | None = None) -> None:
        self._queries = read_folder(sql_folder(dialect) / "queries", dialect, schema)

    def __getitem__(self, name: str) -> NamedQuery:
        return self._queries[name]

    def __iter__(self) -> Iterator[NamedQuery]:
        return iter(self._queries.values())


def sql_folder(dialect: Dialect) -> Path:
    """Where the SQL lies: in the package of an installed wheel, one folder up in a checkout."""
    here = Path(__file__).parent.parent
    beside = here / "sql" / dialect
    return beside if beside.is_dir() else here.parent / "sql" / dialect


def read_folder(folder: Path, dialect: Dialect, schema: str | None = None) -> dict[str, NamedQuery]:
    """Every query of every file in a folder."""
    queries: dict[str, NamedQuery] = {}
    for file in sorted(folder.glob("*.sql")):
        for query in _blocks(file, dialect, schema):
            if query.name in queries:
                raise BadQuery(f"{file.name}: {query.name} is there twice")
            queries[query.name] = query
    return queries


def _blocks(file: Path, dialect: Dialect, schema: str | None) -> Iterator[NamedQuery]:
    name, lines = "", list[TemplateLine]()
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        where = f"{file.name}:{number}"
        if opening := _NAME_LINE.fullmatch(line):
            if name:
                yield _finished(name, file.name, lines, dialect)
            name, lines = opening.group(1), []
        elif not line.strip() or line.startswith("--"):
            continue
        elif not name:
            raise BadQuery(f"{where}: SQL before the first query's name")
        else:
            lines.append(_line(line, f"{where}: {name}", schema))
    if name:
        yield _finished(name, file.name, lines, dialect)


def _finished(name: str, file: str, lines: list[TemplateLine], dialect: Dialect) -> NamedQuery:
    if not lines:
        raise BadQuery(f"{file}: {name} has no SQL")
    if not lines[-1].sql.endswith(";"):
        raise BadQuery(f"{file}: {name} does not end in a semicolon")
    return NamedQuery(name, file, lines, dialect)


def _line(line: str, where: str, schema: str | None) -> TemplateLine:
    requires: frozenset[str] = frozenset()
    if optional := _OPTIONAL_LINE.fullmatch(line):
        line, condition = optional.group("sql"), optional.group("condition").strip()
        if not _CONDITION.fullmatch(condition):
            raise BadQuery(f"{where} has a condition that cannot be read: {condition!r}")
        requires = frozenset(condition.split(" and "))
    bare = _QUOTED.sub("''", line)
    if "--" in bare:
        raise BadQuery(f"{where} has a comment in the middle of a line")
    if ";" in bare.rstrip().removesuffix(";"):
        raise BadQuery(f"{where} has a second statement on one line")
    if requires and bare.endswith(";"):
        raise BadQuery(f"{where} ends on an optional line: put the semicolon on a line of its own")
    return TemplateLine(_in_schema(line, schema), requires)


def _in_schema(line: str, schema: str | None) -> str:
    if schema is None:
        return line
    # Doubled percent signs, because the driver reads placeholders in identifiers too.
    quoted = quote_identifier(schema).replace("%", "%%")
    return _TABLE_NAME.sub(lambda table: f"{quoted}.{table.group()}", line)


@cache
def positional(sql: str) -> tuple[str, tuple[str, ...]]:
    """A SQLite statement with ?1, ?2, … for its names, and the names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if (name := found.group("name")) is None:
            return found.group()
        if name not in names:
            names.append(name)
        return f"?{names.index(name) + 1}"

    return _NAME_OUTSIDE_QUOTES.sub(number, sql), tuple(names)


def quote_identifier(name: str) -> str:
    """A PostgreSQL identifier, whatever is in the name."""
    if not name or _NULL in name or len(name.encode("utf-8", "replace")) > 63:
        raise ValidationError(f"schema {name!r:.80} is not a name PostgreSQL can keep: 1 to 63 bytes, no NUL")
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _statements(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"(?<=;)\n", text) if part.strip(" ;\n"))
