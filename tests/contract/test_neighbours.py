"""Functions, operators and views of another role never run with the rights of a store.

The neighbour may create in the schema of the tables, as everybody may in `public` before PostgreSQL 15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

import asm
from asm.engine.schema_version import OPTIONAL
from asm.migrations.runner import migrate_with, status
from tests import neighbours
from tests.conftest import POSTGRES, Cluster, Colour, an_artifact, an_event
from tests.contract.other_clients import STEPS, fetch_rows, only, opened_pool

pytestmark = only(POSTGRES, why="SQLite has no schemas and no roles")

Opener = Callable[..., Any]

LONG_AGO = datetime.now(UTC) - timedelta(days=400)

# In front of the catalog of an extension that is not installed.
VIEW = """
create function public.looked() returns regclass language plpgsql
as $$begin perform pg_catalog.nextval('public.ran'); return 'pg_class'::regclass; end$$;
create view public.pg_dist_partition as select public.looked() as logicalrelid;
"""


@pytest.fixture(scope="module")
def crowd(clusters: Callable[[str], Cluster]) -> Iterator[Callable[[str], str]]:
    """Returns a database in whose schema `public` a neighbour has made what could be called, of each kind."""
    with ExitStack() as databases:

        @cache
        def crowded(kind: str) -> str:
            with clusters(kind).database(migrated=True) as migrated:
                migrate_with(OPTIONAL, migrated)
                used = neighbours.resolve(migrated)
            dsn = databases.enter_context(clusters(kind).database(migrated=False))
            neighbours.move_in(dsn, "public", used)
            fetch_rows(dsn, VIEW)
            return dsn

        yield crowded


@pytest.fixture
def crowded(kind: str, crowd: Callable[[str], str]) -> Iterator[str]:
    """The DSN of such a database. Nothing of the neighbour has run at the end of the test."""
    dsn = crowd(kind)
    yield dsn
    assert not neighbours.has_run(dsn, "public")


def test_nothing_of_a_neighbour_runs(crowded: str, colour: Colour, opened: Opener) -> None:
    asm.migrate(crowded)
    assert asm.rollback(crowded, steps=None) == STEPS[::-1]
    assert asm.pending_migrations(crowded) == STEPS
    store = opened(crowded, migrate=True)

    write(store)
    read(store)
    remove(store)
    with opened_pool(crowded, colour) as pool:
        write(opened(pool=pool))
    assert status(crowded).applied == STEPS


def test_a_search_path_on_which_others_precede_postgresql_is_refused(
    crowded: str, colour: Colour, opened: Opener
) -> None:
    asm.migrate(crowded)
    dsn = make_conninfo(crowded, options="-c search_path=public,pg_catalog")

    with pytest.raises(asm.StorageError, match=r"pg_catalog after public.*leave pg_catalog out"):
        opened(dsn)
    with opened_pool(dsn, colour) as pool, pytest.raises(asm.StorageError, match="pg_catalog after public"):
        opened(pool=pool)
    for call in (asm.migrate, asm.rollback, asm.pending_migrations, status):
        with pytest.raises(asm.StorageError, match="pg_catalog after public"):
            call(dsn)


def test_a_search_path_that_names_postgresqls_own_schema_first_is_accepted(
    migrated: str, opened: Opener
) -> None:
    store = opened(make_conninfo(migrated, options="-c search_path=pg_catalog,public"))

    assert store.append_event(an_event()).sequence_number == 1


def write(store: Any) -> None:
    """Every kind of write, each statement of which computes or compares something."""
    session = asm.Session(agent_id="a", id="ses_1", tags=("x",), created_at=LONG_AGO, updated_at=LONG_AGO)
    run = asm.Run(session_id="ses_1", id="run_1", started_at=LONG_AGO, cost_usd=1.5)
    store.save_session(session)
    store.append_event(an_event(id="evt_1", timestamp=LONG_AGO), session=session)
    store.append_events([an_event(id=f"evt_{n}", run_id="run_1") for n in range(9)], session=session)
    store.append_event(an_event(id="evt_9"), expected_sequence=9)
    store.flush(session, run, [an_event(id="evt_10", data={"role": "user", "content": "hi"})])
    store.update_session("ses_1", lambda stored: stored.update_status("completed"))
    store.update_run("run_1", lambda stored: stored.set_output({"ok": True}))
    store.fork_session("ses_1", id="fork")
    store.artifacts.register(an_artifact(session_id="ses_1"))
    with store.transaction() as tx:
        tx.append_event(an_event(id="evt_11"))
        tx.execute("select 1")
        assert tx.connection is not None
    store.run_transaction(lambda tx: tx.append_event(an_event(id="evt_12")), idempotent=True)
    export = store.query.export_session("ses_1", include_artifacts=True)
    store.delete_session("ses_1")
    store.import_session(export)
    store.pop_event("ses_1", type="message_sent")
    store.delete_events("ses_1", ids=["evt_3"], type=["message_sent"], after=1, before=9)
    store.artifacts.delete("report.pdf")
    store.delete_session("fork")


def read(store: Any) -> None:
    """Every kind of read."""
    assert [session.id for session in store.get_sessions(["ses_1"])] == ["ses_1"]
    assert store.list_sessions(status="completed", agent_id="a", limit=5)
    assert store.get_run("run_1").id == store.list_runs("ses_1", status=["completed"])[0].id
    assert store.get_active_run("ses_1") is None
    assert store.get_event("ses_1", "evt_1").sequence_number == 1
    assert store.get_events("ses_1", since=LONG_AGO, after=2, before=9, type="message_sent", last=2)
    assert list(store.follow_events("ses_1", run_id="run_1", idle_timeout=0.01))
    query = store.query
    for order in ("created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"):
        assert len(query.search_sessions(tags=["x"], order_by=order, count_total=True).items) == 1
    for order in ("started_at_asc", "started_at_desc", "token_usage_desc"):
        assert query.search_runs(status=["completed"], min_tokens=0, order_by=order).items
    for order in ("sequence_asc", "timestamp_asc", "timestamp_desc"):
        page = query.search_events(types=["message_sent"], since=LONG_AGO, order_by=order, limit=2)
        assert query.search_events(
            types=["message_sent"], since=LONG_AGO, order_by=order, cursor=page.cursor
        ).items
    assert query.count_events(types="message_sent")
    assert query.get_usage_summary(agent_id="a").run_count == query.get_cost_summary().run_count == 1
    assert query.get_session_stats("ses_1").event_count
    assert store.artifacts.session_stats("ses_1").artifact_count == 0
    assert store.maintenance.health_check() == []


def remove(store: Any) -> None:
    """Retention, all of whose steps find something."""
    policy = asm.RetentionPolicy(
        max_completed_session_age_days=1, max_events_per_session=6, max_total_events=4, archive=lambda _: None
    )
    store.artifacts.register(an_artifact("orphan", session_id="gone", created_at=LONG_AGO))
    session = store.get_session("ses_1")
    store.save_session(replace(session, updated_at=LONG_AGO))
    dry = store.maintenance.execute(policy, dry_run=True)
    done = store.maintenance.execute(policy)
    assert dry.errors == done.errors == []
    assert (done.sessions_soft_deleted, done.events_pruned > 0, done.artifacts_cleaned) == (1, True, 1)
    store.save_session(replace(session, deleted_at=LONG_AGO))
    assert store.maintenance.hard_delete_expired_sessions(policy) == 1
    assert store.maintenance.clean_orphaned_sequences() == 0
