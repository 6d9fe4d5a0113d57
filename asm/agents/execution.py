"""One attempt of a run, from its claim to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from asm.agents import provider_sessions
from asm.agents.conversation import Conversation
from asm.agents.lifecycle import Claim, Lifecycle, cancel_requested
from asm.agents.outcomes import Outcome, outcome_of, provider_failure, stored_error
from asm.agents.plans import Plan
from asm.agents.recording import REDACT_FAILED, Redactor, Show, event_id_prefix
from asm.agents.results import RunResult
from asm.agents.stopping import Stop, cancelled
from asm.async_store import AsyncSessionStore
from asm.documents import Document
from asm.engine.shielding import run_to_completion
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import AsmError, ProviderError, RunLost, RunTimeout
from asm.models import Run, Session
from asm.observing import ObservedRun, observer_of
from asm.operations.runs import lease
from asm.shown import identifier, message

END_TIMEOUT_S = 5.0
"""How long a run that does not complete tries to store its end."""

_log = logging.getLogger("asm")


class Execution:
    """Makes a run. Every step is stored before it is shown."""

    def __init__(
        self,
        store: AsyncSessionStore,
        lifecycle: Lifecycle,
        plan: Plan,
        redact: Redactor,
        *,
        lease_s: float,
        keep_deltas_s: float | None,
        show: Show,
        on_claim: Callable[[Run], object],
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._plan = plan
        self._redact = redact
        self._lease_s = lease_s
        self._keep_deltas_s = keep_deltas_s
        self._show = show
        self._on_claim = on_claim
        self._claimed: Claim | Run | None = None
        self._is_stored = False
        self._observed: ObservedRun | None = None
        self.stop = Stop()
        self.ended = asyncio.Event()

    async def drive(self) -> RunResult:
        """Make the run, or read it if the run of that id has ended."""
        plan = self._plan
        try:
            if (observer := observer_of(self._store)) is None:
                return await self._make()
            with observer.run(
                session_id=plan.session_id,
                agent_id=None if plan.new_session is None else plan.new_session.agent_id,
                provider=plan.adapter.provider,
                model=plan.model or getattr(plan.adapter, "model", None),
            ) as self._observed:
                return await self._make()
        finally:
            self.ended.set()

    async def _make(self) -> RunResult:
        claim = await self._claim()
        return await self._stored(claim) if isinstance(claim, Run) else await self._run(claim)

    async def _claim(self) -> Claim | Run:
        async def claim() -> Claim | Run:
            self._claimed = await self._lifecycle.claim(self._plan, self._show)
            return self._claimed

        try:
            return await run_to_completion(claim())
        except asyncio.CancelledError as error:
            if isinstance(self._claimed, Claim):
                conversation = self._conversation(self._claimed)
                await run_to_completion(self._fail(self._claimed, conversation, error))
            raise

    async def _stored(self, run: Run) -> RunResult:
        stored = await self._store.get_events(run.session_id, run_id=run.id)
        events = [event for event in stored if event.id.startswith(event_id_prefix(run))]
        for event in events:
            self._show(event)
        if run.status != RunStatus.COMPLETED:
            raise stored_error(run)
        return RunResult(await self._store.get_session(run.session_id), run, events)

    def _conversation(self, claim: Claim) -> Conversation:
        return Conversation(self._store, self._lifecycle, self._plan, claim, self.stop, self._keep_deltas_s)

    async def _run(self, claim: Claim) -> RunResult:
        self._on_claim(claim.run)
        if self._observed is not None:
            self._observed.claimed(claim.session.agent_id, claim.run.id)
        conversation = self._conversation(claim)
        keeper = asyncio.create_task(self._keep_lease(claim.run))
        timer = self._start_timer(claim.run)
        try:
            await conversation.hold()
            self.stop.check()
            await cancelled(keeper, "the renewal of a lease")
            return await self._complete(claim, conversation)
        except BaseException as error:
            if not self._is_stored:
                await run_to_completion(self._fail(claim, conversation, error))
            raise
        finally:
            keeper.cancel()
            if timer is not None:
                timer.cancel()
            if self._observed is not None:
                self._observed.ended(conversation.progress.row().token_usage)

    def _start_timer(self, run: Run) -> asyncio.TimerHandle | None:
        timeout_s = self._plan.timeout
        if timeout_s is None:
            return None
        error = RunTimeout(
            f"run {run.id!r} took longer than timeout={timeout_s:g} s", run_id=run.id, timeout_s=timeout_s
        )
        return asyncio.get_running_loop().call_later(timeout_s, self.stop.request, error)

    async def _keep_lease(self, run: Run) -> None:
        """Renew the lease, and find out whether another program asks to cancel the run."""
        ends_at = time.monotonic() + self._lease_s
        while True:
            await asyncio.sleep(self._lease_s / 3)
            begun_at = time.monotonic()
            try:
                stored = await self._lifecycle.renew(run)
            except RunLost as error:
                self.stop.request(error)
                return
            except AsmError as error:
                if begun_at >= ends_at:
                    self.stop.request(error)
                    return
                _log.warning("the lease of run %s was not renewed: %s", identifier(run.id), error)
                continue
            ends_at = begun_at + self._lease_s
            if "cancel_requested" in lease(stored):
                self.stop.request(cancel_requested(stored))
                return

    async def _complete(self, claim: Claim, conversation: Conversation) -> RunResult:
        recorder, output = claim.recorder, conversation.progress.output()
        before = len(recorder.held)
        try:
            run = self._hold_completion(claim, conversation, output)
            change = self._session_change(claim, conversation)
            return await run_to_completion(self._store_completion(claim, run, change, output))
        except BaseException:
            if not self._is_stored:
                recorder.drop(before)
            raise

    def _hold_completion(self, claim: Claim, conversation: Conversation, output: Document) -> Run:
        """Hold the last events of a run, and return it with its output as it is to be stored."""
        recorder, stop_reason = claim.recorder, output["stop_reason"]
        event = recorder.make(EventType.RUN_COMPLETED, {"output": output, "stop_reason": stop_reason})
        stored_output, stored = self._redact.value(event, "output")
        recorder.hold_as(replace(event, data={"stop_reason": stop_reason}), stored)
        if self._plan.new_session is not None:
            recorder.hold(recorder.make(EventType.SESSION_COMPLETED, {}))
        return conversation.progress.row().set_output(stored_output)

    async def _store_completion(
        self, claim: Claim, run: Run, change: Callable[[Session], Session] | None, output: Document
    ) -> RunResult:
        ended = await self._lifecycle.end(
            run, claim.recorder.held, self._own_session(SessionStatus.COMPLETED), change
        )
        self._is_stored = True
        claim.recorder.confirm(ended.events)
        shown = ended.run if run.output is output else replace(ended.run, output=output)
        return RunResult(ended.session or claim.session, shown, claim.recorder.events)

    def _own_session(self, status: SessionStatus) -> SessionStatus | None:
        """The status that the session of the run gets, if it has only this run."""
        return status if self._plan.new_session is not None else None

    def _session_change(
        self, claim: Claim, conversation: Conversation
    ) -> Callable[[Session], Session] | None:
        """Keeps in the session's metadata how the provider's own session can be continued."""
        id = conversation.progress.provider_session_id
        if id is None:
            return None
        own = provider_sessions.ProviderSession(id, claim.run.id)
        return partial(provider_sessions.keep, self._plan.adapter.provider, own)

    async def _fail(self, claim: Claim, conversation: Conversation, error: BaseException) -> None:
        """Store how the run ended, if it is still this program's."""
        await conversation.close()
        if isinstance(error, RunLost):
            return
        outcome = outcome_of(error)
        try:
            run = self._hold_failure(claim, conversation, error, outcome)
            status = self._own_session(outcome.session_status)
            change = self._session_change(claim, conversation)
            async with asyncio.timeout(END_TIMEOUT_S):
                ended = await self._lifecycle.end(run, claim.recorder.held, status, change)
            claim.recorder.confirm(ended.events)
        except Exception as failure:
            _log.warning(
                "the end of run %s is not stored, and `recover` will end it: %s",
                identifier(claim.run.id),
                message(repr(failure)),
            )

    def _hold_failure(
        self, claim: Claim, conversation: Conversation, error: BaseException, outcome: Outcome
    ) -> Run:
        """Hold the last events of a run, and return it as it ended."""
        recorder = claim.recorder
        try:
            if text := conversation.streamed.text:
                data = {"role": "assistant", "content": text, "partial": True}
                recorder.hold(recorder.make(EventType.MESSAGE_RECEIVED, data))
            if isinstance(error, ProviderError):
                recorder.hold(recorder.make(EventType.ERROR_OCCURRED, provider_failure(error)))
            last = recorder.make(outcome.type, outcome.data)
            stored = self._redact(last)
        except Exception as failure:
            # Nothing of the event may be stored, not even the message of the exception.
            reason = f"redact raised {type(failure).__name__}"
            last = stored = recorder.make(outcome.type, {"code": REDACT_FAILED, "message": reason})
        recorder.hold_as(last, stored)
        stored_outcome = replace(outcome, data=dict(stored.data))
        if self._plan.new_session is not None:
            event = recorder.make(outcome.session_event, stored_outcome.session_data)
            recorder.hold_as(event, event)
        run = conversation.progress.row().update_status(outcome.status)
        return replace(run, error=stored_outcome.error)
