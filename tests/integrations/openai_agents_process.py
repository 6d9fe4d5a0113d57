"""Adds items to a conversation or pops them, in a process of its own, as each line of its input says."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import asm
from asm.integrations.openai_agents import AsmSession


def main() -> None:
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        dsn, name = json.loads(line)
        with asm.SessionStore(dsn) as store:
            session = AsmSession("talk_1", store)
            print(json.dumps(asyncio.run(add(session, name) if name else pop(session))), flush=True)  # noqa: T201


async def add(session: Any, name: str) -> list[str]:
    added = [f"{name}{number}" for number in range(60)]
    for number in range(0, 60, 3):
        await session.add_items([{"role": "user", "content": each} for each in added[number : number + 3]])
    return added


async def pop(session: Any) -> list[str]:
    popped = []
    while (item := await session.pop_item()) is not None:
        popped.append(item["content"])
    return popped


if __name__ == "__main__":
    main()
