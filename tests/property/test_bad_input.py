"""Any input gives a result or an AsmError, and an error leaves the store unchanged.

The tests find the methods and their parameters by introspection, so they cover new ones. Each case runs
on two databases, through the blocking and the asynchronous store, and all must give the same outcome.
"""

from __future__ import annotations

import inspect
import random
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import psycopg
import pytest

import asm
from asm import documents
from asm.cli.command import cli, run
from asm.validation import is_number
from tests.conftest import POSTGRES, Blocking, Cluster, Where
from tests.contract.other_clients import only
from tests.property.conftest import EXAMPLES, SEED, report
from tests.property.hostile import (
    TEXTS,
    CallersError,
    altered,
    any_value,
    raising,
)
from tests.unit.test_shown import unseen

START = datetime(2025, 1, 1, tzinfo=UTC)
SESSIONS = ["ses_1", "ses_2", "ses_3"]
LIMIT_S = 20.0
"""The most time that a case may take, on a slow machine."""

Values = dict[str, Any]


# Valid values, with which the bad ones are combined.


def _text(*values: str) -> Callable[[random.Random], Any]:
    return lambda rng: rng.choice(values)


def _number(*values: int | float | None) -> Callable[[random.Random], Any]:
    return lambda rng: rng.choice(values)


def _time(rng: random.Random) -> datetime:
    return START + timedelta(seconds=rng.randrange(5))


def _document(rng: random.Random) -> Any:
    return rng.choice([{}, {"n": rng.randrange(3)}, {"text": "é", "inner": [1, None]}])


def _flag(rng: random.Random) -> bool:
    return rng.random() < 0.5


BOUNDS: Mapping[str, Callable[[random.Random], Any]] = {
    "max_session_age_days": _number(None, 10**6, 2**63 - 1),
    **dict.fromkeys(["max_completed_session_age_days", "hard_delete_after_days"], _number(None, 1, 10**6)),
    "max_events_per_session": _number(None, 1, 5, 2**63 - 1),
    "max_total_events": _number(None, 20, 2**63 - 1),
    "batch_size": _number(1, 2, 100, 2**63 - 1),
}


