"""The life of a run in the store: it is claimed, its lease is renewed, and it ends once.

Of several clients that claim a session, or end a run, one does, and the others raise and store nothing:
`asm.operations.claims` says how.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from asm.agents.inputs import event_type_of
from asm.agents.outcomes import Outcome, abandoned, cancelled_outcome
from asm.agents.plans import Plan
from asm.agents.progress import with_usages
from asm.agents.recording import Recorder, Redactor, Show, event_id_prefix
from asm.async_store import AsyncSessionStore, AsyncTransaction, run_operation
from asm.documents import Document
from asm.engine.script import Operation
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import Conflict, RunActive, RunCancelled, RunLost, RunNotFound, SessionNotFound
from asm.models import Event, Run, Session, new_id, now
from asm.observing import observer_of
from asm.operations.claims import (
    ActiveRunFound,
    Ended,
    RunChanged,
    claim_named_run,
    claim_run,
    end_changed_run,
    end_run,
)
from asm.operations.runs import is_stale, lease, lease_end, with_lease, without_lease

CANCEL_REQUESTED = "asm.cancel_requested"
"""The type of the event that asks another program to cancel its run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is claimed: nobody else runs it, or another one of its session, until its lease is over."""

    run: Run
    session: Session
    recorder: Recorder
    first_sequence: int


class Lifecycle:
    """Claims, renews and ends runs in a store."""

    def __init__(self, store: AsyncSessionStore, lease_s: float, redact: Redactor) -> None:
        self._store = store
        self._lease_s = lease_s
        self._redact = redact

    async def claim(self, plan: Plan, show: Show) -> Claim | Run:
        """Begin a run; or the run of the plan's id as it is stored, if it has ended."""
        while True:
            session = await self._session(plan)
            stored = await self._stored_run(plan)
            if stored is not None and stored.status.is_terminal and not plan.again:
                return stored
            try:
                return await self._claim(plan, show, session, stored)
            except ActiveRunFound as found:
                if not is_stale(found.run):
                    raise run_active(found.run) from None
                await self.abandon(found.run)
            except RunChanged:
                # Another client began or ended the run of this id.
                continue

    async def _session(self, plan: Plan) -> Session:
        """The session that is stored, or the new one."""
        if plan.new_session is None:
            session = await self._store.get_session(plan.session_id)
            if session.deleted_at is not None:
                raise Conflict(
                    f"session {session.id!r} is deleted: run in another one", session_id=session.id
                )
            return session
        if plan.run_id is None:
            return plan.new_session
        try:
            return await self._store.get_session(plan.session_id)
        except SessionNotFound:
            return plan.new_session

    async def _stored_run(self, plan: Plan) -> Run | None:
        if plan.run_id is None:
            return None
        try:
            return await self._store.get_run(plan.run_id, session_id=plan.session_id)
        except RunNotFound:
            return None

    async def _claim(self, plan: Plan, show: Show, session: Session, before: Run | None) -> Claim:
        run = self._new_run(plan, before)
        recorder = Recorder(self._store, run, self._redact, show)
        for event in _session_events(plan, session, recorder):
            recorder.hold(event)
        run = self._hold_input(plan, run, recorder)
        is_new = session is plan.new_session
        status = None if is_new or session.status == SessionStatus.ACTIVE else SessionStatus.ACTIVE
        begun = replace(session, status=SessionStatus.ACTIVE, updated_at=now())
        claim: Operation[list[Event]]
        if plan.run_id is None:
            claim = claim_run(run, begun, recorder.held, status)
        else:
            claim = claim_named_run(run, begun, recorder.held, status, before)
        claim.name = "claim_run"
        events = await run_operation(self._store, claim)
        recorder.confirm(events)
        return Claim(run, begun, recorder, events[0].sequence_number or 0)

    def _new_run(self, plan: Plan, before: Run | None) -> Run:
        attempt = 1 if before is None else lease(before).get("attempt", 0) + 1
        model = plan.model or getattr(plan.adapter, "model", None)
        run = Run(
            id=plan.run_id or new_id("run_"),
            session_id=plan.session_id,
            status=RunStatus.RUNNING,
            provider=plan.adapter.provider,
            provider_metadata={"model": model} if isinstance(model, str) else {},
            metadata={**({} if before is None else without_lease(before).metadata), **self._trace()},
        )
        more: Document = {"ends_session": True} if plan.new_session is not None else {}
        owner = f"{socket.gethostname()[:100]}:{os.getpid()}:{os.urandom(4).hex()}"
        return with_lease(run, self._lease_until(), owner=owner, attempt=attempt, **more)

    def _trace(self) -> dict[str, str]:
        """What the run's metadata keeps of the current trace, if the store is observed."""
        observer = observer_of(self._store)
        return {} if observer is None else observer.carrier()

    def _lease_until(self) -> datetime:
        return now() + timedelta(seconds=self._lease_s)

    def _hold_input(self, plan: Plan, run: Run, recorder: Recorder) -> Run:
        """Hold the events that begin the run, and return it with its input as it is to be stored."""
        data: Document = {"input": plan.input, **run.provider_metadata}
        if plan.tools:
            data["tools"] = [tool.get("name", "") for tool in plan.tools]
        started = recorder.make(EventType.RUN_STARTED, data)
        input, stored = self._redact.value(started, "input")
        shown = replace(started, data={name: value for name, value in data.items() if name != "input"})
        recorder.hold_as(shown, stored)
        for message in plan.messages:
            recorder.hold(recorder.make(event_type_of(message), message))
        return replace(run, input=input)

    async def renew(self, run: Run) -> Run:
        """The stored run, whose lease is renewed. RunLost if it is not the caller's any more."""
        change = partial(_renewed, run, self._lease_until())
        try:
            return await self._store.update_run(run.id, change, session_id=run.session_id)
        except RunNotFound as error:
            raise run_lost(run, "it was deleted") from error

    async def look(self, run: Run) -> Run:
        """The stored run. RunLost if it is not the caller's any more."""
        try:
            stored = await self._store.get_run(run.id, session_id=run.session_id)
        except RunNotFound as error:
            raise run_lost(run, "it was deleted") from error
        return _check_ours(run, stored)

    async def end(
        self,
        run: Run,
        events: Sequence[Event],
        status: SessionStatus | None,
        change: Callable[[Session], Session] | None = None,
    ) -> Ended:
        """Append the last events of a run, and store it as it ended. RunLost if another client ended it.

        Its session gets the status, if one is given, and what `change` makes of it.
        """
        change_run, change_session = partial(_ended, run), partial(_with_status, status, change)
        operation: Operation[Ended]
        if run.status == RunStatus.COMPLETED and change is None:
            operation = end_run(run, events, status, change_run, change_session)
        else:
            operation = end_changed_run(run, events, change_run, change_session)
        operation.name = "end_run"
        try:
            return await run_operation(self._store, operation)
        except RunNotFound as error:
            raise run_lost(run, "it was deleted") from error

    async def abandon(self, run: Run) -> Run | None:
        """End a run whose lease is over. None if another client ended or renewed it meanwhile."""
        last = await self._store.get_events(run.session_id, run_id=run.id, last=1)
        outcome = abandoned(run, last[-1].sequence_number or 0 if last else 0)
        return await self._end_for_another(await self._with_progress(run), outcome)

    async def cancel(self, run_id: str, reason: str | None) -> Run:
        """Ask the program that runs a run to cancel it, or end a run that nobody is running."""
        run = await self._store.get_run(run_id)
        if run.status.is_terminal or ("cancel_requested" in lease(run) and not is_stale(run)):
            return run
        if is_stale(run) or lease_end(run) is None:
            outcome = cancelled_outcome(reason)
            ended = await self._end_for_another(await self._with_progress(run), outcome)
            return ended or await self._store.get_run(run_id, session_id=run.session_id)
        event = Event(
            type=CANCEL_REQUESTED,
            session_id=run.session_id,
            run_id=run.id,
            data={} if reason is None else {"reason": reason},
        )
        work = partial(_write_request, run, self._redact(event))
        return await self._store.run_transaction(work, idempotent=True)

    async def _end_for_another(self, run: Run, outcome: Outcome) -> Run | None:
        """End a run that nobody is running. None if it has changed since it was read."""
        id = f"{event_id_prefix(run)}{outcome.type}"
        events = [self._event(run, id, outcome.type, outcome.data)]
        outcome = replace(outcome, data=dict(events[0].data))
        status = None
        if lease(run).get("ends_session"):
            events.append(self._event(run, f"{id}.session", outcome.session_event, outcome.session_data))
            status = outcome.session_status
        ended = replace(run.update_status(outcome.status), error=outcome.error)
        changes = partial(_ended_if_unchanged, run, ended), partial(_with_status, status, None)
        end: Operation[Ended] = end_changed_run(run, events, *changes)
        if lease_end(run) is not None:
            end = end_run(ended, events, status, *changes, expected=run)
        end.name = "end_run"
        try:
            return (await run_operation(self._store, end)).run
        except (RunNotFound, RunLost):
            return None

    def _event(self, run: Run, id: str, type: str, data: Document) -> Event:
        event = Event(
            id=id, type=type, session_id=run.session_id, run_id=run.id, data=data, provider=run.provider
        )
        return self._redact(event)

    async def _with_progress(self, run: Run) -> Run:
        """The run with the turns and the token usage that its events report."""
        types = (EventType.TURN_COMPLETED, EventType.TOKEN_USAGE_UPDATED)
        stored = await self._store.get_events(run.session_id, run_id=run.id, type=types)
        events = [event for event in stored if event.id.startswith(event_id_prefix(run))]
        usages = [event.data for event in events if event.type == EventType.TOKEN_USAGE_UPDATED]
        return with_usages(replace(run, turn_count=len(events) - len(usages)), usages)


