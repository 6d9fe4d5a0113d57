"""`asm stats`, `asm usage` and `asm cost`: their tables and their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.pricing import LISTED_ON
from tests.conftest import events_of
from tests.contract.test_cli import COLOUR, invoke, output_of, printed_alike, terminal_output

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COMMANDS = pytest.mark.parametrize("command", ["usage", "cost"])


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


@pytest.fixture(autouse=True)
def _use_list_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASM_PRICING", raising=False)


def save_runs(store: asm.SessionStore) -> None:
    for session_id, provider, model, tokens, fields in (
        ("ses_1", "openai", "gpt-4o-2024-08-06", 2_000_000, {}),
        ("ses_1", "openai", "gpt-4o", 1_000_000, {"cost_usd": 1_000.5}),
        ("ses_2", "anthropic", "claude-haiku-4-5", 50, {"started_at": NOON}),
        ("ses_2", None, None, 7, {}),
    ):
        run: dict[str, Any] = {
            "session_id": session_id,
            "provider": provider,
            "provider_metadata": {"model": model} if model else {},
            "token_usage": {"input_tokens": tokens},
        }
        store.save_run(asm.Run(**run | fields))


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_usage_is_a_table_by_provider_and_one_by_model(migrated: str, store: asm.SessionStore) -> None:
    save_runs(store)
    assert lines(output_of("usage", "--dsn", migrated)) == [
        "3,000,057 tokens in 4 runs",
        "",
        "provider   runs         in      total",
        "openai        2  3,000,000  3,000,000",
        "anthropic     1         50         50",
        "(none)        1          7          7",
        "",
        "model              runs         in      total",
        "gpt-4o-2024-08-06     1  2,000,000  2,000,000",
        "gpt-4o                1  1,000,000  1,000,000",
        "claude-haiku-4-5      1         50         50",
        "(none)                1          7          7",
    ]


def test_cost_is_a_table_with_the_source_of_each_price(migrated: str, store: asm.SessionStore) -> None:
    save_runs(store)
    assert lines(output_of("cost", "--dsn", migrated)) == [
        "$1,005.50 for 3 runs",
        "1 more run without a price: see `asm cost --help`",
        "",
        "provider        cost  runs  own cost  exact name  prefix  no price",
        "openai     $1,005.50     2         1                   1",
        "anthropic   <$0.0001     1                     1",
        "(none)                   1                                       1",
        "",
        "model                   cost  runs  own cost  exact name  prefix  no price",
        "gpt-4o             $1,000.50     1         1",
        "gpt-4o-2024-08-06      $5.00     1                             1",
        "claude-haiku-4-5    <$0.0001     1                     1",
        "(none)                           1                                       1",
    ]


@COMMANDS
def test_a_summary_without_runs_has_no_tables(command: str, migrated: str) -> None:
    [line] = output_of(command, "--dsn", migrated).splitlines()
    assert line.endswith(" 0 runs")


@COMMANDS
def test_a_summary_is_printed_as_json(command: str, migrated: str, store: asm.SessionStore) -> None:
    save_runs(store)
    summary = getattr(store.query, f"get_{command}_summary")()
    assert json.loads(output_of(command, "--dsn", migrated, "--json")) == summary.to_dict()


@COMMANDS
@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--session", "ses_1"], 2),
        (["--session", "ses_1", "--session", "ses_2"], 4),
        (["--agent", "helper"], 2),
        (["--provider", "openai", "--provider", "anthropic"], 3),
        (["--until", "2026-01-02"], 1),
        (["--until", "2026-01-01T13:00+01:00"], 0),
        (["--since", "2026-01-01T12:00", "--until", "2026-01-01T12:00:01"], 1),
    ],
)
def test_options_select_the_runs_of_a_summary(
    command: str, options: list[str], runs: int, migrated: str, store: asm.SessionStore
) -> None:
    store.save_session(asm.Session(id="ses_2", agent_id="helper"))
    save_runs(store)
    summary = json.loads(output_of(command, "--dsn", migrated, "--json", *options))
    assert summary["run_count"] == runs


@COMMANDS
def test_an_invalid_time_is_refused(command: str) -> None:
    result = invoke(command, "--since", "yesterday")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "asm: Invalid value for '--since': 'yesterday' is not an ISO 8601 time such as 2026-01-31"
    )


@pytest.mark.parametrize("command", [["usage"], ["cost"], ["stats", "ses_1"]])
def test_summing_over_a_file_that_does_not_exist_does_not_create_it(
    command: list[str], tmp_path: Path
) -> None:
    assert invoke(*command, "--dsn", f"sqlite:///{tmp_path / 'absent.db'}").exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_cost_uses_the_prices_of_a_file(
    migrated: str, store: asm.SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"openai": {"default": {"input": 1e-6, "output": 0}}}')
    monkeypatch.setenv("ASM_PRICING", str(prices))
    save_runs(store)
    assert output_of("cost", "--dsn", migrated).startswith("$1,002.50 for 2 runs\n")


def test_an_invalid_price_file_is_an_error_on_one_line(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[openai.default]\ninput = 'dear'\noutput = 1\n")
    monkeypatch.setenv("ASM_PRICING", str(prices))
    result = invoke("cost", "--dsn", migrated)
    assert result.exit_code == 1
    assert result.stderr == f"asm: {prices}: openai.default.input must be a number, not str\n"


def test_the_help_of_cost_names_the_day_of_the_price_lists() -> None:
    assert LISTED_ON in output_of("cost", "--help")


@printed_alike
@COMMANDS
def test_a_table_fits_a_narrow_terminal(command: str, migrated: str, store: asm.SessionStore) -> None:
    store.save_run(
        asm.Run(
            session_id="ses_1",
            provider="p" * 70,
            token_usage=dict.fromkeys(["input_tokens", "output_tokens", "cache_read_tokens"], 10**9),
        )
    )
    seen = lines(COLOUR.sub("", terminal_output(command, "--dsn", migrated)))
    assert "p" * 70 in seen
    assert max(map(len, seen)) <= 80


def test_control_characters_in_names_are_printed_as_escapes(migrated: str, store: asm.SessionStore) -> None:
    store.save_run(asm.Run(session_id="ses_1", provider="\x1b[31mred"))
    assert "\\x1b[31mred" in output_of("usage", "--dsn", migrated)


# Stats.


def test_stats_show_events_runs_tokens_and_providers(migrated: str, store: asm.SessionStore) -> None:
    store.append_events(events_of("ses_1", 3, timestamp=NOON))
    save_runs(store)
    assert lines(output_of("stats", "ses_1", "--dsn", migrated)) == [
        "Session ses_1",
        "  events    3",
        "  first     2026-01-01 12:00:00 UTC",
        "  last      2026-01-01 12:00:00 UTC",
        "  runs      2 pending",
        "  tokens    3,000,000 in, 3,000,000 total",
        "  providers openai",
    ]


def test_stats_of_an_empty_session_are_short(migrated: str, store: asm.SessionStore) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    assert lines(output_of("stats", "ses_1", "--dsn", migrated)) == [
        "Session ses_1",
        "  events    0",
        "  runs      0",
    ]


def test_stats_are_printed_as_json(migrated: str, store: asm.SessionStore) -> None:
    save_runs(store)
    stats = store.query.get_session_stats("ses_1")
    assert json.loads(output_of("stats", "ses_1", "--dsn", migrated, "--json")) == stats.to_dict()


def test_stats_of_an_unknown_session_are_an_error(migrated: str) -> None:
    result = invoke("stats", "ses_9", "--dsn", migrated)
    assert (result.exit_code, result.stderr) == (1, "asm: no session has the id 'ses_9'\n")