GOOD: Mapping[str, Callable[[random.Random], Any]] = {
    **dict.fromkeys(["session_id", "session_ids"], _text(*SESSIONS)),
    **dict.fromkeys(["run_id", "run_ids"], _text("run_1", "run_2")),
    "id": lambda rng: rng.choice([*SESSIONS, "run_1", "run_2", f"id_{rng.randrange(12)}"]),
    **dict.fromkeys(["agent_id"], _text("agent_1", "agent_2")),
    **dict.fromkeys(["provider", "providers"], _text("claude", "openai")),
    "correlation_id": _text("cor_1", "cor_2"),
    "parent_session_id": _text("ses_9"),
    "status": _text("completed", "failed", "pending"),
    **dict.fromkeys(["type", "types"], _text("message_sent", "acme.planned", "message_streamed")),
    "tags": lambda rng: rng.sample(["a", "b", "pinned"], 2),
    "key": _text("key_1", "key_2", "key_3", "key_4"),
    "content_type": _text("text/plain"),
    "checksum_sha256": _text("0" * 64),
    "storage_backend": _text("s3"),
    "storage_ref": _text("s3://bucket/key"),
    **dict.fromkeys(
        [
            *("since", "until", "created_after", "created_before", "started_after", "started_before"),
            *("timestamp", "created_at", "updated_at", "started_at", "ended_at", "deleted_at"),
        ],
        _time,
    ),
    **dict.fromkeys(
        ["metadata", "context", "data", "provider_metadata", "input", "output", "error"], _document
    ),
    "token_usage": lambda rng: rng.choice([{}, {"input_tokens": 3}, {"total_tokens": 5, "other": "x"}]),
    "usage": lambda rng: {"input_tokens": rng.randrange(9)},
    "cost_usd": _number(0.5, None),
    "turn_count": _number(0, 3),
    "schema_version": _number(1, 2),
    "sequence_number": _number(None, 1),
    "byte_size": _number(0, 1_024),
    **dict.fromkeys(["after", "before", "min_tokens", "offset", "upto"], _number(0, 1, 5)),
    "expected_sequence": _number(None, 0, 1, 2),
    "limit": _number(1, 3, 10),
    "page_size": _number(1, 2, 100),
    **dict.fromkeys(["wait_timeout", "idle_timeout"], _number(0, 0.0)),
    **dict.fromkeys(["include_deleted", "include_artifacts", "count_total", "dry_run"], _flag),
    "order_by": _text(
        *("created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"),
        *(
            "started_at_asc",
            "started_at_desc",
            "token_usage_desc",
            "sequence_asc",
            "timestamp_asc",
            "timestamp_desc",
        ),
    ),
    "cursor": lambda rng: None,
    "work": lambda rng: OF_THE_CALLER["work"],
    "change": lambda rng: OF_THE_CALLER["change"],
    "idempotent": _flag,
    "pricing": lambda rng: {"claude": {"default": {"input": 1e-6, "output": 2e-6}}},
    "session": lambda rng: _model(asm.Session, rng),
    "run": lambda rng: _model(asm.Run, rng),
    "event": lambda rng: _model(asm.Event, rng),
    "artifact": lambda rng: _model(asm.Artifact, rng),
    "events": lambda rng: [_model(asm.Event, rng) for _ in range(rng.randrange(4))],
    "export": lambda rng: _export(rng),
    "policy": lambda rng: _policy(rng),
    "progress": lambda rng: None,
    **dict.fromkeys(["runs", "artifacts"], lambda rng: []),
    **dict.fromkeys(["last_sequence", "pruned_events"], _number(0, 7)),
    **BOUNDS,
    "exempt_statuses": _text("active", "paused"),
    "exempt_tags": _text("pinned"),
    "prune_event_types_first": _text("message_sent"),
    "archive": lambda rng: None,
}


MADE_BY_CLOCK = {"id", "timestamp", "created_at", "updated_at", "started_at"}
"""Fields whose default differs at each call. They are always given, so that all stores get equal values."""


def _model(kind: type[Any], rng: random.Random) -> Any:
    """A valid model, in most cases with one or two unusual values that the model accepts."""
    for hostile in (rng.randrange(3), 1, 0):
        try:
            made = kind(**_fields(kind, rng, hostile))
            break
        except (asm.AsmError, CallersError):
            continue
    if rng.random() < 0.03:
        _break_document(made, rng)
    return made


def _break_document(model: Any, rng: random.Random) -> None:
    """Put a bad value into a document of the model. The model is frozen, its documents are not."""
    documents = [value for each in fields(model) if type(value := getattr(model, each.name)) is dict]
    document = rng.choice(documents)
    key = rng.choice(["input_tokens", "model", "a"])
    document[key] = any_value(rng)


def _fields(kind: type[Any], rng: random.Random, hostile: int = 0) -> Values:
    parameters = inspect.signature(kind).parameters.values()
    return _arguments(parameters, rng, hostile)


def _export(rng: random.Random) -> Any:
    id = rng.choice([*SESSIONS, f"kept_{rng.randrange(50)}"])
    session = asm.Session(**_fields(asm.Session, rng) | {"id": id})
    runs = [asm.Run(session_id=session.id, id=f"run_{n}", started_at=START) for n in range(rng.randrange(3))]
    events = [
        asm.Event(
            type="acme.kept", session_id=session.id, id=f"kept_{n}", sequence_number=n + 1, timestamp=START
        )
        for n in range(rng.randrange(4))
    ]
    export = asm.SessionExport(session=session, runs=runs, events=events)
    if rng.random() < 0.2:
        unusual: Any = any_value(rng) if rng.random() < 0.4 else _model(rng.choice([asm.Event, asm.Run]), rng)
        lists: list[list[Any]] = [export.runs, export.events, export.artifacts]
        rng.choice(lists).append(unusual)
    return export


