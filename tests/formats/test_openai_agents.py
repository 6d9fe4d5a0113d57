"""Databases of the OpenAI Agents SDK as sessions, runs and events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import ValidationError
from asm.formats import databases, import_files, registry
from asm.formats.base import Transcript

DATA = Path(__file__).parents[1] / "data"
SAMPLE = DATA / "openai-agents" / "sessions.db"
BRANCHED = "lighthouse@20260203T090100"
PLAIN = "6f8d1c52-4b0a-4f57-9b3e-2d1a7c5e9f04"

Item = dict[str, Any]
AT = "2026-02-03 09:00:00"

ASKED: Item = {"role": "user", "content": "What is the weather in Rome?"}
CALLED: Item = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
RETURNED: Item = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
SAID: Item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]}


class Writer:
    """Writes a database as the SDK does."""

    def __init__(
        self, path: Path, sessions: str = "agent_sessions", messages: str = "agent_messages"
    ) -> None:
        self.path, self.sessions, self.messages = path, sessions, messages
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.execute("pragma journal_mode = wal")
        self.execute(
            f'create table "{sessions}" (session_id text primary key,'
            " created_at timestamp default current_timestamp, updated_at timestamp default current_timestamp)"
        )
        self.execute(
            f'create table "{messages}" (id integer primary key autoincrement, session_id text not null,'
            " message_data text not null, created_at timestamp default current_timestamp,"
            f' foreign key (session_id) references "{sessions}" (session_id) on delete cascade)'
        )

    def execute(self, sql: str, *values: Any) -> list[Any]:
        return self.connection.execute(sql, values).fetchall()

    def add(self, id: str, *items: Item | str, at: str = AT) -> None:
        self.execute(f'insert or ignore into "{self.sessions}" values (?, ?, ?)', id, at, at)
        for item in items:
            data = item if isinstance(item, str) else json.dumps(item)
            self.execute(
                f'insert into "{self.messages}" (session_id, message_data, created_at) values (?, ?, ?)',
                *(id, data, at),
            )
        self.execute(f'update "{self.sessions}" set updated_at = ? where session_id = ?', at, id)

    def add_turn_tables(self) -> None:
        self.execute(
            "create table message_structure (id integer primary key autoincrement, session_id, message_id,"
            " branch_id, message_type, sequence_number, user_turn_number, branch_turn_number, tool_name,"
            f' created_at, foreign key (message_id) references "{self.messages}" (id))'
        )
        self.execute(
            "create table turn_usage (id integer primary key autoincrement, session_id, branch_id,"
            " user_turn_number, requests, input_tokens, output_tokens, total_tokens, input_tokens_details,"
            " output_tokens_details, created_at, unique (session_id, branch_id, user_turn_number))"
        )

    def add_turn(self, id: str, turn: int, *items: Item, branch: str = "main", at: str = AT) -> None:
        for item in items:
            self.add(id, item, at=at)
            self.execute(
                "insert into message_structure (session_id, message_id, branch_id, user_turn_number)"
                " values (?, last_insert_rowid(), ?, ?)",
                *(id, branch, turn),
            )

    def add_usage(self, id: str, turn: int, asked: Any, said: Any, details: Any = None) -> None:
        self.execute(
            "insert or replace into turn_usage (session_id, branch_id, user_turn_number, requests,"
            " input_tokens, output_tokens, input_tokens_details, created_at) values (?, ?, ?, 1, ?, ?, ?, ?)",
            *(id, "main", turn, asked, said, details, AT),
        )


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A program that has a database open."""
    writer = Writer(tmp_path / "sessions.db")
    with closing(writer.connection):
        yield writer


@pytest.fixture
def store() -> Iterator[asm.SessionStore]:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        yield store


def read(path: Path) -> dict[str, Transcript]:
    return {each.session.id: each for each in registry.read(path) if isinstance(each, Transcript)}


def one(path: Path) -> Transcript:
    (found,) = read(path).values()
    return found


def data(transcript: Transcript, *types: str) -> list[Item]:
    return [event.data for event in transcript.events if event.type in types]


# The sample.


def test_a_message_of_the_user_begins_a_run_with_the_tokens_of_its_turn() -> None:
    first, second, third = read(SAMPLE)[BRANCHED].runs
    assert (first.input, first.output) == ("How tall is the Lindau lighthouse?", "It is 33 m tall.")
    assert [run.turn_count for run in (first, second, third)] == [2, 2, 1]
    assert first.token_usage == {
        "input_tokens": 176,
        "output_tokens": 80,
        "total_tokens": 1_280,
        "cache_read_tokens": 1_024,
    }
    answered, unanswered = read(SAMPLE)[PLAIN].runs
    assert (answered.output, answered.token_usage) == ("No.", {})
    assert (unanswered.input, str(unanswered.status)) == ("Are you sure?", "cancelled")


