"""Both stores and their transactions have the same operations, with the promised signatures."""

from __future__ import annotations

import inspect
from typing import Any, get_overloads

import pytest

import asm
from asm.async_store import AsyncArtifactRegistry, AsyncMaintenance, AsyncQueryAPI, AsyncTransaction
from asm.methods import FollowMethod
from asm.operations import reading
from asm.store import ArtifactRegistry, Maintenance, QueryAPI, Transaction

OPERATIONS = """
save_session(session) -> None
update_session(session_id, change) -> Session
get_session(session_id) -> Session
get_sessions(session_ids) -> list[Session]
list_sessions(*, status=None, agent_id=None, include_deleted=False, limit=None, offset=0) -> list[Session]
delete_session(session_id) -> None
fork_session(session_id, *, upto=None, id=None) -> Session
save_run(run) -> None
update_run(run_id, change, *, session_id=None) -> Run
get_run(run_id, *, session_id=None) -> Run
list_runs(session_id, *, status=None, limit=None) -> list[Run]
get_active_run(session_id) -> Run | None
append_event(event, *, expected_sequence=None, session=None) -> Event
append_events(events, *, expected_sequence=None, session=None) -> list[Event]
get_event(session_id, event_id) -> Event
pop_event(session_id, *, type=None) -> Event | None
delete_events(session_id, *, ids=None, run_id=None, type=None, after=None, before=None) -> int
get_events(session_id, *, run_id=None, type=None, since=None, after=None, before=None, limit=None, last=None, wait_timeout=None) -> list[Event]
iter_events(session_id, *, run_id=None, type=None, since=None, after=None, before=None, limit=None, page_size=1000) -> Iterator[Event]
follow_events(session_id, *, run_id=None, type=None, since=None, after=0, before=None, limit=None, page_size=1000, idle_timeout=None, heartbeat=None) -> Iterator[Event | None]
get_latest_sequence(session_id) -> int
flush(session, run, events=()) -> list[Event]
import_session(export) -> None
""".strip().splitlines()  # noqa: E501

OPERATIONS_ON_ARTIFACTS = """
register(artifact) -> None
get_by_key(key) -> Artifact | None
list_by_session(session_id) -> list[Artifact]
session_stats(session_id) -> ArtifactStats
delete(key) -> None
""".strip().splitlines()

QUERIES = """
search_sessions(*, agent_id=None, status=None, provider=None, tags=None, parent_session_id=None, text=None, created_after=None, created_before=None, include_deleted=False, order_by='updated_at_desc', limit=50, cursor=None, count_total=False) -> Page[Session]
search_runs(*, session_id=None, provider=None, status=None, started_after=None, started_before=None, min_tokens=None, order_by='started_at_desc', limit=50, cursor=None) -> Page[Run]
search_events(*, session_ids=None, run_ids=None, types=None, providers=None, since=None, until=None, correlation_id=None, text=None, order_by='sequence_asc', limit=100, cursor=None) -> Page[Event]
count_events(*, session_ids=None, run_ids=None, types=None, providers=None, since=None, until=None, correlation_id=None, text=None) -> int
iter_sessions(*, agent_id=None, status=None, provider=None, tags=None, parent_session_id=None, text=None, created_after=None, created_before=None, include_deleted=False, order_by='updated_at_desc', page_size=1000) -> Iterator[Session]
iter_runs(*, session_id=None, provider=None, status=None, started_after=None, started_before=None, min_tokens=None, order_by='started_at_desc', page_size=1000) -> Iterator[Run]
iter_events(*, session_ids=None, run_ids=None, types=None, providers=None, since=None, until=None, correlation_id=None, text=None, order_by='sequence_asc', page_size=1000) -> Iterator[Event]
get_session_stats(session_id) -> SessionStats
get_usage_summary(*, session_id=None, agent_id=None, provider=None, since=None, until=None) -> UsageSummary
get_cost_summary(*, session_id=None, agent_id=None, provider=None, since=None, until=None, pricing=None) -> CostSummary
export_session(session_id, *, include_artifacts=False) -> SessionExport
""".strip().splitlines()  # noqa: E501

