"""What the logger `asm` gets, and what it never does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

import asm
from tests.conftest import POSTGRES, an_artifact, an_event, events_of
from tests.contract.other_clients import ROOT, only
from tests.contract.test_opening import CALLS, MAINTENANCE_CALLS
from tests.fault.concurrent_writers import wait_until
from tests.fault.proxy import Proxy

Opener = Callable[..., Any]

MARKER = "s3cr3t"
postgres_only = only(POSTGRES[:1], why="SQLite has no connection that could be lost")


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of a program that has DEBUG turned on for `asm`."""
    caplog.set_level(logging.DEBUG, "asm")
    return caplog


def lines(log: pytest.LogCaptureFixture, level: int | None = None) -> list[str]:
    """The messages of `asm`, as docs/logging.md shows them."""
    return [
        f"{record.levelname} asm: {record.getMessage()}"
        for record in log.records
        if record.name == "asm" and level in (None, record.levelno)
    ]


def in_batches(store: Any, log: pytest.LogCaptureFixture) -> None:
    """Append from many threads until two appends have shared a commit."""
    with ThreadPoolExecutor(8) as threads:
        wait_until(
            lambda: list(threads.map(store.append_event, events_of("ses_1", 16))) and "events)" in log.text
        )


# Statements


NAMES = {
    "append_event": ["append_event"],
    "append_events": ["append_events"],
    "get_events": ["get_events"],
    "iter_events": ["get_events"],
    "get_active_run": ["get_active_run: find_active_run"],
    "artifacts.delete": ["delete: delete_artifact"],
    "query.count_events": ["count_events"],
    "query.export_session": ["export_session: get_session"],
    "delete_session": ["delete_session: lock_counters", "delete_session"],
}


@pytest.mark.parametrize("name", NAMES)
def test_at_debug_each_statement_is_a_line_with_the_stores_method(
    store: Any, log: pytest.LogCaptureFixture, name: str
) -> None:
    store.flush(asm.Session(agent_id="agent", id="ses_1"), asm.Run(session_id="ses_1"), [])
    log.clear()
    CALLS[name](store)
    found = [line.partition(" took ")[0] for line in lines(log, logging.DEBUG)]
    assert found[: len(NAMES[name])] == [f"DEBUG asm: {each}" for each in NAMES[name]]
    assert all(line.endswith(" ms") for line in lines(log))


ONE_PAGE = {
    **dict.fromkeys(("iter_events", "follow_events"), "get_events"),
    **{f"query.iter_{rows}": f"search_{rows}" for rows in ("sessions", "runs", "events")},
}
"""The method that reads one page of what an iterator yields."""


def test_each_line_begins_with_the_name_of_the_method_that_was_called(
    store: Any, log: pytest.LogCaptureFixture
) -> None:
    store.flush(asm.Session(agent_id="agent", id="ses_1"), asm.Run(session_id="ses_1"), [an_event()])
    called = {}
    for name, call in {**CALLS, **MAINTENANCE_CALLS}.items():
        log.clear()
        with suppress(asm.NotFound, asm.Conflict):
            call(store)
        found = {line.removeprefix("DEBUG asm: ").partition(" took ")[0] for line in lines(log)}
        called[name] = {each.partition(":")[0] for each in found}
    assert called == {name: {ONE_PAGE.get(name, name.rpartition(".")[2])} for name in called}


def test_a_transaction_and_a_job_name_their_methods(store: Any, log: pytest.LogCaptureFixture) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())
    store.maintenance.health_check()
    assert "append_event: lock_counters took" in log.text
    assert "health_check: find_range_end took" in log.text


@postgres_only
def test_through_a_borrowed_pool_each_statement_of_a_pipeline_names_its_method(
    migrated: str, log: pytest.LogCaptureFixture
) -> None:
    with ConnectionPool(migrated, min_size=1, open=True) as pool, asm.SessionStore(pool=pool) as store:
        store.flush(asm.Session(agent_id="agent", id="ses_1"), asm.Run(session_id="ses_1"), [an_event()])
    assert "flush: save_session took" in log.text


def test_appends_that_share_a_commit_are_one_line_with_their_number(
    store: Any, log: pytest.LogCaptureFixture
) -> None:
    in_batches(store, log)
    assert re.search(r"append_events \([2-9]\d* events\) took", log.text)