def test_each_call_and_each_result_of_the_sample_is_one_event() -> None:
    found = read(SAMPLE)[BRANCHED]
    calls = [event.correlation_id for event in found.events if event.type == "tool_call_started"]
    assert calls == ["call_1", "call_2", "ws_1"]
    ended = [event.correlation_id for event in found.events if event.type == "tool_call_completed"]
    assert ended == calls


def test_each_item_of_the_sample_is_imported_once_whichever_branches_have_it() -> None:
    with closing(sqlite3.connect(SAMPLE)) as connection:
        ((items,),) = connection.execute("select count(*) from agent_messages").fetchall()
        ((places,),) = connection.execute("select count(*) from message_structure").fetchall()
    events = [event for found in read(SAMPLE).values() for event in found.events]
    # One call of the provider has its result in its item.
    others = ("session_created", "token_usage_updated")
    assert len([event for event in events if event.type not in others]) == items + 1 == 17
    assert places == 17


def test_an_item_is_in_the_run_of_the_branch_to_which_it_was_added() -> None:
    found = read(SAMPLE)[BRANCHED]
    retried = [event for event in found.events if event.metadata.get("branch") == "retry"]
    assert {event.run_id for event in retried} == {found.runs[2].id}
    assert [event.data.get("content") for event in retried if "role" in event.data] == [
        "And the one in Cuxhaven?",
        "It is 23 m tall.",
    ]
    assert found.session.metadata["branches"] == {
        "main": {"items": 9, "shared": 0},
        "retry": {"items": 8, "shared": 5},
    }


# Sessions.


def test_sessions_of_one_name_in_two_databases_are_two_sessions(
    store: asm.SessionStore, tmp_path: Path
) -> None:
    for number in (1, 2):
        writer = Writer(tmp_path / f"{number}.db")
        with closing(writer.connection):
            writer.add(
                "user-1", {"role": "user", "content": f"Hi {number}"}, at=f"2026-02-03 09:00:0{number}"
            )
    assert import_files(store, [tmp_path]).sessions == 2
    found = {session.id: session.metadata["session_id"] for session in store.list_sessions()}
    assert found == {"user-1@20260203T090001": "user-1", "user-1@20260203T090002": "user-1"}


def test_a_session_that_was_cleared_begins_anew_and_what_it_had_stays(
    store: asm.SessionStore, writer: Writer
) -> None:
    writer.add("user-1", ASKED, SAID)
    import_files(store, [writer.path])
    writer.execute("delete from agent_messages")
    writer.execute("delete from agent_sessions")
    writer.add("user-1", ASKED, at="2026-02-03 10:00:00")
    assert import_files(store, [writer.path]).sessions == 1
    lengths = [len(store.get_events(f"user-1@20260203T{hour}0000")) for hour in ("09", "10")]
    assert lengths == [3, 2]


def test_an_item_that_was_removed_stays_and_the_one_in_its_place_is_added(
    store: asm.SessionStore, writer: Writer
) -> None:
    writer.add(PLAIN, ASKED, SAID)
    import_files(store, [writer.path])
    writer.execute("delete from agent_messages where id = 2")
    writer.add(PLAIN, {"role": "assistant", "content": "Cloudy."})
    assert import_files(store, [writer.path]).events == 1
    assert [event.data["content"] for event in store.get_events(PLAIN)[1:]] == [
        ASKED["content"],
        "Sunny.",
        "Cloudy.",
    ]
    assert store.list_runs(PLAIN)[0].output == "Cloudy."


def test_messages_of_the_user_that_are_added_together_begin_one_run(writer: Writer) -> None:
    writer.add("a", {"role": "user", "content": "Look:"}, {"role": "user", "content": "What is it?"}, SAID)
    writer.add("a", {"role": "user", "content": "Hello?"}, at="2026-02-03 09:05:00")
    writer.add("a", {"role": "user", "content": "Hello!"}, SAID, at="2026-02-03 09:06:00")
    together, unanswered, answered = one(writer.path).runs
    assert [message["content"] for message in together.input] == ["Look:", "What is it?"]
    assert [str(run.status) for run in (together, unanswered, answered)] == [
        "completed",
        "cancelled",
        "completed",
    ]


