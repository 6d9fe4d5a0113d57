"""Exports and imports: a session of one store in another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from asm import dsn as dsns
from asm.export_files import archives
from asm.models import new_id
from asm.operations import exports, imports
from tests.conftest import POSTGRES, an_artifact, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows, only, run_operation, with_interference
from tests.contract.planted_files import names_in

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def store_session(store: Any, id: str = "ses_1", events: int = 3, **fields: Any) -> asm.Session:
    """A stored session with two runs, some events, and two artifacts, of which one is deleted."""
    session = asm.Session(
        agent_id="agent", id=id, tags=("b", "a"), metadata={"n": 10**30}, created_at=NOON, **fields
    )
    for number in range(2):
        run = asm.Run(
            id=f"run_{number}",
            session_id=id,
            input=[1, {"x": "\ud800"}],
            token_usage={"input_tokens": 3},
            started_at=NOON + timedelta(seconds=number),
            cost_usd=0.1,
            provider_metadata={"model": "gpt-4o"},
        )
        store.flush(session, run)
        store.artifacts.register(an_artifact(f"{id} {number}", session_id=id, run_id=run.id))
    store.artifacts.delete(f"{id} 1")
    store.append_events(events_of(id, events, run_id="run_0", timestamp=NOON))
    return session


# Exporting.


def test_an_export_has_the_session_its_runs_and_its_events(store: Any) -> None:
    session = store_session(store)
    store_session(store, "ses_2")
    export = store.query.export_session("ses_1")
    assert export.session == session
    assert (export.runs, export.events) == (store.list_runs("ses_1"), store.get_events("ses_1"))
    assert (export.last_sequence, export.pruned_events) == (3, 0)


def test_artifacts_are_exported_if_requested(store: Any) -> None:
    store_session(store)
    assert store.query.export_session("ses_1").artifacts == []
    live, deleted = store.query.export_session("ses_1", include_artifacts=True).artifacts
    assert ([live], deleted.deleted_at is None) == (store.artifacts.list_by_session("ses_1"), False)


def test_a_session_without_other_rows_is_exported(store: Any) -> None:
    session = asm.Session(agent_id="agent")
    store.save_session(session)
    assert store.query.export_session(session.id) == asm.SessionExport(session=session)


def test_a_soft_deleted_session_is_exported(store: Any) -> None:
    session = store_session(store, deleted_at=NOON)
    assert store.query.export_session("ses_1").session == session


def test_an_unknown_session_cannot_be_exported(store: Any) -> None:
    store.append_event(an_event("ses_1"))
    with pytest.raises(asm.SessionNotFound, match="'ses_1'"):
        store.query.export_session("ses_1")


@pytest.mark.parametrize("session_id", ["", None, 3, "a\0"])
def test_an_invalid_session_id_is_refused(store: Any, session_id: Any) -> None:
    with pytest.raises(asm.ValidationError, match="session_id"):
        store.query.export_session(session_id)


def test_a_transaction_exports_what_it_has_written(store: Any) -> None:
    with store.transaction() as tx:
        store_session(tx)
        assert numbers(tx.query.export_session("ses_1").events) == [1, 2, 3]


def test_an_export_is_one_snapshot(store: Any, migrated: str) -> None:
    store_session(store, events=3)
    before = store.query.export_session("ses_1", include_artifacts=True)
    export = exports.export_session("ses_1", include_artifacts=True)

    with asm.SessionStore(migrated) as another:
        between = partial(write_something, another)
        assert run_operation(store, with_interference(export, between)) == before

    after = store.query.export_session("ses_1", include_artifacts=True)
    assert len(after.events) > 3
    assert len(after.runs) > 2
    assert len(after.artifacts) > 2


def write_something(store: asm.SessionStore) -> None:
    session = store.get_session("ses_1").update_status("failed")
    store.flush(session, asm.Run(session_id="ses_1"), events_of("ses_1", 2))
    store.artifacts.register(an_artifact(new_id("key_"), session_id="ses_1"))


# Importing.


@pytest.fixture
def target(opened: Callable[..., Any], other: str) -> Any:
    """An empty store on another database of the same kind, blocking or asynchronous like `store`."""
    return opened(other)


def import_and_export(export: asm.SessionExport, target: Any) -> asm.SessionExport:
    """Import into the target and return what the target then exports."""
    target.import_session(export)
    exported: asm.SessionExport = target.query.export_session(export.session.id, include_artifacts=True)
    return exported


def test_an_import_changes_nothing_of_an_export(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert import_and_export(export, target) == export


@pytest.mark.parametrize("ends", [(None, NOON), (NOON, None)])
def test_ended_and_running_runs_are_imported_together(
    store: Any, target: Any, ends: tuple[datetime | None, ...]
) -> None:
    for end in ends:
        store.save_run(asm.Run(session_id="ses_1", started_at=NOON, ended_at=end))
    store.save_session(asm.Session(agent_id="agent", id="ses_1"))
    target.import_session(store.query.export_session("ses_1"))
    assert target.list_runs("ses_1") == store.list_runs("ses_1")


def test_importing_again_changes_nothing(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert import_and_export(export, target) == import_and_export(export, target) == export


def test_the_next_event_takes_the_number_after_the_last_imported_one(store: Any, target: Any) -> None:
    store_session(store, events=3)
    target.import_session(store.query.export_session("ses_1"))
    assert target.append_event(an_event("ses_1")).sequence_number == 4


def test_an_import_writes_token_counts_and_tags(store: Any, target: Any, other: str) -> None:
    store_session(store)
    target.import_session(store.query.export_session("ses_1"))
    columns = "input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model"
    rows = fetch_rows(other, f"select {columns} from asm_runs order by id")
    assert rows == [(3, None, 3, None, None, "gpt-4o")] * 2
    if dsns.parse_dsn(other).dialect == "sqlite":
        assert fetch_rows(other, "select tag from asm_session_tags order by tag") == [("a",), ("b",)]


def test_a_second_import_adds_the_rows_that_are_new(store: Any, target: Any) -> None:
    store_session(store, events=3)
    target.import_session(store.query.export_session("ses_1"))
    store.append_events(events_of("ses_1", 2))
    store.save_run(asm.Run(session_id="ses_1"))
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert import_and_export(export, target) == export


def test_an_import_keeps_what_was_written_to_a_session_since(store: Any, target: Any) -> None:
    store_session(store, events=3)
    export = store.query.export_session("ses_1", include_artifacts=True)
    target.import_session(export)
    target.append_events(events_of("ses_1", 2))
    target.save_run(asm.Run(session_id="ses_1"))
    before = target.query.export_session("ses_1", include_artifacts=True)
    assert import_and_export(export, target) == before


def test_an_import_completes_a_session_of_which_only_events_exist(store: Any, target: Any) -> None:
    store_session(store, events=3)
    export = store.query.export_session("ses_1", include_artifacts=True)
    target.append_events(export.events[:2])
    assert import_and_export(export, target) == export


def test_a_session_with_more_events_than_one_statement_takes_is_imported(store: Any, target: Any) -> None:
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    store.append_events(events_of("ses_1", 2_500))
    export = store.query.export_session("ses_1")
    target.append_events(export.events[:1_200])
    assert import_and_export(export, target) == export


def test_an_import_is_part_of_a_transaction(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    with pytest.raises(KeyError), target.transaction() as tx:
        tx.import_session(export)
        assert tx.query.export_session("ses_1", include_artifacts=True) == export
        raise KeyError
    assert (target.list_sessions(), target.get_latest_sequence("ses_1")) == ([], 0)


def test_an_import_that_fails_at_any_query_writes_nothing(store: Any, target: Any) -> None:
    before = everything(target)
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    queries = 0
    while fails_after(target, export, queries):
        assert everything(target) == before
        queries += 1
    assert queries > 8
    assert target.query.export_session("ses_1", include_artifacts=True) == export


class Failed(Exception):
    pass


def fails_after(target: Any, export: asm.SessionExport, queries: int) -> bool:
    """Import with a failure after this many queries. Returns whether the import had more queries."""
    remaining = iter(range(queries))

    def count() -> None:
        if next(remaining, None) is None:
            raise Failed

    try:
        run_operation(target, with_interference(imports.import_session(export), count))
    except Failed:
        return True
    return False


def test_an_append_and_an_import_to_one_session_are_serialized(store: Any, target: Any) -> None:
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    store.append_events(events_of("ses_1", 50))
    export = store.query.export_session("ses_1")
    target.append_event(export.events[0])

    def append(_: int) -> bool:
        target.append_event(an_event("ses_1", id="after"))
        return True

    def import_export(_: int) -> bool:
        try:
            target.import_session(export)
        except asm.Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        appended, imported = pool.submit(append, 0), pool.submit(import_export, 0)
        was_first = appended.result() and imported.result()
    ids = [event.id for event in target.get_events("ses_1")]
    first = export.events[0].id
    assert ids == ([event.id for event in export.events] + ["after"] if was_first else [first, "after"])
    assert numbers(target.get_events("ses_1")) == list(range(1, len(ids) + 1))


# Pruned sessions.


def prune(dsn: str, sequence_numbers: Iterable[int]) -> None:
    """Delete events of ses_1 as retention does: counted, and the others keep their numbers."""
    pruned = list(sequence_numbers)
    fetch_rows(dsn, f"delete from asm_events where sequence_number in ({', '.join(map(str, pruned))})")
    fetch_rows(dsn, f"update asm_session_sequences set pruned_events = pruned_events + {len(pruned)}")


def adds_up(store: Any) -> bool:
    return not [each for each in store.maintenance.health_check() if each.session_id == "ses_1"]


def test_a_pruned_session_is_imported_with_its_holes(store: Any, target: Any, migrated: str) -> None:
    store_session(store, events=5)
    prune(migrated, [1, 2, 5])
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert (numbers(export.events), export.last_sequence, export.pruned_events) == ([3, 4], 5, 3)
    assert import_and_export(export, target) == export
    assert target.append_event(an_event("ses_1")).sequence_number == 6


def test_a_session_whose_events_were_all_pruned_is_imported_with_its_counter(
    store: Any, target: Any, migrated: str
) -> None:
    store_session(store, events=3)
    prune(migrated, [1, 2, 3])
    target.import_session(store.query.export_session("ses_1"))
    assert target.append_event(an_event("ses_1")).sequence_number == 4
    assert adds_up(target)


def remove(store: Any, dsn: str, how: str) -> None:
    """Remove event 2 of ses_1, which has 5."""
    if how == "pruned":
        prune(dsn, [2])
    elif how == "deleted":
        store.delete_events("ses_1", ids=[store.get_events("ses_1")[1].id])
    elif how == "popped":
        store.pop_event("ses_1", type="acme.second")
    else:
        fetch_rows(dsn, "delete from asm_events where sequence_number = 2")


@pytest.mark.parametrize("altered", [False, True])
@pytest.mark.parametrize("how", ["pruned", "deleted", "popped", "lost"])
def test_an_event_that_was_removed_does_not_come_back_through_an_import(
    store: Any, migrated: str, how: str, altered: bool
) -> None:
    second = an_event("ses_1", "acme.second", id="evt_2", data={"command": "rm -rf /"})
    store.save_session(asm.Session(agent_id="agent", id="ses_1"))
    store.append_events([an_event("ses_1"), second, *events_of("ses_1", 3)])
    export = store.query.export_session("ses_1")
    if altered:
        events = [*export.events]
        events[1] = replace(events[1], data={"command": "ls"})
        export = replace(export, events=events)
    remove(store, migrated, how)
    message = "session 'ses_1' no longer has its event 2, and nothing was written: delete the stored session"
    refuses(store, export, message)
    store.append_event(an_event("ses_1"))
    refuses(store, export, message)


def test_a_pruned_session_is_restored_after_it_was_deleted(store: Any, migrated: str) -> None:
    store_session(store, events=5)
    export = store.query.export_session("ses_1", include_artifacts=True)
    prune(migrated, [1, 2])
    store.delete_session("ses_1")
    assert import_and_export(export, store) == export


def test_an_import_does_not_prune(store: Any, target: Any, migrated: str) -> None:
    store_session(store, events=5)
    whole = store.query.export_session("ses_1", include_artifacts=True)
    target.import_session(whole)
    prune(migrated, [1, 2])
    assert import_and_export(store.query.export_session("ses_1"), target) == whole


def test_stored_and_pruned_events_add_up_after_an_import(
    store: Any, target: Any, migrated: str, other: str
) -> None:
    some = st.sets(st.integers(1, 9))

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 4), some, some, st.integers(0, 3), some)
    def check(first: int, here: set[int], there: set[int], more: int, later: set[int]) -> None:
        for each in (store, target):
            each.delete_session("ses_1")
        store.save_session(session)
        store.append_events(events_of("ses_1", first))
        prune_existing(store, migrated, here)
        target.import_session(store.query.export_session("ses_1"))
        prune_existing(target, other, there)
        store.append_events(events_of("ses_1", more))
        prune_existing(store, migrated, later)
        export = store.query.export_session("ses_1")
        kept = set(numbers(target.get_events("ses_1")))
        if {number for number in numbers(export.events) if number <= first} <= kept:
            target.import_session(export)
            assert target.get_latest_sequence("ses_1") == first + more
        else:
            refuses(target, export, "session 'ses_1' no longer has its event")

        assert adds_up(store)
        assert adds_up(target)

    session = asm.Session(agent_id="a", id="ses_1")
    check()


def prune_existing(store: Any, dsn: str, sequence_numbers: set[int]) -> None:
    if existing := sequence_numbers.intersection(numbers(store.get_events("ses_1"))):
        prune(dsn, existing)


@pytest.mark.parametrize("damage", ["a lost event", "a counter that claims too much", "a counter behind"])
def test_a_damaged_session_is_exported_as_what_is_stored(
    store: Any, target: Any, migrated: str, damage: str
) -> None:
    store_session(store, events=5)
    statement = {
        "a lost event": "delete from asm_events where sequence_number in (2, 5)",
        "a counter that claims too much": "update asm_session_sequences set pruned_events = 4",
        "a counter behind": "update asm_session_sequences set last_sequence = 3",
    }[damage]
    fetch_rows(migrated, statement)
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert (export.events, export.last_sequence) == (store.get_events("ses_1"), 5)
    assert len(export.events) + export.pruned_events == 5
    assert import_and_export(export, target) == export
    assert [issue.code for issue in store.maintenance.health_check()] != []
    assert target.maintenance.health_check() == []


def test_a_counter_out_of_bounds_stops_only_the_export_of_its_session(
    store: Any, migrated: str, tmp_path: Path
) -> None:
    for name in ("ses_1", "ses_2", "ses_3"):
        store_session(store, name, events=5)
    fetch_rows(
        migrated, f"update asm_session_sequences set last_sequence = {2**62} where session_id = 'ses_2'"
    )
    with pytest.raises(asm.ValidationError, match="last_sequence of session 'ses_2' must be from 0 to 9,007"):
        store.query.export_session("ses_2")
    policy = asm.RetentionPolicy(max_events_per_session=2, archive=tmp_path)
    (failure,) = store.maintenance.execute(policy).errors
    assert (failure.session_id, failure.error.code) == ("ses_2", "validation_error")
    assert [len(store.get_events(name)) for name in ("ses_1", "ses_2", "ses_3")] == [2, 5, 2]


def test_a_session_with_the_highest_counter_that_an_import_brings_goes_on_and_is_exported(
    store: Any, tmp_path: Path
) -> None:
    last = 2**52
    session = asm.Session(agent_id="a", id="ses_1")
    store.import_session(asm.SessionExport(session=session, last_sequence=last, pruned_events=last))
    store.append_event(an_event("ses_1"))

    export = store.query.export_session("ses_1")
    assert export.last_sequence == last + 1
    with pytest.raises(asm.ValidationError, match=r"last_sequence must be from 0 to 4,503,"):
        store.import_session(export)
    for _ in range(2):
        archives.archive_session(tmp_path / "archive", export)
    assert names_in(tmp_path / "archive") == {"ses_1.jsonl.gz"}


# Conflicts.


def test_a_session_with_different_contents_is_a_conflict(store: Any, target: Any) -> None:
    session = store_session(store)
    target.save_session(replace(session, status="failed", context={"x": 1}))
    refuses(target, store.query.export_session("ses_1"), "session 'ses_1' .* differ in status, context[)]")


def test_a_run_with_different_contents_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    target.save_run(replace(store.get_run("run_1"), turn_count=9))
    refuses(target, store.query.export_session("ses_1"), "run 'run_1' .* differ in turn_count[)]")


def test_an_event_with_different_contents_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1")
    target.append_events([export.events[0], replace(export.events[1], data={"n": "other"})])
    refuses(target, export, f"event '{export.events[1].id}' .* differ in data[)]")


def test_an_event_with_another_sequence_number_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1")
    target.append_events(export.events[1::-1])
    refuses(target, export, f"event '{export.events[0].id}' .* differ in sequence_number[)]")


def test_an_event_with_a_number_that_the_exporting_store_has_pruned_is_a_conflict(
    store: Any, target: Any, migrated: str
) -> None:
    store_session(store, events=4)
    prune(migrated, [1, 2])
    export = store.query.export_session("ses_1")
    target.append_event(export.events[1])
    before = everything(target)
    with pytest.raises(asm.Conflict):
        target.import_session(export)
    assert everything(target) == before


def test_a_sequence_number_that_another_event_has_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    target.append_event(an_event("ses_1"))
    refuses(target, store.query.export_session("ses_1"), "session 'ses_1' already has another event 1")


def test_an_artifact_with_different_contents_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    target.artifacts.register(replace(export.artifacts[1], byte_size=1))
    refuses(target, export, f"artifact '{export.artifacts[1].id}' .* differ in byte_size[)]")


def test_a_key_that_another_live_artifact_has_is_a_conflict(store: Any, target: Any) -> None:
    store_session(store)
    target.artifacts.register(an_artifact("ses_1 0"))
    refuses(target, store.query.export_session("ses_1", include_artifacts=True), "the key 'ses_1 0'")


def refuses(target: Any, export: asm.SessionExport, message: str) -> None:
    """Check that an import raises Conflict and writes nothing, also inside a transaction that commits."""
    before = everything(target)
    with pytest.raises(asm.Conflict, match=message):
        target.import_session(export)
    with target.transaction() as tx, pytest.raises(asm.Conflict, match=message):
        tx.import_session(export)
    assert everything(target) == before


def everything(store: Any) -> list[Any]:
    session_id = "ses_1"
    return [
        store.list_sessions(include_deleted=True),
        store.list_runs(session_id),
        store.get_events(session_id),
        store.get_latest_sequence(session_id),
        store.artifacts.list_by_session(session_id),
    ]


def test_documents_are_compared_as_values(store: Any, target: Any) -> None:
    store_session(store)
    export = store.query.export_session("ses_1", include_artifacts=True)
    ordered, reverse = {"a": 1, "b": {"c": 2, "d": []}}, {"b": {"d": [], "c": 2}, "a": 1.0}
    target.import_session(replace(export, session=replace(export.session, context=ordered)))
    target.import_session(replace(export, session=replace(export.session, context=reverse)))
    assert target.get_session("ses_1").context == ordered


def test_a_deleted_artifact_leaves_its_key_free(store: Any, target: Any) -> None:
    store_session(store)
    target.artifacts.register(an_artifact("ses_1 1"))
    target.artifacts.register(an_artifact("ses_1 0", deleted_at=NOON))
    export = store.query.export_session("ses_1", include_artifacts=True)
    assert import_and_export(export, target) == export


@only(POSTGRES, why="SQLite has one writer at a time")
def test_rows_that_another_client_saves_during_an_import_stay(store: Any, target: Any, other: str) -> None:
    session = store_session(store)
    newer, run = session.update_status("failed"), replace(store.get_run("run_0"), turn_count=9)

    def save_newer() -> None:
        with asm.SessionStore(other) as another:
            another.save_session(newer)
            another.save_run(run)

    operation = imports.import_session(store.query.export_session("ses_1"))
    run_operation(target, with_interference(operation, save_newer, after="find_runs"))

    assert (target.get_session("ses_1"), target.get_run("run_0")) == (newer, run)
    assert target.list_runs("ses_1") == [run, store.get_run("run_1")]


@pytest.mark.parametrize("export", [None, "ses_1", {"session": {}}, asm.Session(agent_id="a")])
def test_only_exports_can_be_imported(store: Any, export: Any) -> None:
    with pytest.raises(asm.ValidationError, match="import_session takes a SessionExport"):
        store.import_session(export)


def test_an_export_whose_documents_became_invalid_is_refused_before_anything_is_written(store: Any) -> None:
    export = an_export()
    export.events[1].data["bad"] = {1}
    with pytest.raises(asm.ValidationError, match=r"data\.bad"):
        store.import_session(export)
    assert (store.list_sessions(), store.get_latest_sequence("ses_1")) == ([], 0)


def with_event_of_another_session(export: asm.SessionExport) -> None:
    export.events.append(replace(an_event("ses_2"), sequence_number=4))


def without_an_event(export: asm.SessionExport) -> None:
    del export.events[1]


def with_an_event_twice(export: asm.SessionExport) -> None:
    export.events[1] = replace(export.events[0], sequence_number=2)


def with_a_run_twice(export: asm.SessionExport) -> None:
    export.runs.append(replace(export.runs[0], turn_count=9))


def with_a_forged_counter(export: asm.SessionExport) -> None:
    object.__setattr__(export, "last_sequence", 2**62)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_event_of_another_session, r"events\[3\] belongs to session 'ses_2'"),
        (without_an_event, "does not add up: 2 events and 0 pruned events are not the 3"),
        (with_an_event_twice, "events contains the id '.*' twice"),
        (with_a_run_twice, "runs contains the id '.*' twice"),
        (with_a_forged_counter, "last_sequence must be from 0 to"),
    ],
)
def test_an_export_that_was_changed_is_validated_again(
    store: Any, change: Callable[[asm.SessionExport], None], message: str
) -> None:
    store_session(store, "ses_2")
    before = store.query.export_session("ses_2", include_artifacts=True)
    export = an_export()
    change(export)

    with pytest.raises(asm.ValidationError, match=message):
        store.import_session(export)
    assert [session.id for session in store.list_sessions()] == ["ses_2"]
    assert store.query.export_session("ses_2", include_artifacts=True) == before


def an_export(events: int = 3) -> asm.SessionExport:
    session = asm.Session(agent_id="a", id="ses_1")
    numbered = [
        replace(event, sequence_number=number) for number, event in enumerate(events_of("ses_1", events), 1)
    ]
    return asm.SessionExport(session=session, runs=[asm.Run(session_id="ses_1")], events=numbered)
