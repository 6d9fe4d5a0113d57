"""One run at a time: claims, leases, cancels, recovery, and calls that are repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import psycopg
import pytest

import asm
from asm.agents import AdapterEvent
from asm.agents.lifecycle import Lifecycle
from asm.operations.runs import lease, with_lease
from tests.agents.conftest import manager_of, types
from tests.agents.scripted import Gate, Scripted, answer, call, delta, pause, said, used, with_tool
from tests.conftest import POSTGRES, Where
from tests.contract.other_clients import only
from tests.fault.concurrent_writers import wait_until

InBackground = Callable[..., Future[Any]]


def abandoned_run(store: Any, session_id: str, **fields: Any) -> asm.Run:
    """A run as a program leaves it that was killed an hour ago."""
    run = asm.Run(session_id=session_id, status="running", **fields)
    run = with_lease(run, datetime.now(UTC) - timedelta(hours=1), owner="host:1:aa", attempt=1)
    store.append_event(asm.Event(type="run_started", session_id=session_id, run_id=run.id))
    store.save_run(run)
    return run


def expire(store: Any, run_id: str) -> asm.Run:
    """Let the lease of a run end now."""
    ended = datetime.now(UTC) - timedelta(seconds=1)
    run: asm.Run = store.update_run(run_id, lambda run: with_lease(run, ended))
    return run


@pytest.fixture
def another(opened: Callable[..., Any], migrated: str) -> Any:
    """A manager of another program: a store of its own."""
    return manager_of(opened(migrated))


class Running:
    """A run in the background, which waits in its first turn."""

    def __init__(
        self, manager: Any, session_id: str, in_background: InBackground, *steps: Any, more: Any = ()
    ) -> None:
        self.gate = Gate()
        self.adapter = Scripted([*steps, self.gate.wait, said("Hello."), used(), *more])
        self.future = in_background(manager.run, session_id, self.adapter, "Hi", run_id="run_1")
        assert self.gate.reached.wait(60)

    def go_on(self) -> Any:
        self.gate.open()
        return self.future.result(60)


# One at a time.


def test_a_second_run_of_a_session_is_refused_from_whatever_machine(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    before = store.get_latest_sequence(session_id)

    for other in (manager, another):
        with pytest.raises(asm.RunActive, match="is running it: wait for its end") as raised:
            other.run(session_id, answer(), "Hi")
        assert raised.value.details == {"session_id": session_id, "run_id": "run_1"}

    assert store.get_latest_sequence(session_id) == before
    assert running.go_on().text == "Hello."
    assert another.run(session_id, answer(), "Hi").text == "Hello."


def test_of_many_claims_at_once_one_wins(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    gate = Gate()
    adapter = Scripted([gate.wait, said("Hello.")])
    claims = [
        in_background(each.run, session_id, adapter, "Hi") for each in (manager, another) for _ in range(12)
    ]
    assert gate.reached.wait(60)
    while sum(claim.done() for claim in claims) < 23:
        time.sleep(0.01)
    gate.open()

    results = [claim.exception(60) for claim in claims]
    assert [type(result) for result in results if result is not None] == [asm.RunActive] * 23
    (run,) = store.list_runs(session_id)
    assert types(store.get_events(session_id, run_id=run.id)).count("run_started") == 1
    assert (run.status, store.maintenance.health_check()) == ("completed", [])


def test_a_run_of_a_program_without_a_manager_is_not_touched(
    store: Any, session_id: str, manager: Any
) -> None:
    store.save_run(asm.Run(id="run_1", session_id=session_id, status="running"))

    with pytest.raises(asm.RunActive, match="it has no lease"):
        manager.run(session_id, answer(), "Hi")
    assert manager.recover(grace=0) == []
    assert store.get_run("run_1").status == "running"
    assert manager.cancel("run_1").status == "cancelled"
    assert manager.run(session_id, answer(), "Hi").text == "Hello."


class Between(NamedTuple):
    """What another program does after a manager has read a session, and before it claims it."""

    change: Callable[[Any, Any, str], Any]
    check: Callable[[Any, Any, str], None]


def deleted(session: asm.Session) -> asm.Session:
    return replace(session, deleted_at=datetime.now(UTC))


def check_resumed(run: Callable[[], Any], store: Any, session_id: str) -> None:
    result = run()
    assert store.get_session(session_id).status == result.session.status == "active"
    stored = types(store.get_events(session_id))
    assert stored[2:5] == ["session_completed", "session_resumed", "run_started"]


def check_refused(run: Callable[[], Any], store: Any, session_id: str) -> None:
    with pytest.raises(asm.Conflict, match="is deleted"):
        run()
    assert (store.list_runs(session_id), store.get_latest_sequence(session_id)) == ([], 2)


def check_not_found(run: Callable[[], Any], store: Any, session_id: str) -> None:
    with pytest.raises(asm.SessionNotFound):
        run()
    assert (store.list_runs(session_id), store.get_latest_sequence(session_id)) == ([], 0)


BETWEEN = {
    "completed": Between(lambda manager, store, session: manager.complete(session), check_resumed),
    "soft-deleted": Between(
        lambda manager, store, session: store.update_session(session, deleted), check_refused
    ),
    "deleted": Between(lambda manager, store, session: store.delete_session(session), check_not_found),
}


@pytest.mark.parametrize("run_id", [None, "order-7"])
@pytest.mark.parametrize("between", BETWEEN)
def test_a_claim_reads_a_session_again_that_has_changed_since(
    between: str,
    run_id: str | None,
    store: Any,
    session_id: str,
    manager: Any,
    another: Any,
    in_background: InBackground,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_read = Gate()
    read = Lifecycle._stored_run

    async def then_wait(lifecycle: Lifecycle, plan: Any) -> Any:
        await has_read.wait()
        return await read(lifecycle, plan)

    monkeypatch.setattr(Lifecycle, "_stored_run", then_wait)
    running = in_background(manager.run, session_id, answer(), "Hi", run_id=run_id)
    assert has_read.reached.wait(60)

    BETWEEN[between].change(another, store, session_id)
    has_read.open()

    BETWEEN[between].check(partial(running.result, 60), store, session_id)


@only(POSTGRES, why="one transaction at a time writes a file")
def test_a_claim_waits_for_a_change_of_its_session_that_is_not_committed(
    store: Any, session_id: str, manager: Any, where: Where, in_background: InBackground
) -> None:
    with psycopg.connect(where.dsn) as connection:
        connection.execute("update asm_sessions set deleted_at = now()")
        running = in_background(manager.run, session_id, answer(), "Hi")
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        with psycopg.connect(where.dsn, autocommit=True) as other:
            wait_until(lambda: other.execute(waiting).fetchone() == (1,))

    check_refused(partial(running.result, 60), store, session_id)


# Leases.


def test_a_running_run_has_an_owner_and_a_lease(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)

    stored = lease(store.get_run("run_1"))
    until = datetime.fromisoformat(stored["lease_until"])
    assert timedelta(seconds=20) < until - datetime.now(UTC) <= timedelta(seconds=60)
    assert stored["owner"].count(":") == 2

    ended = running.go_on().run
    assert lease(ended)["owner"] == stored["owner"]
    expire(store, "run_1")
    assert store.maintenance.list_stale_runs(grace=0) == []


def test_a_lease_is_renewed_while_a_blocking_tool_runs(store: Any, session_id: str) -> None:
    def tool(*_: Any) -> str:
        first = lease(store.get_run("run_1"))["lease_until"]
        give_up_at = time.monotonic() + 60
        while lease(store.get_run("run_1"))["lease_until"] == first:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        return "ok"

    manager = manager_of(store, lease=0.3)
    result = manager.run(session_id, with_tool(), "Hi", run_id="run_1", on_tool=tool)

    assert "tool_call_completed" in types(result.events)


def test_what_an_application_writes_into_the_row_during_a_run_stays(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    store.update_run("run_1", lambda run: replace(run, metadata={**run.metadata, "label": "x"}))

    assert running.go_on().run.metadata["label"] == "x"
    assert store.get_run("run_1").metadata["label"] == "x"


def test_a_run_goes_on_when_an_application_replaces_its_metadata(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    changed = store.update_run("run_1", lambda run: replace(run, metadata={"label": "x"}))

    ended = running.go_on().run
    assert changed.metadata == ended.metadata == {"asm": lease(ended), "label": "x"}
    assert manager.run(session_id, answer(), "Hi").text == "Hello."


def test_recover_ends_the_runs_that_nobody_is_running(store: Any, session_id: str, manager: Any) -> None:
    run = abandoned_run(store, session_id)
    usage = {"input_tokens": 10, "output_tokens": 5, "model": "gpt-4o"}
    for type, data in (("token_usage_updated", usage), ("turn_completed", {"turn": 1})):
        store.append_event(
            asm.Event(id=f"{run.id}.1.aa.{type}", type=type, session_id=session_id, run_id=run.id, data=data)
        )

    (ended,) = manager.recover()

    assert ended == store.get_run(run.id)
    assert (ended.status, ended.error["code"], ended.error["last_sequence"]) == ("failed", "abandoned", 5)
    assert (ended.turn_count, ended.token_usage) == (1, {"input_tokens": 10, "output_tokens": 5})
    last = store.get_events(session_id, last=1)[0]
    assert (last.type, last.data["code"], last.run_id) == ("run_failed", "abandoned", run.id)
    assert manager.recover() == []
    assert store.get_session(session_id).status == "active"


def test_recover_leaves_out_a_usage_that_cannot_be_added(store: Any, session_id: str, manager: Any) -> None:
    run = abandoned_run(store, session_id)
    usages = [{"input_tokens": 10}, *UNUSABLE, {"input_tokens": 5, "cost_usd": 0.5}]
    for n, data in enumerate(usages):
        event = asm.Event(
            id=f"{run.id}.1.aa.{n}", type="token_usage_updated", session_id=session_id, data=data
        )
        store.append_event(replace(event, run_id=run.id))

    (ended,) = manager.recover()

    assert (ended.status, ended.token_usage, ended.cost_usd) == ("failed", {"input_tokens": 15}, 0.5)


UNUSABLE: list[dict[str, Any]] = [
    {"input_tokens": "12"},
    {"input_tokens": -5},
    {"input_tokens": 1.5},
    {"input_tokens": 10**13},
    {"input_tokens": 3, "cost_usd": "0.1"},
]


@pytest.mark.parametrize("usage", [*UNUSABLE, {"input_tokens": 3, "cost_usd": float("nan")}], ids=str)
def test_a_usage_that_cannot_be_added_fails_the_run_and_is_not_stored(
    usage: Any, store: Any, session_id: str, manager: Any
) -> None:
    adapter = Scripted([said("Hello."), used(10, 5), AdapterEvent("token_usage_updated", usage)])

    with pytest.raises(asm.ValidationError, match=r"tokens|cost_usd"):
        manager.run(session_id, adapter, "Hi", run_id="run_1")

    run = store.get_run("run_1")
    assert (run.status, run.token_usage) == ("failed", {"input_tokens": 10, "output_tokens": 5})
    assert types(store.get_events(session_id)).count("token_usage_updated") == 1
    assert manager.run(session_id, answer(), "Hi").text == "Hello."


def test_recover_ends_the_others_before_it_raises_what_one_run_raises(
    store: Any, session_id: str, manager: Any, caplog: pytest.LogCaptureFixture
) -> None:
    full, other = abandoned_run(store, "ses_full"), abandoned_run(store, session_id)
    last = "update asm_session_sequences set last_sequence = 9223372036854775807"
    store.run_transaction(lambda tx: tx.execute(f"{last} where session_id = 'ses_full'"))

    with pytest.raises(asm.Conflict):
        manager.recover()

    assert [store.get_run(run.id).status for run in (full, other)] == ["running", "failed"]
    assert f"run {full.id} was not recovered" in caplog.text


def test_recover_ends_a_run_whose_end_redact_refuses(store: Any, session_id: str) -> None:
    def refuse(event: asm.Event) -> asm.Event:
        if event.run_id == refused.id:
            raise LookupError("found secret")
        return event

    refused, other = abandoned_run(store, session_id), abandoned_run(store, session_id)
    manager = manager_of(store, redact=refuse)

    assert {run.id for run in manager.recover()} == {refused.id, other.id}
    error = {"code": "redact_failed", "message": "redact raised LookupError"}
    assert store.get_run(refused.id).error == error
    assert store.get_events(session_id, run_id=refused.id, last=1)[0].data == error


def test_recover_leaves_a_lease_alone_until_its_grace_is_over(
    store: Any, session_id: str, manager: Any
) -> None:
    run = abandoned_run(store, session_id)
    expire(store, run.id)

    assert manager.recover() == []
    assert store.maintenance.list_stale_runs() == []
    assert [each.id for each in store.maintenance.list_stale_runs(grace=0)] == [run.id]
    assert [each.id for each in manager.recover(grace=0)] == [run.id]


def test_several_programs_recover_a_run_once(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    for _ in range(5):
        abandoned_run(store, session_id)

    calls = [in_background(each.recover) for each in (manager, another) for _ in range(6)]

    assert sum(len(each.result(60)) for each in calls) == 5
    assert types(store.get_events(session_id)).count("run_failed") == 5


def test_recover_fails_the_session_of_a_run_once(
    store: Any, manager: Any, another: Any, in_background: InBackground
) -> None:
    gate = Gate()
    running = in_background(manager.run_once, Scripted([gate.wait, said("Hello.")]), "Hi", run_id="run_1")
    assert gate.reached.wait(60)
    expire(store, "run_1")

    (ended,) = another.recover(grace=0)
    gate.open()

    assert isinstance(running.exception(60), asm.RunLost)
    assert store.get_session(ended.session_id).status == "failed"
    assert types(store.get_events(ended.session_id))[-2:] == ["run_failed", "session_failed"]


def test_a_run_without_a_session_is_recovered_too(store: Any, manager: Any) -> None:
    run = abandoned_run(store, "ses_unsaved")

    assert [each.id for each in manager.recover()] == [run.id]


def test_the_next_run_of_a_session_ends_an_abandoned_one_first(
    store: Any, session_id: str, manager: Any
) -> None:
    before = abandoned_run(store, session_id)

    result = manager.run(session_id, answer(), "Hi")

    assert store.get_run(before.id).error["code"] == "abandoned"
    events = store.get_events(session_id)
    assert [event.type for event in events if event.run_id == before.id] == ["run_started", "run_failed"]
    assert [event.run_id for event in events if event.type == "run_started"] == [before.id, result.run.id]


def test_a_program_whose_run_was_ended_by_another_finds_that_out_and_writes_no_end(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    expire(store, "run_1")
    after = another.run(session_id, answer("Mine."), "Hi")

    with pytest.raises(asm.RunLost, match="another program ended it as failed"):
        running.go_on()

    run = store.get_run("run_1")
    assert (run.status, run.error["code"]) == ("failed", "abandoned")
    ends = [event.type for event in store.get_events(session_id, run_id="run_1")]
    assert [type for type in ends if type in ("run_failed", "run_completed")] == ["run_failed"]
    assert after.text == "Mine."
    assert running.adapter.is_closed.is_set()


def test_what_a_program_appends_to_a_run_that_it_has_lost_is_not_stored(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background, more=[Gate().wait])
    expire(store, "run_1")
    another.run(session_id, answer("Mine."), "Hi")
    before = store.get_latest_sequence(session_id)

    with pytest.raises(asm.RunLost, match="another program ended it as failed"):
        running.go_on()

    assert store.get_latest_sequence(session_id) == before
    contents = [each["content"] for each in manager.transcript(session_id).messages]
    assert contents == ["Hi", "Hi", "Mine."]


def test_a_program_whose_run_was_claimed_again_stops(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    expire(store, "run_1")
    second = another.run(session_id, answer("Mine."), "Hi", run_id="run_1", again=True)

    with pytest.raises(asm.RunLost):
        running.go_on()

    assert store.get_run("run_1") == second.run


def test_a_program_whose_run_is_being_made_again_ends_nothing_of_it(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    expire(store, "run_1")
    gate = Gate()
    adapter = Scripted([gate.wait, said("Mine.")])
    second = in_background(another.run, session_id, adapter, "Hi", run_id="run_1", again=True)
    assert gate.reached.wait(60)
    claimed = store.get_run("run_1")

    with pytest.raises(asm.RunLost, match="has claimed it"):
        running.go_on()

    assert store.get_run("run_1") == claimed
    gate.open()
    assert second.result(60).text == "Mine."
    assert types(store.get_events(session_id, run_id="run_1")).count("run_completed") == 1


def test_a_program_whose_session_is_deleted_stops(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    store.delete_session(session_id)

    with pytest.raises(asm.RunLost, match="it was deleted"):
        running.go_on()
    assert store.get_events(session_id) == []


def test_health_check_reports_a_stale_run_until_it_is_recovered(
    store: Any, session_id: str, manager: Any
) -> None:
    run = abandoned_run(store, session_id)

    (issue,) = store.maintenance.health_check()
    assert (issue.code, issue.session_id) == ("stale_run", session_id)
    assert run.id in issue.message
    manager.recover()
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("text", ["\0", "\ud800", '"asm":{"lease_until":"1999', 2**70])
def test_a_lease_is_found_whatever_else_the_metadata_has(
    text: Any, store: Any, session_id: str, manager: Any
) -> None:
    abandoned_run(store, session_id, metadata={"note": text})
    store.save_run(asm.Run(session_id=session_id, status="running", metadata={"note": text}))

    assert len(manager.recover()) == 1


def test_events_that_an_application_appends_meanwhile_do_not_disturb_a_run(
    store: Any, session_id: str, manager: Any
) -> None:
    def tool(*_: Any) -> str:
        store.append_event(asm.Event(type="acme.note", session_id=session_id))
        return "ok"

    result = manager.run(session_id, with_tool(), "Hi", on_tool=tool)

    assert result.run.status == "completed"
    assert types(store.get_events(session_id)).count("acme.note") == 1


@only(POSTGRES, why="a file has no connection that can be lost")
def test_a_connection_that_is_lost_in_a_run_is_not_noticed(
    store: Any, session_id: str, manager: Any, where: Where
) -> None:
    def disconnect(*_: Any) -> str:
        with psycopg.connect(where.dsn, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        return "ok"

    adapter = Scripted(
        [said("a", "tool_use"), call("t")], [said("b", "tool_use"), call("t", id="c2")], [said("c")]
    )
    shown = list(manager.stream(session_id, adapter, "Hi", on_tool=disconnect))

    assert shown == store.get_events(session_id, run_id=shown[0].run_id)
    assert types(shown)[-1] == "run_completed"
    assert store.maintenance.health_check() == []


def test_what_looks_like_a_later_lease_does_not_hide_one_that_ended(
    store: Any, session_id: str, manager: Any
) -> None:
    metadata = {"note": {"asm": {"lease_until": "9999"}}}
    run = asm.Run(id="run_1", session_id=session_id, status="running", metadata=metadata)
    store.save_run(with_lease(run, datetime(2026, 1, 1, tzinfo=UTC), owner="host:1"))

    assert [each.id for each in store.maintenance.list_stale_runs()] == ["run_1"]
    assert [each.id for each in manager.recover()] == ["run_1"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"note": {"asm": {"lease_until": "0"}}},
        {"asm": {"lease_until": "0"}},
        {"asm": {"lease_until": "2026-01-01T00:00:00"}},
    ],
)
def test_what_only_looks_like_a_lease_is_none(
    metadata: Any, store: Any, session_id: str, manager: Any
) -> None:
    store.save_run(asm.Run(id="run_1", session_id=session_id, status="running", metadata=metadata))

    assert store.maintenance.health_check() == []
    assert store.maintenance.list_stale_runs() == manager.recover() == []
    assert store.get_run("run_1").status == "running"


# Cancels.


def test_a_run_is_cancelled_by_its_own_manager(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background, delta("Hel"))

    run = manager.cancel("run_1", reason="the user left")

    assert run == store.get_run("run_1")
    assert (run.status, run.error["reason"]) == ("cancelled", "the user left")
    with pytest.raises(asm.RunCancelled, match="the user left"):
        running.future.result(60)
    assert running.adapter.is_closed.is_set()
    assert types(store.get_events(session_id))[-2:] == ["message_received", "run_cancelled"]
    assert manager.cancel("run_1") == run


@pytest.mark.parametrize("more", [[], [pause, used()]], ids=["the end", "another event"])
def test_a_run_is_cancelled_by_another_program_when_it_next_appends(
    more: list[Any], store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background, more=more)

    assert another.cancel("run_1", reason="deploy").status == "running"
    another.cancel("run_1", reason="again")

    running.gate.open()
    with pytest.raises(asm.RunCancelled, match="deploy"):
        running.future.result(60)
    run = store.get_run("run_1")
    assert (run.status, run.error["reason"]) == ("cancelled", "deploy")
    ended = types(store.get_events(session_id))
    assert (ended.count("asm.cancel_requested"), ended.count("run_cancelled")) == (1, 1)


def test_a_run_is_cancelled_by_another_program_when_it_renews_its_lease(
    store: Any, session_id: str, another: Any, in_background: InBackground
) -> None:
    running = Running(manager_of(store, lease=0.3), session_id, in_background)

    another.cancel("run_1")

    with pytest.raises(asm.RunCancelled):
        running.future.result(60)
    assert store.get_run("run_1").status == "cancelled"


@pytest.mark.parametrize("request_", ["stop", None, {"reason": {"why": 1}}])
def test_a_request_to_cancel_may_be_of_any_shape(
    request_: Any, store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)
    store.update_run(
        "run_1",
        lambda run: replace(run, metadata={"asm": {**lease(run), "cancel_requested": request_}}),
    )

    with pytest.raises(asm.RunCancelled):
        running.go_on()
    assert store.get_run("run_1").status == "cancelled"


def test_a_tool_is_not_called_after_another_program_has_cancelled_the_run(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    gate, called = Gate(), []
    adapter = Scripted([gate.wait, said("Let me see.", "tool_use"), call("t")], [said("Done.")])
    running = in_background(
        manager.run, session_id, adapter, "Hi", run_id="run_1", on_tool=lambda *_: called.append(1)
    )
    assert gate.reached.wait(60)

    another.cancel("run_1")
    gate.open()

    with pytest.raises(asm.RunCancelled):
        running.result(60)
    assert called == []


def test_a_tool_is_interrupted_by_a_cancel(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    gate = Gate()
    running = in_background(
        manager.run, session_id, with_tool(), "Hi", run_id="run_1", on_tool=lambda *_: gate.arrive()
    )
    assert gate.reached.wait(60)

    manager.cancel("run_1")

    with pytest.raises(asm.RunCancelled):
        running.result(60)
    gate.open()
    assert "tool_call_completed" not in types(store.get_events(session_id))
    assert manager.transcript(session_id).messages[-1]["content"] == "interrupted"


def test_a_run_that_nobody_is_running_is_cancelled_at_once(store: Any, session_id: str, manager: Any) -> None:
    run = abandoned_run(store, session_id)

    assert manager.cancel(run.id).status == "cancelled"
    assert types(store.get_events(session_id))[-1] == "run_cancelled"


def test_of_the_runs_of_one_id_that_of_the_session_is_cancelled(
    store: Any, session_id: str, manager: Any, another: Any, in_background: InBackground
) -> None:
    others = [manager.start_session("assistant").id for _ in range(2)]
    first = Running(manager, session_id, in_background)
    second = Running(manager, others[0], in_background)
    third = Running(another, others[1], in_background)

    assert manager.cancel("run_1", session_id=session_id).session_id == session_id
    assert isinstance(first.future.exception(60), asm.RunCancelled)
    manager.cancel("run_1", session_id=others[1])
    third.gate.open()
    assert isinstance(third.future.exception(60), asm.RunCancelled)
    store.save_run(replace(store.get_run("run_1", session_id=session_id), started_at=datetime.now(UTC)))
    assert manager.cancel("run_1").session_id == others[0]
    assert isinstance(second.future.exception(60), asm.RunCancelled)


def test_a_run_that_does_not_exist_is_not_cancelled(manager: Any) -> None:
    with pytest.raises(asm.RunNotFound):
        manager.cancel("run_typo")


# Repeated calls.


def test_a_completed_run_is_read_and_not_run_again(store: Any, session_id: str, manager: Any) -> None:
    adapter = answer()
    first = manager.run(session_id, adapter, "Hi", run_id="order-7")
    before = store.get_latest_sequence(session_id)

    again = manager.run(session_id, adapter, "Hi", run_id="order-7")

    assert again == first
    assert (len(adapter.requests), store.get_latest_sequence(session_id)) == (1, before)
    assert list(manager.stream(session_id, adapter, "Hi", run_id="order-7")) == list(first.events)


ENDS: dict[str, tuple[Any, dict[str, Any], type[asm.AsmError]]] = {
    "provider": (Scripted([asm.ProviderError("no", status=500, retryable=True)]), {}, asm.ProviderError),
    "timeout": (Scripted([Gate().wait]), {"timeout": 0.1}, asm.RunTimeout),
    "limit": (answer(), {"limits": asm.Limits(total_tokens=1)}, asm.agents.RunFailed),
    "application": (Scripted([KeyError("x")]), {}, asm.agents.RunFailed),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_failed_is_raised_as_it_ended_unless_it_is_to_run_again(
    end: str, store: Any, session_id: str, manager: Any
) -> None:
    adapter, options, kind = ENDS[end]
    with pytest.raises((kind, KeyError)):
        manager.run(session_id, adapter, "Hi", run_id="order-7", **options)

    with pytest.raises(kind) as raised:
        manager.run(session_id, answer(), "Hi", run_id="order-7")
    if isinstance(raised.value, asm.ProviderError):
        assert (raised.value.status, raised.value.retryable) == (500, True)

    result = manager.run(session_id, answer(), "Hi", run_id="order-7", again=True)
    assert (result.run.id, result.run.status, result.run.error) == ("order-7", "completed", None)
    ids = [event.id for event in store.get_events(session_id, run_id="order-7")]
    assert [id.split(".")[1] for id in ids] == sorted(id.split(".")[1] for id in ids)
    assert [event.id for event in result.events] == [id for id in ids if id.startswith("order-7.2.")]
    assert ids[0].startswith("order-7.1.")
    assert manager.run(session_id, answer(), "Hi", run_id="order-7") == result


def test_a_run_that_was_abandoned_is_raised_as_lost(store: Any, session_id: str, manager: Any) -> None:
    run = abandoned_run(store, session_id)

    with pytest.raises(asm.RunLost, match="abandoned"):
        manager.run(session_id, answer(), "Hi", run_id=run.id)
    assert manager.run(session_id, answer(), "Hi", run_id=run.id, again=True).text == "Hello."


def test_two_callers_with_one_run_id_make_one_session_and_one_run(
    store: Any, manager: Any, another: Any, in_background: InBackground
) -> None:
    adapter = answer()
    calls = [
        in_background(each.run_once, adapter, "Hi", run_id="order-7")
        for each in (manager, another)
        for _ in range(8)
    ]
    outcomes = [each.exception(60) for each in calls]

    assert {type(outcome) for outcome in outcomes} <= {type(None), asm.RunActive}
    assert len(adapter.requests) == 1
    assert len(store.list_sessions()) == 1
    assert manager.run_once(adapter, "Hi", run_id="order-7").text == "Hello."
    assert types(store.get_events(store.get_run("order-7").session_id)).count("session_created") == 1


def test_a_run_id_that_is_running_is_active(
    store: Any, session_id: str, manager: Any, in_background: InBackground
) -> None:
    running = Running(manager, session_id, in_background)

    with pytest.raises(asm.RunActive):
        manager.run(session_id, answer(), "Hi", run_id="run_1", again=True)

    running.go_on()


def test_a_run_in_a_fork_is_stored_beside_the_copied_events_of_its_id(
    store: Any, session_id: str, manager: Any
) -> None:
    manager.run(session_id, answer("In the parent."), "First", run_id="order-7")
    fork = store.fork_session(session_id)
    copied = store.get_events(fork.id)

    result = manager.run(fork.id, answer("In the fork."), "Second", run_id="order-7")

    assert store.get_events(fork.id, after=len(copied)) == list(result.events)
    assert [each.data["content"] for each in result.events if "content" in each.data] == [
        *("Second", "In the fork."),
    ]


def test_another_attempt_is_stored_when_the_application_has_replaced_the_row(
    store: Any, session_id: str, manager: Any
) -> None:
    with pytest.raises(asm.ProviderError):
        manager.run(session_id, Scripted([said("Half"), asm.ProviderError("no")]), "Hi", run_id="order-7")
    store.save_run(replace(store.get_run("order-7"), metadata={"note": 1}))
    before = store.get_latest_sequence(session_id)

    result = manager.run(session_id, answer("Whole."), "Again", run_id="order-7", again=True)

    assert store.get_events(session_id, after=before) == list(result.events)
    assert result.text == "Whole."
    assert types(result.events)[:2] == ["run_started", "message_sent"]


def test_the_attempts_of_a_run_are_one_in_the_transcript(store: Any, session_id: str, manager: Any) -> None:
    with pytest.raises(asm.ProviderError):
        manager.run(
            session_id, Scripted([delta("Hal"), asm.ProviderError("no")]), "Question", run_id="order-7"
        )
    adapter = answer()
    manager.run(session_id, adapter, "Question", run_id="order-7", again=True)

    assert adapter.messages == [{"role": "user", "content": "Question"}]
    assert [each["content"] for each in manager.transcript(session_id).messages] == ["Question", "Hello."]


# Tools.


def test_the_model_gets_what_a_tool_returns(session_id: str, store: Any, manager: Any) -> None:
    adapter, called = with_tool(input={"city": "Bergen"}), []

    async def awaited(name: str, input: Any) -> Any:
        called.append((name, input))
        return {"rain": True}

    result = manager.run(session_id, adapter, "Hi", tools=[{"name": "lookup", "x": 1}], on_tool=awaited)

    assert called == [("lookup", {"city": "Bergen"})]
    assert adapter.messages == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "call_1", "name": "lookup", "input": {"city": "Bergen"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"rain": true}', "is_error": False},
    ]
    assert list(adapter.requests[0].tools) == [{"name": "lookup", "x": 1}]
    assert (result.text, result.run.turn_count) == ("Let me see.\n\nHere it is.", 2)
    (event,) = store.get_events(session_id, type="tool_call_completed")
    assert (event.data["output"], event.correlation_id) == ({"rain": True}, "call_1")


def test_a_call_is_stored_before_the_tool_is_called(
    session_id: str, store: Any, opened: Callable[..., Any], migrated: str, manager: Any
) -> None:
    other, seen = opened(migrated), []

    def tool(*_: Any) -> str:
        seen.extend(types(other.get_events(session_id, type=("tool_call_started", "turn_completed"))))
        return "ok"

    manager.run(session_id, with_tool(), "Hi", on_tool=tool)

    assert seen == ["tool_call_started", "turn_completed"]


async def cancelled_by_itself(*_: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "tool",
    [lambda *_: 1 / 0, lambda *_: b"bytes", lambda *_: next(iter(())), cancelled_by_itself],
    ids=["raises", "no JSON", "StopIteration", "CancelledError"],
)
def test_a_tool_that_fails_is_told_to_the_model_and_the_run_goes_on(
    tool: Any, session_id: str, store: Any, manager: Any
) -> None:
    adapter = with_tool()

    result = manager.run(session_id, adapter, "Hi", on_tool=tool)

    assert result.run.status == "completed"
    (event,) = store.get_events(session_id, type="tool_call_failed")
    assert event.data["error"]["message"]
    assert adapter.messages[-1]["is_error"] is True
    assert adapter.messages[-1]["content"]


def test_every_call_of_a_turn_is_answered_in_order(session_id: str, manager: Any) -> None:
    adapter = Scripted(
        [said("Two.", "tool_use"), call("a", 1, id="c1"), call("b", 2, id="c2")], [said("Done.")]
    )

    manager.run(session_id, adapter, "Hi", on_tool=lambda name, value: f"{name}{value}")

    assert [each["content"] for each in adapter.messages[2:]] == ["a1", "b2"]


def test_without_on_tool_a_run_ends_with_its_calls(store: Any, session_id: str, manager: Any) -> None:
    result = manager.run(session_id, with_tool(), "Hi")

    assert (result.stop_reason, result.run.status) == ("tool_use", "completed")
    assert result.output["tool_calls"] == [{"id": "call_1", "name": "lookup", "input": {"q": 1}}]
    adapter = answer()
    manager.run(session_id, adapter, [{"role": "tool", "tool_call_id": "call_1", "content": "42"}])
    assert adapter.messages[-1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "42",
        "is_error": False,
    }


def test_calls_of_an_adapter_with_tools_of_its_own_are_not_called(session_id: str, manager: Any) -> None:
    adapter = Scripted([call("Bash"), said("Done.")], capabilities=["own_tools"])

    result = manager.run(session_id, adapter, "Hi", on_tool=lambda *_: 1 / 0)

    assert result.text == "Done."


# History.


def test_the_adapter_gets_the_session_so_far_only_with_history(session_id: str, manager: Any) -> None:
    manager.run(session_id, with_tool(), "First", on_tool=lambda *_: "42")
    adapter = answer()

    manager.run(session_id, adapter, "Second", system="Be brief.", model="m-1")
    assert [(each["role"], each["content"]) for each in adapter.messages] == [
        ("user", "First"),
        ("assistant", "Let me see."),
        ("tool", "42"),
        ("assistant", "Here it is."),
        ("user", "Second"),
    ]
    assert (adapter.requests[-1].system, adapter.requests[-1].model) == ("Be brief.", "m-1")

    manager.run(session_id, adapter, "Third", history=False)
    assert adapter.messages == [{"role": "user", "content": "Third"}]


def test_a_providers_own_session_is_continued_with_what_is_new(
    store: Any, session_id: str, manager: Any
) -> None:
    def native() -> Scripted:
        return Scripted([said("Hello.", provider_session_id="p-1")], capabilities=["resume", "own_tools"])

    manager.run(session_id, native(), "First")
    other = answer("Between.")
    other.provider = "another"
    manager.run(session_id, other, "Second")
    adapter = native()
    manager.run(session_id, adapter, "Third")

    assert adapter.requests[0].resume == "p-1"
    assert [each["content"] for each in adapter.messages] == ["Second", "Between.", "Third"]
    fresh = native()
    manager.run(session_id, fresh, "Fourth", history=False)
    assert fresh.requests[0].resume is None


def test_another_attempt_does_not_continue_the_providers_session_of_the_first(
    session_id: str, manager: Any
) -> None:
    begun = said("Half.", provider_session_id="p-1")
    failing = Scripted([begun, asm.ProviderError("no")], capabilities=["resume"])
    with pytest.raises(asm.ProviderError):
        manager.run(session_id, failing, "Question", run_id="order-7")
    adapter = Scripted([said("Hello.", provider_session_id="p-2")], capabilities=["resume"])

    manager.run(session_id, adapter, "Question", run_id="order-7", again=True)
    assert (adapter.requests[0].resume, adapter.messages) == (
        *(None, [{"role": "user", "content": "Question"}]),
    )
    manager.run(session_id, adapter, "Next")
    assert adapter.requests[-1].resume == "p-2"


@pytest.mark.parametrize(
    "providers",
    [
        *("x", {"scripted": "p-1"}, {"scripted": {"session_id": "p-1"}}),
        {"scripted": {"session_id": 1, "run_id": 2}},
    ],
)
def test_what_an_application_keeps_as_providers_of_a_session_continues_none(
    providers: Any, store: Any, session_id: str, manager: Any
) -> None:
    store.update_session(session_id, lambda session: replace(session, metadata={"providers": providers}))
    message = {"role": "user", "content": "Hi"}
    store.append_event(asm.Event(type="message_sent", session_id=session_id, data=message))
    adapter = Scripted([said("Hello.")], capabilities=["resume"])

    assert manager.run(session_id, adapter, "Go on").run.status == "completed"
    assert adapter.requests[0].resume is None
    assert [each["content"] for each in adapter.messages] == ["Hi", "Go on"]


def test_what_an_application_keeps_as_providers_of_a_session_is_not_replaced(
    store: Any, session_id: str, manager: Any
) -> None:
    store.update_session(session_id, lambda session: replace(session, metadata={"providers": ["x"]}))
    adapter = Scripted([said("Hello.", provider_session_id="p-1")], capabilities=["resume"])

    assert manager.run(session_id, adapter, "Hi").session.metadata == {"providers": ["x"]}
