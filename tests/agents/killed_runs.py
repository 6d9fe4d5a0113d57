"""Makes the same run again and again, each in a process that is killed one step of its event loop later.

python -m tests.agents.killed_runs DSN

A step of the loop ends at every await that waits, also for a statement's response and for a thread. For each
process a line of JSON says which session it ran in, and which events its caller was shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import asm
from tests.agents.scripted import Scripted, call, delta, pause, said, used

STEPS_MAX = 400


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that does something before a step: by default it kills its process."""

    steps_left = 0

    def at_last_step(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _run_once(self) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.at_last_step()
        super()._run_once()  # type: ignore[misc]


def adapter() -> Scripted:
    return Scripted(
        [delta("Let me see."), pause, said("Let me see.", "tool_use"), call("lookup"), pause, used()],
        [delta("Here."), said("Here."), used()],
    )


async def tool(*_: Any) -> str:
    await asyncio.sleep(0)
    return "42"


async def run(dsn: str, session_id: str, step: int, output: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    async with asm.AsyncSessionStore(dsn) as store:
        manager = asm.AsyncSessionManager(store, lease=1.0)
        loop.steps_left = step
        async for event in manager.stream(session_id, adapter(), "Hi", on_tool=tool):
            os.write(output, f"{event.sequence_number or 0} {event.id} {event.type}\n".encode())
        loop.steps_left = 0
    os.write(output, b"returned\n")


async def load(dsn: str) -> None:
    async with asm.AsyncSessionStore(dsn) as store:
        await asm.AsyncSessionManager(store).run_once(adapter(), "Hi", on_tool=tool)


def killed(dsn: str, session_id: str, step: int) -> list[str]:
    """What the caller of a run was shown in a process that died before a step."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            runner.run(run(dsn, session_id, step, sending))
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8") as shown:
        lines = shown.read().splitlines()
    os.waitpid(child, 0)
    return lines


def main(dsn: str) -> None:
    # The children inherit the modules that this loads.
    asyncio.run(load(dsn))
    for step in range(1, STEPS_MAX):
        session_id = f"ses_{step:04}"
        lines = killed(dsn, session_id, step)
        sys.stdout.write(json.dumps({"session_id": session_id, "shown": lines}) + "\n")
        if lines[-1:] == ["returned"]:
            return


if __name__ == "__main__":
    main(sys.argv[1])
