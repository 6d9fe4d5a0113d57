"""What does an append cost in a database with the index of words?

The floor is the same call of a store without the index. At most 1.3 times as long is at least 0.77 of its
rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import asm
from asm.engine.schema_version import TEXT_SEARCH
from asm.migrations.runner import migrate_with
from bench import appends, batches
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Server
from bench.targets import Target

WITHOUT = "the same without the index"
RATIO = 0.77
SHARE = 0.5
BATCH = 1_000


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with ExitStack() as stack:
        files = [stack.enter_context(databases.file()) for _ in range(2)]
        migrate_with([TEXT_SEARCH], files[1].dsn)
        bare, indexed = (stack.enter_context(asm.SessionStore(file.dsn)) for file in files)
        yield from _compared(rounds, "SQLite", bare, indexed, None)
    with ExitStack() as stack:
        places = [stack.enter_context(databases.postgres()) for _ in range(2)]
        migrate_with([TEXT_SEARCH], places[1].dsn, schema=places[1].schema)
        bare, indexed = (
            stack.enter_context(asm.SessionStore(place.dsn, schema=place.schema)) for place in places
        )
        yield from _compared(rounds, "PostgreSQL", bare, indexed, places[0].server)


def _compared(
    rounds: Rounds, database: str, bare: asm.SessionStore, indexed: asm.SessionStore, server: Server
) -> Iterator[Comparison]:
    one, with_index = (appends.threads(store, 1, appends.own(), server) for store in (bare, indexed))
    target = Target(f"{database}: one append with the index of words", WITHOUT, RATIO)
    yield rounds.compare(target, one, with_index, share=SHARE)
    batch, with_index = (batches.ours(store, server, BATCH) for store in (bare, indexed))
    target = Target(f"{database}: append_events of {BATCH:,} with the index of words", WITHOUT, RATIO)
    yield rounds.compare(target, batch, with_index, share=SHARE)
