"""The checkpoints of LangGraph's threads: storing, reading, copying. A thread is a session.

The tables are optional. The values are bytes of LangGraph's serializer, and nothing here imports LangGraph.
The values of a checkpoint's channels are in rows of their own, one for each version, which many checkpoints
share; the short ones are in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from asm.documents import DOCUMENT_LENGTH_MAX, dump, dump_object, load
from asm.engine.schema_version import OPTIONAL
from asm.engine.script import Query, Rows, Script, UnitOfWork, no_result
from asm.errors import MigrationRequired, ValidationError
from asm.operations.sessions import delete_session
from asm.validation import a_type, optional_count, safe_repr, text

AGENT_ID = "langgraph"
"""The agent of a session that a thread's first checkpoint inserts."""

OWN_METADATA = {"source", "step", "parents", "run_id", "counters_since_delta_snapshot"}
"""What LangGraph writes into the metadata of a checkpoint. The rest comes from the application."""

INLINE_LENGTH_MAX = 200
"""A longer string has a row of its own."""

TOUCH_AFTER = timedelta(seconds=1)
"""How far `updated_at` of a session may be behind its newest checkpoint."""

PAGE_SIZE = 100
"""Checkpoints of one query, which may have large values."""

Value: TypeAlias = tuple[str, bytes]
"""What LangGraph's serializer makes of a value: the name of a format, and bytes."""

Key: TypeAlias = tuple[str, str, str]
"""A checkpoint's session, namespace and id."""

Config: TypeAlias = Any
"""LangGraph's name of a checkpoint: `{"configurable": {"thread_id": …, "checkpoint_ns": …, …}}`."""


def session_of(thread_id: Any) -> str:
    """The session of a thread."""
    if isinstance(thread_id, bool) or not isinstance(thread_id, str | int | UUID):
        raise ValidationError(
            f"thread_id must be a string, an int or a UUID, not {a_type(thread_id)}", path="thread_id"
        )
    return text(thread_id if isinstance(thread_id, str) else str(thread_id), "thread_id")


def key_of(config: Config) -> tuple[str, str, str | None]:
    """The session, the namespace and, if it is given, the id of a checkpoint."""
    place = config.get("configurable") or {}
    if "thread_id" not in place:
        raise ValidationError("the config has no thread_id in 'configurable'", path="configurable.thread_id")
    namespace, checkpoint_id = place.get("checkpoint_ns") or "", place.get("checkpoint_id") or None
    if checkpoint_id is not None:
        checkpoint_id = text(checkpoint_id, "checkpoint_id")
    return session_of(place["thread_id"]), _name(namespace, "checkpoint_ns"), checkpoint_id


def _name(value: Any, name: str) -> str:
    """A string of LangGraph's, which may be empty, that both databases store unchanged."""
    return "" if value == "" else text(value, name, DOCUMENT_LENGTH_MAX)


