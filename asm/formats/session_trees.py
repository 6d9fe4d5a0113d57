"""A session with the sessions of its sub-agents, for a document that has all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from asm.async_store import AsyncSessionStore
from asm.errors import ValidationError
from asm.operations.exports import SessionExport

DEPTH_MAX = 8
"""Levels of sub-agents."""

SUBAGENTS_MAX = 1_000
"""Sub-agents of one document, which is held in memory."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A session, and the sessions that it began."""

    export: SessionExport
    children: list[Tree]

    def all(self) -> Iterator[Tree]:
        yield self
        for child in self.children:
            yield from child.all()


async def read_tree(store: AsyncSessionStore, session_id: str) -> Tree:
    """Read a session with its sub-agents. Each is a consistent snapshot of its own."""
    return await _read_tree(store, session_id, {session_id}, 0)


async def _read_tree(store: AsyncSessionStore, session_id: str, seen: set[str], depth: int) -> Tree:
    export = await store.query.export_session(session_id)
    children: list[Tree] = []
    for id in await _children(store, session_id):
        if id in seen:
            continue
        seen.add(id)
        if len(seen) > SUBAGENTS_MAX or depth == DEPTH_MAX:
            raise ValidationError(
                f"session {session_id!r} has more than {SUBAGENTS_MAX:,} sub-agents or {DEPTH_MAX} levels of "
                "them, the maximum of one document: export it as JSON Lines",
                session_id=session_id,
            )
        children.append(await _read_tree(store, id, seen, depth + 1))
    return Tree(export, children)


async def _children(store: AsyncSessionStore, session_id: str) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.query.search_sessions(
            parent_session_id=session_id, order_by="created_at_asc", cursor=cursor
        )
        found += [session.id for session in page]
        cursor = page.cursor
        if cursor is None:
            return found
