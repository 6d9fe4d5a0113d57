"""Appends to one transcript and lists its project, in a process of its own; and the entries for it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asm
from asm.integrations.claude_agent_sdk import AsmSessionStore

Entry = dict[str, Any]

PROJECT = "-srv-project"
KEY: Any = {"project_key": PROJECT, "session_id": "0f5a9c64-7c1e-4c2b-9d7a-0a4f7f3f8a11"}
MODEL = "claude-opus-4-5"


def prompt(uuid: str, text: str, **more: Any) -> Entry:
    return {"type": "user", "uuid": uuid, "message": {"role": "user", "content": text}, **more}


def answer(uuid: str, text: str, tokens: int = 10, id: str | None = None, model: str = MODEL) -> Entry:
    """One block of a message, which is the whole message if `id` is None."""
    message = {
        "id": id or f"msg_{uuid}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "usage": {"input_tokens": 100, "output_tokens": tokens, "cache_read_input_tokens": 1_000},
    }
    return {"type": "assistant", "uuid": uuid, "message": message}


async def main(dsn: str, name: str, batches: int) -> None:
    async with asm.AsyncSessionStore(dsn) as store:
        transcripts: Any = AsmSessionStore(store)
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        for n in range(batches):
            entries = [prompt(f"{name}-{n}-0", f"{name} {n}"), answer(f"{name}-{n}-1", "Yes", tokens=n)]
            await transcripts.append(KEY, entries)
            # A failed append is tried again with the same entries.
            await transcripts.append(KEY, entries)
            await transcripts.list_session_summaries(PROJECT)
        print("done")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
