"""The prices of tokens: how one is found, which pricings are refused, and the list."""

from __future__ import annotations

import json
import re
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from asm import ValidationError
from asm.pricing import LIST_PRICES, LISTED_ON, SAME_PROVIDER, Match, prices

CHEAP = {"input": 1, "output": 2}
EXPENSIVE = {"input": 10, "output": 20}


def found(pricing: Any, provider: str | None, model: str | None) -> tuple[str, float] | None:
    """How the price was found, and its price of input tokens."""
    match = prices(pricing).find(provider, model)
    return None if match is None else (match.by, match.price.input)


def listed(provider: str, model: str) -> Match:
    match = prices().find(provider, model)
    assert match is not None
    return match


@pytest.fixture(autouse=True)
def _without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASM_PRICING", raising=False)


def test_the_longest_prefix_is_used() -> None:
    models = {"models": {"gpt": CHEAP, "gpt-5": EXPENSIVE, "gpt-5-mini": CHEAP}}
    assert found({"openai": models}, "openai", "gpt-5-2026") == ("prefix", 10)


def test_a_name_that_is_longer_than_the_model_is_not_a_prefix() -> None:
    assert found({"openai": {"models": {"gpt-5-mini": CHEAP}}}, "openai", "gpt-5") is None


def test_the_models_of_another_provider_are_not_used() -> None:
    assert found({"acme": {"models": {"gpt-5": CHEAP}}}, "openai", "gpt-5") is None


def test_the_provider_s_own_name_takes_precedence_over_its_other_one() -> None:
    both = {"anthropic": {"default": CHEAP}, "claude": {"default": EXPENSIVE}}
    assert (found(both, "anthropic", None), found(both, "claude", None)) == (("default", 1), ("default", 10))


@pytest.mark.parametrize(
    ("one", "other"), [pair for names in SAME_PROVIDER for pair in permutations(names, 2)]
)
def test_a_provider_has_several_names(one: str, other: str) -> None:
    assert found({one: {"default": CHEAP}}, other, None) == ("default", 1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai/gpt-5", ("exact", 1)),
        ("openai/gpt-5-2026", ("prefix", 1)),
        ("azure/gpt-5", None),
        ("gpt-5/openai", ("prefix", 1)),
    ],
)
def test_a_model_may_be_stored_with_its_provider_before_a_slash(model: str, expected: Any) -> None:
    assert found({"openai": {"models": {"gpt-5": CHEAP}}}, "openai", model) == expected


GPT, CLAUDE, GEMINI = {"gpt-5": CHEAP}, {"claude-opus-4": EXPENSIVE}, {"gemini-3": CHEAP}
OF_MAKERS = {
    "openai": {"models": GPT},
    "claude": {"models": CLAUDE, "default": CHEAP},
    "google": {"models": GEMINI},
}


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("azure", "gpt-5", ("maker", 1)),
        ("azure", "gpt-5-2026-01-01", ("maker", 1)),
        ("azure.ai.openai", "gpt-5", ("maker", 1)),
        ("AzureOpenAI", "gpt-5", ("maker", 1)),
        ("azure", "claude-opus-4", ("maker", 10)),
        ("azure", "my-deployment", None),
        ("azure", "gemini-3", None),
        ("azure", None, None),
        ("bedrock", "anthropic.claude-opus-4-20250514-v1:0", ("maker", 10)),
        ("amazon_bedrock", "us.anthropic.claude-opus-4-20250514-v1:0", ("maker", 10)),
        (
            "aws.bedrock",
            "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-opus-4",
            ("maker", 10),
        ),
        ("bedrock", "amazon.nova-pro-v1:0", None),
        ("bedrock", "meta.claude-opus-4", None),
        ("vertex", "claude-opus-4@20250514", ("maker", 10)),
        ("vertex_ai", "publishers/anthropic/models/claude-opus-4@20250514", ("maker", 10)),
        ("google-vertex", "gemini-3", ("maker", 1)),
        ("vertex", "gpt-5", None),
        ("openrouter", "openai/gpt-5", None),
        (None, "gpt-5", None),
        (None, None, None),
    ],
)
def test_a_cloud_s_model_has_its_maker_s_price(
    provider: str | None, model: str | None, expected: Any
) -> None:
    assert found(OF_MAKERS, provider, model) == expected


