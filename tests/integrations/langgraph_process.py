"""Puts checkpoints and writes into a thread, in a process of its own, as each line of its input says."""

from __future__ import annotations

import json
import sys
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

import asm
from asm.integrations.langgraph import AsmSaver


def main() -> None:
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        dsn, name = json.loads(line)
        with asm.SessionStore(dsn) as store:
            print(json.dumps(put(AsmSaver(store), name)), flush=True)  # noqa: T201


def put(saver: Any, name: str) -> list[str]:
    """The ids of 20 checkpoints, each with two writes and a value that both processes store."""
    first = {"configurable": {"thread_id": "thread_1", "checkpoint_ns": ""}}
    ids = []
    for number in range(20):
        checkpoint: Any = empty_checkpoint()
        checkpoint["channel_values"] = {"shared": ["the same in both"], "own": [name, number]}
        checkpoint["channel_versions"] = {"shared": "1", "own": f"{name}{number}"}
        config = saver.put(first, checkpoint, {"step": number}, checkpoint["channel_versions"])
        saver.put_writes(config, [("a", number), ("b", number)], f"task_{name}")
        ids.append(checkpoint["id"])
    return ids


if __name__ == "__main__":
    main()
