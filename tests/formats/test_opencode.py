"""opencode's exports and its database as sessions, runs and events."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import ValidationError
from asm.formats import databases, import_files, registry
from asm.formats.base import Transcript

DATA = Path(__file__).parents[1] / "data" / "opencode"
SESSION = "ses_3d9f1c7a2ffe8Kq2mVb5xYtRw1"
CHILD = "ses_3d9f1b00affe1Lw9nCd3zUpSe7"
EXPORT = DATA / f"{SESSION}.json"
DATABASE = DATA / "opencode.db"

Record = dict[str, Any]
NOW_MS = int(time.time() * 1_000)


def read(path: Path) -> dict[str, Transcript]:
    return {each.session.id: each for each in registry.read(path) if isinstance(each, Transcript)}


def data(transcript: Transcript, *types: str) -> list[Record]:
    return [event.data for event in transcript.events if event.type in types]


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Transcript]:
    """What an export of these messages says."""

    def of(*messages: Record, **info: Any) -> Transcript:
        path = tmp_path / "export.json"
        head = {"id": "ses_1", "projectID": "p", "time": {"created": NOW_MS, "updated": NOW_MS}, **info}
        path.write_text(json.dumps({"info": head, "messages": messages}))
        (one,) = read(path).values()
        return one

    return of


def asked(id: str = "msg_1", text: str = "Hi", **part: Any) -> Record:
    info = {"id": id, "role": "user", "time": {"created": NOW_MS}}
    return {"info": info, "parts": [{"id": f"prt_{id}", "type": "text", "text": text, **part}]}


def answered(*parts: Record, id: str = "msg_2", completed: bool = True, **info: Any) -> Record:
    times = {"created": NOW_MS, **({"completed": NOW_MS} if completed else {})}
    numbered = [{"id": f"prt_{id}_{number}", **part} for number, part in enumerate(parts)]
    about = {"id": id, "role": "assistant", "time": times, "modelID": "gpt-5", "providerID": "openai"}
    return {"info": {**about, **info}, "parts": numbered}


def text(said: str, **fields: Any) -> Record:
    return {"type": "text", "text": said, **fields}


def tool(status: str, **state: Any) -> Record:
    return {"type": "tool", "callID": "c", "tool": "bash", "state": {"status": status, "input": {}, **state}}


def tokens(
    input: int, output: int, reasoning: int = 0, read: int = 0, write: int = 0, **total: Any
) -> Record:
    cache = {"read": read, "write": write}
    return {**total, "input": input, "output": output, "reasoning": reasoning, "cache": cache}


# The samples.


def test_a_prompt_is_a_run_with_the_tokens_and_the_cost_of_its_answers() -> None:
    answered, aborted = read(EXPORT)[SESSION].runs
    assert (answered.input, str(answered.status)) == ("Why does test_sum.py fail?", "completed")
    assert answered.turn_count == 3
    assert answered.cost_usd == 0.0425
    assert answered.provider_metadata == {"model": "claude-sonnet-4-5"}
    assert answered.token_usage == {
        "input_tokens": 62,
        "output_tokens": 178,
        "cache_read_tokens": 27_650,
        "cache_creation_tokens": 310,
    }
    assert (aborted.input, str(aborted.status), aborted.error) == ("Repair it.", "cancelled", None)


def test_each_call_and_each_result_of_the_sample_is_one_event() -> None:
    found = read(EXPORT)[SESSION]
    calls = [event.correlation_id for event in found.events if event.type == "tool_call_started"]
    ended = ("tool_call_completed", "tool_call_failed")
    assert calls == ["toolu_1", "toolu_2", "toolu_3", "toolu_4"]
    assert [event.correlation_id for event in found.events if event.type in ended] == calls[:3]
    assert data(found, "tool_call_failed") == [{"error": "exit code 2", "duration_s": 0.1}]


def test_the_database_says_what_the_export_says() -> None:
    stored, exported = read(DATABASE)[SESSION], read(EXPORT)[SESSION]
    assert stored.events == exported.events
    assert stored.runs == exported.runs
    assert {**stored.session.metadata, "file": "", "rest": {}} == {
        **exported.session.metadata,
        "file": "",
        "rest": {},
    }


def test_a_sub_agent_is_a_child_session_and_its_call_names_it() -> None:
    found = read(DATABASE)
    (result,) = [each for each in data(found[SESSION], "tool_call_completed") if "session_id" in each]
    child = found[result["session_id"]].session
    assert (child.id, child.parent_session_id, child.tags) == (CHILD, SESSION, ("subagent",))


def test_everything_that_an_export_says_is_in_the_session() -> None:
    found = read(EXPORT)[SESSION]
    kept: set[Any] = set()
    for row in (found.session, *found.runs, *found.events):
        kept |= set(values_of(row.to_dict()))
    ours = {"id", "messageID", "sessionID", "type", "role", "status", "time", "url"}
    lost = set(values_of(json.loads(EXPORT.read_text()), ours)) - kept
    assert lost == set()


def values_of(value: Any, without: set[str] = frozenset()) -> Iterator[Any]:  # type: ignore[assignment]
    if isinstance(value, dict):
        value = [each for name, each in value.items() if name not in without]
    if isinstance(value, list):
        for each in value:
            yield from values_of(each, without)
    else:
        yield value


# Tokens.


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        (tokens(10, 50, 20), 70),
        (tokens(10, 50, 20, total=80), 70),
        (tokens(10, 50, 20, 5, 5, total=70), 50),
        (tokens(10, 50, 0, total=60), 50),
    ],
    ids=["no total", "beside", "among", "none"],
)
def test_thoughts_count_once_whether_they_are_beside_the_output_or_among_it(
    told: Callable[..., Transcript], usage: Record, output: int
) -> None:
    (run,) = told(asked(), answered(text("Hello"), tokens=usage)).runs
    assert run.token_usage["output_tokens"] == output


def test_a_message_of_several_steps_has_the_tokens_of_all(told: Callable[..., Transcript]) -> None:
    steps = [{"type": "step-finish", "reason": "stop", "tokens": tokens(number, 1)} for number in (10, 20)]
    found = told(asked(), answered(*steps, tokens=tokens(20, 1)))
    assert found.runs[0].token_usage == {"input_tokens": 30, "output_tokens": 2}
    assert len(data(found, "token_usage_updated")) == 1


@pytest.mark.parametrize("cost", [-1, "1", True, 2**70, None])
def test_an_impossible_cost_is_not_counted(told: Callable[..., Transcript], cost: Any) -> None:
    (run,) = told(asked(), answered(text("Hello"), cost=cost, tokens=tokens(1, 1))).runs
    assert run.cost_usd is None


# Messages.


def test_what_opencode_adds_to_a_prompt_is_no_part_of_the_input(told: Callable[..., Transcript]) -> None:
    message = asked()
    message["parts"].append({"id": "prt_2", "type": "text", "text": "The file says …", "synthetic": True})
    found = told(message)
    assert found.runs[0].input == "Hi"
    assert [each["content"] for each in data(found, "message_sent")] == ["Hi", "The file says …"]


def test_an_answer_belongs_to_the_prompt_that_it_names(told: Callable[..., Transcript]) -> None:
    found = told(
        asked("msg_1", "One"), asked("msg_2", "Two"), answered(text("1"), id="msg_3", parentID="msg_1")
    )
    assert [(run.input, run.output) for run in found.runs] == [("One", "1"), ("Two", None)]


def test_a_compaction_is_no_prompt(told: Callable[..., Transcript]) -> None:
    compaction = {"info": {"id": "msg_3", "role": "user"}, "parts": [{"type": "compaction", "auto": True}]}
    found = told(
        asked(), answered(text("Hello")), compaction, answered(text("Summary"), id="msg_4", summary=True)
    )
    assert len(found.runs) == 1
    assert data(found, "opencode.compaction") == [{"auto": True}]


def test_a_message_of_another_role_is_no_prompt(told: Callable[..., Transcript]) -> None:
    message = asked(text="You are helpful.")
    message["info"]["role"] = "system"
    found = told(message)
    assert found.runs == []
    assert data(found, "message_sent") == [{"role": "system", "content": "You are helpful."}]


def test_an_error_fails_the_run(told: Callable[..., Transcript]) -> None:
    error = {"name": "ProviderAuthError", "data": {"message": "no key", "providerID": "openai"}}
    found = told(asked(), answered(error=error))
    said = {"code": "ProviderAuthError", "message": "no key", "details": {"providerID": "openai"}}
    assert data(found, "error_occurred") == [said]
    assert (str(found.runs[0].status), found.runs[0].error) == ("failed", said)


UNFINISHED = [
    text("Hel"),
    {"type": "reasoning", "text": "I th", "time": {"start": NOW_MS}},
    tool("pending", raw="{"),
    tool("running", time={"start": NOW_MS}),
]


@pytest.mark.parametrize("part", UNFINISHED, ids=["text", "reasoning", "pending", "running"])
def test_a_part_that_is_being_written_comes_when_it_has_ended(
    told: Callable[..., Transcript], part: Record
) -> None:
    ended = {"type": "reasoning", "text": "Hm", "time": {"start": NOW_MS, "end": NOW_MS}}
    running = told(asked(), answered(ended, part, {"type": "patch"}, completed=False))
    whole = told(asked(), answered(ended, part, {"type": "patch"}))
    left = told(asked(), answered(ended, part, {"type": "patch"}, completed=False), asked("msg_9"))

    assert [event.type for event in running.events][2:] == ["message_received"]
    assert [event.id for event in whole.events[:3]] == [event.id for event in running.events]
    assert whole.events[3].type in ("message_received", "tool_call_started")
    assert left.events[3] == whole.events[3]


def test_a_session_that_was_left_in_a_message_has_all_of_it(told: Callable[..., Transcript]) -> None:
    long_ago = {"created": NOW_MS - 10**9, "updated": NOW_MS - 10**9}
    found = told(asked(), answered(text("Hel"), completed=False), time=long_ago)
    assert data(found, "message_received") == [{"role": "assistant", "content": "Hel"}]
    assert str(found.session.status) == "completed"


def test_a_prompt_without_its_parts_is_not_written_yet(told: Callable[..., Transcript]) -> None:
    prompt = {**asked(), "parts": []}
    assert [event.type for event in told(prompt).events] == ["session_created"]


def test_parts_of_a_new_kind_are_events(told: Callable[..., Transcript]) -> None:
    found = told(asked(), answered({"type": "Hologram!", "depth": 3}, {"type": 7}, {}))
    types = [event.type for event in found.events if event.type.startswith("opencode.")]
    assert types == ["opencode.hologram", "opencode.record", "opencode.record", "opencode.message_completed"]
    assert data(found, "opencode.hologram") == [{"depth": 3}]


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"info": {"id": "ses_1"}, "messages": {}}, "a list named `messages`"),
        ({"info": {"id": "ses_1"}, "messages": [1]}, r"messages\[0\] must be an object, not int"),
        (
            {"info": {"id": "ses_1"}, "messages": [{"info": {}, "parts": 1}]},
            r"messages\[0\].parts must be a list",
        ),
        ({"info": {"id": "ses_1"}, "messages": [{"info": {}, "parts": []}]}, "the id of a message"),
        ({"info": {"projectID": "p", "id": 7}, "messages": []}, "the id of a session"),
    ],
)
def test_an_export_of_another_shape_is_refused_with_the_place(
    tmp_path: Path, document: Record, fault: str
) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValidationError, match=fault):
        read(path)


@pytest.mark.parametrize(
    "url", ["file:///srv/fail.png", "data:image/png,raw", "https://a.example/x;base64,aWc="]
)
def test_a_file_that_is_not_in_the_message_stays_an_address(
    told: Callable[..., Transcript], url: str
) -> None:
    message = asked()
    message["parts"].append({"id": "prt_2", "type": "file", "mime": "image/png", "url": url})
    block = {"type": "file", "mime": "image/png", "url": url}
    assert data(told(message), "message_sent")[1] == {"role": "user", "content": [block]}


def test_the_end_of_a_step_is_a_turn() -> None:
    turns = data(read(EXPORT)[SESSION], "turn_completed")
    assert [turn["stop_reason"] for turn in turns] == ["tool-calls", "tool-calls", "stop"]


# The database.


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """A copy of the sample, as another program has it open."""
    path = tmp_path / "opencode.db"
    path.write_bytes(DATABASE.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        yield path, connection


def add(connection: sqlite3.Connection, said: str, data: str | None = None) -> None:
    connection.execute(
        "insert into message values ('msg_z', ?, 1e13, 1e13, '{\"role\": \"user\"}')", (SESSION,)
    )
    part = data or json.dumps({"type": "text", "text": said})
    connection.execute("insert into part values ('prt_z', 'msg_z', ?, 1, 1, ?)", (SESSION, part))


def test_what_is_added_to_a_database_is_imported_while_it_is_open(
    database: tuple[Path, sqlite3.Connection],
) -> None:
    path, connection = database
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert import_files(store, [path]).sessions == 2
        before = path.stat()
        add(connection, "One more thing")
        assert path.stat().st_mtime_ns == before.st_mtime_ns

        report = import_files(store, [path])
        assert (report.sessions, report.events, report.failures) == (1, 1, [])
        assert store.get_events(SESSION)[-1].data["content"] == "One more thing"
        assert store.maintenance.health_check() == []


def test_an_import_of_the_export_after_the_database_adds_nothing() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        import_files(store, [DATABASE])
        before = store.get_events(SESSION)
        assert import_files(store, [EXPORT]).events == 0
        assert store.get_events(SESSION) == before


def test_a_row_that_is_no_document_is_named(database: tuple[Path, sqlite3.Connection]) -> None:
    path, connection = database
    add(connection, "", data="{")
    with pytest.raises(ValidationError, match="part prt_z: not JSON"):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        "drop table part",
        "alter table part rename column data to body",
        "drop table part; create view part as select '' id, '' message_id, '' session_id, '' data",
        "drop table part; create virtual table part using fts5(id, message_id, session_id, data)",
        "alter table part add column more as (hex(zeroblob(1000000000)))",
    ],
)
def test_another_database_is_not_one_of_opencode(
    database: tuple[Path, sqlite3.Connection], change: str
) -> None:
    path, connection = database
    connection.executescript(change)
    assert registry.find_reader(path) is None


def test_a_session_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "LENGTH_MAX", 5_000)
    with pytest.raises(ValidationError, match="more than 5,000 characters of messages"):
        read(DATABASE)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    content = bytearray(DATABASE.read_bytes())
    content[-4_096:] = bytes(4_096)
    path.write_bytes(content)
    with pytest.raises(ValidationError, match="the database cannot be read"):
        read(path)


def test_a_file_of_a_hostile_name_is_opened_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rwc&x=%41#.db"
    path.write_bytes(DATABASE.read_bytes())
    assert len(read(path)) == 2
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_head_of_an_export_tells_its_session() -> None:
    reader = registry.find_reader(EXPORT)
    assert reader is not None
    assert reader.session_id(EXPORT, EXPORT.read_bytes()[:300]) == SESSION


def test_an_export_whose_id_no_store_can_have_does_not_stop_the_import_of_others(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"info": {"id": "ses_\xff\0", "projectID": "p"}, "messages": []}')
    (tmp_path / "b.json").write_bytes(EXPORT.read_bytes())
    with asm.SessionStore("sqlite://", migrate=True) as store:
        report = import_files(store, [tmp_path])
        assert (report.sessions, len(report.failures)) == (1, 1)
