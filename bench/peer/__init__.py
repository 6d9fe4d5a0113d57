"""Similar libraries behind the same two calls, each set up as its documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.databases import PostgresSchema, SQLiteFile

Dialect: TypeAlias = Literal["postgres", "sqlite"]

CONNECTIONS = 32
"""One for each caller, so that no caller waits for a pool."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer keeps its tables: in the store's schema, or in a second SQLite file."""

    database: PostgresSchema | SQLiteFile

    @property
    def is_sqlite(self) -> bool:
        return isinstance(self.database, SQLiteFile)

    @property
    def schema(self) -> str:
        assert isinstance(self.database, PostgresSchema)
        return self.database.schema

    @property
    def file(self) -> Path:
        assert isinstance(self.database, SQLiteFile)
        return self.database.path.with_name("peer.db")

    @property
    def parts(self) -> dict[str, Any]:
        """libpq's parts of the DSN."""
        return conninfo_to_dict(self.database.dsn)

    @property
    def conninfo(self) -> str:
        """For libpq, with the tables in the store's schema."""
        return make_conninfo(self.database.dsn, options=f"-c search_path={self.schema}")

    def url(self, driver: str) -> str:
        """For SQLAlchemy, from the DSN's host, port, user, password and database."""
        if self.is_sqlite:
            return f"sqlite+{driver}:///{self.file}" if driver else f"sqlite:///{self.file}"
        from sqlalchemy import URL

        parts = self.parts
        url = URL.create(
            f"postgresql+{driver}",
            username=parts.get("user"),
            password=parts.get("password"),
            host=parts.get("host"),
            port=int(parts["port"]) if "port" in parts else None,
            database=parts.get("dbname"),
        )
        return str(url.render_as_string(hide_password=False))

    @property
    def asyncpg_arguments(self) -> dict[str, Any]:
        return {} if self.is_sqlite else {"server_settings": {"search_path": self.schema}}


@dataclass(frozen=True, slots=True)
class Peer:
    """An open library. Its calls block if it is called from threads, and are awaited from tasks."""

    name: str
    called_from: Literal["threads", "tasks"]
    append: Callable[[str, int], Any | Awaitable[Any]]
    """Appends one event to a session, with the document of this number."""
    read: Callable[[str, int], Any | Awaitable[Any]]
    """Reads the last events of a session as the library's objects."""


Opened: TypeAlias = Callable[[asyncio.Runner, Address, list[str]], AbstractContextManager[Peer]]
"""Opens a peer, and creates its tables and these sessions."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of using a library, and what to install for it."""

    name: str
    package: str
    module: str
    opened: str
    dialects: tuple[Dialect, ...] = ("postgres",)


KINDS = (
    Kind(
        "SQLAlchemy's ORM, five statements", "sqlalchemy", "by_sqlalchemy", "opened", ("postgres", "sqlite")
    ),
    Kind(
        "eventsourcing, application recorder",
        "eventsourcing",
        "by_eventsourcing",
        "application",
        ("postgres", "sqlite"),
    ),
    Kind(
        "eventsourcing, aggregate recorder",
        "eventsourcing",
        "by_eventsourcing",
        "aggregate",
        ("postgres", "sqlite"),
    ),
    Kind("LangGraph's PostgresSaver", "langgraph-checkpoint-postgres", "by_langgraph", "opened"),
    Kind(
        "OpenAI Agents' SQLAlchemySession",
        "openai-agents",
        "by_openai_agents",
        "opened",
        ("postgres", "sqlite"),
    ),
    Kind(
        "Google ADK's DatabaseSessionService", "google-adk", "by_google_adk", "opened", ("postgres", "sqlite")
    ),
)
