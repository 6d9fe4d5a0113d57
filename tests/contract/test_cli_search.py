"""`asm search`: its filters, its pages, and its output as a table and as JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import asm
from tests.contract.test_cli import COLOUR, CONTROLS, HOSTILE, invoke, output_of, terminal_output

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
        r"run_1  pending  2026-01-01 12:00  ses_1  claude  4,000 tokens in\n",
        output_of("search", "runs", "--dsn", dsn, "--session", "ses_1"),
    )


def test_an_event_is_shown_with_its_number_and_data(dsn: str) -> None:
    assert re.fullmatch(
        r"ses_1  error_occurred  2026-01-01 12:00      2  n: 1\n",
        output_of("search", "events", "--dsn", dsn, "--session", "ses_1", "--type", "error_occurred"),
    )


@pytest.mark.parametrize("what", ["sessions", "runs", "events"])
def test_a_row_fits_a_narrow_terminal(what: str, migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        session = asm.Session(agent_id="a" * 60, tags=("t" * 60,))
        run = asm.Run(session_id=session.id, provider="p" * 60)
        event = asm.Event(type="tool_approval_requested", session_id=session.id, data={"text": "x" * 200})
        store.flush(session, run, [event])
    seen = COLOUR.sub("", terminal_output("search", what, "--dsn", migrated))
    assert session.id in seen
    assert max(map(len, seen.splitlines())) <= 80


def test_control_characters_in_stored_text_do_not_reach_the_terminal(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        session = asm.Session(agent_id="[red]\x1b[31m", tags=("\x07",))
        run = asm.Run(session_id=session.id, provider="\x1b[2J", provider_metadata={"model": HOSTILE})
        store.flush(
            session, run, [asm.Event(type="a.\x9b1m", session_id=session.id, data={HOSTILE: HOSTILE})]
        )
    for what in ("sessions", "runs", "events"):
        seen = COLOUR.sub("", terminal_output("search", what, "--dsn", migrated))
        assert not CONTROLS.search(seen)
        assert "\u202e" not in seen


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing command"),
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