def test_items_without_the_row_of_their_session_are_imported(writer: Writer) -> None:
    writer.add(PLAIN, ASKED, SAID)
    writer.execute("delete from agent_sessions")
    assert [run.output for run in one(writer.path).runs] == ["Sunny."]


# Items.


@pytest.mark.parametrize("said", ["{", "[1, 2]", '"Hi"', '{"role": "user", "content": NaN}'])
def test_an_item_that_is_no_object_is_kept_as_it_is(writer: Writer, said: str) -> None:
    writer.add(PLAIN, ASKED, said, SAID)
    found = one(writer.path)
    kept = data(found, "openai_agents.invalid_item", "openai_agents.item")
    assert kept[0].get("text") == said or kept == [{"item": json.loads(said)}]
    assert found.runs[0].output == "Sunny."


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"__enc__": 1, "v": 1, "kid": "hkdf-v1", "payload": "gAAAAA"}, "the session is encrypted"),
        (f'{{"role": "user", "content": {"[" * 600}{"]" * 600}}}', "is nested deeper than 500 levels"),
    ],
)
def test_a_session_that_cannot_be_read_is_named_and_the_others_are_imported(
    store: asm.SessionStore, writer: Writer, item: Item | str, fault: str
) -> None:
    for id in "abc":
        writer.add(id, ASKED, *([item] if id == "b" else []))
    report = import_files(store, [writer.path])
    assert report.sessions == 2
    (failure,) = report.failures
    assert "session 'b', item 3: " in str(failure)
    assert fault in str(failure)


def test_all_sessions_that_cannot_be_read_are_in_one_error(writer: Writer) -> None:
    for number in range(30):
        writer.add(f"s{number:02}", {"__enc__": 1, "v": 1, "kid": "k", "payload": "p"})
    with pytest.raises(ValidationError, match=r"30 sessions cannot be read: session 's00'.*; and 10 more"):
        read(writer.path)


def test_a_session_that_is_too_large_is_refused(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "LENGTH_MAX", 5_000)
    writer.add("a", {"role": "user", "content": "x" * 2_000})
    writer.add("b", *[{"role": "user", "content": "x" * 400}] * 12)
    with pytest.raises(ValidationError, match="session 'b' has more than 5,000 characters of messages"):
        read(writer.path)


def test_a_database_in_which_each_session_is_a_search_of_all_rows_is_refused(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "STEPS_MAX", 500_000)
    monkeypatch.setattr(databases, "STEPS_PER_BYTE", 0)
    writer.execute("begin")
    for number in range(500):
        writer.add(f"s{number}", ASKED, SAID)
    writer.execute("commit")
    writer.execute("pragma wal_checkpoint(truncate)")
    with pytest.raises(ValidationError, match="its tables lack the indexes"):
        read(writer.path)
    writer.execute("create index by_session on agent_messages (session_id, id)")
    assert len(read(writer.path)) == 500


# Growth.


def test_what_is_added_while_a_program_writes_is_imported_and_only_that(
    store: asm.SessionStore, writer: Writer
) -> None:
    writer.add(PLAIN, ASKED)
    assert import_files(store, [writer.path]).events == 2
    writer.execute("begin immediate")
    writer.add(PLAIN, CALLED, RETURNED)
    assert import_files(store, [writer.path]).events == 0
    writer.execute("commit")
    writer.add(PLAIN, SAID, at="2026-02-03 09:01:00")
    report = import_files(store, [writer.path])
    assert (report.sessions, report.runs, report.events, report.failures) == (1, 1, 3, [])
    assert [event.type for event in store.get_events(PLAIN)[1:]] == [
        "message_sent",
        "tool_call_started",
        "tool_call_completed",
        "message_received",
    ]
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_program_can_write_while_its_sessions_are_stored(writer: Writer, mode: str) -> None:
    writer.execute(f"pragma journal_mode = {mode}")
    writer.execute("pragma busy_timeout = 0")
    writer.add("a", ASKED)
    writer.add("b", ASKED)
    for found in registry.read(writer.path):
        assert isinstance(found, Transcript)
        writer.add("c", SAID)


def test_reading_changes_nothing_in_the_folder_of_a_database(writer: Writer) -> None:
    writer.add("a", ASKED)
    writer.connection.close()
    before = writer.path.read_bytes(), writer.path.parent.stat().st_mtime_ns
    assert len(read(writer.path)) == 1
    assert (writer.path.read_bytes(), writer.path.parent.stat().st_mtime_ns) == before


