"""Retrying after an error, and refusing a call that could only hang or do harm."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

from asm.errors import StorageError, StorageTimeout, StoreClosed

BACKOFF_MIN_S = 0.02
BACKOFF_MAX_S = 1.0


def backoff(retry_for: float) -> Iterator[float]:
    """Growing pauses with jitter, in seconds, that end `retry_for` seconds after the first."""
    deadline = time.monotonic() + retry_for
    longest_s = BACKOFF_MIN_S
    while (remaining_s := deadline - time.monotonic()) > 0:
        # The jitter keeps clients that lost their connections together from coming back together.
        yield min(random.uniform(longest_s / 4, longest_s), remaining_s)
        longest_s = min(longest_s * 2, BACKOFF_MAX_S)


def is_retryable(error: Exception) -> bool:
    """Whether the same operation may succeed in a moment. A timeout is not retried: its time is over."""
    return isinstance(error, StorageError) and error.retryable and not isinstance(error, StorageTimeout)


def check_process(process: int) -> None:
    """Raise StoreClosed in a process that did not open the store: two processes cannot share a socket."""
    if os.getpid() != process:
        raise StoreClosed(
            f"this store was opened by process {process}, and its connections do not survive a fork: close "
            f"the store before the fork, and open another in process {os.getpid()}"
        )


def reentrant_call() -> StorageError:
    """The error for a call from a signal handler that interrupted the same store in its own thread."""
    return StorageError(
        "re-entrant call: this thread is already inside an operation on this store (a signal handler that "
        "interrupted a store cannot call it: store the data after the handler has returned)"
    )
