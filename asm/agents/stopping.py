"""Cancelling a task that may not end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asm.shown import message

CLOSE_TIMEOUT_S = 5.0
"""How long a run that ends waits for its adapter or its tool to give back what it holds."""

_log = logging.getLogger("asm")


async def cancelled(task: asyncio.Task[Any], what: str) -> None:
    """Cancel a task, and wait for its end for a while. What it raises is not raised here."""
    # Retrieved, or asyncio would log it as an exception that was never retrieved.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_TIMEOUT_S)
    if not task.done():
        _log.warning("%s did not stop within %g s after its run was ended", message(what), CLOSE_TIMEOUT_S)