def test_the_prices_of_a_cloud_take_precedence_over_those_of_the_makers() -> None:
    cloud = {"models": {"gpt-5": EXPENSIVE}}

    assert found(OF_MAKERS | {"azure": cloud}, "azure", "gpt-5") == ("exact", 10)
    assert found(OF_MAKERS | {"azure": cloud}, "azure", "claude-opus-4") == ("maker", 10)
    assert found(OF_MAKERS | {"azure": cloud | {"default": CHEAP}}, "azure", "claude-opus-4") == (
        "default",
        1,
    )


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("azure", "gpt-4o-2024-08-06"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("vertex", "claude-opus-4-1@20250805"),
        ("vertex", "gemini-2.5-pro"),
    ],
)
def test_the_list_prices_models_of_clouds(provider: str, model: str) -> None:
    assert listed(provider, model).by == "maker"


def test_a_pricing_may_name_a_model_with_its_provider() -> None:
    models = {"models": {"openai/gpt-5": EXPENSIVE, "gpt-5": CHEAP}}
    assert found({"openai": models}, "openai", "openai/gpt-5") == ("exact", 10)


def test_an_empty_pricing_has_no_prices() -> None:
    assert found({}, "openai", "gpt-5") is None
    assert found({"openai": {}}, "openai", "gpt-5") is None


def test_a_price_is_applied_to_each_kind_of_token() -> None:
    price = {"input": 1, "output": 10, "cache_read": 100, "cache_creation": 1_000}
    match = prices({"a": {"default": price}}).find("a", None)
    assert match is not None
    assert match.price.of(input=2, output=3, cache_read=4, cache_creation=5) == 5_432


# What is refused.


