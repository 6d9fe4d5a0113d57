"""What another role may create in a schema of a search_path, so that its functions run with our rights.

PostgreSQL calls the function and the operator whose types fit best, in whatever schema of the path. So a
neighbour makes ones for exactly the types that a statement uses. Each counts in a sequence, which no rollback
undoes, and raises.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

import asm
from asm.engine.registry import sql_folder
from tests.sql.statements import covering_renderings, prepared, queries

PACKAGE = Path(asm.__file__).parent

_OPERATORS = re.compile(r":opno (\d+)|:opnos \(o ([\d ]+)\)")
_FUNCTIONS = re.compile(r":(?:funcid|aggfnoid|winfnoid) (\d+)")
_TYPES = re.compile(
    r":(?:vartype|consttype|paramtype|funcresulttype|opresulttype|aggtype|resulttype|coalescetype|minmaxtype"
    r"|array_typeid|element_typeid) (\d+)"
)
_CALL = re.compile(r"(?<![\w.])((?:\w+\.)?)([a-z_]\w*)\s*\(")
_CATALOG = re.compile(r"\b(?:from|join)\s+((?:\w+\.)?pg_\w+)\b(?!\.|\s*\()")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


# What our statements name.


def sql_texts() -> Iterator[tuple[str, str]]:
    """Every piece of SQL for PostgreSQL, of files and of modules, with where it is and without comments."""
    for file in sorted(sql_folder("postgres").rglob("*.sql")):
        lines = file.read_text("utf-8").splitlines()
        yield file.name, "\n".join(line.partition("--")[0] for line in lines)
    for file in sorted([*PACKAGE.glob("postgres/*.py"), *PACKAGE.glob("migrations/*.py")]):
        yield from ((file.name, text) for text in _strings(ast.parse(file.read_text("utf-8"))))


def _strings(module: ast.AST) -> Iterator[str]:
    described = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            yield node.value


def calls(text: str, functions: set[str]) -> Iterator[tuple[str, str]]:
    """The schema, if one is given, and the name of each function that a text calls."""
    for schema, name in _CALL.findall(_QUOTED.sub("''", text)):
        if name in functions:
            yield schema.rstrip("."), name


def catalogs(text: str) -> list[str]:
    """The system catalogs and views that a text reads, with their schema if it is given."""
    return _CATALOG.findall(_QUOTED.sub("''", text))


def function_names(connection: psycopg.Connection[Any]) -> set[str]:
    """The names that PostgreSQL takes for functions', in front of a parenthesis, without asm's own."""
    names = connection.execute(
        "select distinct proname from pg_proc where proname not like 'asm\\_%' and proname not in "
        "(select word from pg_get_keywords() where catcode in ('C', 'R'))"
    )
    return {name for (name,) in names}


# What PostgreSQL makes of our statements.


class Resolved(NamedTuple):
    """The ids of what statements use."""

    operators: set[int]
    functions: set[int]
    types: set[int]


def resolve(dsn: str, search_path: str = "public") -> Resolved:
    """What PostgreSQL resolves the names in all lines of all queries to."""
    trees: list[str] = []
    with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={search_path}") as connection:
        connection.add_notice_handler(lambda notice: trees.append(notice.message_detail or ""))
        connection.execute("set client_min_messages = log; set debug_print_parse = on")
        for query in queries("postgres").values():
            for given in covering_renderings(query):
                (statement,) = query.render(given).statements
                prepared(connection, statement)
    text = "\n".join(trees)
    operators = [number for found in _OPERATORS.findall(text) for number in " ".join(found).split()]
    return Resolved(
        set(map(int, operators)), set(map(int, _FUNCTIONS.findall(text))), set(map(int, _TYPES.findall(text)))
    )


# What a neighbour makes.


def move_in(dsn: str, schema: str, used: Resolved) -> None:
    """Make functions and operators in a schema, for all names and types that our statements use."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        functions = function_names(connection)
        called = {name for _, text in sql_texts() for _, name in calls(text, functions)}
        types = _type_categories(connection, used.types)
        statements = [
            f"create schema if not exists {schema}",
            f"create sequence {schema}.ran",
            *_made_operators(connection, schema, used.operators, types),
            *_made_functions(connection, schema, called, types),
        ]
        # In parts, because a statement of many parts is one transaction, with a lock for each of them.
        for start in range(0, len(statements), 2_000):
            connection.execute(";\n".join(statements[start : start + 2_000]).encode())


