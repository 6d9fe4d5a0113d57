"""The roles of docs/roles.md: what each can do, and that all else is an error that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import asm
from asm.engine.script import Query, no_result
from asm.migrations.runner import migrate_with, status
from asm.operations import checkpoints
from tests.conftest import POSTGRES, an_artifact, an_event
from tests.contract.other_clients import STEPS, fetch_rows, only
from tests.contract.test_cli import output_of
from tests.contract.test_opening import CALLS, MAINTENANCE_CALLS
from tests.contract.test_optional_migrations import put, run_on

pytestmark = only(POSTGRES, why="SQLite has no roles")

PAGE = (Path(__file__).parents[2] / "docs" / "roles.md").read_text("utf-8")
SET_UP, GRANTS, LANGGRAPH_GRANTS = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ROLES = ("asm_migrator", "asm_reader", "asm_writer", "asm_operator")
SCHEMA = "agents"
INSUFFICIENT_PRIVILEGE = "42501"
POLICY = asm.RetentionPolicy(max_completed_session_age_days=1, max_events_per_session=1)

Opener = Callable[..., Any]


class Roles:
    """The roles of the page in one database. All databases of a server share roles, so each has its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._suffix = f"_{uuid4().hex}"

    def run(self, statements: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(re.sub(rf"\b({'|'.join(ROLES)})\b", rf"\1{self._suffix}", statements).encode())

    def dsn(self, role: str, **options: str) -> str:
        password = str(conninfo_to_dict(self._dsn).get("password", ""))
        return make_conninfo(self._dsn, user=role + self._suffix, password=password, **options)

    def set_up(self) -> None:
        self.run(SET_UP)
        password = str(conninfo_to_dict(self._dsn).get("password", "")).replace("'", "''")
        for role in ROLES:
            self.run(f"alter role {role} password '{password}'")
        assert asm.migrate(self.dsn("asm_migrator"), schema=SCHEMA) == STEPS
        self.run(GRANTS)

    def drop(self) -> None:
        for role in ROLES[::-1]:
            self.run(f"drop owned by {role} cascade; drop role {role}")


@pytest.fixture
def roles(dsn: str) -> Iterator[Roles]:
    roles = Roles(dsn)
    roles.set_up()
    yield roles
    roles.drop()


def a_session(id: str, **fields: Any) -> asm.Session:
    long_ago = datetime.now(UTC) - timedelta(days=60)
    return asm.Session(agent_id="a", id=id, created_at=long_ago, updated_at=long_ago, **fields)


def write(store: Any) -> None:
    """What a writer does."""
    session = a_session("ses_1", tags=("x",))
    run = asm.Run(session_id="ses_1", id="run_1")
    store.save_session(session)
    store.save_session(session.update_status("active"))
    store.save_run(run)
    run = run.set_output({"ok": True})
    store.save_run(run)
    store.append_event(an_event())
    store.append_events([an_event(), an_event()])
    store.flush(session, run, [an_event()])
    store.artifacts.register(an_artifact(session_id="ses_1"))
    store.artifacts.delete("report.pdf")
    with store.transaction() as tx:
        tx.append_event(an_event())
    for id in ("ses_2", "ses_3"):
        other = a_session(id, status="completed")
        store.import_session(asm.SessionExport(session=other, runs=[], events=[], artifacts=[]))


def read(store: Any) -> None:
    """What a reader does."""
    assert store.get_session("ses_1").tags == ("x",)
    assert store.get_run("run_1").status == "completed"
    assert len(store.get_events("ses_1")) == 5
    assert len(list(store.follow_events("ses_1", idle_timeout=0.01))) == 5
    assert len(store.query.search_sessions(tags="x").items) == 1
    assert store.query.count_events(types="message_sent") == 5
    assert store.query.get_usage_summary().run_count == 1
    assert store.query.get_cost_summary().run_count == 1
    assert store.query.get_session_stats("ses_1").event_count == 5
    assert store.query.export_session("ses_1").session.id == "ses_1"
    assert store.artifacts.list_by_session("ses_1") == []
    assert store.maintenance.health_check() == []


def check_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(asm.StorageError, match=r"this role lacks a grant.*permission denied") as raised:
        call()
    assert (raised.value.details["sqlstate"], raised.value.retryable) == (INSUFFICIENT_PRIVILEGE, False)


READER = {
    *("get_session", "get_sessions", "list_sessions", "get_run", "list_runs", "get_active_run"),
    *("get_event", "get_events", "iter_events", "follow_events", "get_latest_sequence"),
    *("artifacts.get_by_key", "artifacts.list_by_session", "artifacts.session_stats"),
    *("health_check", "list_stale_runs"),
    *(name for name in CALLS if name.startswith("query.")),
}
WRITER = READER | {
    *("save_session", "update_session", "fork_session", "save_run", "update_run", "flush"),
    *("append_event", "append_events", "pop_event", "delete_events", "import_session"),
    *("artifacts.register", "artifacts.delete", "soft_delete_expired_sessions", "prune_session_events"),
}
EXPIRE = f"""
    update {SCHEMA}.asm_sessions set updated_at = now() - interval '1 year';
    update {SCHEMA}.asm_sessions set deleted_at = updated_at where id = 'ses_3';
    update {SCHEMA}.asm_artifacts set created_at = now() - interval '1 year';
    insert into {SCHEMA}.asm_session_sequences values ('ses_none', 1, 0, now() - interval '1 year');
"""
"""Makes something to do for every step of retention."""

NEW = asm.SessionExport(session=asm.Session(agent_id="a", id="ses_new"))
EVERYTHING = CALLS | MAINTENANCE_CALLS | {"import_session": lambda store: store.import_session(NEW)}


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("asm_reader", READER),
        ("asm_writer", WRITER),
        ("asm_operator", set(EVERYTHING)),
        ("asm_migrator", set(EVERYTHING)),
    ],
)
def test_a_role_may_do_what_the_page_says_and_nothing_else(
    roles: Roles, opened: Opener, role: str, allowed: set[str]
) -> None:
    writer = opened(roles.dsn("asm_writer"), schema=SCHEMA)
    write(writer)
    writer.artifacts.register(an_artifact("orphan", session_id="ses_none"))
    roles.run(EXPIRE)
    before = contents(roles)
    store = opened(roles.dsn(role), schema=SCHEMA)
    assert {name for name, call in EVERYTHING.items() if not is_refused(call, store)} == allowed
    assert (contents(roles) == before) == (role == "asm_reader")


