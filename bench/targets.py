"""The targets of the benchmarks, row by row."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Target:
    """A row: what is measured, what it is compared with, and the limits to meet; None is no limit."""

    what: str
    baseline: str
    ratio: float | None = None
    p99_ms: float | None = None
    functions: int | None = None
    spread: float | None = None
    """The units of the busiest caller over those of the least busy one."""
    longest_ms: float | None = None
    median_ms: float | None = None
    peak_mb: float | None = None
    """The most memory that one call of the client allocates."""
    core: float | None = None
    """The share of a core that the calling process uses."""
    reference: str = ""
    """What the reference library took; not a limit."""

    def __str__(self) -> str:
        wanted = [
            None if self.ratio is None else f"{self.ratio:.2f}x",
            None if self.p99_ms is None else f"p99 under {self.p99_ms:g} ms",
            None if self.functions is None else f"at most {self.functions} functions",
            None if self.spread is None else f"shares within {self.spread:g}x",
            None if self.longest_ms is None else f"no call over {self.longest_ms:g} ms",
            None if self.median_ms is None else f"{self.median_ms:g} ms",
            None if self.peak_mb is None else f"under {self.peak_mb:g} MB",
            None if self.core is None else f"under {self.core:.0%} of a core",
        ]
        limits = ", ".join(each for each in wanted if each)
        return f"{limits} (reference: {self.reference})" if self.reference else limits


ONE_DISTRIBUTED = Target("Citus: one thread, one append", "pgbench, 1 client, same statement", 0.8)
EIGHT_DISTRIBUTED = Target("Citus: 8 threads", "pgbench, 8 clients", 1.1)
THREADS_DISTRIBUTED = Target("Citus: 32 threads", "pgbench, 32 clients", 1.2)
BATCH_DISTRIBUTED = Target(
    "Citus: append_events of 1,000, one session", "the same, tables that are not distributed", 0.9
)
SPANNING_DISTRIBUTED = Target(
    "Citus: append_events of 1,000 over 20 sessions", "the same, tables that are not distributed"
)
READ_DISTRIBUTED = Target("Citus: the last 20 events", "the same, tables that are not distributed")
SEARCH_DISTRIBUTED = Target(
    "Citus: search_events of a type, a page of 100", "the same, tables that are not distributed"
)
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
FORK = Target("fork_session of 100,000 events", "append_events of them", 1.0, peak_mb=8)
SQLITE_FORK = Target("SQLite: fork_session of 100,000 events", "append_events of them", 1.0, peak_mb=8)
SQLITE_APPEND = Target("SQLite FULL: one append", "raw begin immediate, upsert, insert, commit", 0.85)
SQLITE_THREADS = Target("SQLite FULL: 64 threads", "the same raw, one thread", 2.8, p99_ms=25, spread=2)
SQLITE_MIXED = Target(
    "SQLite FULL: 8 threads that append, save and read", "one thread that does", 0.9, spread=2, longest_ms=200
)
SQLITE_PROCESSES = Target(
    "SQLite FULL: 4 processes on one file", "one process", 0.9, spread=2.5, longest_ms=200
)
SQLITE_BATCHES = Target("SQLite batches of 1,000", "raw executemany in one transaction", 0.7)
SQLITE_ASYNC = Target("async SQLite, one task", "sync", 0.5)
PEERS = Target("every peer, every row", "the one that comes closest", 1.0)

BARE_APPEND = "append_event"
WITH_SESSION = Target("one append with its session", BARE_APPEND, 0.77)
# Bare appends in a batch share most of their cost. Each session that moves adds a row and its index entries.
WITH_SESSION_THREADS = Target("64 threads that append with their sessions", "64 threads that append", 0.5)
POP = Target("one pop_event", BARE_APPEND, 0.67)
RACING_POPS = Target("50 pops at the same time", "50 pops in sequence", 0.67)
UPDATE_BY_HAND = "begin, select for update, update and commit, by hand"
UPDATE_SESSION = Target("PostgreSQL: one update_session", UPDATE_BY_HAND, 0.7)
UPDATE_RUN = Target("PostgreSQL: one update_run", UPDATE_BY_HAND, 0.7)
LAST_EVENTS = Target("get_events(last=50) of 100,000 events", "the same of 1,000 events", 0.8)


def of_operation(database: str, target: Target) -> Target:
    return replace(target, what=f"{database}: {target.what}")


OPERATIONS = [
    of_operation(database, target)
    for database in ("PostgreSQL", "SQLite")
    for target in (WITH_SESSION, WITH_SESSION_THREADS, POP, RACING_POPS, LAST_EVENTS)
] + [UPDATE_SESSION, UPDATE_RUN]

# A run of three turns with two tool calls appends 18 events in 6 transactions.
ONE_RUN = Target("one run of three turns with two tool calls", BARE_APPEND, 1 / 12)
CONCURRENT_RUNS = Target("200 runs at the same time in 200 sessions", "the same appends", 0.7)
STALE_RUNS = Target("finding 20 stale runs among 20,000 ended ones", "among 100 ended ones", 0.8)
ENDING = Target("ending one stale run", BARE_APPEND, 1 / 4)
RUNNING = [
    of_operation(database, target)
    for database in ("PostgreSQL", "SQLite")
    for target in (ONE_RUN, CONCURRENT_RUNS, STALE_RUNS, ENDING)
]

IMPORT = Target("SQLite: import of a tree of logs", "orjson.loads of each line and executemany", 0.5)
IMPORT_AGAIN = Target("SQLite: import of the same tree again", "os.walk and os.stat")
IMPORT_LONG = Target("SQLite: import of one log of 200 MB", "a log of 20 MB", 0.8, peak_mb=100)

APPENDING = "the append itself"
FOLLOWERS = (1, 100, 1_000)


def woken(database: str, sessions: int) -> Target:
    """A wake-up by another process's append, while one process follows this many sessions."""
    what = f"{database}: woken by another process, one of {sessions:,} followers"
    return Target(what, APPENDING, p99_ms=50, core=0.10)