def _policy(rng: random.Random) -> asm.RetentionPolicy:
    return asm.RetentionPolicy(**{name: draw(rng) for name, draw in BOUNDS.items()})


def _arguments(parameters: Any, rng: random.Random, hostile: int) -> Values:
    """Valid values for required and some optional parameters, and as many hostile ones as given."""
    parameters = list(parameters)
    chosen = [
        each
        for each in parameters
        if each.default is inspect.Parameter.empty or each.name in MADE_BY_CLOCK or rng.random() < 0.3
    ]
    values = {each.name: GOOD[each.name](rng) if each.name in GOOD else any_value(rng) for each in chosen}
    for parameter in rng.sample(parameters, min(hostile, len(parameters))):
        values[parameter.name] = _hostile(parameter.name, rng)
    return values


def _hostile(name: str, rng: random.Random) -> Any:
    if name == "events" and rng.random() < 0.7:
        return [_model(asm.Event, rng), any_value(rng)]
    return any_value(rng)


# The methods to call.


class Method(NamedTuple):
    """A public method of a store, or of an attribute of the store such as `query`."""

    part: str
    name: str

    def of(self, store: Any) -> Any:
        return getattr(getattr(store, self.part) if self.part else store, self.name)


WITHOUT_ARGUMENTS = {"open", "close", "transaction"}
"""Methods that take no arguments. The fixtures and cases call them."""


def _methods(kind: type, part: str = "") -> list[Method]:
    names = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    return [Method(part, name) for name in names if name not in WITHOUT_ARGUMENTS]


def _parts(store: Any) -> dict[str, type]:
    return {
        name: type(value)
        for name, value in vars(store).items()
        if not name.startswith("_") and type(value).__module__.startswith("asm")
    }


def _all_methods(store: Any) -> list[Method]:
    """All public methods of a store and of its attributes."""
    return _methods(type(store)) + [
        each for part, kind in _parts(store).items() for each in _methods(kind, part)
    ]


# Outcomes.


@dataclass
class Outcome:
    """How a call ended, in a form that is equal on all databases."""

    kind: str
    value: Any

    def __str__(self) -> str:
        return f"{self.kind}: {self.value!r:.2000}"


def _outcome(call: Callable[[], Any]) -> Outcome:
    started = time.monotonic()
    said = ""
    try:
        result = call()
        outcome = Outcome(
            "result", _plain(list(islice(result, 50)) if isinstance(result, Iterator) else result)
        )
    except asm.AsmError as error:
        said = f"{error!r}{error}{error.details!r}"
        outcome = Outcome("error", (type(error).__name__, error.code, bool(str(error))))
    except CallersError:
        outcome = Outcome("caller's error", None)
    assert unseen(said) == []
    assert time.monotonic() - started < LIMIT_S
    return outcome


def _plain(value: Any) -> Any:
    """A result without the times that the clock put into it."""
    if isinstance(value, datetime):
        return "now" if abs(datetime.now(UTC) - value) < timedelta(hours=1) else value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return parts | ({"duration_ms": 0} if "duration_ms" in parts else {})
    if isinstance(value, dict | list):
        # A document: compare what would be read back.
        with suppress(asm.AsmError):
            return documents.load(documents.dump(value, ""))
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return repr(value) if isinstance(value, Exception) else value


class Store:
    """An open store, and a connection of its own that reads the rows."""

    def __init__(self, name: str, store: Any, rows: Callable[[], Any], mark: Callable[[], Any]) -> None:
        self.name = name
        self.store = store
        self._rows = rows
        self._mark = mark
        self._seen: tuple[Any, Any] | None = None

    def rows(self) -> Any:
        """All rows. They are read again only if `mark` has changed."""
        mark = self._mark()
        if self._seen is None or self._seen[0] != mark:
            self._seen = mark, self._rows()
        return self._seen[1]


