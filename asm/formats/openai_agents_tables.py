"""The tables in which the sessions of the OpenAI Agents SDK keep their items.

Each session has a pair of tables, whose names an application chooses: SQLiteSession, AsyncSQLiteSession
and SQLAlchemySession make the same. AdvancedSQLiteSession adds two tables with fixed names: the turn and
the branch of each item, and the tokens of each turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.formats import databases
from asm.formats.databases import Database

_SESSIONS = {"session_id", "created_at", "updated_at"}
_MESSAGES = {"id", "session_id", "message_data", "created_at"}
_STRUCTURE = {"id", "session_id", "message_id", "branch_id", "user_turn_number"}
_USAGE = {"id", "session_id", "branch_id", "user_turn_number", "requests", "input_tokens", "output_tokens"}


@dataclass(frozen=True, slots=True)
class Tables:
    """A pair of tables, by their names."""

    sessions: str
    messages: str
    has_turns: bool
    """Whether the tables of AdvancedSQLiteSession say more of the messages."""


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is a SQLite database with such a pair of tables."""
    return databases.contains(path, head, lambda database: next(_pairs(database), None) is not None)


def tables_of(database: Database) -> list[Tables]:
    """The pairs of tables in a database."""
    pairs = list(_pairs(database))
    has_turns = database.has_table("message_structure", _STRUCTURE) and database.has_table(
        "turn_usage", _USAGE
    )
    owner = database.referenced("message_structure", "message_id") if has_turns else None
    return [
        Tables(sessions, messages, has_turns and (owner or pairs[0][1]).lower() == messages.lower())
        for sessions, messages in pairs
    ]


def _pairs(database: Database) -> Iterator[tuple[str, str]]:
    others = [name for name in database.tables_with("updated_at") if database.has_table(name, _SESSIONS)]
    names = {name.lower(): name for name in others}
    for messages in database.tables_with("message_data"):
        if database.has_table(messages, _MESSAGES):
            owner = database.referenced(messages, "session_id")
            # A copy of the table may have lost its foreign key.
            sessions = names.get(owner.lower()) if owner else others[0] if len(others) == 1 else None
            if sessions is not None:
                yield sessions, messages


# Rows.


def session_ids(database: Database, tables: Tables) -> Iterator[Any]:
    """The ids of the sessions, those before which were begun earlier, and of items without a session."""
    sql = f"""
        select session_id, created_at from {_quoted(tables.sessions)}
        union all
        select session_id, min(created_at)
          from {_quoted(tables.messages)} as message
         where not exists (
                   select 1 from {_quoted(tables.sessions)} as session
                    where session.session_id = message.session_id)
         group by session_id
         order by created_at, session_id
        """
    return (row["session_id"] for row in database.rows(sql))


def session(database: Database, tables: Tables, id: Any) -> Document:
    """The row of a session, {} if there is none."""
    sql = f"select * from {_quoted(tables.sessions)} where session_id = :id limit 1"
    return next(database.rows(sql, id=id), {})


def items(database: Database, tables: Tables, id: Any) -> Iterator[Document]:
    """The rows of the items of a session, in their order."""
    sql = f"""
        select id, message_data, created_at
          from {_quoted(tables.messages)}
         where session_id = :id
         order by id
        """
    size = databases.SessionSize(id)
    for row in database.rows(sql, id=id):
        size.add(row["message_data"])
        yield row


def turns(database: Database, tables: Tables, id: Any) -> dict[Any, list[tuple[Any, Any]]]:
    """The branches and turns of each item, by its id. The first is that in which it was added."""
    found: dict[Any, list[tuple[Any, Any]]] = {}
    if tables.has_turns:
        sql = """
            select message_id, branch_id, user_turn_number
              from message_structure
             where session_id = :id
             order by id
            """
        size = databases.SessionSize(id)
        for row in database.rows(sql, id=id):
            size.add()
            found.setdefault(row["message_id"], []).append((row["branch_id"], row["user_turn_number"]))
    return found


def usages(database: Database, tables: Tables, id: Any) -> dict[tuple[Any, Any], Document]:
    """The tokens of each turn, by its branch and number."""
    found: dict[tuple[Any, Any], Document] = {}
    if tables.has_turns:
        size = databases.SessionSize(id)
        for row in database.rows("select * from turn_usage where session_id = :id order by id", id=id):
            size.add(*row.values())
            found[row["branch_id"], row["user_turn_number"]] = row
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
