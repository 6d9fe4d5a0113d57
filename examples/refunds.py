"""A tool that changes the application's own tables, and is recorded in the same transaction.

    python examples/refunds.py [DSN]

An agent refunds orders. The refund and the event that reports it are committed together: the history never
shows a refund that was not made, and no refund is missing in it. A call that is repeated, after a crash or
a lost connection, refunds once.
"""

import sqlite3
import sys
from typing import Any

import asm

TABLES = """
create table if not exists orders (
    id text primary key,
    paid_cents bigint not null,
    refunded_cents bigint not null default 0
);
create table if not exists refunds (
    call_id text primary key,
    order_id text not null,
    cents bigint not null
)
"""


class RefundRefused(Exception):
    """The order cannot be refunded; the text tells the agent why."""


def refund(store: asm.SessionStore, session_id: str, call_id: str, order_id: str, cents: int) -> asm.Event:
    """Refund a part of an order, and return the event with the result of the tool call."""

    def an_event(type: str, **data: object) -> asm.Event:
        # The id identifies the event, so one that is appended again is stored once.
        return asm.Event(
            id=f"{call_id}-{type}", type=type, session_id=session_id, correlation_id=call_id, data=data
        )

    completed = an_event("tool_call_completed", output={"order": order_id, "refunded_cents": cents})

    def work(tx: asm.Transaction) -> asm.Event:
        make_refund(tx, call_id, order_id, cents)
        return tx.append_event(completed)

    store.append_event(
        an_event("tool_call_started", name="refund", input={"order": order_id, "cents": cents})
    )
    try:
        # It is idempotent, so it may run again if the response to its commit is lost.
        return store.run_transaction(work, idempotent=True)
    except RefundRefused as refused:
        return store.append_event(an_event("tool_call_failed", error=str(refused)))


def make_refund(tx: asm.Transaction, call_id: str, order_id: str, cents: int) -> None:
    """Refund once for a call, however often it is made. RefundRefused rolls everything back."""
    if cents <= 0:
        raise RefundRefused(f"a refund must be more than 0 cents, not {cents}")
    is_new = execute(
        tx,
        "insert into refunds (call_id, order_id, cents) values (?, ?, ?) "
        "on conflict (call_id) do nothing returning call_id",
        *(call_id, order_id, cents),
    )
    # One statement checks and changes the order, so that no other transaction comes in between.
    if is_new and not execute(
        tx,
        "update orders set refunded_cents = refunded_cents + ? "
        "where id = ? and refunded_cents + ? <= paid_cents returning id",
        *(cents, order_id, cents),
    ):
        raise RefundRefused(f"order {order_id!r} does not exist, or less than {cents} cents of it are left")


def execute(tx: asm.Transaction, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """`tx.execute` on both databases. An application that uses one writes its driver's placeholders."""
    is_sqlite = isinstance(tx.connection, sqlite3.Connection)
    return tx.execute(sql if is_sqlite else sql.replace("?", "%s"), params)


def create_tables(store: asm.SessionStore) -> None:
    with store.transaction() as tx:
        for statement in TABLES.split(";"):
            tx.execute(statement)


def add_order(store: asm.SessionStore, order_id: str, paid_cents: int) -> None:
    with store.transaction() as tx:
        sql = "insert into orders (id, paid_cents) values (?, ?) on conflict (id) do nothing"
        execute(tx, sql, order_id, paid_cents)


def main(dsn: str) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        create_tables(store)
        session = asm.Session(agent_id="support", status="active")
        store.save_session(session)
        order_id = f"order of {session.id}"
        add_order(store, order_id, 10_000)

        for call_id, cents in [("call-1", 6_000), ("call-1", 6_000), ("call-2", 6_000)]:
            refund(store, session.id, f"{session.id}-{call_id}", order_id, cents)
        for event in store.iter_events(session.id):
            print(event.sequence_number, event.type, event.data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db")