TABLES = ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts")


def _sqlite_rows(connection: sqlite3.Connection) -> Any:
    return [sorted(map(repr, connection.execute(f"select * from {table}"))) for table in TABLES]


def _sqlite_mark(connection: sqlite3.Connection) -> Any:
    # It changes if another connection has written.
    return connection.execute("pragma data_version").fetchone()


def _postgres_mark(connection: psycopg.Connection[Any]) -> Any:
    # It grows with every transaction that writes.
    return connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()


def _postgres_rows(connection: psycopg.Connection[Any]) -> Any:
    digests = [
        f"(select md5(string_agg(r::text, '' order by r::text)) from {table} as r)" for table in TABLES
    ]
    return connection.execute(f"select {', '.join(digests)}".encode()).fetchone()


@pytest.fixture
def stores(kind: str, tmp_path: Path, clusters: Callable[[str], Cluster]) -> Iterator[list[Store]]:
    """SQLite and one PostgreSQL, each opened blocking and asynchronously, on separate databases."""
    with ExitStack() as stack:
        opened = []
        for mode in ("sync", "async"):
            file = tmp_path / f"{mode}.db"
            asm.migrate(f"sqlite:///{file}")
            connection = sqlite3.connect(file, isolation_level=None)
            stack.callback(connection.close)
            opened.append(
                Store(
                    f"sqlite, {mode}",
                    stack.enter_context(_opened(mode, f"sqlite:///{file}")),
                    partial(_sqlite_rows, connection),
                    partial(_sqlite_mark, connection),
                )
            )
        for mode in ("sync", "async"):
            dsn = stack.enter_context(clusters(kind).database(migrated=True))
            server = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            opened.append(
                Store(
                    f"{kind}, {mode}",
                    stack.enter_context(_opened(mode, dsn)),
                    partial(_postgres_rows, server),
                    partial(_postgres_mark, server),
                )
            )
        yield opened


@contextmanager
def _opened(mode: str, dsn: str) -> Iterator[Any]:
    options: Values = {"max_size": 2, "timeout": 5.0, "retry_for": 0}
    store = asm.SessionStore(dsn, **options) if mode == "sync" else Blocking.opened(dsn, **options)
    with store:
        yield store


# Cases.


OF_THE_CALLER: Values = {"work": lambda _tx: None, "change": lambda model: model}


@dataclass
class Case:
    """One call. Each store gets new arguments, because an iterator can be consumed only once."""

    number: int
    method: Method
    within: str
    cursors: list[str] = field(default_factory=list)

    def arguments(self, parameters: Any) -> Values:
        rng = random.Random(f"{SEED} {self.number}")
        values = _arguments(parameters, rng, rng.choice([0, 0, 0, 1, 1, 1, 2]))
        if self.method.name == "flush" and rng.random() < 0.5:
            _belong_together(values)
        if "cursor" in values and self.cursors and rng.random() < 0.7:
            cursor = rng.choice(self.cursors)
            values["cursor"] = cursor if rng.random() < 0.4 else altered(cursor, rng)
        for name, function in OF_THE_CALLER.items():
            # What another function of the caller raises or returns is its own affair.
            if callable(values.get(name)) and values[name] is not raising:
                values[name] = function
        return values | _time_bounds(values, {each.name for each in parameters})

    def outcome(self, store: Any) -> Outcome:
        arguments = self.arguments(_parameters(self.method, store))
        if self.within == "store":
            return _outcome(lambda: self.method.of(store)(**arguments))
        return _outcome(lambda: self._in_transaction(store, arguments))

    def _in_transaction(self, store: Any, arguments: Values) -> Any:
        with store.transaction() as tx:
            result = self.method.of(tx)(**arguments)
            return list(islice(result, 50)) if isinstance(result, Iterator) else result


