"""A program with a blocking manager that is killed before or after a write leaves the truth in the store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import asm
from tests.agents.killed_blocking_runs import OPERATIONS_MAX
from tests.agents.test_killed_runs import check_goes_on, check_told_the_truth, recover_all
from tests.conftest import Where


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_program_that_blocks_and_is_killed_at_any_operation_leaves_the_truth(
    moment: str, where: Where
) -> None:
    with asm.SessionStore(where.dsn) as store:
        for number in range(1, OPERATIONS_MAX):
            store.save_session(asm.Session(id=f"ses_{number:04}", agent_id="assistant", status="active"))
        done = subprocess.run(
            [sys.executable, "-m", "tests.agents.killed_blocking_runs", where.dsn, moment],
            capture_output=True,
            encoding="utf-8",
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        assert reports[-1]["shown"][-1] == "returned"
        lengths = [check_told_the_truth(store, report) for report in reports]
        # The program was killed at the claim, at each append and at the end.
        assert len({*lengths}) > 4
        manager = asm.SessionManager(store)
        recover_all(store, manager)
        for report in reports:
            check_goes_on(store, manager, report["session_id"])
        assert store.maintenance.health_check() == []
