"""The sessions of the OpenAI Agents SDK in its SQLite files.

A session is a list of items, as OpenAI's Responses have them. A message of the user begins a run. An
AdvancedSQLiteSession may go on from an earlier turn in another branch: each item is imported once, in the
order in which the items were added, into the run of its branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from asm.documents import Document
from asm.errors import ValidationError
from asm.formats import databases, openai_agents_tables, openai_items
from asm.formats.base import Reader, Transcript
from asm.formats.databases import Database
from asm.formats.openai_agents_tables import Tables
from asm.formats.openai_items import Draft
from asm.formats.session_rows import (
    OpenRun,
    SessionRows,
    counts_of,
    hashed_id,
    object_of,
    snake_case,
    time_of,
    token_number,
    without,
)
from asm.formats.times import is_settled, modified_at
from asm.models import EventType, SessionStatus
from asm.validation import is_text, safe_repr

FORMAT = "OpenAI Agents database"
AGENT = "openai-agents"
PROVIDER = "openai"

MAIN_BRANCH = "main"

Turn = tuple[Any, Any]
"""A branch, and the number of a turn of the user in it."""

_CALLS = (EventType.TOOL_CALL_STARTED, EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
_COUNTED = (
    "id",
    "session_id",
    "branch_id",
    "user_turn_number",
    "created_at",
    "input_tokens",
    "output_tokens",
    "total_tokens",
)


def _read(path: Path) -> Iterator[Transcript]:
    with databases.reading(path) as database:
        found = database.read(lambda: list(_sessions(database)))
        yield from databases.each(
            database,
            found,
            lambda each: _transcript(path, database, *each),
            name=lambda each: safe_repr(each[1]),
        )


READER = Reader(FORMAT, openai_agents_tables.sniff, read=_read, has_times=True)


def _sessions(database: Database) -> Iterator[tuple[Tables, Any]]:
    for tables in openai_agents_tables.tables_of(database):
        for id in openai_agents_tables.session_ids(database, tables):
            yield tables, id


def _transcript(path: Path, database: Database, tables: Tables, id: Any) -> Transcript:
    """A session and its items."""
    if not isinstance(id, str) or not id:
        raise ValidationError(f"the id of a session must be a text, not {safe_repr(id)}")
    row = openai_agents_tables.session(database, tables, id)
    items = list(openai_agents_tables.items(database, tables, id))
    times = [time for each in (row, *items) if (time := time_of(each.get("created_at"))) is not None]
    updated_at = max([*times, *filter(None, [time_of(row.get("updated_at"))])], default=modified_at(path))
    begun_at = times[0] if times else None
    rows = _rows(path, id, begun_at, updated_at)
    turns = openai_agents_tables.turns(database, tables, id)
    if len(branches := _branches(turns)) > 1:
        rows.metadata["branches"] = branches
    rows.begin(begun_at)
    conversation = _Conversation(
        rows, tables.messages, turns, openai_agents_tables.usages(database, tables, id)
    )
    for item in items:
        try:
            conversation.add(item)
        except ValidationError as error:
            raise ValidationError(
                f"session {safe_repr(id)}, item {safe_repr(item['id'])}: {error}"
            ) from error
    conversation.end(is_final=is_settled(updated_at))
    rows.move_to(updated_at)
    taken = rows.take()
    assert taken is not None
    return taken


def _rows(path: Path, id: str, begun_at: datetime | None, updated_at: datetime) -> SessionRows:
    own_id = _own_id(id, begun_at)
    metadata: Document = {"format": FORMAT, "file": path.name}
    return SessionRows(
        FORMAT,
        own_id,
        agent_id=AGENT,
        at=updated_at,
        metadata=metadata if own_id == id else {**metadata, "session_id": id},
        provider=PROVIDER,
        status=SessionStatus.COMPLETED if is_settled(updated_at) else SessionStatus.ACTIVE,
    )


def _own_id(id: str, begun_at: datetime | None) -> str:
    """The id of a session: its own if it is a UUID, else with the time at which it was begun.

    Many databases have a session of the same name, and a session that is cleared is begun again.
    """
    try:
        UUID(id)
        named = id
    except ValueError:
        named = id if begun_at is None else f"{id}@{begun_at:%Y%m%dT%H%M%S}"
    # A UUID may have any number of hyphens.
    return named if is_text(named) else hashed_id("ses_", FORMAT, named)


def _branches(turns: Mapping[Any, list[Turn]]) -> Document:
    """For each branch how many items it has, and how many of them it shares with one that was before it."""
    found: Document = {}
    for places in turns.values():
        for number, (branch, _) in enumerate(places):
            counts = found.setdefault(str(branch), {"items": 0, "shared": 0})
            counts["items"] += 1
            counts["shared"] += number > 0
    return found


@dataclass(slots=True)
class _Prompt:
    """The messages of the user that begin a run."""

    record_id: str
    run: OpenRun
    at: datetime
    place: Turn | None = None
    messages: list[Document] = field(default_factory=list)

    def goes_on(self, at: datetime, places: list[Turn]) -> bool:
        """Whether another message was added together with these. Each has a turn of its own."""
        if at != self.at:
            return False
        branch, turn = self.place or (None, None)
        return not places or (isinstance(turn, int) and places[0] == (branch, turn + 1))

    def add(self, content: Any, places: list[Turn]) -> None:
        self.place = places[0] if places else None
        self.messages.append({"role": "user", "content": content})
        self.run.input = content if len(self.messages) == 1 else self.messages


class _Conversation:
    """Makes the rows of a session of its items."""

    def __init__(
        self,
        rows: SessionRows,
        table: str,
        turns: Mapping[Any, list[Turn]],
        usages: dict[Turn, Document],
    ) -> None:
        self._rows = rows
        self._table = table
        self._turns = turns
        self._usages = usages
        self._runs: dict[Turn, OpenRun] = {}
        self._prompt: _Prompt | None = None
        """That of the run, until it is answered."""
        self._counted: list[tuple[str, OpenRun | None, Document]] = []
        """The tokens of turns that have no event yet."""
        self._was_answer = False
        self._model_calls: dict[OpenRun, int] = {}

    def add(self, row: Document) -> None:
        """Add the row of an item."""
        places = self._turns.get(row["id"], [])
        data = row["message_data"]
        digest = sha256(str(data).encode("utf-8", "surrogatepass")).hexdigest()
        record_id = f"{self._table} {row['id']} {digest}"
        self._rows.go_to(time_of(row["created_at"]))
        if places:
            self._rows.run = self._runs.get(places[0])
        drafts = list(self._drafts(record_id, data, places))
        for draft in drafts:
            self._rows.add(
                draft.type,
                record_id,
                draft.data,
                part=draft.part,
                correlation_id=draft.call_id or (record_id if draft.type in _CALLS else None),
                metadata=_place(places),
                rest=draft.rest,
            )

    def _drafts(self, record_id: str, data: Any, places: list[Turn]) -> Iterator[Draft]:
        try:
            item = databases.parsed(data)
        except ValidationError as error:
            # The SDK passes over such an item, too.
            yield Draft(_own_type("invalid_item"), {"text": str(data), "error": str(error)})
            return
        if not isinstance(item, dict):
            yield Draft(_own_type("item"), {"item": item})
            return
        if "__enc__" in item and "payload" in item:
            raise ValidationError(
                "the session is encrypted (EncryptedSession), and asm has no key: copy its items into a "
                "SQLiteSession with the SDK, and import that"
            )
        if item.get("role") == "user":
            self._add_prompt(record_id, item, places)
        else:
            self._count_answer(item)
        yield from openai_items.drafts_of(item, _own_type)

    # Runs.

    def _add_prompt(self, record_id: str, item: Document, places: list[Turn]) -> None:
        """Begin a run with a message of the user, unless it was added together with the one before."""
        content = openai_items.plain(item.get("content"))
        prompt = self._prompt
        if prompt is None or not prompt.goes_on(self._rows.at, places):
            self._add_usage_events()
            prompt = _Prompt(record_id, self._rows.begin_run(record_id, content), self._rows.at)
        self._prompt = prompt
        self._rows.run = prompt.run
        prompt.add(content, places)
        self._rows.note(prompt.run)
        self._was_answer = False
        for turn in places:
            self._runs[turn] = prompt.run
            if (usage := self._usages.pop(turn, None)) is not None:
                self._count(prompt.run, f"{prompt.record_id} usage {turn[0]} {turn[1]}", usage)

    def _count_answer(self, item: Document) -> None:
        """Count a turn of the model where what it says follows what it was told."""
        is_answer = openai_items.is_answer(item)
        run = self._rows.run
        if is_answer:
            self._prompt = None
            if not self._was_answer:
                self._rows.add_turn(run, None)
            if run is not None and item.get("role") == "assistant":
                run.output = openai_items.plain(item.get("content"))
        self._was_answer = is_answer

    # Tokens.

    def _count(self, run: OpenRun | None, record_id: str, usage: Document) -> None:
        """Count the tokens of a turn. Their event comes when no other run of the SDK adds to the turn."""
        self._rows.add_usage(run, _counts(usage))
        if run is not None:
            calls = token_number(usage.get("requests"))
            self._model_calls[run] = self._model_calls.get(run, 0) + calls
        self._counted.append((record_id, run, usage))

    def _add_usage_events(self) -> None:
        for record_id, run, usage in self._counted:
            counts = _counts(usage)
            rest = without({**usage, **_details(usage)}, *_COUNTED)
            self._rows.add(
                EventType.TOKEN_USAGE_UPDATED if counts else _own_type("turn_usage"),
                record_id,
                dict(counts),
                at=time_of(usage.get("created_at")),
                run=run,
                metadata=_place([(usage["branch_id"], usage["user_turn_number"])]),
                rest=rest,
            )
        self._counted = []

    def end(self, *, is_final: bool) -> None:
        """End the session. `is_final` says that nothing was added to it for a day."""
        self._rows.run = None
        for (branch, turn), usage in self._usages.items():
            self._count(self._runs.get((branch, turn)), f"usage {branch} {turn}", usage)
        for run, calls in self._model_calls.items():
            run.turns = calls or run.turns
        if is_final:
            self._add_usage_events()


def _own_type(name: str) -> str:
    return f"openai_agents.{snake_case(name)}"


def _place(places: list[Turn]) -> Document:
    """The branch and the turn in which an item was added."""
    if not places:
        return {}
    branch, turn = places[0]
    return {"turn": turn} if branch == MAIN_BRANCH else {"branch": branch, "turn": turn}


def _counts(usage: Document) -> Any:
    """The tokens of a turn. Cached tokens are among the input, and those of reasoning among the output."""
    cached = object_of(_details(usage), "input_tokens_details")
    asked, said, total = (
        token_number(usage.get(name)) for name in ("input_tokens", "output_tokens", "total_tokens")
    )
    read = min(token_number(cached.get("cached_tokens")), asked)
    written = min(token_number(cached.get("cache_write_tokens")), asked - read)
    return counts_of(
        input_tokens=asked - read - written,
        output_tokens=said,
        total_tokens=total,
        cache_read_tokens=read,
        cache_creation_tokens=written,
    )


def _details(usage: Document) -> Document:
    """The details of the tokens, which are JSON texts."""
    names = ("input_tokens_details", "output_tokens_details")
    return {name: openai_items.decoded(usage.get(name)) for name in names}