def is_refused(call: Callable[[Any], Any], store: Any) -> bool:
    """Whether the role lacks a grant for an operation, or for a step of retention."""
    try:
        result = call(store)
    except (asm.NotFound, asm.Conflict):
        return False
    except asm.StorageError as error:
        if error.details["sqlstate"] != INSUFFICIENT_PRIVILEGE:
            raise
        return True
    return isinstance(result, asm.MaintenanceReport) and result.errors != []


def contents(roles: Roles) -> list[Any]:
    tables = ("sessions", "runs", "events", "session_sequences", "artifacts")
    return [fetch_rows(roles._dsn, f"select * from {SCHEMA}.asm_{table} order by 1, 2") for table in tables]


def test_a_writer_writes_and_reads(roles: Roles, opened: Opener) -> None:
    store = opened(roles.dsn("asm_writer"), schema=SCHEMA)
    write(store)
    read(store)


def test_a_reader_reads_also_in_a_transaction(roles: Roles, opened: Opener) -> None:
    write(opened(roles.dsn("asm_writer"), schema=SCHEMA))
    store = opened(roles.dsn("asm_reader"), schema=SCHEMA)
    read(store)
    with store.transaction() as tx:
        assert tx.get_session("ses_1").id == "ses_1"


def test_a_reader_uses_the_commands_that_read(roles: Roles, tmp_path: Path) -> None:
    with asm.SessionStore(roles.dsn("asm_writer"), schema=SCHEMA) as store:
        write(store)
    options = ["--dsn", roles.dsn("asm_reader"), "--schema", SCHEMA]
    for command in ("status", "sessions", "show ses_1", "stats ses_1", "usage", "cost", "health"):
        output_of(*command.split(), *options)
    for command in ("search sessions", "search runs", "search events", "export --all --artifacts"):
        output_of(*command.split(), *options)
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    output_of("copy", roles.dsn("asm_reader"), copy, "--from-schema", SCHEMA)
    output_of("copy", copy, roles.dsn("asm_writer"), "--to-schema", SCHEMA)


def test_an_operator_deletes_what_has_expired(roles: Roles, opened: Opener) -> None:
    write(opened(roles.dsn("asm_writer"), schema=SCHEMA))
    store = opened(roles.dsn("asm_operator"), schema=SCHEMA)
    report = store.maintenance.execute(POLICY)
    assert (report.errors, report.sessions_soft_deleted, report.events_pruned) == ([], 2, 4)
    fetch_rows(roles._dsn, f"update {SCHEMA}.asm_sessions set deleted_at = now() - interval '1 year'")
    assert store.maintenance.hard_delete_expired_sessions(asm.RetentionPolicy(exempt_statuses=())) == 3
    write(store)
    store.delete_session("ses_1")
    assert store.maintenance.clean_orphaned_artifacts() == 0


def test_an_operator_deletes_sessions_with_their_checkpoints_without_a_grant_on_these(
    roles: Roles, opened: Opener
) -> None:
    migrate_with(["langgraph"], roles.dsn("asm_migrator"), schema=SCHEMA)
    owner = opened(roles.dsn("asm_migrator"), schema=SCHEMA)
    for id in ("ses_1", "ses_2", "ses_3"):
        put(owner, id)
    fetch_rows(roles._dsn, f"update {SCHEMA}.asm_sessions set updated_at = now() - interval '1 year'")
    fetch_rows(roles._dsn, f"update {SCHEMA}.asm_sessions set deleted_at = updated_at where id = 'ses_2'")
    store = opened(roles.dsn("asm_operator"), schema=SCHEMA)
    store.delete_session("ses_1")

    report = store.maintenance.execute(asm.RetentionPolicy(exempt_statuses=()))
    assert (report.errors, report.sessions_hard_deleted) == ([], 1)
    assert fetch_rows(roles._dsn, f"select session_id from {SCHEMA}.asm_checkpoints") == [("ses_3",)]


