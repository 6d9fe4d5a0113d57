"""The token usage of each provider, as its API or SDK reports it, and what the store reads from it."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.operations.runs import save_run
from asm.usage import token_counts

FIVE = {
    "input_tokens": 1_000,
    "output_tokens": 500,
    "total_tokens": 1_500,
    "cache_read_tokens": 100_000,
    "cache_creation_tokens": 20_000,
}
BESIDE = {name: FIVE[name] for name in FIVE if name != "total_tokens"}
INSIDE = {"input_tokens": 200, "output_tokens": 500, "total_tokens": 1_500, "cache_read_tokens": 800}

ANTHROPIC = {
    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 20_000},
    "cache_creation_input_tokens": 20_000,
    "cache_read_input_tokens": 100_000,
    "inference_geo": None,
    "input_tokens": 1_000,
    "output_tokens": 500,
    "output_tokens_details": None,
    "server_tool_use": {"web_fetch_requests": 0, "web_search_requests": 2},
    "service_tier": "standard",
}
OPENAI_CHAT = {
    "completion_tokens": 500,
    "prompt_tokens": 1_000,
    "total_tokens": 1_500,
    "completion_tokens_details": {
        "accepted_prediction_tokens": None,
        "audio_tokens": 0,
        "reasoning_tokens": 300,
    },
    "prompt_tokens_details": {"audio_tokens": 0, "cache_write_tokens": None, "cached_tokens": 800},
}
OPENAI_RESPONSES = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 800},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 300},
    "total_tokens": 1_500,
}
GOOGLE = {
    "cache_tokens_details": None,
    "cached_content_token_count": 800,
    "candidates_token_count": 200,
    "prompt_token_count": 1_000,
    "prompt_tokens_details": [{"modality": "TEXT", "token_count": 1_000}],
    "thoughts_token_count": 300,
    "tool_use_prompt_token_count": None,
    "total_token_count": 1_500,
    "traffic_type": "ON_DEMAND",
}
LANGCHAIN = {
    "input_tokens": 121_000,
    "output_tokens": 500,
    "total_tokens": 121_500,
    "input_token_details": {
        "cache_read": 100_000,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 15_000,
        "ephemeral_1h_input_tokens": 5_000,
    },
    "output_token_details": {"reasoning": 300},
}
REPORTED: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "the store's own names": (FIVE, FIVE),
    "Anthropic": (ANTHROPIC, BESIDE),
    "Anthropic without caching": (
        {"input_tokens": 3, "output_tokens": 2},
        {"input_tokens": 3, "output_tokens": 2},
    ),
    "Anthropic's message_delta": ({"input_tokens": None, "output_tokens": 2}, {"output_tokens": 2}),
    "OpenAI chat completions": (OPENAI_CHAT, INSIDE),
    "OpenAI chat completions without details": (
        {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": None},
        {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    ),
    "OpenAI Responses": (OPENAI_RESPONSES, INSIDE),
    "OpenAI Responses that wrote a cache": (
        OPENAI_RESPONSES | {"input_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 150}},
        INSIDE | {"input_tokens": 50, "cache_creation_tokens": 150},
    ),
    "OpenAI Realtime": (
        OPENAI_RESPONSES
        | {"input_tokens_details": None, "input_token_details": {"cached_tokens": 800, "text_tokens": 200}},
        INSIDE,
    ),
    "Codex": ({"input_tokens": 1_000, "cached_input_tokens": 800, "output_tokens": 500}, INSIDE),
    "Google": (GOOGLE, INSIDE),
    "Google with the results of its own tools": (
        GOOGLE | {"tool_use_prompt_token_count": 70, "total_token_count": 1_570},
        INSIDE | {"input_tokens": 270, "total_tokens": 1_570},
    ),
    "Google Live": (
        {"prompt_token_count": 3, "response_token_count": 2, "total_token_count": 5},
        {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    ),
    "Google's JSON": (
        {
            "promptTokenCount": 1_000,
            "cachedContentTokenCount": 800,
            "candidatesTokenCount": 500,
            "totalTokenCount": 1_500,
        },
        INSIDE,
    ),
    "Google without tokens": (dict.fromkeys(GOOGLE), {}),
    "Bedrock": (
        {
            "inputTokens": 1_000,
            "outputTokens": 500,
            "totalTokens": 121_500,
            "cacheReadInputTokens": 100_000,
            "cacheWriteInputTokens": 20_000,
            "cacheDetails": [],
        },
        FIVE | {"total_tokens": 121_500},
    ),
    "LangChain": (LANGCHAIN, FIVE | {"total_tokens": 121_500}),
    "Pydantic AI": (
        {
            "input_tokens": 1_000,
            "cache_read_tokens": 800,
            "cache_write_tokens": 0,
            "output_tokens": 500,
            "requests": 1,
            "details": {},
        },
        INSIDE | {"cache_creation_tokens": 0},
    ),
    "Vercel AI SDK": (
        {
            "inputTokens": 1_000,
            "inputTokenDetails": {"noCacheTokens": 200, "cacheReadTokens": 800},
            "outputTokens": 500,
            "totalTokens": 1_500,
            "cachedInputTokens": 800,
        },
        INSIDE,
    ),
    "LiteLLM": (
        OPENAI_CHAT | {"cache_read_input_tokens": 800, "cache_creation_input_tokens": 0},
        INSIDE | {"cache_creation_tokens": 0},
    ),
}
USAGES = pytest.mark.parametrize(("usage", "counts"), REPORTED.values(), ids=REPORTED)


class ModelDump:
    """An object with the method by which the SDKs' objects, which are Pydantic models, become dicts."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def model_dump(self) -> dict[str, Any]:
        return self._values


