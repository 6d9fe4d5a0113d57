"""What a store promises while clients are killed, servers crash, connections break and disks fill.

One short history for each database; `make soak` is for long ones. A seed goes into ASM_SEED. It chooses
what is done and what goes wrong, but not when: the machine does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import in_memory
from tests.fault.soak import Work, history
from tests.fault.soak_databases import SETTINGS, SoakDatabase, SoakPostgres, SoakSQLite
from tests.servers import installations

SHORT = Work(clients=4, workers=3, seconds=9, pause_s=0.6)
PLACES: list[Callable[[], SoakDatabase]] = [
    SoakSQLite,
    *(lambda it=it: SoakPostgres(it, folder=in_memory()) for it in installations()[:1]),
]


@pytest.mark.parametrize("make_place", PLACES, ids=["sqlite", "postgres"][: len(PLACES)])
def test_nothing_is_lost_doubled_or_torn_whatever_breaks(
    make_place: Callable[[], SoakDatabase], tmp_path: Path
) -> None:
    seed = int(os.environ.get("ASM_SEED") or random.randrange(2**31))
    folder = tmp_path / "history"
    with make_place() as place:
        tally = history(place, folder, seed=seed, work=SHORT)
    assert tally.violations == [], f"seed {seed}; the history is in {folder}"
    assert tally.events
    assert tally.faults


@pytest.mark.skipif(not installations(), reason="needs a PostgreSQL server of its own to crash")
def test_a_server_that_forgets_what_it_acknowledged_is_found_out(tmp_path: Path) -> None:
    forgetful = {**SETTINGS, "synchronous_commit": "off", "wal_writer_delay": "10s"}
    crash = ["server stopped immediately"]
    work = Work(clients=2, workers=4, seconds=2, pause_s=1)
    with SoakPostgres(installations()[0], in_memory(), settings=forgetful, only=crash) as place:
        tally = history(place, tmp_path / "history", seed=1, work=work)
    assert any("it is lost" in violation for violation in tally.violations)
