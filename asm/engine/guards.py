"""Refuses calls that could only hang or do harm.

These are calls in a forked process, and calls from a signal handler that interrupted a call of the same
store in its own thread: the interrupted call may hold a lock that the handler would wait for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from threading import get_ident
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from asm.errors import StorageError, StoreClosed

R = TypeVar("R")


def check_process(process: int) -> None:
    """Raise StoreClosed in a process that did not open the store: two processes cannot share a socket."""
    if os.getpid() != process:
        raise StoreClosed(
            f"this store was opened by process {process}, and its connections do not survive a fork: close "
            f"the store before the fork, and open another in process {os.getpid()}"
        )


def reentrant_call() -> StorageError:
    """The error for a call from a signal handler that interrupted the same store in its own thread, or from a
    function that the store has called.
    """
    return StorageError(
        "re-entrant call: this thread is already inside an operation on this store (neither the function "
        "given to update_session or update_run can call the store, nor a signal handler that interrupted it: "
        "call the store after the function or the handler has returned)"
    )


class Entered(Protocol):
    threads_inside: set[int]
    """The threads that are inside a call."""


def not_reentrant(method: Callable[..., R]) -> Callable[..., R]:
    """The method, which raises StorageError where its thread is inside it already."""

    @wraps(method)
    def guarded(self: Entered, *args: Any) -> R:
        thread_id = get_ident()
        if thread_id in self.threads_inside:
            raise reentrant_call()
        try:
            # A signal is handled after a call: from `add` on, `finally` removes the mark.
            self.threads_inside.add(thread_id)
            return method(self, *args)
        finally:
            self.threads_inside.discard(thread_id)

    return guarded


def not_reentrant_around(
    method: Callable[..., AbstractContextManager[R]],
) -> Callable[..., AbstractContextManager[R]]:
    """The method, whose context manager marks its thread as inside while it enters and exits its block."""

    @wraps(method)
    def guarded(self: Entered, *args: Any) -> AbstractContextManager[R]:
        return _Guarded(self.threads_inside, method(self, *args))

    return guarded


class _Guarded(AbstractContextManager[R], Generic[R]):
    def __init__(self, threads_inside: set[int], block: AbstractContextManager[R]) -> None:
        self.threads_inside = threads_inside
        self._block = block

    @not_reentrant
    def __enter__(self) -> R:
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        thread_id = get_ident()
        # This call is never refused: a transaction that did not end would keep its connection.
        was_inside = thread_id in self.threads_inside
        try:
            self.threads_inside.add(thread_id)
            return self._block.__exit__(kind, error, tb)
        finally:
            if not was_inside:
                self.threads_inside.discard(thread_id)
