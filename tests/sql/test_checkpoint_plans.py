"""A checkpoint is read by the keys of its rows, however long its thread is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor

import asm
from asm import dsn as dsns
from asm.engine.schema_version import OPTIONAL
from asm.engine.script import Query
from asm.migrations.runner import migrate_with
from asm.operations import checkpoints
from tests.conftest import DATABASES, Cluster, Where
from tests.sql.statements import queries

SHORT, LONG = 15, 1_500
VALUE = ("bytes", b"x" * 2_000)
READS: dict[str, Callable[[str], Query[Any]]] = {
    "the newest": lambda name: checkpoints.get_checkpoint(config_of(name)),
    "one by its id": lambda name: checkpoints.get_checkpoint(config_of(name, 7)),
    "a page": lambda name: checkpoints.list_checkpoints(config_of(name), None, None, None, 5),
}


@pytest.fixture(scope="module", params=DATABASES)
def threads(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clusters: Callable[[str], Cluster],
) -> Iterator[Where]:
    """A short and a long thread, among many others of one checkpoint."""
    if request.param == "sqlite":
        dsn = f"sqlite:///{tmp_path_factory.mktemp('threads') / 'store.db'}"
        _fill(dsn)
        yield Where("sqlite", dsn)
    else:
        with clusters(request.param).database(migrated=True) as dsn:
            _fill(dsn)
            yield Where(request.param, dsn)


def _fill(dsn: str) -> None:
    migrate_with(OPTIONAL, dsn)
    with asm.SessionStore(dsn) as store:
        with store.transaction() as tx:
            for name, length in [("short", SHORT), ("long", LONG), *((f"thread_{n}", 1) for n in range(300))]:
                for number in range(length):
                    tx._database.run(_put(name, number))
                    writes = {0: ("a", VALUE), 1: ("b", VALUE)}
                    tx._database.run(checkpoints.put_writes(config_of(name, number), "task", "", writes))
        with store.transaction() as tx:
            tx.execute("analyze")


def _put(name: str, number: int) -> Query[None]:
    version = {"messages": f"{number:06}", "files": f"{number // 10:06}"}
    checkpoint = {
        "id": _id(number),
        "channel_values": {"messages": [number], "files": {}},
        "channel_versions": version,
    }
    return checkpoints.put_checkpoint(config_of(name), checkpoint, {"step": number}, version, lambda _: VALUE)


def _id(number: int) -> str:
    return f"checkpoint_{number:06}"


def config_of(name: str, number: int | None = None) -> Any:
    place = {"thread_id": name, "checkpoint_ns": ""}
    return {"configurable": place if number is None else place | {"checkpoint_id": _id(number)}}


@pytest.mark.parametrize("read", READS)
def test_a_checkpoint_is_found_by_the_keys_of_its_rows(read: str, threads: Where) -> None:
    steps = _steps[threads.dialect](threads.dsn, READS[read]("long"))

    assert [step for step in steps if "Seq Scan" in step or "SCAN asm_" in step or "Sort" in step] == []
    assert [step for step in steps if "TEMP B-TREE" in step] == []


@pytest.mark.parametrize("read", READS)
def test_no_more_blocks_are_read_of_a_long_thread_than_of_a_short_one(read: str, threads: Where) -> None:
    if threads.dialect == "sqlite":
        pytest.skip("SQLite's plan has no numbers; that it searches by whole keys says the same")

    short, long = (_blocks_read(threads.dsn, READS[read](name)) for name in ("short", "long"))

    assert long <= 1.5 * short


def _on_postgres(dsn: str, query: Query[Any]) -> list[str]:
    return [f"{node['Node Type']} {node.get('Index Name', '')}" for node in _nodes(_explained(dsn, query))]


def _blocks_read(dsn: str, query: Query[Any]) -> int:
    plan = _explained(dsn, query)
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _explained(dsn: str, query: Query[Any]) -> dict[str, Any]:
    (statement,) = queries("postgres")[query.query].render(query.params).statements
    with psycopg.connect(dsn) as connection, ClientCursor(connection) as cursor:
        text = cursor.mogrify(statement.sql, query.params)
        cursor.execute(f"explain (analyze, buffers, format json) {text}".encode())
        ((explained,),) = cursor.fetchall()
    plan: dict[str, Any] = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _on_sqlite(dsn: str, query: Query[Any]) -> list[str]:
    (statement,) = queries("sqlite")[query.query].render(query.params).statements
    with closing(sqlite3.connect(dsns.parse_dsn(dsn).address)) as connection:
        rows = connection.execute(f"explain query plan {statement.sql}", query.params).fetchall()
    return [text for *_, text in rows]


_steps: dict[str, Callable[[str, Query[Any]], list[str]]] = {"postgres": _on_postgres, "sqlite": _on_sqlite}
