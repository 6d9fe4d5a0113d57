"""Libraries of a like kind, each behind the same few calls, set up as its own documentation says."""

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
"""As many as there are callers at most, so that nobody waits for a pool."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer keeps its tables: beside ours, in the same schema or in a file of its own."""

    place: PostgresSchema | SQLiteFile

    @property
    def is_sqlite(self) -> bool:
        return isinstance(self.place, SQLiteFile)

    @property
    def schema(self) -> str:
        assert isinstance(self.place, PostgresSchema)
        return self.place.schema

    @property
    def file(self) -> Path:
        assert isinstance(self.place, SQLiteFile)
        return self.place.path.with_name("peer.db")

    @property
    def parts(self) -> dict[str, Any]:
        """libpq's parts of the DSN."""
        return conninfo_to_dict(self.place.dsn)

    @property
    def conninfo(self) -> str:
        """For libpq, with the tables in our schema."""
        return make_conninfo(self.place.dsn, options=f"-c search_path={self.schema}")

    def url(self, driver: str) -> str:
        """For SQLAlchemy. Only what a plain DSN has: host, port, user, password, database."""
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
    """A library that is open. Its calls block where it is called from threads, and are awaited from tasks."""

    name: str
    called_from: Literal["threads", "tasks"]
    append: Callable[[str, int], Any | Awaitable[Any]]
    """One event in a session, with a document of that number."""
    read: Callable[[str, int], Any | Awaitable[Any]]
    """The last so many events of a session, as the library's objects."""


Opened: TypeAlias = Callable[[asyncio.Runner, Address, list[str]], AbstractContextManager[Peer]]
"""Opens a peer, and makes its tables and these sessions."""


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
