"""AsmConversationStore keeps the protocol of pydantic-ai, in a session that others may use, too."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from pydantic_ai import BinaryContent, DeferredToolRequests, ImageUrl
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage, RunUsage

import asm
from asm.integrations.pydantic_ai import AsmConversationStore
from tests.conftest import an_event, in_loop
from tests.contract.other_clients import read_line, running, send_line

T = TypeVar("T")

Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run(colour: str) -> Run[Any]:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def conversations(store: Any) -> AsmConversationStore:
    return AsmConversationStore(getattr(store, "_target", store))


def turn(text: str) -> list[ModelMessage]:
    return [ModelRequest.user_text_prompt(text), ModelResponse(parts=[TextPart(f"to {text}")])]


def talk(*texts: str, id: str = "talk", **fields: Any) -> Conversation:
    messages = [message for text in texts for message in turn(text)]
    return Conversation(conversation_id=id, messages=messages, **fields)


async def loaded(conversations: ConversationStore, id: str = "talk", **options: Any) -> Conversation:
    conversation = await conversations.load(id, **options)
    assert conversation is not None
    return conversation


async def said(conversations: ConversationStore, id: str = "talk", **options: Any) -> list[str]:
    """What users said in a conversation."""
    conversation = await loaded(conversations, id, **options)
    return [
        str(part.content)
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]


async def extended(conversations: ConversationStore, *texts: str, id: str = "talk") -> None:
    conversation = await loaded(conversations, id)
    conversation.messages += talk(*texts).messages
    await conversations.save(conversation)


# The protocol.


def test_a_conversation_is_read_as_pydantic_ai_serializes_it(conversations: Any, run: Run[Any]) -> None:
    messages: list[ModelMessage] = [
        ModelRequest(
            parts=[
                SystemPromptPart("Be brief."),
                UserPromptPart(
                    [
                        "こんにちは 😊 \0 \u2028 O'Reilly\"; drop table asm_events; --",
                        BinaryContent(b"\x89PNG\xff\0", media_type="image/png"),
                        ImageUrl("https://example.com/a.png"),
                    ]
                ),
            ],
            instructions="Answer in Japanese.",
            metadata={"n": 10**30, "f": 1.5e-300, "nothing": None, "list": [[], {}]},
        ),
        ModelResponse(
            parts=[
                ThinkingPart("hm", signature="x" * 100),
                ToolCallPart("look", '{"at": "cat"}', "c1"),
                ToolCallPart("touch", {"at": ["cat"], "force": float("nan")}, "c2"),
            ],
            usage=RequestUsage(input_tokens=3, details={"audio": 1}),
            model_name="m",
            provider_details={"id": 7},
        ),
        ModelRequest(parts=[ToolReturnPart("look", {"cat": True}, "c1")]),
    ]
    requests = DeferredToolRequests(
        approvals=[ToolCallPart("touch", {"hands": b"\xff\0"}, "c2")], metadata={"c2": {"why": "claws"}}
    )
    conversation = talk(usage=RunUsage(input_tokens=3, requests=1, web_searches=2))
    conversation.messages, conversation.deferred_tool_requests = messages, requests
    run(conversations.save(conversation))

    read = run(loaded(conversations))
    adapter = ModelMessagesTypeAdapter
    assert read.messages == adapter.validate_json(adapter.dump_json(messages))
    assert read.messages[2] == messages[2]
    assert read.usage == conversation.usage
    assert read.deferred_tool_requests.metadata == requests.metadata
    assert read.deferred_tool_requests.approvals[0].args == {"hands": "_wA="}
    entries = run(conversations.load_entries("talk"))
    assert [run(conversations.read_entry(entry.id)) for entry in entries] == entries


def test_what_the_store_does_not_have_is_none_or_a_lookup_error(conversations: Any, run: Run[Any]) -> None:
    run(conversations.save(talk("a")))
    assert run(conversations.load("other")) is None
    assert run(conversations.load("talk", scope="ann")) is None
    assert run(conversations.read_history(None)) == []
    for read in (conversations.read_entry("none"), conversations.read_history("none")):
        with pytest.raises(LookupError, match="none"):
            run(read)


def test_a_conflict_stores_neither_the_record_nor_the_entries(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario() -> None:
        await conversations.save(talk("a"))
        stale = await loaded(conversations)
        await extended(conversations, "b")
        stale.messages += turn("c")
        for refused in (stale, talk("d"), talk("e", id="gone", revision="r")):
            with pytest.raises(ConversationConflict):
                await conversations.save(refused)
        record = await conversations.read_record("talk")
        for head_id, id, revision in (("nobody", "talk", record.revision), ("nobody", "new", None)):
            lost = replace(record, conversation_id=id, head_id=head_id, revision="r2")
            with pytest.raises(ConversationConflict):
                await conversations.write_record(lost, expected_revision=revision)
        with pytest.raises(ConversationConflict):
            await conversations.delete_record("talk", expected_revision="r")
        with pytest.raises(ConversationConflict):
            await conversations.delete_record("gone", expected_revision="r")
        assert await said(conversations) == ["a", "b"]

    run(scenario())
    assert [session.id for session in store.list_sessions()] == ["talk"]
    assert store.get_latest_sequence("gone") == 0
    assert len(store.get_events("talk")) == store.get_latest_sequence("talk") == 4


def test_the_last_messages_are_found_among_those_of_other_branches(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario() -> None:
        await conversations.save(talk(*"abc"))
        revision = (await loaded(conversations)).revision
        branched = await conversations.branch("talk", at=2, expected_revision=revision)
        branched.messages += talk(*"xyz").messages
        await conversations.save(branched)
        revision = branched.revision
        tip = (await conversations.read_record("talk")).branches[0]
        back = await conversations.branch("talk", from_entry=tip, expected_revision=revision)
        back.messages += turn("d")
        await conversations.save(back)
        assert await said(conversations) == ["a", "b", "c", "d"]
        for limit, expected in ((0, ""), (1, ""), (2, "d"), (4, "cd"), (6, "bcd"), (8, "abcd"), (99, "abcd")):
            assert await said(conversations, limit=limit) == list(expected)
            head_id = str((await conversations.read_record("talk")).head_id)
            assert len(await conversations.read_history(head_id, limit=limit)) == min(limit, 8)

    run(scenario())
    assert len(store.get_events("talk", type="pydantic_ai.message")) == 14
    moved = store.get_events("talk", type="pydantic_ai.saved")
    assert [store.get_event("talk", event.data["head_id"]).sequence_number for event in moved] == [2, 6]


def test_conversations_are_listed_by_their_last_save_in_pages(
    conversations: Any, run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asm.integrations.pydantic_ai.PAGE_SIZE", 2)
    scopes = ["", "a:b", "a", "x" * 300, "a", "😊\0"]

    async def scenario() -> None:
        for number, scope in enumerate(scopes):
            await conversations.save(talk("a", id=f"talk_{number}"), scope=scope)
        await extended(conversations, "b", id="talk_1")

        async def listed(**options: Any) -> list[int]:
            return [
                int(record.conversation_id[5:])
                for record in await conversations.list_conversations(**options)
            ]

        assert await listed() == [1, 5, 4, 3, 2, 0]
        for limit in range(8):
            assert await listed(limit=limit) == [1, 5, 4, 3, 2, 0][:limit]
        for scope in scopes:
            numbers = [number for number, each in enumerate(scopes) if each == scope]
            assert await listed(scope=scope) == numbers[::-1]

    run(scenario())


# Forks, deletes and ids.


def test_a_fork_outlives_the_conversation_that_it_was_forked_from(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario() -> None:
        await conversations.save(talk("secret", "b", "c"), scope="ann")
        entries = await conversations.load_entries("talk")
        fork = await conversations.fork("talk", at=4, new_conversation_id="fork")
        fork.messages += turn("d")
        await conversations.save(fork)
        assert (await conversations.load_entries("fork"))[:4] == entries[:4]
        await conversations.delete("talk")
        assert await conversations.load("talk") is None
        assert await said(conversations, "fork") == ["secret", "b", "d"]
        assert await conversations.read_entry(entries[3].id) == entries[3]
        with pytest.raises(LookupError):
            await conversations.read_entry(entries[5].id)
        await conversations.delete("fork")

    run(scenario())
    assert store.query.search_events(types="pydantic_ai.message").items == []
    assert store.list_sessions(include_deleted=True) == []
    assert store.maintenance.health_check() == []


def test_a_fork_is_a_child_of_the_session(conversations: Any, store: Any, run: Run[Any]) -> None:
    async def scenario() -> None:
        await conversations.save(talk("a"), scope="ann")
        await conversations.fork("talk", at=0, new_conversation_id="fork", scope="bob")

    run(scenario())
    fork = store.get_session("fork")
    assert (fork.parent_session_id, fork.tags) == ("talk", ("pydantic_ai", "pydantic_ai.scope:bob"))
    assert [event.data for event in store.get_events("fork")] == [{"head_id": None}]


@pytest.mark.parametrize("id", ["", "a:b", "x" * 300, "nul \0", "😊" * 255])
def test_any_id_of_a_conversation_is_taken(conversations: Any, run: Run[Any], id: str) -> None:
    async def scenario() -> None:
        await conversations.save(talk("a", id=id))
        await conversations.fork(id, new_conversation_id=f"{id} 2")
        assert (await conversations.read_record(f"{id} 2")).forked_from == id
        assert await said(conversations, id) == await said(conversations, f"{id} 2") == ["a"]
        await conversations.delete(id)
        assert await conversations.load(id) is None

    run(scenario())


def test_only_a_store_is_taken() -> None:
    with pytest.raises(asm.ValidationError, match="AsmConversationStore takes a SessionStore or"):
        AsmConversationStore("sqlite://")  # type: ignore[arg-type]


def test_a_missing_extra_is_named() -> None:
    program = "import sys; sys.modules['pydantic_ai'] = None; import asm.integrations.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8")
    expected = (
        "ImportError: asm.integrations.pydantic_ai needs pydantic-ai: pip install 'asm-store[pydantic-ai]'"
    )
    assert done.stderr.endswith(f"{expected}\n")


# A session that the application uses, too.


def test_a_session_of_the_application_gets_the_conversation(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    mine = asm.Session(
        id="talk", agent_id="support", tags=["vip"], metadata={"order": 7}, context={"language": "en"}
    )
    store.save_session(mine)
    store.append_event(an_event("talk", "acme.rated", data={"stars": 5}))
    run(conversations.save(talk("a"), scope="ann"))
    store.append_event(an_event("talk", "acme.rated", data={"stars": 1}))
    run(extended(conversations, "b"))

    stored = store.get_session("talk")
    assert (stored.agent_id, stored.metadata, stored.context["language"]) == ("support", {"order": 7}, "en")
    assert sorted(stored.tags) == ["pydantic_ai", "pydantic_ai.scope:ann", "vip"]
    assert [event.data for event in store.get_events("talk", type="acme.rated")] == [
        {"stars": 5},
        {"stars": 1},
    ]
    assert run(said(conversations)) == ["a", "b"]
    assert store.maintenance.health_check() == []


def test_a_session_without_a_conversation_is_not_in_the_list(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    store.save_session(asm.Session(id="other", agent_id="pydantic-ai"))
    assert run(conversations.load("other")) is None
    assert run(conversations.list_conversations()) == []
    run(conversations.delete("other"))
    assert store.get_session("other").agent_id == "pydantic-ai"


# Retention.


def aged(store: Any, **fields: timedelta) -> None:
    """Move times of the session into the past."""
    session = store.get_session("talk")
    store.save_session(
        replace(session, **{name: getattr(session, name) - age for name, age in fields.items()})
    )


def test_retention_deletes_a_conversation_whole_or_not_at_all(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    run(conversations.save(talk("a")))
    run(conversations.save(talk("b", id="new")))
    aged(store, updated_at=timedelta(days=91))
    documented = asm.RetentionPolicy(
        max_session_age_days=90, hard_delete_after_days=1, exempt_statuses=("paused",)
    )
    assert store.maintenance.execute(asm.RetentionPolicy()).sessions_soft_deleted == 0
    assert store.maintenance.execute(documented).sessions_soft_deleted == 1
    assert [each.conversation_id for each in run(conversations.list_conversations())] == ["new"]
    assert run(said(conversations)) == ["a"]

    aged(store, deleted_at=timedelta(days=2))
    assert store.maintenance.execute(documented).sessions_hard_deleted == 1
    assert run(conversations.load("talk")) is None
    assert run(said(conversations, "new")) == ["b"]


def test_a_save_takes_an_expired_conversation_back(conversations: Any, store: Any, run: Run[Any]) -> None:
    run(conversations.save(talk("a")))
    aged(store, updated_at=timedelta(days=91))
    policy = asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=())
    assert store.maintenance.execute(policy).sessions_soft_deleted == 1
    run(extended(conversations, "b"))
    assert [each.conversation_id for each in run(conversations.list_conversations())] == ["talk"]
    assert run(said(conversations)) == ["a", "b"]


def test_a_conversation_whose_beginning_was_pruned_goes_on(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    run(conversations.save(talk(*"abcdef")))
    assert store.maintenance.execute(asm.RetentionPolicy(max_events_per_session=5)).events_pruned == 7
    assert run(said(conversations)) == ["e", "f"]
    run(extended(conversations, "g"))
    fork = run(conversations.fork("talk", at=3))
    assert run(said(conversations)) == ["e", "f", "g"]
    assert run(said(conversations, fork.conversation_id)) == ["e"]
    assert store.maintenance.health_check() == []


# Concurrency.


@pytest.fixture
def processes(migrated: str) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        arguments = ("tests.integrations.pydantic_ai_process", migrated)
        yield [stack.enter_context(running(*arguments, name)) for name in "xy"]


def test_of_two_processes_that_save_one_gets_the_conflict(
    conversations: Any, run: Run[Any], processes: list[subprocess.Popen[str]]
) -> None:
    run(conversations.save(talk("a")))
    saved = []
    for _ in range(5):
        for process in processes:
            send_line(process, "race")
        assert [read_line(process) for process in processes] == ["loaded", "loaded"]
        for process in processes:
            send_line(process)
        outcomes = [read_line(process) for process in processes]
        assert sorted(outcomes) == ["conflict", "saved"]
        saved.append("xy"[outcomes.index("saved")])
    assert run(said(conversations)) == ["a", *saved]


def test_processes_that_load_again_after_a_conflict_lose_no_turn(
    conversations: Any, store: Any, run: Run[Any], processes: list[subprocess.Popen[str]]
) -> None:
    run(conversations.save(talk("a")))
    for process in processes:
        send_line(process, "15")
    assert [read_line(process) for process in processes] == ["added", "added"]
    texts = run(said(conversations))
    assert texts[0] == "a"
    for name in "xy":
        assert [text for text in texts if text[0] == name] == [f"{name}{number}" for number in range(15)]
    assert len(store.get_events("talk")) == store.get_latest_sequence("talk") == 2 * 31
    answers = [
        message.parts[0].content
        for message in run(loaded(conversations)).messages
        if isinstance(message, ModelResponse)
    ]
    assert answers == [f"to {text}" for text in texts]


def test_of_concurrent_changes_one_succeeds_and_the_others_conflict(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario(number: int) -> None:
        id = f"talk_{number}"

        async def saved(conversation: Conversation) -> str:
            await conversations.save(conversation)
            return "saved"

        async def created(text: str) -> str:
            return await saved(talk(text, id=id))

        outcomes = await asyncio.gather(*(created(text) for text in "abcd"), return_exceptions=True)
        assert [each for each in outcomes if not isinstance(each, ConversationConflict)] == ["saved"]
        conversation = await loaded(conversations, id)
        revision = conversation.revision
        conversation.messages += turn("e")
        outcomes = await asyncio.gather(
            saved(conversation),
            conversations.branch(id, at=0, expected_revision=revision),
            conversations.delete_record(id, expected_revision=revision),
            return_exceptions=True,
        )
        # If it was deleted before it could be branched, it is a UserError that is no conflict.
        assert sum(isinstance(each, UserError) for each in outcomes) == 2

    for number in range(5):
        run(scenario(number))
    assert store.maintenance.health_check() == []


def test_saves_beside_changes_of_the_application_lose_none(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    def count(session: asm.Session) -> asm.Session:
        return replace(session, metadata={"n": session.metadata.get("n", 0) + 1})

    def change(number: int) -> None:
        store.update_session("talk", count)
        store.append_event(an_event("talk", data={"n": number}), session=store.get_session("talk"))

    run(conversations.save(talk("a")))
    texts = [f"b{number}" for number in range(12)]
    with ThreadPoolExecutor(2) as threads:
        changes = threads.map(change, range(12))
        for text in texts:
            run(extended(conversations, text))
        list(changes)
    assert run(said(conversations)) == ["a", *texts]
    assert store.get_session("talk").metadata == {"n": 12}
    assert len(store.get_events("talk", type="message_sent")) == 12
    assert store.maintenance.health_check() == []


def test_a_cancelled_save_goes_on_to_its_outcome(conversations: Any, run: Run[Any]) -> None:
    async def scenario() -> None:
        entry = ConversationEntry(parent_id=None, message=turn("a")[0])
        record = ConversationRecord(conversation_id="talk", head_id=entry.id)
        for write in (
            conversations.write_record(record, new_entries=[entry], expected_revision=None),
            conversations.delete_record("talk", expected_revision=record.revision),
        ):
            task = asyncio.create_task(write)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            is_stored = await conversations.read_record("talk") is not None
            assert is_stored == (write.__name__ == "write_record")

    run(scenario())


def test_threads_with_event_loops_of_their_own_share_a_blocking_store(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        conversations = AsmConversationStore(store)

        def chat(number: int) -> list[str]:
            asyncio.run(conversations.save(talk("a", id=f"talk_{number}")))
            asyncio.run(extended(conversations, "b", id=f"talk_{number}"))
            return asyncio.run(said(conversations, f"talk_{number}"))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(chat, range(16))) == [["a", "b"]] * 16


# What is stored.


def test_a_message_is_an_event_with_its_own_time_run_and_provider(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    at = datetime.fromisoformat("2026-01-02T03:04:05.678901+00:00")
    answer = ModelResponse(
        parts=[TextPart("b")], timestamp=at, run_id="run_1", provider_name="openai", model_name="gpt-5"
    )
    naive = ModelRequest(parts=[UserPromptPart("c")], timestamp=at.replace(tzinfo=None))
    conversation = talk()
    conversation.messages = [ModelRequest.user_text_prompt("a"), answer, naive]
    entries = run(conversations.save(conversation))

    events = store.get_events("talk")
    assert {event.type for event in events} == {"pydantic_ai.message"}
    assert [event.id for event in events] == [entry.id for entry in entries]
    assert [event.correlation_id for event in events] == [entry.id for entry in entries]
    assert [event.metadata for event in events] == [{"parent_id": entry.parent_id} for entry in entries]
    assert events[1].data["item"]["parts"][0]["content"] == "b"
    assert (events[1].timestamp, events[1].run_id, events[1].provider) == (at, "run_1", "openai")
    session = store.get_session("talk")
    assert events[0].timestamp == events[2].timestamp == session.updated_at
    assert (session.agent_id, session.status) == ("pydantic-ai", "active")
    assert session.context["pydantic_ai"]["head_id"] == entries[-1].id
