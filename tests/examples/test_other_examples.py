"""Refunds, the analysis, and the pages that list the examples."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import asm
from tests.examples.programs import EXAMPLES, ROOT, environment, printed


def test_the_refunds_print_their_events(dsn: str, tmp_path: Path) -> None:
    lines = printed(tmp_path, "refunds.py", dsn).splitlines()

    assert [line.split()[1] for line in lines] == [
        *("tool_call_started", "tool_call_completed"),
        *("tool_call_started", "tool_call_failed"),
    ]


def test_concurrent_refunds_are_made_if_and_only_if_they_are_recorded(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    refunds = importlib.import_module("refunds")
    with asm.SessionStore(migrated) as store:
        session = asm.Session(id="ses_1", agent_id="support")
        store.save_session(session)
        refunds.create_tables(store)
        refunds.add_order(store, "order-1", 1_000)

        # Each call is made twice, and the order pays for half of the calls.
        with ThreadPoolExecutor(8) as threads:
            calls = [f"call-{number // 2}" for number in range(40)]
            results = list(
                threads.map(lambda call: refunds.refund(store, session.id, call, "order-1", 100), calls)
            )

        assert results[::2] == results[1::2]
        recorded = {event.correlation_id for event in results if event.type == "tool_call_completed"}
        with store.transaction() as tx:
            made = {call for (call,) in tx.execute("select call_id from refunds")}
            assert tx.execute("select refunded_cents from orders") == [(1_000,)]
        assert len(made) == 10
        assert made == recorded
        completed = store.get_events(session.id, type="tool_call_completed")
        assert sorted(event.correlation_id or "" for event in completed) == sorted(made)
        assert store.maintenance.health_check() == []


def test_the_tests_of_the_refunds_pass(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(EXAMPLES / "test_refunds.py"),
    ]

    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", timeout=240
    )

    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_the_analysis_prints_the_demo(dsn: str, tmp_path: Path) -> None:
    printed(tmp_path, "demo.py", dsn)

    report = printed(tmp_path, "analysis.py", ASM_DSN=dsn)

    assert "weather-agent" in report
    # The cost that the demo invents for its three model calls.
    assert re.search(r"00:00\+00:00\s+0\.0012\s+1\s+0\n", report), report
    # What duckdb reads from the export.
    assert re.search(r"tool_call_started +│ forecast +│ +1 ", report), report


def test_the_trace_of_a_run_is_a_timeline(dsn: str, tmp_path: Path) -> None:
    lines = printed(tmp_path, "tracing.py", dsn).splitlines()

    spans = [re.sub(r".* ms  [ █]{40}  ", "", line) for line in lines if " ms  " in line]
    assert [span.split("  ")[0] for span in spans if not span.startswith(" ")] == [
        "invoke_agent weather-agent"
    ]
    tools = [span.strip() for span in spans if "execute_tool" in span]
    assert tools == ["execute_tool forecast", "execute_tool departures"]
    assert "input tokens: 540, output tokens: 35" in spans[0]
    # The trace of the stored run is the one that is shown.
    trace = next(line.removeprefix("trace ") for line in lines if line.startswith("trace "))
    assert f"traceparent 00-{trace}-" in lines[-1]


@pytest.mark.parametrize("page", ["examples/README.md", "docs/examples.md"])
def test_a_page_names_every_example(page: str) -> None:
    text = ROOT.joinpath(page).read_text("utf-8")

    assert [file.name for file in EXAMPLES.glob("*.py") if file.name not in text] == []