def _belong_together(values: Values) -> None:
    with suppress(AttributeError, TypeError, asm.AsmError, CallersError):
        values["run"] = replace(values["run"], session_id=values["session"].id)
        events = values.get("events", ())
        values["events"] = [replace(each, session_id=values["session"].id) for each in events]


def _parameters(method: Method, store: Any) -> Any:
    target = store._target if isinstance(store, Blocking) else store
    return list(inspect.signature(method.of(target)).parameters.values())


def _time_bounds(values: Values, names: set[str]) -> Values:
    """Arguments that keep a case from waiting for events for too long."""
    if "idle_timeout" in names and values.get("idle_timeout") is None:
        return {"idle_timeout": 0}
    waits = (values[name] for name in ("wait_timeout", "idle_timeout") if name in values)
    return {"limit": 0} if any(is_number(wait) and wait > 0 for wait in waits) else {}


def _runs_code(value: Any, depth: int = 0) -> bool:
    """Whether an argument is or contains an iterator or a function of the caller that may raise."""
    if inspect.isgenerator(value) or value is raising:
        return True
    if depth < 2 and type(value) in (list, tuple, dict):
        return any(_runs_code(each, depth + 1) for each in (value.values() if type(value) is dict else value))
    return False


@only(POSTGRES, why="each case runs on SQLite, too")
def test_every_method_returns_or_raises_an_asm_error(stores: list[Store]) -> None:
    number = 1_700 * EXAMPLES
    rng = random.Random(SEED)
    methods = _all_methods(stores[0].store)
    report(f"seed {SEED}, {number:,} cases on {len(stores)} stores, {len(methods)} methods")
    ended: Counter[tuple[Method, str]] = Counter()
    cursors: list[str] = []
    for n in range(number):
        method = methods[n % len(methods)]
        is_of_store = method.part == "maintenance" or method.name == "run_transaction"
        within = "transaction" if not is_of_store and rng.random() < 0.25 else "store"
        case = Case(n, method, within, cursors[-8:])
        outcomes = []
        for each in stores:
            try:
                before = each.rows()
                outcome = case.outcome(each.store)
                if outcome.kind != "result":
                    assert each.rows() == before, "an error has changed the store"
                elif method.name == "fork_session":
                    # Its times are those of the call, and differ from store to store.
                    each.store.delete_session(outcome.value["id"])
                outcomes.append(outcome)
            except BaseException as error:
                error.add_note(_shown(case, each))
                raise
        first = outcomes[0]
        for each, outcome in zip(stores, outcomes, strict=True):
            assert outcome == first, (
                f"{_shown(case, each)}\n{stores[0].name}: {first}\n{each.name}: {outcome}"
            )
        if first.kind == "caller's error":
            arguments = case.arguments(_parameters(method, stores[0].store))
            assert any(map(_runs_code, arguments.values())), _shown(case, stores[0])
        ended[method, _kind(first)] += 1
        if first.kind == "result" and isinstance(first.value, dict) and first.value.get("cursor"):
            cursors.append(first.value["cursor"])

    report(Counter(kind for _, kind in ended.elements()))
    assert [method for method in methods if not ended[method, "result"]] == []
    takes = [each for each in methods if _parameters(each, stores[0].store)]
    assert [method for method in takes if not ended[method, "error"]] == []


def _kind(outcome: Outcome) -> str:
    """The kind of an outcome. NotFound counts as a result: the arguments were valid."""
    is_missing = outcome.kind == "error" and outcome.value[1].endswith("not_found")
    return "result" if is_missing else outcome.kind


def _shown(case: Case, store: Store) -> str:
    arguments = case.arguments(_parameters(case.method, store.store))
    shown = {name: _safely_shown(value) for name, value in arguments.items()}
    return f"seed {SEED}, case {case.number} on {store.name}, within {case.within}: {case.method}({shown})"


