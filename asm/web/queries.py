"""What pages read of a store besides its public methods' results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from asm import AsyncSessionStore, CostSummary, Session, UsageSummary
from asm.async_store import run_operation
from asm.operations.listing import SessionSummary, summarize_sessions


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list shows of a session."""

    session: Session
    summary: SessionSummary
    usage: UsageSummary
    cost: CostSummary

    @property
    def title(self) -> str:
        return self.summary.title or "Untitled session"


async def list_sessions(store: AsyncSessionStore, sessions: Sequence[Session]) -> list[Listed]:
    """The figures of the sessions of one page, each read by the index of its runs."""
    summaries, *figures = await asyncio.gather(
        run_operation(store, summarize_sessions(sessions)),
        *(_figures(store, each.id) for each in sessions),
    )
    return [
        Listed(session, summaries[session.id], *figure)
        for session, figure in zip(sessions, figures, strict=True)
        if session.id in summaries
    ]


async def _figures(store: AsyncSessionStore, session_id: str) -> tuple[UsageSummary, CostSummary]:
    return (
        await store.query.get_usage_summary(session_id=session_id),
        await store.query.get_cost_summary(session_id=session_id),
    )
