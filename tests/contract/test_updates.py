"""update_session and update_run: a function changes the locked row, and no update is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest

import asm
from tests.conftest import an_event, in_loop
from tests.contract.other_clients import read_line, running

SESSION = asm.Session(agent_id="a", id="ses_1", context={"n": 0})
RUN = asm.Run(session_id="ses_1", id="run_1", metadata={"n": 0})


class Kind(NamedTuple):
    """How the models of one kind are updated and read."""

    update: Callable[[Any, Callable[[Any], Any]], Any]
    read: Callable[[Any], Any]
    add_one: Callable[[Any], Any]
    count: Callable[[Any], int]
    not_found: type[asm.NotFound]
    strangers: list[Any]


def add_to_context(session: asm.Session) -> asm.Session:
    return replace(session, context={"n": session.context["n"] + 1})


def add_to_metadata(run: asm.Run) -> asm.Run:
    return replace(run, metadata={"n": run.metadata["n"] + 1})


KINDS = {
    "session": Kind(
        lambda store, change: store.update_session("ses_1", change),
        lambda store: store.get_session("ses_1"),
        add_to_context,
        lambda session: int(session.context["n"]),
        asm.SessionNotFound,
        [replace(SESSION, id="ses_2")],
    ),
    "run": Kind(
        lambda store, change: store.update_run("run_1", change),
        lambda store: store.get_run("run_1"),
        add_to_metadata,
        lambda run: int(run.metadata["n"]),
        asm.RunNotFound,
        [replace(RUN, id="run_2"), replace(RUN, session_id="ses_2")],
    ),
}


@pytest.fixture(params=KINDS)
def kind_of_model(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def save(store: Any) -> None:
    store.save_session(SESSION)
    store.save_run(RUN)


def test_an_update_returns_what_is_stored_from_then_on(store: Any, kind_of_model: Kind) -> None:
    save(store)
    updated = kind_of_model.update(store, kind_of_model.add_one)
    assert kind_of_model.count(updated) == 1
    assert kind_of_model.read(store) == updated


def test_an_update_that_equals_the_stored_row_in_python_and_not_in_json_is_stored(store: Any) -> None:
    save(store)
    store.update_session("ses_1", lambda session: replace(session, context={"n": False}))
    assert store.get_session("ses_1").context["n"] is False


def test_a_change_may_mutate_the_documents_of_its_argument(store: Any) -> None:
    save(store)

    def change(session: asm.Session) -> asm.Session:
        session.context["seen"] = True
        return session

    store.update_session("ses_1", change)
    assert store.get_session("ses_1").context == {"n": 0, "seen": True}


def test_an_unknown_id_is_not_found(store: Any, kind_of_model: Kind) -> None:
    with pytest.raises(kind_of_model.not_found):
        kind_of_model.update(store, kind_of_model.add_one)


def test_of_several_runs_with_one_id_the_session_decides(store: Any) -> None:
    other = replace(RUN, session_id="ses_2", started_at=RUN.started_at.replace(year=2000))
    store.save_run(RUN)
    store.save_run(other)
    store.update_run("run_1", add_to_metadata)
    store.update_run("run_1", lambda run: replace(run, status="running"), session_id="ses_2")
    assert store.get_run("run_1", session_id="ses_1") == replace(RUN, metadata={"n": 1})
    assert store.get_run("run_1", session_id="ses_2") == replace(other, status="running")
    with pytest.raises(asm.RunNotFound):
        store.update_run("run_1", add_to_metadata, session_id="ses_3")


async def not_plain(model: Any) -> Any:
    return model


@pytest.mark.parametrize("change", [None, "word", not_plain], ids=["None", "text", "coroutine"])
def test_a_change_that_is_no_plain_function_is_refused(store: Any, kind_of_model: Kind, change: Any) -> None:
    with pytest.raises(asm.ValidationError, match=r"change must be a (plain )?function"):
        kind_of_model.update(store, change)


def test_a_change_that_calls_its_own_store_is_refused(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1"))
        with pytest.raises(asm.StorageError, match="the function given to update_session"):
            store.update_session("ses_1", lambda session: store.get_session(session.id))


def replaced_by(other: Any, _: Any) -> Any:
    return other


def test_a_change_that_returns_something_else_writes_nothing(store: Any, kind_of_model: Kind) -> None:
    save(store)
    before = kind_of_model.read(store)
    for other in (None, {"id": "ses_1"}, an_event(), *kind_of_model.strangers):
        with pytest.raises(asm.ValidationError, match="change must"):
            kind_of_model.update(store, partial(replaced_by, other))
    with pytest.raises(asm.ValidationError, match="returned a coroutine"):
        kind_of_model.update(store, lambda model: not_plain(model))
    assert kind_of_model.read(store) == before
    assert store.list_sessions() == [SESSION]


class Interruption(Exception):
    pass


def test_an_error_of_a_change_is_raised_as_it_is_and_writes_nothing(store: Any, kind_of_model: Kind) -> None:
    save(store)

    def fail(_: Any) -> Any:
        raise Interruption

    with pytest.raises(Interruption):
        kind_of_model.update(store, fail)
    assert kind_of_model.count(kind_of_model.read(store)) == 0
    assert kind_of_model.count(kind_of_model.update(store, kind_of_model.add_one)) == 1


def test_an_update_within_a_transaction_is_part_of_it(store: Any, kind_of_model: Kind) -> None:
    save(store)
    with pytest.raises(Interruption), store.transaction() as tx:
        kind_of_model.update(tx, kind_of_model.add_one)
        assert kind_of_model.count(kind_of_model.read(tx)) == 1
        raise Interruption
    with store.transaction() as tx:
        kind_of_model.update(tx, kind_of_model.add_one)
    assert kind_of_model.count(kind_of_model.read(store)) == 1


CALLERS, UPDATES = 8, 12


def test_no_update_of_concurrent_threads_is_lost(
    migrated: str, opened: Callable[..., Any], kind_of_model: Kind
) -> None:
    stores = [opened(migrated), opened(migrated)]
    save(stores[0])

    def update(caller: int) -> list[int]:
        store = stores[caller % 2]
        return [
            kind_of_model.count(kind_of_model.update(store, kind_of_model.add_one)) for _ in range(UPDATES)
        ]

    with ThreadPoolExecutor(CALLERS) as threads:
        results = [count for of_caller in threads.map(update, range(CALLERS)) for count in of_caller]
    assert sorted(results) == list(range(1, CALLERS * UPDATES + 1))


def test_no_update_of_concurrent_tasks_is_lost(migrated: str) -> None:
    async def update() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.save_session(SESSION)
            updates = (store.update_session("ses_1", add_to_context) for _ in range(CALLERS * UPDATES))
            await asyncio.gather(*updates)
            assert (await store.get_session("ses_1")).context["n"] == CALLERS * UPDATES

    in_loop(update())


def test_no_update_of_concurrent_processes_is_lost(migrated: str, store: Any) -> None:
    save(store)
    with (
        running("tests.contract.updating_process", migrated, str(UPDATES)) as one,
        running("tests.contract.updating_process", migrated, str(UPDATES)) as other,
    ):
        assert [read_line(one), read_line(other)] == ["done", "done"]
    assert store.get_session("ses_1").context["n"] == 2 * UPDATES


def test_updates_beside_saves_flushes_appends_and_deletions_neither_deadlock_nor_fail(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, retry_for=0)
    save(store)

    def update(tx: Any) -> None:
        for kind in KINDS.values():
            try:
                kind.update(tx, kind.add_one)
            except asm.NotFound:
                save(store)

    works: list[Callable[[Any], object]] = [
        update,
        update,
        save,
        lambda store: store.flush(SESSION, RUN, [an_event()]),
        lambda store: store.flush(SESSION, RUN),
        lambda store: store.append_event(an_event()),
        lambda store: store.delete_session("ses_1"),
    ]

    def repeat(work: Callable[[Any], object]) -> None:
        for _ in range(UPDATES):
            work(store)

    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(repeat, work) for work in works]:
            done.result()
