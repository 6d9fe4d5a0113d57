"""What the store is to reach, row by row. A question measures some of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A row: what is measured, what stands beside it, and what counts as met. None: nobody asked."""

    what: str
    beside: str
    ratio: float | None = None
    p99_ms: float | None = None
    spread: float | None = None
    """The busiest caller's share over the idlest one's."""
    longest_ms: float | None = None

    def __str__(self) -> str:
        wanted = [
            None if self.ratio is None else f"{self.ratio:.2f}x",
            None if self.p99_ms is None else f"p99 under {self.p99_ms:g} ms",
            None if self.spread is None else f"shares within {self.spread:g}x",
            None if self.longest_ms is None else f"nobody waits {self.longest_ms:g} ms",
        ]
        return ", ".join(each for each in wanted if each)


COPY = "COPY of the same rows into the same table"
BY_HAND = "tuples + orjson + one constructor per row, by hand"

ONE_THREAD = Target("one thread, one append", "pgbench, 1 client, same statement", 0.85)
EIGHT_THREADS = Target("8 threads", "pgbench, 8 clients", 0.80)
TASKS = Target("64 tasks, 200 sessions", "pgbench, 32 clients", 2.0, p99_ms=10)
MANY_TASKS = Target("512 tasks, 200 sessions", "pgbench, 32 clients", 2.8)
THREADS = Target("64 threads, 200 sessions", "pgbench, 32 clients", 1.2)
TASKS_ON_ONE = Target("16 tasks on one session", "pgbench, 16 clients on one session", 6)
THREADS_ON_ONE = Target("16 threads on one session", "pgbench, 16 clients on one session", 4)
BATCH_100 = Target("append_events of 100", COPY, 0.7)
BATCH_1000 = Target("append_events of 1,000", COPY, 0.75)
BATCH_10000 = Target("append_events of 10,000", COPY, 0.75)
BATCH_REFERENCE = Target(
    "append_events of 1,000, beside seven indexes",
    "COPY into the reference library's seven-index schema",
    1.0,
)
GET_EVENTS = Target("get_events, 1,000 of 300 bytes", BY_HAND, 0.8)
PAGE = Target("a page of 100", BY_HAND, 0.7)
GET_SESSION = Target("get_session", "the bare driver", 0.75)
GET_ACTIVE_RUN = Target("get_active_run", "the bare driver", 0.75)
SAVE_SESSION = Target("save_session", "the bare driver", 0.75)
FLUSH = Target("flush of a session, a run, 50 events", "one COPY of 50 rows", 0.6)
SQLITE_APPEND = Target("SQLite FULL: one append", "raw begin immediate, upsert, insert, commit", 0.85)
SQLITE_THREADS = Target("SQLite FULL: 64 threads", "the same raw, one thread", 2.8, p99_ms=25, spread=2)
SQLITE_PROCESSES = Target(
    "SQLite FULL: 4 processes on one file", "one process", 0.9, spread=2.5, longest_ms=200
)
SQLITE_BATCHES = Target("SQLite batches of 1,000", "raw executemany in one transaction", 0.7)
SQLITE_ASYNC = Target("async SQLite, one task", "sync", 0.5)
PEERS = Target("every peer, every row", "the one that comes closest", 1.0)

TARGETS = [
    ONE_THREAD,
    EIGHT_THREADS,
    TASKS,
    MANY_TASKS,
    THREADS,
    TASKS_ON_ONE,
    THREADS_ON_ONE,
    BATCH_100,
    BATCH_1000,
    BATCH_10000,
    BATCH_REFERENCE,
    GET_EVENTS,
    PAGE,
    GET_SESSION,
    GET_ACTIVE_RUN,
    SAVE_SESSION,
    FLUSH,
    SQLITE_APPEND,
    SQLITE_THREADS,
    SQLITE_PROCESSES,
    SQLITE_BATCHES,
    SQLITE_ASYNC,
]
