"""What pages read of a store besides its public methods' results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from asm import AsyncSessionStore, CostSummary, Session, UsageSummary, ValidationError
from asm.async_store import run_operation
from asm.errors import MigrationRequired
from asm.operations.checkpoints import AGENT_ID, CheckpointSummary, describe_checkpoints
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
        return self.summary.title or self.session.id


async def list_session(store: AsyncSessionStore, session: Session) -> Listed:
    """The figures of one session."""
    summaries, figures = await asyncio.gather(
        run_operation(store, summarize_sessions([session])), _figures(store, session.id)
    )
    return Listed(session, summaries[session.id], *figures)


async def has_text_search(store: AsyncSessionStore) -> bool:
    """Whether the store has the optional index of words."""
    try:
        await store.query.search_events(text=_RARE_WORD, session_ids="asm", limit=1)
    except ValidationError:
        return False
    return True


CHECKPOINTS_MAX = 100

_RARE_WORD = "xq7zv"
"""A word that is found in no time, because the index does not have it."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The newest checkpoints of a thread of LangGraph, and how many it has."""

    listed: list[CheckpointSummary]
    total: int


async def checkpoints_of(store: AsyncSessionStore, session: Session) -> Checkpoints | None:
    """The checkpoints of a session that LangGraph began. Nobody but LangGraph can read their values."""
    if session.agent_id != AGENT_ID:
        return None
    try:
        found = await run_operation(store, describe_checkpoints(session.id, CHECKPOINTS_MAX))
    except MigrationRequired:
        # The session was copied to a store without the tables of checkpoints.
        return None
    return Checkpoints(found, found[0].total) if found else None


async def titles_of(store: AsyncSessionStore, sessions: Sequence[Session]) -> dict[str, str]:
    """The titles of sessions by their ids; that of one without a title is its agent."""
    summaries = await run_operation(store, summarize_sessions(sessions))
    titles = {id: summary.title for id, summary in summaries.items()}
    return {each.id: titles.get(each.id) or each.agent_id for each in sessions}


async def list_sessions(store: AsyncSessionStore, sessions: Sequence[Session]) -> list[Listed]:
    """The figures of the sessions of one page, each read by the index of its runs."""
    summaries = await run_operation(store, summarize_sessions(sessions))
    # One that was deleted meanwhile has no summary.
    found = [each for each in sessions if each.id in summaries]
    figures = await asyncio.gather(*(_figures(store, each.id) for each in found))
    return [
        Listed(session, summaries[session.id], *figure)
        for session, figure in zip(found, figures, strict=True)
    ]


async def _figures(store: AsyncSessionStore, session_id: str) -> tuple[UsageSummary, CostSummary]:
    return (
        await store.query.get_usage_summary(session_id=session_id),
        await store.query.get_cost_summary(session_id=session_id),
    )
