"""Summaries equal the sums over single runs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from tests.conftest import events_of

START = datetime(2026, 1, 1, tzinfo=UTC)
SESSIONS = ["ses_1", "ses_2", "ses_early"]
AGENTS = {"ses_1": "a", "ses_2": "b"}
PROVIDERS = ["claude", "anthropic", "acme", None]
MODELS = ["opus", "opus-4", "opus-4-1", "opus/4", "m", None]
COUNTS = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "total_tokens"]
LARGEST = 10**12

PRICING: dict[str, Any] = {
    "claude": {
        "default": {"input": 0.25, "output": 0.5},
        "models": {
            "opus": {"input": 3e-6, "output": 15e-6, "cache_read": 3e-7, "cache_creation": 3.75e-6},
            "opus-4": {"input": 5e-6, "output": 25e-6, "cache_read": 0},
        },
    },
    "acme": {"models": {"m": {"input": 1, "output": 2}}},
}


def runs() -> st.SearchStrategy[list[asm.Run]]:
    number = st.one_of(st.integers(0, 1_000), st.sampled_from([0, 2**32, LARGEST // 2, LARGEST]))
    a_run = st.builds(
        asm.Run,
        session_id=st.sampled_from(SESSIONS),
        status=st.sampled_from(asm.RunStatus),
        started_at=st.integers(0, 9).map(lambda later: START + timedelta(seconds=later)),
        provider=st.sampled_from(PROVIDERS),
        provider_metadata=st.sampled_from(MODELS).map(lambda model: {"model": model} if model else {}),
        cost_usd=st.one_of(st.none(), st.none(), st.floats(0, 1e9)),
        token_usage=st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTS, number)).filter(
            lambda usage: (usage.get("input_tokens", 0) + usage.get("output_tokens", 0)) <= LARGEST
        ),
    )
    return st.lists(a_run, max_size=12)


def filters() -> st.SearchStrategy[dict[str, Any]]:
    def one_or_many(values: list[str]) -> st.SearchStrategy[Any]:
        return st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), max_size=3))

    moments = st.integers(-1, 10).map(lambda later: START + timedelta(seconds=later))
    given = {
        "session_id": one_or_many([*SESSIONS, "ses_missing"]),
        "agent_id": one_or_many(["a", "b", "c"]),
        "provider": one_or_many(["claude", "acme", "other"]),
        "since": moments,
        "until": moments,
    }
    return st.fixed_dictionaries({}, optional=given)


def _matches(run: asm.Run, wanted: dict[str, Any]) -> bool:
    def is_one(value: str | None, name: str) -> bool:
        expected = wanted.get(name, value)
        return value == expected if isinstance(expected, str) or expected is None else value in expected

    return (
        is_one(run.session_id, "session_id")
        and ("agent_id" not in wanted or is_one(AGENTS.get(run.session_id), "agent_id"))
        and is_one(run.provider, "provider")
        and wanted.get("since", run.started_at) <= run.started_at
        and ("until" not in wanted or run.started_at < wanted["until"])
    )


def _tokens(run: asm.Run) -> Counter[str]:
    usage = Counter({name: run.token_usage.get(name, 0) for name in COUNTS})
    if "total_tokens" not in run.token_usage:
        usage["total_tokens"] = usage["input_tokens"] + usage["output_tokens"]
    return usage


def _usage(runs: list[asm.Run]) -> dict[str, int]:
    total = Counter(dict.fromkeys(COUNTS, 0))
    for run in runs:
        total.update(_tokens(run))
    return {**total, "run_count": len(runs)}


class Priced(NamedTuple):
    by: str | None
    usd: Fraction


def _priced(run: asm.Run) -> Priced:
    if run.cost_usd is not None:
        return Priced("cost_usd", Fraction(run.cost_usd))
    prices = PRICING.get({"anthropic": "claude"}.get(run.provider or "", run.provider or ""), {})
    by, price = _price(prices, run.provider_metadata.get("model"))
    tokens = _tokens(run)
    has_priced_kind = any(tokens[name] for name in COUNTS if name != "total_tokens")
    if price is None or (tokens["total_tokens"] and not has_priced_kind):
        return Priced(None, Fraction(0))
    usd = {kind: Fraction(price.get(kind, price["input"])) for kind in ("cache_read", "cache_creation")}
    usd |= {kind: Fraction(price[kind]) for kind in ("input", "output")}
    return Priced(by, sum((usd[kind] * tokens[f"{kind}_tokens"] for kind in usd), Fraction()))


def _price(prices: dict[str, Any], model: str | None) -> tuple[str | None, Any]:
    models = prices.get("models", {})
    if model in models:
        return "exact", models[model]
    if begins := [name for name in models if model is not None and model.startswith(name)]:
        return "prefix", models[max(begins, key=len)]
    return ("default", prices["default"]) if "default" in prices else (None, None)


def _cost(runs: list[asm.Run]) -> dict[str, Any]:
    priced = [_priced(run) for run in runs]
    return {
        "cost_usd": pytest.approx(float(sum(each.usd for each in priced)), rel=1e-12),
        "run_count": len(runs),
        "unmapped_runs": sum(each.by is None for each in priced),
        "priced_by": dict(Counter(each.by for each in priced if each.by)),
    }


def _by_provider(runs: list[asm.Run]) -> dict[str | None, list[asm.Run]]:
    return {name: [run for run in runs if run.provider == name] for name in {run.provider for run in runs}}


def _by_model(runs: list[asm.Run]) -> dict[str | None, list[asm.Run]]:
    names = [run.provider_metadata.get("model") for run in runs]
    return {name: [run for run, its in zip(runs, names, strict=True) if its == name] for name in set(names)}


def _replace_all(store: Any, runs: list[asm.Run]) -> None:
    with store.transaction() as tx:
        for session_id in SESSIONS:
            tx.delete_session(session_id)
        for session_id, agent_id in AGENTS.items():
            tx.save_session(asm.Session(id=session_id, agent_id=agent_id))
        for run in runs:
            tx.save_run(run)


def _parts(parts: list[dict[str, Any]], name: str) -> dict[str | None, dict[str, Any]]:
    return {part.pop(name): part for part in parts}


def test_usage_equals_the_sum_over_the_runs(store: Any) -> None:
    @settings(max_examples=40)
    @given(runs(), filters())
    def check(saved: list[asm.Run], wanted: dict[str, Any]) -> None:
        _replace_all(store, saved)
        chosen = [run for run in saved if _matches(run, wanted)]

        summary = store.query.get_usage_summary(**wanted).to_dict()

        assert _parts(summary.pop("by_provider"), "provider") == {
            name: _usage(part) for name, part in _by_provider(chosen).items()
        }
        assert _parts(summary.pop("by_model"), "model") == {
            name: _usage(part) for name, part in _by_model(chosen).items()
        }
        assert summary == _usage(chosen)

    check()


def test_cost_equals_the_sum_of_each_runs_price(store: Any) -> None:
    @settings(max_examples=40)
    @given(runs(), filters())
    def check(saved: list[asm.Run], wanted: dict[str, Any]) -> None:
        _replace_all(store, saved)
        chosen = [run for run in saved if _matches(run, wanted)]

        summary = store.query.get_cost_summary(**wanted, pricing=PRICING).to_dict()

        assert _parts(summary["by_provider"], "provider") == {
            name: _cost(part) for name, part in _by_provider(chosen).items()
        }
        assert _parts(summary["by_model"], "model") == {
            name: _cost(part) for name, part in _by_model(chosen).items()
        }
        total = _cost(chosen)
        assert (summary["total_cost_usd"], summary["run_count"], summary["unmapped_runs"]) == (
            total["cost_usd"],
            total["run_count"],
            total["unmapped_runs"],
        )

    check()


def test_stats_equal_the_sums_over_the_session(store: Any) -> None:
    @settings(max_examples=20)
    @given(runs(), st.integers(0, 3))
    def check(saved: list[asm.Run], events: int) -> None:
        _replace_all(store, saved)
        store.append_events(events_of("ses_1", events))
        ours = [run for run in saved if run.session_id == "ses_1"]
        usage = _usage(ours)

        stats = store.query.get_session_stats("ses_1")

        assert (stats.event_count, stats.run_count) == (events, usage.pop("run_count"))
        assert stats.token_totals == usage
        assert stats.status_counts == dict(Counter(run.status for run in ours))
        assert set(stats.providers_used) == {run.provider for run in ours} - {None}

    check()