def _safely_shown(value: Any) -> str:
    try:
        return f"{value!r:.300}"
    except Exception:
        return f"a {type(value).__name__}"


# Models.


class Maker(NamedTuple):
    """A constructor or a method of a model, and the function that draws arguments for it."""

    name: str
    make: Callable[..., Any]
    draw: Callable[[random.Random], Values]
    takes_values: bool = True


def _makers() -> list[Maker]:
    """The constructors and public methods of all models."""
    makers: list[Maker] = []
    for kind in MADE_BY_CALLERS:
        draw = partial(_draw_arguments, inspect.signature(kind))
        makers.append(Maker(kind.__name__, kind, draw))
        for name, method in inspect.getmembers(kind, inspect.isroutine):
            if name == "from_dict":
                makers.append(Maker(f"{kind.__name__}.{name}", method, partial(_a_dict, draw)))
            elif not name.startswith("_") and name != "to_dict":
                bound = getattr(_model(kind, random.Random(0)), name)
                takes = inspect.signature(bound)
                draw_taken = partial(_draw_arguments, takes)
                makers.append(Maker(f"{kind.__name__}.{name}", bound, draw_taken, bool(takes.parameters)))
    return makers


MADE_BY_CALLERS: list[type[Any]] = [
    *(asm.Session, asm.Run, asm.Event, asm.Artifact, asm.SessionExport, asm.RetentionPolicy)
]


def _draw_arguments(takes: inspect.Signature, rng: random.Random) -> Values:
    return _arguments(takes.parameters.values(), rng, rng.choice([0, 1, 1, 2]))


def _a_dict(draw: Callable[[random.Random], Values], rng: random.Random) -> Values:
    """A dict for from_dict, or sometimes one with unknown keys or a value of another type."""
    parsed = {name: _as_json(value) for name, value in draw(rng).items()}
    unusual: list[Any] = [{**parsed, 1: 2}, {**parsed, "x\ud800": 1}, list(parsed), any_value(rng)]
    return {"values": parsed if rng.random() < 0.5 else rng.choice(unusual)}


def _as_json(value: Any) -> Any:
    if type(value) is datetime and value.tzinfo is UTC:
        return value.isoformat()
    if type(value) is list:
        return [each.to_dict() if type(each) in MADE_BY_CALLERS else each for each in value]
    return value.to_dict() if type(value) in MADE_BY_CALLERS and hasattr(value, "to_dict") else value


def test_every_model_is_created_or_raises_an_asm_error() -> None:
    number = 3_000 * EXAMPLES
    makers = _makers()
    report(f"seed {SEED}, {number:,} cases, {len(makers)} constructors and methods")
    ended: Counter[tuple[str, str]] = Counter()
    for n in range(number):
        rng = random.Random(f"{SEED} model {n}")
        name, make, draw, _ = makers[n % len(makers)]
        values = draw(rng)
        try:
            outcome = _outcome(partial(_create_and_restore, make, values))
            assert outcome.kind != "caller's error" or any(map(_runs_code, values.values())), (
                "no argument raises this"
            )
        except BaseException as error:
            shown = {name: _safely_shown(value) for name, value in values.items()}
            error.add_note(f"seed {SEED}, case {n}: {name}({shown})")
            raise
        ended[name, outcome.kind] += 1

    report(Counter(kind for _, kind in ended.elements()))
    takes = [each.name for each in makers if each.takes_values]
    assert [name for name in takes if not ended[name, "error"]] == []
    assert [name for name in takes if not ended[name, "result"]] == []


def _create_and_restore(make: Callable[..., Any], values: Values) -> Any:
    """Create a model, and restore it from its dict as from a file."""
    model = make(**values)
    if hasattr(model, "to_dict"):
        text = documents.dump(model.to_dict(), "")
        restored = type(model).from_dict(documents.load(text))
        assert restored.to_dict() == documents.load(text)
    return None


