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
from tests.fault.places import Place, PostgresPlace, SQLitePlace
from tests.fault.soak import Work, history
from tests.servers import installations

SHORT = Work(clients=4, workers=3, seconds=9, pause_s=0.6)
PLACES: list[Callable[[], Place]] = [
    SQLitePlace,
    *(lambda it=it: PostgresPlace(it, folder=in_memory()) for it in installations()[:1]),
]


@pytest.mark.parametrize("make_place", PLACES, ids=["sqlite", "postgres"][: len(PLACES)])
def test_nothing_is_lost_doubled_or_torn_whatever_breaks(
    make_place: Callable[[], Place], tmp_path: Path
) -> None:
    seed = int(os.environ.get("ASM_SEED") or random.randrange(2**31))
    folder = tmp_path / "history"
    with make_place() as place:
        tally = history(place, folder, seed=seed, work=SHORT)
    assert tally.violations == [], f"seed {seed}; the history is in {folder}"
    assert tally.events
    assert tally.faults
