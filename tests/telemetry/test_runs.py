"""The traces of agents' runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

import asm
from asm.agents import AdapterEvent
from tests.agents.conftest import manager_of
from tests.agents.scripted import Scripted, answer, call, said, used, with_tool
from tests.agents.test_shared_commits import a_claim, a_run, together
from tests.conftest import Where
from tests.telemetry.conftest import Reported, attributes, parent_id, span_id, trace_id


@pytest.fixture
def manager(store: Any, reported: Reported) -> Any:
    """A manager whose store is instrumented, with gen_ai."""
    reported.instrument(store, gen_ai=True)
    return manager_of(store)


def children(reported: Reported, name: str) -> list[str]:
    [parent] = reported.spans(name)
    return [span.name for span in reported.spans() if parent_id(span) == span_id(parent)]


def test_a_run_is_a_trace_of_its_claim_its_appends_its_tools_and_its_end(
    manager: Any, reported: Reported
) -> None:
    result = manager.run_once(
        with_tool(), "Where?", agent_id="guide", model="scripted-1", on_tool=lambda *_: "there"
    )
    [run] = reported.spans("invoke_agent")
    assert (run.name, run.kind, run.parent) == ("invoke_agent guide", SpanKind.INTERNAL, None)
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "scripted",
        "gen_ai.agent.name": "guide",
        "gen_ai.conversation.id": result.session.id,
        "gen_ai.request.model": "scripted-1",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 10,
        "asm.session.id": result.session.id,
        "asm.run.id": result.run.id,
    }
    assert children(reported, "invoke_agent") == [
        "claim_run asm_runs",
        "append_events asm_events",
        "execute_tool lookup",
        "append_events asm_events",
        "end_run asm_runs",
    ]
    [tool] = reported.spans("execute_tool")
    assert attributes(tool) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "lookup",
        "gen_ai.tool.call.id": "call_1",
    }
    assert run.status.status_code is tool.status.status_code is StatusCode.UNSET


def test_the_stored_run_leads_to_its_trace(manager: Any, store: Any, reported: Reported) -> None:
    with reported.tracer.start_as_current_span("request") as request:
        result = manager.run_once(answer(), "Hello?")
    [span] = reported.spans("invoke_agent")
    assert parent_id(span) == request.get_span_context().span_id
    stored = store.get_run(result.run.id).metadata["traceparent"]
    assert stored.startswith(f"00-{format_trace_id(trace_id(span))}-{format_span_id(span_id(span))}-")


def test_without_gen_ai_a_run_has_no_span_and_leads_to_its_callers_trace(
    store: Any, reported: Reported
) -> None:
    reported.instrument(store)
    manager = manager_of(store)
    with reported.tracer.start_as_current_span("request") as request:
        inside = manager.run_once(with_tool(), "Hello?", on_tool=lambda *_: None)
    outside = manager.run_once(answer(), "Hello?")
    assert reported.spans("invoke_agent") == reported.spans("execute_tool") == []
    assert set(children(reported, "request")) == {
        "claim_run asm_runs",
        "append_events asm_events",
        "end_run asm_runs",
    }
    caller = format_span_id(request.get_span_context().span_id)
    assert caller in inside.run.metadata["traceparent"]
    assert "traceparent" not in outside.run.metadata


def test_a_store_that_is_not_instrumented_stores_no_traceparent(store: Any, reported: Reported) -> None:
    with reported.tracer.start_as_current_span("request"):
        result = manager_of(store).run_once(answer(), "Hello?")
    assert "traceparent" not in result.run.metadata
    assert reported.names() == ["request"]


def test_cached_tokens_are_counted_as_input_tokens(manager: Any, reported: Reported) -> None:
    usage = used(100, 7, cache_read_tokens=40, cache_creation_tokens=2)
    manager.run_once(Scripted([said("Hello."), usage]), "Hello?")
    [run] = reported.spans("invoke_agent")
    assert {name: value for name, value in attributes(run).items() if ".usage." in name} == {
        "gen_ai.usage.input_tokens": 142,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.cache_creation.input_tokens": 2,
    }


def test_a_run_that_fails_says_why_and_what_it_used(manager: Any, reported: Reported) -> None:
    failure = asm.ProviderError("overloaded: s3cr3t", status=529, retryable=True)
    adapter = Scripted([said("Let me see.", "tool_use"), call("lookup"), used()], [failure])
    with pytest.raises(asm.ProviderError):
        manager.run_once(adapter, "Hello?", on_tool=lambda *_: None)
    [run] = reported.spans("invoke_agent")
    assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, None)
    assert attributes(run)["error.type"] == "provider_error"
    assert attributes(run)["gen_ai.usage.input_tokens"] == 10
    assert "end_run asm_runs" in children(reported, "invoke_agent")


def test_a_tool_that_raises_fails_its_own_span_and_not_the_runs(manager: Any, reported: Reported) -> None:
    def on_tool(name: str, input: Any) -> Any:
        raise LookupError("s3cr3t")

    manager.run_once(with_tool(), "Hello?", on_tool=on_tool)
    [tool], [run] = reported.spans("execute_tool"), reported.spans("invoke_agent")
    assert (tool.status.status_code, attributes(tool)["error.type"]) == (StatusCode.ERROR, "LookupError")
    assert tool.events == ()
    assert run.status.status_code is StatusCode.UNSET


def test_what_a_tool_does_is_below_its_span(manager: Any, store: Any, reported: Reported) -> None:
    def on_tool(name: str, input: Any) -> Any:
        with reported.tracer.start_as_current_span("lookup in an index"):
            return "there"

    manager.run_once(with_tool(), "Where?", on_tool=on_tool)
    assert children(reported, "execute_tool") == ["lookup in an index"]


def test_what_an_adapter_does_is_below_the_runs_span(manager: Any, reported: Reported) -> None:
    async def ask(_request: Any) -> None:
        reported.tracer.start_span("chat scripted-1").end()

    manager.run_once(Scripted([ask, said("Hello."), used()]), "Hello?")
    assert "chat scripted-1" in children(reported, "invoke_agent")


def test_the_reader_of_a_stream_keeps_its_own_span(manager: Any, reported: Reported) -> None:
    session = manager.start_session("guide")
    reported.clear()
    with reported.tracer.start_as_current_span("request") as request:
        for _ in manager.stream(session.id, answer(), "Hello?"):
            assert trace.get_current_span() is request
    [run] = reported.spans("invoke_agent")
    assert run.name == "invoke_agent guide"
    assert parent_id(run) == request.get_span_context().span_id


def test_a_run_that_is_read_again_uses_no_tokens(manager: Any, reported: Reported) -> None:
    manager.run_once(answer(), "Hello?", run_id="run_1")
    reported.clear()
    manager.run_once(answer(), "Hello?", run_id="run_1")
    [run] = reported.spans("invoke_agent")
    assert "gen_ai.usage.input_tokens" not in attributes(run)
    assert "claim_run asm_runs" not in reported.names()


def test_no_span_of_a_run_contains_what_was_said(manager: Any, reported: Reported) -> None:
    adapter = Scripted(
        [
            AdapterEvent("message_streamed", {"delta": "s3cr3t"}, transient=True),
            said("s3cr3t", "tool_use"),
            call("lookup", {"q": "s3cr3t"}),
            used(),
        ],
        [said("s3cr3t"), used()],
    )
    manager.run_once(adapter, "s3cr3t", on_tool=lambda *_: "s3cr3t", system="s3cr3t")
    assert "s3cr3t" not in "".join(span.to_json() for span in reported.spans())


def test_a_commit_that_several_claims_share_is_of_no_session(where: Where, reported: Reported) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(where.dsn) as store:
            reported.instrument(store, statements=True)
            traced: Any = store._database
            await together(store, [a_claim(a_run(f"ses_{n}")) for n in range(3)], traced._database)

    asyncio.run(main())
    [shared] = reported.spans("group_commit")
    assert "asm.session.id" not in attributes(shared)
    assert "insert into asm_runs" in attributes(shared)["db.query.text"]


def test_a_change_of_a_session_is_one_operation_on_its_table(store: Any, reported: Reported) -> None:
    reported.instrument(store)
    manager = manager_of(store)
    session = manager.start_session("guide")
    manager.pause(session.id)
    assert reported.names() == ["start_session asm_sessions", "change_status asm_sessions"]
