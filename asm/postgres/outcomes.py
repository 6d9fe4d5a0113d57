"""The outcome of a transaction whose commit was sent and whose response was lost.

`pg_xact_status` says whether a transaction id was committed. After a crash, or on a standby that was
promoted, an id whose records were lost is given to another transaction. So "committed" is believed only of
the server process that gave the id, without a recovery since. "aborted" is believed of every server with
the data of that one: whatever has the id now, the transaction is not among what is stored.

Some services refuse the functions that identify a server. A store finds this out when it opens, and then
identifies no transaction: the outcome of each lost commit is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import psycopg

from asm.errors import ConnectionFailed, StorageError

T = TypeVar("T")

Outcome = Literal["committed", "aborted", "in progress", "unknown"]

_SERVER = (
    "(select system_identifier from pg_catalog.pg_control_system())::text, "
    "extract(epoch from pg_catalog.pg_postmaster_start_time())::text, "
    "pg_catalog.pg_last_wal_replay_lsn()::text"
)
GET_TRANSACTION_ID = "select pg_catalog.pg_current_xact_id()::text"
IDENTIFY_TRANSACTION = f"{GET_TRANSACTION_ID}, {_SERVER}"
IDENTIFY_SERVER = f"select pg_catalog.pg_is_in_recovery(), {_SERVER}"
GET_STATUS = "select pg_catalog.pg_xact_status(%(xid)s::xid8)"
CHECK_IDENTIFICATION = (
    f"select {_SERVER}, pg_catalog.pg_xact_status("
    "case when pg_catalog.pg_is_in_recovery() is null then pg_catalog.pg_current_xact_id() end)"
)
"""Fails if the server refuses any of these functions. It gives no transaction id, which a standby refuses."""

WAIT_FOR_STANDBYS = "select pg_catalog.pg_logical_emit_message(true, 'asm', '')"
"""Writes to the log, so that the next commit waits for the standbys that every commit waits for. A commit
that was interrupted while it waited for them counts as committed before they have it."""


class RunningServer(NamedTuple):
    """A server from its start, or from its recovery after a crash, until the next."""

    system_identifier: str
    started_at: str
    recovered_until: str | None


class Transaction(NamedTuple):
    """A transaction's id, and the server that gave it."""

    xid: str
    server: RunningServer


class Commit(Generic[T]):
    """The commit of a transaction, with the ids by which its outcome can be determined later.

    A transaction that is `identified` at its start takes no further round trip. No query may precede a
    statement of an application that sets the isolation level; its transaction is identified at its end.
    """

    __slots__ = ("identified", "is_sent", "result", "transaction")

    result: T
    """The result of the transaction, returned once it is committed."""

    def __init__(self, identified: Literal["at start", "at end", "never"]) -> None:
        self.identified = identified
        self.transaction: Transaction | None = None
        self.is_sent = False

    def select(self, settings: str, known: RunningServer | None) -> str:
        """The statement that makes settings and selects what `identify` needs on a server, `known` or not."""
        if self.identified == "never":
            return f"select {settings}"
        # To identify the server takes longer than all else that is sent with it except the query.
        return f"{IDENTIFY_TRANSACTION if known is None else GET_TRANSACTION_ID}, {settings}"

    def identify(self, row: Sequence[Any], known: RunningServer | None = None) -> None:
        """Keep what was selected."""
        if self.identified != "never":
            xid, *server = row
            self.transaction = Transaction(str(xid), known or RunningServer(*server[:3]))

    def is_lost(self, error: StorageError | psycopg.Error) -> bool:
        """Whether the transaction failed with this error and may have been committed nevertheless."""
        # Any other error that the server reports for a commit says that it was rolled back.
        is_reported = isinstance(error, StorageError) and "sqlstate" in error.details
        return self.is_sent and (isinstance(error, ConnectionFailed) or not is_reported)


def outcome_unknown() -> ConnectionFailed:
    return ConnectionFailed(
        "the response to a commit was lost, and whether it was applied cannot be determined: read what the "
        "call writes, and repeat the call only if it was not applied",
        retryable=False,
        outcome="unknown",
    )
