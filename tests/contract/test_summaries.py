"""What a store promises about stats, usage and cost."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import asm
from tests.conftest import an_event, events_of
from tests.contract.other_clients import fetch_rows

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LARGEST = 10**12

PRICES: dict[str, Any] = {
    "claude": {
        "default": {"input": 1.0, "output": 2.0},
        "models": {
            "opus": {"input": 10.0, "output": 20.0, "cache_read": 0.5, "cache_creation": 4.0},
            "opus-4": {"input": 100.0, "output": 200.0},
        },
    },
    "acme": {"models": {"m": {"input": 3.0, "output": 5.0}}},
}


def save_run(store: Any, session_id: str = "ses_1", model: str | None = None, **fields: Any) -> asm.Run:
    """A run that is saved, with its tokens by the names they have without `_tokens`."""
    names = ("input", "output", "total", "cache_read", "cache_creation")
    usage = {f"{name}_tokens": fields.pop(name) for name in names if name in fields}
    metadata = {} if model is None else {"model": model}
    run = asm.Run(**{"session_id": session_id, "token_usage": usage, "provider_metadata": metadata} | fields)
    store.save_run(run)
    return run


def cost(store: Any, **filters: Any) -> Any:
    return store.query.get_cost_summary(**{"pricing": PRICES} | filters)


# A session's stats.


def test_stats_count_the_events_and_runs_of_a_session(store: Any) -> None:
    store.append_events([*events_of("ses_1", 3), *events_of("ses_2", 5)])
    for session_id in ("ses_1", "ses_1", "ses_2"):
        save_run(store, session_id)

    stats = store.query.get_session_stats("ses_1")

    assert (stats.event_count, stats.run_count) == (3, 2)


def test_stats_sum_the_tokens_of_the_runs(store: Any) -> None:
    save_run(store, input=1, output=2, cache_read=4, cache_creation=8)
    save_run(store, input=10, total=50)
    save_run(store)

    assert store.query.get_session_stats("ses_1").token_totals == {
        "input_tokens": 11,
        "output_tokens": 2,
        "cache_read_tokens": 4,
        "cache_creation_tokens": 8,
        "total_tokens": 53,
    }


def test_stats_count_the_runs_of_each_status(store: Any) -> None:
    for status, provider in (("failed", "a"), ("completed", "a"), ("failed", "b"), ("running", None)):
        save_run(store, status=status, provider=provider)

    stats = store.query.get_session_stats("ses_1")

    assert stats.status_counts == {"failed": 2, "completed": 1, "running": 1}


def test_stats_name_each_provider_of_the_runs_once(store: Any) -> None:
    for provider in ("openai", "claude", None, "openai"):
        save_run(store, provider=provider)

    assert store.query.get_session_stats("ses_1").providers_used == ("claude", "openai")


def test_stats_have_the_earliest_and_the_latest_time_of_the_events(store: Any) -> None:
    store.append_events(an_event(timestamp=NOON + timedelta(seconds=n)) for n in (5, 9, 1, 7))

    stats = store.query.get_session_stats("ses_1")

    assert (stats.first_event_at, stats.last_event_at) == (
        NOON + timedelta(seconds=1),
        NOON + timedelta(seconds=9),
    )


def test_stats_do_not_count_pruned_events(store: Any, migrated: str) -> None:
    store.append_events(an_event(timestamp=NOON + timedelta(seconds=n)) for n in range(5))
    fetch_rows(migrated, "delete from asm_events where sequence_number < 3")
    fetch_rows(migrated, "update asm_session_sequences set pruned_events = 2")

    stats = store.query.get_session_stats("ses_1")

    assert (stats.event_count, stats.first_event_at) == (3, NOON + timedelta(seconds=2))


def test_an_empty_session_has_stats_of_zero(store: Any) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a"))

    stats = store.query.get_session_stats("ses_1")

    assert (stats.event_count, stats.run_count, set(stats.token_totals.values())) == (0, 0, {0})
    assert (stats.first_event_at, stats.last_event_at) == (None, None)
    assert (stats.providers_used, stats.status_counts) == ((), {})
    assert (stats.to_dict()["first_event_at"], stats.to_dict()["last_event_at"]) == (None, None)


def test_stats_of_an_unknown_session_raise_session_not_found(store: Any) -> None:
    with pytest.raises(asm.SessionNotFound, match="ses_missing"):
        store.query.get_session_stats("ses_missing")


def test_stats_of_a_deleted_session_raise_session_not_found(store: Any) -> None:
    store.flush(asm.Session(id="ses_1", agent_id="a"), asm.Run(session_id="ses_1"), [an_event()])
    store.delete_session("ses_1")
    with pytest.raises(asm.SessionNotFound):
        store.query.get_session_stats("ses_1")


def test_a_session_that_was_soft_deleted_has_stats(store: Any) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a", deleted_at=NOON))
    assert store.query.get_session_stats("ses_1").event_count == 0


def test_events_without_a_session_have_stats(store: Any) -> None:
    store.append_event(an_event("ses_early"))
    assert store.query.get_session_stats("ses_early").event_count == 1


def test_runs_without_a_session_have_stats(store: Any) -> None:
    save_run(store, "ses_early")
    assert store.query.get_session_stats("ses_early").run_count == 1


def test_stats_within_a_transaction_see_what_it_wrote(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_events(events_of("ses_1", 2))
        assert tx.query.get_session_stats("ses_1").event_count == 2


def test_stats_convert_to_json(store: Any) -> None:
    store.append_event(an_event(timestamp=NOON))
    save_run(store, provider="claude", status="failed", input=1)

    stats = json.loads(json.dumps(store.query.get_session_stats("ses_1").to_dict()))

    assert (stats["first_event_at"], stats["providers_used"], stats["status_counts"]) == (
        "2026-01-01T12:00:00+00:00",
        ["claude"],
        {"failed": 1},
    )


# Usage.


def test_usage_sums_all_runs(store: Any) -> None:
    save_run(store, "a", input=1, output=2, cache_read=3, cache_creation=4)
    save_run(store, "b", input=10, output=20, cache_read=30, cache_creation=40, total=1_000)

    usage = store.query.get_usage_summary()

    assert (usage.input_tokens, usage.output_tokens) == (11, 22)
    assert (usage.cache_read_tokens, usage.cache_creation_tokens) == (33, 44)
    assert (usage.total_tokens, usage.run_count) == (1_003, 2)


def test_usage_of_no_runs_is_zero(store: Any) -> None:
    usage = store.query.get_usage_summary()
    assert (usage.total_tokens, usage.run_count, usage.by_provider, usage.by_model) == (0, 0, {}, {})


def test_runs_without_token_counts_are_counted(store: Any) -> None:
    save_run(store)
    usage = store.query.get_usage_summary()
    assert (usage.run_count, usage.input_tokens, usage.total_tokens) == (1, 0, 0)


def test_a_run_that_is_saved_again_counts_with_its_new_values(store: Any) -> None:
    run = save_run(store, input=5)
    store.save_run(run.update_token_usage({"input_tokens": 2}))
    usage = store.query.get_usage_summary()
    assert (usage.run_count, usage.input_tokens) == (1, 7)


def test_saving_a_run_again_replaces_all_its_counts(store: Any) -> None:
    kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "total_tokens")
    for tokens, model in ((100, "old"), (1, "new")):
        usage = {kind: tokens + number for number, kind in enumerate(kinds)}
        metadata = {"model": model}
        store.save_run(asm.Run(id="run_1", session_id="ses_1", token_usage=usage, provider_metadata=metadata))

    summary = store.query.get_usage_summary()

    assert [getattr(summary, kind) for kind in kinds] == [1, 2, 3, 4, 5]
    assert list(summary.by_model) == ["new"]


def test_usage_is_grouped_by_provider_and_by_model(store: Any) -> None:
    save_run(store, provider="claude", model="opus", input=1)
    save_run(store, provider="claude", model="haiku", input=2)
    save_run(store, provider="bedrock", model="opus", input=4)

    usage = store.query.get_usage_summary()

    assert _inputs(usage.by_provider) == {"claude": (3, 2), "bedrock": (4, 1)}
    assert _inputs(usage.by_model) == {"opus": (5, 2), "haiku": (2, 1)}


def test_runs_without_a_provider_or_a_model_are_under_none(store: Any) -> None:
    save_run(store, provider="claude", input=1)
    save_run(store, model="opus", input=2)

    usage = store.query.get_usage_summary()

    assert _inputs(usage.by_provider) == {"claude": (1, 1), None: (2, 1)}
    assert _inputs(usage.by_model) == {None: (1, 1), "opus": (2, 1)}


def _inputs(parts: Any) -> dict[str | None, tuple[int, int]]:
    return {name: (part.input_tokens, part.run_count) for name, part in parts.items()}


def test_the_groups_with_the_most_tokens_come_first(store: Any) -> None:
    for provider, tokens in (("c", 5), ("b", 50), (None, 500), ("a", 5)):
        save_run(store, provider=provider, input=tokens)
    assert list(store.query.get_usage_summary().by_provider) == [None, "b", "a", "c"]


def test_sums_of_the_largest_counts_are_exact(store: Any) -> None:
    for _ in range(3):
        save_run(
            store, input=LARGEST, output=LARGEST, total=LARGEST, cache_read=LARGEST, cache_creation=LARGEST
        )

    usage = store.query.get_usage_summary()

    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3 * LARGEST,) * 3
    assert (usage.cache_read_tokens, usage.cache_creation_tokens) == (3 * LARGEST,) * 2
    assert store.query.get_session_stats("ses_1").token_totals["total_tokens"] == 3 * LARGEST


def test_usage_converts_to_json(store: Any) -> None:
    save_run(store, model="opus", input=2)

    usage = json.loads(json.dumps(store.query.get_usage_summary().to_dict()))

    assert (usage["input_tokens"], usage["by_provider"][0]["provider"]) == (2, None)
    assert (usage["by_model"][0]["model"], usage["by_model"][0]["input_tokens"]) == ("opus", 2)


# Filters, which usage and cost have in common.


@pytest.fixture
def filled(store: Any) -> Any:
    """Runs of two agents and one whose session is missing, a minute apart."""
    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    store.save_session(asm.Session(id="ses_2", agent_id="b", deleted_at=NOON))
    for minute, (session_id, provider) in enumerate(
        [("ses_1", "claude"), ("ses_1", "openai"), ("ses_2", "claude"), ("ses_early", None)]
    ):
        save_run(store, session_id, provider=provider, started_at=NOON + timedelta(minutes=minute))
    return store


@pytest.mark.parametrize(
    ("filters", "runs"),
    [
        ({}, 4),
        ({"session_id": "ses_1"}, 2),
        ({"session_id": ["ses_1", "ses_early", "ses_missing"]}, 3),
        ({"session_id": []}, 0),
        ({"agent_id": "a"}, 2),
        ({"agent_id": ("a", "b")}, 3),
        ({"agent_id": []}, 0),
        ({"provider": "claude"}, 2),
        ({"provider": {"claude", "openai"}}, 3),
        ({"provider": ()}, 0),
        ({"provider": "anthropic"}, 0),
        ({"since": NOON + timedelta(minutes=1)}, 3),
        ({"until": NOON + timedelta(minutes=1)}, 1),
        ({"since": NOON + timedelta(minutes=1), "until": NOON + timedelta(minutes=3)}, 2),
        ({"since": NOON, "until": NOON}, 0),
        ({"session_id": "ses_1", "agent_id": "b"}, 0),
        ({"agent_id": "b", "provider": "claude", "since": NOON, "until": NOON + timedelta(hours=1)}, 1),
    ],
)
def test_filters_choose_the_runs(filled: Any, filters: dict[str, Any], runs: int) -> None:
    assert filled.query.get_usage_summary(**filters).run_count == runs
    assert filled.query.get_cost_summary(**filters).run_count == runs


def test_summaries_within_a_transaction_see_what_it_wrote(store: Any) -> None:
    with store.transaction() as tx:
        save_run(tx)
        assert tx.query.get_usage_summary().run_count == 1
        assert tx.query.get_cost_summary().run_count == 1


# Cost.


@pytest.mark.parametrize(
    ("model", "priced_by", "usd"),
    [
        ("opus", "exact", 10 * 7 + 20 * 3),
        ("opus-4", "exact", 100 * 7 + 200 * 3),
        ("opus-4-20260101", "prefix", 100 * 7 + 200 * 3),
        ("opus-3", "prefix", 10 * 7 + 20 * 3),
        ("haiku", "default", 1 * 7 + 2 * 3),
        ("Opus", "default", 1 * 7 + 2 * 3),
        (None, "default", 1 * 7 + 2 * 3),
    ],
)
def test_a_run_is_priced_by_exact_name_else_longest_prefix_else_default(
    store: Any, model: str | None, priced_by: str, usd: float
) -> None:
    save_run(store, provider="claude", model=model, input=7, output=3)

    summary = cost(store)

    assert (summary.total_cost_usd, summary.unmapped_runs) == (pytest.approx(usd), 0)
    assert summary.by_model[model].priced_by == {priced_by: 1}


def test_a_runs_own_cost_wins(store: Any) -> None:
    tokens: dict[str, Any] = {"input": 7, "output": 3, "cache_read": 5, "cache_creation": 9}
    save_run(store, provider="claude", model="opus", **tokens, cost_usd=0.25)

    summary = cost(store)

    assert summary.total_cost_usd == pytest.approx(0.25)
    assert summary.by_model["opus"].priced_by == {"cost_usd": 1}


def test_a_cost_of_zero_is_a_cost_of_its_own(store: Any) -> None:
    save_run(store, provider="claude", model="opus", input=7, cost_usd=0)
    assert (cost(store).total_cost_usd, cost(store).unmapped_runs) == (0, 0)


def test_a_run_with_a_cost_of_its_own_needs_no_price(store: Any) -> None:
    save_run(store, cost_usd=2.5)
    assert (cost(store).total_cost_usd, cost(store).unmapped_runs) == (pytest.approx(2.5), 0)


def test_a_model_lists_everything_that_priced_its_runs(store: Any) -> None:
    save_run(store, provider="claude", model="opus", input=1)
    save_run(store, provider="claude", model="opus", input=1, cost_usd=0.5)
    save_run(store, provider="claude", model="opus", input=1)
    save_run(store, provider="unknown", model="opus", input=1)

    part = cost(store).by_model["opus"]

    assert part.priced_by == {"exact": 2, "cost_usd": 1}
    assert (part.cost_usd, part.run_count, part.unmapped_runs) == (pytest.approx(20.5), 4, 1)


def test_cached_tokens_are_priced_in_addition_to_the_input(store: Any) -> None:
    save_run(store, provider="claude", model="opus", input=1, output=1, cache_read=2, cache_creation=3)
    assert cost(store).total_cost_usd == pytest.approx(10 + 20 + 2 * 0.5 + 3 * 4)


def test_cached_tokens_cost_as_much_as_input_unless_the_price_names_them(store: Any) -> None:
    save_run(store, provider="claude", model="opus-4", cache_read=2, cache_creation=3)
    assert cost(store).total_cost_usd == pytest.approx(5 * 100)


@pytest.mark.parametrize(
    ("provider", "model"), [(None, "opus"), (None, None), ("acme", "other"), ("acme", None), ("new", "opus")]
)
def test_a_run_without_a_price_is_counted_as_unmapped(
    store: Any, provider: str | None, model: str | None
) -> None:
    save_run(store, provider=provider, model=model, input=1_000)
    save_run(store, provider="acme", model="m", input=2)

    summary = cost(store)

    assert (summary.total_cost_usd, summary.run_count, summary.unmapped_runs) == (pytest.approx(6), 2, 1)
    assert (summary.by_model[model].unmapped_runs, summary.by_model[model].priced_by) == (1, {})


@pytest.mark.parametrize("status", ["running", "completed"])
@pytest.mark.parametrize("kinds", [{}, {"input": 0, "cache_read": 0}])
def test_a_run_with_tokens_of_no_priced_kind_is_counted_as_unmapped(
    store: Any, kinds: dict[str, Any], status: str
) -> None:
    save_run(store, provider="acme", model="m", total=500, status=status, **kinds)
    save_run(store, provider="acme", model="m", total=500, status=status, cost_usd=1, **kinds)
    save_run(store, provider="acme", model="m", status=status, cache_creation=2)
    save_run(store, provider="acme", model="m", status=status)

    part = cost(store).by_model["m"]

    assert (part.cost_usd, part.run_count, part.unmapped_runs) == (pytest.approx(7), 4, 1)
    assert part.priced_by == {"cost_usd": 1, "exact": 2}


@pytest.mark.parametrize(
    ("provider", "model", "usage", "usd"),
    [
        (
            "anthropic",
            "claude-opus-4-5",
            {
                "input_tokens": 1_000,
                "output_tokens": 500,
                "cache_creation_input_tokens": 20_000,
                "cache_read_input_tokens": 100_000,
            },
            0.1925,
        ),
        (
            "openai",
            "gpt-4o",
            {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500},
            0.0075,
        ),
        (
            "openai",
            "gpt-4o",
            {
                "input_tokens": 1_000,
                "input_tokens_details": {"cached_tokens": 800},
                "output_tokens": 500,
                "total_tokens": 1_500,
            },
            0.0065,
        ),
        (
            "google",
            "gemini-2.5-pro",
            {"prompt_token_count": 1_000, "candidates_token_count": 500, "total_token_count": 1_500},
            0.00625,
        ),
    ],
    ids=["anthropic", "openai chat", "openai responses", "google"],
)
@pytest.mark.parametrize("is_updated", [True, False], ids=["updated", "made with it"])
def test_the_usage_that_a_provider_reports_has_the_provider_s_price(
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    model: str,
    usage: Any,
    usd: float,
    is_updated: bool,
) -> None:
    monkeypatch.delenv("ASM_PRICING", raising=False)
    run = asm.Run(session_id="ses_1", provider=provider, provider_metadata={"model": model})
    store.save_run(run.update_token_usage(usage) if is_updated else replace(run, token_usage=usage))

    part = store.query.get_cost_summary().by_model[model]

    assert (part.cost_usd, part.unmapped_runs, part.priced_by) == (pytest.approx(usd), 0, {"exact": 1})


def test_a_run_on_a_cloud_is_priced_by_its_model_s_maker_and_says_so(store: Any) -> None:
    save_run(store, provider="bedrock", model="us.anthropic.opus-4-v1:0", input=7)
    save_run(store, provider="bedrock", model="amazon.nova", input=7)
    save_run(store, model="opus", input=7)

    summary = cost(store)

    assert (summary.total_cost_usd, summary.unmapped_runs) == (pytest.approx(700), 2)
    assert summary.by_model["us.anthropic.opus-4-v1:0"].priced_by == {"maker": 1}


def test_cost_is_grouped_by_provider_the_most_expensive_first(store: Any) -> None:
    save_run(store, provider="acme", model="m", input=1)
    save_run(store, provider="claude", input=5)
    save_run(store, provider="claude", model="opus", input=5)
    save_run(store, input=100)

    summary = cost(store)

    assert {name: (part.cost_usd, part.run_count) for name, part in summary.by_provider.items()} == {
        "claude": (pytest.approx(55), 2),
        "acme": (pytest.approx(3), 1),
        None: (0, 1),
    }
    assert list(summary.by_provider) == ["claude", "acme", None]


def test_cost_of_no_runs_is_zero(store: Any) -> None:
    summary = cost(store)
    assert (summary.total_cost_usd, summary.run_count, summary.unmapped_runs) == (0, 0, 0)
    assert (summary.by_provider, summary.by_model) == ({}, {})


@pytest.mark.parametrize(("stored", "given"), [("anthropic", "claude"), ("claude", "anthropic")])
def test_a_provider_is_priced_under_either_of_its_names(store: Any, stored: str, given: str) -> None:
    save_run(store, provider=stored, input=1)
    summary = cost(store, pricing={given: {"default": {"input": 2, "output": 0}}})
    assert summary.by_provider[stored].cost_usd == pytest.approx(2)


def test_the_largest_counts_have_a_cost(store: Any) -> None:
    for _ in range(3):
        save_run(store, provider="claude", model="opus", input=LARGEST)
    assert cost(store).total_cost_usd == pytest.approx(30 * LARGEST)


def test_the_largest_costs_are_summed(store: Any) -> None:
    for usd in (1e9, 1e9, 5.0):
        save_run(store, provider="claude", cost_usd=usd)
    assert cost(store).total_cost_usd == pytest.approx(2_000_000_005)


def test_runs_that_have_ended_and_runs_that_have_not_are_summed_together(store: Any) -> None:
    for status in ("pending", "running", "completed", "failed"):
        save_run(store, provider="claude", model="opus", input=1, output=2, status=status)
    usage = store.query.get_usage_summary()
    assert (usage.run_count, usage.input_tokens, usage.total_tokens) == (4, 4, 12)
    assert usage.by_model["opus"].run_count == cost(store).by_model["opus"].run_count == 4


def test_the_smallest_costs_are_summed(store: Any) -> None:
    for usd in (5e-324, 0.25):
        save_run(store, cost_usd=usd)
    assert (cost(store).total_cost_usd, cost(store).unmapped_runs) == (pytest.approx(0.25), 0)


def test_cost_converts_to_json(store: Any) -> None:
    save_run(store, model="opus", input=2)
    save_run(store, provider="claude", model="opus", input=2)

    summary = json.loads(json.dumps(cost(store).to_dict()))

    assert (summary["total_cost_usd"], summary["by_provider"][1]["provider"]) == (20, None)
    assert summary["by_model"] == [
        {"model": "opus", "cost_usd": 20, "run_count": 2, "unmapped_runs": 1, "priced_by": {"exact": 1}}
    ]


# Prices.


def test_without_a_pricing_the_built_in_prices_are_used(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASM_PRICING", raising=False)
    save_run(store, provider="openai", model="gpt-4o-mini-2024-07-18", input=1_000_000)

    summary = store.query.get_cost_summary()

    assert summary.total_cost_usd == pytest.approx(0.15)
    assert summary.by_model["gpt-4o-mini-2024-07-18"].priced_by == {"prefix": 1}


def test_a_file_of_prices_replaces_the_built_in_prices(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[claude.models."opus"]\ninput = 0.5\noutput = 1\n')
    monkeypatch.setenv("ASM_PRICING", str(file))
    save_run(store, provider="claude", model="opus", input=4)
    save_run(store, provider="openai", model="gpt-4o", input=4)

    summary = store.query.get_cost_summary()

    assert (summary.total_cost_usd, summary.unmapped_runs) == (pytest.approx(2), 1)


def test_a_given_pricing_replaces_the_file(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASM_PRICING", str(tmp_path / "missing.json"))
    save_run(store, provider="claude", input=4)
    assert cost(store).total_cost_usd == pytest.approx(4)


def test_a_given_pricing_replaces_the_built_in_prices(store: Any) -> None:
    save_run(store, provider="openai", model="gpt-4o", input=4)
    assert cost(store).unmapped_runs == 1


def test_the_error_for_an_invalid_pricing_names_the_path(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match=r"pricing\.claude\.models\.opus\.input must be a number"):
        cost(store, pricing={"claude": {"models": {"opus": {"input": "3", "output": 1}}}})