def a_run(**fields: Any) -> asm.Run:
    return asm.Run(**{"session_id": "ses_1"} | fields)


# What each provider reports.


@USAGES
def test_a_provider_s_usage_is_read_under_the_store_s_names(usage: Any, counts: dict[str, int]) -> None:
    assert asm.token_usage(usage) == counts


@USAGES
def test_an_object_of_an_sdk_is_read_like_its_dict(usage: Any, counts: dict[str, int]) -> None:
    assert asm.token_usage(ModelDump(usage)) == counts
    assert asm.token_usage(MappingProxyType(usage)) == counts


def test_a_dict_with_objects_of_an_sdk_in_it_is_read_like_its_dict() -> None:
    details = ModelDump(OPENAI_CHAT["prompt_tokens_details"])  # type: ignore[arg-type]

    assert asm.token_usage(OPENAI_CHAT | {"prompt_tokens_details": details}) == INSIDE


def test_a_dataclass_is_read_like_its_dict() -> None:
    usage = dataclasses.make_dataclass("Usage", OPENAI_RESPONSES)(**OPENAI_RESPONSES)

    assert asm.token_usage(usage) == INSIDE
    with pytest.raises(asm.ValidationError, match="not type"):
        asm.token_usage(type(usage))


@USAGES
def test_a_run_adds_a_usage_of_each_provider(usage: Any, counts: dict[str, int]) -> None:
    twice = a_run().update_token_usage(usage).update_token_usage(ModelDump(usage)).token_usage

    assert {name: twice[name] for name in FIVE if name in twice} == {
        name: 2 * count for name, count in counts.items()
    }


@USAGES
def test_the_usage_of_a_run_is_read_again_as_the_same_counts(usage: Any, counts: dict[str, int]) -> None:
    assert asm.token_usage(a_run().update_token_usage(usage).token_usage) == counts


@USAGES
def test_a_run_that_is_made_with_a_provider_s_usage_is_counted_by_it(
    usage: Any, counts: dict[str, int]
) -> None:
    run = a_run(token_usage=usage)
    total = (
        {}
        if "total_tokens" in counts or not counts
        else {"total_tokens": token_counts(counts)["total_tokens"]}
    )

    assert run.token_usage == usage
    assert {name: n for name, n in token_counts(usage).items() if n is not None} == counts | total
    assert save_run(run).params["input_tokens"] == counts.get("input_tokens")


def test_what_is_under_other_keys_stays_in_the_run() -> None:
    run = a_run().update_token_usage(ANTHROPIC).update_token_usage(ANTHROPIC)

    assert run.token_usage == {name: 2 * n for name, n in BESIDE.items()} | {
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 40_000},
        "server_tool_use": {"web_fetch_requests": 0, "web_search_requests": 4},
        "service_tier": "standard",
    }


def test_usages_of_several_providers_are_added_in_one_run() -> None:
    run = a_run().update_token_usage(OPENAI_RESPONSES).update_token_usage(ANTHROPIC)

    assert asm.token_usage(run.token_usage) == {
        "input_tokens": 1_200,
        "output_tokens": 1_000,
        "total_tokens": 3_000,
        "cache_read_tokens": 100_800,
        "cache_creation_tokens": 20_000,
    }


def test_an_enum_in_a_usage_becomes_its_plain_value() -> None:
    tier = asm.RunStatus.PENDING

    run = a_run().update_token_usage({"input_tokens": 1, "tier": tier})

    assert type(run.token_usage["tier"]) is str


# What is ambiguous, and what is refused.

HYBRID = {
    "input_tokens": 1_000,
    "cache_read_input_tokens": 800,
    "input_tokens_details": {"cached_tokens": 800},
}


