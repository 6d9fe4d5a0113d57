"""Tables that Citus distributes, compared with pgbench and with tables of the same server that are local."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import asm
from bench import appends, batches, floors, payload, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Side, in_turn
from bench.payload import SESSIONS
from bench.targets import Target

APPENDS = (
    (targets.ONE_DISTRIBUTED, 1),
    (targets.EIGHT_DISTRIBUTED, 8),
    (targets.THREADS_DISTRIBUTED, 32),
)
BATCHES = ((targets.BATCH_DISTRIBUTED, 1), (targets.SPANNING_DISTRIBUTED, 20))
READS: tuple[tuple[Target, Callable[[asm.SessionStore, str], object]], ...] = (
    (targets.READ_DISTRIBUTED, lambda store, session_id: store.get_events(session_id, last=20)),
    (
        targets.SEARCH_DISTRIBUTED,
        lambda store, _: store.query.search_events(types=["message_sent"], order_by="timestamp_desc"),
    ),
)


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with ExitStack() as stack:
        places = [stack.enter_context(databases.postgres(distributed=each)) for each in (True, False)]
        cluster, local = (
            stack.enter_context(asm.SessionStore(place.dsn, schema=place.schema)) for place in places
        )
        for target, callers in APPENDS:
            floor = floors.one_statement(places[0], callers)
            yield rounds.compare(target, floor, appends.threads(cluster, callers, appends.numbered(SESSIONS)))
        for target, sessions in BATCHES:
            floor, ours = (batches.ours(store, None, 1_000, sessions=sessions) for store in (local, cluster))
            yield rounds.compare(target, floor, ours, share=batches.SHARE)
        (session_id,) = payload.session_ids(1)
        for store in (local, cluster):
            store.append_events([payload.event(session_id, number) for number in range(1_000)])
        for target, read in READS:
            yield rounds.compare(target, *(_reading(store, session_id, read) for store in (local, cluster)))


def _reading(
    store: asm.SessionStore, session_id: str, read: Callable[[asm.SessionStore, str], object]
) -> Side:
    def step() -> int:
        read(store, session_id)
        return 1

    return Side("asm", lambda seconds: in_turn(step, seconds))
