"""Tests of an agent's tool with a store in memory: pytest examples/test_refunds.py

`sqlite://` is a database of its own for each store, and is gone when the store is closed. So a test
needs no server, no file and no mock, and leaves nothing behind.
"""

from collections.abc import Iterator

import pytest
from refunds import add_order, create_tables, execute, refund

import asm


@pytest.fixture
def store() -> Iterator[asm.SessionStore]:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        create_tables(store)
        add_order(store, "order-1", 10_000)
        yield store
        # Finds events without a session, gaps in their numbers, and the like.
        assert store.maintenance.health_check() == []


@pytest.fixture
def session(store: asm.SessionStore) -> asm.Session:
    session = asm.Session(agent_id="support", status="active")
    store.save_session(session)
    return session


def types(store: asm.SessionStore, session: asm.Session) -> list[str]:
    return [event.type for event in store.get_events(session.id)]


def refunded_cents(store: asm.SessionStore) -> int:
    with store.transaction() as tx:
        [(cents,)] = execute(tx, "select refunded_cents from orders where id = ?", "order-1")
    return int(cents)


def test_a_refund_is_recorded_in_the_session(store: asm.SessionStore, session: asm.Session) -> None:
    result = refund(store, session.id, "call-1", "order-1", 6_000)

    assert result.data["output"] == {"order": "order-1", "refunded_cents": 6_000}
    assert types(store, session) == ["tool_call_started", "tool_call_completed"]
    assert refunded_cents(store) == 6_000


def test_a_call_that_is_repeated_refunds_once(store: asm.SessionStore, session: asm.Session) -> None:
    first = refund(store, session.id, "call-1", "order-1", 6_000)

    assert refund(store, session.id, "call-1", "order-1", 6_000) == first
    assert refunded_cents(store) == 6_000


@pytest.mark.parametrize(("order_id", "cents"), [("order-1", 10_001), ("order-1", 0), ("missing", 1)])
def test_a_refused_refund_changes_nothing_and_is_recorded(
    order_id: str, cents: int, store: asm.SessionStore, session: asm.Session
) -> None:
    refund(store, session.id, "call-1", order_id, cents)

    assert types(store, session) == ["tool_call_started", "tool_call_failed"]
    assert refunded_cents(store) == 0
