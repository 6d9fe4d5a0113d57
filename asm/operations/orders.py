"""The orders of the searches: the values that place a row in each.

They are under the names of the queries' parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from asm.errors import ValidationError
from asm.models import Event, Run, Session, token_counts
from asm.operations.cursors import Keyset, Order
from asm.validation import did_you_mean, safe_repr

T = TypeVar("T")


def find_order(
    name: Any, orders: Sequence[Order[T]], text: str | None = None, relevance: Order[Any] | None = None
) -> Order[T]:
    """The order of a name. That by relevance is for searches by text."""
    known_orders = orders if text is None or relevance is None else (*orders, relevance)
    for order in known_orders:
        if order.name == name:
            return order
    if relevance is not None and name == relevance.name:
        raise ValidationError(
            f"order_by={name!r} sorts the matches of a text: give `text`, too", path="order_by"
        )
    known = [order.name for order in known_orders]
    raise ValidationError(
        f"{safe_repr(name)} is not an order{did_you_mean(name, known)}: give one of {', '.join(known)}",
        path="order_by",
    )


def _by_creation(session: Session) -> Keyset:
    return {"last_at": session.created_at, "last_id": session.id}


def _by_update(session: Session) -> Keyset:
    return {"last_at": session.updated_at, "last_id": session.id}


def _by_start(run: Run) -> Keyset:
    return {"last_at": run.started_at, "last_session": run.session_id, "last_id": run.id}


def _by_tokens(run: Run) -> Keyset:
    tokens = token_counts(run.token_usage)["total_tokens"] or 0
    return {"last_tokens": tokens, "last_session": run.session_id, "last_id": run.id}


def _by_number(event: Event) -> Keyset:
    return {"last_session": event.session_id, "last_sequence": event.sequence_number or 0}


def _by_time(event: Event) -> Keyset:
    return {"last_at": event.timestamp, **_by_number(event)}


SESSION_ORDERS = (
    Order("sessions", "created_at_asc", ("last_at", "last_id"), _by_creation),
    Order("sessions", "created_at_desc", ("last_at", "last_id"), _by_creation),
    Order("sessions", "updated_at_asc", ("last_at", "last_id"), _by_update),
    Order("sessions", "updated_at_desc", ("last_at", "last_id"), _by_update),
)
RUN_ORDERS = (
    Order("runs", "started_at_asc", ("last_at", "last_session", "last_id"), _by_start),
    Order("runs", "started_at_desc", ("last_at", "last_session", "last_id"), _by_start),
    Order("runs", "token_usage_desc", ("last_tokens", "last_session", "last_id"), _by_tokens),
)
EVENT_ORDERS = (
    Order("events", "sequence_asc", ("last_session", "last_sequence"), _by_number),
    Order("events", "timestamp_asc", ("last_at", "last_session", "last_sequence"), _by_time),
    Order("events", "timestamp_desc", ("last_at", "last_session", "last_sequence"), _by_time),
)
