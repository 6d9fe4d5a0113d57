"""What a list shows of a session: a title, the number of its events, and the shortest id that names it.

An id may be given as its beginning, if no other id begins so. Ids are compared as bytes, so those with a
prefix are a range of the primary key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from asm.content import ITEMS, Content, read_content, session_title
from asm.documents import load
from asm.engine.script import Query, Rows, Script, UnitOfWork
from asm.enums import EventType
from asm.models import Session
from asm.validation import optional_text, text

CANDIDATES_MAX = 10
"""The ids that an ambiguous prefix is answered with, at most."""

SHORT_ID_LENGTH = 12
"""The characters of a short id, at least."""

_AFTER_PREFIX = "\U0010ffff"
"""Greater than any character with which an id goes on."""

_MESSAGES_PER_SESSION = 5
"""The first messages may be a system prompt, and what a program wrote in the user's name."""

_MESSAGE_BYTES_MAX = 256 * 1024
"""A longer message is not read for a title."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """What a list shows of a session besides its fields."""

    title: str | None
    event_count: int
    short_id: str


def find_session_ids(prefix: str) -> Query[list[str]]:
    """The ids of sessions that begin with a prefix; only the prefix itself, if it is an id."""
    return Query("find_session_ids", _between(text(prefix, "session_id")), partial(_read_ids, prefix))


def find_run_ids(prefix: str, *, session_id: str | None = None) -> Query[list[str]]:
    """The ids of runs that begin with a prefix, of all sessions or of one."""
    params = {**_between(text(prefix, "run_id")), "session_id": optional_text(session_id, "session_id")}
    return Query("find_run_ids", params, partial(_read_ids, prefix))


def summarize_sessions(sessions: Sequence[Session]) -> UnitOfWork[dict[str, SessionSummary]]:
    """The summaries of sessions by their ids, in two queries for any number of them."""
    return UnitOfWork(partial(_summarize, sessions), snapshot=True)


def shorten_ids(session_ids: Iterable[str]) -> Query[dict[str, str]]:
    """The short ids of sessions, by their ids."""

    def read(rows: Rows) -> dict[str, str]:
        return {id: _short(id, before, after) for id, _, before, after in rows}

    params = {"session_ids": tuple(dict.fromkeys(session_ids))}
    return Query("describe_sessions", params, read, prepare=False)


def _between(prefix: str) -> dict[str, object]:
    return {"first": prefix, "last": prefix + _AFTER_PREFIX, "limit": CANDIDATES_MAX + 1}


def _read_ids(prefix: str, rows: Rows) -> list[str]:
    ids = [id for (id,) in rows]
    return ids[:1] if ids[:1] == [prefix] else ids


def _summarize(sessions: Sequence[Session]) -> Script[dict[str, SessionSummary]]:
    if not sessions:
        return {}
    ids = tuple(session.id for session in sessions)
    described = yield from Query("describe_sessions", {"session_ids": ids}, list, prepare=False)
    untitled = tuple(session.id for session in sessions if session_title(session.metadata, ()) is None)
    messages = (yield from find_first_messages(untitled)) if untitled else {}
    titles = {each.id: session_title(each.metadata, messages.get(each.id, ())) for each in sessions}
    return {
        id: SessionSummary(titles[id], event_count, _short(id, before, after))
        for id, event_count, before, after in described
    }


def find_first_messages(session_ids: tuple[str, ...]) -> Query[Mapping[str, list[Content]]]:
    """The first messages of sessions, by their ids."""
    params = {
        "session_ids": session_ids,
        "types": (str(EventType.MESSAGE_SENT), *ITEMS),
        "limit": _MESSAGES_PER_SESSION,
        "bytes_max": _MESSAGE_BYTES_MAX,
    }
    return Query("find_first_messages", params, _read_messages)


def _read_messages(rows: Rows) -> Mapping[str, list[Content]]:
    found: defaultdict[str, list[Content]] = defaultdict(list)
    for session_id, data in rows:
        found[session_id].append(read_content(EventType.MESSAGE_SENT, load(data)))
    return found


def _short(id: str, *neighbours: str | None) -> str:
    """The beginning of an id that none of the ids before and after it shares."""
    shared = max((_shared_length(id, other) for other in neighbours if other is not None), default=0)
    # One character more, so that the id is likely to stay the only one with this beginning.
    return id[: max(shared + 2, SHORT_ID_LENGTH)]


def _shared_length(one: str, other: str) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
