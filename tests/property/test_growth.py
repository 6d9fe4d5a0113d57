"""What a call costs grows with the size of its input, whatever the input contains, and not with its square.

Every public method, constructor and importer is given values of three sizes, each twice the one before, in
the place of each parameter. It may accept or refuse them. Nothing is timed: the lines that Python executes
are counted, and the bytes that each of them allocates.
"""

from __future__ import annotations

import gzip
import inspect
import sqlite3
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import asm
from asm import documents, validation
from asm.export_files import jsonl
from asm.formats import registry
from tests.conftest import an_artifact, an_event

SIZES = (160, 40, 80, 160)
"""The largest comes first, too: it fills caches, and shows whether the cost grows at all."""

Shape = Callable[[int], Any]
"""Makes a value of a size: it has about two hundred bytes for each unit."""


# What is counted.


class Cost(NamedTuple):
    """The lines that were executed, and the bytes that these allocated, one after another."""

    lines: int
    allocated_bytes: int


NOISE = Cost(lines=500, allocated_bytes=100_000)
"""What need not grow evenly. No more than twice this is a cost that does not grow."""


def cost_of(call: Callable[[], object]) -> Cost:
    lines = allocated_bytes = 0
    before, _ = tracemalloc.get_traced_memory()

    def count(_frame: object, _event: str, _argument: object) -> Any:
        nonlocal lines, allocated_bytes, before
        lines += 1
        now, peak = tracemalloc.get_traced_memory()
        # The peak since the last line, because a line also allocates what it frees.
        if peak > before:
            allocated_bytes += peak - before
            tracemalloc.reset_peak()
        before = now
        return count

    tracemalloc.reset_peak()
    sys.settrace(count)
    try:
        with suppress(asm.AsmError):
            call()
    finally:
        sys.settrace(None)
    count(None, "", None)
    return Cost(lines, allocated_bytes)


@pytest.fixture(autouse=True)
def traced_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def faults(name: str, calls: Sequence[Callable[[], object]]) -> list[str]:
    """What grows faster than the inputs of these calls, which have the SIZES."""
    # Another thread of the process may allocate meanwhile: what grows does so each time.
    return _faults(name, calls) and _faults(name, calls)


def _faults(name: str, calls: Sequence[Callable[[], object]]) -> list[str]:
    first, *others = calls
    if all(cost <= 2 * noise for cost, noise in zip(cost_of(first), NOISE, strict=True)):
        return []
    costs = [cost_of(call) for call in others]
    found = []
    for kind, noise, (small, middle, large) in zip(
        Cost._fields, NOISE, zip(*costs, strict=True), strict=True
    ):
        # It is twice as much where the cost is linear, and four times where it is quadratic.
        if large - middle > 3 * max(0, middle - small) + noise:
            found.append(f"{name}: {small:,}, {middle:,}, {large:,} {kind}")
    return found


