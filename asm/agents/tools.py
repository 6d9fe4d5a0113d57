"""Calling the application's tools, and cancelling what may not end."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from asm.shown import message

CLOSE_TIMEOUT_S = 5.0
"""How long a run that ends waits for its adapter or its tool to give back what it holds."""

_log = logging.getLogger("asm")

OnTool = Callable[[str, Any], Any]
"""`on_tool(name, input)` returns the output of a tool, or an awaitable of it."""


async def call_tool(on_tool: OnTool, name: str, input: Any) -> Any:
    """The output of a tool. A function that is not a coroutine function is called in a thread of its own."""
    # An object whose __call__ is a coroutine function is called like one.
    if any(map(inspect.iscoroutinefunction, (on_tool, type(on_tool).__call__))):
        return await on_tool(name, input)
    output = await in_thread(on_tool, name, input)
    return await output if inspect.isawaitable(output) else output


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What a blocking function returns. If the task is cancelled, the thread goes on and nobody waits for it.

    The threads of an executor would be too few for many tools at once, and the interpreter waits for them
    when it exits.
    """
    loop = asyncio.get_running_loop()
    # What it returned, and what it raised.
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def work() -> None:
        value, raised = None, None
        try:
            value = context.run(function, *args)
        except BaseException as error:
            raised = error
        # A closed loop raises RuntimeError, and nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, raised)

    threading.Thread(target=work, name="asm tool", daemon=True).start()
    value, error = await ended
    if error is None:
        return value
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        raise error
    # These would end the event loop, or the coroutine that awaits them.
    raise RuntimeError(f"a tool raised {type(error).__name__}") from error


async def cancelled(task: asyncio.Task[Any], what: str) -> None:
    """Cancel a task, and wait for its end for a while. What it raises is not raised here."""
    # Retrieved, or asyncio would log it as an exception that was never retrieved.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_TIMEOUT_S)
    if not task.done():
        _log.warning("%s did not stop within %g s after its run was ended", message(what), CLOSE_TIMEOUT_S)