def test_a_statement_that_is_slower_than_slow_statement_is_a_warning(
    migrated: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(migrated, slow_statement=0)
    store.append_event(an_event())
    assert re.search(
        r"WARNING asm: append_event took \d+\.\d{3} s, more than slow_statement=0$",
        "\n".join(lines(caplog, logging.WARNING)),
    )


def test_a_statement_that_is_not_slower_is_no_warning(
    migrated: str, opened: Opener, log: pytest.LogCaptureFixture
) -> None:
    store = opened(migrated, slow_statement=float("inf"))
    store.append_event(an_event())
    assert lines(log, logging.WARNING) == []
    assert any(line.startswith("DEBUG asm: append_event took") for line in lines(log))


def test_at_info_a_store_that_meets_no_fault_logs_nothing(
    dsn: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asm.migrate(dsn)
    with opened(dsn) as store:
        for call in (*CALLS.values(), *MAINTENANCE_CALLS.values()):
            with suppress(asm.NotFound, asm.Conflict):
                call(store)
    asm.rollback(dsn)
    assert [record for record in caplog.records if record.name.startswith(("asm", "yoyo"))] == []


def test_yoyos_lines_are_at_debug(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asm.migrate(dsn)
    found = {record.levelno for record in caplog.records if record.name.startswith("yoyo")}
    assert found == {logging.DEBUG}


# Retries


@postgres_only
def test_an_operation_that_is_retried_is_one_warning_and_one_info(
    proxy: Proxy, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asm")
    store = opened(proxy.dsn)
    proxy.cut_when(b"evt_lost", "before")
    store.append_event(an_event(id="evt_lost"))
    first, second = lines(caplog)
    assert re.match(r"WARNING asm: append_event failed and is retried in \d\.\d\d s: \w+", first)
    assert re.match(r"INFO asm: append_event succeeded after 1 retry in \d\.\d\d s$", second)
    assert "\n" not in first


@postgres_only
def test_a_server_that_is_away_when_a_store_opens_is_one_warning_and_one_info(
    proxy: Proxy, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asm")
    proxy.refuse()
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(opened, proxy.dsn, retry_for=60)
        wait_until(lambda: lines(caplog))
        proxy.accept()
        opening.result()
    first, second = lines(caplog)
    assert first.startswith("WARNING asm: opening the store failed and is retried in ")
    assert second.startswith("INFO asm: opening the store succeeded after ")


@postgres_only
def test_an_error_that_no_retry_can_cure_is_raised_and_not_logged(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asm")
    store.artifacts.register(an_artifact())
    with pytest.raises(asm.AlreadyExists):
        store.artifacts.register(an_artifact())
    assert lines(caplog) == []


# What no line contains


def test_no_line_contains_what_is_stored_or_searched_for(
    migrated: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(migrated, slow_statement=0) as store:
        use_with_marker(store)
    with opened(migrated) as store:
        use_with_marker(store)
    assert "append_event" in caplog.text
    assert MARKER not in caplog.text


@postgres_only
def test_the_line_of_a_retry_contains_no_data_and_no_password(
    proxy: Proxy, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = opened(proxy.dsn)
    for times in range(1, 4):
        proxy.cut_when(MARKER.encode(), "in", times=times)
        use_with_marker(store)
    assert "is retried in" in caplog.text
    assert MARKER not in caplog.text
    password = conninfo_to_dict(proxy.dsn).get("password")
    assert not password or str(password) not in caplog.text


def use_with_marker(store: Any) -> None:
    marked = {MARKER: f"{MARKER}\n%s %d {{}}"}
    session = asm.Session(
        agent_id=MARKER, id=MARKER, metadata=marked, context=marked, tags=[MARKER, f"{MARKER} 2"]
    )
    run = asm.Run(session_id=MARKER, input=marked, provider=MARKER, error=marked)
    events = [an_event(MARKER, data=marked, metadata=marked, correlation_id=MARKER) for _ in range(3)]
    store.flush(session, run, events)
    store.append_event(an_event(MARKER, type=f"{MARKER}.event"))
    store.get_events(MARKER, type=f"{MARKER}.event")
    store.query.search_sessions(tags=[MARKER], agent_id=MARKER)
    export = store.query.export_session(MARKER)
    store.import_session(export)
    with store.transaction() as tx:
        tx.append_event(an_event(MARKER, data=marked))
    with pytest.raises(asm.SessionNotFound):
        store.get_session(f"{MARKER} unknown")
    store.maintenance.execute(asm.RetentionPolicy(max_events_per_session=1))
    store.delete_session(MARKER)


# The page


PAGE = ROOT / "docs" / "logging.md"


def without_values(line: str) -> str:
    """A line without its numbers, and without the driver's reason."""
    return re.sub(r"( s: ).*", r"\1", re.sub(r"\d+(\.\d+)?|retry|retries", "0", line))


@postgres_only
def test_each_line_that_the_page_shows_is_logged(
    proxy: Proxy, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asm")
    proxy.refuse()
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(opened, proxy.dsn, retry_for=60)
        wait_until(lambda: lines(caplog))
        proxy.accept()
        store = opening.result()
    proxy.cut_when(b"evt_lost", "before")
    store.append_event(an_event(id="evt_lost"))
    in_batches(store, caplog)
    for each in (store, opened(proxy.dsn, slow_statement=0)):
        each.get_events("ses_1")
        each.get_active_run("ses_1")
        each.save_session(asm.Session(agent_id="agent", id="ses_1"))
        each.delete_session("ses_1")
    shown = [
        line
        for block in re.findall(r"```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        for line in block.splitlines()
    ]
    logged = {without_values(line) for line in lines(caplog)}
    assert [line for line in shown if without_values(line) not in logged] == []
    assert len(shown) == 10


def test_the_example_of_the_page_runs() -> None:
    logger = logging.getLogger("asm")
    level = logger.level
    try:
        for example in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            exec(example, {})
        assert logger.isEnabledFor(logging.INFO)
    finally:
        logger.setLevel(level)
