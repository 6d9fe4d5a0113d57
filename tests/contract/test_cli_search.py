"""`asm search` and `asm sessions`: their filters, their pages, and their output as a table and as JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import asm
from asm.operations import listing
from tests.contract.test_cli import (
    COLOUR,
    HOSTILE,
    invoke,
    output_of,
    printed_alike,
    run_process,
    terminal_output,
)
from tests.unit.test_shown import unseen

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def dsn(migrated: str) -> str:
    """A store with three sessions that have a run and two events each, one of them an error."""
    with asm.SessionStore(migrated) as store:
        for number, status in enumerate(["active", "failed", "completed"], 1):
            at = NOON.replace(day=number)
            session = asm.Session(
                id=f"ses_{number}",
                agent_id=f"agent_{number}",
                status=status,
                tags=("prod", "eu")[: number - 1],
                parent_session_id=f"ses_{number - 1}",
                created_at=at,
                updated_at=at,
            )
            run = asm.Run(
                id=f"run_{number}",
                session_id=session.id,
                provider="claude",
                started_at=at,
                token_usage={"input_tokens": 1_000 * (5 - number)},
            )
            events = [
                asm.Event(
                    type=type,
                    session_id=session.id,
                    timestamp=at,
                    correlation_id=f"cor_{number}",
                    data={"n": n},
                )
                for n, type in enumerate(["message_sent", "error_occurred"])
            ]
            store.flush(session, run, events)
    return migrated


def find(*arguments: str) -> list[str]:
    """The first word of each row."""
    return [line.split()[0] for line in output_of("search", *arguments).splitlines()]


def find_as_json(*arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(output_of("search", *arguments, "--json"))
    return document


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "321"),
        (["--agent", "agent_1", "--agent", "agent_2"], "21"),
        (["--status", "failed"], "2"),
        (["--tag", "prod"], "32"),
        (["--tag", "prod", "--tag", "eu"], "3"),
        (["--provider", "claude", "--status", "active"], "1"),
        (["--created-after", "2026-01-02T12:00Z", "--created-before", "2026-01-03"], "2"),
        (["--created-after", "2026-01-02T12:00:00.000001"], "3"),
        (["--created-after", "2026-01-02T14:00+02:00", "--order", "created_at_asc"], "23"),
        (["--parent", "ses_1"], "2"),
        (["--parent", "ses_1", "--parent", "ses_2", "--order-by", "updated_at_asc"], "23"),
        (["--limit", "1"], "3"),
    ],
)
def test_sessions_are_found(dsn: str, options: list[str], expected: str) -> None:
    assert find("sessions", "--dsn", dsn, *options) == [f"ses_{number}" for number in expected]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "321"),
        (["--session", "ses_1"], "1"),
        (["--min-tokens", "3000"], "21"),
        (["--order", "token_usage_desc"], "123"),
        (["--status", "pending", "--provider", "claude", "--started-before", "2026-01-03"], "21"),
        (["--started-after", "2026-01-03"], "3"),
    ],
)
def test_runs_are_found(dsn: str, options: list[str], expected: str) -> None:
    assert find("runs", "--dsn", dsn, *options) == [f"run_{number}" for number in expected]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "112233"),
        (["--type", "error_occurred"], "123"),
        (["--type", "error_occurred", "--order", "timestamp_desc"], "321"),
        (["--session", "ses_1", "--session", "ses_3"], "1133"),
        (["--correlation", "cor_2", "--type", "message_sent", "--type", "acme.plan"], "2"),
        (["--since", "2026-01-02", "--until", "2026-01-03"], "22"),
    ],
)
def test_events_are_found(dsn: str, options: list[str], expected: str) -> None:
    assert find("events", "--dsn", dsn, *options) == [f"ses_{number}" for number in expected]


def test_a_search_without_matches_says_so(dsn: str) -> None:
    assert output_of("search", "sessions", "--dsn", dsn, "--tag", "none") == "no sessions\n"
    assert output_of("search", "runs", "--dsn", dsn, "--provider", "none") == "no runs\n"
    assert output_of("search", "events", "--dsn", dsn, "--run", "none") == "no events\n"


def test_the_option_count_prints_only_the_number_of_events(dsn: str) -> None:
    assert (
        output_of("search", "events", "--dsn", dsn, "--type", "error_occurred", "--count", "--limit", "1")
        == "3\n"
    )


def test_the_option_total_prints_the_number_of_matches(dsn: str) -> None:
    result = invoke("search", "sessions", "--dsn", dsn, "--tag", "prod", "--limit", "1", "--total")
    assert result.stdout.startswith("ses_3")
    assert "asm: 2 sessions in total" in result.stderr


def test_a_cursor_continues_a_search(dsn: str) -> None:
    first = invoke("search", "sessions", "--dsn", dsn, "--limit", "2")
    cursor = re.search(r"there is another page: continue with --cursor (\S+)", first.stderr)
    assert cursor
    assert find("sessions", "--dsn", dsn, "--limit", "2", "--cursor", cursor[1]) == ["ses_1"]


def test_the_last_page_prints_no_cursor(dsn: str) -> None:
    assert invoke("search", "sessions", "--dsn", dsn).stderr == ""


def test_json_output_has_the_items_of_a_page_and_its_cursor(dsn: str) -> None:
    first = find_as_json("sessions", "--dsn", dsn, "--limit", "2", "--total")
    rest = find_as_json("sessions", "--dsn", dsn, "--cursor", first["cursor"])
    with asm.SessionStore(dsn) as store:
        stored = store.query.search_sessions().items
    assert [asm.Session.from_dict(item) for item in first["items"] + rest["items"]] == stored
    assert (first["total_count"], rest["total_count"], rest["cursor"]) == (3, None, None)


def test_json_output_has_runs_and_events_as_stored(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        runs, events = store.query.search_runs().items, store.query.search_events().items
    assert [asm.Run.from_dict(item) for item in find_as_json("runs", "--dsn", dsn)["items"]] == runs
    assert [asm.Event.from_dict(item) for item in find_as_json("events", "--dsn", dsn)["items"]] == events


def test_a_run_is_shown_with_its_usage(dsn: str) -> None:
    assert re.fullmatch(
        r"run_1  pending  2026-01-01 12:00:00  ses_1  claude, 4,000 tokens in\n",
        output_of("search", "runs", "--dsn", dsn, "--session", "ses_1"),
    )


def test_an_event_is_shown_with_its_number_and_data(dsn: str) -> None:
    assert re.fullmatch(
        r"ses_1  error_occurred      2  2026-01-01 12:00:00  n: 1\n",
        output_of("search", "events", "--dsn", dsn, "--session", "ses_1", "--type", "error_occurred"),
    )


@printed_alike
@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("what", ["sessions", "runs", "events"])
def test_a_row_fits_the_terminal(what: str, columns: int, migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        session = asm.Session(agent_id="研究" * 30, tags=("t" * 60,))
        run = asm.Run(session_id=session.id, provider="p" * 60)
        event = asm.Event(type="tool_approval_requested", session_id=session.id, data={"語": "語" * 200})
        store.flush(session, run, [event])
    seen = COLOUR.sub("", terminal_output("search", what, "--dsn", migrated, columns=columns)).splitlines()
    assert max(map(cell_len, seen)) <= columns
    assert len(seen) == 2


def test_an_event_in_a_pipe_is_one_line_of_bounded_length_unless_all_of_it_is_wanted(migrated: str) -> None:
    text = "line\n" * 10_000
    with asm.SessionStore(migrated) as store:
        store.append_event(asm.Event(type="message_sent", session_id="ses_1", data={"content": text}))
    [line] = output_of("search", "events", "--dsn", migrated).splitlines()
    assert len(line) < 300
    [full] = output_of("search", "events", "--dsn", migrated, "--full").splitlines()
    assert full.endswith("content: " + text.replace("\n", "\\n"))


def test_events_are_searched_by_the_beginnings_of_ids(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        run = asm.Run(id="run_x1", session_id="ses_1")
        store.save_run(run)
        store.append_event(asm.Event(type="run_started", session_id="ses_1", run_id=run.id))
    assert find("events", "--dsn", dsn, "--run", "run_x") == ["ses_1"]
    assert invoke("search", "events", "--dsn", dsn, "--session", "ses_").exit_code == 1
    assert find("runs", "--dsn", dsn, "--session", "ses_2") == ["run_2"]


@printed_alike
def test_control_characters_in_stored_text_do_not_reach_the_terminal(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        session = asm.Session(agent_id="[red]\x1b[31m", tags=("\x07",))
        run = asm.Run(session_id=session.id, provider="\x1b[2J", provider_metadata={"model": HOSTILE})
        store.flush(
            session, run, [asm.Event(type="a.\x9b1m", session_id=session.id, data={HOSTILE: HOSTILE})]
        )
    for what in ("sessions", "runs", "events"):
        seen = COLOUR.sub("", terminal_output("search", what, "--dsn", migrated))
        assert unseen(seen) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobs"], "No such command 'frobs'"),
        (["sessions", "--status", "lost"], "'lost' is not one of 'pending', 'active'"),
        (["sessions", "--order", "newest"], "'newest' is not one of 'created_at_asc'"),
        (["runs", "--limit", "1001"], "1001 is not in the range 1<=x<=1000"),
        (["runs", "--min-tokens", "-1"], "-1 is not in the range"),
        (["events", "--since", "yesterday"], "'yesterday' is not an ISO 8601 time such as 2026-01-31"),
    ],
)
def test_a_usage_error_is_one_line_with_exit_status_2(arguments: list[str], complaint: str) -> None:
    result = invoke("search", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sessions", "--cursor", "AAAA"], "not a cursor of sessions by updated_at_desc"),
        (["events", "--type", "message_snet"], "'message_snet' is not an event type"),
        (["sessions", "--tag", ""], "tags[0] must have 1 to 255 characters"),
    ],
)
def test_an_invalid_filter_is_one_line_with_exit_status_1(
    arguments: list[str], complaint: str, migrated: str
) -> None:
    result = invoke("search", *arguments, "--dsn", migrated)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"asm: .+\n", result.stderr)
    assert complaint in result.stderr


def test_searching_a_file_that_does_not_exist_does_not_create_it(tmp_path: Path) -> None:
    assert invoke("search", "sessions", "--dsn", f"sqlite:///{tmp_path / 'absent.db'}").exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["sessions"], ["runs"], ["events"]])
def test_the_help_of_every_search_has_examples(command: list[str]) -> None:
    explained = output_of("search", *command, "--help")
    assert explained.startswith(f"Usage: cli {' '.join(['search', *command])}")
    assert re.search(rf"^  asm search {' '.join(command)}", explained, re.MULTILINE)


# Lists of sessions.


def saved(store: asm.SessionStore, *messages: dict[str, Any], **fields: Any) -> asm.Session:
    session = asm.Session(**({"agent_id": "helper"} | fields))
    store.save_session(session)
    store.append_events(
        [asm.Event(type="message_sent", session_id=session.id, data=data) for data in messages]
    )
    return session


@pytest.mark.parametrize("options", ["", "--json", "--utc", "--limit 2 --order created_at_asc"])
def test_both_commands_that_list_sessions_print_the_same(dsn: str, options: str) -> None:
    searched, listed = (
        invoke(*command, "--dsn", dsn, *options.split()) for command in (["search", "sessions"], ["sessions"])
    )
    assert (searched.stdout, searched.stderr) == (listed.stdout, listed.stderr)


def test_sessions_are_listed_with_a_title_and_the_number_of_their_events(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        saved(store, {"content": "hi"}, id="ses_1", metadata={"title": "A plan"}, tags=("prod", "eu"))
        system = {"role": "system", "content": "You are a helper."}
        saved(store, system, {"role": "user", "content": [{"type": "text", "text": "Why\nso?"}]}, id="ses_2")
        saved(store, id="ses_3")
    lines = output_of("sessions", "--dsn", migrated, "--order", "created_at_asc").splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"ses_1  pending  helper       1  {time}  A plan \[prod, eu\]", lines[0])
    assert re.fullmatch(rf"ses_2  pending  helper       2  {time}  Why so\?", lines[1])
    assert re.fullmatch(rf"ses_3  pending  helper       0  {time}", lines[2])


@printed_alike
def test_a_list_shows_the_time_by_which_it_is_sorted(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        saved(store, created_at=NOON, updated_at=NOON.replace(day=20))
    assert "2026-01-20 12:00:00" in output_of("sessions", "--dsn", migrated)
    assert "2026-01-31 12:00:00" in output_of("sessions", "--dsn", migrated, "--order", "created_at_desc")
    for options, heading, time in (([], "UPDATED", " ago"), (["--utc"], "UPDATED", "2026-01-20 12:00:00")):
        seen = COLOUR.sub("", terminal_output("sessions", "--dsn", migrated, *options, columns=120))
        assert heading in seen.splitlines()[0]
        assert time in seen.splitlines()[1]


def test_the_ids_that_a_terminal_shows_are_accepted_as_ids(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        ids = {saved(store).id for _ in range(30)} | {saved(store, id=f"chat-{n}").id for n in range(12)}
    seen = COLOUR.sub("", terminal_output("sessions", "--dsn", migrated))
    short = [line.split()[0] for line in seen.splitlines()[1:]]
    assert {output_of("show", id, "--dsn", migrated).split()[1] for id in short} == ids
    assert max(map(len, short)) < 36


def test_soft_deleted_sessions_are_listed_on_request(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        deleted = saved(store, deleted_at=datetime.now(UTC))
    assert output_of("sessions", "--dsn", migrated) == "no sessions\n"
    listed = output_of("sessions", "--dsn", migrated, "--include-deleted")
    assert listed.startswith(f"{deleted.id}  deleted  ")


def test_a_list_takes_the_same_number_of_queries_for_any_number_of_sessions(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        sessions = [saved(store, {"content": "hi"}) for _ in range(50)]
    script = iter(listing.summarize_sessions(sessions))
    next(script)
    script.send([(session.id, 1, None, None) for session in sessions])
    with pytest.raises(StopIteration):
        script.send([])


@pytest.mark.parametrize("beginning", ["ses_", "ses_2", ""])
def test_a_shell_completes_the_ids_of_sessions(dsn: str, beginning: str) -> None:
    completed = run_process(
        _ASM_COMPLETE="bash_complete", COMP_WORDS=f"asm show {beginning}", COMP_CWORD="2", ASM_DSN=dsn
    )
    ids = ["ses_2"] if beginning == "ses_2" else ["ses_1", "ses_2", "ses_3"]
    assert sorted(completed.stdout.split()) == sorted(f"plain,{id}" for id in ids)