OPERATIONS_OF_MAINTENANCE = """
execute(policy, *, dry_run=False, progress=None) -> MaintenanceReport
soft_delete_expired_sessions(policy) -> int
hard_delete_expired_sessions(policy) -> int
prune_session_events(session_id, policy) -> int
clean_orphaned_artifacts() -> int
clean_orphaned_sequences() -> int
health_check() -> list[HealthIssue]
list_stale_runs(*, grace=30.0) -> list[Run]
""".strip().splitlines()

OPENING = (
    "(dsn=None, *, pool=None, schema=None, migrate=False, min_size=1, max_size=10, timeout=30.0, "
    "statement_timeout=None, retry_for=10.0, prepare=True, slow_statement=None)"
)

MIGRATIONS = {
    "migrate": "(dsn=None, *, schema=None, text_search=False, distributed=False, shards=32)",
    "rollback": "(dsn=None, *, schema=None, steps=1)",
    "pending_migrations": "(dsn=None, *, schema=None)",
}

WITH_OPERATIONS = [asm.SessionStore, asm.AsyncSessionStore, Transaction, AsyncTransaction]
WITH_ARTIFACTS = [ArtifactRegistry, AsyncArtifactRegistry]
WITH_QUERIES = [QueryAPI, AsyncQueryAPI]
WITH_MAINTENANCE = [Maintenance, AsyncMaintenance]


