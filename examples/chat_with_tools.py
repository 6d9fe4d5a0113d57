"""A chat with tools that survives kill -9: python examples/chat_with_tools.py SESSION [DSN]

Each line that you type is a run of the session. Kill the program at any time, also while a tool runs, and
start it again with the same SESSION: the chat goes on with all that was printed before. A run that was going
on is ended as failed first, and a call without a result is answered "interrupted".

With ANTHROPIC_API_KEY in the environment, and `pip install 'asm-store[anthropic]'`, the model of the
environment variable MODEL answers. Without it, an adapter plays one that knows the weather in Bergen.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import asm
from asm.agents import Adapter
from asm.agents.demo import TOOLS, Demo, on_tool

LEASE_S = 2.0
"""How long a killed program keeps its session to itself. The default, 60 s, suits a service."""


def main(session_id: str, dsn: str) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        manager = asm.SessionManager(store, lease=LEASE_S)
        with suppress(asm.AlreadyExists):
            manager.start_session("chat", id=session_id)
        for message in manager.transcript(session_id).messages:
            if message["role"] != "tool" and message["content"]:
                print(f"{message['role']}: {message['content']}")
        for line in sys.stdin:
            if question := line.strip():
                for text in answer(manager, session_id, question):
                    print(text, end="", flush=True)


def answer(manager: asm.SessionManager, session_id: str, question: str) -> Iterator[str]:
    """The answer, piece by piece."""
    for event in events_of_run(manager, session_id, question):
        if event.type == "message_streamed":
            yield str(event.data["delta"])
        elif event.type == "message_received":
            yield "\n"
        elif event.type == "tool_call_started":
            yield f"[{event.data['name']} {event.data['input']}]\n"
        elif event.type == "run_failed":
            yield f"\nThe run failed: {event.data['message']}\n"


def events_of_run(manager: asm.SessionManager, session_id: str, question: str) -> Iterator[asm.Event]:
    with suppress(asm.ProviderError):
        while True:
            try:
                yield from manager.stream(session_id, adapter(), question, tools=TOOLS, on_tool=on_tool)
                return
            except asm.RunActive:
                # The run of a program that was killed keeps the session until its lease is over.
                time.sleep(LEASE_S / 4)


def adapter() -> Adapter:
    if "ANTHROPIC_API_KEY" not in os.environ:
        return Demo()
    from asm.agents.anthropic import Claude

    return Claude(model=os.environ.get("MODEL", "claude-opus-5-5"))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "sqlite:///asm-demo.db")
