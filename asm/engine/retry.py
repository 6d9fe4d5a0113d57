"""When and how often an operation is repeated after an error."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from asm.engine.logs import logger
from asm.engine.observation import current
from asm.errors import StorageError, StorageTimeout
from asm.shown import message

BACKOFF_MIN_S = 0.02
BACKOFF_MAX_S = 1.0


class Backoff(Iterator[float]):
    """Growing pauses with jitter, in seconds, that end `retry_for` seconds after it was made.

    The log gets the first failure of the operation of this name, and its success after that. An observation
    of the operation gets each failure.
    """

    def __init__(self, retry_for: float, name: str = "") -> None:
        self._name = name
        self._begun_at = time.monotonic()
        self._deadline = self._begun_at + retry_for
        self._longest_s = BACKOFF_MIN_S
        self._failures = 0

    def __next__(self) -> float:
        if (remaining_s := self._deadline - time.monotonic()) <= 0:
            raise StopIteration
        # The jitter keeps clients that lost their connections together from coming back together.
        pause_s = min(random.uniform(self._longest_s / 4, self._longest_s), remaining_s)
        self._longest_s = min(self._longest_s * 2, BACKOFF_MAX_S)
        return pause_s

    def failed(self, error: Exception, pause_s: float) -> None:
        """Log that the first attempt failed and is repeated after a pause."""
        self._failures += 1
        if (observation := current.get()) is not None:
            observation.retried(error, pause_s)
        if self._failures == 1:
            # libpq's messages have several lines, and a server's repeat values.
            why = message(" ".join(str(error).split()))
            logger.warning("%s failed and is retried in %.2f s: %s", self._name, pause_s, why)

    def succeeded(self) -> None:
        """Log that a later attempt succeeded."""
        if self._failures:
            took_s = time.monotonic() - self._begun_at
            retries = "1 retry" if self._failures == 1 else f"{self._failures} retries"
            logger.info("%s succeeded after %s in %.2f s", self._name, retries, took_s)


def is_retryable(error: Exception) -> bool:
    """Whether the same operation may succeed in a moment. A timeout is not retried: its time is over."""
    return isinstance(error, StorageError) and error.retryable and not isinstance(error, StorageTimeout)
