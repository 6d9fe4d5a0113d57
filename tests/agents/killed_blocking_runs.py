"""Makes the same run again and again with a blocking manager, each in a process that is killed.

python -m tests.agents.killed_blocking_runs DSN before|after

The n-th process is killed before, or after, the n-th operation of its store. For each process a line of JSON
says which session it ran in, and which events its caller was shown.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

import asm
from tests.agents.killed_runs import adapter, tool

OPERATIONS_MAX = 40


def kill_at(number: int, moment: str, store: asm.SessionStore) -> None:
    """Have the process killed before or after an operation of the store."""
    numbers, database = count(1), store._database

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            is_last = next(numbers) == number
            if is_last and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = run(*args, **options)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("run", "run_transaction"):
        setattr(database, name, counted(getattr(database, name)))


def run(dsn: str, session_id: str, number: int, moment: str, output: int) -> None:
    with asm.SessionStore(dsn) as store:
        manager = asm.SessionManager(store, lease=1.0)
        kill_at(number, moment, store)
        for event in manager.stream(session_id, adapter(), "Hi", on_tool=tool):
            os.write(output, f"{event.sequence_number or 0} {event.id} {event.type}\n".encode())
    os.write(output, b"returned\n")


def killed(dsn: str, session_id: str, number: int, moment: str) -> list[str]:
    """What the caller of a run was shown in a process that died at an operation."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        try:
            run(dsn, session_id, number, moment, sending)
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8") as shown:
        lines = shown.read().splitlines()
    os.waitpid(child, 0)
    return lines


def main(dsn: str, moment: str) -> None:
    # The children inherit these modules. This process has no threads, so it opens no store.
    for name in ("asm.agents.blocking", "asm.postgres.database", "asm.sqlite.database"):
        import_module(name)
    for number in range(1, OPERATIONS_MAX):
        session_id = f"ses_{number:04}"
        lines = killed(dsn, session_id, number, moment)
        sys.stdout.write(json.dumps({"session_id": session_id, "shown": lines}) + "\n")
        if lines[-1:] == ["returned"]:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
