"""The store keeps its promises while clients are killed, servers crash, connections break and disks fill.

Each test runs a short history; `make soak` runs long ones. ASM_SEED is the seed. It determines the
operations and the faults, but not their timing.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import in_memory
from tests.contract.other_clients import fetch_rows
from tests.fault.concurrent_writers import wait_until
from tests.fault.faults import ClientProcesses, Fault
from tests.fault.soak import Work, history
from tests.fault.soak_databases import SETTINGS, SoakDatabase, SoakPostgres, SoakSQLite
from tests.servers import installations

SHORT = Work(clients=3, workers=3, seconds=4, pause_s=0.4)
DATABASES: list[Callable[[], SoakDatabase]] = [
    SoakSQLite,
    *(lambda it=it: SoakPostgres(it, folder=in_memory()) for it in installations()[:1]),
]


@pytest.mark.parametrize("make_database", DATABASES, ids=["sqlite", "postgres"][: len(DATABASES)])
def test_no_event_is_lost_duplicated_or_torn_by_any_fault(
    make_database: Callable[[], SoakDatabase], tmp_path: Path
) -> None:
    seed = int(os.environ.get("ASM_SEED") or random.randrange(2**31))
    folder = tmp_path / "history"
    with make_database() as database:
        tally = history(database, folder, seed=seed, work=SHORT)
    assert tally.violations == [], f"seed {seed}; the history is in {folder}"
    assert tally.events
    assert tally.faults


CRASH = "server stopped immediately"


class LosesCommits(SoakPostgres):
    """A server that acknowledges commits before it writes them, and crashes after many."""

    def faults(self, clients: ClientProcesses, rng: random.Random) -> dict[str, Fault]:
        crash, dsn = super().faults(clients, rng)[CRASH], self._dsn

        def crash_after_commits() -> None:
            wait_until(lambda: len(fetch_rows(dsn, "select 1 from asm_events")) > 50)
            crash()

        return {CRASH: crash_after_commits}


@pytest.mark.skipif(not installations(), reason="needs a private PostgreSQL server to crash")
def test_the_checker_finds_a_server_that_loses_acknowledged_commits(tmp_path: Path) -> None:
    unsynced = {**SETTINGS, "synchronous_commit": "off", "wal_writer_delay": "10s"}
    work = Work(clients=2, workers=4, seconds=2, pause_s=1)
    with LosesCommits(installations()[0], in_memory(), settings=unsynced) as database:
        tally = history(database, tmp_path / "history", seed=1, work=work)
    assert any("it is lost" in violation for violation in tally.violations)
