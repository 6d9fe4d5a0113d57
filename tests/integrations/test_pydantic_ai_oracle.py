"""AsmConversationStore does what pydantic-ai's own store in memory does, whatever the operations are."""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import Any, NamedTuple

from hypothesis import given, seed
from hypothesis import strategies as st
from pydantic_ai import DeferredToolRequests
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationStore, InMemoryConversationStore
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage

from tests.integrations.test_pydantic_ai import Run, conversations, run
from tests.property.conftest import SEED, report

__all__ = ["conversations", "run"]

NAMES = ("a", "b", "c")
SCOPES = (None, None, None, None, "ann", "bob")
OPERATIONS = (
    *("extend", "extend", "save", "rewrite", "load", "window", "branch", "branch", "branch"),
    *("fork", "fork", "fork", "delete", "listed"),
)
READS = ("load", "window", "listed")


class Step(NamedTuple):
    """An operation on a conversation. What the numbers choose depends on what is there."""

    operation: str
    name: str
    scope: str | None
    first: int
    second: int


steps = st.builds(
    Step,
    st.sampled_from(OPERATIONS),
    st.sampled_from(("a", *NAMES)),
    st.sampled_from(SCOPES),
    st.integers(0, 7),
    st.integers(0, 7),
)


class Side:
    """One of the two stores, and the conversations that its clients have loaded."""

    def __init__(self, store: ConversationStore, messages: Any) -> None:
        self.store = store
        self._messages = messages
        self._loaded: dict[str, Conversation] = {}

    async def take(self, step: Step) -> Any:
        """What a step returns, or the type of its error."""
        try:
            return await getattr(self, step.operation)(step)
        except Exception as error:
            return type(error).__name__

    def conversation(self, name: str) -> Conversation:
        return self._loaded.setdefault(name, Conversation(conversation_id=name))

    async def extend(self, step: Step) -> Any:
        """A run: messages are added, and the conversation is saved. It may have been loaded long ago."""
        conversation = self.conversation(step.name)
        for message in self._messages(step):
            conversation.messages.append(message)
            if isinstance(message, ModelResponse):
                conversation.usage.incr(message.usage)
                conversation.usage.requests += 1
        calls = [ToolCallPart("pay", {"euros": step.first}, f"call_{step.first}")]
        conversation.deferred_tool_requests = DeferredToolRequests(calls=calls) if step.second == 0 else None
        return await self.save(step)

    async def save(self, step: Step) -> Any:
        saved = await self.store.save(self.conversation(step.name), scope=step.scope)
        return [told(entry.message) for entry in saved]

    async def rewrite(self, step: Step) -> Any:
        """The messages are replaced from one on, as by a compaction."""
        conversation = self.conversation(step.name)
        kept = step.first % (len(conversation.messages) + 1)
        conversation.messages[kept:] = self._messages(step)
        return await self.save(step)

    async def load(self, step: Step) -> Any:
        return self.keep(step.name, await self.store.load(step.name, scope=step.scope))

    async def window(self, step: Step) -> Any:
        """The last messages are loaded; the client may not know that they are a window."""
        loaded = await self.store.load(step.name, limit=step.first)
        if loaded is not None and step.second == 1:
            loaded.new_message_index = None
        return self.keep(step.name, loaded)

    async def branch(self, step: Step) -> Any:
        point = await self.point(step)
        expected = self.conversation(step.name).revision
        branched = await self.store.branch(step.name, **point, expected_revision=expected, scope=step.scope)
        return self.keep(step.name, branched)

    async def fork(self, step: Step) -> Any:
        new = NAMES[step.second % len(NAMES)]
        point = {} if step.first == 7 else await self.point(step)
        forked = await self.store.fork(step.name, **point, new_conversation_id=new, scope=step.scope)
        return self.keep(new, forked)

    async def delete(self, step: Step) -> Any:
        return await self.store.delete(step.name, scope=step.scope)

    async def listed(self, step: Step) -> Any:
        limit = None if step.first == 7 else step.first
        listed = await self.store.list_conversations(scope=step.scope, limit=limit)
        return [record.conversation_id for record in listed]

    async def point(self, step: Step) -> dict[str, Any]:
        """Where to branch or fork: after a number of messages, or at an entry of any branch."""
        if step.second % 2:
            conversation = self.conversation(step.name)
            return {"at": step.first % (len(conversation.messages) + 2)}
        record = await self.store.read_record(step.name)
        tips = [] if record is None else [record.head_id, *record.branches]
        entries = [entry.id for tip in tips for entry in await self.store.read_history(tip)]
        return {"from_entry": entries[step.first % len(entries)] if entries else "none"}

    def keep(self, name: str, conversation: Conversation | None) -> Any:
        if conversation is None:
            return None
        self._loaded[name] = conversation
        return [*map(told, conversation.messages), conversation.usage, conversation.deferred_tool_requests]

    async def picture(self) -> list[Any]:
        """All that is stored, without the ids that each store chose."""
        return [await self._picture_of(record) for record in await self.store.list_conversations()]

    async def _picture_of(self, record: Any) -> Any:
        lines = [await self.store.read_history(tip) for tip in [record.head_id, *record.branches]]
        forked_at = record.forked_at and told((await self.store.read_entry(record.forked_at)).message)
        for line in lines:
            parents = [None, *(entry.id for entry in line)]
            assert [entry.parent_id for entry in line] == parents[:-1]
            assert [await self.store.read_entry(entry.id) for entry in line[:2]] == line[:2]
        return (
            record.conversation_id,
            record.scope,
            record.forked_from,
            forked_at if record.forked_at in {entry.id for line in lines for entry in line} else None,
            record.usage,
            record.deferred_tool_requests,
            [[told(entry.message) for entry in line] for line in lines],
            [told(entry.message) for entry in await self.store.read_history(record.head_id, limit=3)],
        )