@pytest.mark.parametrize(
    ("provider", "input_tokens"),
    [("anthropic", 1_000), ("claude", 1_000), ("aws.bedrock", 1_000), ("openai", 200), ("Azure", 200)],
)
def test_the_provider_decides_between_two_readings(provider: str, input_tokens: int) -> None:
    assert asm.token_usage(HYBRID, provider=provider)["input_tokens"] == input_tokens
    assert a_run(provider=provider).update_token_usage(HYBRID).token_usage["input_tokens"] == input_tokens


@pytest.mark.parametrize("provider", [None, "acme"])
def test_two_readings_without_a_provider_that_decides_are_refused(provider: str | None) -> None:
    with pytest.raises(asm.ValidationError, match="one of anthropic, openai"):
        asm.token_usage(HYBRID, provider=provider)


@pytest.mark.parametrize("provider", ["anthropic", "acme", None])
def test_the_names_decide_and_not_the_provider(provider: str | None) -> None:
    assert asm.token_usage(OPENAI_RESPONSES, provider=provider) == INSIDE


def test_two_readings_of_the_same_counts_are_one() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}}

    assert asm.token_usage(usage) == {"input_tokens": 3, "cache_read_tokens": 0}


def test_more_cached_tokens_than_the_input_that_includes_them_are_refused() -> None:
    usage = OPENAI_RESPONSES | {"input_tokens_details": {"cached_tokens": 1_001}}

    with pytest.raises(asm.ValidationError, match="1,001 cached tokens, more than the 1,000 input tokens"):
        asm.token_usage(usage)


@pytest.mark.parametrize(
    ("usage", "suggestion"),
    [
        ({"input_token": 3}, " (did you mean 'input_tokens'?)"),
        ({"zzz": 3, 4: 5}, ""),
        ({"usage": ANTHROPIC}, ""),
    ],
)
def test_a_usage_without_a_known_name_is_refused_with_the_known_ones(usage: Any, suggestion: str) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        asm.token_usage(usage)

    assert f"under a known name{suggestion}; it has" in str(refusal.value)
    for name in (*FIVE, "cache_read_input_tokens", "prompt_tokens", "prompt_token_count", "inputTokens"):
        assert name in str(refusal.value)


@pytest.mark.parametrize("usage", [None, "text", 3, [ANTHROPIC], ModelDump([])])  # type: ignore[arg-type]
def test_what_is_no_mapping_is_refused(usage: Any) -> None:
    with pytest.raises(
        asm.ValidationError, match="usage must be a mapping, or an object of a provider's SDK"
    ):
        asm.token_usage(usage)


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", 10**12 + 1], ids=repr)
@pytest.mark.parametrize("path", ["prompt_tokens", "prompt_tokens_details.cached_tokens"])
def test_a_count_that_is_none_is_refused_with_its_path(path: str, value: Any) -> None:
    *parents, key = path.split(".")
    usage: Any = {"completion_tokens": 1, **({parents[0]: {key: value}} if parents else {key: value})}

    with pytest.raises(asm.ValidationError) as refusal:
        asm.token_usage(usage)

    assert refusal.value.details["path"] == f"usage.{path}"


def test_the_sum_of_two_counts_is_bounded() -> None:
    with pytest.raises(asm.ValidationError, match=r"usage\.input_tokens must be from 0 to"):
        asm.token_usage({"prompt_token_count": 10**12, "tool_use_prompt_token_count": 1})


@pytest.mark.parametrize("provider", ["", 3])
def test_a_provider_that_is_no_name_is_refused(provider: Any) -> None:
    with pytest.raises(asm.ValidationError, match="provider"):
        asm.token_usage(FIVE, provider=provider)


# What holds for any usage.

NAMES = [
    *FIVE,
    *("prompt_tokens", "completion_tokens", "prompt_token_count", "inputTokens", "cached_input_tokens"),
    *("cache_read_input_tokens", "cache_write_tokens", "acme"),
]
DETAILS = st.dictionaries(st.sampled_from(["cached_tokens", "cache_read", "audio"]), st.integers(0, 9))


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 99)),
    st.dictionaries(
        st.sampled_from(["input_tokens_details", "prompt_tokens_details", "input_token_details"]), DETAILS
    ),
)
def test_any_usage_that_is_read_is_read_again_as_the_same_counts(usage: Any, details: Any) -> None:
    try:
        counts = asm.token_usage(usage | details)
    except asm.ValidationError:
        return
    run = a_run().update_token_usage(usage | details)

    assert asm.token_usage(run.token_usage) == counts
    assert all(count >= 0 for count in counts.values())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(st.text() | st.sampled_from(NAMES), inner),
        max_leaves=20,
    )
)
def test_any_value_is_read_or_refused(usage: Any) -> None:
    try:
        counts = asm.token_usage(usage)
    except asm.ValidationError:
        return
    assert counts.keys() <= FIVE.keys()
