"""The traces of runs that do not complete, and of runs at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

import asm
from tests.agents.conftest import in_background, manager_of
from tests.agents.scripted import Gate, Scripted, answer, said, used, with_tool
from tests.fault.concurrent_writers import wait_until
from tests.telemetry.conftest import Reported, attributes, parent_id, span_id, trace_id
from tests.telemetry.test_runs import children, manager

__all__ = ["in_background", "manager"]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"timeout": 0.01}, "run_timeout"), ({"limits": asm.Limits(total_tokens=1)}, "run_failed")],
    ids=["timeout", "limit"],
)
def test_a_run_that_is_ended_says_why(
    options: dict[str, Any], error: str, manager: Any, reported: Reported
) -> None:
    steps = [said("Hello."), used()] if "limits" in options else [Gate().wait]
    with pytest.raises(asm.AsmError):
        manager.run_once(Scripted(steps), "Hello?", **options)
    [run] = reported.spans("invoke_agent")
    assert (run.status.status_code, attributes(run)["error.type"]) == (StatusCode.ERROR, error)


def test_another_attempt_of_a_run_leads_to_its_own_trace_or_to_none(store: Any, reported: Reported) -> None:
    reported.instrument(store)
    manager = manager_of(store)
    session = manager.start_session("guide")
    adapter = Scripted([asm.ProviderError("overloaded")])
    with pytest.raises(asm.ProviderError), reported.tracer.start_as_current_span("first"):
        manager.run(session.id, adapter, "Hello?", run_id="run_1")
    assert "traceparent" in store.get_run("run_1").metadata

    again = manager.run(session.id, answer(), "Hello?", run_id="run_1", again=True)

    assert "traceparent" not in again.run.metadata


def test_a_run_that_is_cancelled_says_so_and_the_cancel_is_in_its_callers_trace(
    manager: Any, reported: Reported, in_background: Callable[..., Future[Any]]
) -> None:
    gate = Gate()
    running = in_background(manager.run_once, Scripted([gate.wait]), "Hello?", run_id="run_1")
    assert gate.reached.wait(60)
    with reported.tracer.start_as_current_span("the user leaves"):
        manager.cancel("run_1")
    assert isinstance(running.exception(60), asm.RunCancelled)
    [run] = reported.spans("invoke_agent")
    assert attributes(run)["error.type"] == "run_cancelled"
    assert children(reported, "the user leaves") == ["get_run asm_runs"]
    assert "end_run asm_runs" in children(reported, "invoke_agent")


def test_a_run_that_is_refused_has_a_span_without_the_agent_whose_session_it_is(
    manager: Any, store: Any, reported: Reported
) -> None:
    session = manager.start_session("guide")
    store.save_run(asm.Run(session_id=session.id, status="running"))
    with pytest.raises(asm.RunActive):
        manager.run(session.id, answer(), "Hello?")
    [run] = reported.spans("invoke_agent")
    assert (run.name, attributes(run)["error.type"]) == ("invoke_agent", "run_active")
    assert attributes(run).keys() == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.conversation.id",
        "asm.session.id",
        "error.type",
    }


def test_runs_at_once_are_each_in_the_trace_of_their_caller(
    manager: Any, reported: Reported, in_background: Callable[..., Future[Any]]
) -> None:
    together = threading.Barrier(4)

    def on_tool(*_: Any) -> str:
        together.wait(60)
        with reported.tracer.start_as_current_span("lookup in an index"):
            return "there"

    def request(number: int) -> int:
        with reported.tracer.start_as_current_span(f"request {number}") as span:
            manager.run_once(with_tool(), "Where?", on_tool=on_tool)
            return span.get_span_context().trace_id

    requests = [in_background(request, number) for number in range(4)]
    traces = {each.result(60) for each in requests}
    assert len(traces) == 4
    for trace_of_request in traces:
        spans = [span for span in reported.spans() if trace_id(span) == trace_of_request]
        names = {span_id(span): span.name for span in spans}
        found = [(span.name, names.get(parent_id(span) or 0)) for span in spans]
        assert found == [
            (spans[0].name, None),
            ("invoke_agent scripted", spans[0].name),
            ("claim_run asm_runs", "invoke_agent scripted"),
            ("append_events asm_events", "invoke_agent scripted"),
            ("execute_tool lookup", "invoke_agent scripted"),
            ("lookup in an index", "execute_tool lookup"),
            ("append_events asm_events", "invoke_agent scripted"),
            ("end_run asm_runs", "invoke_agent scripted"),
        ]


def test_the_renewals_of_a_lease_are_in_the_trace_of_the_run(store: Any, reported: Reported) -> None:
    reported.instrument(store, gen_ai=True)

    def on_tool(*_: Any) -> str:
        wait_until(lambda: reported.spans("update_run asm_runs"))
        return "there"

    manager_of(store, lease=0.3).run_once(with_tool(), "Where?", on_tool=on_tool)
    [run] = reported.spans("invoke_agent")
    assert {parent_id(span) for span in reported.spans("update_run asm_runs")} == {span_id(run)}