def told(message: ModelMessage) -> Any:
    return ModelMessagesTypeAdapter.dump_python([message], mode="json")


def message_maker() -> Any:
    numbers = itertools.count()

    def made(step: Step) -> list[ModelMessage]:
        messages: list[ModelMessage] = []
        for number in itertools.islice(numbers, step.second % 4):
            prompt = UserPromptPart(f"{step.operation} {number} \0 😊")
            usage = RequestUsage(input_tokens=number, output_tokens=1, cache_read_tokens=number // 2)
            spoken = ModelResponse(parts=[TextPart(f"answer {number}")], usage=usage, run_id=f"run_{number}")
            messages += [ModelRequest(parts=[prompt], run_id=f"run_{number}"), spoken]
        return messages[: step.first or None]

    return made


def test_it_does_what_the_store_in_memory_does(conversations: Any, store: Any, run: Run[Any]) -> None:
    report(f"ASM_SEED={SEED}")

    async def compared(sequence: list[Step]) -> None:
        made: dict[Step, list[ModelMessage]] = {}
        maker = message_maker()

        def messages(step: Step) -> list[ModelMessage]:
            # Both sides add the same messages.
            return made.setdefault(step, maker(step))

        memory = Side(InMemoryConversationStore(), lambda step: deepcopy(messages(step)))
        ours = Side(conversations, lambda step: deepcopy(messages(step)))
        for step in [Step("extend", "a", None, 0, 3), *sequence]:
            made.clear()
            assert await ours.take(step) == await memory.take(step), step
            if step.operation not in READS:
                assert await ours.picture() == await memory.picture(), step
        for name in NAMES:
            await conversations.delete(name)
        assert await conversations.list_conversations() == []

    @seed(SEED)
    @given(st.lists(steps, min_size=5, max_size=20))
    def check(sequence: list[Step]) -> None:
        run(compared(sequence))
        assert store.list_sessions() == []
        assert store.maintenance.health_check() == []

    check()
