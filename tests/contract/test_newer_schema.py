"""Programs on a database that a newer release of asm has migrated: expand, then contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import asm
from asm import dsn as dsns
from tests.conftest import an_artifact, an_event, numbers
from tests.contract.other_clients import (
    LAST_STEP,
    STEPS,
    copied_folder,
    ids_in,
    read_line,
    running,
    send_line,
)
from tests.fault.concurrent_writers import wait_until

Opener = Callable[..., Any]

THREADS = 4
MIGRATIONS = 2

EXPAND = """
create table asm_notes_{number} (id integer primary key, session_id text);
create index asm_notes_{number}_by_session on asm_notes_{number} (session_id);
alter table asm_sessions add column later_{number} text;
alter table asm_runs add column later_{number} integer default 7;
alter table asm_events add column later_{number} text not null default 'x';
alter table asm_session_sequences add column later_{number} integer not null default 0;
alter table asm_artifacts add column later_{number} text;
create index asm_events_later_{number} on asm_events (later_{number});
create index asm_runs_later_{number} on asm_runs (session_id, later_{number});
"""
"""What an older release does not notice."""

CONTRACT = """
alter table asm_events rename column correlation_id to trace_id;
alter table asm_runs rename column provider_metadata to vendor_metadata;
"""
"""What an older release needs."""


def migrate_in_another_process(dsn: str, folder: Path, statements: str, number: int = 0) -> str:
    """Apply a made-up migration of a newer release, whose `sql` folder this makes; its id."""
    sql = copied_folder(folder)
    migrations, depends = sql / dsns.parse_dsn(dsn).dialect / "migrations", LAST_STEP
    for n in range(number + 1):
        file = migrations / f"999{n}-newer.sql"
        file.write_text(f"-- depends: {depends}\n{statements.format(number=n)}")
        file.with_suffix(".rollback.sql").touch()
        depends = file.stem
    with running("tests.contract.migrating", dsn, str(sql), *ids_in(sql)) as process:
        send_line(process)
        assert [read_line(process), json.loads(read_line(process))] == ["ready", [depends]]
    return depends


def write_and_read(store: Any, name: str) -> list[str]:
    """The ids of the events appended."""
    session = asm.Session(id=name, agent_id="a", tags=("pinned",))
    run = asm.Run(session_id=name, token_usage={"input_tokens": 3})
    store.save_session(session)
    store.save_run(run)
    appended = [store.append_event(an_event(name)), *store.append_events([an_event(name), an_event(name)])]
    appended += store.flush(session, run, [an_event(name)])
    appended.append(append_in_transaction(store, an_event(name)))
    store.artifacts.register(an_artifact(appended[0].id, session_id=name))
    assert store.get_session(name).tags == ("pinned",)
    assert store.get_run(run.id) == run
    assert appended[-1] in store.get_events(name)
    assert name in [found.id for found in store.query.search_sessions(tags="pinned").items]
    assert store.query.get_session_stats(name).event_count >= len(appended)
    return [event.id for event in appended]


def append_in_transaction(store: Any, event: asm.Event) -> asm.Event:
    """Append an event in a transaction, which is repeated as an application repeats it.

    A migration locks tables in another order than a transaction that appends, so that one of the two may
    end in a deadlock.
    """
    while True:
        try:
            with store.transaction() as tx:
                stored: asm.Event = tx.append_event(event)
                return stored
        except asm.StorageError as error:
            if not error.retryable:
                raise


class Use(NamedTuple):
    """What threads have done with a store."""

    appended: dict[str, list[str]]
    """The ids of the events of each thread, by session."""

    threads: list[Future[None]]

    def wait_for_all(self) -> None:
        """Return when every thread has used the store since the call, or when one has failed."""
        before = {name: len(ids) for name, ids in self.appended.items()}
        wait_until(
            lambda: (
                any(thread.done() for thread in self.threads)
                or all(len(ids) > before.get(name, 0) for name, ids in self.appended.items())
            )
        )


@contextmanager
def used_by_threads(store: Any) -> Iterator[Use]:
    """Threads that use a store all the time, until the end of the block."""
    done, appended = threading.Event(), dict[str, list[str]]()

    def use(name: str) -> None:
        while not done.is_set():
            appended.setdefault(name, []).extend(write_and_read(store, name))

    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(use, f"ses_thread_{n}") for n in range(THREADS)]
        try:
            yield Use(appended, futures)
        finally:
            done.set()
        for future in futures:
            future.result()


def test_an_open_store_goes_on_while_another_process_adds_to_the_schema(
    migrated: str, opened: Opener, tmp_path: Path
) -> None:
    store = opened(migrated)
    with used_by_threads(store) as use:
        for number in range(MIGRATIONS):
            migrate_in_another_process(migrated, tmp_path / f"{number}", EXPAND, number)
            use.wait_for_all()
    for name, ids in use.appended.items():
        events = store.get_events(name)
        assert [event.id for event in events] == ids
        assert numbers(events) == list(range(1, len(ids) + 1))


def test_an_older_program_opens_a_database_that_is_newer(
    migrated: str, opened: Opener, tmp_path: Path
) -> None:
    migrate_in_another_process(migrated, tmp_path / "newer", EXPAND)
    assert asm.pending_migrations(migrated) == []
    write_and_read(opened(migrated), "ses_older")


def in_transaction(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())


NOT_FITTING: dict[str, Callable[[Any], object]] = {
    "a lone append": lambda store: store.append_event(an_event()),
    "a batch": lambda store: store.append_events([an_event(), an_event("ses_2")]),
    "a save": lambda store: store.save_run(asm.Run(session_id="ses_1")),
    "a read": lambda store: store.get_events("ses_1"),
    "a transaction": in_transaction,
}


def test_a_statement_that_does_not_fit_a_newer_schema_names_both_versions(
    migrated: str, opened: Opener, tmp_path: Path
) -> None:
    store = opened(migrated, max_size=1)
    store.append_event(an_event())
    newest = migrate_in_another_process(migrated, tmp_path / "newer", CONTRACT)
    for name, call in NOT_FITTING.items():
        with pytest.raises(asm.MigrationRequired, match=rf"{STEPS[-1]}.*{newest}; upgrade asm") as raised:
            call(store)
        assert raised.value.details["program_migration"] == STEPS[-1], name
        assert raised.value.details["database_migration"] == newest
    assert store.get_latest_sequence("ses_1") == 1
    assert store.list_sessions() == []
