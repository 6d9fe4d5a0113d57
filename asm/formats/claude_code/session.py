"""A session that is made of records: its row, its title and its events. All ids come from the records."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from hashlib import sha256

from asm.content import session_title
from asm.documents import Document
from asm.formats.claude_code import records
from asm.formats.claude_code.records import Draft
from asm.formats.session_rows import digest_of, new_event
from asm.models import Event, EventType, Session, SessionStatus
from asm.validation import is_text

FORMAT = "Claude Code"
AGENT = "claude-code"
PROVIDER = "anthropic"

TITLES_MAX = 1_000
"""The titles of conversations that are kept until one of their records is read."""

_REPEATED = {
    *("cwd", "gitBranch", "version", "userType", "entrypoint", "slug", "sessionId", "agentId", "isSidechain"),
    *("teamName", "permissionMode", "promptId"),
}
"""Fields that each record has. An event has them where they change."""

_AROUND = _REPEATED | {"type", "subtype", "uuid", "parentUuid", "timestamp"}
"""The fields that say what a record is and where it stands, and not what it says."""

_SESSION_FIELDS = {"cwd": "cwd", "gitBranch": "git_branch", "version": "version"}

_TITLES = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
"""The field that has the title, by the type of the record, from the strongest to the weakest."""


class SessionBuilder:
    """Makes a session and its events of records, which are begun one after the other.

    The first occurrence of a uuid counts: a compaction repeats records. `at` is the time of records if none
    has one, and `parent_id` the session to which this one belongs.
    """

    def __init__(
        self,
        id: str,
        *,
        at: datetime,
        metadata: Document,
        status: SessionStatus,
        parent_id: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self._id_start = f"{FORMAT}\0{id}"
        self.metadata = metadata
        self.at = at
        """The time of the record that is read, or of the one before it that has a time."""
        self.record_id = ""
        self.run_id: str | None = None
        """The run of the events that are added."""
        self._status = status
        self._parent_id = parent_id
        self._tags = tags
        self._created_at: datetime | None = None
        self._updated_at = at
        self._seen: dict[str, bool] = {}
        """The uuids of the records, and whether a message follows the record."""
        self._equal: Counter[bytes] = Counter()
        self._has_time = False
        self._before: Document = {}
        """The repeated fields of the record before, and as the parent of this one its uuid."""
        self._uuid: str | None = None
        self._titles: dict[str, str] = {}
        self._titles_of: dict[str, str] = {}
        """Titles by the uuid of a record that has not been read. It may be in another log."""
        self._events: list[Event] = []

    # Records.

    @property
    def has_begun(self) -> bool:
        return self._created_at is not None

    def begin(self, at: datetime | None) -> None:
        """Begin the session at the time of its first record."""
        self.at = self.at if at is None else at
        self._created_at = self._updated_at = self.at
        self.record_id = "session"
        self.add(Draft(EventType.SESSION_CREATED))

    def begin_record(self, record: Document, uuid: str | None, at: datetime | None) -> None:
        """Go on to the next record, with this uuid and this time."""
        self._has_time = at is not None
        if at is not None:
            self.at = at
            self._updated_at = max(self._updated_at, at)
        if uuid is None:
            self.record_id = self._numbered(record)
            return
        self.record_id = uuid
        self._before["parentUuid"], self._uuid = self._uuid, uuid
        self._seen[uuid] = False
        if uuid in self._titles_of:
            self._titles["summary"] = self._titles_of.pop(uuid)

    def has_read(self, uuid: str | None) -> bool:
        """Whether the record of a uuid has been read."""
        return uuid in self._seen

    def mark_parent(self, record: Document) -> str | None:
        """Note that a message follows the parent of a record, and return the parent if one did before."""
        parent = records.text_of(record.get("parentUuid"))
        if parent is None or (has_child := self._seen.get(parent)) is None:
            return None
        self._seen[parent] = True
        return parent if has_child else None

    def _numbered(self, record: Document) -> str:
        """The id of a record without a uuid: its content, and its number among equal ones."""
        digest = digest_of(record)
        self._equal[digest] += 1
        return f"{digest.hex()} {self._equal[digest]}"

    # What an event keeps of its record.

    def rest(self, record: Document, *names: str) -> Document:
        """The fields of a record, without these and without those that say what the records before said."""
        before = self._before.get
        rest = {
            name: value
            for name, value in record.items()
            if value is not None and name not in names and before(name) != value
        }
        if self._has_time:
            rest.pop("timestamp", None)
        for name in _REPEATED & rest.keys():
            self._before[name] = rest[name]
            if name in _SESSION_FIELDS and isinstance(rest[name], str):
                self.metadata.setdefault(_SESSION_FIELDS[name], rest[name])
        return rest

    def rest_around(
        self, record: Document, message: Document, *names: str, inner: tuple[str, ...] = ()
    ) -> Document:
        """The same of a record with a message, and the fields of the message without `inner`."""
        rest = self.rest(record, "type", "message", *names)
        others = records.without(message, "content", *inner)
        if others.get("role") == record["type"]:
            del others["role"]
        if others.get("type") == "message":
            del others["type"]
        if others:
            rest["message"] = others
        return rest

    # Events.

    def add(
        self, draft: Draft, part: str = "", rest: Document | None = None, metadata: Document | None = None
    ) -> None:
        """Add an event of the record that is read. Of several events of a record, each is a part.

        `rest` is what no event of the record has.
        """
        self.add_at(self.record_id, self.at, draft, part, rest, metadata, run_id=self.run_id)

    def add_at(
        self,
        record_id: str,
        at: datetime,
        draft: Draft,
        part: str = "",
        rest: Document | None = None,
        metadata: Document | None = None,
        *,
        run_id: str | None,
    ) -> None:
        """Add an event of a record that was read before."""
        metadata = metadata or {}
        if rest := {**(rest or {}), **draft.rest}:
            metadata["rest"] = rest
        self._events.append(
            new_event(
                self.id_of("evt_", record_id, part),
                draft.type,
                at=at,
                session_id=self.id,
                run_id=run_id,
                data=draft.data,
                metadata=metadata,
                provider=PROVIDER,
                correlation_id=draft.correlation_id,
            )
        )

    def add_record(self, record: Document) -> None:
        """Add a record that has no type of ours as it is."""
        rest = self.rest(record)
        data = {name: value for name, value in rest.items() if name not in _AROUND}
        around = {name: value for name, value in rest.items() if name in _AROUND}
        self.add(Draft(records.type_of(record), data, around))

    def id_of(self, prefix: str, record_id: str, part: str = "") -> str:
        """The id of an event or a run that is made of a record."""
        return _hashed(prefix, f"{self._id_start}\0{record_id}\0{part}")

    def take_events(self) -> list[Event]:
        """The events that were added since the last time."""
        events, self._events = self._events, []
        return events

    # The session.

    def session(self) -> Session:
        title = next((self._titles[type] for type in (*_TITLES, "prompt") if type in self._titles), None)
        return Session(
            id=self.id,
            agent_id=AGENT,
            status=self._status,
            parent_session_id=self._parent_id,
            metadata={**self.metadata, **({} if title is None else {"title": title})},
            tags=self._tags,
            created_at=self._created_at or self.at,
            updated_at=self._updated_at,
        )

    def name(self, record: Document) -> None:
        """Take the title that a record has, if it is one of this conversation."""
        kind = record.get("type")
        if not isinstance(kind, str) or kind not in _TITLES:
            return
        title = session_title({"title": record.get(_TITLES[kind])}, [])
        leaf = records.text_of(record.get("leafUuid"))
        if title is None:
            return
        if kind != "summary" or (leaf is not None and leaf in self._seen):
            self._titles[kind] = title
        elif leaf is not None and len(self._titles_of) < TITLES_MAX:
            self._titles_of[leaf] = title

    def name_by_prompt(self, prompt: str) -> None:
        """Take a prompt as the title that is used if there is no other."""
        title = session_title({"title": prompt}, [])
        if title is not None:
            self._titles["prompt"] = title


def agent_session_id(log_id: str, agent_id: str) -> str:
    """The id of the session of a sub-agent. `log_id` is that of the session which began it."""
    id = f"{log_id}/agent-{agent_id}"
    return id if is_text(id) else _hashed("ses_", f"{FORMAT}\0{log_id}\0{agent_id}")


def _hashed(prefix: str, words: str) -> str:
    # No word has a NUL.
    return prefix + sha256(words.encode()).hexdigest()[:32]
