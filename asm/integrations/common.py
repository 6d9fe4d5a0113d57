"""What the integrations share: either kind of store, ids, writes awaited to their end, and token usage."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.awaited import in_threads
from asm.engine.shielding import run_to_completion
from asm.errors import SessionNotFound, ValidationError
from asm.models import Event, Run, Session
from asm.provider_usage import token_usage
from asm.store import SessionStore
from asm.usage import check_usage
from asm.validation import is_text

_log = logging.getLogger("asm")

T = TypeVar("T")

ID_LENGTH_MAX = 200
"""A longer id is replaced by its hash. An id of the store has at most 255 characters."""

LOOK_UP_AFTER_S = 3_600.0
LOOKED_UP_MAX = 10_000


def awaited(store: SessionStore | AsyncSessionStore, caller: str) -> AsyncSessionStore:
    """The store with awaited methods. A SessionStore runs them in threads, for any number of event loops."""
    if isinstance(store, AsyncSessionStore):
        return store
    if isinstance(store, SessionStore):
        return in_threads(store)
    raise ValidationError(
        f"{caller} takes a SessionStore or an AsyncSessionStore, not {type(store).__name__}", path="store"
    )


def joined_id(prefix: str, *parts: str) -> str:
    """An id made of several parts, different for different parts, whatever characters and lengths they have.

    The parts are percent-encoded, so that a colon separates them; an id of more than 200 characters is
    `prefix:sha256!` and the hash of the whole, where no part has a `!`.
    """
    whole = ":".join([prefix, *(quote(part, safe="", errors="surrogatepass") for part in parts)])
    return whole if len(whole) <= ID_LENGTH_MAX else f"{prefix}:sha256!{_hash(whole)}"


def plain_id(value: str) -> str:
    """An id of the framework as it is if the store takes it, and else `sha256:` and its hash."""
    if len(value) <= ID_LENGTH_MAX and is_text(value) and not value.startswith("sha256:"):
        return value
    return f"sha256:{_hash(value)}"


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


async def settled(write: Coroutine[Any, Any, T]) -> T:
    """The result of a write, which goes on if the task is cancelled: its outcome is known, then it raises."""
    return await run_to_completion(write)


class Appends:
    """Appends to the conversations of a store, and restores those that retention has soft-deleted.

    Otherwise a conversation that goes on would be hard-deleted with what was said since. A session is looked
    up before the first append, and again after an hour: retention counts in days.
    """

    def __init__(self, store: AsyncSessionStore) -> None:
        self._store = store
        self._looked_up: dict[str, float] = {}

    async def append(self, events: Sequence[Event], session: Session) -> None:
        """Append events to a session, whose row is inserted if it is absent. It is awaited to its outcome."""
        await settled(self._append(events, session))

    async def _append(self, events: Sequence[Event], session: Session) -> None:
        if time.monotonic() - self._looked_up.get(session.id, -math.inf) > LOOK_UP_AFTER_S:
            await self._restore(session.id)
        await self._store.append_events(events, session=session)

    async def _restore(self, id: str) -> None:
        for found in await self._store.get_sessions([id]):
            if found.deleted_at is not None:
                with suppress(SessionNotFound):
                    await self._store.update_session(id, restored)
        if len(self._looked_up) >= LOOKED_UP_MAX:
            self._looked_up.clear()
        self._looked_up[id] = time.monotonic()


def restored(session: Session) -> Session:
    """A session that is in use: not soft-deleted, and updated now."""
    now = max(session.updated_at, datetime.now(UTC))
    return replace(session, deleted_at=None, updated_at=now)


async def save_run(store: AsyncSessionStore, run: Run, session: Session) -> None:
    """Save a run together with its session, which is inserted if it is not there."""

    async def work(tx: AsyncTransaction) -> None:
        await tx.append_events([], session=session)
        await tx.save_run(run)

    await settled(store.run_transaction(work, idempotent=True))


def usage_or(otherwise: T, read: Callable[[], T]) -> T:
    """What `read` makes of a provider's usage; `otherwise`, if a run of the store cannot have that usage.

    A write does not fail because a provider reports, say, more cached tokens than input tokens. The first
    usage that is left out for one count is logged.
    """
    try:
        return read()
    except ValidationError as error:
        if (path := error.details.get("path")) not in _WARNED:
            _WARNED.add(path)
            _log.warning("the store leaves out a usage that a provider reports: %s", error)
        return otherwise


_WARNED: set[Any] = set()


def counts_of(usage: Any, provider: str) -> dict[str, int]:
    """`asm.token_usage`, or {} if it raises or a run cannot have the counts."""
    return usage_or({}, lambda: check_usage(token_usage(usage, provider=provider), "usage"))
