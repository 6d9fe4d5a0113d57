"""Answers of Anthropic and OpenAI that arrive whole, in pieces, in part, late, or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

import asm
from asm.agents.protocol import Adapter, AdapterEvent
from tests.agents.adapters.apis import TEXT
from tests.agents.adapters.conftest import Spoken
from tests.agents.adapters.loopback import SOON_S
from tests.agents.adapters.turns import QUESTION, data, failed_turn, request, turn, types

FAST_RETRY = {"retry-after-ms": "1"}


def events_of(adapter: Adapter) -> AsyncGenerator[AdapterEvent]:
    return cast("AsyncGenerator[AdapterEvent]", adapter.turn(request()))


def error_of(spoken: Spoken, **options: Any) -> asm.ProviderError:
    return failed_turn(spoken.adapter(**options))[1]


def test_an_adapter_is_an_adapter(any_api: Spoken) -> None:
    adapter = any_api.adapter()

    assert isinstance(adapter, Adapter)
    assert adapter.provider == any_api.api.name


def test_characters_that_are_cut_by_the_network_arrive_whole(any_api: Spoken) -> None:
    any_api.server.say(*any_api.api.text(), piece_bytes=7)

    events = turn(any_api.adapter())

    assert "".join(event.data["delta"] for event in events if event.transient) == TEXT
    assert data(events, "message_received")["content"] == TEXT


def test_cached_tokens_are_counted_beside_the_input_tokens(any_api: Spoken) -> None:
    any_api.server.say(*any_api.api.text())

    usage = data(turn(any_api.adapter()), "token_usage_updated")

    assert {**usage, "total_tokens": None} == {
        "input_tokens": 12,
        "output_tokens": 25,
        "total_tokens": None,
        "cache_read_tokens": 4_000,
        "cache_creation_tokens": 300,
        "model": any_api.api.model,
    }


def test_an_answer_that_ends_early_but_cleanly_is_an_error_wherever_it_ends(any_api: Spoken) -> None:
    whole = any_api.api.call()

    for length in range(len(whole)):
        any_api.server.say(*whole[:length], headers={any_api.api.request_id: "req_1"})
        error = error_of(any_api)

        assert "ended before its" in str(error)
        assert (error.request_id, error.retryable, error.status) == ("req_1", True, None)


def test_a_connection_that_is_cut_is_an_error(any_api: Spoken) -> None:
    for cut_bytes in (0, 1, 40):
        any_api.server.say(
            *any_api.api.text()[:-1],
            ending="cut",
            cut_bytes=cut_bytes,
            headers={any_api.api.request_id: "req_1"},
        )
        error = error_of(any_api)

        assert (error.request_id, error.retryable) == ("req_1", True)
        assert error.__cause__ is not None


def test_an_error_in_the_middle_of_an_answer_has_its_code(any_api: Spoken) -> None:
    api = any_api.api
    for code, retryable in ((api.overloaded, True), (api.invalid, False)):
        for length in (0, 4):
            any_api.server.say(*api.text()[:length], api.error(code), headers={api.request_id: "req_1"})
            error = error_of(any_api)

            assert f"an error: {code}" in str(error)
            assert (error.provider_code, error.retryable, error.request_id) == (code, retryable, "req_1")
            assert error.status is None


def test_a_request_that_is_refused_for_now_is_sent_again(any_api: Spoken) -> None:
    any_api.server.say({"error": {"message": "slow down"}}, status=429, headers=FAST_RETRY)
    any_api.server.say(*any_api.api.text())

    assert types(turn(any_api.adapter()))[-2:] == ["message_received", "token_usage_updated"]
    assert len(any_api.server.requests) == 2


def test_a_request_that_is_refused_three_times_is_a_retryable_error(any_api: Spoken) -> None:
    headers = {**FAST_RETRY, any_api.api.request_id: "req_1"}
    for _ in range(3):
        any_api.server.say({"error": {"type": "overloaded_error"}}, status=529, headers=headers)

    error = error_of(any_api)

    assert (error.status, error.request_id, error.retryable) == (529, "req_1", True)
    assert any_api.server.answers == []


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_wrong_request_is_sent_once(any_api: Spoken, status: int) -> None:
    any_api.server.say({"error": {"message": "no such model"}}, status=status)

    error = error_of(any_api)

    assert "no such model" in str(error)
    assert (error.status, error.retryable) == (status, False)


def test_an_unknown_option_is_an_error_that_names_it(any_api: Spoken) -> None:
    error = error_of(any_api, temprature=1)

    assert "temprature" in str(error)
    assert error.retryable is False


def test_a_missing_key_is_an_error_that_names_it(any_api: Spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(any_api.api.key)

    assert "api_key" in str(error_of(any_api)).lower()


def test_an_answer_that_stalls_ends_with_the_read_timeout(
    any_api: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_api.module, "READ_TIMEOUT_S", 0.2)
    any_api.server.say(*any_api.api.text()[:4], ending="stall")

    assert error_of(any_api).retryable is True
    assert any_api.server.was_left.wait(SOON_S)


def test_the_read_timeout_is_shorter_than_that_of_the_sdk(any_api: Spoken) -> None:
    any_api.server.say(*any_api.api.text())
    turn(any_api.adapter())

    [headers] = any_api.server.headers
    timeout = {name.lower(): value for name, value in headers.items()}["x-stainless-read-timeout"]
    assert float(timeout) == any_api.module.READ_TIMEOUT_S < 600


def test_a_turn_that_is_closed_gives_its_connection_back_at_once(any_api: Spoken) -> None:
    async def main() -> None:
        async with aclosing(events_of(any_api.adapter())) as events:
            assert (await anext(events)).transient
        assert await asyncio.to_thread(any_api.server.was_left.wait, SOON_S)

    any_api.server.say(*any_api.api.text()[:6], ending="stall")
    asyncio.run(main())


def test_a_turn_that_is_cancelled_gives_its_connection_back_at_once(any_api: Spoken) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(drained(any_api.adapter()))
        assert await asyncio.to_thread(any_api.server.stalled.wait, SOON_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(any_api.server.was_left.wait, SOON_S)

    async def drained(adapter: Adapter) -> None:
        async for _ in adapter.turn(request()):
            pass

    any_api.server.say(*any_api.api.text()[:6], ending="stall")
    asyncio.run(main())


def test_a_given_client_stays_open(any_api: Spoken) -> None:
    async def main() -> None:
        async with any_api.client() as client:
            adapter = any_api.adapter(client)
            for _ in range(2):
                assert [event.type async for event in adapter.turn(request())][-1] == "token_usage_updated"

    any_api.server.say(*any_api.api.text())
    any_api.server.say(*any_api.api.text())
    asyncio.run(main())


def test_one_adapter_serves_several_threads_and_event_loops(any_api: Spoken) -> None:
    adapter = any_api.adapter()
    ended: list[str] = []
    threads = [threading.Thread(target=lambda: ended.append(types(turn(adapter))[-1])) for _ in range(4)]
    for _ in threads:
        any_api.server.say(*any_api.api.text())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)

    assert ended == ["token_usage_updated"] * 4


def test_the_blocking_client_of_an_sdk_is_refused(any_api: Spoken) -> None:
    with (
        any_api.blocking_client() as client,
        pytest.raises(asm.ValidationError, match="client must be an Async"),
    ):
        any_api.adapter(client)


def test_what_a_run_gives_prevails_over_what_the_adapter_has(any_api: Spoken) -> None:
    any_api.server.say(*any_api.api.text())
    any_api.server.say(*any_api.api.text())
    adapter = any_api.adapter(service_tier="auto", metadata={"user_id": "a"})

    turn(adapter)
    first = any_api.server.request
    turn(adapter, QUESTION, model="other", tools=[any_api.api.tool], options={"metadata": {"user_id": "b"}})
    second = any_api.server.request

    assert (first["model"], first["metadata"], "tools" in first) == (
        any_api.api.model,
        {"user_id": "a"},
        False,
    )
    assert (second["model"], second["metadata"], second["service_tier"]) == (
        "other",
        {"user_id": "b"},
        "auto",
    )
    assert second["tools"] == [any_api.api.tool]