@pytest.mark.parametrize("promise", OPERATIONS, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", WITH_OPERATIONS)
def test_an_operation_has_the_promised_parameters(owner: type, promise: str) -> None:
    assert _without_result(_as_written(owner, _name(promise))) == _without_result(promise)


@pytest.mark.parametrize("promise", OPERATIONS_ON_ARTIFACTS, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", WITH_ARTIFACTS)
def test_an_operation_on_artifacts_has_the_promised_parameters(owner: type, promise: str) -> None:
    assert _without_result(_as_written(owner, _name(promise))) == _without_result(promise)


@pytest.mark.parametrize("promise", OPERATIONS_OF_MAINTENANCE, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", WITH_MAINTENANCE)
def test_an_operation_of_maintenance_has_the_promised_signature(owner: type, promise: str) -> None:
    assert _as_written(owner, _name(promise)) == promise
    assert getattr(owner, _name(promise)).__doc__


@pytest.mark.parametrize("promise", OPERATIONS, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", [asm.SessionStore, Transaction])
def test_help_shows_the_result_type(owner: type, promise: str) -> None:
    assert _as_written(owner, _name(promise)) == promise


@pytest.mark.parametrize("promise", OPERATIONS, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", [asm.AsyncSessionStore, AsyncTransaction])
def test_help_of_an_async_store_shows_the_result_type(owner: type, promise: str) -> None:
    assert _as_written(owner, _name(promise)) == promise.replace("-> Iterator", "-> AsyncIterator")


@pytest.mark.parametrize("promise", OPERATIONS_ON_ARTIFACTS, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", WITH_ARTIFACTS)
def test_help_shows_the_result_type_of_an_operation_on_artifacts(owner: type, promise: str) -> None:
    assert _as_written(owner, _name(promise)) == promise


@pytest.mark.parametrize("promise", QUERIES, ids=lambda promise: promise.partition("(")[0])
@pytest.mark.parametrize("owner", WITH_QUERIES)
def test_a_query_has_the_promised_signature(owner: type, promise: str) -> None:
    written = _as_written(owner, _name(promise)).replace("-> AsyncIterator", "-> Iterator")
    assert written == promise
    assert getattr(owner, _name(promise)).__doc__


@pytest.mark.parametrize("name", [promise.partition("(")[0] for promise in OPERATIONS])
@pytest.mark.parametrize("owner", WITH_OPERATIONS)
def test_an_operation_has_a_docstring_and_its_own_name(owner: type, name: str) -> None:
    method = getattr(owner, name)

    assert (method.__name__, bool(method.__doc__)) == (name, True)


@pytest.mark.parametrize("name", ["query", "artifacts", "maintenance"])
@pytest.mark.parametrize("owner", [asm.SessionStore, asm.AsyncSessionStore])
def test_a_part_of_a_store_is_documented_on_the_class(owner: type, name: str) -> None:
    assert getattr(owner, name).__doc__


@pytest.mark.parametrize("owner", [asm.SessionStore, asm.AsyncSessionStore])
def test_a_store_has_the_promised_parameters(owner: type) -> None:
    assert _without_annotations(inspect.signature(owner)) == OPENING


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_function_has_the_promised_parameters(name: str) -> None:
    assert _without_annotations(inspect.signature(getattr(asm, name))) == MIGRATIONS[name]


def test_type_checkers_see_the_parameters_of_follow_events() -> None:
    own = inspect.signature(reading.follow_events).parameters
    for seen in map(inspect.signature, get_overloads(FollowMethod.__call__)):
        _, *parameters = seen.parameters.values()
        assert [each.name for each in parameters] == list(own)
        assert [each for each in parameters if each.name != "heartbeat"] == [
            each for each in own.values() if each.name != "heartbeat"
        ]


def test_a_store_runs_work_in_a_transaction_with_the_promised_signature() -> None:
    for owner in (asm.SessionStore, asm.AsyncSessionStore):
        promise = "run_transaction(work, *, idempotent=False)"
        assert _without_result(_as_written(owner, "run_transaction")) == promise


def test_an_async_store_has_one_more_method_open() -> None:
    assert _public(asm.AsyncSessionStore) - _public(asm.SessionStore) == {"open"}


def test_an_async_store_lacks_no_method() -> None:
    assert _public(asm.SessionStore) - _public(asm.AsyncSessionStore) == set()


def test_both_transactions_have_the_same_methods() -> None:
    assert _public(Transaction) == _public(AsyncTransaction)


def test_a_transaction_has_the_operations_of_its_store_and_the_connection() -> None:
    own = {"connection", "execute"}
    of_a_store = {"transaction", "run_transaction", "maintenance", "close"}

    assert _public(Transaction) - own == _public(asm.SessionStore) - of_a_store


def test_both_artifact_registries_have_the_same_methods() -> None:
    assert _public(ArtifactRegistry) == _public(AsyncArtifactRegistry)


def test_both_query_apis_have_the_promised_methods() -> None:
    assert _public(QueryAPI) == _public(AsyncQueryAPI) == {_name(promise) for promise in QUERIES}


def test_both_kinds_of_maintenance_have_the_promised_methods() -> None:
    names = {_name(promise) for promise in OPERATIONS_OF_MAINTENANCE}

    assert _public(Maintenance) == _public(AsyncMaintenance) == names


def test_the_operations_of_a_store_are_the_promised_ones() -> None:
    others = {"transaction", "run_transaction", "query", "artifacts", "maintenance", "close"}

    assert _public(asm.SessionStore) - others == {_name(promise) for promise in OPERATIONS}


@pytest.mark.parametrize("name", ["get_session", "append_event", "get_events"])
def test_awaited_operations_are_coroutine_functions(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(asm.AsyncSessionStore, name))


def _name(promise: str) -> str:
    return promise.partition("(")[0]


def _without_result(promise: str) -> str:
    return promise.partition(" -> ")[0]


def _as_written(owner: Any, name: str) -> str:
    signature = inspect.signature(getattr(owner, name))
    _, *parameters = signature.parameters.values()
    bare = _without_annotations(signature.replace(parameters=parameters))
    return f"{name}{bare} -> {signature.return_annotation}"


def _without_annotations(signature: inspect.Signature) -> str:
    empty = inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}
