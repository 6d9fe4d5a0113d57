"""Adds items to a conversation and pops them, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asm
from asm.integrations.openai_agents import AsmSession


def main(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        session = AsmSession("talk_1", store)
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            command, *names = line.split()
            done = add(session, names[0]) if command == "add" else pop(session)
            print(asyncio.run(done), flush=True)  # noqa: T201


async def add(session: Any, name: str) -> str:
    for number in range(0, 60, 3):
        contents = [f"{name}{number + n}" for n in range(3)]
        await session.add_items([{"role": "user", "content": content} for content in contents])
    return "added"


async def pop(session: Any) -> str:
    popped = []
    while (item := await session.pop_item()) is not None:
        popped.append(item["content"])
    return " ".join(popped)


if __name__ == "__main__":
    main(*sys.argv[1:])
