"""The savers keep LangGraph's protocol, and a thread is a session of the store."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import psycopg_pool
import pytest
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT

import asm
from asm.integrations import langgraph
from asm.integrations.langgraph import AsmSaver, AsyncAsmSaver
from asm.operations import checkpoint_pruning, checkpoints
from tests.conftest import POSTGRES, an_event, in_loop
from tests.contract.other_clients import fetch_rows, only, read_line, running, send_line
from tests.integrations.command import output_of

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

TABLES = ("asm_checkpoints", "asm_checkpoint_blobs", "asm_checkpoint_writes")


@pytest.fixture
def dsn_of_tables(migrated: str) -> str:
    """A database with the tables of the checkpoints."""
    langgraph.migrate(migrated)
    return migrated


@pytest.fixture
def run(colour: str) -> Run[Any]:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def lent(colour: str, dsn_of_tables: str) -> Iterator[Any]:
    """A blocking or an async store."""
    if colour == "sync":
        with asm.SessionStore(dsn_of_tables) as store:
            yield store
    else:
        store = in_loop(asm.AsyncSessionStore(dsn_of_tables).open())
        yield store
        in_loop(store.close())


@pytest.fixture
def saver(lent: Any) -> Any:
    return AsyncAsmSaver(lent)


@pytest.fixture
def blocking(dsn_of_tables: str) -> Iterator[Any]:
    """A saver with blocking methods."""
    with asm.SessionStore(dsn_of_tables) as store:
        yield AsmSaver(store)


def thread(thread_id: str = "thread_1", checkpoint_id: str | None = None, namespace: str = "") -> Any:
    place = {"thread_id": thread_id, "checkpoint_ns": namespace}
    return {"configurable": place | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def a_checkpoint(**values: Any) -> Any:
    """A checkpoint with these values, each in its first version."""
    checkpoint: Any = empty_checkpoint()
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = {name: f"{len(str(value)):032}.1" for name, value in values.items()}
    return checkpoint


def put(saver: Any, config: Any, checkpoint: Any, **metadata: Any) -> Any:
    return saver.put(config, checkpoint, metadata, checkpoint["channel_versions"])


def put_many(saver: Any, number: int, thread_id: str = "thread_1", **metadata: Any) -> list[Any]:
    """The configs of checkpoints, each the child of the last, of which each has a value of its own."""
    configs = [thread(thread_id)]
    for step in range(number):
        checkpoint = a_checkpoint(messages=["x" * 300, step], same=["never changes"])
        checkpoint["channel_versions"]["messages"] = f"{step:032}.1"
        configs.append(put(saver, configs[-1], checkpoint, step=step, **metadata))
    return configs[1:]


def rows_of(dsn: str, thread_id: str = "thread_1") -> list[int]:
    """How many checkpoints, values and writes a thread has."""
    counts = "select count(*) from {} where session_id = '{}'"
    return [fetch_rows(dsn, counts.format(table, thread_id))[0][0] for table in TABLES]


def steps(saver: Any, config: Any = None, **options: Any) -> list[Any]:
    return [each.metadata["step"] for each in saver.list(config or thread(), **options)]


# LangGraph's own suite, and its own saver.


def test_the_saver_passes_the_conformance_suite(saver: Any, run: Run[Any]) -> None:
    @checkpointer_test(name="asm")
    async def registered() -> Any:
        yield saver

    results = run(validate(registered)).to_dict()["results"].values()

    assert [name for result in results for name in result["failures"]] == []
    assert sum(result["tests_passed"] for result in results) == 81
    assert all(result["tests_skipped"] == 0 for result in results)


@pytest.mark.parametrize("seed", range(3))
def test_the_saver_answers_as_the_one_in_memory(seed: int, blocking: Any) -> None:
    memory, chance = InMemorySaver(), random.Random(seed)
    for _ in range(60):
        changed = random_change(chance, memory)
        for saver in (memory, blocking):
            changed(saver)

    for question in QUESTIONS:
        assert list(map(comparable, question(blocking))) == list(map(comparable, question(memory))), question


def random_change(chance: random.Random, memory: Any) -> Callable[[Any], Any]:
    """What to do with both savers, such that it continues what one of them has."""
    config = thread(chance.choice(["thread_1", "thread_2"]), namespace=chance.choice(["", "", "sub:1"]))
    found = list(memory.list(config))
    parent = chance.choice(found) if found and chance.random() < 0.3 else (found or [None])[0]
    at = parent.config if parent else config
    if parent and chance.random() < 0.4:
        channels = chance.sample(["a", "b", ERROR, INTERRUPT], 2)
        writes = [(channel, chance.choice([None, 1, "text", {"n": chance.random()}])) for channel in channels]
        task, path = f"task_{chance.randrange(3)}", chance.choice(["", "~2", "~1"])
        return lambda saver: saver.put_writes(at, writes, task, path)
    checkpoint: Any = empty_checkpoint()
    checkpoint["id"] = str(uuid6(clock_seq=chance.randrange(100)))
    new = {name: memory.get_next_version(None, None) for name in chance.sample(["a", "b", "c", "d"], 2)}
    before = parent.checkpoint if parent else checkpoint
    checkpoint["channel_versions"] = before["channel_versions"] | new
    values = {
        name: chance.choice([1, "short", "long" * 99, [1, (2, 3)], b"\0\xff", {"k": None}]) for name in new
    }
    checkpoint["channel_values"] = before["channel_values"] | values
    metadata = {"source": chance.choice(["loop", "input"]), "step": chance.randrange(4), "parents": {}}
    return lambda saver: saver.put(at, checkpoint, metadata, new)


QUESTIONS: list[Callable[[Any], Any]] = [
    lambda saver: filter(None, [saver.get_tuple(thread())]),
    lambda saver: filter(None, [saver.get_tuple(thread("thread_2", namespace="sub:1"))]),
    lambda saver: saver.list(thread()),
    lambda saver: saver.list(thread("thread_2"), filter={"source": "loop", "step": 2}),
    lambda saver: saver.list(thread("thread_2"), filter={"absent": None, "parents": {}}, limit=3),
    lambda saver: saver.list(thread(), before=next(saver.list(thread(), limit=1), None) and first(saver)),
    lambda saver: [saver.get_tuple(each.config) for each in saver.list(thread(namespace="sub:1"))],
]


def first(saver: Any) -> Any:
    return next(iter(saver.list(thread()))).config


def comparable(found: CheckpointTuple) -> Any:
    return found._replace(pending_writes=found.pending_writes or [])


# What is stored.


def test_a_thread_is_a_session(blocking: Any, dsn_of_tables: str) -> None:
    config = thread()
    config["configurable"]["user_id"] = "user\0 7"
    before = put(blocking, config, a_checkpoint(), source="input", step=-1, run_id="run_1")
    with asm.SessionStore(dsn_of_tables) as store:
        found = store.get_session("thread_1")
        store.update_session("thread_1", lambda session: session.__class__.from_dict(older(session)))
        put(blocking, before, a_checkpoint(), step=0)
        moved = store.get_session("thread_1")

    assert (found.agent_id, found.status, found.context) == ("langgraph", "active", {"user_id": "user 7"})
    assert (moved.updated_at >= found.updated_at, moved.context) == (True, found.context)


def older(session: asm.Session) -> dict[str, Any]:
    return session.to_dict() | {"updated_at": "2020-01-01T00:00:00+00:00"}


def test_a_session_of_the_application_keeps_its_row(blocking: Any, dsn_of_tables: str) -> None:
    with asm.SessionStore(dsn_of_tables) as store:
        store.save_session(
            asm.Session(agent_id="support", id="thread_1", context={"plan": "gold"}, tags=("vip",))
        )
        store.append_event(an_event("thread_1"))
        put_many(blocking, 2)

        (session,) = store.query.search_sessions(tags=["vip"]).items
        assert (session.agent_id, session.context) == ("support", {"plan": "gold"})
        assert store.maintenance.health_check() == []


def test_a_value_is_stored_once_for_each_version_and_as_it_is(blocking: Any, dsn_of_tables: str) -> None:
    put_many(blocking, 5)

    assert rows_of(dsn_of_tables) == [5, 6, 0]
    (value,) = fetch_rows(dsn_of_tables, "select value from asm_checkpoint_blobs where channel = 'same'")[0]
    assert bytes(value) == blocking.serde.dumps_typed(["never changes"])[1]


def test_a_put_of_the_same_id_replaces_the_checkpoint(blocking: Any) -> None:
    checkpoint = a_checkpoint(a=[1])
    put(blocking, thread(), checkpoint, step=1)
    config = put(blocking, thread(), checkpoint, step=2)

    assert (steps(blocking), blocking.get_tuple(config).checkpoint["channel_values"]) == ([2], {"a": [1]})


def test_special_writes_are_replaced_and_others_are_not(blocking: Any) -> None:
    config = put(blocking, thread(), a_checkpoint())
    for value in ("old", "new"):
        blocking.put_writes(config, [("a", value), (ERROR, value)], "task", "path")

    assert blocking.get_tuple(config).pending_writes == [("task", ERROR, "new"), ("task", "a", "old")]


def test_writes_are_in_the_order_of_path_task_and_number(blocking: Any) -> None:
    config = put(blocking, thread(), a_checkpoint())
    blocking.put_writes(config, [("a", 1), ("a", 2)], "task_1", "path_2")
    blocking.put_writes(config, [("a", 3)], "task_3", "path_1")
    blocking.put_writes(config, [("a", 4)], "task_2", "path_1")

    assert [value for _, _, value in blocking.get_tuple(config).pending_writes] == [4, 3, 1, 2]


def test_metadata_loses_what_postgres_cannot_store_and_values_lose_nothing(blocking: Any) -> None:
    odd = {"text": "a\0b", "nested": {"list": ["\ud800x", ("y\0",)]}, "counters_since_delta_snapshot": {}}
    config = blocking.put(thread(), a_checkpoint(a=["a\0b", b"\0"], b="\0"), odd, {"a": 1, "b": 1})

    found = blocking.get_tuple(config)
    assert found.metadata["text"] == "ab"
    assert found.metadata["nested"] == {"list": ["x", ["y"]]}
    assert steps_of_filter(blocking, {"text": "ab", "nested": {"list": ["x", ["y"]]}}) == 1


def steps_of_filter(saver: Any, filter: dict[str, Any]) -> int:
    return len(list(saver.list(thread(), filter=filter)))


@pytest.mark.parametrize(
    ("filter", "number"),
    [
        ({"score": 1}, 1),
        ({"score": 1.0}, 1),
        ({"score": True}, 0),
        ({"score": "1"}, 0),
        ({"score": None}, 0),
        ({"absent": None}, 1),
        ({"tags": {"a": 1, "b": [2]}}, 1),
        ({"tags": {"a": 1.0, "b": [2.0]}}, 1),
        ({"tags": {"a": True, "b": [2]}}, 0),
        ({"tags": {"a": 1, "b": [2, 3]}}, 0),
        ({"tags": {"a": 1, "b": {"0": 2}}}, 0),
        ({"tags": {"a": 1}}, 0),
        ({"tags": {"a": 1, "b": [2], "c": None}}, 0),
        ({"tags": {}}, 0),
        ({"nested": {"ü": {"x": 1.5, "y": None}}}, 1),
        ({"nested": {"ü": {"x": 1.5, "z": None}}}, 0),
        ({"nested": {"ü": {"x": "1.5", "y": None}}}, 0),
        ({"nested": {"ü": '{"x":1.5,"y":null}'}}, 0),
        ({"big": 2**62}, 0),
        ({'it\'s "odd"': "v'"}, 1),
        ({"score": 1, "step": 8}, 0),
    ],
)
def test_a_filter_matches_equal_values(filter: dict[str, Any], number: int, blocking: Any) -> None:
    metadata = {"score": 1, "tags": {"b": [2], "a": 1}, "step": 7, 'it\'s "odd"': "v'"}
    # An integer beyond 64 bits makes the text of the metadata another one.
    metadata |= {"nested": {"ü": {"x": 1.5, "y": None}}, "big": 10**20}
    put(blocking, thread(), a_checkpoint(), **metadata)

    assert steps_of_filter(blocking, filter) == number


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 1e20])
def test_a_filter_by_a_number_beyond_64_bits_is_refused(number: float, blocking: Any) -> None:
    put(blocking, thread(), a_checkpoint(), big=10**20)
    for filter in ({"big": number}, {"nested": {"list": [number]}}):
        with pytest.raises(asm.ValidationError, match="filter has a number beyond 64 bits"):
            steps_of_filter(blocking, filter)


def test_a_list_is_read_in_pages(blocking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PAGE_SIZE", 3)
    put_many(blocking, 7)
    put_many(blocking, 2, "thread_2")

    assert steps(blocking) == [6, 5, 4, 3, 2, 1, 0]
    assert steps(blocking, limit=5) == [6, 5, 4, 3, 2]
    assert (steps(blocking, limit=0), len(list(blocking.list(None)))) == ([], 9)


@pytest.mark.parametrize("namespace", ["", "a:1|b:2", "ü" * 300])
def test_a_namespace_is_apart(namespace: str, blocking: Any) -> None:
    config = put(blocking, thread(namespace=namespace), a_checkpoint(a=[1]))
    put(blocking, thread(namespace="other"), a_checkpoint(a=[2]))

    found = blocking.get_tuple(thread(namespace=namespace))
    assert (found.config, found.checkpoint["channel_values"]) == (config, {"a": [1]})


@pytest.mark.parametrize("thread_id", ["", "x" * 256, "a\0b", "\ud800"])
def test_a_thread_whose_id_is_none_of_the_store_is_refused(thread_id: str, blocking: Any) -> None:
    with pytest.raises(asm.ValidationError, match="thread_id"):
        put(blocking, thread(thread_id), a_checkpoint())


@pytest.mark.parametrize("thread_id", [None, True, 1.5, b"thread_1", {"id": 1}, ["thread_1"]])
def test_a_thread_is_named_by_a_string_an_int_or_a_uuid(thread_id: Any, blocking: Any) -> None:
    for call in (
        lambda: put(blocking, thread(thread_id), a_checkpoint()),
        lambda: blocking.get_tuple(thread(thread_id)),
        lambda: list(blocking.list(thread(thread_id))),
        lambda: blocking.delete_thread(thread_id),
        lambda: blocking.copy_thread("thread_1", thread_id),
    ):
        with pytest.raises(asm.ValidationError, match="thread_id must be a string, an int or a UUID, not"):
            call()


@pytest.mark.parametrize("thread_id", [7, UUID(int=7)])
def test_a_thread_with_another_id_is_the_session_of_its_text(thread_id: Any, blocking: Any) -> None:
    put(blocking, thread(thread_id), a_checkpoint(), step=1)

    assert steps(blocking, thread(str(thread_id))) == steps(blocking, thread(thread_id)) == [1]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize(
    "call",
    [
        lambda saver, name: put(saver, thread(namespace=name), a_checkpoint()),
        lambda saver, name: put(saver, thread(checkpoint_id=name), a_checkpoint()),
        lambda saver, name: put(saver, thread(), a_checkpoint(**{name: [1]})),
        lambda saver, name: saver.put_writes(thread(checkpoint_id="c", namespace=name), [("a", 1)], "task"),
        lambda saver, name: saver.put_writes(thread(checkpoint_id="c"), [(name, 1)], "task"),
        lambda saver, name: saver.put_writes(thread(checkpoint_id="c"), [("a", 1)], name),
        lambda saver, name: saver.put_writes(thread(checkpoint_id="c"), [("a", 1)], "task", name),
        lambda saver, name: saver.get_tuple(thread(namespace=name)),
        lambda saver, name: saver.get_tuple(thread(checkpoint_id=name)),
        lambda saver, name: list(saver.list(thread(namespace=name))),
        lambda saver, name: list(saver.list(thread(), before=thread(checkpoint_id=name))),
        lambda saver, name: saver.delete_for_runs([name]),
    ],
)
def test_a_name_that_a_database_cannot_store_is_refused(
    call: Callable[[Any, str], object], name: str, blocking: Any, dsn_of_tables: str
) -> None:
    with pytest.raises(asm.ValidationError, match="contains a"):
        call(blocking, name)

    assert rows_of(dsn_of_tables) == [0, 0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda saver: saver.get_tuple({"configurable": {}}),
        lambda saver: saver.put_writes(thread(), [("a", 1)], "task"),
        lambda saver: saver.prune(["thread_1"], strategy="oldest"),
        lambda saver: saver.prune("thread_1"),
        lambda saver: saver.delete_for_runs("run_1"),
        lambda saver: saver.delete_for_runs([None]),
        lambda saver: saver.expire(max_checkpoints=0),
        lambda saver: saver.expire(max_age_days=-1),
        lambda saver: list(saver.list(thread(), limit=-1)),
        lambda saver: put(saver, thread(), a_checkpoint(), score=float("nan")),
    ],
)
def test_bad_input_is_refused(call: Callable[[Any], object], blocking: Any, dsn_of_tables: str) -> None:
    with pytest.raises(asm.ValidationError):
        call(blocking)

    assert rows_of(dsn_of_tables) == [0, 0, 0]


# Deleting.


def test_delete_thread_deletes_the_session_with_all_that_it_has(blocking: Any, dsn_of_tables: str) -> None:
    last = put_many(blocking, 3)[-1]
    blocking.put_writes(last, [("a", 1)], "task")
    put_many(blocking, 1, "thread_2")
    with asm.SessionStore(dsn_of_tables) as store:
        store.append_event(an_event("thread_1"))
        blocking.delete_thread("thread_1")

        assert (rows_of(dsn_of_tables), store.get_events("thread_1")) == ([0, 0, 0], [])
        assert [session.id for session in store.list_sessions()] == ["thread_2"]


def test_the_stores_own_deletes_take_the_checkpoints_along(blocking: Any, dsn_of_tables: str) -> None:
    for thread_id in ("thread_1", "thread_2", "thread_3"):
        put_many(blocking, 2, thread_id)
    with asm.SessionStore(dsn_of_tables) as store:
        store.delete_session("thread_1")
        store.update_session("thread_2", lambda session: session.__class__.from_dict(older(session)))
        policy = asm.RetentionPolicy(
            max_session_age_days=90, hard_delete_after_days=1, exempt_statuses=("paused",)
        )
        assert store.maintenance.execute(policy).sessions_soft_deleted == 1
        assert rows_of(dsn_of_tables, "thread_2") == [2, 3, 0]
        store.update_session("thread_2", lambda session: session.__class__.from_dict(deleted(session)))
        assert store.maintenance.execute(policy).sessions_hard_deleted == 1

    assert [rows_of(dsn_of_tables, f"thread_{number}") for number in (1, 2, 3)] == [
        [0] * 3,
        [0] * 3,
        [2, 3, 0],
    ]


def deleted(session: asm.Session) -> dict[str, Any]:
    return session.to_dict() | {"deleted_at": "2020-02-01T00:00:00+00:00"}


def test_a_copy_outlives_its_source(blocking: Any, dsn_of_tables: str) -> None:
    last = put_many(blocking, 3)[-1]
    blocking.put_writes(last, [("a", 1)], "task")
    before = [comparable(each)[1:3] for each in blocking.list(thread())]
    blocking.copy_thread("thread_1", "thread_2")
    blocking.copy_thread("thread_1", "thread_2")
    blocking.delete_thread("thread_1")

    assert [comparable(each)[1:3] for each in blocking.list(thread("thread_2"))] == before
    assert rows_of(dsn_of_tables, "thread_2") == [3, 4, 1]
    with asm.SessionStore(dsn_of_tables) as store:
        assert store.get_session("thread_2").parent_session_id == "thread_1"


def test_delete_for_runs_deletes_rows_of_all_threads(blocking: Any, dsn_of_tables: str) -> None:
    configs = put_many(blocking, 2, run_id="run_1")
    for config in configs:
        blocking.put_writes(config, [("a", 1)], "task")
    put(blocking, configs[-1], a_checkpoint(other=[1]), run_id="run_2", step=9)
    put_many(blocking, 2, "thread_2", run_id="run_1")
    blocking.delete_for_runs(["run_1", UUID(int=3)])

    assert (rows_of(dsn_of_tables), rows_of(dsn_of_tables, "thread_2")) == ([1, 1, 0], [0, 0, 0])
    assert blocking.get_tuple(thread()).parent_config is None


@pytest.mark.parametrize("batch_size", [1, 2, 1_000])
def test_expire_keeps_the_newest_of_each_namespace(
    batch_size: int, blocking: Any, dsn_of_tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_pruning, "BATCH_SIZE", batch_size)
    for thread_id in ("thread_1", "thread_2", "thread_3"):
        put_many(blocking, 5, thread_id)

    assert blocking.expire(max_checkpoints=2) == 9
    assert (steps(blocking), rows_of(dsn_of_tables)) == ([4, 3], [2, 3, 0])
    assert blocking.expire(max_checkpoints=2) == 0


def test_expire_deletes_what_is_old(blocking: Any, dsn_of_tables: str) -> None:
    configs = put_many(blocking, 4)
    old = [configs[step]["configurable"]["checkpoint_id"] for step in (0, 1, 3)]
    fetch_rows(
        dsn_of_tables,
        "update asm_checkpoints set created_at = '2020-01-01T00:00:00.000000Z'"
        " where checkpoint_id in ({})".format(", ".join(f"'{id}'" for id in old)),
    )

    assert blocking.expire() == 0
    assert (blocking.expire(max_age_days=30), steps(blocking)) == (2, [3, 2])


def test_expire_deletes_the_writes_of_threads_that_are_gone(blocking: Any, dsn_of_tables: str) -> None:
    for thread_id in ("thread_1", "thread_2"):
        blocking.put_writes(thread(thread_id, "checkpoint_1"), [("a", 1)], "task")
    fetch_rows(
        dsn_of_tables,
        "update asm_checkpoint_writes set created_at = '2020-01-01T00:00:00.000000Z'"
        " where session_id = 'thread_1'",
    )
    blocking.expire()

    assert (rows_of(dsn_of_tables), rows_of(dsn_of_tables, "thread_2")) == ([0, 0, 0], [0, 0, 1])


# The tables.


def test_without_its_tables_a_saver_names_the_command(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        saver: Any = AsmSaver(store)
        with pytest.raises(asm.MigrationRequired, match=r"`asm migrate --langgraph`.*setup\(\)"):
            saver.get_tuple(thread())
        with pytest.raises(asm.MigrationRequired, match="--langgraph"):
            saver.prune(["thread_1"])
        saver.setup()
        saver.setup()
        put_many(saver, 1)

        assert steps(saver) == [0]


def test_setup_creates_the_tables_of_an_async_store(migrated: str) -> None:
    async def used() -> Any:
        async with asm.AsyncSessionStore(migrated) as store:
            saver: Any = AsyncAsmSaver(store)
            await saver.setup()
            await saver.aput(thread(), a_checkpoint(), {"step": 1}, {})
            return await saver.aget_tuple(thread())

    assert asyncio.run(used()).metadata == {"step": 1}


def test_setup_creates_the_tables_in_memory() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        saver: Any = AsmSaver(store)
        saver.setup()
        put_many(saver, 2)

        assert steps(saver) == [1, 0]


@only(POSTGRES, why="a pool is PostgreSQL's")
def test_a_store_with_a_borrowed_pool_is_migrated_by_its_dsn(migrated: str) -> None:
    with psycopg_pool.ConnectionPool(migrated, min_size=1, open=True) as pool:
        store = asm.SessionStore(pool=pool)
        saver: Any = AsmSaver(store)
        with pytest.raises(asm.ValidationError, match="borrowed pool"):
            saver.setup()
        langgraph.migrate(migrated)
        put_many(saver, 2)

        assert steps(saver) == [1, 0]


@only(POSTGRES, why="a schema is PostgreSQL's")
def test_the_tables_may_be_in_a_schema(dsn: str) -> None:
    langgraph.migrate(dsn, schema="tenant")
    with asm.SessionStore(dsn, schema="tenant") as store:
        saver: Any = AsmSaver(store)
        put_many(saver, 2)
        store.delete_session("thread_1")

        assert steps(saver) == []


# Tasks, loops and processes.


def test_a_cancelled_put_is_stored_and_then_raised(saver: Any, run: Run[Any]) -> None:
    async def cancelled() -> Any:
        put = asyncio.ensure_future(saver.aput(thread(), a_checkpoint(), {"step": 1}, {}))
        await asyncio.sleep(0)
        put.cancel()
        with suppress(asyncio.CancelledError):
            await put
        return put.cancelled(), await saver.aget_tuple(thread())

    was_cancelled, found = run(cancelled())
    assert (was_cancelled, found.metadata) == (True, {"step": 1})


def test_one_blocking_store_serves_several_loops(dsn_of_tables: str) -> None:
    with asm.SessionStore(dsn_of_tables) as store, ThreadPoolExecutor(4) as threads:
        saver: Any = AsyncAsmSaver(store)

        async def writes(number: int) -> None:
            for each in range(5):
                await saver.aput_writes(thread("thread_1", "c"), [("a", each)], f"task_{number}_{each}")

        for done in [threads.submit(asyncio.run, writes(number)) for number in range(4)]:
            done.result()

    assert rows_of(dsn_of_tables) == [0, 0, 20]


def test_two_processes_lose_nothing_of_one_thread(blocking: Any, dsn_of_tables: str) -> None:
    program = "tests.integrations.langgraph_process"
    with running(program) as one, running(program) as other:
        processes = {"a": one, "b": other}
        for process in processes.values():
            assert read_line(process) == "ready"
        for name, process in processes.items():
            send_line(process, json.dumps([dsn_of_tables, name]))
        ids = [id for process in processes.values() for id in json.loads(read_line(process))]

    found = list(blocking.list(thread()))
    assert [each.checkpoint["id"] for each in found] == sorted(ids, reverse=True)
    assert {len(each.pending_writes) for each in found} == {2}
    assert {str(each.checkpoint["channel_values"]["shared"]) for each in found} == {"['the same in both']"}
    assert rows_of(dsn_of_tables) == [40, 41, 80]


# The command, and the module.


def test_asm_show_shows_the_session_of_a_thread(blocking: Any, dsn_of_tables: str) -> None:
    config = thread()
    config["configurable"]["user_id"] = "user_7"
    put(blocking, config, a_checkpoint(messages=["hello"]), step=0)

    shown = output_of("show", "thread_1", "--dsn", dsn_of_tables).splitlines()
    assert shown[:2] == ["Session thread_1  active", "  agent     langgraph"]
    assert shown[3:] == ["  events    0", "  context   user_id: user_7"]


def test_a_missing_langgraph_names_its_extra() -> None:
    program = "import sys; sys.modules['langgraph'] = None; import asm.integrations.langgraph"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert "needs langgraph-checkpoint: pip install 'asm-store[langgraph]'" in done.stderr


def test_a_blocking_saver_refuses_an_async_store(migrated: str) -> None:
    with pytest.raises(asm.ValidationError, match="AsyncAsmSaver"):
        AsmSaver(asm.AsyncSessionStore(migrated))
    with pytest.raises(asm.ValidationError, match="AsyncAsmSaver"):
        AsyncAsmSaver("sqlite:///agents.db")  # type: ignore[arg-type]