def config_of(session_id: str, namespace: str, checkpoint_id: str) -> Config:
    place = {"thread_id": session_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": place}


def has_row(value: Any) -> bool:
    """Whether the value of a channel has a row of its own."""
    if isinstance(value, str):
        return len(value) > INLINE_LENGTH_MAX
    return value is not None and not isinstance(value, int | float)


class Write(NamedTuple):
    """What a task has written to a channel."""

    task_path: str
    task_id: str
    number: int
    channel: str
    value: Value


class StoredCheckpoint(NamedTuple):
    """A checkpoint with the values of its channels and the writes of the tasks after it, in their order."""

    key: Key
    parent_id: str | None
    metadata: dict[str, Any]
    value: Value
    blobs: dict[str, Value]
    writes: list[Write]


class CheckpointSummary(NamedTuple):
    """A checkpoint without its values. `source` and `step` are LangGraph's."""

    namespace: str
    created_at: datetime
    source: str
    step: str
    total: int
    """How many checkpoints the thread has."""


def put_checkpoint(
    config: Config,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    new_versions: Mapping[str, Any],
    dumps: Callable[[Any], Value],
) -> Query[None]:
    """Store a checkpoint, or replace it, and insert its session or move that one's `updated_at`.

    The values of the channels in `new_versions` are stored with it, those of others with an earlier one.
    """
    session_id, namespace, parent_id = key_of(config)
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    channels = [_name(name, "the name of a channel") for name in values]
    rows = {name: str(versions[name]) for name in channels if name in versions and has_row(values[name])}
    inline = {name: value for name, value in values.items() if name not in rows}
    type, value = dumps({**checkpoint, "channel_values": inline})
    saved, now = _plain(metadata), datetime.now(UTC)
    counted = saved.get("counters_since_delta_snapshot") or ()
    delta_channels = [name for name in counted if name in versions and name not in values]
    new = {name: dumps(values[name]) for name in rows if name in new_versions}
    params = {
        "session_id": session_id,
        "checkpoint_ns": namespace,
        "checkpoint_id": text(checkpoint["id"], "the checkpoint's id"),
        "parent_checkpoint_id": parent_id,
        "run_id": run_id if isinstance(run_id := saved.get("run_id"), str) else None,
        "metadata": dump_object(saved, "metadata"),
        "type": type,
        "value": bytes(value),
        "blob_versions": dump_object(rows, "channel_versions"),
        "delta_channels": dump(delta_channels, "channels") if delta_channels else None,
        "agent_id": AGENT_ID,
        "context": dump_object({name: saved[name] for name in saved.keys() - OWN_METADATA}, "metadata"),
        "created_at": now,
        "stale_before": now - TOUCH_AFTER,
        "channels": list(new) or None,
        "versions": [rows[name] for name in new] or None,
        **_columns(new.values()),
    }
    return Query("put_checkpoint", params, no_result)


def put_writes(
    config: Config, task_id: str, task_path: str, writes: Mapping[int, tuple[str, Value]]
) -> Query[None]:
    """Store what a task has written, by index. A stored write is replaced if its index is negative."""
    session_id, namespace, checkpoint_id = key_of(config)
    params = {
        "session_id": session_id,
        "checkpoint_ns": namespace,
        "checkpoint_id": text(checkpoint_id, "checkpoint_id"),
        "task_id": _name(task_id, "task_id"),
        "task_path": _name(task_path, "task_path"),
        "indexes": list(writes),
        "channels": [_name(channel, "the name of a channel") for channel, _ in writes.values()],
        "created_at": datetime.now(UTC),
        **_columns(value for _, value in writes.values()),
    }
    return Query("put_checkpoint_writes", params, no_result)


def get_checkpoint(config: Config) -> Query[StoredCheckpoint | None]:
    """A checkpoint, or the newest of a namespace; None if there is none."""
    session_id, namespace, checkpoint_id = key_of(config)
    params = {"session_id": session_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return Query("list_checkpoints", {**params, "limit": 1}, lambda rows: next(iter(_read(rows)), None))


def page_sizes(limit: int | None) -> Iterator[int]:
    """How many checkpoints each page of a list has."""
    remaining = optional_count(limit, "limit")
    while remaining is None:
        yield PAGE_SIZE
    yield from (min(PAGE_SIZE, remaining - start) for start in range(0, remaining, PAGE_SIZE))


def list_checkpoints(
    config: Config | None,
    filter: Mapping[str, Any] | None,
    before: Config | None,
    last: StoredCheckpoint | None,
    limit: int,
) -> Query[list[StoredCheckpoint]]:
    """Checkpoints of all threads, of one, or of a namespace, the newest first, behind the `last` one."""
    session_id, namespace, checkpoint_id = (None, None, None) if config is None else key_of(config)
    if config is not None and config["configurable"].get("checkpoint_ns") is None:
        # "" is the namespace of the root graph.
        namespace = None
    last_session_id, last_ns, last_id = (None, None, None) if last is None else last.key
    params = {
        "session_id": session_id,
        "checkpoint_ns": namespace,
        "checkpoint_id": checkpoint_id,
        "before": None if before is None else key_of(before)[2],
        "filter": _filter(filter) if filter else None,
        "last_session_id": last_session_id,
        "last_ns": last_ns,
        "last_id": last_id,
        "limit": limit,
    }
    # Whether a filter is selective decides how many checkpoints are read.
    return Query("list_checkpoints", params, _read, prepare=not filter)


def _filter(filter: Mapping[str, Any]) -> str:
    plain = _plain(filter)
    text = dump_object(plain, "filter")
    pending = [plain]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list):
            pending.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int | float) and not -(2**63) <= value < 2**63:
            raise ValidationError(
                f"filter has a number beyond 64 bits, {safe_repr(value)}, which SQLite compares inexactly: "
                "store it as a string",
                path="filter",
            )
    return text


