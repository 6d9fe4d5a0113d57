"""The observers of stores. A store has none until `asm.telemetry` adds one.

An observed store has another database, which reports what its operations do. `observer_of` returns the
observer to which a manager reports its runs, or None; then nothing more is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol
from weakref import WeakValueDictionary

from asm.engine.observation import ObservedDatabase


class ObservedRun(Protocol):
    """A run that goes on."""

    def claimed(self, agent_id: str, run_id: str) -> None:
        """It is claimed, and not only read because it has ended before."""

    def ended(self, token_usage: Mapping[str, Any]) -> None:
        """It has ended, whatever way, and has used these tokens."""


class Observer(Protocol):
    """Whom stores, and the managers that use them, report to."""

    def database(self, store: Any, database: Any) -> ObservedDatabase:
        """What an observed store has in place of its database."""

    def run(
        self, *, session_id: str, agent_id: str | None, provider: str, model: str | None
    ) -> AbstractContextManager[ObservedRun]:
        """Around the whole of a run, its claim included."""

    def tool(self, name: str, call_id: str) -> AbstractContextManager[object]:
        """Around a call of a tool, which may raise."""

    def carrier(self) -> dict[str, str]:
        """What a stored run keeps of the current trace: {"traceparent": …}, or {} outside of one."""


_open: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The stores that were opened in this process, by `id`."""

_everywhere: Observer | None = None


def opened(store: Any) -> None:
    """Observe a store that has just been opened, if it is to be."""
    _open[id(store)] = store
    _apply(store)


def observe(observer: Observer | None, store: Any = None) -> None:
    """Have one store observed, or all that are open and that will be; None: not any more.

    An observer of one store replaces that of all stores.
    """
    global _everywhere
    if store is None:
        _everywhere = observer
    else:
        store._observer = observer
    # A copy in one call, because other threads may open stores.
    for each in [reference() for reference in _open.valuerefs()]:
        if each is not None and (store is None or each is store):
            _apply(each)


def observer_of(store: Any) -> Observer | None:
    observer: Observer | None = store._observer
    return observer or _everywhere


def own_observer(store: Any) -> Observer | None:
    """The observer that was given to this store only; without a store, that of all."""
    return _everywhere if store is None else store._observer


def _apply(store: Any) -> None:
    database = store._database
    if isinstance(database, ObservedDatabase):
        database = database.detach()
    observer = observer_of(store)
    store._database = database if observer is None else observer.database(store, database)
