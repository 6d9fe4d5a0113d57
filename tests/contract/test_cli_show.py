"""`asm show`: a session as a conversation, on a terminal, in a pager and in a pipe."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import asm
from tests.conftest import POSTGRES, an_event
from tests.contract.other_clients import fetch_rows, only
from tests.contract.test_cli import (
    COLOUR,
    HOSTILE,
    TALK,
    a_session,
    invoke,
    output_of,
    printed_alike,
    run_process,
    store,
    terminal_output,
)
from tests.unit.test_shown import unseen

__all__ = ["store"]

LONG = "\n".join(f"line {number} {'x' * 100}" for number in range(200))


def shown(migrated: str, session: asm.Session, *options: str) -> str:
    return output_of("show", session.id, "--dsn", migrated, *options)


def events_in(text: str) -> list[int]:
    """The numbers of the events that were printed."""
    return [int(number) for number in re.findall(r"^ {0,4}(\d+)  ", text, re.MULTILINE)]


def test_a_session_is_shown_as_a_conversation(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *TALK)
    seen = shown(migrated, session)
    assert seen.startswith(f"Session {session.id}  pending\n")
    assert "  usage     1,200 tokens in, $0.5000\n" in seen
    events = seen[seen.index("    1  ") :]
    assert [line.rstrip() for line in events.splitlines()] == [
        "    1  user",
        "       What is in here?",
        "",
        "    2  assistant",
        "       I will look.",
        "",
        "    3  $ ls -F",
        "    4  │ main.py",
        "       │ tests/",
        "       └ 250 ms",
        "",
        "    5  search text: x",
        "              limit: 3",
        "    6  │ failed: timed out",
        "       └ code: 124",
        "",
        '    7  acme.plan_updated  steps: ["read", "write"]',
        "    8  run completed",
    ]


def test_the_items_of_a_framework_are_messages_if_someone_says_them(
    migrated: str, store: asm.SessionStore
) -> None:
    call = {"type": "tool_use", "id": "t1", "name": "search", "input": {"text": "x"}}
    items = [{"type": "mode", "mode": "plan"}, {"message": {"role": "assistant", "content": [call]}}]
    seen = shown(migrated, a_session(store, *[("claude.entry", {"item": item}) for item in items]))
    assert "  tools     search 1\n" in seen
    assert [line for line in seen[seen.index("    1  ") :].splitlines() if line] == [
        '    1  claude.entry  item: {"type": "mode", "mode": "plan"}',
        "    2  search text: x",
    ]


def test_the_head_sums_up_the_session(migrated: str, store: asm.SessionStore) -> None:
    session = asm.Session(agent_id="helper", tags=("prod",), metadata={"file": "x"})
    run = asm.Run(
        session_id=session.id,
        status="running",
        turn_count=3,
        provider="openai",
        provider_metadata={"model": "gpt-4o"},
        token_usage={"input_tokens": 1_200, "output_tokens": 30, "cache_read_tokens": 5},
        cost_usd=0.0,
    )
    talk = [*TALK, ("tool_call_started", {"name": "bash"}), ("error_occurred", {})]
    events = [asm.Event(type=type, session_id=session.id, run_id=run.id, data=data) for type, data in talk]
    store.flush(session, run, events)
    fields = re.findall(r"^  (\w+) +(.+)$", shown(migrated, session), re.MULTILINE)
    expected = {
        "title": "What is in here?",
        "agent": "helper",
        "events": "10",
        "turns": "3",
        "tools": "bash 2, search 1",
        "errors": "2: events 6, 10",
        "tokens": "1,200 in, 30 out, 5 read from cache",
        "cost": "$0.00",
        "tags": "prod",
        "metadata": "file: x",
        "model": "gpt-4o at openai",
    }
    assert dict(fields) | expected == dict(fields)


def test_a_failed_run_is_shown_with_its_error(migrated: str, store: asm.SessionStore) -> None:
    session = asm.Session(agent_id="helper")
    run = asm.Run(session_id=session.id).set_error({"message": "too slow", "code": "timeout"})
    store.flush(session, run)
    assert "  error     too slow (timeout)\n" in shown(migrated, session)


def test_the_events_of_each_of_several_runs_follow_the_runs_id(
    migrated: str, store: asm.SessionStore
) -> None:
    session = asm.Session(agent_id="helper")
    runs = [asm.Run(session_id=session.id) for _ in range(2)]
    for run in runs:
        store.flush(session, run, [asm.Event(type="run_started", session_id=session.id, run_id=run.id)])
    headings = re.findall(r"── Run (\S+) ──", shown(migrated, session))
    assert headings == [run.id for run in runs]


def test_a_tool_call_that_a_message_repeats_is_shown_once(migrated: str, store: asm.SessionStore) -> None:
    message = {"content": "I will look.\n```\nls -F\n```", "thought": "I will look.\n"}
    session = a_session(store, ("message_received", message), ("tool_call_started", {"input": "ls -F\n"}))
    assert output_of("show", session.id, "--dsn", migrated).count("ls -F") == 1


def test_a_message_with_more_than_its_thought_is_shown_completely(
    migrated: str, store: asm.SessionStore
) -> None:
    message = {"content": "Hm. Maybe ls -F will tell.", "thought": "Hm."}
    session = a_session(store, ("message_received", message), ("tool_call_started", {"input": "ls -F"}))
    assert "Hm. Maybe ls -F will tell." in output_of("show", session.id, "--dsn", migrated)


def test_a_session_is_shown_as_json_with_everything_stored(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *TALK, ("message_sent", {"content": "\ud800 é \x1b", "n": 10**4_000}))
    text = run_process("show", session.id, "--dsn", migrated, "--json").stdout
    document = json.loads(text)
    assert text.isascii()
    assert asm.Session.from_dict(document["session"]) == session
    assert [asm.Run.from_dict(run) for run in document["runs"]] == store.list_runs(session.id)
    assert [asm.Event.from_dict(event) for event in document["events"]] == store.get_events(session.id)
    assert (document["artifacts"], document["last_sequence"], document["pruned_events"]) == ([], 9, 0)


def test_an_unknown_session_is_an_error_on_one_line(migrated: str) -> None:
    result = invoke("show", "ses_none", "--dsn", migrated)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "asm: no session has the id 'ses_none'\n"


def test_a_streamed_answer_is_shown_once(migrated: str, store: asm.SessionStore) -> None:
    deltas = [("message_streamed", {"delta": word}) for word in ("It ", "rains", ".")]
    session = a_session(
        store, *deltas, ("message_received", {"role": "assistant", "content": "It rains."}), *deltas
    )
    seen = shown(migrated, session)
    assert seen.count("It rains.") == 2
    assert "  5-7  assistant\n" in seen


# Which session.


def test_a_message_that_was_interrupted_is_shown_as_unfinished(
    migrated: str, store: asm.SessionStore
) -> None:
    message = {"role": "assistant", "content": "It will", "partial": True}
    session = a_session(store, ("message_received", message))

    assert "    1  assistant  unfinished\n       It will\n" in shown(migrated, session)


def test_the_beginning_of_an_id_is_enough(migrated: str, store: asm.SessionStore) -> None:
    for id in ("ses_1a", "ses_1b", "ses_1bb", "ses_2"):
        store.save_session(asm.Session(id=id, agent_id="helper"))
    assert output_of("show", "ses_1a", "--dsn", migrated).startswith("Session ses_1a ")
    assert output_of("show", "ses_1b", "--dsn", migrated).startswith("Session ses_1b ")
    assert output_of("show", "ses_2", "--dsn", migrated, "--json").count('"ses_2"') == 1
    assert output_of("show", "ses_1bb", "--dsn", migrated).startswith("Session ses_1bb ")


def test_the_beginning_of_an_id_is_that_of_a_session_and_not_of_its_sub_agents(
    migrated: str, store: asm.SessionStore
) -> None:
    for id in ("first_1", "first_1/agent-1", "first_1/agent-2", "other"):
        store.save_session(asm.Session(id=id, agent_id="helper"))
        store.append_event(an_event(id))
    assert output_of("show", "first", "--dsn", migrated).startswith("Session first_1 ")
    assert output_of("show", "first_1/agent-1", "--dsn", migrated).startswith("Session first_1/agent-1 ")
    found = json.loads(output_of("search", "events", "--session", "first", "--json", "--dsn", migrated))
    assert {event["session_id"] for event in found["items"]} == {"first_1"}


def test_an_ambiguous_beginning_is_an_error_with_the_candidates(
    migrated: str, store: asm.SessionStore
) -> None:
    for number in range(20):
        store.save_session(asm.Session(id=f"ses_{number:02}", agent_id="helper"))
    result = invoke("show", "ses_1", "--dsn", migrated)
    assert (result.exit_code, result.stdout) == (1, "")
    candidates = ", ".join(f"ses_1{number}" for number in range(10))
    assert result.stderr == (
        f"asm: the ids of 10 sessions begin with 'ses_1': give more of one of {candidates}\n"
    )
    assert "more than 10 sessions" in invoke("show", "ses_", "--dsn", migrated).stderr


def test_the_option_latest_shows_the_session_that_was_updated_last(
    migrated: str, store: asm.SessionStore
) -> None:
    older, newer = a_session(store), a_session(store)
    store.save_session(older.update_status("active"))
    assert newer.id not in output_of("show", "--latest", "--dsn", migrated)
    assert older.id in output_of("show", "--latest", "--dsn", migrated)


def test_the_latest_session_of_an_empty_store_is_an_error(migrated: str) -> None:
    result = invoke("show", "--latest", "--dsn", migrated)
    assert (result.exit_code, result.stderr) == (1, "asm: the store has no sessions\n")


# Which events.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tail", "2"], [7, 8]),
        (["-n", "0"], []),
        (["-n", "99"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--after", "6"], [7, 8]),
        (["--after", "99"], []),
        (["--type", "message_sent", "--type", "run_completed"], [1, 8]),
        (["--type", "tool_call_started", "-n", "1"], [5]),
        (["--errors"], [6]),
        (["--run", "run_a"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--run", "run_a", "--after", "3", "--errors"], [6]),
        (["--run", "run_b"], [9]),
    ],
)
def test_only_the_wanted_events_are_shown(
    migrated: str, store: asm.SessionStore, options: list[str], expected: list[int]
) -> None:
    session = asm.Session(agent_id="helper")
    for id, talk in (("run_a1", TALK), ("run_b1", [("run_started", {})] if "--run" in options else [])):
        run = asm.Run(id=id, session_id=session.id)
        events = [asm.Event(type=type, session_id=session.id, run_id=id, data=data) for type, data in talk]
        store.flush(session, run, events)
    assert events_in(shown(migrated, session, *options)) == expected
    document = json.loads(shown(migrated, session, *options, "--json"))
    assert [event["sequence_number"] for event in document["events"]] == expected


def test_the_result_of_a_sub_agent_has_the_whole_id_of_its_session(
    migrated: str, store: asm.SessionStore
) -> None:
    id = f"{'0' * 60}/agent-a1"
    session = a_session(store, ("tool_call_completed", {"output": "Done.", "session_id": id, "files": 3}))
    seen = terminal_output("show", session.id, "--dsn", migrated, "--no-color", columns=80)
    assert id in seen
    assert "└ files: 3" in seen


def test_a_failure_names_its_tool_where_the_call_is_not_shown(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(
        store,
        ("tool_call_started", {"name": "Read", "input": {"path": "x"}}),
        ("tool_call_failed", {"name": "Read", "error": "no such file"}),
    )
    assert "    2  │ Read failed: no such file\n" in shown(migrated, session, "--errors")
    listed = output_of("search", "events", "--session", session.id, "--dsn", migrated)
    assert "Read failed: no such file\n" in listed


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--run", "run_none"], "no run has the id 'run_none' in session"),
        (["--type", "mesage_sent"], "'mesage_sent' is not an event type"),
    ],
)
def test_a_filter_that_cannot_match_is_an_error(
    migrated: str, store: asm.SessionStore, options: list[str], complaint: str
) -> None:
    session = a_session(store, *TALK)
    result = invoke("show", session.id, "--dsn", migrated, *options)
    assert (result.exit_code, complaint in result.stderr) == (1, True), result.stderr


# Following.


def following(migrated: str, session: asm.Session, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "asm", "show", session.id, "--follow", "--dsn", migrated, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen


def test_new_events_are_shown_as_they_arrive_until_ctrl_c(migrated: str, store: asm.SessionStore) -> None:
    def append(type: str, **data: Any) -> None:
        store.append_event(asm.Event(type=type, session_id=session.id, run_id="run_1", data=data))

    session = a_session(
        store, *[("acme.tick", {"n": n}) for n in range(20)], ("message_sent", {"content": "go"})
    )
    with following(migrated, session) as process:
        first = read_until(process, "       go\n")
        for word in ("It ", "rains.\n", "It pours."):
            append("message_streamed", delta=word)
        streamed = read_until(process, "It rains.\n")
        append("message_received", role="assistant", content="It rains.\nIt pours.")
        append("tool_call_failed", error="boom")
        rest = read_until(process, "failed: boom\n")
        process.send_signal(signal.SIGINT)
        assert (process.wait(), process.stderr and process.stderr.read()) == (130, "")
    assert events_in(first) == list(range(12, 22))
    assert "assistant" in streamed
    assert "It rains." not in rest
    assert rest.count("It pours.") == 1


@only(POSTGRES, why="SQLite has no connection to lose")
def test_a_lost_connection_is_reported_by_the_command_and_not_by_the_pool(
    migrated: str, store: asm.SessionStore
) -> None:
    session = a_session(store, *TALK)
    with following(migrated, session, "--json", "--type", "acme.tick") as process:
        store.append_event(asm.Event(type="acme.tick", session_id=session.id))
        read_until(process, "\n")
        fetch_rows(
            migrated,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()",
        )
        store.append_event(asm.Event(type="acme.tick", session_id=session.id))
        assert process.stdout is not None
        # A query that was going on fails, and a connection that was idle is replaced.
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() in (1, 130)
        assert process.stderr is not None
        assert "psycopg" not in (printed := process.stderr.read()), printed
        assert "discarding" not in printed, printed


def test_new_events_are_followed_as_json_on_one_line_each(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *TALK)
    with following(migrated, session, "--json", "--after", "7", "--type", "run_completed") as process:
        line = read_until(process, "\n")
        assert asm.Event.from_dict(json.loads(line)) == store.get_events(session.id)[-1]
        event = store.append_event(asm.Event(type="run_completed", session_id=session.id))
        assert asm.Event.from_dict(json.loads(read_until(process, "\n"))) == event
        process.send_signal(signal.SIGINT)


# Pipes, terminals and pagers.


@printed_alike
def test_output_to_a_pipe_is_plain_and_complete(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, ("tool_call_completed", {"output": LONG}), metadata={"long": "m" * 500})
    seen = run_process("show", session.id, "--dsn", migrated, COLUMNS="80").stdout
    assert "\x1b" not in seen
    assert all(line in seen for line in [*LONG.splitlines(), "m" * 500])


@printed_alike
def test_output_to_a_terminal_is_coloured_and_shortened(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, ("tool_call_completed", {"output": LONG}), metadata={"long": "m" * 500})
    seen = terminal_output("show", session.id, "--dsn", migrated)
    lines = COLOUR.sub("", seen).splitlines()
    assert COLOUR.search(seen)
    assert any("more lines" in line for line in lines)
    assert max(map(len, lines)) <= 80


@printed_alike
def test_the_option_full_shortens_nothing(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, ("tool_call_completed", {"output": LONG}))
    seen = terminal_output("show", session.id, "--dsn", migrated, "--full", columns=200)
    assert all(line in seen for line in LONG.splitlines())


def test_documents_with_the_deepest_nesting_are_shown(migrated: str, store: asm.SessionStore) -> None:
    deep: dict[str, Any] = {}
    for _ in range(499):
        deep = {"x": deep}
    session = a_session(
        store, ("message_sent", deep), ("acme.deep", deep), ("tool_call_completed", {"output": deep["x"]})
    )
    output_of("show", session.id, "--dsn", migrated)
    document = json.loads(output_of("show", session.id, "--dsn", migrated, "--json"))
    assert document["events"][0]["data"] == deep


@printed_alike
def test_the_option_color_prints_to_a_pipe_what_a_terminal_gets(
    migrated: str, store: asm.SessionStore
) -> None:
    session = a_session(store, ("tool_call_completed", {"output": LONG}))
    for options, environment in ((["--color"], {}), ([], {"FORCE_COLOR": "1"})):
        seen = run_process(
            "show", session.id, "--dsn", migrated, *options, COLUMNS="80", TERM="xterm", **environment
        ).stdout
        assert COLOUR.search(seen)
        assert "more lines" in seen


@printed_alike
def test_the_option_no_color_prints_no_colors(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *TALK)
    seen = terminal_output("show", session.id, "--dsn", migrated, "--no-color")
    assert not re.search(r"\x1b\[(?:\d+;)*[39]\d", seen)


@printed_alike
@pytest.mark.parametrize("variable", ["ASM_PAGER", "PAGER"])
def test_a_terminal_gets_the_session_through_the_pager(
    migrated: str, store: asm.SessionStore, tmp_path: Path, variable: str
) -> None:
    session = a_session(store, *TALK)
    seen = terminal_output(
        "show",
        session.id,
        "--dsn",
        migrated,
        environment={variable: "sed -n 's/^/paged /p'", "COLUMNS": "80"},
    )
    lines = COLOUR.sub("", seen).splitlines()
    assert lines[0] == f"paged Session {session.id}  pending"
    assert all(line.startswith("paged ") for line in lines)


@printed_alike
@pytest.mark.parametrize("pager", ["", "cat", "/no/such/pager"])
def test_without_a_pager_the_terminal_gets_the_session_directly(
    migrated: str, store: asm.SessionStore, pager: str
) -> None:
    session = a_session(store, *TALK)
    seen = terminal_output("show", session.id, "--dsn", migrated, environment={"ASM_PAGER": pager})
    assert COLOUR.sub("", seen).startswith(f"Session {session.id}")


@printed_alike
def test_the_option_no_pager_starts_none(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *TALK)
    seen = terminal_output(
        "show", session.id, "--dsn", migrated, "--no-pager", environment={"ASM_PAGER": "false"}
    )
    assert "run completed" in COLOUR.sub("", seen)


@printed_alike
def test_leaving_the_pager_early_is_no_error(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, *[("message_sent", {"content": LONG})] * 50)
    seen = terminal_output(
        "show", session.id, "--dsn", migrated, "--full", environment={"ASM_PAGER": "head -n 1"}
    )
    assert COLOUR.sub("", seen) == f"Session {session.id}  pending\n"


@printed_alike
def test_control_characters_in_stored_text_do_not_reach_the_terminal(
    migrated: str, store: asm.SessionStore
) -> None:
    blocks = [
        {"type": "text", "text": HOSTILE},
        {"type": "thinking", "thinking": HOSTILE},
        {"type": "image", "source": {"media_type": HOSTILE, "data": HOSTILE}},
        {"type": HOSTILE},
        {"type": "tool_use", "id": HOSTILE, "name": HOSTILE, "input": {HOSTILE: HOSTILE}},
        {"type": "tool_result", "content": HOSTILE, "is_error": True},
    ]
    session = a_session(
        store,
        ("message_sent", {"role": HOSTILE, "content": HOSTILE}),
        ("message_received", {"role": "assistant", "content": blocks}),
        ("tool_call_started", {"name": HOSTILE, "input": HOSTILE}),
        ("tool_call_completed", {"output": [HOSTILE], HOSTILE: HOSTILE}),
        ("tool_call_failed", {"error": {"message": HOSTILE, "code": HOSTILE}}),
        ("error_occurred", {"message": HOSTILE, "detail": HOSTILE}),
        ("message_streamed", {"delta": HOSTILE}),
        ("acme.odd", {HOSTILE: HOSTILE}),
        agent_id="[red]\x1b[31m",
        tags=("\x07",),
        metadata={"title": HOSTILE, HOSTILE: HOSTILE},
    )
    for options in ([], ["--full"]):
        seen = terminal_output("show", session.id, "--dsn", migrated, *options)
        assert unseen(COLOUR.sub("", seen)) == []
        assert r"[red]\x1b[31m" in COLOUR.sub("", seen)


@printed_alike
def test_lines_of_wide_characters_fit_the_terminal(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(
        store,
        ("message_sent", {"content": "日本語のテキスト " * 40}),
        ("tool_call_started", {"name": "検索", "input": {"語": "テスト" * 60}}),
        ("acme.odd", {"語": "テスト" * 60}),
        agent_id="研究" * 60,
    )
    for columns in (60, 80, 140):
        seen = COLOUR.sub("", terminal_output("show", session.id, "--dsn", migrated, columns=columns))
        assert max(map(cell_len, seen.splitlines())) <= columns


@pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["export"]], ids=" ".join)
def test_closing_the_pipe_early_prints_no_error(
    command: list[str], migrated: str, store: asm.SessionStore
) -> None:
    session = a_session(store, *[("message_sent", {"content": LONG})] * 50)
    arguments = [sys.executable, "-m", "asm", *command, session.id, "--dsn", migrated]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