@pytest.mark.parametrize(
    ("pricing", "message"),
    [
        ([], "pricing must be a mapping, not list"),
        ("prices.json", "pricing must be a mapping, not str"),
        ({3: {}}, "pricing has the key 3: use names of 1 to 255 characters"),
        ({"": {}}, "pricing has the key '': use names of 1 to 255 characters"),
        ({"claude": 3e-6}, "pricing.claude must be a mapping, not float"),
        ({"claude": CHEAP}, "pricing.claude has the unknown key 'input': use default, models"),
        ({"claude": {"models": []}}, "pricing.claude.models must be a mapping, not list"),
        (
            {"claude": {"models": {"": CHEAP}}},
            "pricing.claude.models has the key '': use names of 1 to 255 characters",
        ),
        (
            {"claude": {"default": {"input": 1}}},
            "pricing.claude.default has no price of output: give it in USD per token",
        ),
        (
            {"claude": {"default": CHEAP | {"k": 1}}},
            "pricing.claude.default has the unknown key 'k': use input, output, cache_read, cache_creation",
        ),
        (
            {"claude": {"models": {"opus": CHEAP | {"cache_read": None}}}},
            "pricing.claude.models.opus.cache_read must be a number, not NoneType",
        ),
        (
            {"claude": {"default": CHEAP | {"input": True}}},
            "pricing.claude.default.input must be a number, not bool",
        ),
    ],
)
def test_an_invalid_pricing_is_refused_with_its_path(pricing: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        prices(pricing)
    assert str(refused.value) == message


@pytest.mark.parametrize("usd", [-1e-6, float("nan"), float("inf"), 10**400, 1e300])
def test_a_price_out_of_bounds_is_refused(usd: float) -> None:
    with pytest.raises(ValidationError, match=r"pricing\.a\.default\.output must be from 0 to 1,000,000 USD"):
        prices({"a": {"default": {"input": 1, "output": usd}}})


@pytest.mark.parametrize("usd", [0, 1_000_000])
def test_a_price_may_be_0_or_the_maximum(usd: float) -> None:
    assert found({"a": {"default": {"input": usd, "output": 1}}}, "a", None) == ("default", usd)


def test_the_details_of_a_refusal_have_the_path() -> None:
    with pytest.raises(ValidationError) as refused:
        prices({"a": {"models": {"m": {"input": 1, "output": "2"}}}})
    assert refused.value.details["path"] == "pricing.a.models.m.output"


@pytest.mark.parametrize(
    ("pricing", "suggestion"),
    [
        ({"claude": {"model": {}}}, "the unknown key 'model' (did you mean 'models'?): use default, models"),
        (
            {"claude": {"default": CHEAP | {"cache_reads": 1}}},
            "'cache_reads' (did you mean 'cache_read'?): use",
        ),
    ],
)
def test_a_misspelled_key_is_refused_with_the_nearest_known_one(pricing: Any, suggestion: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(suggestion)):
        prices(pricing)


# Files.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prices.json", json.dumps({"acme": {"models": {"m-1": CHEAP}}})),
        ("prices.TOML", '[acme.models."m-1"]\ninput = 1\noutput = 2.0\n'),
    ],
)
def test_a_pricing_file_is_json_or_toml(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("ASM_PRICING", str(tmp_path / name))
    assert found(None, "acme", "m-1") == ("exact", 1)


def test_an_empty_asm_pricing_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_PRICING", "")
    assert found(None, "openai", "gpt-4o") == ("exact", 2.5e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, r"ASM_PRICING names .*missing\.json: No such file or directory"),
        ("prices.yaml", b"", r"ASM_PRICING names .*yaml: use a file that ends in .json or .toml"),
        ("prices.json", b'{"a": {', r"prices\.json: .*line 1 column 8"),
        ("prices.json", b"[]", r"prices\.json: the file must be a mapping, not list"),
        ("prices.json", b'{"a": {"default": {"input": NaN, "output": 1}}}', r"a\.default\.input must be"),
        ("prices.json", b"[" * 100_000, r"prices\.json: "),
        ("prices.toml", b"a = \n", r"prices\.toml: .*line 1, column 5"),
        ("prices.toml", b"[a.default]\ninput = '3'\noutput = 1", r"prices\.toml: a\.default\.input must be"),
        ("prices.toml", b"\xff", r"prices\.toml: .*decode"),
    ],
)  # fmt: skip
def test_an_invalid_pricing_file_is_refused_with_its_name_and_the_position(
    name: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("ASM_PRICING", str(tmp_path / name))
    with pytest.raises(ValidationError, match=message):
        prices()


# The list.


def test_the_list_has_the_day_of_its_last_update() -> None:
    assert date.fromisoformat(LISTED_ON) <= date.today()


def test_the_list_can_be_extended_and_given_as_a_pricing() -> None:
    together = {**LIST_PRICES, "acme": {"default": CHEAP}}
    assert found(together, "acme", None) == ("default", 1)
    assert found(together, "openai", "gpt-4o") == ("exact", 2.5e-6)


def test_the_list_has_no_defaults() -> None:
    assert all(set(provider) == {"models"} for provider in LIST_PRICES.values())


@pytest.mark.parametrize("provider", LIST_PRICES)
def test_cache_reads_cost_less_than_input_and_output_costs_more(provider: str) -> None:
    for name, price in LIST_PRICES[provider]["models"].items():
        assert price.get("cache_read", 0) < price["input"] < price["output"] < 0.001, name


@pytest.mark.parametrize(
    ("provider", "model", "by", "per_million"),
    [
        ("anthropic", "claude-3-5-sonnet-20241022", "prefix", (3, 15, 0.3, 3.75)),
        ("claude", "claude-sonnet-4-5-20250929", "prefix", (3, 15, 0.3, 3.75)),
        ("claude", "claude-opus-4-20250514", "prefix", (15, 75, 1.5, 18.75)),
        ("claude", "claude-opus-4-5", "exact", (5, 25, 0.5, 6.25)),
        ("openai", "gpt-4o-2024-08-06", "prefix", (2.5, 10, 1.25, 2.5)),
        ("openai", "gpt-4o-2024-05-13", "exact", (5, 15, 5, 5)),
        ("codex", "gpt-5-codex", "prefix", (1.25, 10, 0.125, 1.25)),
        ("openai", "o3-mini-2025-01-31", "prefix", (1.1, 4.4, 0.55, 1.1)),
        ("google", "gemini-2.5-flash-lite", "exact", (0.1, 0.4, 0.01, 0.1)),
        ("gemini", "gemini-2.5-pro-preview-05-06", "prefix", (1.25, 10, 0.125, 1.25)),
    ],
)
def test_the_list_prices_models_by_their_stored_names(
    provider: str, model: str, by: str, per_million: tuple[float, ...]
) -> None:
    match = listed(provider, model)
    price = match.price
    usd = (price.input, price.output, price.cache_read, price.cache_creation)

    assert match.by == by
    assert usd == pytest.approx([each / 1e6 for each in per_million])


def test_a_listed_price_is_the_float_nearest_to_the_published_one() -> None:
    assert listed("anthropic", "claude-3-7-sonnet").price.cache_read == 0.3e-6


@pytest.mark.parametrize("model", ["claude-next", "llama-3", "gemini", "gpt-7"])
def test_a_model_that_is_not_in_the_list_has_no_price(model: str) -> None:
    assert [prices().find(provider, model) for provider in LIST_PRICES] == [None] * len(LIST_PRICES)


def test_the_names_in_the_list_are_distinct_model_names() -> None:
    names = [name for provider in LIST_PRICES.values() for name in provider["models"]]
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)
    assert len(set(names)) == len(names)