def test_a_program_that_begins_to_write_meanwhile_is_seen(writer: Writer) -> None:
    writer.add("a", ASKED)
    writer.add("b", ASKED)
    writer.connection.close()
    found = registry.read(writer.path)
    next(found)
    with closing(sqlite3.connect(writer.path, isolation_level=None)) as connection:
        answered = json.dumps(SAID)
        connection.execute(
            "insert into agent_messages (session_id, message_data) values ('b', ?)", (answered,)
        )
        connection.execute("vacuum")
        (last,) = found
    assert isinstance(last, Transcript)
    assert last.runs[0].output == "Sunny."


# Tokens.


def test_the_tokens_of_a_turn_are_those_that_were_stored_last(
    store: asm.SessionStore, writer: Writer
) -> None:
    now = writer.execute("select datetime('now')")[0][0]
    writer.add_turn_tables()
    writer.add_turn(PLAIN, 1, ASKED, SAID, at=now)
    import_files(store, [writer.path])
    for asked in (100, 250):
        writer.add_usage(PLAIN, 1, asked, 10)
        assert import_files(store, [writer.path]).events == 0
        assert store.list_runs(PLAIN)[0].token_usage == {"input_tokens": asked, "output_tokens": 10}
    writer.add_turn(PLAIN, 2, ASKED, at=now)
    assert import_files(store, [writer.path]).events == 2
    counted = [event.data for event in store.get_events(PLAIN) if event.type == "token_usage_updated"]
    assert counted == [{"input_tokens": 250, "output_tokens": 10}]


@pytest.mark.parametrize(
    ("asked", "said", "details", "usage"),
    [
        (10, 5, '{"cached_tokens": 30}', {"output_tokens": 5, "cache_read_tokens": 10}),
        (
            10,
            5,
            '{"cached_tokens": 3, "cache_write_tokens": 4}',
            {"input_tokens": 3, "output_tokens": 5, "cache_read_tokens": 3, "cache_creation_tokens": 4},
        ),
        (10, 5, "{", {"input_tokens": 10, "output_tokens": 5}),
        (-1, "many", None, {}),
        (2**62, 1.5, "[]", {}),
    ],
)
def test_cached_tokens_count_beside_the_input_and_impossible_counts_do_not(
    writer: Writer, asked: Any, said: Any, details: Any, usage: dict[str, int]
) -> None:
    writer.add_turn_tables()
    writer.add_turn(PLAIN, 1, ASKED, SAID)
    writer.add_usage(PLAIN, 1, asked, said, details)
    assert one(writer.path).runs[0].token_usage == usage


# Which databases.


@pytest.mark.parametrize("name", ["agent_sessions", 'my "sessions"', "séances"])
def test_the_tables_may_have_any_names(tmp_path: Path, name: str) -> None:
    quoted = name.replace('"', '""')
    writer = Writer(tmp_path / "a.db", quoted, f"{quoted} items")
    with closing(writer.connection):
        writer.add(PLAIN, ASKED)
        assert [run.input for run in one(writer.path).runs] == [ASKED["content"]]


def test_a_file_may_have_several_pairs_of_tables(tmp_path: Path) -> None:
    for number in (1, 2):
        writer = Writer(tmp_path / "a.db", f"sessions_{number}", f"items_{number}")
        with closing(writer.connection):
            writer.add(f"user-{number}", ASKED)
    assert len(read(tmp_path / "a.db")) == 2


@pytest.mark.parametrize(
    "change",
    [
        "drop table agent_messages",
        "alter table agent_messages rename column message_data to body",
        "alter table agent_sessions add column more as (hex(zeroblob(1000000000)))",
        (
            "drop table agent_messages;"
            "create view agent_messages as select 1 id, '' session_id, '' message_data, '' created_at"
        ),
        (
            "drop table agent_messages;"
            "create virtual table agent_messages using fts5(id, session_id, message_data, created_at)"
        ),
    ],
)
def test_another_database_is_not_one_of_the_sdk(writer: Writer, change: str) -> None:
    writer.connection.executescript(change)
    assert registry.find_reader(writer.path) is None


def test_a_store_of_ours_is_not_one_of_the_sdk(tmp_path: Path) -> None:
    with asm.SessionStore(f"sqlite:///{tmp_path}/asm.db", migrate=True):
        pass
    assert registry.find_reader(tmp_path / "asm.db") is None
