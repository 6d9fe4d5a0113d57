"""One attempt of a run, from its claim to its end.

It has two tasks. One makes the turns, and is cancelled when the run is to end. The other claims the run,
stores what the first one has held, renews the lease and ends the run. It is never cancelled with its caller,
so that no write is interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from asm.agents import provider_sessions
from asm.agents.conversation import Conversation
from asm.agents.lifecycle import Claim, Lifecycle
from asm.agents.outcomes import Outcome, outcome_of, provider_failure, stored_error
from asm.agents.plans import Plan
from asm.agents.recording import Show, event_id_prefix, redact_failure
from asm.agents.results import RunResult
from asm.agents.tools import cancelled
from asm.engine.shielding import run_to_completion
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import AsmError, ProviderError, RunLost, RunTimeout
from asm.models import Run, now
from asm.observing import ObservedRun, observer_of
from asm.operations.owned_runs import cancel_requested
from asm.operations.run_ends import Ended, end_run
from asm.operations.runs import lease
from asm.shown import identifier, message

END_TIMEOUT_S = 5.0
"""How long a run that does not complete tries to store its end."""

_log = logging.getLogger("asm")


class Execution:
    """Makes a run. Every step is stored before it is shown."""

    def __init__(self, lifecycle: Lifecycle, plan: Plan, show: Show, keep_deltas_s: float | None) -> None:
        self.run_id: str | None = None
        """That of the run, once it is claimed."""
        self.session_id = plan.session_id
        self._lifecycle = lifecycle
        self._store = lifecycle.store
        self._plan = plan
        self._show = show
        self._keep_deltas_s = keep_deltas_s
        self._begun_at = asyncio.get_running_loop().time()
        self._stop: BaseException | None = None
        self._claimed: Claim | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._make())
        # Retrieved, or asyncio would log what it raises when nobody waits for it any more.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def result(self) -> RunResult:
        """What the run returns or raises. If the caller is cancelled, the run is stored as cancelled."""
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            self.stop(asyncio.CancelledError())
            await run_to_completion(self.ended())
            raise

    async def ended(self, timeout_s: float | None = None) -> None:
        await asyncio.wait({self.task}, timeout=timeout_s)

    def stop(self, error: BaseException) -> None:
        """Have the run end by an error. Of several the first counts. It interrupts no write."""
        if self._stop is None:
            self._stop = error
            if self._claimed is not None:
                self._claimed.recorder.changed.set()

    def _check(self) -> None:
        if self._stop is not None:
            raise self._stop

    async def _make(self) -> RunResult:
        """Make the run, or read it if the run of that id has ended."""
        plan, observer = self._plan, observer_of(self._store)
        observation: AbstractContextManager[ObservedRun | None] = nullcontext()
        if observer is not None:
            observation = observer.run(
                session_id=plan.session_id,
                agent_id=None if plan.new_session is None else plan.new_session.agent_id,
                provider=plan.adapter.provider,
                model=plan.model or getattr(plan.adapter, "model", None),
            )
        with observation as observed:
            self._check()
            claim = await self._lifecycle.claim(plan, self._show)
            if isinstance(claim, Run):
                return await self._read(claim)
            self.run_id, self._claimed = claim.run.id, claim
            if observed is not None:
                observed.claimed(claim.session.agent_id, claim.run.id)
            return await self._run(claim, observed)

    async def _read(self, run: Run) -> RunResult:
        stored = await self._store.get_events(run.session_id, run_id=run.id)
        events = [event for event in stored if event.id.startswith(event_id_prefix(run))]
        for event in events:
            self._show(event)
        if run.status != RunStatus.COMPLETED:
            raise stored_error(run)
        return RunResult(await self._store.get_session(run.session_id), run, events)

    async def _run(self, claim: Claim, observed: ObservedRun | None) -> RunResult:
        conversation = Conversation(self._store, self._plan, claim, self._check, self._keep_deltas_s)
        turns = asyncio.create_task(conversation.make_turns())
        turns.add_done_callback(lambda _: claim.recorder.changed.set())
        timers = self._start_timers(claim.run)
        try:
            await self._record(claim, conversation, turns)
            return await self._complete(claim, conversation)
        except BaseException as error:
            self.stop(error)
            await cancelled(turns, conversation.doing)
            await self._fail(claim, conversation, error)
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if self._keeper is not None:
                await cancelled(self._keeper, "the renewal of a lease")
            if observed is not None:
                observed.ended(conversation.progress.row().token_usage)

    async def _record(self, claim: Claim, conversation: Conversation, turns: asyncio.Task[None]) -> None:
        """Append what is held, until the turns are made. The last of it is stored with the end of the run."""
        recorder = claim.recorder
        while True:
            await recorder.changed.wait()
            recorder.changed.clear()
            self._check()
            conversation.keep_due_deltas()
            if turns.done():
                return turns.result()
            if recorder.is_behind and await recorder.append():
                run = await self._lifecycle.own(claim.run)
                if "cancel_requested" in lease(run):
                    raise cancel_requested(run)
            self._check()
            if not recorder.is_behind:
                conversation.all_stored.set()

    # The clock.

    def _start_timers(self, run: Run) -> list[asyncio.TimerHandle]:
        loop, timeout_s = asyncio.get_running_loop(), self._plan.timeout
        timers = [loop.call_later(self._lifecycle.lease_s / 3, self._start_keeper, run)]
        if timeout_s is not None:
            message = f"run {run.id!r} took longer than timeout={timeout_s:g} s"
            error = RunTimeout(message, run_id=run.id, timeout_s=timeout_s)
            # The claim counts, which may have waited for the store.
            timers.append(loop.call_at(self._begun_at + timeout_s, self.stop, error))
        return timers

    def _start_keeper(self, run: Run) -> None:
        self._keeper = asyncio.create_task(self._keep_lease(run))

    async def _keep_lease(self, run: Run) -> None:
        """Renew the lease, and find out whether another program asks to cancel the run."""
        ends_at = time.monotonic() + self._lifecycle.lease_s * 2 / 3
        while True:
            begun_at = time.monotonic()
            try:
                stored = await self._lifecycle.own(run, renews=True)
            except Exception as error:
                if isinstance(error, RunLost) or begun_at >= ends_at:
                    return self.stop(error)
                what = message(str(error) if isinstance(error, AsmError) else repr(error))
                _log.warning("the lease of run %s was not renewed: %s", identifier(run.id), what)
            else:
                ends_at = begun_at + self._lifecycle.lease_s
                if "cancel_requested" in lease(stored):
                    return self.stop(cancel_requested(stored))
            await asyncio.sleep(self._lifecycle.lease_s / 3)

    # The end.

    async def _complete(self, claim: Claim, conversation: Conversation) -> RunResult:
        recorder, progress = claim.recorder, conversation.progress
        output = progress.output()
        before = len(recorder.held)
        try:
            data = {"stop_reason": output["stop_reason"]}
            stored = recorder.hold_with(EventType.RUN_COMPLETED, data, "output", output)
            if self._plan.new_session is not None:
                recorder.hold(recorder.make(EventType.SESSION_COMPLETED, {}))
            run = progress.row(status=RunStatus.COMPLETED, output=stored, ended_at=now())
            ended = await self._end(claim, conversation, run, SessionStatus.COMPLETED)
        except BaseException:
            recorder.drop(len(recorder.held) - before)
            raise
        recorder.confirm(ended.events)
        shown = ended.run if stored is output else replace(ended.run, output=output)
        return RunResult(ended.session or claim.session, shown, recorder.events)

    async def _end(self, claim: Claim, conversation: Conversation, run: Run, status: SessionStatus) -> Ended:
        """Store the end of the run, which is also that of its session if this has only this run."""
        keep, id = None, conversation.progress.provider_session_id
        if id is not None:
            own = provider_sessions.ProviderSession(id, run.id)
            keep = partial(provider_sessions.keep, self._plan.adapter.provider, own)
        of_session = None if self._plan.new_session is None else status
        return await self._lifecycle.run("end_run", end_run(run, claim.recorder.held, of_session, keep))

    async def _fail(self, claim: Claim, conversation: Conversation, error: BaseException) -> None:
        """Store how the run ended, if it is still this program's."""
        if isinstance(error, RunLost):
            return
        outcome = outcome_of(error)
        try:
            run = self._hold_failure(claim, conversation, error, outcome)
            async with asyncio.timeout(END_TIMEOUT_S):
                ended = await self._end(claim, conversation, run, outcome.session_status)
            claim.recorder.confirm(ended.events)
        except Exception as failure:
            # A write whose answer is lost, or that a thread goes on with, may still be done.
            _log.warning(
                "the end of run %s may not be stored, and `recover` ends it then: %s",
                identifier(claim.run.id),
                message(repr(failure)),
            )

    def _hold_failure(
        self, claim: Claim, conversation: Conversation, error: BaseException, outcome: Outcome
    ) -> Run:
        """Hold the last events of a run, and return it as it ended."""
        recorder = claim.recorder
        try:
            if text := conversation.streamed_text:
                data = {"role": "assistant", "content": text, "partial": True}
                recorder.hold(recorder.make(EventType.MESSAGE_RECEIVED, data))
            if isinstance(error, ProviderError):
                recorder.hold(recorder.make(EventType.ERROR_OCCURRED, provider_failure(error)))
            last = recorder.make(outcome.type, outcome.data)
            stored = recorder.redacted(last)
        except Exception as failure:
            last = stored = recorder.make(outcome.type, redact_failure(failure))
        recorder.hold_as(last, stored)
        outcome = replace(outcome, data=dict(stored.data))
        if self._plan.new_session is not None:
            event = recorder.make(*outcome.session_event)
            recorder.hold_as(event, event)
        return conversation.progress.row(status=outcome.status, error=outcome.error, ended_at=now())
