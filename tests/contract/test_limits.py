"""A value that is too large is refused before it is sent; any other is read back unchanged."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import documents, validation
from tests.conftest import CITUS_DSN, an_artifact, an_event, in_loop, numbers
from tests.contract.other_clients import fetch_rows, only

LARGEST = 2**63 - 1
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def widest(length: int = validation.TEXT_LENGTH_MAX) -> str:
    """A string of this length in characters, with the most bytes, that cannot be compressed."""
    return "".join(chr(random.randrange(0x10000, 0x110000)) for _ in range(length))


def test_every_string_may_have_its_maximum_length(store: Any) -> None:
    # Also as keys of indexes, which hold at most 2,704 bytes in PostgreSQL.
    session = asm.Session(id=widest(), agent_id=widest(), parent_session_id=widest(), tags=(widest(),) * 20)
    run = asm.Run(
        id=widest(), session_id=session.id, provider=widest(), provider_metadata={"model": widest()}
    )
    fields = {"run_id": run.id, "provider": widest(), "correlation_id": widest()}
    events = [an_event(session.id, f"a.{widest(253)}", id=widest(), **fields) for _ in range(3)]
    texts = {name: widest() for name in ("content_type", "checksum_sha256", "storage_backend")}
    artifact = an_artifact(
        widest(), id=widest(), session_id=session.id, run_id=run.id, storage_ref=widest(4_096), **texts
    )
    store.append_event(events[0])
    stored = store.flush(session, run, events)
    store.artifacts.register(artifact)

    assert store.get_events(session.id) == stored
    assert store.query.search_events(types=events[1].type).items == [stored[1]]
    assert store.query.search_sessions(tags=session.tags[:1], agent_id=session.agent_id).items == [session]
    assert store.query.search_runs(provider=run.provider).items == [run]
    assert store.artifacts.get_by_key(artifact.key) == artifact


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])
def test_a_time_may_be_any_of_the_years_1_to_9999_in_utc(store: Any, zone: timezone) -> None:
    for moment in (FIRST + timedelta(hours=14), LAST - timedelta(hours=14)):
        stored = store.append_event(an_event(timestamp=moment.astimezone(zone)))
        assert stored.timestamp == moment
        found = store.query.search_events(since=moment.astimezone(zone), order_by="timestamp_desc").items
        assert stored in found
        assert stored in store.get_events("ses_1", since=moment)


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    ],
)
def test_a_time_outside_of_them_is_refused(store: Any, moment: datetime) -> None:
    for refused in (
        lambda: an_event(timestamp=moment),
        lambda: store.get_events("ses_1", since=moment),
        lambda: store.query.search_events(until=moment),
        lambda: store.query.search_sessions(created_after=moment),
        lambda: store.query.search_runs(started_before=moment),
        lambda: store.query.get_usage_summary(since=moment),
    ):
        with pytest.raises(asm.ValidationError, match="years 1 to 9999"):
            refused()


NUMBERS: dict[str, Callable[[Any, int], Any]] = {
    "after": lambda store, n: store.get_events("ses_1", after=n),
    "before": lambda store, n: store.get_events("ses_1", before=n),
    "limit": lambda store, n: store.get_events("ses_1", limit=n),
    "iter_events": lambda store, n: list(store.iter_events("ses_1", page_size=n)),
    "follow_events": lambda store, n: list(store.follow_events("ses_1", after=n, idle_timeout=0)),
    "list_sessions": lambda store, n: store.list_sessions(limit=n, offset=n),
    "list_runs": lambda store, n: store.list_runs("ses_1", limit=n),
    "min_tokens": lambda store, n: store.query.search_runs(min_tokens=n),
    "turn_count": lambda store, n: store.save_run(asm.Run(session_id="ses_1", turn_count=n)),
    "schema_version": lambda store, n: store.append_event(an_event(schema_version=n)),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_whole_number_is_any_of_63_bits(store: Any, what: str) -> None:
    NUMBERS[what](store, LARGEST)
    for number in (LARGEST + 1, 2**70, 10**5_000, -1):
        with pytest.raises(asm.ValidationError, match=r"must be from [01] to"):
            NUMBERS[what](store, number)


def test_sums_may_be_larger_than_what_is_summed(store: Any) -> None:
    for n in range(3):
        usage = {"input_tokens": 10**12}
        store.save_run(asm.Run(session_id="ses_1", id=f"run_{n}", token_usage=usage))
        store.artifacts.register(an_artifact(f"key_{n}", session_id="ses_1", byte_size=2**53 - 1))
    assert store.query.get_usage_summary().input_tokens == 3 * 10**12
    assert store.artifacts.session_stats("ses_1").total_bytes == 3 * (2**53 - 1)


@only(["sqlite"], why="the command reads both alike")
@pytest.mark.parametrize("limit", ["0", "640"])
def test_the_command_shows_and_refuses_integers_whatever_the_environment_says(
    migrated: str, tmp_path: Path, limit: str
) -> None:
    longest = 10**4_300 - 1
    with asm.SessionStore(migrated) as store:
        store.append_event(an_event(data={"n": longest}), session=asm.Session(id="ses_1", agent_id="a"))
    file = tmp_path / "huge.jsonl"
    file.write_bytes(b'{"format": "asm-export", "version": 1}\n{"session": ' + b"7" * 2_000_000 + b"}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONINTMAXSTRDIGITS": limit, "ASM_DSN": migrated}
        command = [sys.executable, "-m", "asm", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    for arguments in (["show", "ses_1"], ["show", "ses_1", "--json"], ["export", "ses_1"]):
        assert str(longest) in run(*arguments).stdout
    refused = run("import", str(file))
    assert (refused.returncode, "line 2" in refused.stderr) == (1, True)
    assert "2,000,000 digits" in refused.stderr


def test_a_session_that_was_imported_at_the_latest_number_is_appended_to_and_exported(store: Any) -> None:
    session = asm.Session(agent_id="a", id="ses_1")
    latest = asm.SessionExport(session=session, last_sequence=2**52, pruned_events=2**52)
    later = replace(latest, last_sequence=2**52 + 1, pruned_events=2**52 + 1)
    with pytest.raises(asm.ValidationError, match="last_sequence must be from 0 to 4,503"):
        store.import_session(later)
    store.import_session(latest)

    assert numbers([store.append_event(an_event())]) == [2**52 + 1]

    exported = store.query.export_session("ses_1")
    assert (exported.last_sequence, exported.pruned_events) == (2**52 + 1, 2**52)
    assert asm.SessionExport.from_dict(exported.to_dict()) == exported


END = "update asm_session_sequences set last_sequence = 9223372036854775806 where session_id like 'full%'"

APPENDS: dict[str, Callable[[Any, list[asm.Event]], Any]] = {
    "append_event": lambda store, events: [store.append_event(event) for event in events],
    "append_events": lambda store, events: store.append_events(events),
    "with the session": lambda store, events: store.append_events(
        events, session=asm.Session(id=events[0].session_id, agent_id="a")
    ),
    "flush": lambda store, events: store.flush(
        asm.Session(id=events[0].session_id, agent_id="a"), asm.Run(session_id=events[0].session_id), events
    ),
    "expected": lambda store, events: store.append_events(events, expected_sequence=LARGEST),
    "many": lambda store, events: store.append_events(events * 1_000),
}


@pytest.mark.parametrize("place", ["store", "transaction"])
@pytest.mark.parametrize("how", APPENDS)
def test_an_append_to_a_session_whose_counter_is_at_its_end_is_refused_with_the_session(
    store: Any, how: str, place: str
) -> None:
    first = store.append_event(an_event("full"))
    with store.transaction() as tx:
        tx.execute(END)
    # The last number that there is.
    last = store.append_event(an_event("full"))
    assert numbers([last]) == [LARGEST]

    with pytest.raises(asm.Conflict, match="session 'full' has no sequence number left") as refusal:
        if place == "store":
            APPENDS[how](store, [an_event("full")])
        else:
            with store.transaction() as tx:
                APPENDS[how](tx, [an_event("full")])

    assert refusal.value.details["session_id"] == "full"
    assert (numbers(store.get_events("full")), store.get_sessions(["full"])) == ([1, LARGEST], [])
    # What is stored counts as appended.
    assert APPENDS[how](store, [first, last])[:2] == [first, last]


@pytest.mark.skipif(CITUS_DSN is not None, reason="on Citus a batch is of one session")
def test_the_end_of_a_counter_fails_only_its_own_callers_and_divides_no_batch(
    migrated: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def append() -> list[Any]:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.append_events([an_event("full_1"), an_event("full_2"), an_event("ses_0")])
            async with store.transaction() as tx:
                await tx.execute(END)
            ids = [f"full_{n % 3}" if n % 4 == 1 else f"ses_{n % 5}" for n in range(40)]
            with caplog.at_level(logging.DEBUG, "asm"):
                # The first is sent at once, and the others together when it has returned.
                started = [
                    store.append_event(an_event("ses_0")),
                    *(store.append_event(an_event(id)) for id in ids),
                ]
                _, *stored = await asyncio.gather(*started, return_exceptions=True)
                return stored

    stored = in_loop(append())

    for n, each in enumerate(stored):
        if n % 4 == 1 and n % 3:
            assert isinstance(each, asm.Conflict)
            assert each.details["session_id"] == f"full_{n % 3}"
        else:
            assert isinstance(each, asm.Event)
    batches = re.findall(r"append_events \((\d+) events\) took", caplog.text)
    assert batches == [str(sum(isinstance(each, asm.Event) for each in stored))]


def test_a_filter_takes_a_limited_number_of_values(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALUES_MAX", 3)
    ids = ["ses_1", "ses_2", "ses_3", "ses_1"]
    stored = [store.append_event(an_event(session_id)) for session_id in ids[:3]]
    assert store.query.search_events(session_ids=ids).items == stored
    refusals: tuple[Callable[[], Any], ...] = (
        lambda: store.query.search_events(session_ids=[*ids, "ses_4"]),
        lambda: store.query.count_events(types=[f"acme.{n}" for n in range(4)]),
        lambda: store.query.search_sessions(agent_id=[*ids, "agent_4"]),
    )
    for refused in refusals:
        with pytest.raises(asm.ValidationError, match="more than the maximum of 3"):
            refused()


def test_a_filter_of_a_thousand_values_finds_all_of_them(store: Any) -> None:
    stored = store.append_events([an_event(f"ses_{n:04d}") for n in range(0, 1_000, 2)])
    ids = [f"ses_{n:04d}" for n in range(1_000)]
    assert store.query.count_events(session_ids=ids) == 500
    assert store.query.search_events(session_ids=ids, limit=500).items == stored


def test_a_document_has_a_maximum_length(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "DOCUMENT_LENGTH_MAX", 1_000)
    longest = {"text": "😀" * (1_000 - len('{"text":""}'))}
    stored = store.append_event(an_event(data=longest, metadata=longest))
    assert store.get_events("ses_1") == [stored]
    longer = {"text": longest["text"] + "😀"}
    for field in ("data", "metadata"):
        with pytest.raises(asm.ValidationError, match=f"{field} is 1,001 characters.*artifact"):
            asm.Event.from_dict({"type": "message_sent", "session_id": "ses_1", field: longer})


def test_the_documents_of_a_run_have_a_maximum_length_together(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "ROW_LENGTH_MAX", 2_000)
    session = asm.Session(agent_id="a", id="ses_1")
    fits = asm.Run(session_id="ses_1", input="x" * 900, output="x" * 900)
    store.flush(session, fits, [an_event()])
    too_long = asm.Run(session_id="ses_1", input="x" * 900, output="x" * 900, error="x" * 900)
    refusals: tuple[Callable[[], Any], ...] = (
        lambda: store.save_run(too_long),
        lambda: store.flush(session, too_long, [an_event()]),
        lambda: store.import_session(asm.SessionExport(session=session, runs=[too_long], events=[])),
    )
    for refused in refusals:
        with pytest.raises(asm.ValidationError, match="together, more than the maximum of 2,000"):
            refused()
    assert store.list_runs("ses_1") == [fits]
    assert numbers(store.get_events("ses_1")) == [1]


# Values that another program has stored.


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("metadata", '{"x": 1e999}'),
        ("metadata", "[" * 1_100 + "]" * 1_100),
        ("metadata", " " + "[" * 3_000 + "]" * 3_000),
        ("metadata", ' {"x": ' + "1" * 4_301 + "}"),
        ("updated_at", "infinity"),
    ],
    ids=["a number", "levels", "many levels", "an integer", "a time"],
)
def test_a_stored_value_that_asm_does_not_write_is_reported_and_fails_no_other_read(
    store: Any, migrated: str, column: str, value: str
) -> None:
    for name in ("ses_1", "ses_2"):
        store.save_session(asm.Session(agent_id="a", id=name))
    fetch_rows(migrated, f"update asm_sessions set {column} = '{value}' where id = 'ses_1'")

    with pytest.raises(asm.ValidationError, match=r"a value that asm does not write|integer of 4,301 digits"):
        store.get_session("ses_1")
    assert store.get_session("ses_2").id == "ses_2"