@pytest.mark.parametrize("function", ["asm_delete_checkpoints", "asm_note_unindexed_events"])
def test_no_role_makes_a_trigger_of_a_function_with_the_rights_of_the_owner(
    roles: Roles, function: str
) -> None:
    migrate_with(["langgraph", "text-search"], roles.dsn("asm_migrator"), schema=SCHEMA)
    trigger = f"create trigger t after delete on s for each row execute function {SCHEMA}.{function}()"
    with psycopg.connect(roles.dsn("asm_operator")) as connection:
        connection.execute("create temp table s (id text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=function):
            connection.execute(trigger.encode())


def test_a_writer_puts_and_deletes_checkpoints_and_a_reader_reads_them(roles: Roles, opened: Opener) -> None:
    migrate_with(["langgraph"], roles.dsn("asm_migrator"), schema=SCHEMA)
    roles.run(LANGGRAPH_GRANTS)
    writer = opened(roles.dsn("asm_writer"), schema=SCHEMA)
    config = {"configurable": {"thread_id": "ses_1", "checkpoint_id": "checkpoint_1"}}
    put(writer, "ses_1")
    run_on(writer, checkpoints.put_writes(config, "task", "", {0: ("a", ("json", b"[]"))}))
    run_on(writer, checkpoints.copy_thread("ses_1", "ses_2"))

    reader = opened(roles.dsn("asm_reader"), schema=SCHEMA)
    assert len(run_on(reader, checkpoints.get_checkpoint(config)).writes) == 1
    check_refused(lambda: put(reader, "ses_1"))
    check_refused(lambda: run_on(writer, checkpoints.delete_thread("ses_1")))
    deleted = Query("delete_thread_checkpoints", {"session_id": "ses_1"}, no_result)
    run_on(writer, deleted)
    assert fetch_rows(roles._dsn, f"select session_id from {SCHEMA}.asm_checkpoints") == [("ses_2",)]


def test_with_the_index_of_words_no_role_needs_another_grant(roles: Roles, opened: Opener) -> None:
    owner = roles.dsn("asm_migrator")
    asm.migrate(owner, schema=SCHEMA, text_search=True)
    writer, reader, operator = (
        opened(roles.dsn(role), schema=SCHEMA) for role in ("asm_writer", "asm_reader", "asm_operator")
    )
    writer.append_events([an_event(data={"content": "needle"}) for _ in range(3)])
    assert reader.query.count_events(text="needle") == 3
    asm.migrate(owner, schema=SCHEMA, text_search=True)
    writer.pop_event("ses_1")
    assert reader.query.count_events(text="needle") == 2
    operator.delete_session("ses_1")

    assert fetch_rows(roles._dsn, f"select * from {SCHEMA}.asm_event_words") == []


@pytest.mark.parametrize("role", ["asm_reader", "asm_writer", "asm_operator"])
def test_every_role_sees_that_nothing_is_pending_and_changes_no_table(roles: Roles, role: str) -> None:
    dsn = roles.dsn(role)
    assert (asm.pending_migrations(dsn, schema=SCHEMA), asm.migrate(dsn, schema=SCHEMA)) == ([], [])
    assert status(dsn, schema=SCHEMA).applied == STEPS
    check_refused(lambda: asm.rollback(dsn, schema=SCHEMA))
    roles.run(f"drop table {SCHEMA}.asm_artifacts")
    assert asm.pending_migrations(dsn, schema=SCHEMA) == STEPS
    check_refused(lambda: asm.migrate(dsn, schema=SCHEMA))


def test_the_migrator_rolls_back(roles: Roles) -> None:
    assert asm.rollback(roles.dsn("asm_migrator"), schema=SCHEMA, steps=None) == STEPS[::-1]
    assert asm.migrate(roles.dsn("asm_migrator"), schema=SCHEMA) == STEPS


def test_a_role_finds_the_tables_by_its_search_path(roles: Roles, opened: Opener) -> None:
    dsn = roles.dsn("asm_writer", options=f"-c search_path=nowhere,{SCHEMA}")
    assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == ([], [])
    write(opened(dsn))


def test_a_role_without_any_grant_is_told_which_it_lacks(roles: Roles, opened: Opener) -> None:
    roles.run(f"revoke usage on schema {SCHEMA} from asm_reader")
    check_refused(lambda: opened(roles.dsn("asm_reader"), schema=SCHEMA))
    check_refused(lambda: asm.pending_migrations(roles.dsn("asm_reader"), schema=SCHEMA))
