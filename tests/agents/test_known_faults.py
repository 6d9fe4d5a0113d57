"""The faults of agent_session_manager's SessionManager, none of which this one has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

import asm
from tests.agents.conftest import types
from tests.agents.scripted import Gate, Scripted, answer, call, delta, said, used, with_tool
from tests.conftest import Where

InBackground = Callable[..., Future[Any]]

ENDS = ("run_completed", "run_failed", "run_cancelled", "run_timeout")


def ends_of(store: Any, session_id: str) -> list[str]:
    return [type for type in types(store.get_events(session_id)) if type in ENDS]


@pytest.fixture
def broken(store: Any) -> Callable[[str], None]:
    """Renames the table of the runs, so that a statement on it fails, and back."""

    def rename(direction: str) -> None:
        old, new = ("asm_runs", "asm_gone") if direction == "away" else ("asm_gone", "asm_runs")
        store.run_transaction(lambda tx: tx.execute(f"alter table {old} rename to {new}"))

    return rename


def test_1_a_run_whose_program_was_killed_does_not_run_for_ever(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    # test_killed_runs.py kills a program at every step. Here its lease ends without a renewal.
    gate = Gate()
    running = in_background(
        manager.run, session_id, Scripted([gate.wait, said("Hello.")]), "Hi", run_id="run_1"
    )
    assert gate.reached.wait(60)
    assert [run.id for run in manager.recover(grace=0)] == []
    store.update_run("run_1", expired)

    assert [run.id for run in manager.recover(grace=0)] == ["run_1"]
    gate.open()
    assert isinstance(running.exception(60), asm.RunLost)
    assert store.get_active_run(session_id) is None


def expired(run: asm.Run) -> asm.Run:
    lease = {**run.metadata["asm"], "lease_until": "2026-01-01T00:00:00.000000+00:00"}
    return replace(run, metadata={"asm": lease})


def test_2_an_end_that_cannot_be_stored_is_stored_in_no_part(
    store: Any, session_id: str, manager: Any, broken: Any
) -> None:
    async def break_it(_: Any) -> None:
        await asyncio.to_thread(broken, "away")

    with pytest.raises(asm.StorageError):
        manager.run(session_id, Scripted([break_it, said("Hello.")]), "Hi", run_id="run_1")
    broken("back")

    assert ends_of(store, session_id) == []
    assert store.get_run("run_1").status == "running"
    store.update_run("run_1", expired)
    assert [run.status for run in manager.recover()] == ["failed"]
    assert ends_of(store, session_id) == ["run_failed"]


def test_3_a_cancelled_run_is_not_overwritten_by_a_failed_one(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    gate = Gate()
    adapter = Scripted([gate.wait, asm.ProviderError("cancelled")])
    running = in_background(manager.run, session_id, adapter, "Hi", run_id="run_1")
    assert gate.reached.wait(60)

    manager.cancel("run_1")
    gate.open()

    assert isinstance(running.exception(60), asm.RunCancelled)
    assert store.get_run("run_1").status == "cancelled"
    assert ends_of(store, session_id) == ["run_cancelled"]


def test_4_two_runs_of_one_session_do_not_both_proceed(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    gate = Gate()
    adapter = Scripted([gate.wait, said("Hello.")])
    running = in_background(manager.run, session_id, adapter, "Hi")
    assert gate.reached.wait(60)

    with pytest.raises(asm.RunActive):
        manager.run(session_id, adapter, "Hi")
    gate.open()

    assert running.result(60).text == "Hello."
    assert len(adapter.requests) == 1


def test_5_a_call_that_is_repeated_runs_and_bills_once(store: Any, manager: Any) -> None:
    adapter = answer()

    results = [manager.run_once(adapter, "Hi", run_id="order-7") for _ in range(3)]

    assert results[0] == results[1] == results[2]
    assert len(adapter.requests) == 1
    assert store.query.get_usage_summary().total_tokens == 15


def test_6_what_is_saved_during_a_run_stays(store: Any, session_id: str, manager: Any) -> None:
    def tool(*_: Any) -> str:
        def change(session: asm.Session) -> asm.Session:
            return replace(session, metadata={"title": "Saved meanwhile"}, tags=("kept",))

        store.update_session(session_id, change)
        return "ok"

    result = manager.run(session_id, with_tool(), "Hi", on_tool=tool)

    session = store.get_session(session_id)
    assert (session.metadata, session.tags) == ({"title": "Saved meanwhile"}, ("kept",))
    assert result.session == session


def test_7_the_usage_is_that_of_all_calls(store: Any, session_id: str, manager: Any) -> None:
    result = manager.run(session_id, with_tool(), "Hi", on_tool=lambda *_: "ok")

    assert result.token_usage == {"input_tokens": 20, "output_tokens": 10}
    assert store.get_run(result.run.id).token_usage == result.token_usage


def test_8_the_text_of_turns_with_tools_is_kept(store: Any, session_id: str, manager: Any) -> None:
    result = manager.run(session_id, with_tool(), "Hi", on_tool=lambda *_: "ok")

    assert result.text == "Let me see.\n\nHere it is."
    messages = store.get_events(session_id, type="message_received")
    assert [event.data["content"] for event in messages] == ["Let me see.", "Here it is."]


def test_9_an_event_that_cannot_be_stored_ends_the_run(
    store: Any, session_id: str, manager: Any, where: Where
) -> None:
    def drop(*_: Any) -> str:
        store.run_transaction(lambda tx: tx.execute("alter table asm_events rename to asm_gone"))
        return "ok"

    adapter = with_tool()
    with pytest.raises(asm.StorageError):
        manager.run(session_id, adapter, "Hi", run_id="run_1", on_tool=drop)

    store.run_transaction(lambda tx: tx.execute("alter table asm_gone rename to asm_events"))
    assert len(adapter.requests) == 1
    assert "run_completed" not in types(store.get_events(session_id))


def test_10_a_transcript_never_separates_a_call_from_its_result(session_id: str, manager: Any) -> None:
    for number in range(5):
        adapter = Scripted(
            [said("Let me see.", "tool_use"), call("t", {"q": "x" * 50}, id=f"c{number}")], [said("Done.")]
        )
        manager.run(session_id, adapter, f"Question {number}", on_tool=lambda *_: "y" * 100)

    for limit in range(25):
        messages = manager.transcript(session_id, max_messages=limit).messages
        assert len(messages) == min(limit // 4, 5) * 4
        assert all(message["role"] == "user" for message in messages[::4])
        calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
        assert calls == [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    # The input and the output of a tool count, too: one turn has about 190 characters.
    assert len(manager.transcript(session_id, max_chars=250).messages) == 4


def test_11_a_run_that_takes_too_long_has_the_status_timeout(
    store: Any, session_id: str, manager: Any
) -> None:
    with pytest.raises(asm.RunTimeout):
        manager.run(session_id, Scripted([Gate().wait]), "Hi", run_id="run_1", timeout=0.1)

    assert store.get_run("run_1").status == "timeout"
    assert ends_of(store, session_id) == ["run_timeout"]


def test_12_streamed_tokens_are_not_appended_one_by_one(store: Any, session_id: str, manager: Any) -> None:
    adapter = Scripted([*[delta("a ") for _ in range(100)], said("a " * 100), used()])

    shown = list(manager.stream(session_id, adapter, "Hi"))

    assert types(shown).count("message_streamed") == 100
    assert store.get_events(session_id, type="message_streamed") == []
