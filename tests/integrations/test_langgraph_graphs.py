"""Graphs keep their threads in a store: interrupted and resumed, forked, with subgraphs and DeltaChannels."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

import asm
from asm.integrations import langgraph
from asm.integrations.langgraph import AsmSaver, AsyncAsmSaver
from tests.docs import snippets
from tests.examples.programs import ROOT, printed

pytestmark = pytest.mark.filterwarnings("ignore:.*DeltaChannel.*beta")


class State(TypedDict):
    messages: Annotated[list[str], operator.add]


def extended(value: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*value, *(each for write in writes for each in write)]


class DeltaState(TypedDict):
    messages: Annotated[list[str], DeltaChannel(extended, snapshot_frequency=4)]


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    langgraph.migrate(migrated)
    with asm.SessionStore(migrated) as opened:
        yield opened


@pytest.fixture
def saver(store: asm.SessionStore) -> Any:
    return AsmSaver(store)


def asking(saver: Any) -> Any:
    """A graph whose subgraph asks a person."""

    def ask(_: Any) -> Any:
        return {"messages": [interrupt("May I?")]}

    asks: Any = StateGraph(State)
    asks.add_node("ask", ask)
    asks.add_edge(START, "ask")
    graph: Any = StateGraph(State)
    graph.add_node("greet", lambda _: {"messages": ["Hello."]})
    graph.add_node("asks", asks.compile())
    graph.add_edge(START, "greet")
    graph.add_edge("greet", "asks")
    graph.add_edge("asks", END)
    return graph.compile(checkpointer=saver)


def counting(saver: Any) -> Any:
    """A graph whose messages are in a DeltaChannel: five steps, of which the values of some are stored."""
    graph: Any = StateGraph(DeltaState)
    graph.add_node("count", lambda state: {"messages": [f"n{len(state['messages'])}"]})
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", lambda state: "count" if len(state["messages"]) % 6 else END)
    return graph.compile(checkpointer=saver)


def thread(thread_id: str = "thread_1") -> Any:
    return {"configurable": {"thread_id": thread_id}}


def namespaces(saver: Any) -> list[str]:
    return [each.config["configurable"]["checkpoint_ns"].partition(":")[0] for each in saver.list(thread())]


def test_a_graph_is_interrupted_and_resumed_by_another_store(saver: Any, migrated: str) -> None:
    asking(saver).invoke({"messages": ["Hi."]}, thread())
    with asm.SessionStore(migrated) as other:
        graph = asking(AsmSaver(other))
        assert graph.get_state(thread()).next == ("asks",)
        done = graph.invoke(Command(resume="Yes."), thread())
        steps = [state.metadata["step"] for state in graph.get_state_history(thread())]

    assert (done["messages"][-1], steps) == ("Yes.", [2, 1, 0, -1])


def test_a_graph_is_awaited_and_called_on_one_thread(saver: Any, store: asm.SessionStore) -> None:
    async def asked() -> None:
        await asking(AsyncAsmSaver(store)).ainvoke({"messages": ["Hi."]}, thread())

    asyncio.run(asked())
    assert asking(saver).get_state(thread()).values["messages"] == ["Hi.", "Hello."]
    resumed = asyncio.run(asking(saver).ainvoke(Command(resume="Yes."), thread()))

    assert resumed["messages"][-1] == "Yes."


def test_a_thread_is_forked_from_an_older_checkpoint(saver: Any) -> None:
    graph = asking(saver)
    graph.invoke({"messages": ["Hi."]}, thread())
    first = next(state for state in graph.get_state_history(thread()) if state.metadata["step"] == 0)
    forked = graph.update_state(first.config, {"messages": ["Again."]})

    assert graph.get_state(forked).values["messages"] == ["Hi.", "Again."]
    assert graph.get_state(first.config).values["messages"] == ["Hi."]


def test_keep_latest_deletes_the_calls_of_subgraphs_that_are_over(saver: Any) -> None:
    graph = asking(saver)
    graph.invoke({"messages": ["Hi."]}, thread())
    saver.prune(["thread_1"])
    # The call goes on, so its namespace stays.
    assert namespaces(saver) == ["asks", ""]
    graph.invoke(Command(resume="Yes."), thread())
    saver.prune(["thread_1"])

    assert namespaces(saver) == [""]
    assert graph.get_state(thread()).values["messages"][-1] == "Yes."


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_keep_latest_keeps_what_a_delta_channel_is_read_from(turns: int, saver: Any) -> None:
    graph = counting(saver)
    for _ in range(turns):
        graph.invoke({"messages": ["Hi."]}, thread())
    before, number = graph.get_state(thread()).values, len(namespaces(saver))
    saver.prune(["thread_1"])

    assert len(before["messages"]) == 6 * turns
    assert (graph.get_state(thread()).values, len(namespaces(saver)) < number) == (before, True)
    assert graph.invoke({"messages": ["Hi."]}, thread())["messages"][: 6 * turns] == before["messages"]


def test_a_thread_moves_over_from_another_saver(saver: Any) -> None:
    page, memory = (ROOT / "docs" / "integrations" / "langgraph.md").read_text("utf-8"), InMemorySaver()
    (move,) = (block.text for block in snippets.blocks_of(page) if block.title == "moving.py")
    defined: dict[str, Any] = {}
    exec(move, defined)
    asking(memory).invoke({"messages": ["Hi."]}, thread())
    defined["move"]("thread_1", memory, saver)

    assert asking(saver).invoke(Command(resume="Yes."), thread())["messages"][-1] == "Yes."


def test_the_example_goes_on_where_it_stopped(dsn: str, tmp_path: Path) -> None:
    assert printed(tmp_path, "with_langgraph.py", dsn).splitlines() == [
        "the graph asks: Refund 20 EUR?",
        "human: Where is my money?",
        "ai: I can refund 20 EUR.",
        "human: Yes.",
        "context of the session: {'user_id': 'ada'}",
    ]


def test_an_async_graph_reads_a_delta_channel(saver: Any, store: asm.SessionStore) -> None:
    async def counted() -> Any:
        return await counting(AsyncAsmSaver(store)).ainvoke({"messages": ["Hi."]}, thread())

    assert asyncio.run(counted()) == counting(saver).get_state(thread()).values
