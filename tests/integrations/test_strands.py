"""AsmSessionRepository, with Strands' own session manager and a model that says what a test gives it."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from strands import Agent, tool
from strands.models import Model
from strands.multiagent import GraphBuilder
from strands.session.file_session_manager import FileSessionManager
from strands.session.repository_session_manager import RepositorySessionManager
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import asm
from asm.integrations.strands import AsmSessionRepository
from tests.integrations.command import output_of

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Script(Model):
    """A model that says one thing after another: a text, or the call of a tool."""

    def __init__(self, *answers: str | dict[str, Any]) -> None:
        self._answers = list(answers)

    def update_config(self, **config: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        answer = self._answers.pop(0)
        yield {"messageStart": {"role": "assistant"}}
        if isinstance(answer, dict):
            yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": "t1", "name": answer["name"]}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(answer["input"])}}}}
        else:
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": answer}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if isinstance(answer, dict) else "end_turn"}}
        usage = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
        yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}


@tool
def look(q: str) -> str:
    """Look something up."""
    return f"{q} is 42"


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


@pytest.fixture
def repository(store: asm.SessionStore) -> AsmSessionRepository:
    return AsmSessionRepository(store, provider="bedrock", model="claude-opus-4-5")


def an_agent(repository: AsmSessionRepository, *answers: str | dict[str, Any]) -> Agent:
    return Agent(
        model=Script(*answers),
        tools=[look],
        agent_id="weather",
        session_manager=RepositorySessionManager("talk", session_repository=repository),
        callback_handler=None,
    )


def a_message(number: int, text: str = "Hello") -> SessionMessage:
    return SessionMessage({"role": "user", "content": [{"text": text}]}, number)


def with_agent(repository: AsmSessionRepository, session_id: str = "talk", agent_id: str = "weather") -> None:
    repository.create_session(Session(session_id, SessionType.AGENT))
    repository.create_agent(session_id, SessionAgent(agent_id, {}, {}))


def texts(messages: list[SessionMessage]) -> list[str]:
    return [block["text"] for message in messages for block in message.to_message()["content"]]


def test_an_agent_goes_on_where_another_one_of_its_id_stopped(repository: AsmSessionRepository) -> None:
    first = an_agent(repository, {"name": "look", "input": {"q": "x"}}, "It is 42.")
    first("What is x?")

    second = an_agent(repository, "Still 42.")
    assert second.messages == first.messages
    second("Again?")

    assert an_agent(repository).messages == second.messages
    assert len(second.messages) == 6


def test_the_state_of_an_agent_is_kept(repository: AsmSessionRepository) -> None:
    first = an_agent(repository, "Noted.")
    first.state.set("colour", "blue")
    first("Remember my colour.")

    assert an_agent(repository).state.get("colour") == "blue"


def test_what_is_read_is_what_a_file_repository_reads(
    repository: AsmSessionRepository, tmp_path: Any
) -> None:
    files = FileSessionManager("talk", storage_dir=str(tmp_path))
    agent = SessionAgent("weather", {"a": [1, {"b": None}]}, {"c": "😀 \0"})
    image: Any = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\0"}}}
    messages = [a_message(0), SessionMessage({"role": "user", "content": [image]}, 1), a_message(2, "\ud800")]
    repository.create_session(Session("talk", SessionType.AGENT))
    for each in (repository, files):
        each.create_agent("talk", agent)
        for message in messages[:2]:
            each.create_message("talk", "weather", message)
    # A file cannot have a lone surrogate.
    repository.create_message("talk", "weather", messages[2])

    assert repository.read_agent("talk", "weather") == files.read_agent("talk", "weather")
    assert repository.list_messages("talk", "weather")[:2] == files.list_messages("talk", "weather")
    assert repository.read_message("talk", "weather", 2) == messages[2]
    assert repository.read_message("talk", "weather", 3) is None
    assert repository.read_agent("talk", "nobody") is None
    assert repository.read_session("nowhere") is None


def test_messages_are_listed_from_an_offset_up_to_a_limit(repository: AsmSessionRepository) -> None:
    with_agent(repository)
    for number in range(5):
        repository.create_message("talk", "weather", a_message(number, str(number)))

    assert texts(repository.list_messages("talk", "weather", limit=2, offset=1)) == ["1", "2"]
    assert texts(repository.list_messages("talk", "weather", offset=4)) == ["4"]
    assert texts(repository.list_messages("talk", "weather", limit=0)) == []


def test_redacted_words_are_gone_and_the_order_stays(
    repository: AsmSessionRepository, store: asm.SessionStore
) -> None:
    with_agent(repository)
    for number, text in enumerate(["Hello", "my PIN is 1234", "Noted."]):
        repository.create_message("talk", "weather", a_message(number, text))
    redacted = replace(a_message(1, "my PIN is 1234"), redact_message=a_message(1, "[redacted]").message)

    repository.update_message("talk", "weather", redacted)

    assert texts(repository.list_messages("talk", "weather")) == ["Hello", "[redacted]", "Noted."]
    export = json.dumps(store.query.export_session("strands.agent:talk:weather").to_dict())
    assert "1234" not in export
    assert store.maintenance.health_check() == []


def test_a_message_that_is_deleted_while_it_is_redacted_stays_deleted(
    repository: AsmSessionRepository, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_agent(repository)
    repository.create_message("talk", "weather", a_message(0, "my PIN is 1234"))
    get_event = asm.Transaction.get_event

    def get_and_delete(tx: asm.Transaction, session_id: str, event_id: str) -> asm.Event:
        found = get_event(tx, session_id, event_id)
        tx.delete_events(session_id, ids=[event_id])
        return found

    monkeypatch.setattr(asm.Transaction, "get_event", get_and_delete)
    with pytest.raises(SessionException, match="Message 0 does not exist"):
        repository.update_message("talk", "weather", a_message(0, "[redacted]"))


def test_an_agent_that_is_created_again_keeps_what_an_application_added(
    repository: AsmSessionRepository, store: asm.SessionStore
) -> None:
    with_agent(repository)

    def mark(row: asm.Session) -> asm.Session:
        return replace(row, tags=[*row.tags, "mine"], context={**row.context, "mine": 1})

    marked = store.update_session("strands.agent:talk:weather", mark)
    repository.create_agent("talk", SessionAgent("weather", {"a": 1}, {}))
    repository.update_agent("talk", SessionAgent("weather", {"a": 2}, {}))

    row = store.get_session(marked.id)
    assert (row.tags, row.context["mine"], row.created_at) == (marked.tags, 1, marked.created_at)
    agent = repository.read_agent("talk", "weather")
    assert agent is not None
    assert agent.state == {"a": 2}


def test_a_conversation_goes_on_when_only_the_row_of_its_session_was_deleted(
    repository: AsmSessionRepository, store: asm.SessionStore
) -> None:
    first = an_agent(repository, "Noted.")
    first("Hello")

    store.delete_session("strands.session:talk")
    second = an_agent(AsmSessionRepository(store), "Again.")
    assert second.messages == first.messages
    second("And now?")

    assert store.get_session("strands.session:talk").agent_id == "strands"
    assert len(repository.list_messages("talk", "weather")) == 4


def test_a_session_that_is_in_use_does_not_expire(
    repository: AsmSessionRepository, store: asm.SessionStore
) -> None:
    with_agent(repository)

    def age(row: asm.Session) -> asm.Session:
        return replace(row, created_at=LONG_AGO, updated_at=LONG_AGO)

    ids = [store.update_session(row.id, age).id for row in store.list_sessions()]
    repository.create_message("talk", "weather", a_message(0))
    store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",)))

    assert sorted(row.id for row in store.list_sessions()) == sorted(ids)


def test_retention_deletes_a_conversation_whole(
    repository: AsmSessionRepository, store: asm.SessionStore
) -> None:
    with_agent(repository)
    repository.create_message("talk", "weather", a_message(0))

    def age(row: asm.Session) -> asm.Session:
        return replace(row, created_at=LONG_AGO, updated_at=LONG_AGO)

    for row in store.list_sessions():
        store.update_session(row.id, age)
    store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=90))
    assert len(store.list_sessions()) == 2

    store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",)))
    assert store.list_sessions() == []


def test_what_does_not_exist_cannot_be_updated(repository: AsmSessionRepository) -> None:
    with_agent(repository)

    with pytest.raises(SessionException, match="Message 0 does not exist"):
        repository.update_message("talk", "weather", a_message(0))
    with pytest.raises(SessionException, match="nobody in session talk does not exist"):
        repository.update_agent("talk", SessionAgent("nobody", {}, {}))
    with pytest.raises(SessionException, match="nobody in session talk does not exist"):
        repository.list_messages("talk", "nobody")
    with pytest.raises(SessionException, match="Session talk already exists"):
        repository.create_session(Session("talk", SessionType.AGENT))


def test_an_update_keeps_the_time_of_creation(repository: AsmSessionRepository) -> None:
    with_agent(repository)
    repository.create_message("talk", "weather", a_message(0))
    agent, message = repository.read_agent("talk", "weather"), repository.read_message("talk", "weather", 0)
    assert agent is not None
    assert message is not None

    repository.update_agent("talk", replace(agent, state={"a": 1}, created_at="later"))
    repository.update_message("talk", "weather", replace(message, created_at="later"))

    assert repository.read_agent("talk", "weather") == replace(agent, state={"a": 1})
    assert repository.read_message("talk", "weather", 0) == message


def test_ids_that_look_alike_are_different_conversations(repository: AsmSessionRepository) -> None:
    with_agent(repository, "a", "b:c")
    with_agent(repository, "a:b", "c")
    repository.create_message("a", "b:c", a_message(0, "one"))
    repository.create_message("a:b", "c", a_message(0, "other"))

    assert texts(repository.list_messages("a", "b:c")) == ["one"]
    assert texts(repository.list_messages("a:b", "c")) == ["other"]


def test_the_message_that_is_stored_already_is_stored_once(repository: AsmSessionRepository) -> None:
    with_agent(repository)
    message = a_message(0)

    for _ in range(2):
        repository.create_message("talk", "weather", message)

    assert repository.list_messages("talk", "weather") == [message]
    with pytest.raises(SessionException, match="another program goes on with this session"):
        repository.create_message("talk", "weather", a_message(0, "Something else"))


def append_numbers(dsn: str, name: str, barrier: Any, results: Any) -> None:
    with asm.SessionStore(dsn) as store:
        repository = AsmSessionRepository(store)
        barrier.wait()
        written = 0
        for number in range(20):
            try:
                repository.create_message("talk", "weather", a_message(number, name))
            except SessionException:
                continue
            written += 1
        results.put((name, written))


def test_of_two_processes_one_writes_each_message(migrated: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    with asm.SessionStore(migrated) as store:
        repository = AsmSessionRepository(store)
        with_agent(repository)
        processes = [
            context.Process(target=append_numbers, args=(migrated, name, barrier, results)) for name in "ab"
        ]
        for process in processes:
            process.start()
        written = dict(results.get(timeout=120) for _ in processes)
        for process in processes:
            process.join()

        said = texts(repository.list_messages("talk", "weather"))
        assert [said.count(name) for name in "ab"] == [written["a"], written["b"]]
        assert len(said) == 20
        assert store.maintenance.health_check() == []


def test_the_state_of_a_graph_is_kept(repository: AsmSessionRepository) -> None:
    def a_graph(*answers: str) -> Any:
        builder = GraphBuilder()
        builder.add_node(Agent(model=Script(*answers), agent_id="one", callback_handler=None), "one")
        builder.set_graph_id("plan")
        builder.set_max_node_executions(10)
        builder.set_session_manager(RepositorySessionManager("talk", session_repository=repository))
        return builder.build()

    graph = a_graph("Done.")
    graph("Do it.")

    assert repository.read_multi_agent("talk", "plan") == graph.serialize_state()
    repository.update_multi_agent("talk", graph)
    assert repository.read_multi_agent("talk", "nothing") is None


@pytest.mark.parametrize("odd", [-1, 10**13, 1.5])
def test_a_message_is_stored_without_tokens_that_a_run_cannot_have(
    repository: AsmSessionRepository, store: asm.SessionStore, odd: Any
) -> None:
    with_agent(repository)
    message: Any = a_message(0)
    usage = {"inputTokens": odd, "outputTokens": 1, "totalTokens": odd}
    message.message["metadata"] = {"usage": usage}
    repository.create_message("talk", "weather", message)

    assert texts(repository.list_messages("talk", "weather")) == ["Hello"]
    assert store.list_runs("strands.agent:talk:weather") == []


def test_the_command_shows_a_conversation_and_its_cost(
    repository: AsmSessionRepository, migrated: str
) -> None:
    an_agent(repository, {"name": "look", "input": {"q": "x"}}, "It is 42.")("What is x?")

    shown = output_of("show", "strands.agent:talk:weather", "--dsn", migrated)
    conversation = re.sub(r"  \d+ ms", "", shown)
    assert [line.strip() for line in conversation.splitlines() if line.startswith("    ")] == [
        "1  user",
        "What is x?",
        "2  look q: x",
        "3  │ x is 42",
        "4  assistant",
        "It is 42.",
    ]
    assert "What is x?" in output_of("sessions", "--dsn", migrated)
    assert "30 tokens in 2 runs" in output_of("usage", "--dsn", migrated)
    assert "claude-opus-4-5" in output_of("cost", "--dsn", migrated)


def test_a_store_that_awaits_is_refused() -> None:
    with pytest.raises(asm.ValidationError, match="takes a SessionStore, not AsyncSessionStore"):
        AsmSessionRepository(asm.AsyncSessionStore("sqlite://"))  # type: ignore[arg-type]
