"""What a run stores and returns, on every database and with both managers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import asm
from asm.agents import AdapterEvent, RunFailed, tools
from asm.agents.tools import in_thread
from tests.agents.conftest import manager_of, stream_until, types
from tests.agents.scripted import Gate, Scripted, answer, call, delta, pause, said, used

InBackground = Callable[..., Future[Any]]


def test_run_once_makes_a_session_runs_in_it_and_completes_it(store: Any, manager: Any) -> None:
    named = {"tags": ["a"], "metadata": {"title": "T"}, "context": {"city": "Bergen"}}
    result = manager.run_once(answer(), "Hi", agent_id="greeter", **named)

    session, run = store.get_session(result.session.id), store.get_run(result.run.id)
    assert (session.status, session.agent_id, session.tags) == ("completed", "greeter", ("a",))
    assert (session.metadata, session.context) == ({"title": "T"}, {"city": "Bergen"})
    assert (run.status, run.input, run.provider, run.turn_count) == ("completed", "Hi", "scripted", 1)
    assert types(store.get_events(session.id)) == [
        *("session_created", "session_started", "run_started", "message_sent"),
        *("message_received", "token_usage_updated", "turn_completed", "run_completed", "session_completed"),
    ]
    assert store.maintenance.health_check() == []


def test_run_once_names_the_agent_after_the_provider(manager: Any) -> None:
    assert manager.run_once(answer(), "Hi").session.agent_id == "scripted"


def test_a_result_has_what_the_run_came_to(store: Any, session_id: str, manager: Any) -> None:
    adapter = Scripted([said("Hello."), used(10, 5, model="gpt-4o")])
    adapter.provider = "openai"

    result = manager.run(session_id, adapter, "Hi")

    assert (result.text, result.stop_reason) == ("Hello.", "end_turn")
    assert result.output == result.run.output == {"text": "Hello.", "stop_reason": "end_turn"}
    assert result.token_usage == {"input_tokens": 10, "output_tokens": 5}
    assert result.cost_usd == pytest.approx(10 * 2.5e-6 + 5 * 10e-6)
    assert result.cost_usd == pytest.approx(store.query.get_cost_summary().total_cost_usd)
    assert result.run == store.get_run(result.run.id)
    assert result.session == store.get_session(session_id)
    assert list(result.events) == store.get_events(session_id, run_id=result.run.id)


def test_run_continues_a_session_and_leaves_it_active(store: Any, session_id: str, manager: Any) -> None:
    manager.run(session_id, answer(), "Hi")
    manager.run(session_id, answer(), "Again")

    assert store.get_session(session_id).status == "active"
    assert [run.status for run in store.list_runs(session_id)] == ["completed", "completed"]


@pytest.mark.parametrize("status", ["pending", "paused", "completed"])
def test_a_run_makes_its_session_active(status: str, store: Any, manager: Any) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a", status=status))

    result = manager.run("ses_1", answer(), "Hi")

    assert store.get_session("ses_1").status == result.session.status == "active"
    assert types(result.events)[0] == ("session_started" if status == "pending" else "session_resumed")


def test_a_run_moves_its_session_to_the_top_of_the_list(store: Any, session_id: str, manager: Any) -> None:
    other = manager.start_session("assistant")

    manager.run(session_id, answer(), "Hi")

    assert [each.id for each in store.query.search_sessions()] == [session_id, other.id]


def test_a_run_in_a_session_that_does_not_exist_writes_nothing(store: Any, manager: Any) -> None:
    with pytest.raises(asm.SessionNotFound):
        manager.run("ses_typo", answer(), "Hi")
    assert store.get_latest_sequence("ses_typo") == 0


def test_a_run_in_a_deleted_session_is_a_conflict(store: Any, session_id: str, manager: Any) -> None:
    session = store.get_session(session_id)
    store.save_session(replace(session, deleted_at=session.created_at))

    with pytest.raises(asm.Conflict, match="is deleted"):
        manager.run(session_id, answer(), "Hi")


@pytest.mark.parametrize(
    "input",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        {"messages": [{"role": "user", "content": "Hi"}]},
        ({"role": "user", "content": "Hi"},),
    ],
    ids=["text", "list", "messages", "tuple"],
)
def test_an_input_is_a_text_or_messages(input: Any, store: Any, manager: Any) -> None:
    adapter = answer()

    result = manager.run_once(adapter, input)

    assert adapter.messages == [{"role": "user", "content": "Hi"}]
    sent = store.get_events(result.session.id, type="message_sent")
    assert [event.data for event in sent] == [{"role": "user", "content": "Hi"}]


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no message": ({"input": []}, "input has no message"),
    "a number": ({"input": 7}, "input must be a text, a list of messages or"),
    "a role": ({"input": [{"role": "usr", "content": "Hi"}]}, r"input\[0\] must be"),
    "no content": ({"input": [{"role": "user"}]}, r"input\[0\].content must be a text or a list"),
    "no JSON": ({"input": [{"role": "user", "content": [b"x"]}]}, "bytes"),
    "no adapter": ({"adapter": object()}, "adapter must be an object with provider, capabilities"),
    "a class": ({"adapter": Scripted}, "not the class Scripted"),
    "a capability": ({"required": ["images"]}, "has not the required capability 'images'"),
    "an unknown capability": ({"required": ["tool"]}, "did you mean 'tools'"),
    "turns": ({"max_turns": 0}, "max_turns must be from 1"),
    "a timeout": ({"timeout": -1}, "timeout must be a number of seconds"),
    "tools": ({"tools": ["lookup"]}, r"tools\[0\] must be the provider's definition"),
    "limits": ({"limits": {"total_tokens": 1}}, "limits must be Limits"),
    "a run id": ({"run_id": "x" * 201}, "run_id must have 1 to 200"),
    "on_tool": ({"on_tool": "lookup"}, "on_tool must be a function"),
}


def test_a_mistake_is_a_validation_error_before_any_write(store: Any, session_id: str, manager: Any) -> None:
    before = store.get_latest_sequence(session_id)

    for given, message in INVALID.values():
        options = {"adapter": answer(), "input": "Hi", **given}
        with pytest.raises(asm.ValidationError, match=message):
            manager.run(session_id, options.pop("adapter"), options.pop("input"), **options)
    assert store.get_latest_sequence(session_id) == before
    assert store.list_runs(session_id) == []


# Streaming.


def test_everything_that_is_shown_is_stored_already_except_deltas(
    store: Any, opened: Callable[..., Any], migrated: str, session_id: str, manager: Any
) -> None:
    adapter = Scripted(
        [delta("Let "), delta("me see."), said("Let me see.", "tool_use"), call("lookup"), used()],
        [said("Here."), pause, used()],
    )
    shown = []
    with opened(migrated) as another:
        for event in manager.stream(session_id, adapter, "Hi", on_tool=lambda *_: "ok"):
            if event.sequence_number is not None:
                assert another.get_event(session_id, event.id) == event
            shown.append(event)

    assert types(event for event in shown if event.sequence_number is None) == ["message_streamed"] * 2
    stored = store.get_events(session_id, run_id=shown[0].run_id)
    assert [event for event in shown if event.sequence_number is not None] == stored
    assert types(shown) == [
        *("run_started", "message_sent", "message_streamed", "message_streamed"),
        *("message_received", "tool_call_started", "token_usage_updated", "turn_completed"),
        *(
            "tool_call_completed",
            "message_received",
            "token_usage_updated",
            "turn_completed",
            "run_completed",
        ),
    ]


def test_a_stream_checks_its_arguments_when_it_is_made(session_id: str, manager: Any) -> None:
    with pytest.raises(asm.ValidationError):
        manager.stream(session_id, answer(), [])


def test_a_stream_raises_after_its_last_event(session_id: str, manager: Any) -> None:
    shown = []
    with pytest.raises(asm.ProviderError, match="overloaded"):
        shown.extend(manager.stream(session_id, Scripted([asm.ProviderError("overloaded")]), "Hi"))

    assert types(shown) == ["run_started", "message_sent", "error_occurred", "run_failed"]


def test_a_stream_that_is_closed_early_is_cancelled(store: Any, session_id: str, manager: Any) -> None:
    adapter = Scripted([delta("Hel"), Gate().wait])

    stream_until("message_streamed", manager, session_id, adapter, "Hi")

    (run,) = store.list_runs(session_id)
    assert (run.status, run.error["reason"]) == ("cancelled", "its stream was closed")
    assert adapter.is_closed.is_set()
    (message,) = store.get_events(session_id, type="message_received")
    assert message.data == {"role": "assistant", "content": "Hel", "partial": True}


def test_others_follow_a_run_as_it_is_stored(
    store: Any,
    opened: Callable[..., Any],
    migrated: str,
    session_id: str,
    manager: Any,
    in_background: InBackground,
) -> None:
    def followed(other: Any) -> list[asm.Event]:
        seen = []
        for event in other.follow_events(session_id):
            seen.append(event)
            if event.type == "message_received":
                half_read.wait(60)
            if event.type == "run_completed":
                break
        return seen

    half_read = threading.Barrier(4)
    followers = [in_background(followed, opened(migrated)) for _ in range(3)]

    async def others_have_read(_: Any) -> None:
        # The run goes on when each follower has seen its first message.
        await in_thread(half_read.wait, 60)

    manager.run(session_id, Scripted([said("Hello."), others_have_read, used()]), "Hi")

    assert [follower.result(60) for follower in followers] == [store.get_events(session_id)] * 3


def test_deltas_are_stored_gathered_only_with_keep_deltas(store: Any, session_id: str) -> None:
    gate = Gate()
    adapter = Scripted([delta("Hel"), delta("lo"), gate.wait, delta("."), said("Hello.")])
    streamed = partial(store.get_events, session_id, type="message_streamed")

    shown = []
    for event in manager_of(store, keep_deltas=0.01).stream(session_id, adapter, "Hi"):
        shown.append(event)
        if event.data.get("delta") == "lo":
            # The first deltas are stored when the time is up, and the last one with the message.
            assert streamed(wait_timeout=30)
            gate.open()

    assert [event.data["delta"] for event in streamed()] == ["Hello", "."]
    assert [event.data.get("delta") for event in shown[2:5]] == ["Hel", "lo", "."]
    manager_of(store).run(session_id, Scripted([delta("Bye"), said("Bye.")]), "Bye")
    assert len(streamed()) == 2


def test_deltas_are_stored_before_their_time_is_up_if_they_are_many(store: Any, session_id: str) -> None:
    adapter = Scripted([delta("x" * 3_000), delta("y" * 3_000), delta("z"), said("Done.")])

    manager_of(store, keep_deltas=600).run(session_id, adapter, "Hi")

    stored = store.get_events(session_id, type="message_streamed")
    assert [len(event.data["delta"]) for event in stored] == [6_000, 1]


# Usage, text, limits.


def test_the_usage_of_all_model_calls_is_added(store: Any, session_id: str, manager: Any) -> None:
    adapter = Scripted(
        [said("a", "tool_use"), call("t"), used(10, 5, cache_read_tokens=3)], [said("b"), used(20, 6)]
    )

    result = manager.run(session_id, adapter, "Hi", on_tool=lambda *_: "ok")

    assert result.token_usage == {"input_tokens": 30, "output_tokens": 11, "cache_read_tokens": 3}
    assert store.query.get_usage_summary().total_tokens == 41


def test_usage_in_the_providers_own_words_is_stored_under_the_known_names(
    store: Any, session_id: str, manager: Any
) -> None:
    usage = {"input_tokens": 12, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
    adapter = Scripted([said("a"), AdapterEvent("token_usage_updated", {**usage, "model": "gpt-4o"})])
    adapter.provider = "openai"

    result = manager.run(session_id, adapter, "Hi")

    (event,) = store.get_events(session_id, type="token_usage_updated")
    assert (event.data["input_tokens"], event.data["cache_read_tokens"]) == (10, 2)
    assert result.token_usage["input_tokens"] == 10
    assert result.run.provider_metadata == {"model": "gpt-4o"}


LIMITS: dict[str, tuple[asm.Limits, str]] = {
    "tokens": (asm.Limits(total_tokens=29), "used 30 tokens, more than total_tokens=29"),
    "calls": (asm.Limits(tool_calls=1), "made 2 tool calls, more than tool_calls=1"),
    "cost": (asm.Limits(cost_usd=0.0001), "USD, more than cost_usd=0.0001"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_run_beyond_a_limit_is_ended_as_failed(
    limit: str, store: Any, session_id: str, manager: Any
) -> None:
    limits, message = LIMITS[limit]
    adapter = Scripted([said("a", "tool_use"), call("t"), used(10, 5, model="gpt-4o")])
    adapter.provider = "openai"
    called = []

    with pytest.raises(RunFailed, match=message) as raised:
        manager.run(session_id, adapter, "Hi", on_tool=lambda *_: called.append(1), limits=limits)

    (run,) = store.list_runs(session_id)
    assert (run.status, run.error["code"]) == ("failed", "limit_exceeded")
    assert raised.value.details["code"] == "limit_exceeded"
    assert (len(called), run.turn_count, run.token_usage["input_tokens"]) == (1, 2, 20)


def test_a_limit_of_the_cost_needs_a_price(session_id: str, manager: Any) -> None:
    with pytest.raises(RunFailed, match="has no price: give one with ASM_PRICING"):
        manager.run(session_id, answer(), "Hi", limits=asm.Limits(cost_usd=1))


UNPRICED = AdapterEvent("token_usage_updated", {"total_tokens": 1_000, "model": "gpt-4o"})


def test_a_limit_of_the_cost_ends_a_run_whose_tokens_are_of_no_kind_with_a_price(
    session_id: str, manager: Any
) -> None:
    adapter = Scripted([said("Hello."), UNPRICED])
    adapter.provider = "openai"

    with pytest.raises(RunFailed, match="has no price"):
        manager.run(session_id, adapter, "Hi", limits=asm.Limits(cost_usd=1))


def test_a_result_whose_tokens_are_of_no_kind_with_a_price_has_no_cost(
    store: Any, session_id: str, manager: Any
) -> None:
    adapter = Scripted([said("Hello."), UNPRICED])
    adapter.provider = "openai"

    assert manager.run(session_id, adapter, "Hi").cost_usd is None
    assert store.query.get_cost_summary().unmapped_runs == 1


def test_a_run_that_asks_for_tools_for_ever_is_ended_after_max_turns(
    store: Any, session_id: str, manager: Any
) -> None:
    adapter = Scripted([said("a", "tool_use"), call("t")])

    with pytest.raises(RunFailed, match="max_turns=3"):
        manager.run(session_id, adapter, "Hi", on_tool=lambda *_: "ok", max_turns=3)

    assert len(adapter.requests) == 3
    assert store.list_runs(session_id)[0].error["code"] == "limit_exceeded"


@pytest.mark.parametrize("mistake", [{"total_tokens": -1}, {"cost_usd": float("nan")}, {"tool_calls": 1.5}])
def test_a_limit_is_checked(mistake: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError, match=rf"limits\.{next(iter(mistake))}"):
        asm.Limits(**mistake)


# Failures.


def test_a_failure_of_the_provider_is_raised_after_the_run_is_stored_as_failed(
    store: Any, manager: Any
) -> None:
    error = asm.ProviderError(
        "overloaded", status=529, request_id="req_1", provider_code="overloaded_error", retryable=True
    )

    with pytest.raises(asm.ProviderError) as raised:
        manager.run_once(Scripted([said("Half", None), error]), "Hi", run_id="order-7")

    run = store.get_run("order-7")
    assert (raised.value.status, raised.value.request_id, raised.value.retryable) == (529, "req_1", True)
    assert run.status == "failed"
    assert run.error == {
        "code": "provider_error",
        "message": "overloaded",
        "retryable": True,
        "status": 529,
        "request_id": "req_1",
        "provider_code": "overloaded_error",
    }
    events = store.get_events(run.session_id)
    assert types(events)[-4:] == ["message_received", "error_occurred", "run_failed", "session_failed"]
    assert store.get_session(run.session_id).status == "failed"


@pytest.mark.parametrize("steps", [[], [delta("Hel")]], ids=["nothing", "a piece"])
def test_a_stream_that_ends_early_is_a_failure_even_if_it_ends_cleanly(
    steps: list[Any], store: Any, session_id: str, manager: Any
) -> None:
    with pytest.raises(asm.ProviderError, match="ended before a message was complete"):
        manager.run(session_id, Scripted(steps), "Hi")

    assert store.list_runs(session_id)[0].status == "failed"


@pytest.mark.parametrize(
    "event",
    [
        AdapterEvent("run_completed"),
        AdapterEvent("session_completed"),
        AdapterEvent("message_received", "Hello."),  # type: ignore[arg-type]
        "said",
    ],
    ids=["run_completed", "session_completed", "no data", "no event"],
)
def test_an_adapter_that_reports_what_is_not_an_adapters_event_fails_the_run(
    event: Any, store: Any, session_id: str, manager: Any
) -> None:
    async def lie(_: Any) -> AsyncIterator[Any]:
        yield event

    adapter = answer()
    adapter.turn = lie  # type: ignore[method-assign, assignment]
    with pytest.raises(asm.ValidationError):
        manager.run(session_id, adapter, "Hi")

    assert store.list_runs(session_id)[0].status == "failed"
    assert types(store.get_events(session_id))[-1] == "run_failed"


def test_what_the_application_raises_ends_the_run_and_is_raised(
    store: Any, session_id: str, manager: Any
) -> None:
    with pytest.raises(KeyError):
        manager.run(session_id, Scripted([KeyError("choices")]), "Hi")

    (run,) = store.list_runs(session_id)
    assert run.error == {"code": "KeyError", "message": "KeyError: 'choices'"}


def test_a_run_that_takes_too_long_is_ended_as_timed_out(store: Any, manager: Any) -> None:
    adapter = Scripted([delta("Hel"), Gate().wait])

    with pytest.raises(asm.RunTimeout, match=r"longer than timeout=1 s"):
        manager.run_once(adapter, "Hi", run_id="slow", timeout=1)

    run = store.get_run("slow")
    assert (run.status, run.error["timeout_s"]) == ("timeout", 1)
    assert adapter.is_closed.is_set()
    events = store.get_events(run.session_id)
    assert types(events)[-3:] == ["message_received", "run_timeout", "session_failed"]
    assert store.get_session(run.session_id).status == "failed"


def test_the_time_of_a_claim_counts(store: Any) -> None:
    def be_slow(event: asm.Event) -> asm.Event:
        if event.type == "run_started":
            time.sleep(0.6)
        return event

    with pytest.raises(asm.RunTimeout):
        manager_of(store, redact=be_slow).run_once(answer(), "Hi", run_id="slow", timeout=0.5)

    assert store.get_run("slow").status == "timeout"


# Redaction.


def hidden(event: asm.Event) -> asm.Event:
    data = json.loads(json.dumps(event.data).replace("secret", "***"))
    return replace(event, data=data)


def test_what_is_redacted_is_stored_nowhere_and_the_caller_sees_the_original(
    store: Any, session_id: str
) -> None:
    adapter = Scripted(
        [said("a secret", "tool_use"), call("t", {"key": "secret"})],
        [delta("the secret"), said("the secret")],
    )
    manager = manager_of(store, redact=hidden, keep_deltas=60)

    shown = list(manager.stream(session_id, adapter, "my secret", on_tool=lambda *_: "the secret output"))
    result = manager.run(session_id, Scripted([said("secret")]), [{"role": "user", "content": "secret"}])
    with pytest.raises(asm.ProviderError):
        manager.run(session_id, Scripted([delta("secret"), asm.ProviderError("secret")]), "secret")

    assert "secret" not in repr(store.query.export_session(session_id).to_dict())
    assert "***" in repr([run.to_dict() for run in store.list_runs(session_id)])
    assert shown[1].data["content"] == "my secret"
    assert result.text == "secret"
    assert adapter.messages[-1]["content"] == "the secret output"


def test_the_reason_why_a_run_or_a_session_is_ended_is_redacted(store: Any, session_id: str) -> None:
    manager = manager_of(store, redact=hidden)
    store.save_run(asm.Run(id="run_1", session_id=session_id, status="running"))

    run = manager.cancel("run_1", reason="the secret")
    manager.fail(session_id, "a secret")

    assert run.error["reason"] == "the ***"
    assert [event.data for event in store.get_events(session_id, last=2)] == [
        {"reason": "the ***"},
        {"code": "failed", "message": "a ***"},
    ]


def test_what_redact_raises_ends_the_run_before_the_write(store: Any, session_id: str) -> None:
    def refuse(event: asm.Event) -> asm.Event:
        if "secret" in repr(event.data):
            raise LookupError("found secret")
        return event

    manager = manager_of(store, redact=refuse)
    with pytest.raises(LookupError):
        manager.run(session_id, answer("secret"), "Hi")
    with pytest.raises(LookupError):
        manager.run(session_id, answer(), "secret")

    (run,) = store.list_runs(session_id)
    assert run.error == {"code": "redact_failed", "message": "redact raised LookupError"}
    assert "secret" not in repr(store.query.export_session(session_id).to_dict())


@pytest.mark.parametrize("redact", [lambda event: None, lambda event: replace(event, id="other")])
def test_redact_must_return_the_same_event(redact: Any, store: Any, session_id: str) -> None:
    with pytest.raises(asm.ValidationError, match="redact must"):
        manager_of(store, redact=redact).run(session_id, answer(), "Hi")


# Sessions.


def test_a_session_is_started_paused_resumed_and_ended_with_its_events(store: Any, manager: Any) -> None:
    named = {"tags": ["a"], "metadata": {"title": "T"}, "context": {"city": "Bergen"}}
    store.save_session(asm.Session(id="ses_0", agent_id="planner"))
    session = manager.start_session("assistant", id="ses_1", parent_session_id="ses_0", **named)
    assert session == store.get_session("ses_1")
    assert (session.tags, session.metadata, session.context, session.parent_session_id) == (
        *(("a",), {"title": "T"}, {"city": "Bergen"}, "ses_0"),
    )
    for change, status in (
        (manager.pause, "paused"),
        (manager.resume, "active"),
        (manager.complete, "completed"),
        (partial(manager.fail, error=ValueError("no")), "failed"),
    ):
        assert change("ses_1") == store.get_session("ses_1")
        assert change("ses_1").status == status

    events = store.get_events("ses_1")
    assert types(events) == [
        *("session_created", "session_started", "session_paused", "session_resumed"),
        *("session_completed", "session_failed"),
    ]
    assert events[-1].data == {"code": "ValueError", "message": "ValueError: no"}


def test_a_session_that_exists_is_not_started_again(store: Any, manager: Any) -> None:
    manager.start_session("assistant", id="ses_1")
    with pytest.raises(asm.AlreadyExists):
        manager.start_session("assistant", id="ses_1")
    assert store.get_latest_sequence("ses_1") == 2


def test_a_session_in_which_a_run_goes_on_is_not_ended(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    gate = Gate()
    running = in_background(manager.run, session_id, Scripted([gate.wait, said("Hello.")]), "Hi")
    assert gate.reached.wait(60)

    for change in (manager.pause, manager.complete, partial(manager.fail, error="no")):
        with pytest.raises(asm.RunActive):
            change(session_id)
    gate.open()

    assert running.result(60).session.status == "active"


# Blocking and async.


def test_a_blocking_manager_in_an_event_loop_names_the_async_one(store: Any) -> None:
    async def in_loop() -> None:
        manager.run_once(answer(), "Hi")

    if isinstance(store, asm.SessionStore):
        manager = asm.SessionManager(store)
        with pytest.raises(asm.ValidationError, match="use AsyncSessionManager with an AsyncSessionStore"):
            asyncio.run(in_loop())
        with pytest.raises(asm.ValidationError, match="use SessionManager with a SessionStore"):
            asm.AsyncSessionManager(store)  # type: ignore[arg-type]
    else:
        with pytest.raises(asm.ValidationError, match="use AsyncSessionManager with a"):
            asm.SessionManager(store._target)


def test_an_option_of_a_manager_is_checked(store: Any) -> None:
    for name, value in (("lease", 0), ("lease", None), ("keep_deltas", 0), ("redact", "x")):
        with pytest.raises(asm.ValidationError, match=name):
            manager_of(store, **{name: value})


def test_both_managers_have_the_same_methods_parameters_and_docstrings() -> None:
    public = [name for name in vars(asm.AsyncSessionManager) if not name.startswith("_")]
    assert public == [name for name in vars(asm.SessionManager) if not name.startswith("_")]
    for name in public:
        blocking, awaited = getattr(asm.SessionManager, name), getattr(asm.AsyncSessionManager, name)
        assert blocking.__doc__ == awaited.__doc__
        assert list(inspect.signature(blocking).parameters) == list(inspect.signature(awaited).parameters)


PARAMETERS = {
    "__init__": "store *lease=60.0 *redact=None *keep_deltas=None",
    "run_once": "adapter input *agent_id=None *run_id=None *metadata=None *context=None *tags=() **run",
    "run": "session_id adapter input *run_id=None *again=False *history=True *on_tool=None *tools=() "
    "*system=None *model=None *timeout=None *max_turns=16 *limits=None *required=()",
    "cancel": "run_id *reason=None *session_id=None",
    "recover": "*grace=30.0",
    "transcript": "session_id *max_messages=None *max_chars=None *max_tokens=None *count=None *after=0",
    "pause": "session_id",
    "resume": "session_id",
    "complete": "session_id",
    "fail": "session_id error",
}


@pytest.mark.parametrize("method", [*PARAMETERS, "stream"])
@pytest.mark.parametrize("manager", [asm.SessionManager, asm.AsyncSessionManager])
def test_a_method_of_a_manager_has_its_parameters_and_defaults(manager: type, method: str) -> None:
    def written(parameter: inspect.Parameter) -> str:
        marks: dict[object, str] = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        before = marks.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        return f"{before}{parameter.name}{default}"

    _, *parameters = inspect.signature(getattr(manager, method)).parameters.values()

    assert " ".join(map(written, parameters)) == PARAMETERS["run" if method == "stream" else method]


def test_the_thread_of_a_blocking_manager_ends_with_it() -> None:
    before = set(threading.enumerate())
    with asm.SessionStore("sqlite://", migrate=True) as store:
        manager = asm.SessionManager(store)
        manager.run_once(answer(), "Hi")
        (thread,) = {each for each in threading.enumerate() if each.name == "asm runs"} - before
        del manager
        gc.collect()

        thread.join(60)

    assert not thread.is_alive()


def test_the_log_shows_what_hides_in_the_name_of_a_tool(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tools, "CLOSE_TIMEOUT_S", 0.01)

    async def cancel_in_vain() -> None:
        begun, released = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()

        task = asyncio.create_task(work())
        await begun.wait()
        await tools.cancelled(task, "the tool 'look\u3164up'")
        released.set()
        await task

    asyncio.run(cancel_in_vain())

    assert r"the tool 'look\u3164up' did not stop" in caplog.text
