"""A graph that asks a person, and goes on in another process: python examples/with_langgraph.py [DSN]

`pip install 'asm-store[langgraph]' langgraph`. A model that knows one answer stands in for a real one.
"""

import sys
from typing import Any

from langchain_core.language_models import FakeListChatModel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

import asm
from asm.integrations import langgraph

THREAD: Any = {"configurable": {"thread_id": "refund-17", "user_id": "ada"}}


def answer(state: MessagesState) -> Any:
    model = FakeListChatModel(responses=["I can refund 20 EUR."])
    return {"messages": [model.invoke(state["messages"])]}


def approve(_: MessagesState) -> Any:
    return {"messages": [("user", interrupt("Refund 20 EUR?"))]}


def graph_of(store: asm.SessionStore) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_node("approve", approve)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "approve")
    builder.add_edge("approve", END)
    return builder.compile(checkpointer=langgraph.AsmSaver(store))


def main(dsn: str) -> None:
    langgraph.migrate(dsn)
    with asm.SessionStore(dsn) as store:
        asked = graph_of(store).invoke({"messages": [("user", "Where is my money?")]}, THREAD)
        print("the graph asks:", asked["__interrupt__"][0].value)
    # As after a restart: another store, and a graph that is built again.
    with asm.SessionStore(dsn) as store:
        done = graph_of(store).invoke(Command(resume="Yes."), THREAD)
        print(*(f"{message.type}: {message.content}" for message in done["messages"]), sep="\n")
        print("context of the session:", store.get_session("refund-17").context)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///asm-demo.db"])
