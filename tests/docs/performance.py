"""The page of performance as Markdown, from the files in bench/results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from bench import report, targets
from bench.targets import Target

Line = dict[str, Any]
NOT_MEASURED = "not measured"


def plot() -> str:
    return report.callers_plot(_result("callers"))


def speed() -> str:
    """One sentence for README, in lines."""
    where = _result("async_append")["environment"]
    one, many = _line(targets.ONE_THREAD), _line(targets.MANY_TASKS)
    return textwrap.fill(
        f"On {where['cores']} cores that client and server share, with PostgreSQL "
        f"{where['postgresql']['server_version']} and fsync, one thread appends {_rate(one['ours'])} "
        f"events a second, {one['ratio']:.2f} times the rate of `pgbench` with the same statement, and "
        f"{many['target']['what'].split()[0]} tasks append {_rate(many['ours'])}, {many['ratio']:.2f} "
        "times the rate of `pgbench` with 32 clients, because appends that wait at the same moment share "
        "one commit.",
        width=120,
    )


def page() -> str:
    return "\n\n".join(_parts())


def _parts() -> Iterator[str]:
    yield from _machine()
    yield from _appending()
    yield from _reading()
    yield from _operations()
    yield from _searching()
    yield from _sqlite()
    yield from _growth()
    yield from _peers()
    yield from _misses()


def _machine() -> Iterator[str]:
    where = _result("single_append")["environment"]
    settings, packages = where["postgresql"], where["packages"]
    yield (
        f"Measured on {where['date'][:10]} on {where['cpu']} with {where['cores']} cores, which the "
        f"client and the server share: Python {where['python']}, psycopg {packages['psycopg']}, "
        f"PostgreSQL {settings['server_version']} with fsync {settings['fsync']} and synchronous_commit "
        f"{settings['synchronous_commit']}, SQLite {where['sqlite']} with synchronous=FULL. An event has "
        "about 300 bytes of JSON. **Compare the ratios, not the rates:** rates depend on the disk and on "
        "the machine. Each ratio is the median of rounds in which both sides took turns."
    )


def _appending() -> Iterator[str]:
    yield "## Appending to PostgreSQL"
    yield (
        "![Appends a second and p99 over the number of callers](picture/callers.svg)\n\n`pgbench` is a "
        "program in C that runs the same statement. Every append is committed and synced before its call "
        "returns."
    )
    yield _rates(
        "callers",
        "pgbench",
        [
            ("one thread", targets.ONE_THREAD),
            ("8 threads", targets.EIGHT_THREADS),
            ("64 threads", targets.THREADS),
            ("64 tasks", targets.TASKS),
            ("512 tasks", targets.MANY_TASKS),
            ("16 threads on one session", targets.THREADS_ON_ONE),
            ("16 tasks on one session", targets.TASKS_ON_ONE),
        ],
    )
    yield (
        "Appends that wait at the same moment share one statement and one commit, so the rate grows with "
        "the number of callers. With 2 to 16 callers on a fast disk the C program is faster: one "
        "interpreter does the work of all callers."
    )
    yield "### Batches"
    yield _rates(
        "call",
        "`COPY` of the same rows",
        [
            ("`append_events` of 100", targets.BATCH_100),
            ("`append_events` of 1,000", targets.BATCH_1000),
            ("`append_events` of 10,000", targets.BATCH_10000),
            ("`flush` of a session, a run and 50 events", targets.FLUSH),
        ],
    )
    yield "`COPY` numbers nothing and finds no duplicates."


def _reading() -> Iterator[str]:
    yield "## Reading from PostgreSQL"
    yield _rates(
        "call",
        "the driver by hand",
        [
            ("`get_events` of 1,000", targets.GET_EVENTS),
            ("`get_events` of 100", targets.PAGE),
            ("`get_session`", targets.GET_SESSION),
            ("`get_active_run`", targets.GET_ACTIVE_RUN),
        ],
        per_second="rows a second",
    )
    followers = targets.woken("PostgreSQL", 1_000)
    line = _found(followers)
    if line:
        yield (
            f"A follower sees an event of another process after {_ms(line['ours']['p50_ms'])} (p99 "
            f"{_ms(line['ours']['p99_ms'])}), while its process follows 1,000 sessions and uses "
            f"{line['ours']['core']:.0%} of a core."
        )


def _operations() -> Iterator[str]:
    lines = [line for target in (*targets.OPERATIONS, *_FORKS) if (line := _found(target))]
    if lines:
        yield "## Other operations"
        yield "The ratio compares the rates, so below 1.00 the operation is the slower one."
        yield _table(
            ["", "compared with", "p50", "ratio"],
            [
                [
                    line["target"]["what"],
                    line["target"]["baseline"],
                    _ms(line["ours"]["p50_ms"]),
                    f"{line['ratio']:.2f}",
                ]
                for line in lines
            ],
        )


_FORKS = (targets.FORK, targets.SQLITE_FORK)


def _searching() -> Iterator[str]:
    yield "## Searching"
    yield "20,000 sessions, 60,000 runs and 600,000 events. The times are medians of one call."
    yield _table(
        ["", "PostgreSQL", "SQLite"],
        [[target.what, *_medians(target)] for target in targets.QUERIES if _is_timed(target)],
    )


def _is_timed(target: Target) -> bool:
    return target.median_ms is not None and not target.what.startswith("SQLite")


def _medians(target: Target) -> list[str]:
    lines = [_found(target), _found(targets.for_database("SQLite", target))]
    return [_ms(line["ours"]["p50_ms"]) if line else NOT_MEASURED for line in lines]


def _sqlite() -> Iterator[str]:
    yield "## SQLite"
    yield _rates(
        "callers",
        "raw `sqlite3`",
        [
            ("one thread", targets.SQLITE_APPEND),
            ("64 threads; raw: one thread", targets.SQLITE_THREADS),
            ("batches of 1,000", targets.SQLITE_BATCHES),
            ("4 processes; compared with one process", targets.SQLITE_PROCESSES),
            ("one task; compared with a blocking store", targets.SQLITE_ASYNC),
        ],
    )


def _growth() -> Iterator[str]:
    yield "## With a million stored events"
    yield "The rate at 1,000,000 stored events, as a share of the rate at 10,000."
    lines = _result("growth")["lines"]
    yield _table(
        ["", "share"],
        [[line["target"]["what"].partition(" at ")[0], f"{line['ratio']:.2f}"] for line in lines],
    )


def _peers() -> Iterator[str]:
    peers = _result("peers")["lines"]
    if not peers:
        return
    yield "## Beside other libraries"
    yield (
        "How many times faster than a library that stores similar data, each as its documentation says, "
        "in the same run. Below 1.00 it is slower."
    )
    names = list(dict.fromkeys(line["target"]["what"].partition(", beside ")[2] for line in peers))
    whats = list(dict.fromkeys(line["target"]["what"].partition(", beside ")[0] for line in peers))
    ratios = {line["target"]["what"]: f"{line['ratio']:.2f}" for line in peers}
    yield _table(
        ["", *names],
        [[what, *(ratios.get(f"{what}, beside {name}", "") for name in names)] for what in whats],
    )


def _misses() -> Iterator[str]:
    lines = [line for target in (*targets.TARGETS, *targets.QUERIES) if (line := _found(target))]
    missed = [line for line in lines if line["misses"]]
    yield "## Below the target"
    yield f"{len(missed)} of {len(lines)} targets are not met:"
    yield _table(
        ["", "compared with", "target", "measured"],
        [
            [line["target"]["what"], line["target"]["baseline"], line["goal"], report.measured(line)]
            for line in missed
        ],
    )
    yield (
        "The targets assume a disk that syncs in 0.2 to 0.6 ms. On a faster disk the client's CPU time "
        "in Python limits the rate: about 18 to 65 µs per event, of which a thread switch is up to 29."
    )


def _rates(
    first: str, floor: str, rows: Iterable[tuple[str, Target]], per_second: str = "events a second"
) -> str:
    return _table([first, per_second, "p99", floor, "ratio"], [_row(*row) for row in rows])


def _row(name: str, target: Target) -> list[str]:
    line = _found(target)
    if line is None:
        return [name, NOT_MEASURED, "", "", ""]
    ours, floor = line["ours"], line["floor"]
    return [name, _rate(ours), _ms(ours["p99_ms"]), _rate(floor), f"{line['ratio']:.2f}"]


def _rate(figures: Line) -> str:
    return f"{figures['rate']:,.0f}"


def _ms(milliseconds: float) -> str:
    digits = 2 if milliseconds < 1 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{digits}f} ms"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(report.table(headings, rows))


def _line(target: Target) -> Line:
    found = _found(target)
    assert found is not None, target
    return found


def _found(target: Target) -> Line | None:
    return _lines().get(target.what)


@cache
def _lines() -> dict[str, Line]:
    return {line["target"]["what"]: line for name in _names() for line in _result(name)["lines"]}


def _names() -> list[str]:
    return sorted(file.stem for file in report.RESULTS.glob("*.json"))


@cache
def _result(name: str) -> Line:
    result: Line = json.loads((report.RESULTS / f"{name}.json").read_text("utf-8"))
    return result