def run_lost(run: Run, reason: str) -> RunLost:
    return RunLost(
        f"run {run.id!r} is not this program's any more: {reason}. Read what is stored of it",
        run_id=run.id,
        session_id=run.session_id,
    )


def run_cancelled(run_id: str, reason: str | None) -> RunCancelled:
    because = f": {reason}" if reason else ""
    return RunCancelled(f"run {run_id!r} was cancelled{because}", run_id=run_id, reason=reason or "cancelled")


def cancel_requested(stored: Run) -> RunCancelled:
    """The exception for a run that another program asks to cancel."""
    requested = lease(stored).get("cancel_requested")
    return run_cancelled(stored.id, requested.get("reason") if isinstance(requested, dict) else None)


# Changes of rows.


def _with_status(
    status: SessionStatus | None, change: Callable[[Session], Session] | None, session: Session
) -> Session:
    changed = session if change is None else change(session)
    return replace(changed, updated_at=now()) if status is None else changed.update_status(status)


def _check_ours(run: Run, stored: Run) -> Run:
    owner = lease(stored).get("owner")
    if stored.status != RunStatus.RUNNING:
        raise run_lost(run, f"another program ended it as {stored.status}")
    if owner != lease(run)["owner"]:
        raise run_lost(run, f"{owner} has claimed it")
    return stored


