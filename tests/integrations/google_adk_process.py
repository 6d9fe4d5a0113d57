"""Appends events of ADK to one session, in a process of its own, as the lines of its input say."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from google.adk.errors import StaleSessionError
from google.adk.events import Event, EventActions

import asm
from asm.integrations.google_adk import AsmSessionService

S1: dict[str, Any] = {"app_name": "app", "user_id": "ada", "session_id": "s1"}


def main(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        service = AsmSessionService(store)
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            name, number = line.split()
            asyncio.run(append_events(service, name, int(number)))
            print("done", flush=True)  # noqa: T201


async def append_events(service: AsmSessionService, name: str, number: int) -> None:
    for n in range(number):
        while not await append(service, f"{name}{n}"):
            pass


async def append(service: AsmSessionService, name: str) -> bool:
    """Append an event, with a key of its own in each state, and tell whether the session was current."""
    session = await service.get_session(**S1)
    assert session is not None
    # The sum is wrong if an event was appended to a state that another one had changed.
    delta = {"sum": session.state.get("sum", 0) + 1, f"app:{name}": 1, f"user:{name}": 1}
    try:
        await service.append_event(
            session, Event(invocation_id=name, author="agent", actions=EventActions(state_delta=delta))
        )
    except StaleSessionError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