# DSNs and options of a store.


def _addresses(tmp_path: Path, good: str) -> list[str]:
    (tmp_path / "text.db").write_text("no database\n" * 1_000)
    paths = [
        "missing/x.db",
        "text.db",
        "x" * 300,
        "é\u0301.db",
        "a\0b",
        "\ud800",
        "%00",
        "a%20b",
        "'",
        ":memory:",
        "?x=1",
    ]
    hosts = ["/nowhere", "/" + "x" * 200, "''", "'", "[::1", "\0", "127.0.0.1"]
    return [
        *(f"sqlite:///{tmp_path}/{path}" for path in paths),
        *(f"host={host} port=1 dbname=x connect_timeout=2" for host in hosts),
        *(
            "sqlite:",
            "sqlite:/x",
            "sqlite://x",
            "sqlite:////",
            "sqlite:////dev/null",
            f"sqlite:///{tmp_path}",
        ),
        *("postgresql://", "postgresql://[::1", "postgresql://%zz@/x", "postgresql:///?host=/nowhere&port=a"),
        *(
            "postgres://u:p@/x?host=/nowhere&nonsense=1",
            "host=/nowhere port=99999999",
            "port=-1 host=/nowhere",
        ),
        *(
            f"{good} {option}"
            for option in ["options='-c nonsense=1'", "client_encoding=latin1", "sslmode=x"]
        ),
        *(f"{good} dbname={name}" for name in ["missing", "''", "'", "é", "x" * 100]),
    ]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_store_opens_or_raises_an_asm_error(
    migrated: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASM_DSN", migrated)
    kind = asm.SessionStore if mode == "sync" else asm.AsyncSessionStore
    parameters = list(inspect.signature(kind).parameters)
    addresses = _addresses(tmp_path, migrated)
    good: Values = {"dsn": migrated, "max_size": 2, "timeout": 3.0, "retry_for": 0}
    cases: list[Values] = [{**good, "dsn": address} for address in addresses]
    rng = random.Random(f"{SEED} open")
    cases += [{**good, rng.choice(parameters): any_value(rng)} for _ in range(150 * EXAMPLES)]
    report(f"seed {SEED}, {len(cases)} cases")
    _check_outcomes(cases, lambda **options: _open_and_close(mode, options))


def _open_and_close(mode: str, options: Values) -> None:
    with asm.SessionStore(**options) if mode == "sync" else Blocking.opened(**options) as store:
        assert store.get_latest_sequence("ses_1") == 0


def test_every_database_is_migrated_or_raises_an_asm_error(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASM_DSN", migrated)
    addresses = _addresses(tmp_path, migrated)
    rng = random.Random(f"{SEED} migrate")
    cases: list[Values] = [{"dsn": address, "schema": None} for address in addresses]
    cases += [{"dsn": any_value(rng), "schema": None} for _ in range(40 * EXAMPLES)]
    cases += [{"dsn": migrated, "schema": any_value(rng)} for _ in range(40 * EXAMPLES)]
    report(f"seed {SEED}, {len(cases)} cases")
    for act in (asm.pending_migrations, asm.migrate):
        _check_outcomes(cases, act)


def _check_outcomes(cases: list[Values], act: Callable[..., Any]) -> None:
    ended: Counter[str] = Counter()
    for values in cases:
        try:
            outcome = _outcome(partial(act, **values))
            assert outcome.kind != "caller's error"
        except BaseException as error:
            shown = {name: _safely_shown(value) for name, value in values.items()}
            error.add_note(f"seed {SEED}: {act}({shown})")
            raise
        ended[outcome.kind] += 1
    report(ended)
    assert ended["result"]
    assert ended["error"]


# The command line.


def _typed(command: click.Command, rng: random.Random, good: Mapping[str, str]) -> list[str]:
    """Some options and the arguments of a command. In most cases one of them is hostile."""
    hostile = rng.choice(command.params).name if command.params and rng.random() < 0.7 else None
    words: list[str] = []
    for param in command.params:
        is_option = isinstance(param, click.Option)
        if is_option and param.name != hostile and not (param.name in ALWAYS_GIVEN or rng.random() < 0.2):
            continue
        value = (
            _word(rng)
            if param.name == hostile
            else good.get(param.name or "", rng.choice(["1", "2025-01-01", "ses_1"]))
        )
        if not is_option:
            words.append(value)
        elif isinstance(param, click.Option) and param.is_flag:
            words.append(param.opts[0])
        else:
            words += [param.opts[0], value]
    return words


ALWAYS_GIVEN = ("dsn",)
"""Options without which a command would use another database."""


def _word(rng: random.Random) -> str:
    # Python decodes bytes of the command line that are not UTF-8 to surrogates; NUL cannot occur.
    awkward = [
        "--",
        "-",
        "-1",
        "--json",
        "0",
        "1e9",
        "inf",
        "9" * 30,
        "9" * 5_000,
        "\udcff",
        "/dev/null",
        "/",
        "never",
    ]
    return re.sub("[\0\ud800-\udfff]", "\udcff", rng.choice([*TEXTS, *awkward]))


def test_every_command_succeeds_or_prints_one_line_of_error(
    where: Where, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASM_DSN", where.dsn)
    number = 100 * EXAMPLES
    rng = random.Random(f"{SEED} command {where.kind}")
    report(f"seed {SEED}, {number} cases")
    with asm.SessionStore(where.dsn) as store:
        for _ in range(100):
            with suppress(asm.AsmError, CallersError):
                session, run, events = _model(asm.Session, rng), _model(asm.Run, rng), GOOD["events"](rng)
                store.save_session(session)
                store.save_run(run)
                store.append_events(events)
    (tmp_path / "some.jsonl").write_text('{"format": "asm-export", "version": 1}\n{"session": 1}\n')
    good = {
        "dsn": where.dsn,
        "source": where.dsn,
        "target": other,
        "paths": "some.jsonl",
        "output": "out.jsonl",
    }
    good |= {"session": "ses_1", "sessions": "ses_2", "archive": "archive"}
    commands = sorted(cli.commands.items())
    ended: Counter[tuple[str, Any]] = Counter()
    for n in range(number):
        name, command = commands[n % len(commands)]
        # Following a session, and reading the whole disk, end when the user ends them.
        typed = [word for word in _typed(command, rng, good) if word not in ("-f", "--follow", "/")]
        # A server ends at once on an address that this machine does not have.
        words = [name, *typed, *(("--host", "192.0.2.1") if name == "serve" else ())]
        try:
            code = _exit_code(words, monkeypatch)
        except BaseException as error:
            error.add_note(f"seed {SEED}, case {n}: asm {words!r:.1500}")
            raise
        ended[name, code] += 1
        if name == "rollback" and code == 0:
            asm.migrate(where.dsn)

    report(Counter(code for _, code in ended.elements()))
    assert {code for _, code in ended} == {0, 1, 2}
    assert {name for name, _ in ended} == set(cli.commands)


def _exit_code(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a command. If it fails, it must have printed an error."""
    stdout, stderr = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["asm", *words])
        patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff{"), "utf-8"))
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        started = time.monotonic()
        try:
            run()
        except SystemExit as end:
            code = end.code or 0
        assert time.monotonic() - started < LIMIT_S
    message = stderr.buffer.getvalue().decode()
    if code and words[0] not in REPORTS_FINDINGS:
        assert re.search("^asm: |Aborted!$", message, re.MULTILINE), message
    return code


REPORTS_FINDINGS = ("health", "import", "maintain", "status")
"""Commands that also exit with 1 if what they examined has problems, which they print."""
