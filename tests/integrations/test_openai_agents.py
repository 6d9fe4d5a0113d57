"""AsmSession keeps the protocol of the OpenAI Agents SDK, and shares a session with an application."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import agents
import psycopg
import pytest
from agents.memory import SessionSettings

import asm
from asm.integrations.openai_agents import AsmSession
from tests.conftest import Where, an_event, in_loop
from tests.contract.other_clients import read_line, running, send_line

T = TypeVar("T")

Item = dict[str, Any]
Run = Callable[[Coroutine[Any, Any, T]], T]

ASKED: Item = {"role": "user", "content": "What is the weather in Rome?"}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look."}]}
CALLED: Item = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'}
RETURNED: Item = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
SAID: Item = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}],
}
TURN = [ASKED, THOUGHT, CALLED, RETURNED, SAID]

SECRET = "the code is 4711-wombat"


def users(*texts: object) -> list[Item]:
    return [{"role": "user", "content": str(text)} for text in texts]


def texts(items: Any) -> list[Any]:
    return [item["content"] for item in items]


@pytest.fixture
def run(colour: str) -> Run[Any]:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def talk(store: Any) -> Callable[..., Any]:
    """Makes AsmSessions of the store."""

    def made(session_id: str = "talk_1", **options: Any) -> Any:
        return AsmSession(session_id, getattr(store, "_target", store), **options)

    return made


@pytest.fixture
def session(talk: Callable[..., Any]) -> Any:
    return talk()


# The protocol.


def test_it_is_a_session_of_the_sdk(session: AsmSession) -> None:
    kept: agents.memory.Session = session
    assert isinstance(kept, agents.memory.Session)


def test_items_are_read_as_they_were_added_the_oldest_first(session: Any, run: Run[Any]) -> None:
    async def scenario() -> None:
        assert await session.get_items() == []
        await session.add_items(TURN[:2])
        await session.add_items(TURN[2:])
        assert await session.get_items() == TURN

    run(scenario())


def test_an_item_is_read_exactly_as_it_was_added(session: Any, run: Run[Any]) -> None:
    contents = [
        "こんにちは 😊 Привет",
        "O'Reilly\"; drop table asm_events; --",
        "\0 and \ud83d alone, \u2028, \x1b[2J",
        {"nested": [{"n": 10**30, "f": 1.5e-300, "t": True, "nothing": None}, []]},
    ]
    items = [{"role": "user", "content": content} for content in contents]
    run(session.add_items(items))
    assert run(session.get_items()) == items
    assert [run(session.pop_item()) for _ in items] == items[::-1]


def test_an_item_that_json_does_not_have_is_refused_with_its_whole_batch(
    session: Any, store: Any, run: Run[Any]
) -> None:
    with pytest.raises(asm.ValidationError, match=r"data\.item\.content\[1\]"):
        run(session.add_items([ASKED, {"role": "user", "content": [1, float("nan")]}]))
    assert run(session.get_items()) == []
    with pytest.raises(asm.SessionNotFound):
        store.get_session("talk_1")


def test_a_limit_gives_the_latest_items_in_their_order(talk: Any, run: Run[Any]) -> None:
    run(talk().add_items(users(*"123456")))
    all = "123456"
    for limit, expected in (
        (None, all),
        (0, ""),
        (2, "56"),
        (6, all),
        (100, all),
        (2**31 - 1, all),
        (-1, all),
    ):
        assert texts(run(talk().get_items(limit))) == list(expected)
        assert texts(run(talk(session_settings=SessionSettings(limit=limit)).get_items())) == list(expected)


def test_an_explicit_limit_prevails_over_that_of_the_settings(talk: Any, run: Run[Any]) -> None:
    limited = talk(session_settings={"limit": 1})
    run(limited.add_items(users(1, 2, 3)))
    assert texts(run(limited.get_items())) == ["3"]
    assert texts(run(limited.get_items(limit=2))) == ["2", "3"]
    limited.session_settings = SessionSettings(limit=3)
    assert texts(run(limited.get_items())) == ["1", "2", "3"]
    assert talk().session_settings == SessionSettings()


def test_items_are_popped_the_newest_first_until_there_are_none(session: Any, run: Run[Any]) -> None:
    assert run(session.pop_item()) is None
    run(session.add_items(TURN))
    assert [run(session.pop_item()) for _ in range(6)] == [*reversed(TURN), None]
    assert run(session.get_items()) == []


def test_limits_count_only_the_items_that_are_left(session: Any, run: Run[Any]) -> None:
    run(session.add_items(users(*"abcdefgh")))
    for _ in range(4):
        run(session.pop_item())
    run(session.add_items(users("i")))
    assert texts(run(session.get_items(3))) == ["c", "d", "i"]


def test_equal_items_are_each_kept(session: Any, run: Run[Any]) -> None:
    run(session.add_items([SAID, SAID]))
    run(session.add_items([SAID]))
    run(session.pop_item())
    assert run(session.get_items()) == [SAID, SAID]


def test_sessions_do_not_see_or_change_one_another(talk: Any, run: Run[Any]) -> None:
    one, other = talk("one"), talk("other")
    run(one.add_items(users(1)))
    run(other.add_items(users(2, 3)))
    assert texts([run(other.pop_item())]) == ["3"]
    run(one.clear_session())
    assert run(one.get_items()) == []
    assert run(one.pop_item()) is None
    assert texts(run(other.get_items())) == ["2"]


def test_a_cleared_session_is_used_again(session: Any, run: Run[Any]) -> None:
    run(session.clear_session())
    run(session.add_items(TURN))
    run(session.clear_session())
    assert run(session.get_items()) == []
    run(session.add_items([ASKED]))
    assert run(session.get_items()) == [ASKED]


def test_adding_nothing_adds_nothing_but_a_closed_store_refuses_it(
    session: Any, store: Any, run: Run[Any]
) -> None:
    run(session.add_items([]))
    assert run(session.get_items()) == []
    store.__exit__(None, None, None)
    with pytest.raises(asm.StoreClosed):
        run(session.add_items([]))


# What the constructor refuses.


@pytest.mark.parametrize("id", ["", "x" * 256, "a\0b", "\ud800", 7, None], ids=ascii)
def test_an_id_that_the_store_cannot_have_is_refused_at_once(id: Any) -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        for field, options in {"session_id": {"session_id": id}, "agent_id": {"agent_id": id}}.items():
            with pytest.raises(asm.ValidationError, match=field) as error:
                AsmSession(**{"session_id": "talk_1", "store": store, **options})
            assert error.value.details["path"] == field


def test_anything_but_a_store_is_refused_at_once() -> None:
    with pytest.raises(
        asm.ValidationError, match="AsmSession takes a SessionStore or an AsyncSessionStore, not"
    ):
        AsmSession("talk_1", object())  # type: ignore[arg-type]
    with asm.SessionStore("sqlite://", migrate=True) as store, pytest.raises(TypeError, match="maximum"):
        AsmSession("talk_1", store, session_settings={"maximum": 1})


# A session that is shared with an application.


def test_the_row_is_made_with_the_first_item_and_only_touched_afterwards(
    session: Any, store: Any, run: Run[Any]
) -> None:
    run(session.add_items([ASKED]))
    made = store.get_session("talk_1")
    assert (made.agent_id, made.status) == ("openai-agents", "active")

    named = store.update_session("talk_1", name_it)
    run(session.add_items([SAID]))
    touched = store.get_session("talk_1")
    assert touched.updated_at > named.updated_at
    assert (touched.metadata, touched.tags, touched.created_at) == (
        {"title": "Rome"},
        ("vip",),
        made.created_at,
    )
    assert store.maintenance.health_check() == []


def name_it(session: asm.Session) -> asm.Session:
    fields = session.to_dict() | {"metadata": {"title": "Rome"}, "tags": ["vip"]}
    return asm.Session.from_dict(fields)


def test_only_items_are_read_popped_and_cleared(session: Any, store: Any, run: Run[Any]) -> None:
    store.append_event(an_event("talk_1", "acme.opened", data={"by": "support"}))
    run(session.add_items([ASKED, SAID]))
    store.append_event(an_event("talk_1", data={"role": "user", "content": "of the application"}))

    assert run(session.get_items()) == [ASKED, SAID]
    assert run(session.get_items(1)) == [SAID]
    assert run(session.pop_item()) == SAID
    run(session.clear_session())
    assert [str(event.type) for event in store.get_events("talk_1")] == ["acme.opened", "message_sent"]

    run(session.add_items([SAID]))
    assert [event.sequence_number for event in store.get_events("talk_1")] == [1, 4, 5]
    assert store.maintenance.health_check() == []


def test_popped_and_cleared_words_are_in_no_table(
    session: Any, store: Any, where: Where, run: Run[Any]
) -> None:
    run(session.add_items(users("hello", SECRET, f"again: {SECRET}")))
    assert SECRET in everything(where)
    run(session.pop_item())
    run(session.clear_session())
    assert SECRET not in everything(where)
    assert store.get_session("talk_1").agent_id == "openai-agents"


def everything(where: Where) -> str:
    """All rows of all tables as text."""
    if where.dialect == "sqlite":
        with sqlite3.connect(where.dsn.removeprefix("sqlite:///")) as database:
            names = database.execute("select name from sqlite_master where type = 'table'").fetchall()
            rows = [database.execute(f'select * from "{name}"').fetchall() for (name,) in names]
        database.close()
        return str(rows)
    with psycopg.connect(where.dsn) as connection:
        names = connection.execute(
            "select table_schema, table_name from information_schema.tables where table_name like 'asm%'"
        ).fetchall()
        return str(
            [
                connection.execute(f'select stored::text from "{schema}"."{name}" as stored').fetchall()
                for schema, name in names
            ]
        )


def test_retention_deletes_a_conversation_whole_or_not_at_all(talk: Any, store: Any, run: Run[Any]) -> None:
    for name in ("old", "new"):
        run(talk(name).add_items(TURN))
    old = store.get_session("old")
    store.save_session(
        asm.Session.from_dict(
            old.to_dict() | {"updated_at": (old.updated_at - timedelta(days=91)).isoformat()}
        )
    )
    by_default = asm.RetentionPolicy()
    documented = asm.RetentionPolicy(
        max_session_age_days=90, hard_delete_after_days=1, exempt_statuses=("paused",)
    )

    assert store.maintenance.execute(by_default).sessions_soft_deleted == 0
    assert store.maintenance.execute(documented).sessions_soft_deleted == 1
    assert run(talk("old").get_items()) == TURN

    old = store.get_session("old")
    store.save_session(
        asm.Session.from_dict(
            old.to_dict() | {"deleted_at": (old.deleted_at - timedelta(days=2)).isoformat()}
        )
    )
    assert store.maintenance.execute(documented).sessions_hard_deleted == 1
    assert (run(talk("old").get_items()), run(talk("new").get_items())) == ([], TURN)


# Concurrency.


def test_of_concurrent_pops_each_returns_another_item(talk: Any, run: Run[Any]) -> None:
    async def scenario() -> list[Any]:
        await talk().add_items(users(*range(20)))
        popped = await asyncio.gather(*(talk().pop_item() for _ in range(22)))
        assert await talk().get_items() == []
        return [item["content"] for item in popped if item is not None]

    assert sorted(run(scenario()), key=int) == [str(n) for n in range(20)]


def test_of_concurrent_first_writes_each_keeps_its_items_together(talk: Any, run: Run[Any]) -> None:
    async def scenario() -> list[Any]:
        await asyncio.gather(*(talk().add_items(users(f"{n}a", f"{n}b", f"{n}c")) for n in range(10)))
        return texts(await talk().get_items())

    contents = run(scenario())
    assert [text[-1] for text in contents] == list("abc" * 10)
    assert len({text[:-1] for text in contents[::3]}) == 10


def test_a_write_that_is_cancelled_is_done_when_it_raises(session: Any, run: Run[Any]) -> None:
    async def left_by_cancelled(write: Coroutine[Any, Any, Any]) -> list[Any]:
        task = asyncio.create_task(write)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return texts(await session.get_items())

    assert run(left_by_cancelled(session.add_items(users(1, 2)))) == ["1", "2"]
    assert run(left_by_cancelled(session.pop_item())) == ["1"]
    assert run(left_by_cancelled(session.clear_session())) == []


@pytest.mark.parametrize("colour", ["sync"])
def test_a_blocking_store_serves_any_number_of_event_loops(session: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: asyncio.run(session.add_items(users(n))), range(24)))
    assert sorted(int(text) for text in texts(asyncio.run(session.get_items()))) == list(range(24))


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Any]]:
    """Two processes that use the conversation `talk_1` of any store. Importing the SDK takes seconds."""
    module = "tests.integrations.openai_agents_process"
    with running(module) as one, running(module) as other:
        assert [read_line(one), read_line(other)] == ["ready", "ready"]
        yield [one, other]


def ask(processes: list[Any], dsn: str, *names: str) -> list[Any]:
    """What the processes did at the same time: each added items of its name, or without one popped items."""
    for process, name in zip(processes, names, strict=True):
        send_line(process, json.dumps([dsn, name]))
    return [json.loads(read_line(process)) for process in processes]


@pytest.mark.parametrize("colour", ["sync"])
def test_two_processes_lose_double_and_reorder_nothing(
    session: Any, processes: list[Any], migrated: str, run: Run[Any]
) -> None:
    added = ask(processes, migrated, "A", "B")
    contents = texts(run(session.get_items()))
    assert sorted(contents) == sorted(added[0] + added[1])
    for each in added:
        assert [text for text in contents if text in each] == each
    assert all(len({text[0] for text in contents[n : n + 3]}) == 1 for n in range(0, 120, 3))

    popped = ask(processes, migrated, "", "")
    assert sorted(popped[0] + popped[1]) == sorted(contents)
    assert run(session.get_items()) == []


# A missing SDK.


def test_a_missing_sdk_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agents", None)
    monkeypatch.delitem(sys.modules, "asm.integrations.openai_agents")
    with pytest.raises(ImportError, match=r"pip install 'asm-store\[openai-agents\]'"):
        import_module("asm.integrations.openai_agents")


def test_another_missing_module_is_not_taken_for_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agents.models", None)
    monkeypatch.delitem(sys.modules, "asm.integrations.openai_agents")
    with pytest.raises(ImportError, match=r"agents\.models"):
        import_module("asm.integrations.openai_agents")