def _renewed(run: Run, until: datetime, stored: Run) -> Run:
    return with_lease(_check_ours(run, stored), until)


def _ended(ended: Run, stored: Run) -> Run:
    if _is_same_end(ended, stored):
        return stored
    _check_ours(ended, stored)
    if ended.status == RunStatus.COMPLETED and "cancel_requested" in lease(stored):
        raise cancel_requested(stored)
    return _final(ended, stored)


def _ended_if_unchanged(run: Run, ended: Run, stored: Run) -> Run:
    if _is_same_end(ended, stored):
        return stored
    if stored.status.is_terminal or stored.metadata != run.metadata:
        raise run_lost(run, "another program ended or renewed it")
    return _final(ended, stored)


def _is_same_end(ended: Run, stored: Run) -> bool:
    """Whether the run was ended by the same call, whose first commit had no response."""
    return (stored.status, stored.ended_at) == (ended.status, ended.ended_at)


def _final(ended: Run, stored: Run) -> Run:
    # The application may have changed the metadata meanwhile.
    return replace(ended, metadata=stored.metadata)


def _with_request(request: Document, stored: Run) -> Run:
    end = lease_end(stored)
    if stored.status.is_terminal or end is None:
        return stored
    return with_lease(stored, end, cancel_requested=request)


async def _write_request(run: Run, event: Event, tx: AsyncTransaction) -> Run:
    await tx.append_event(event)
    change = partial(_with_request, dict(event.data))
    return await tx.update_run(run.id, change, session_id=run.session_id)


def run_active(active: Run) -> RunActive:
    owner = lease(active).get("owner")
    who = f"{owner} is running it" if owner else "it has no lease, so its program is not known"
    return RunActive(
        f"session {active.session_id!r} has the active run {active.id!r}; {who}: wait for its end, or "
        "cancel it",
        session_id=active.session_id,
        run_id=active.id,
    )


def _session_events(plan: Plan, session: Session, recorder: Recorder) -> list[Event]:
    """The events of a session that becomes active."""
    if session is plan.new_session:
        return [
            recorder.make(EventType.SESSION_CREATED, {"provider": plan.adapter.provider}),
            recorder.make(EventType.SESSION_STARTED, {}),
        ]
    if session.status == SessionStatus.ACTIVE:
        return []
    is_pending = session.status == SessionStatus.PENDING
    return [recorder.make(EventType.SESSION_STARTED if is_pending else EventType.SESSION_RESUMED, {})]
