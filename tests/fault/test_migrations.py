"""What migrating promises when it is cut off, and to stores that are open during it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yoyo as yoyo_package

import asm
from asm import dsn as dsns
from asm.migrations import files
from asm.migrations.migrator import Migrator
from asm.migrations.postgres import ADVISORY_LOCK
from asm.migrations.runner import status
from tests.conftest import POSTGRES, an_artifact, an_event, numbers
from tests.contract.other_clients import (
    SHORT_S,
    copied_folder,
    driver_connection,
    fetch_rows,
    migrations_of,
    only,
    tables,
    use_folder,
    yoyo_url,
)
from tests.fault import cuts
from tests.make_schema import schema_of

# A forked child waits for no thread of the test process.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

one_of_each = only(
    ["sqlite", *POSTGRES[:1]], why="it takes long, and all versions of the server commit in the same way"
)
files_only = only(["sqlite"], why="a server writes its files in processes of its own")
servers_only = only(POSTGRES, why="SQLite has no result types, and prepares again by itself")
one_server = only(POSTGRES[:1], why="it takes long, and only a server can terminate a connection")


CALLERS = 8
NEVER = 1_000_000
ROWS = {"sessions": 1, "runs": 1, "events": 2, "session_sequences": 1, "artifacts": 1}


class State(NamedTuple):
    """All that migrating changes, in asm's tables and in yoyo's."""

    schema: str
    pending: list[str]
    rows: dict[str, int]
    is_locked: bool


def state(dsn: str) -> State:
    found = status(dsn)
    is_locked = "yoyo_lock" in tables(dsn) and bool(fetch_rows(dsn, "select * from yoyo_lock"))
    return State(schema_of(dsn), found.pending, found.rows, is_locked)


def cut_at_statements(dsn: str) -> Callable[[int], None]:
    is_file = dsns.parse_dsn(dsn).dialect == "sqlite"
    return cuts.before_a_statement if is_file else cuts.while_the_server_answers


@pytest.fixture
def later_migration(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up migration after those of asm, for this process and those that it forks.

    `other` is made first, because the tests' databases are copies of one that is migrated for the first test.
    """
    use_folder(monkeypatch, newer_asm(tmp_path / "later", other, 0))