def describe_checkpoints(session_id: str, limit: int) -> Query[list[CheckpointSummary]]:
    """What a list shows of the newest checkpoints of a thread."""

    def read(rows: Rows) -> list[CheckpointSummary]:
        return [
            CheckpointSummary(
                namespace, created_at, str(source or ""), "" if step is None else str(step), total
            )
            for namespace, created_at, source, step, total in rows
        ]

    return Query("describe_checkpoints", {"session_id": session_id, "limit": limit}, read)


def delete_thread(thread_id: str) -> UnitOfWork[None]:
    """Delete a session with all that it has. Deleting its row deletes its checkpoints."""
    session_id = session_of(thread_id)

    def script() -> Script[None]:
        yield from delete_session(session_id)
        # Writes may be there without a session.
        yield from Query("delete_thread_checkpoints", {"session_id": session_id}, no_result)

    unit = UnitOfWork(script)
    unit.name = "delete_thread"
    return unit


def copy_thread(thread_id: str, target_id: str) -> Query[None]:
    """Copy all checkpoints of a thread to another one. What that has already stays."""
    params = {
        "session_id": session_of(thread_id),
        "target_id": session_of(target_id),
        "created_at": datetime.now(UTC),
    }
    return Query("copy_thread", params, no_result)


def tables_missing() -> MigrationRequired:
    return MigrationRequired(
        "the tables of LangGraph's checkpoints are missing or older than this version of asm: run "
        "`asm migrate --langgraph`, or call setup() of the saver",
        pending=list(OPTIONAL["langgraph"].migrations),
    )


# Reading rows, and making columns.


def _read(rows: Rows) -> list[StoredCheckpoint]:
    """The checkpoints of a query, the newest first."""
    found: dict[Key, StoredCheckpoint] = {}
    parts: list[tuple[Key, str, str | None, str, int, Value]] = []
    for session_id, namespace, id, parent_id, metadata, task_id, path, index, channel, type, value in rows:
        key = (session_id, namespace, id)
        if channel is None:
            found[key] = StoredCheckpoint(key, parent_id, load(metadata), (type, value), {}, [])
        else:
            parts.append((key, channel, task_id, path, index, (type, value)))
    for key, channel, task_id, path, index, typed in parts:
        if task_id is None:
            found[key].blobs[channel] = typed
        else:
            found[key].writes.append(Write(path, task_id, index, channel, typed))
    for each in found.values():
        each.writes.sort()
    return sorted(found.values(), key=lambda each: each.key[::-1], reverse=True)


def _columns(values: Iterable[Value]) -> dict[str, list[Any] | None]:
    """The columns of values. An empty array would have no type."""
    values = list(values)
    return {
        "types": [type for type, _ in values] or None,
        "values": [bytes(value) for _, value in values] or None,
    }


def _plain(value: Any) -> Any:
    """A document without tuples, NUL characters and lone surrogates, as LangGraph's own stores leave it.

    Its keys are sorted, so that equal documents have one text.
    """
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "ignore").decode()
    if isinstance(value, dict):
        items = [(_plain(key), _plain(item)) for key, item in value.items()]
        return dict(sorted(items, key=lambda item: str(item[0])))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
