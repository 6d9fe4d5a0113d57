"""`asm run` in a process that is told to end, by Ctrl-C or by SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

import asm
from tests.contract.test_cli import store

__all__ = ["store"]

PROGRAM = """
import asyncio
from asm.cli import main, running
from tests.agents.scripted import Scripted, delta

async def wait(_):
    try:
        await asyncio.Event().wait()
    finally:
        # It takes the adapter until the next line of the standard input to close its connection.
        print("closing", flush=True)
        await asyncio.to_thread(input)

adapter = Scripted([delta("Hel"), wait])
running._ADAPTERS["demo"] = lambda _model: running._Played(adapter)
main()
"""

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def answering(dsn: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A process of `asm run` whose model has begun to answer, its standard input and output."""
    command = [sys.executable, "-c", PROGRAM, "run", "--adapter", "demo", "Hi", "--dsn", dsn]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.read(3) == "Hel"
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def check_cancelled(store: asm.SessionStore) -> str:
    """Check that the run is stored as cancelled with what it had received, and return its session."""
    (run,) = store.query.search_runs().items
    assert run.status == "cancelled"
    received, ended = store.get_events(run.session_id, last=2)
    assert (received.data["content"], received.data["partial"]) == ("Hel", True)
    assert ended.type == "run_cancelled"
    assert store.maintenance.health_check() == []
    return run.session_id


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_a_signal_cancels_the_run_stores_that_and_is_the_status(
    number: signal.Signals, migrated: str, store: asm.SessionStore
) -> None:
    with answering(migrated) as (process, _, _):
        process.send_signal(number)
        _, errors = process.communicate("\n", timeout=60)

    assert process.returncode == STATUS[number]
    session_id = check_cancelled(store)
    said = ["asm: terminated by SIGTERM"] if number == signal.SIGTERM else []
    assert errors.splitlines() == [f"session {session_id}", *said]


def test_a_second_sigterm_does_not_keep_the_run_from_being_stored_as_cancelled(
    migrated: str, store: asm.SessionStore
) -> None:
    with answering(migrated) as (process, input, output):
        process.terminate()
        assert output.readline() == "closing\n"
        for _ in range(3):
            process.terminate()
        input.write("\n")
        _, errors = process.communicate(timeout=60)

    assert process.returncode == STATUS[signal.SIGTERM]
    check_cancelled(store)
    assert errors.splitlines()[-1] == "asm: terminated by SIGTERM"