@pytest.fixture
def older(migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with a row in every table at least, that lacks the last migration."""
    with asm.SessionStore(migrated) as store:
        fill(store)
    use_folder(monkeypatch, newer_asm(tmp_path / "newer", migrated, 0))
    return migrated


def fill(store: Any) -> None:
    session = asm.Session(agent_id="a", id="ses_1", tags=("pinned",))
    run = asm.Run(session_id="ses_1", id="run_1", token_usage={"input_tokens": 3})
    store.flush(session, run, [an_event(), an_event()])
    store.artifacts.register(an_artifact(session_id="ses_1"))


def roll_back(dsn: str) -> list[str]:
    return asm.rollback(dsn, steps=None)


def wait_for_the_lock(dsn: str) -> None:
    """Wait until the server has ended the transaction of a killed client, which may be committing."""
    if dsns.parse_dsn(dsn).dialect == "postgres":
        fetch_rows(dsn, f"select pg_advisory_xact_lock({ADVISORY_LOCK})")


def step_for(dsn: str) -> int:
    """The distance between two cuts. Each takes a process, and most of a tenth of a second."""
    return 3 if dsns.parse_dsn(dsn).dialect == "sqlite" else 6


def cut_everywhere(
    dsn: str, work: Callable[[str], Any], cut: Callable[[int], None], allowed: Sequence[State], step: int = 1
) -> int:
    """Work again and again, cut a little later each time, until it is done; the number of the last cut.

    The first cut is a random one, so that many runs of the test cut everywhere.
    """
    for number in count(random.randint(1, step), step):
        if not cuts.killed(partial(work, dsn), partial(cut, number)):
            return number - step
        wait_for_the_lock(dsn)
        assert state(dsn) in allowed, f"cut at {number}"
    raise AssertionError


# Cut off


@one_of_each
@pytest.mark.usefixtures("later_migration")
def test_migrating_is_done_or_not_begun_when_killed_at_any_statement(dsn: str, other: str) -> None:
    asm.migrate(other)
    before, after = state(dsn), state(other)
    cut = cut_everywhere(dsn, asm.migrate, cut_at_statements(dsn), [before, after], step_for(dsn))
    assert (state(dsn), cut > len(files.MIGRATIONS)) == (after, True)


@one_of_each
def test_the_last_step_is_done_or_not_begun_when_killed_at_any_statement(older: str, other: str) -> None:
    asm.migrate(other)
    before, after = state(older), state(other)._replace(rows=ROWS)
    cut_everywhere(older, asm.migrate, cut_at_statements(older), [before, after], step_for(older))
    assert (before.pending, state(older)) == (list(files.MIGRATIONS)[-1:], after)


@one_of_each
@pytest.mark.usefixtures("later_migration")
def test_rolling_back_is_done_or_not_begun_when_killed_at_any_statement(migrated: str, other: str) -> None:
    asm.migrate(migrated)
    roll_back(other)
    before, after = state(migrated), state(other)
    cut = cut_everywhere(
        migrated, roll_back, cut_at_statements(migrated), [before, after], step_for(migrated)
    )
    assert (state(migrated), cut > len(files.MIGRATIONS)) == (after, True)


@files_only
def test_a_file_is_migrated_or_not_when_killed_in_any_write(dsn: str, other: str) -> None:
    # Reading the state creates the file.
    before, after = state(dsn), state(other)
    cut = cut_everywhere(dsn, asm.migrate, cuts.in_a_write, [before, after])
    assert (state(dsn), cut > 10) == (after, True)


@files_only
def test_a_file_is_rolled_back_or_not_when_killed_in_any_write(migrated: str, other: str) -> None:
    roll_back(other)
    before, after = state(migrated), state(other)
    cut_everywhere(migrated, roll_back, cuts.in_a_write, [before, after])
    assert state(migrated) == after


WAIT_FOR_YOYO_S = 60.0


@one_server
@pytest.mark.parametrize("work", [asm.migrate, roll_back])
def test_a_backend_that_is_terminated_before_any_statement_is_an_error_and_changes_nothing(
    migrated: str, work: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if work is asm.migrate:
        roll_back(migrated)
    monkeypatch.setattr(Migrator, "stale_after_s", WAIT_FOR_YOYO_S)
    before, terminator = state(migrated), cuts.Terminator(migrated, monkeypatch)
    for number in count(random.randint(1, 10), 10):
        terminator.before(number)
        begun = time.monotonic()
        try:
            done = work(migrated)
            break
        except asm.ConnectionFailed:
            terminator.before(0)
            assert state(migrated) == before, f"cut at {number}"
            # The lost connection is not taken for a held lock.
            assert time.monotonic() - begun < WAIT_FOR_YOYO_S
    assert (sorted(done), number > len(done)) == (list(files.MIGRATIONS), True)


@one_of_each
def test_what_yoyos_own_command_left_half_done_is_completed(
    dsn: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Migrator, "stale_after_s", 0.0)
    for number in count(1):
        if not cuts.killed(partial(apply_with_yoyo, dsn), partial(cuts.before_a_commit, number)):
            break
        asm.migrate(dsn)
        # The lock row of a process that was killed after its last migration locks nothing of asm's.
        assert state(dsn)._replace(is_locked=False) == state(other), f"cut at commit {number}"
        roll_back(dsn)
    assert number > len(files.MIGRATIONS)


@one_of_each
def test_what_yoyos_own_command_left_half_rolled_back_is_rolled_back(
    migrated: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Migrator, "stale_after_s", 0.0)
    roll_back(other)
    for number in count(1):
        if not cuts.killed(partial(roll_back_with_yoyo, migrated), partial(cuts.before_a_commit, number)):
            break
        roll_back(migrated)
        assert state(migrated)._replace(is_locked=False) == state(other), f"cut at commit {number}"
        asm.migrate(migrated)
    assert number > len(files.MIGRATIONS)


def apply_with_yoyo(dsn: str) -> None:
    backend = yoyo_package.get_backend(yoyo_url(dsn))
    with backend.lock():
        backend.apply_migrations(backend.to_apply(yoyo_package.read_migrations(str(migrations_of(dsn)))))


def roll_back_with_yoyo(dsn: str) -> None:
    backend = yoyo_package.get_backend(yoyo_url(dsn))
    with backend.lock():
        backend.rollback_migrations(
            backend.to_rollback(yoyo_package.read_migrations(str(migrations_of(dsn))))
        )


@one_of_each
def test_some_of_many_processes_that_migrate_at_once_may_be_killed(older: str, other: str) -> None:
    asm.migrate(other)
    cut = cut_at_statements(older)
    children = [
        cuts.begun(partial(asm.migrate, older), partial(cut, number))
        for number in (NEVER, 20, NEVER, 30, NEVER, 5, NEVER, 35)
    ]
    assert not any([cuts.was_killed(child) for child in children][::2])
    assert state(older) == state(other)._replace(rows=ROWS)


# Under an open store


def everything(store: Any) -> None:
    """Every operation once, except those that wait for other clients."""
    session = asm.Session(agent_id="a", tags=("pinned",), metadata={"n": 1})
    run = asm.Run(session_id=session.id, status="running", token_usage={"input_tokens": 3})
    store.save_session(session)
    store.save_run(run)
    first = store.append_event(an_event(session.id, run_id=run.id))
    assert numbers(store.append_events([first, an_event(session.id)])) == [1, 2]
    assert store.append_event(first) == first
    assert store.append_event(an_event(session.id), expected_sequence=2).sequence_number == 3
    assert numbers(store.flush(session, run, [first, an_event(session.id)])) == [1, 4]
    assert (store.get_session(session.id), store.get_run(run.id)) == (session, run)
    assert session in store.list_sessions(agent_id="a")
    assert (store.list_runs(session.id), store.get_active_run(session.id)) == ([run], run)
    assert numbers(store.get_events(session.id, after=1)) == [2, 3, 4]
    assert numbers(list(store.iter_events(session.id, page_size=3))) == [1, 2, 3, 4]
    assert numbers(list(store.follow_events(session.id, idle_timeout=0))) == [1, 2, 3, 4]
    assert store.get_latest_sequence(session.id) == 4
    everything_across_sessions(store, session, run)
    everything_of_transactions(store, session, first)
    everything_of_maintenance(store, session)
    store.delete_session(session.id)


def everything_across_sessions(store: Any, session: asm.Session, run: asm.Run) -> None:
    query, artifact = store.query, an_artifact(session.id, session_id=session.id)
    store.artifacts.register(artifact)
    assert (store.artifacts.get_by_key(session.id), store.artifacts.list_by_session(session.id)) == (
        artifact,
        [artifact],
    )
    assert store.artifacts.session_stats(session.id).artifact_count == 1
    assert session in query.search_sessions(tags="pinned", count_total=True).items
    assert run in query.search_runs(min_tokens=3, order_by="token_usage_desc").items
    assert numbers(query.search_events(session_ids=session.id).items) == [1, 2, 3, 4]
    assert query.count_events(session_ids=session.id) == 4
    assert query.get_session_stats(session.id).event_count == 4
    assert query.get_usage_summary(session_id=session.id).input_tokens == 3
    assert query.get_cost_summary(session_id=session.id).unmapped_runs == 1
    export = query.export_session(session.id, include_artifacts=True)
    assert (export.session, export.artifacts) == (session, [artifact])
    store.import_session(export)
    store.artifacts.delete(session.id)


def everything_of_transactions(store: Any, session: asm.Session, first: asm.Event) -> None:
    with store.transaction() as tx:
        assert numbers(tx.append_events([first, an_event(session.id)])) == [1, 5]
        assert (tx.get_session(session.id), numbers(tx.get_events(session.id, after=4))) == (session, [5])


def everything_of_maintenance(store: Any, session: asm.Session) -> None:
    policy = asm.RetentionPolicy(max_events_per_session=3, exempt_tags=())
    assert store.maintenance.execute(policy, dry_run=True).errors == []
    assert store.maintenance.execute(policy).errors == []
    assert store.maintenance.prune_session_events(session.id, policy) == 0
    assert store.maintenance.health_check() == []


WITH_ONE_CONNECTION = {"max_size": 1}
"""So that each statement runs again on the connection on which it was prepared."""


@pytest.fixture
def in_use(opened: Callable[..., Any], migrated: str) -> Any:
    """A store that has prepared every statement."""
    store = opened(migrated, **WITH_ONE_CONNECTION)
    everything(store)
    return store


OURS = ["asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts"]


def test_an_open_store_goes_on_when_every_table_gets_a_column(in_use: Any, migrated: str) -> None:
    for table in OURS:
        fetch_rows(migrated, f"alter table {table} add column later integer")
    everything(in_use)


@servers_only
def test_an_open_store_goes_on_when_columns_get_another_type(in_use: Any, migrated: str) -> None:
    for table in OURS:
        fetch_rows(migrated, text_columns_as(table, "varchar(1000)"))
    everything(in_use)


@servers_only
def test_a_script_is_prepared_again_when_columns_get_another_type(in_use: Any, migrated: str) -> None:
    # The fast path prepares lone queries, the driver those of a transaction.
    first = in_use.append_event(an_event())
    in_use.append_event(first)
    fetch_rows(migrated, text_columns_as("asm_events", "varchar(1000)"))
    assert in_use.append_event(first) == first


@servers_only
def test_a_callers_transaction_fails_with_a_retryable_error_when_columns_get_another_type(
    in_use: Any, migrated: str
) -> None:
    in_use.append_event(an_event())
    with in_use.transaction() as tx:
        tx.get_events("ses_1")
    fetch_rows(migrated, text_columns_as("asm_events", "varchar(1000)"))
    with pytest.raises(asm.StorageError) as raised, in_use.transaction() as tx:
        tx.get_events("ses_1")
    assert raised.value.retryable
    with in_use.transaction() as tx:
        assert numbers(tx.get_events("ses_1")) == [1]


def text_columns_as(table: str, type: str) -> str:
    """A statement that gives a table's session id another type, and with it the result columns."""
    column = "id" if table == "asm_sessions" else "session_id"
    return f"alter table {table} alter column {column} type {type}"


def test_what_is_appended_while_a_newer_asm_migrates_is_kept_and_numbered(
    migrated: str, opened: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, done = opened(migrated), threading.Event()

    def append(number: int) -> list[str]:
        ids = []
        while not done.is_set():
            ids.append(store.append_event(an_event(f"ses_{number % 2}")).id)
        return ids

    with ThreadPoolExecutor(CALLERS) as threads:
        appending = [threads.submit(append, number) for number in range(CALLERS)]
        try:
            for number in range(3):
                wait_for_more(store)
                newer = newer_asm(tmp_path / f"{number}", migrated, number)
                with monkeypatch.context() as patch:
                    use_folder(patch, newer)
                    assert len(asm.migrate(migrated)) == 1
            wait_for_more(store)
        finally:
            done.set()
        acknowledged = sorted(id for each in appending for id in each.result())
    kept = [store.get_events(session) for session in ("ses_0", "ses_1")]
    assert sorted(event.id for events in kept for event in events) == acknowledged
    assert [numbers(events) for events in kept] == [list(range(1, len(events) + 1)) for events in kept]


@servers_only
def test_migrating_begins_again_after_a_deadlock_with_a_writer(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(monkeypatch, newer_asm(tmp_path / "newer", migrated, 0))
    with ThreadPoolExecutor() as threads, driver_connection(migrated) as writing:
        writing.execute("begin")
        writing.execute("update asm_session_sequences set last_sequence = last_sequence")
        migrating = threads.submit(asm.migrate, migrated)
        while fetch_rows(migrated, "select 1 from pg_locks where not granted") == []:
            assert not migrating.done()
        # The migration began to wait first, so it is the first to look for a deadlock and fails.
        writing.execute("update asm_events set type = type")
        writing.execute("commit")
        assert migrating.result() == ["9990-later"]


def wait_for_more(store: Any) -> None:
    """Wait until an event is appended."""
    latest = store.get_latest_sequence("ses_1")
    assert store.get_events("ses_1", after=latest, wait_timeout=60)


def newer_asm(to: Path, dsn: str, number: int) -> Path:
    """An `sql` folder with more migrations, each of which needs locks that appends hold."""
    folder = copied_folder(to)
    migrations, depends = folder / dsns.parse_dsn(dsn).dialect / "migrations", files.MIGRATIONS[-1]
    for later in range(number + 1):
        statement = f"alter table asm_events add column later_{later} integer;"
        if dsns.parse_dsn(dsn).dialect == "postgres":
            kinds = ["varchar(1000)", "text"]
            statement += f"\n\n{text_columns_as('asm_session_sequences', kinds[later % 2])};"
        file = migrations / f"999{later}-later.sql"
        file.write_text(f"-- depends: {depends}\n\n{statement}\n")
        file.with_suffix(".rollback.sql").write_text(f"alter table asm_events drop column later_{later};\n")
        depends = f"999{later}-later"
    return folder


OPERATIONS: list[Callable[[Any], object]] = [
    lambda store: store.save_session(asm.Session(agent_id="a", id="ses_1")),
    lambda store: store.get_session("ses_1"),
    lambda store: store.append_event(an_event()),
    lambda store: store.append_events([an_event(), an_event("ses_2")]),
    lambda store: store.flush(asm.Session(agent_id="a", id="s"), asm.Run(session_id="s"), [an_event("s")]),
    lambda store: store.get_events("ses_1", wait_timeout=5),
    lambda store: list(store.follow_events("ses_1", idle_timeout=5)),
    lambda store: store.artifacts.register(an_artifact()),
    lambda store: store.query.search_sessions(),
    lambda store: store.query.export_session("ses_1"),
    lambda store: store.maintenance.health_check(),
]


def test_an_open_store_says_that_its_tables_are_missing_and_works_when_they_are_back(
    in_use: Any, migrated: str
) -> None:
    roll_back(migrated)
    for operation in OPERATIONS:
        with pytest.raises(asm.MigrationRequired, match="asm migrate"):
            operation(in_use)
    asm.migrate(migrated)
    everything(in_use)


def test_while_a_migration_holds_the_tables_writers_time_out_and_readers_read(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, timeout=SHORT_S)
    store.append_event(an_event())
    with driver_connection(migrated) as migrating:
        for statement in HOLDING[dsns.parse_dsn(migrated).dialect]:
            migrating.execute(statement)
        with pytest.raises(asm.StorageTimeout):
            store.append_event(an_event())
        assert numbers(store.get_events("ses_1")) == [1]
        migrating.execute("commit")
    assert store.append_event(an_event()).sequence_number == 2


HOLDING = {
    "sqlite": ["begin immediate", "create index later on asm_events (type)"],
    "postgres": ["begin", "create index later on asm_events (type)"],
}


def test_migrating_waits_for_writers_for_a_limited_time(older: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Migrator, "lock_timeout_s", 0.2)
    before = state(older)
    with driver_connection(older) as writing:
        writing.execute("begin immediate" if dsns.parse_dsn(older).dialect == "sqlite" else "begin")
        writing.execute("update asm_events set type = type")
        writing.execute("update asm_runs set status = status")
        writing.execute("update asm_sessions set status = status")
        with pytest.raises(asm.StorageTimeout):
            asm.migrate(older)
        writing.execute("rollback")
    assert state(older) == before
