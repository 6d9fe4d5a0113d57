"""The chat with tools goes on after it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import asm
from tests.examples.programs import EXAMPLES, environment


def chat(folder: Path, dsn: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / "chat_with_tools.py"), "ses_1", dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environment(),
        encoding="utf-8",
    )


def test_a_chat_that_is_killed_in_a_run_goes_on(dsn: str, tmp_path: Path) -> None:
    first = chat(tmp_path, dsn)
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write("Will it rain?\n")
    first.stdin.flush()
    seen = first.stdout.readline()
    first.kill()
    first.communicate()

    second = chat(tmp_path, dsn)
    output, _ = second.communicate("And tomorrow?\n", timeout=240)

    assert second.returncode == 0
    assert output.startswith(f"user: Will it rain?\nassistant: {seen}")
    assert output.endswith("Take the bus at 13:40, and an umbrella.\n")
    with asm.SessionStore(dsn) as store:
        assert store.maintenance.health_check() == []
        assert {run.status for run in store.list_runs("ses_1")} <= {"completed", "failed"}
        assert store.get_active_run("ses_1") is None
