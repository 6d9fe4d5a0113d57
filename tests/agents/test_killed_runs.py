"""A program that is killed at any step of a run leaves the truth in the store."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import asm
from asm.operations.runs import lease_end
from tests.agents.conftest import types
from tests.agents.killed_runs import STEPS_MAX
from tests.agents.scripted import answer
from tests.conftest import Where


def killed_runs(dsn: str) -> list[dict[str, Any]]:
    with asm.SessionStore(dsn) as store:
        for step in range(1, STEPS_MAX):
            store.save_session(asm.Session(id=f"ses_{step:04}", agent_id="assistant", status="active"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.agents.killed_runs", dsn],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_program_that_is_killed_at_any_step_leaves_the_truth(where: Where) -> None:
    reports = killed_runs(where.dsn)
    assert len(reports) > 20
    assert reports[-1]["shown"][-1] == "returned"
    with asm.SessionStore(where.dsn) as store:
        lengths = [check_told_the_truth(store, report) for report in reports]
        # The program was killed in every state between no event and all.
        assert {0, 2, lengths[-1]} <= set(lengths)
        manager = asm.SessionManager(store)
        recover_all(store, manager)
        for report in reports:
            check_goes_on(store, manager, report["session_id"])
        assert store.maintenance.health_check() == []


def check_told_the_truth(store: asm.SessionStore, report: dict[str, Any]) -> int:
    """Check what a killed program left, and return the number of its events."""
    session_id, shown = report["session_id"], [line.split() for line in report["shown"]]
    events, runs = store.get_events(session_id), store.list_runs(session_id)
    stored = {(str(event.sequence_number), event.id, str(event.type)) for event in events}
    # What the caller was shown is there.
    assert {tuple(line) for line in shown if len(line) == 3 and line[0] != "0"} <= stored
    # The run is there from its first event on, and has completed if and only if its last event says so.
    assert [run.status for run in runs] == (
        [] if not events else ["completed" if "run_completed" in types(events) else "running"]
    )
    if shown[-1:] == [["returned"]]:
        assert runs[0].status == "completed"
    return len(events)


def recover_all(store: asm.SessionStore, manager: asm.SessionManager) -> None:
    running = store.query.search_runs(status="running", limit=1_000).items
    assert all(lease_end(run) is not None for run in running)
    recovered = 0
    while recovered < len(running):
        recovered += len(manager.recover(grace=0))
        time.sleep(0.01)
    assert store.query.search_runs(status="running").items == []


def check_goes_on(store: asm.SessionStore, manager: asm.SessionManager, session_id: str) -> None:
    """Check that the session has one end for each run, and that another run is made in it."""
    for run in store.list_runs(session_id):
        its = types(store.get_events(session_id, run_id=run.id))
        assert sum(its.count(type) for type in ("run_completed", "run_failed")) == 1
        assert its[-1] == ("run_completed" if run.status == "completed" else "run_failed")
    adapter = answer()
    manager.run(session_id, adapter, "Again")
    messages = adapter.messages
    calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert calls == [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert messages[-1]["content"] == "Again"
