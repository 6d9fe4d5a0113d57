"""The life of a run in the store: it is claimed, its lease is renewed, and it ends once.

Of several clients that claim a session, or end a run, one does, and the others raise and store nothing:
`asm.operations.claims` says how.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from asm.agents.outcomes import Outcome, abandoned, cancelled
from asm.agents.plans import Plan, event_type_of
from asm.agents.progress import with_usages
from asm.agents.recording import Recorder, Redact, Show, event_id_prefix, redact_failure, redacted
from asm.async_store import AsyncSessionStore, run_operation
from asm.documents import Document
from asm.engine.script import Operation
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import Conflict, RunLost, RunNotFound, SessionNotFound
from asm.models import Event, Run, Session, new_id, now
from asm.observing import observer_of
from asm.operations import claims, owned_runs, run_ends
from asm.operations.runs import is_stale, lease, lease_end, lease_metadata

T = TypeVar("T")

_HOST = socket.gethostname()[:100]

CANCEL_REQUESTED = "asm.cancel_requested"
"""The type of the event that asks another program to cancel its run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is claimed: nobody else runs it, or another one of its session, until its lease is over."""

    run: Run
    session: Session
    recorder: Recorder


class Lifecycle:
    """Claims, renews and ends runs in a store."""

    def __init__(self, store: AsyncSessionStore, lease_s: float, redact: Redact | None) -> None:
        self.store = store
        self.lease_s = lease_s
        self.redact = redact

    # Claims.

    async def claim(self, plan: Plan, show: Show) -> Claim | Run:
        """Begin a run; or the run of the plan's id as it is stored, if it has ended."""
        while True:
            session = await self._session(plan)
            stored = await self._stored_run(plan)
            if stored is not None and stored.status.is_terminal and not plan.again:
                return stored
            try:
                return await self._claim(plan, show, session, stored)
            except claims.ActiveRunFound as found:
                if not is_stale(found.run):
                    raise owned_runs.run_active(found.run) from None
                await self.abandon(found.run)
            except claims.ReadAgain:
                # Another client changed the session, or began or ended the run of this id.
                continue

    async def _session(self, plan: Plan) -> Session:
        """The session that is stored, or the new one."""
        if plan.new_session is not None and plan.run_id is None:
            return plan.new_session
        try:
            session = await self.store.get_session(plan.session_id)
        except SessionNotFound:
            if plan.new_session is None:
                raise
            return plan.new_session
        if session.deleted_at is not None and plan.new_session is None:
            raise Conflict(f"session {session.id!r} is deleted: run in another one", session_id=session.id)
        return session

    async def _stored_run(self, plan: Plan) -> Run | None:
        if plan.run_id is None:
            return None
        try:
            return await self.store.get_run(plan.run_id, session_id=plan.session_id)
        except RunNotFound:
            return None

    async def _claim(self, plan: Plan, show: Show, session: Session, before: Run | None) -> Claim:
        run = self._new_run(plan, before)
        recorder = Recorder(self.store, run, self.redact, show)
        read = None if session is plan.new_session else session
        if read is None:
            recorder.hold(recorder.make(EventType.SESSION_CREATED, {"provider": run.provider}))
            recorder.hold(recorder.make(EventType.SESSION_STARTED, {}))
        else:
            if session.status != SessionStatus.ACTIVE:
                is_new = session.status == SessionStatus.PENDING
                type = EventType.SESSION_STARTED if is_new else EventType.SESSION_RESUMED
                recorder.hold(recorder.make(type, {}))
            session = replace(session, status=SessionStatus.ACTIVE, updated_at=now())
        input = _hold_input(plan, run, recorder)
        run = run if input is run.input else replace(run, input=input)
        claim: Operation[list[Event]]
        if plan.run_id is None:
            claim = claims.claim_run(run, session, recorder.held, read)
        else:
            claim = claims.claim_named_run(run, session, recorder.held, read, before)
        events = await self.run("claim_run", claim)
        recorder.confirm(events)
        return Claim(run, session, recorder)

    def _new_run(self, plan: Plan, before: Run | None) -> Run:
        model = plan.model or getattr(plan.adapter, "model", None)
        observer = observer_of(self.store)
        # Another attempt has a lease and a trace of its own.
        of_attempt = ("asm", "traceparent")
        earlier = {} if before is None else {k: v for k, v in before.metadata.items() if k not in of_attempt}
        fields: Document = {
            "owner": f"{_HOST}:{os.getpid()}:{random.getrandbits(32):08x}",
            "attempt": 1 if before is None else lease(before).get("attempt", 0) + 1,
        }
        if plan.new_session is not None:
            fields["ends_session"] = True
        trace = {} if observer is None else observer.carrier()
        return Run(
            id=plan.run_id or new_id("run_"),
            session_id=plan.session_id,
            status=RunStatus.RUNNING,
            input=plan.input,
            provider=plan.adapter.provider,
            provider_metadata={"model": model} if isinstance(model, str) else {},
            metadata=lease_metadata({**earlier, **trace}, self._lease_until(), fields),
        )

    def _lease_until(self) -> datetime:
        return now() + timedelta(seconds=self.lease_s)

    # While a run goes on.

    async def own(self, run: Run, *, renews: bool = False) -> Run:
        """The stored run, with its lease renewed or not. RunLost if it is not the caller's any more."""
        change = partial(owned_runs.renewed, run, self._lease_until())
        try:
            if renews:
                return await self.store.update_run(run.id, change, session_id=run.session_id)
            return owned_runs.check_own(run, await self.store.get_run(run.id, session_id=run.session_id))
        except RunNotFound as error:
            raise owned_runs.run_lost(run, "it was deleted") from error

    # Ends.

    async def abandon(self, run: Run) -> Run | None:
        """End a run whose lease is over. None if another client ended or renewed it meanwhile."""
        last = await self.store.get_events(run.session_id, run_id=run.id, last=1)
        return await self._end_of_another(run, abandoned(run, last[-1].sequence_number or 0 if last else 0))

    async def cancel(self, run_id: str, reason: str | None, session_id: str | None) -> Run:
        """Ask the program that runs a run to cancel it, or end a run that nobody is running."""
        run = await self.store.get_run(run_id, session_id=session_id)
        if run.status.is_terminal or ("cancel_requested" in lease(run) and not is_stale(run)):
            return run
        if is_stale(run) or lease_end(run) is None:
            ended = await self._end_of_another(run, cancelled(reason))
            return ended or await self.store.get_run(run_id, session_id=run.session_id)
        data = {} if reason is None else {"reason": reason}
        event = redacted(self.redact, self._event(run, new_id("evt_"), CANCEL_REQUESTED, data))
        return await self.run("cancel_run", owned_runs.request_cancel(run, event))

    async def _end_of_another(self, run: Run, outcome: Outcome) -> Run | None:
        """End a run that nobody is running. None if it has changed since it was read."""
        id = f"{event_id_prefix(run)}{outcome.type}"
        try:
            events = [redacted(self.redact, self._event(run, id, outcome.type, outcome.data))]
        except Exception as failure:
            events = [self._event(run, id, outcome.type, redact_failure(failure))]
        outcome = replace(outcome, data=dict(events[0].data))
        status = None
        if lease(run).get("ends_session"):
            events.append(self._event(run, f"{id}.session", *outcome.session_event))
            status = outcome.session_status
        types = (EventType.TURN_COMPLETED, EventType.TOKEN_USAGE_UPDATED)
        stored = await self.store.get_events(run.session_id, run_id=run.id, type=types)
        reports = [event for event in stored if event.id.startswith(event_id_prefix(run))]
        usages = [event.data for event in reports if event.type == EventType.TOKEN_USAGE_UPDATED]
        ended = replace(
            with_usages(run, usages),
            turn_count=len(reports) - len(usages),
            status=outcome.status,
            error=outcome.error,
            ended_at=now(),
        )
        try:
            return (await self.run("end_run", run_ends.end_run_of_another(run, ended, events, status))).run
        except RunLost:
            return None

    def _event(self, run: Run, id: str, type: str, data: Document) -> Event:
        return Event(
            id=id, type=type, session_id=run.session_id, run_id=run.id, data=data, provider=run.provider
        )

    async def run(self, name: str, operation: Operation[T]) -> T:
        """Run an operation that is no method of a store: `asm.operations.claims` says why."""
        operation.name = name
        return await run_operation(self.store, operation)


def _hold_input(plan: Plan, run: Run, recorder: Recorder) -> object:
    """Hold the events that begin the run, and return its input as it is to be stored."""
    data: Document = dict(run.provider_metadata)
    if plan.tools:
        data["tools"] = [tool.get("name", "") for tool in plan.tools]
    input: object = recorder.hold_with(EventType.RUN_STARTED, data, "input", plan.input)
    for message in plan.messages:
        recorder.hold(recorder.make(event_type_of(message), message))
    return input
