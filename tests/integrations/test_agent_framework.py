"""AsmHistoryProvider, with agents of the framework and a client that says what a test gives it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    InMemoryHistoryProvider,
    Message,
    ResponseStream,
    UsageDetails,
)

import asm
from asm.integrations.agent_framework import AsmHistoryProvider
from tests.integrations.command import output_of

USAGE = UsageDetails(input_token_count=100, output_token_count=5, cache_read_input_token_count=40)


class Script(FunctionInvocationLayer, BaseChatClient):  # type: ignore[misc]
    """A client whose model says one thing after another."""

    OTEL_PROVIDER_NAME = "openai"

    def __init__(self, *answers: Content | str, usage: UsageDetails | None = USAGE) -> None:
        super().__init__()
        self.model = "gpt-5"
        self.seen: list[list[str]] = []
        self._answers = list(answers)
        self._usage = usage

    def _inner_get_response(self, *, messages: Sequence[Message], stream: bool, **kwargs: Any) -> Any:
        self.seen.append([message.text for message in messages if message.text])
        answer = self._answers.pop(0)
        content = Content.from_text(answer) if isinstance(answer, str) else answer
        if stream:
            return ResponseStream(self._updates(content), finalizer=ChatResponse.from_updates)
        return self._response(content)

    async def _response(self, content: Content) -> ChatResponse:
        return ChatResponse(
            messages=[Message("assistant", [content])], model=self.model, usage_details=self._usage
        )

    async def _updates(self, content: Content) -> AsyncIterator[ChatResponseUpdate]:
        yield ChatResponseUpdate(role="assistant", contents=[content], model=self.model)
        if self._usage is not None:
            yield ChatResponseUpdate(role="assistant", contents=[Content.from_usage(self._usage)])


def look(q: str) -> str:
    """Look something up."""
    return f"{q} is 42"


CALL = Content.from_function_call(call_id="c1", name="look", arguments='{"q": "x"}')


@pytest.fixture(params=["blocking", "awaited"])
def methods(request: pytest.FixtureRequest) -> str:
    methods: str = request.param
    return methods


@asynccontextmanager
async def opened(dsn: str, methods: str) -> AsyncIterator[asm.SessionStore | asm.AsyncSessionStore]:
    if methods == "awaited":
        async with asm.AsyncSessionStore(dsn) as store:
            yield store
    else:
        with asm.SessionStore(dsn) as blocking:
            yield blocking


def test_an_agent_remembers_what_was_said(migrated: str, methods: str) -> None:
    async def talk() -> list[str]:
        async with opened(migrated, methods) as store:
            client = Script(CALL, "It is 42.", "Still 42.")
            agent = Agent(client=client, tools=[look], context_providers=[AsmHistoryProvider(store)])
            await agent.run("What is x?", session=AgentSession(session_id="talk"))
            await agent.run("Again?", session=AgentSession(session_id="talk"))
            return client.seen[-1]

    assert asyncio.run(talk()) == ["What is x?", "It is 42.", "Again?"]


def test_a_streamed_answer_is_remembered(migrated: str, methods: str) -> None:
    async def talk() -> list[str]:
        async with opened(migrated, methods) as store:
            provider = AsmHistoryProvider(store)
            agent = Agent(client=Script("It is 42."), context_providers=[provider])
            async for _ in agent.run("What is x?", session=AgentSession(session_id="talk"), stream=True):
                pass
            return [message.text for message in await provider.get_messages("talk")]

    assert asyncio.run(talk()) == ["What is x?", "It is 42."]


def test_what_is_read_is_what_was_saved(migrated: str, methods: str) -> None:
    messages = [
        Message("user", ["Grüße 😀 \0 \ud800"], author_name="me", additional_properties={"a": [1, None]}),
        Message("user", [Content.from_data(data=b"\x89PNG\0", media_type="image/png")]),
        Message("assistant", [Content.from_text_reasoning(text="hmm"), CALL], message_id="m1"),
        Message("tool", [Content.from_function_result(call_id="c1", result={"x": 42})]),
        Message("assistant", ["It is 42."]),
        Message("assistant", ["It is 42."]),
    ]

    async def save_and_read() -> tuple[list[Message], list[Message]]:
        async with opened(migrated, methods) as store:
            provider, memory, state = AsmHistoryProvider(store), InMemoryHistoryProvider(), {}  # type: ignore[var-annotated]
            for batch in (messages[:4], messages[4:]):
                await provider.save_messages("talk", batch)
                await memory.save_messages("talk", batch, state=state)
            return await provider.get_messages("talk"), await memory.get_messages("talk", state=state)

    ours, theirs = asyncio.run(save_and_read())
    assert [each.to_dict() for each in ours] == [each.to_dict() for each in theirs]


def test_nothing_is_saved_of_no_messages(migrated: str) -> None:
    async def save() -> None:
        async with opened(migrated, "awaited") as store:
            await AsmHistoryProvider(store).save_messages("talk", [])

    asyncio.run(save())
    with asm.SessionStore(migrated) as store:
        assert store.list_sessions() == []


def test_each_source_and_each_session_has_a_history_of_its_own(migrated: str) -> None:
    places = [("asm", "a:b"), ("asm:a", "b"), ("asm", None), ("asm", "a" * 300)]

    async def texts() -> list[list[str]]:
        async with opened(migrated, "blocking") as store:
            providers = [AsmHistoryProvider(store, source_id=source) for source, _ in places]
            for number, (_, session_id) in enumerate(places):
                await providers[number].save_messages(session_id, [Message("user", [str(number)])])
            found = [
                await provider.get_messages(session_id)
                for provider, (_, session_id) in zip(providers, places, strict=True)
            ]
            return [[message.text for message in messages] for messages in found]

    assert asyncio.run(texts()) == [["0"], ["1"], ["2"], ["3"]]


def test_what_is_stored_can_be_chosen(migrated: str) -> None:
    async def talk() -> tuple[list[str], int]:
        async with opened(migrated, "awaited") as store:
            provider = AsmHistoryProvider(store, load_messages=False, store_outputs=False)
            client = Script("One.", "Two.")
            agent = Agent(client=client, context_providers=[provider, InMemoryHistoryProvider()])
            session = AgentSession(session_id="talk")
            await agent.run("First?", session=session)
            await agent.run("Second?", session=session)
            assert isinstance(store, asm.AsyncSessionStore)
            runs = await store.list_runs(provider.asm_session_id("talk"))
            return [message.text for message in await provider.get_messages("talk")], len(runs)

    assert asyncio.run(talk()) == (["First?", "Second?"], 0)


def test_a_blocking_store_serves_any_number_of_event_loops(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        provider = AsmHistoryProvider(store)
        for number in range(3):
            asyncio.run(provider.save_messages("talk", [Message("user", [str(number)])]))

        assert [each.text for each in asyncio.run(provider.get_messages("talk"))] == ["0", "1", "2"]


def test_a_cancelled_save_is_stored_before_the_cancellation_is_raised(migrated: str, methods: str) -> None:
    async def cancel() -> list[str]:
        async with opened(migrated, methods) as store:
            provider = AsmHistoryProvider(store)
            save = asyncio.create_task(provider.save_messages("talk", [Message("user", ["Hello"])]))
            await asyncio.sleep(0)
            save.cancel()
            with pytest.raises(asyncio.CancelledError):
                await save
            return [message.text for message in await provider.get_messages("talk")]

    assert asyncio.run(cancel()) == ["Hello"]


def save_batches(dsn: str, name: str, barrier: Any) -> None:
    async def save() -> None:
        async with asm.AsyncSessionStore(dsn) as store:
            provider = AsmHistoryProvider(store)
            barrier.wait()
            for number in range(20):
                batch = [Message("user", [f"{name}{number}.{part}"]) for part in range(2)]
                await provider.save_messages("talk", batch)

    asyncio.run(save())


def test_the_messages_of_two_processes_are_all_there_in_their_order(migrated: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=save_batches, args=(migrated, name, barrier)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    with asm.SessionStore(migrated) as store:
        messages = asyncio.run(AsmHistoryProvider(store).get_messages("talk"))
        assert store.maintenance.health_check() == []
    texts = [message.text for message in messages]
    expected = [f"{number}.{part}" for number in range(20) for part in range(2)]
    for name in "ab":
        assert [text[1:] for text in texts if text[0] == name] == expected
    # A batch is one block.
    assert all(one[:-1] == other[:-1] for one, other in zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_a_run_are_counted_without_those_of_the_cache(migrated: str, stream: bool) -> None:
    async def talk() -> None:
        async with opened(migrated, "awaited") as store:
            agent = Agent(client=Script("It is 42."), context_providers=[AsmHistoryProvider(store)])
            answer = agent.run("What is x?", session=AgentSession(session_id="talk"), stream=stream)
            if stream:
                await answer.get_final_response()
            else:
                await answer

    asyncio.run(talk())
    with asm.SessionStore(migrated) as store:
        usage = store.query.get_usage_summary()
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (60, 5, 40)
    assert (list(usage.by_provider), list(usage.by_model)) == (["openai"], ["gpt-5"])


def test_the_tokens_of_anthropics_client_leave_the_cached_ones_out_already(migrated: str) -> None:
    usage = UsageDetails(**{**USAGE, "anthropic.cache_read_input_tokens": 40})  # type: ignore[typeddict-item]

    async def talk() -> None:
        async with opened(migrated, "awaited") as store:
            client = Script("It is 42.", usage=usage)
            agent = Agent(client=client, context_providers=[AsmHistoryProvider(store)])
            await agent.run("What is x?", session=AgentSession(session_id="talk"))

    asyncio.run(talk())
    with asm.SessionStore(migrated) as store:
        assert store.query.get_usage_summary().input_tokens == 100


@pytest.mark.parametrize(
    "odd",
    [{"cache_read_input_token_count": 190}, {"output_token_count": 10**12}],
    ids=["more cached than input", "too many"],
)
@pytest.mark.parametrize("provider", ["openai", "", 3])
def test_tokens_that_a_run_cannot_have_are_left_out(
    migrated: str, odd: dict[str, Any], provider: Any
) -> None:
    async def talk() -> None:
        async with opened(migrated, "awaited") as store:
            client = Script("It is 42.", usage=UsageDetails(**{**USAGE, **odd}))  # type: ignore[typeddict-item]
            client.OTEL_PROVIDER_NAME = provider
            agent = Agent(client=client, context_providers=[AsmHistoryProvider(store)])
            await agent.run("What is x?", session=AgentSession(session_id="talk"))

    asyncio.run(talk())
    with asm.SessionStore(migrated) as store:
        [run] = store.query.search_runs()
        assert (run.token_usage, run.provider) == ({}, "openai" if provider == "openai" else None)


def test_a_run_without_messages_to_store_has_a_session(migrated: str) -> None:
    async def talk() -> None:
        async with opened(migrated, "awaited") as store:
            provider = AsmHistoryProvider(store, store_inputs=False)
            client = Script("It is 42.")
            client._response = answered_without_messages  # type: ignore[method-assign]
            agent = Agent(client=client, context_providers=[provider])
            await agent.run("What is x?", session=AgentSession(session_id="talk"))

    async def answered_without_messages(content: Content) -> ChatResponse:
        return ChatResponse(messages=[], usage_details=USAGE)

    asyncio.run(talk())
    with asm.SessionStore(migrated) as store:
        [run], [session] = store.query.search_runs(), store.list_sessions()
        assert (run.session_id, store.get_events(session.id)) == (session.id, [])
        assert store.maintenance.health_check() == []


def test_the_command_shows_a_conversation(migrated: str) -> None:
    async def talk() -> None:
        async with opened(migrated, "awaited") as store:
            client = Script(CALL, "It is 42.")
            agent = Agent(client=client, tools=[look], context_providers=[AsmHistoryProvider(store)])
            await agent.run("What is x?", session=AgentSession(session_id="talk"))

    asyncio.run(talk())
    shown = re.sub(r"  \d+ ms", "", output_of("show", "agent_framework:asm:talk", "--dsn", migrated))
    assert [line.strip() for line in shown.splitlines() if line.startswith("    ")] == [
        "1  user",
        "What is x?",
        "2  look q: x",
        "3  │ x is 42",
        "4  assistant",
        "It is 42.",
    ]
    assert "What is x?" in output_of("sessions", "--dsn", migrated)
    found = output_of("search", "events", "--type", "agent_framework.message", "--dsn", migrated)
    assert "It is 42." in found
    [exported] = output_of("export", "agent_framework:asm:talk", "--dsn", migrated).splitlines()[:1]
    assert json.loads(exported)


def test_a_session_expires_as_a_whole(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        asyncio.run(AsmHistoryProvider(store).save_messages("talk", [Message("user", ["Hello"])]))
        store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=1))
        assert len(store.list_sessions()) == 1

        old = asm.RetentionPolicy(max_session_age_days=1, exempt_statuses=("paused",))
        [session] = store.list_sessions()
        past = session.created_at.replace(year=2020)
        store.save_session(
            asm.Session(id=session.id, agent_id=session.agent_id, created_at=past, updated_at=past)
        )
        store.maintenance.execute(old)
        assert store.list_sessions() == []