def test_a_cost_that_grows_with_the_square_is_found() -> None:
    def quadratic(n: int) -> list[str]:
        return [f"{'x' * 200 * n}{number}" for number in range(n)]

    def loops(n: int) -> None:
        for _ in range(n):
            for _ in range(n // 10):
                pass

    assert faults("bytes", [partial(quadratic, n) for n in SIZES])
    assert faults("lines", [partial(loops, n) for n in SIZES])
    assert not faults("linear", [partial(list, range(1_000 * n)) for n in SIZES])


# The shapes.


def nested(levels: int, wrap: Callable[[Any], Any], value: Any) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


DOCUMENTS: dict[str, Shape] = {
    "a long key above many values": lambda n: {"K" * 200 * n: ["\ud800", *[0] * n]},
    "a long key above many keys": lambda n: {
        "K" * 200 * n: {"\ud800": 0, **{f"key {k}": k for k in range(n)}}
    },
    "long keys above each other": lambda n: nested(255, lambda inner: {"K" * n: inner}, ["\ud800"] * n),
    "many values beside a lone surrogate": lambda n: {"items": ["\ud800", *range(n)]},
    "many integers of more than 64 bits": lambda n: {"items": [2**70] * n},
    "many of the longest integers": lambda n: {"items": [10**4_299] * (n // 20)},
    "many values on each of 255 levels": lambda n: {
        "a": nested(255, lambda inner: [inner, *[0] * (n // 50)], 1)
    },
    "many levels": lambda n: {"a": nested(n * 10, lambda inner: [inner], 1)},
    "many documents": lambda n: {"items": [{"text": "\ud800"}] * n},
    "a long text with a lone surrogate": lambda n: {"text": "\ud800" + "x" * 200 * n},
    "a long text": lambda n: {"text": "é" * 200 * n},
    "many numbers": lambda n: {"items": list(range(n))},
    "a bad value below a long key": lambda n: {"K" * 200 * n: [*[0] * n, object()]},
    "a bad key below a long key": lambda n: {"K" * 200 * n: {**{f"key {k}": k for k in range(n)}, 1: 1}},
    "many bad values": lambda n: {"items": [float("nan")] * n},
    "an integer of too many digits": lambda n: {"n": 10 ** (200 * n)},
}

VALUES: dict[str, Shape] = {
    "a long text": lambda n: "x" * 200 * n,
    "a huge integer": lambda n: 10 ** (200 * n),
    "many texts": lambda n: [f"text {number}" for number in range(n)],
    "one text many times": lambda n: ["failed"] * n,
    "many documents": lambda n: [{"text": "x"}] * n,
    "many levels": lambda n: nested(255 + n, lambda inner: [inner], 1),
    **{name: DOCUMENTS[name] for name in ("a long key above many values", "a bad value below a long key")},
}
"""In the place of every parameter. Most are refused there, which must not cost more."""


def hostile_event(n: int, **fields: Any) -> asm.Event:
    return an_event(data=DOCUMENTS["a long key above many values"](n), **fields)


def hostile_run(n: int) -> asm.Run:
    return asm.Run(session_id="ses_1", output=DOCUMENTS["a long key above many keys"](n))


def hostile_session(n: int) -> asm.Session:
    tags = [f"tag {number}" for number in range(n)]
    return asm.Session(agent_id="a", context=DOCUMENTS["many documents"](n), tags=tags)


def hostile_export(n: int) -> asm.SessionExport:
    session = hostile_session(n)
    return asm.SessionExport(
        session=session,
        runs=[asm.Run(session_id=session.id) for _ in range(n // 4)],
        events=[an_event(session.id, sequence_number=number) for number in range(1, n // 4 + 1)],
        artifacts=[an_artifact(f"{session.id} {number}", session_id=session.id) for number in range(n // 4)],
    )


def hostile_usage(n: int) -> dict[str, Any]:
    return {"input_tokens": 1, "K" * 200 * n: {f"key {number}": 1 for number in range(n)}}


def hostile_pricing(name: str, n: int) -> dict[str, Any]:
    return {name: {"models": {f"model-{number}": {"input": 1, "output": 1} for number in range(n)}}}


SPECIAL: dict[str, dict[str, Shape]] = {
    "event": {"a hostile document": hostile_event},
    "events": {
        "of one session": lambda n: [an_event() for _ in range(n)],
        "of many sessions": lambda n: [an_event(f"ses {number}") for number in range(n)],
        "one many times": lambda n: [an_event()] * n,
        "a hostile document": lambda n: [hostile_event(n, session_id="ses_1")],
    },
    "run": {"a hostile document": hostile_run},
    "session": {"many tags": hostile_session},
    "artifact": {"a hostile document": lambda n: an_artifact(metadata=DOCUMENTS["many documents"](n))},
    "export": {"many rows": hostile_export},
    "policy": {"many tags": lambda n: asm.RetentionPolicy(exempt_tags=[f"tag {each}" for each in range(n)])},
    "pricing": {
        "many models": partial(hostile_pricing, "anthropic"),
        "a long name above many models": lambda n: hostile_pricing("K" * 200 * n, n),
    },
    "usage": {"a long key above many numbers": hostile_usage},
    "token_usage": {"a long key above many numbers": hostile_usage},
}
"""In the place of a parameter of this name, too."""


# The calls.


@dataclass(frozen=True)
class Target:
    """A function, and values for the parameters that it requires."""

    name: str
    function: Callable[..., Any]
    required: Mapping[str, Any]

    def faults(self) -> list[str]:
        found = []
        for parameter in inspect.signature(self.function).parameters:
            for shape, make in {**VALUES, **SPECIAL.get(parameter, {})}.items():
                calls = [partial(self.call, {parameter: made}) for made in _made(make)]
                found += faults(f"{self.name}({parameter}={shape})", calls) if calls else []
        return found

    def call(self, values: Mapping[str, Any]) -> None:
        result = self.function(**{**self.required, **values})
        if isinstance(result, Iterator):
            list(islice(result, 3))


def _made(make: Shape) -> list[Any]:
    """The value in each size; none if a model refuses to be made of it."""
    with suppress(asm.AsmError):
        return [make(n) for n in SIZES]
    return []


REQUIRED: dict[str, Any] = {
    **dict.fromkeys(("session_id", "agent_id", "event_id", "run_id", "key"), "ses_1"),
    **dict.fromkeys(("checksum_sha256", "storage_backend", "storage_ref"), "text"),
    "type": "message_sent",
    "byte_size": 1,
    "session_ids": ["ses_1"],
    "session": asm.Session(id="ses_1", agent_id="a"),
    "run": asm.Run(session_id="ses_1"),
    "event": an_event(),
    "events": [],
    "artifact": an_artifact(),
    "export": asm.SessionExport(session=asm.Session(id="ses_1", agent_id="a")),
    "policy": asm.RetentionPolicy(),
    "change": lambda model: model,
    "work": lambda _tx: None,
    "status": "completed",
    "usage": {"input_tokens": 1},
    "output": None,
    "error": None,
    "values": {},
}
WITHOUT_WAITING = {"idle_timeout": 0, "limit": 0}
"""Given to methods that wait for events, or they would wait as long as the value of a parameter says."""


def target(name: str, function: Callable[..., Any]) -> Target:
    parameters = inspect.signature(function).parameters.values()
    required = {each.name: REQUIRED[each.name] for each in parameters if each.default is each.empty}
    names = {each.name for each in parameters}
    if names & {"wait_timeout", "idle_timeout"}:
        required |= {name: value for name, value in WITHOUT_WAITING.items() if name in names}
    return Target(name, function, required)


def methods(owner: Any) -> list[Target]:
    """The public methods of an object or a class that take anything."""
    found = inspect.getmembers(owner, inspect.isroutine)
    public = [(name, each) for name, each in found if not name.startswith("_")]
    return [
        target(f"{getattr(owner, '__name__', type(owner).__name__)}.{name}", each)
        for name, each in public
        if inspect.signature(each).parameters and name not in ("to_dict",)
    ]


PARTS = ("", "query", "artifacts", "maintenance")


@pytest.mark.parametrize("part", PARTS)
def test_the_cost_of_a_store_s_method_grows_with_its_input(part: str) -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        store.flush(REQUIRED["session"], REQUIRED["run"], [an_event() for _ in range(3)])
        targets = methods(getattr(store, part) if part else store)
        found = [fault for each in targets for fault in each.faults()]

    assert targets
    assert found == []


MODELS: list[Any] = [
    *(asm.Session, asm.Run, asm.Event, asm.Artifact, asm.SessionExport, asm.RetentionPolicy),
]


@pytest.mark.parametrize("model", MODELS)
def test_the_cost_of_a_model_grows_with_its_fields(model: Any) -> None:
    made = target(model.__name__, model)
    with_methods = methods(model(**made.required)) if model is not asm.RetentionPolicy else []

    assert [fault for each in (made, *with_methods) for fault in each.faults()] == []


@pytest.mark.parametrize("shape", DOCUMENTS)
def test_the_cost_of_a_document_grows_with_its_size(shape: str) -> None:
    values = [DOCUMENTS[shape](n) for n in SIZES]

    assert faults("Event", [partial(an_event, data=value) for value in values]) == []


def test_the_cost_of_a_repr_does_not_grow_with_the_value() -> None:
    shown: dict[str, Callable[[Any], object]] = {
        "a model": lambda value: repr(value),
        "a table": lambda value: value._repr_html_(),
        "a message": lambda value: validation.safe_repr(value.data),
    }
    for shape, make in DOCUMENTS.items():
        with suppress(asm.AsmError):
            event = an_event(data=make(10 * SIZES[-1]))
            for what, show in shown.items():
                cost = cost_of(partial(show, event))
                assert cost.lines < 1_000, (shape, what)
                assert cost.allocated_bytes < 100_000, (shape, what)


def test_the_cost_of_adding_usage_grows_with_both_usages() -> None:
    runs = [(asm.Run(session_id="ses_1", token_usage=hostile_usage(n)), hostile_usage(n)) for n in SIZES]
    infinite = [(asm.Run(session_id="ses_1", token_usage=large(n, 1e308)), large(n, 10**308)) for n in SIZES]

    for pairs in (runs, infinite):
        assert faults("usage", [partial(run.update_token_usage, usage) for run, usage in pairs]) == []


def test_the_cost_of_reading_a_provider_s_usage_grows_with_it() -> None:
    assert target("token_usage", asm.token_usage).faults() == []


def large(n: int, value: float) -> dict[str, Any]:
    return {"input_tokens": 1, "K" * 200 * n: {f"key {number}": value for number in range(n)}}


# Conversations.


def said(type: str, id: str | None = None, **data: Any) -> asm.Event:
    return an_event(type=type, correlation_id=id, data=data)


CONVERSATIONS: dict[str, Callable[[int], list[asm.Event]]] = {
    "many messages": lambda n: [said("message_sent", role="user", content="x")] * n,
    "one long message": lambda n: [said("message_received", content="x" * 200 * n)],
    "many blocks": lambda n: [said("message_received", content=[{"type": "text", "text": "x"}] * n)],
    "many calls without a result": lambda n: [said("tool_call_started", f"{k}", name="f") for k in range(n)],
    "many calls of one id": lambda n: [said("tool_call_started", "1", name="f")] * n,
    "many results without a call": lambda n: [said("tool_call_completed", "1", output="x")] * n,
    "calls, then results in another order": lambda n: [
        *(said("tool_call_started", f"{k}", name="f") for k in range(n)),
        *(said("tool_call_completed", f"{k}", output="x") for k in reversed(range(n))),
    ],
    "many calls in one message": lambda n: [
        said("message_received", tool_calls=[{"id": f"{k}", "name": "f", "input": {}} for k in range(n)])
    ],
    "a hostile document": lambda n: [
        said("tool_call_started", "1", name="f", input=DOCUMENTS["a long key above many values"](n))
    ],
}
LIMITS: dict[str, Any] = {"max_messages": 5, "max_chars": 1_000, "max_tokens": 10**9, "count": len}


@pytest.mark.parametrize("shape", CONVERSATIONS)
def test_the_cost_of_a_transcript_grows_with_its_events(shape: str) -> None:
    conversations = [CONVERSATIONS[shape](n) for n in SIZES]
    for name, limits in {"all": {}, "the latest": LIMITS}.items():
        calls = [partial(asm.Transcript.from_events, events, **limits) for events in conversations]
        assert faults(name, calls) == []


# Files.


def exported(n: int, **fields: Any) -> bytes:
    session = asm.Session(id="ses_1", agent_id="a")
    events = [an_event(id=f"evt_{each}", sequence_number=each, **fields) for each in range(1, n + 1)]
    return b"".join(jsonl.dump([asm.SessionExport(session=session, events=events)]))


def trajectory(n: int, history: list[Any]) -> bytes:
    steps = [{"response": f"step {number}", "action": "ls", "observation": "x"} for number in range(n // 4)]
    return documents.dump({"trajectory": steps, "history": history, "info": {}}, "trajectory").encode()


def mini_trajectory(messages: list[Any]) -> bytes:
    document = {"info": {}, "messages": messages, "trajectory_format": "mini-swe-agent-1.1"}
    return documents.dump(document, "trajectory").encode()


def database(n: int, sessions: int, item: str) -> bytes:
    """A database of the OpenAI Agents SDK with so many items, all of one time."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table s (session_id text primary key, created_at, updated_at)")
        connection.execute("create table m (id integer primary key, session_id, message_data, created_at)")
        connection.execute("create index i on m (session_id, id)")
        connection.executemany("insert into s values (?, 0, 0)", [(f"s{each}",) for each in range(sessions)])
        rows = [(f"s{each % sessions}", item) for each in range(n)]
        connection.executemany("insert into m (session_id, message_data, created_at) values (?, ?, 0)", rows)
        connection.commit()
        return connection.serialize()


HEADER = b'{"format": "asm-export", "version": 1}\n'
FILES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "many events": ("x.jsonl", lambda n: exported(n // 4)),
    "a long key above many values": (
        "x.jsonl",
        lambda n: exported(1, data=DOCUMENTS["a long key above many values"](n)),
    ),
    "a line without an end": ("x.jsonl", lambda n: HEADER + b"x" * 200 * n),
    "many blank lines": ("x.jsonl", lambda n: HEADER + b"\n" * n),
    "many levels": ("x.jsonl", lambda n: HEADER + b"[" * 200 * n),
    "an integer of many digits": ("x.jsonl", lambda n: HEADER + b'{"session": ' + b"7" * 200 * n + b"}"),
    "many headers": ("x.jsonl", lambda n: (HEADER + b'{"end": {"sessions": 0}}\n') * (n // 4)),
    "many exports of a session": ("x.jsonl", lambda n: exported(1) * (n // 4)),
    "many runs and artifacts": ("x.jsonl", lambda n: b"".join(jsonl.dump([hostile_export(n)]))),
    "a compressed line": ("x.jsonl", lambda n: gzip.compress(HEADER + b'{"session": "' + b"x" * 2_000 * n)),
    "many characters that are not seen": (
        "x.jsonl",
        lambda n: exported(1, data={"s": "\u200b\U000e0041" * n}),
    ),
    "a trajectory of many steps that the history does not repeat": (
        "x.traj",
        lambda n: trajectory(
            n, [{"role": "assistant", "content": f"entry {each}"} for each in range(n // 4)]
        ),
    ),
    "a trajectory of many steps that say the same": (
        "x.traj",
        lambda n: trajectory(n, [{"role": "assistant", "action": "ls"}] * (n // 4)),
    ),
    "a trajectory of many steps": ("x.traj", lambda n: trajectory(n, [])),
    "an answer of mini-swe-agent with many commands": (
        "x.traj.json",
        lambda n: mini_trajectory(
            [{"role": "assistant", "extra": {"actions": [{"command": "ls"}] * (n // 2)}}]
            + [{"role": "user", "content": "x", "extra": {"returncode": 0}}] * (n // 2)
        ),
    ),
    "an answer of mini-swe-agent with many blocks": (
        "x.traj.json",
        lambda n: mini_trajectory([{"role": "assistant", "content": "```bash\nls\n" * n}]),
    ),
    "a database of many messages of a user": (
        "x.db",
        lambda n: database(n, 1, '{"role": "user", "content": "x"}'),
    ),
    "a database of many sessions": ("x.db", lambda n: database(n // 2, n // 4, "{}")),
    "a trajectory that is not JSON": ("x.traj", lambda n: b'{"trajectory": [' + b"[" * 200 * n),
}
"""What a file may be made of: its name, and its contents in a size."""


@pytest.mark.parametrize("what", FILES)
def test_the_cost_of_reading_a_file_grows_with_its_size(tmp_path: Path, what: str) -> None:
    name, contents = FILES[what]
    calls = []
    for n in SIZES:
        path = tmp_path / str(n) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents(n))
        calls.append(partial(read_all, path))

    assert faults(what, calls) == []


def read_all(path: Path) -> None:
    for _ in registry.read(path):
        pass