def has_run(dsn: str, schema: str) -> bool:
    """Whether any of the neighbour's functions has run."""
    with psycopg.connect(dsn) as connection:
        [(is_called,)] = connection.execute(f"select is_called from {schema}.ran".encode())
        return bool(is_called)


def _type_categories(connection: psycopg.Connection[Any], used: set[int]) -> dict[str, str]:
    """The types of our statements and of those of yoyo, with their categories."""
    rows = connection.execute(
        "select format_type(oid, null), typcategory::text from pg_type where typtype in ('b', 'd') and ("
        "oid = any(%s) or oid in (select atttypid from pg_attribute "
        "where attrelid = 'information_schema.tables'::regclass and attnum > 0))",
        [list(used)],
    )
    return dict(rows.fetchall())


_BODY = (
    "language plpgsql as $$begin perform pg_catalog.nextval('{schema}.ran'); "
    "raise exception 'a function of a neighbour has run'; end$$"
)


def _made_operators(
    connection: psycopg.Connection[Any], schema: str, used: set[int], types: dict[str, str]
) -> Iterator[str]:
    rows = connection.execute(
        "select oprname, bool_and(oprresult = 'bool'::regtype) from pg_operator "
        "where oprname in (select oprname from pg_operator where oid = any(%s)) group by 1",
        [list(used)],
    )
    names: dict[bool, list[str]] = defaultdict(list)
    for name, compares in rows:
        names[compares].append(name)
    # Our operators take two types of one category.
    pairs = [pair for pair in product(types, repeat=2) if types[pair[0]] == types[pair[1]]]
    for left, right in pairs:
        for compares, function in ((True, "compared"), (False, "calculated")):
            result = "boolean" if compares else left
            body = _BODY.format(schema=schema)
            yield f"create function {schema}.{function}({left}, {right}) returns {result} {body}"
            for name in names[compares]:
                yield (
                    f"create operator {schema}.{name} "
                    f"(leftarg = {left}, rightarg = {right}, function = {schema}.{function})"
                )


def _made_functions(
    connection: psycopg.Connection[Any], schema: str, called: set[str], types: Iterable[str]
) -> Iterator[str]:
    rows = connection.execute(
        "select proname, prokind, array(select format_type(each, null) from unnest(proargtypes) as each) "
        "from pg_proc where proname = any(%s) and pronamespace = 'pg_catalog'::regnamespace",
        [list(called)],
    )
    made = {
        (name, kind, signature)
        for name, kind, arguments in rows
        for signature in _signatures(arguments, list(types))
    }
    steps = {signature for _, kind, signature in made if kind == "a"}
    body = _BODY.format(schema=schema)
    for signature in sorted(steps):
        arguments = ", ".join(["bigint", *signature])
        yield f"create function {schema}.step({arguments}) returns bigint {body}"
    for name, kind, signature in sorted(made):
        arguments = ", ".join(signature)
        if kind == "a":
            created = f"create aggregate {schema}.{name}({arguments or '*'})"
            yield f"{created} (sfunc = {schema}.step, stype = bigint)"
        else:
            yield f"create function {schema}.{name}({arguments}) returns text {body}"


def _signatures(arguments: list[str], types: list[str]) -> Iterator[tuple[str, ...]]:
    """The types of a function's arguments, and ones that fit some statement better."""
    pseudo = [argument.strip('"').startswith("any") for argument in arguments]
    fitting = [types if is_pseudo else [each] for each, is_pseudo in zip(arguments, pseudo, strict=True)]
    yield from product(*fitting)
    if not any(pseudo):
        for place, type in product(range(len(arguments)), types):
            yield (*arguments[:place], type, *arguments[place + 1 :])


def unqualified(texts: Iterable[tuple[str, str]], functions: set[str]) -> list[tuple[str, str]]:
    """The functions and catalogs without a schema, and where they are."""
    return [
        (where, name)
        for where, text in texts
        for name in [
            *(name for schema, name in calls(text, functions) if not schema),
            *(name for name in catalogs(text) if not name.startswith("pg_catalog.")),
        ]
    ]
