"""`asm run`, `asm runs` and `asm recover`."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

import asm
from asm.cli import running
from asm.cli.command import cli
from asm.operations.runs import with_lease
from tests.agents.scripted import Gate, Scripted, call, delta, said
from tests.contract.test_cli import invoke, output_of, run_process, store

__all__ = ["store"]


def played(monkeypatch: pytest.MonkeyPatch, adapter: Scripted) -> None:
    """Have the adapter demo be another one."""
    monkeypatch.setitem(running._ADAPTERS, "demo", lambda _model: running._Played(adapter))


def run_demo(dsn: str, *arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["run", "--adapter", "demo", "--dsn", dsn, *arguments], input=input)


def test_run_prints_the_answer_and_stores_the_run(migrated: str, store: asm.SessionStore) -> None:
    done = run_process("run", "--adapter", "demo", "Will it rain?", "--dsn", migrated)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Yes, from two o'clock on.")
    (session,) = store.list_sessions()
    assert done.stderr.splitlines()[0] == "→ forecast city: Bergen"
    assert done.stderr.splitlines()[-2] == f"session {session.id}"
    (run,) = store.list_runs(session.id)
    assert (run.status, run.turn_count, run.input) == ("completed", 3, "Will it rain?")
    assert len(store.get_events(session.id, type="tool_call_completed")) == 2


def test_run_continues_a_session_and_reads_its_prompt_from_the_standard_input(
    migrated: str, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Scripted([said("Hello.")])
    played(monkeypatch, adapter)
    assert run_demo(migrated, "First").exit_code == 0
    (session,) = store.list_sessions()

    result = run_demo(migrated, "--session", session.id[:20], "--system", "Be brief.", "-", input="Second")

    assert (result.exit_code, result.stdout) == (0, "Hello.\n")
    assert [each["content"] for each in adapter.messages] == ["First", "Hello.", "Second"]
    assert adapter.requests[-1].system == "Be brief."


def test_run_escapes_what_a_terminal_would_obey(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, Scripted([delta("\x1b[2J"), delta("ok"), said("\x1b[2Jok")]))

    assert run_demo(migrated, "Hi").stdout == "\\x1b[2Jok\n"


def test_a_run_that_fails_has_status_1_and_says_why(
    migrated: str, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(monkeypatch, Scripted([delta("Hel"), asm.ProviderError("overloaded", status=529)]))

    result = run_demo(migrated, "Hi")

    assert (result.exit_code, result.stdout) == (1, "Hel\n")
    assert "asm: overloaded" in result.stderr
    assert store.query.search_runs().items[0].status == "failed"


def test_ctrl_c_cancels_the_run_and_stores_that(
    migrated: str, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    played(monkeypatch, Scripted([delta("Hel"), interrupt, Gate().wait]))

    assert run_demo(migrated, "Hi").exit_code == 130
    (run,) = store.query.search_runs().items
    assert run.status == "cancelled"
    assert store.get_events(run.session_id, last=1)[0].type == "run_cancelled"


def test_ctrl_c_while_something_is_printed_cancels_the_run_too(
    migrated: str, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(monkeypatch, Scripted([call("lookup", {"city": "Bergen"}), Gate().wait]))
    note = running._note

    def interrupted(text: str) -> None:
        note(text)
        if text.startswith("→"):
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "_note", interrupted)

    assert run_demo(migrated, "Hi").exit_code == 130
    (run,) = store.query.search_runs().items
    assert run.status == "cancelled"


def test_an_adapter_needs_its_model(migrated: str) -> None:
    result = invoke("run", "--adapter", "anthropic", "Hi", "--dsn", migrated)

    assert (result.exit_code, "needs a --model" in result.stderr) == (2, True)


def test_stale_runs_are_listed_and_recovered(migrated: str, store: asm.SessionStore) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    old = asm.Run(session_id="ses_1", status="running")
    stale = with_lease(old, datetime.now(UTC) - timedelta(hours=1), owner="host:1:aa")
    live = with_lease(replace(old, id="run_live"), datetime.now(UTC) + timedelta(hours=1), owner="host:1:bb")
    for run in (stale, live):
        store.save_run(run)

    def listed(*arguments: str) -> list[str]:
        return [run["id"] for run in json.loads(output_of(*arguments, "--json", "--dsn", migrated))]

    assert sorted(listed("runs")) == sorted([stale.id, live.id])
    assert listed("runs", "--stale") == [stale.id]
    assert listed("runs", "--stale", "--grace", "7200") == []
    assert listed("recover") == [stale.id]
    assert listed("recover") == []
    assert output_of("runs", "--stale", "--dsn", migrated) == "no runs\n"
    assert store.get_run(stale.id).error["code"] == "abandoned"
