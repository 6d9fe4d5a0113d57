"""opencode's database: the sessions in its tables, as an export describes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.formats import databases
from asm.formats.databases import Database

_TABLES = {
    "session": {"id", "project_id", "parent_id", "title", "time_created", "time_updated"},
    "message": {"id", "session_id", "time_created", "data"},
    "part": {"id", "message_id", "session_id", "data"},
}
"""The tables of a database, and columns that all versions of them have."""

_NAMES = {"project_id": "projectID", "parent_id": "parentID", "share_url": "share"}
_TIMES = {"time_created": "created", "time_updated": "updated"}
_DOCUMENTS = ("revert", "summary_diffs", "permission", "model")


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is a SQLite database with opencode's tables."""
    return databases.contains(path, head, _has_tables)


def _has_tables(database: Database) -> bool:
    return all(database.has_table(name, columns) for name, columns in _TABLES.items())


def session_ids(database: Database) -> Iterator[Any]:
    """The ids of the sessions, those before which were begun earlier."""
    return (row["id"] for row in database.rows("select id from session order by time_created, id"))


def session(database: Database, id: Any) -> Document:
    """A session as an export describes it, {} if it was deleted meanwhile."""
    return next(map(_info, database.rows("select * from session where id = :id limit 1", id=id)), {})


def messages(database: Database, session_id: Any) -> Iterator[tuple[Document, list[Any]]]:
    """The messages of a session with their parts, in their order."""
    rows = database.rows(
        """
        select message.id, message.data, part.id as part_id, part.data as part_data
          from message
          left join part on part.message_id = message.id
         where message.session_id = :session_id
         order by message.time_created, message.id, part.id
        """,
        session_id=session_id,
    )
    for id, group in groupby(_bounded(rows, session_id), lambda row: row["id"]):
        parts = list(group)
        info = databases.object_in(parts[0]["data"], f"message {id}")
        yield (
            {**info, "id": id},
            [
                {**databases.object_in(row["part_data"], f"part {row['part_id']}"), "id": row["part_id"]}
                for row in parts
                if row["part_id"] is not None
            ],
        )


def _bounded(rows: Iterator[Document], session_id: Any) -> Iterator[Document]:
    size, before = databases.SessionSize(session_id), None
    for row in rows:
        size.add(row["part_data"], row["data"] if row["id"] != before else None)
        before = row["id"]
        yield row


def _info(row: Document) -> Document:
    """A row of a session as an export has it."""
    times = {own: row.get(name) for name, own in _TIMES.items()}
    others = {name: value for name, value in row.items() if name not in _TIMES and value is not None}
    info = {_NAMES.get(name, name): _stored(name, value) for name, value in others.items()}
    return {**info, "time": times}


def _stored(name: str, value: Any) -> Any:
    if name in _DOCUMENTS and isinstance(value, str):
        return databases.parsed(value)
    return value.hex() if isinstance(value, bytes) else value
