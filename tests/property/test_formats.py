"""Files with mutations of every kind: they are read and imported, or refused with the name of the file."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from asm.export_files import jsonl
from asm.formats import import_files
from tests.conftest import an_artifact, an_event
from tests.property.conftest import EXAMPLES

SMALL = Path(__file__).parents[1] / "data" / "small.traj"

KEPT = asm.SessionExport(
    session=asm.Session(id="ses_kept", agent_id="a", tags=("x",)),
    runs=[asm.Run(id="run_kept", session_id="ses_kept")],
    events=[an_event("ses_kept", id=f"kept_{n}", sequence_number=n) for n in (1, 2, 4)],
    artifacts=[an_artifact("kept", id="art_kept", session_id="ses_kept")],
)
IMPORTED = asm.SessionExport(
    session=asm.Session(id="ses_new", agent_id="a", metadata={"a": [1, {"b": None}]}, tags=("x", "y")),
    runs=[
        asm.Run(id=f"run_{n}", session_id="ses_new", input=[1], token_usage={"input_tokens": 1}, cost_usd=0.5)
        for n in range(2)
    ],
    events=[
        an_event("ses_new", id=f"evt_{n}", run_id="run_1", sequence_number=n, data={"s": "é", "n": [n]})
        for n in (2, 3, 5)
    ],
    artifacts=[an_artifact("new", id="art_new", session_id="ses_new", metadata={"a": {}})],
    last_sequence=7,
    pruned_events=4,
)
EXPORTS = [line.decode() for line in jsonl.dump([IMPORTED, KEPT])]

# Written into the text as they are, because not all of them are JSON.
HOSTILE = [
    *map(str, (-1, 0, 1, 2**31, 2**53 - 1, 2**53, 2**62, 2**63, 2**64, -(2**63), 0.5, 10**12 + 1)),
    *("1" * 4_300, "1" * 4_301, "9" * 50_000, "1e400", "-1e-400", "NaN", "-Infinity", "null", "true"),
    *("[]", "{}", '""', '"a"', '[""]', '[[["x"]]]', '{"":{"":0}}', '{"a":1,"a":2}', "[" * 600 + "]" * 600),
    *map(json.dumps, ("\0", "\ud800", "\udb40\udc64", "x" * 256, "x" * 5_000, "é" * 255, "\x1b[2J", "a.b")),
    *map(json.dumps, ("ses_new", "ses_kept", "run_kept", "kept_1", "evt_2", "art_kept", "kept", "new")),
    *map(json.dumps, ("2026", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-23:59", "completed")),
]
MARK = "\ue000"


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(inner, (*path, key))


def with_a_hostile_value(text: str, rng: random.Random) -> str:
    """One JSON text with one value or key of it replaced."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    *path, last = rng.choice([path for path in paths_of(value) if path] or [(None,)])
    inner = value
    if last is None:
        return rng.choice(HOSTILE)
    for key in path:
        inner = inner[key]
    if isinstance(inner, dict) and rng.random() < 0.15:
        inner[rng.choice(["odd", "id", "session_id", ""])] = inner.pop(last)
    elif rng.random() < 0.15:
        del inner[last]
    else:
        inner[last] = MARK
    return json.dumps(value).replace(json.dumps(MARK), rng.choice(HOSTILE))


def with_other_lines(lines: list[str], rng: random.Random) -> list[str]:
    one, other = (rng.randrange(len(lines)) for _ in range(2))
    how = rng.randrange(4)
    if how == 0:
        return lines[:one] + lines[one + 1 :]
    if how == 1:
        return [*lines[:one], lines[other], *lines[one:]]
    if how == 2:
        return lines[:one]
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def with_other_bytes(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    length = rng.choice([0, 1, 1, 2, 40])
    written = bytes(rng.choice(b'\0\x1f\x8b"{}[],:\\\n\xff\xed\xa0\x80 0e') for _ in range(rng.randrange(4)))
    return content[:place] + written + content[place + length :]


def an_export(rng: random.Random) -> bytes:
    lines = list(EXPORTS)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.75:
            line = rng.randrange(len(lines))
            lines[line] = with_a_hostile_value(lines[line], rng).strip() + "\n"
        else:
            lines = with_other_lines(lines, rng) or ["\n"]
    return "".join(lines).encode("utf-8", "surrogatepass")


def a_trajectory(rng: random.Random) -> bytes:
    text = SMALL.read_text()
    for _ in range(rng.choice([1, 1, 2])):
        text = with_a_hostile_value(text, rng)
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        store.import_session(KEPT)
        yield store


@pytest.mark.parametrize(("name", "make"), [("a.jsonl", an_export), ("a.traj", a_trajectory)])
def test_a_hostile_file_is_imported_or_refused_by_its_name(
    store: asm.SessionStore, tmp_path: Path, name: str, make: Callable[[random.Random], bytes]
) -> None:
    file = tmp_path / name

    @settings(max_examples=100 * EXAMPLES)
    @given(st.integers(0, 2**64).map(random.Random))
    def check(rng: random.Random) -> None:
        content = make(rng)
        if rng.random() < 0.2:
            content = with_other_bytes(content, rng)
        if rng.random() < 0.1:
            content = with_other_bytes(gzip.compress(content, 1), rng)
        file.write_bytes(content)
        refusals.extend(
            str(failure)
            for failure in import_files(store, [file]).failures
            # What contradicts the store is refused, and the file is read on.
            if not isinstance(failure.error, asm.Conflict)
        )
        check_store(store)

    refusals: list[str] = []
    check()
    assert [refusal for refusal in refusals if not refusal.startswith(f"{file}: ")] == []


def check_store(store: asm.SessionStore) -> None:
    """Nothing that was stored is changed, all numbers add up, and every session takes further events."""
    kept = store.query.export_session("ses_kept", include_artifacts=True)
    assert (kept.session, kept.events[:3]) == (KEPT.session, KEPT.events)
    assert KEPT.runs[0] in kept.runs
    assert KEPT.artifacts[0] in kept.artifacts
    issues = {issue.code for issue in store.maintenance.health_check()}
    assert issues <= {"several_running_runs"}
    for session in store.list_sessions(include_deleted=True):
        if session.id != "ses_kept":
            last = store.get_latest_sequence(session.id)
            assert store.append_event(an_event(session.id)).sequence_number == last + 1
            store.delete_session(session.id)
    for artifact in kept.artifacts[1:]:
        store.artifacts.delete(artifact.key)
