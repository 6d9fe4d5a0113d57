"""The blocks of sql/citus return and change the same, on one server, as the blocks that they replace.

Whether Citus takes them is tested on a cluster, which ASM_TEST_CITUS_DSN names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import asm
from asm.engine.registry import TABLES, NamedQuery, QueryRegistry, sql_folder
from asm.migrations.distribution import create_function
from asm.operations.encoding import EncodedEvent, EncodedSession, event_columns, session_columns
from asm.postgres.distributed import merged, parts
from tests.conftest import CITUS_DSN, POSTGRES, Cluster, an_artifact, an_event
from tests.sql.statements import covering_renderings, explained_on_postgres

pytestmark = pytest.mark.skipif(not POSTGRES, reason="no PostgreSQL server")

START = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN, DISTRIBUTED = QueryRegistry("postgres"), QueryRegistry("postgres", distributed=True)
REPLACED = [name for name in PLAIN if PLAIN[name] is not DISTRIBUTED[name]]


@pytest.fixture(scope="module")
def database(clusters: Callable[[str], Cluster]) -> Iterator[psycopg.Connection[Any]]:
    """Three sessions with events, the first of them with a run; artifacts and a counter without a session."""
    with clusters(POSTGRES[0]).database(migrated=True) as dsn:
        with asm.SessionStore(dsn) as store:
            for n in range(1, 4):
                session = asm.Session(
                    id=f"ses_{n}",
                    agent_id="a",
                    tags=["t"] if n == 2 else [],
                    created_at=START,
                    updated_at=START,
                    deleted_at=START if n == 3 else None,
                )
                events = [
                    an_event(
                        session.id, "message_sent" if k % 2 else "message_streamed", id=f"e{k}", data={"k": k}
                    )
                    for k in range(n * 2)
                ]
                store.flush(session, a_run(session.id), events)
            store.artifacts.register(an_artifact("lone", session_id="ses_lone", created_at=START))
            store.artifacts.register(an_artifact("kept", session_id="ses_1", created_at=START))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("insert into asm_session_sequences values ('ses_gone', 0, 0, %s)", [START])
            if not CITUS_DSN:
                create_function(connection, None)
            yield connection


def a_run(session_id: str) -> asm.Run:
    metadata = {"asm": {"lease_until": "2026-01-01", "owner": "host:1:aa"}}
    return asm.Run(id="run", session_id=session_id, status="running", started_at=START, metadata=metadata)


def appended(*session_ids: str) -> list[EncodedEvent]:
    return [EncodedEvent(an_event(id, id=f"new_{n}", timestamp=START)) for n, id in enumerate(session_ids)]


def columns_of(*session_ids: str) -> dict[str, Any]:
    counters = {id: session_ids.count(id) for id in session_ids}
    offsets = [session_ids[n + 1 :].count(id) for n, id in enumerate(session_ids)]
    return {
        "counters": json.dumps(counters),
        "offsets_from_last": offsets,
        **event_columns(appended(*session_ids)),
    }


def imported(*session_ids: str) -> dict[str, Any]:
    rows = [{**new.params(), "sequence_number": 90 + n} for n, new in enumerate(appended(*session_ids))]
    return {name: [row[name] for row in rows] for name in rows[0]}


def ensured(*session_ids: str) -> list[EncodedSession]:
    later = START + timedelta(days=1)
    return [
        EncodedSession(asm.Session(id=id, agent_id="b", tags=["x", "y"], created_at=later, updated_at=later))
        for id in session_ids
    ]


MIXED = ("ses_new", "ses_1", "ses_new", "ses_2", "ses_1")
DUE = {"due_until": START + timedelta(days=9), "exempt_statuses": ("active",), "exempt_tags": ("t",)}
CASES: dict[str, list[dict[str, Any]]] = {
    "append_event": [new.params() for new in appended("ses_1", "ses_new")],
    "append_event_with_session": [
        {**new.params(), **session.values}
        for new, session in zip(appended("ses_1", "ses_new"), ensured("ses_1", "ses_new"), strict=True)
    ],
    "append_events": [columns_of("ses_1"), columns_of(*MIXED)],
    "append_events_with_sessions": [{**columns_of(*MIXED), **session_columns(ensured("ses_new", "ses_2"))}],
    "lock_counters": [{"session_ids": ["ses_1", "ses_new"]}],
    "find_events": [{"session_ids": ["ses_2", "ses_1", "ses_2"], "ids": ["e0", "e1", "none"]}],
    "refuse_changed_runs": [
        {
            "session_ids": ["ses_1", "ses_2"],
            "ids": ["run", "run"],
            "event_ids": ["e0", "e0"],
            "statuses": ["running", "running"],
            "ended_at_list": [None, None],
            "owners": ['"owner":"host:1', None],
        }
    ],
    "list_sessions": [
        {
            "status": None,
            "statuses": None,
            "agent_id": "a",
            "exclude_deleted": True,
            "limit": limit,
            "offset": offset,
        }
        for limit, offset in ((None, 0), (1, 1), (2**63 - 1, 0), (2**63 - 1, 2**63 - 1))
    ],
    "lock_fork_parent": [{"session_id": id} for id in ("ses_1", "none")],
    "import_events": [imported("ses_2", "ses_1", "ses_2")],
    "find_first_messages": [
        {"session_ids": ["ses_2", "none", "ses_1"], "types": ("message_sent",), "limit": 2, "bytes_max": 99}
    ],
    "describe_sessions": [{"session_ids": ["ses_2", "none"]}],
    "find_events_between": [
        {"session_ids": ["ses_2", "ses_3"], "after_sequences": [1, 0], "last_sequences": [3, 9], "limit": 2}
    ],
    "find_artifacts_without_session": [
        {"after": None, "up_to": None, "limit": 9},
        {"after": "ses_m", "up_to": "t", "limit": 9},
        {"after": None, "up_to": "a", "limit": 9},
    ],
    "soft_delete_sessions": [
        {
            "session_ids": ("ses_1", "ses_2", "ses_3"),
            "at": START,
            "status": "pending",
            "until": START + timedelta(days=1),
            "exempt_tags": ("t",),
        }
    ],
    "lock_due_sessions": [{"session_ids": ("ses_1", "ses_2", "ses_3"), **DUE}],
    "lock_existing_counters": [{"session_ids": ("ses_2", "ses_1", "none")}],
    "count_prunable_by_session": [
        {
            "session_ids": ["ses_1", "ses_2", "ses_3"],
            "max_sequences": [9, 9, 4],
            "limits": [9, 9, 3],
            "keep": keep,
            "protected_types": ("message_sent",),
            "exempt_tags": ("t",),
        }
        for keep in (0, 1, 5)
    ],
    "prune_events": [
        {
            "session_ids": ["ses_2", "ses_3"],
            "max_sequences": [4, 3],
            "numbers": [3, 1],
            "first_types": first,
            "protected_types": (),
        }
        for first in ((), ("message_sent",))
    ],
    "find_orphaned_counters": [
        {"before": START + timedelta(days=1), "after": after, "limit": 9} for after in (None, "ses_h")
    ],
    "find_orphaned_artifacts": [
        {"before": START + timedelta(days=1), "after": after, "limit": 9} for after in (None, "t")
    ],
    "delete_orphaned_artifacts": [
        {"session_ids": ("ses_lone", "ses_1"), "before": START + timedelta(days=days)} for days in (0, 1)
    ],
}
"""Values for each block that is replaced."""


def test_every_block_has_a_case() -> None:
    assert sorted(CASES) == sorted(REPLACED)


@pytest.mark.skipif(CITUS_DSN is not None, reason="Citus refuses the blocks for one server")
@pytest.mark.parametrize("name", REPLACED)
def test_both_blocks_return_and_change_the_same(name: str, database: psycopg.Connection[Any]) -> None:
    for params in CASES[name]:
        plain, distributed = (_outcome(database, registry[name], params) for registry in (PLAIN, DISTRIBUTED))
        assert plain == distributed


@pytest.mark.skipif(CITUS_DSN is not None, reason="Citus refuses the blocks for one server")
def test_both_blocks_fail_a_transaction_whose_run_has_changed(database: psycopg.Connection[Any]) -> None:
    (params,) = CASES["refuse_changed_runs"]
    for owners in ([None, '"owner":"another'], ['"owner":"another', None]):
        for registry in (PLAIN, DISTRIBUTED):
            with pytest.raises(psycopg.errors.UniqueViolation):
                _outcome(database, registry["refuse_changed_runs"], {**params, "owners": owners})


def _outcome(
    connection: psycopg.Connection[Any], query: NamedQuery, params: dict[str, Any]
) -> tuple[Any, ...]:
    """The rows of a query, and all tables after it. It is rolled back."""
    with connection.transaction(force_rollback=True):
        found = []
        for part in parts(query, params):
            values = {
                key: list(each) if isinstance(each, tuple) else each for key, each in part.params.items()
            }
            cursor = connection.execute(part.sql.encode(), values)
            found.append((part, cursor.fetchall() if cursor.description else []))
        rows = sorted(map(str, _comparable(merged(found))))
        stored = [
            connection.execute(f"select {table}::text from {table} order by 1".encode()).fetchall()
            for table in TABLES
        ]
        # The time of a counter is that of the transaction.
        return rows, re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00", "now", str(stored))


def _comparable(rows: Any) -> list[Any]:
    """One document of the last numbers of all sessions, or a row for each."""
    if len(rows) == 1 and len(rows[0]) == 1 and isinstance(rows[0][0], dict):
        return list(rows[0][0].items())
    return list(rows)


REFERENCE = "asm_artifacts"
WRITTEN = re.compile(r"\b(?:insert into|update|delete from)\s+(asm_\w+)")


@pytest.mark.parametrize("name", list(DISTRIBUTED))
def test_no_statement_writes_a_reference_table_and_another_one(name: str) -> None:
    """Citus would change the copy of the reference table on one node only, and report nothing."""
    for statement in DISTRIBUTED[name].render({}).statements:
        written = set(WRITTEN.findall(statement.sql))
        assert written == {REFERENCE} or REFERENCE not in written


on_citus = pytest.mark.skipif(
    CITUS_DSN is None, reason="ASM_TEST_CITUS_DSN names no cluster, so Citus is not tested"
)
OF_DISTRIBUTED_TABLES = [
    name
    for name, query in DISTRIBUTED.items()
    if not re.search(r"asm_(?:checkpoint|event_words|unindexed)", " ".join(line.sql for line in query.lines))
]
"""Without the queries of optional tables."""


NOT_EXPLAINED = {
    **dict.fromkeys(REPLACED, "is executed below"),
    "insert_fork": "Citus executes it, as the tests of forks show, and does not explain it",
}


@on_citus
@pytest.mark.parametrize("name", sorted({*OF_DISTRIBUTED_TABLES} - {*NOT_EXPLAINED}))
def test_citus_plans_every_query(name: str, database: psycopg.Connection[Any]) -> None:
    """What it does not support, it refuses before it executes anything."""
    query = DISTRIBUTED[name]
    for given in covering_renderings(query):
        for statement in query.render(given).statements:
            explained_on_postgres(database, statement)


@on_citus
@pytest.mark.parametrize("name", REPLACED)
def test_citus_executes_every_block(name: str, database: psycopg.Connection[Any]) -> None:
    for params in CASES[name]:
        _outcome(database, DISTRIBUTED[name], params)


@on_citus
def test_all_tests_of_the_contract_run_on_the_cluster() -> None:
    assert POSTGRES == ["postgres-citus"]


def test_a_block_replaces_one_of_the_same_file() -> None:
    for name in REPLACED:
        file, other = (registry[name].where.partition(":")[0] for registry in (PLAIN, DISTRIBUTED))
        assert file == other
    assert sql_folder("citus").joinpath("append_event.sql").is_file()
