"""How many functions of the store does one append_event enter, and how many are on the stack at most?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import FrameType

import asm
from bench import appends, floors, payload
from bench.databases import Databases
from bench.harness import Calls, Comparison, Rounds, Side
from bench.sqlite import looping
from bench.targets import Target

SHARE = 0.2

POSTGRES = Target("PostgreSQL: the functions of one append", "pgbench, 1 client", functions=40)
SQLITE = Target("SQLite: the functions of one append", "raw statements", functions=55)

WARM_UP = 20
"""Calls before the one that is counted. The driver prepares a statement after some."""

_PACKAGE = f"{Path(asm.__file__).parent}/"


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with (
        databases.file() as file,
        asm.SessionStore(file.dsn) as store,
        databases.file() as second,
        closing(floors.RawSQLite(second)) as raw,
    ):
        yield counted(rounds, SQLITE, looping(raw), store)
    with databases.postgres() as place, asm.SessionStore(place.dsn, schema=place.schema) as store:
        yield counted(rounds, POSTGRES, floors.one_statement(place, 1), store)


def counted(rounds: Rounds, target: Target, floor: Side, store: asm.SessionStore) -> Comparison:
    """The comparison of a store's appends, with the calls of one of them."""
    comparison = rounds.compare(target, floor, appends.threads(store, 1, appends.numbered()), share=SHARE)
    return replace(comparison, calls=calls_of_append(store))


def calls_of_append(store: asm.SessionStore) -> Calls:
    events = iter([payload.event("ses_frames", number) for number in range(WARM_UP + 1)])
    for _ in range(WARM_UP):
        store.append_event(next(events))
    return calls_of(lambda: store.append_event(next(events)))


def calls_of(call: Callable[[], object]) -> Calls:
    """The functions of the package that a call enters in this thread."""
    functions = depth = deepest = 0

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal functions, depth, deepest
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return
        if event == "call":
            functions += 1
            depth += 1
            deepest = max(deepest, depth)
        elif event == "return":
            depth -= 1

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Calls(functions, deepest)