WOKEN = [woken(database, sessions) for database in ("PostgreSQL", "SQLite") for sessions in FOLLOWERS]
BESIDE_FOLLOWERS = Target(
    "64 tasks, beside 1,000 followers of other sessions", "the same without followers", 0.85
)

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
    FORK,
    SQLITE_FORK,
    SQLITE_APPEND,
    SQLITE_THREADS,
    SQLITE_MIXED,
    SQLITE_PROCESSES,
    SQLITE_BATCHES,
    SQLITE_ASYNC,
    *WOKEN,
    BESIDE_FOLLOWERS,
    *OPERATIONS,
    *RUNNING,
    IMPORT,
    IMPORT_LONG,
]

LOOKUP = "get_session"
"""The call that every query across sessions is compared with: one row by its primary key."""


def _median(what: str, milliseconds: float, reference_ms: float) -> Target:
    return Target(what, LOOKUP, median_ms=milliseconds, reference=f"{reference_ms:g} ms")


BY_AGENT = _median("sessions by agent", 1, 1.3)
BY_TAG = _median("sessions by a tag on 1,000 of them, limit 50", 2, 857)
BY_TOKENS = _median("runs by token usage", 1.5, 32)
MIN_TOKENS = _median("runs by min_tokens", 1.5, 57)
USAGE = _median("usage summary", 15, 332)
COST = _median("cost summary", 20, 455)
BY_CORRELATION = _median("events by correlation", 0.5, 0.5)
BY_TYPE = _median("events by type, 100", 2, 15)
RARE_TYPE = _median("a rare type counted", 2, 16)
STATS = _median("session stats", 0.6, 0.6)
EXPORT = _median("export of 120 events", 2, 1.9)
HEALTH = _median("health check", 250, 450)
PRUNING = _median("pruning 40,000 events of 2,000 sessions", 600, 2_800)
MEMORY = Target("Python memory of a summary", LOOKUP, peak_mb=1, reference="54 MB")

SLOWER_ON_SQLITE = 3


def for_database(database: str, target: Target) -> Target:
    """The target on a database: SQLite may take three times as long, but no more memory."""
    if database != "SQLite":
        return target
    slower = None if target.median_ms is None else target.median_ms * SLOWER_ON_SQLITE
    return replace(target, what=f"SQLite: {target.what}", median_ms=slower, reference="")


_QUERIES = [
    BY_AGENT,
    BY_TAG,
    BY_TOKENS,
    MIN_TOKENS,
    USAGE,
    COST,
    BY_CORRELATION,
    BY_TYPE,
    RARE_TYPE,
    STATS,
    EXPORT,
    HEALTH,
    PRUNING,
    MEMORY,
]
QUERIES = [for_database(database, target) for database in ("PostgreSQL", "SQLite") for target in _QUERIES]
