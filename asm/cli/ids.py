"""Ids as arguments: the beginning of an id is enough if no other id begins so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import click

from asm.cli.options import open_store
from asm.errors import AsmError, RunNotFound, SessionNotFound, ValidationError
from asm.operations import listing
from asm.shown import identifier
from asm.store import SessionStore, run_operation


def find_session_id(store: SessionStore, prefix: str) -> str:
    """The id of the only session whose id begins so."""
    ids = run_operation(store, listing.find_session_ids(prefix))
    if not ids:
        raise SessionNotFound(f"no session has the id {prefix!r}", session_id=prefix)
    return _only(ids, prefix, "sessions")


def find_run_id(store: SessionStore, prefix: str, *, session_id: str | None = None) -> str:
    """The id of the only run whose id begins so."""
    ids = run_operation(store, listing.find_run_ids(prefix, session_id=session_id))
    if not ids:
        of_session = "" if session_id is None else f" in session {session_id!r}"
        raise RunNotFound(f"no run has the id {prefix!r}{of_session}", run_id=prefix)
    return _only(ids, prefix, "runs")


def find_session_ids(store: SessionStore, prefixes: Iterable[str] | None) -> list[str] | None:
    """The ids for a filter. What no id begins with stays as it is, and may be a session without a row."""
    return _found(prefixes, lambda prefix: run_operation(store, listing.find_session_ids(prefix)), "sessions")


def find_run_ids(store: SessionStore, prefixes: Iterable[str] | None) -> list[str] | None:
    return _found(prefixes, lambda prefix: run_operation(store, listing.find_run_ids(prefix)), "runs")


def latest_session_id(store: SessionStore) -> str:
    """The id of the session that was updated last."""
    page = store.query.search_sessions(limit=1)
    if not page.items:
        raise SessionNotFound("the store has no sessions")
    return page.items[0].id


def complete_session_id(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of sessions with which a shell completes an argument; without a beginning, the latest."""
    try:
        with open_store(ctx.params.get("dsn"), ctx.params.get("schema")) as store:
            if incomplete:
                ids = run_operation(store, listing.find_session_ids(incomplete))
            else:
                ids = [each.id for each in store.query.search_sessions(limit=listing.CANDIDATES_MAX)]
            # A shell prints them as they are.
            return [id for id in ids if id == identifier(id)]
    except (AsmError, OSError):
        # A completion has nowhere to report an error.
        return []


def _found(prefixes: Iterable[str] | None, find: Callable[[str], list[str]], plural: str) -> list[str] | None:
    if prefixes is None:
        return None
    return [_only(found, prefix, plural) if (found := find(prefix)) else prefix for prefix in prefixes]


def _only(ids: Sequence[str], prefix: str, plural: str) -> str:
    # The id of a sub-agent's session may be that of the session that began it, a slash and a name.
    if len(ids) <= listing.CANDIDATES_MAX and all(id.startswith(f"{ids[0]}/") for id in ids[1:]):
        return ids[0]
    shown = ids[: listing.CANDIDATES_MAX]
    number = len(ids) if len(ids) == len(shown) else f"more than {len(shown)}"
    longer = ", ".join(map(identifier, shown))
    raise ValidationError(
        f"the ids of {number} {plural} begin with {prefix!r}: give more of one of {longer}",
        candidates=list(shown),
    )
