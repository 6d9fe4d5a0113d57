"""A run that is saved after every turn costs PostgreSQL little: HOT updates, and few bytes of WAL."""

from __future__ import annotations

from dataclasses import replace

import asm
from tests.conftest import POSTGRES
from tests.contract.other_clients import fetch_rows, only
from tests.fault.concurrent_writers import wait_until
from tests.sql.conftest import START

RUNS, TURNS = 100, 10
WAL_BYTES = 500
HOT_SHARE = 0.9

NEXT_WAL_BYTE = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
UPDATES = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'asm_runs'"


@only(POSTGRES, why="SQLite has no HOT updates and no such log")
def test_saving_a_run_after_every_turn_updates_it_on_its_page(migrated: str) -> None:
    started = [a_running_run(number) for number in range(RUNS)]
    turns = list[float]()

    with asm.SessionStore(migrated, max_size=1) as store:
        save_all(store, started)
        for turn in range(1, TURNS + 1):
            before = next_wal_byte(migrated)
            save_all(store, [after_turns(run, turn) for run in started])
            turns.append(next_wal_byte(migrated) - before)

    # Another database's writes, and the whole pages that are logged after a checkpoint, only add to a
    # turn, so the turn with the fewest bytes shows what the updates wrote.
    assert 0 < min(turns) / RUNS <= WAL_BYTES
    assert hot_share(migrated) >= HOT_SHARE


def a_running_run(number: int) -> asm.Run:
    return asm.Run(
        id=f"run_{number}",
        session_id=f"ses_{number}",
        status="running",
        started_at=START,
        input={"text": "a short question"},
        provider="claude",
        provider_metadata={"model": "claude-sonnet-4-5"},
    )


def after_turns(run: asm.Run, turns: int) -> asm.Run:
    tokens = {"input_tokens": 1_200 * turns, "output_tokens": 300 * turns, "total_tokens": 1_500 * turns}
    return replace(run, turn_count=turns, token_usage=tokens, cost_usd=0.01 * turns)


def save_all(store: asm.SessionStore, runs: list[asm.Run]) -> None:
    for run in runs:
        store.save_run(run)


def next_wal_byte(dsn: str) -> float:
    ((position,),) = fetch_rows(dsn, NEXT_WAL_BYTE)
    return float(position)


def hot_share(dsn: str) -> float:
    """The share of HOT updates. A server process reports its updates at the latest when it ends."""
    wait_until(lambda: fetch_rows(dsn, UPDATES)[0][0] >= RUNS * TURNS)
    ((updates, hot_updates),) = fetch_rows(dsn, UPDATES)
    assert updates == RUNS * TURNS
    return float(hot_updates / updates)
