"""Calling the application's tools."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

OnTool = Callable[[str, Any], Any]
"""`on_tool(name, input)` returns the output of a tool, or an awaitable of it."""


async def call_tool(
    on_tool: OnTool, name: str, input: Any, block: AbstractContextManager[object] | None = None
) -> Any:
    """The output of a tool, which is called inside of the block.

    A function that is not a coroutine function is called in a thread of its own.
    """
    with block or nullcontext():
        if _is_async(on_tool):
            return await on_tool(name, input)
        output = await in_thread(on_tool, name, input)
        return await output if inspect.isawaitable(output) else output


def _is_async(function: Any) -> bool:
    # An object whose __call__ is a coroutine function is called like one.
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


class _Returned(NamedTuple):
    value: Any
    error: BaseException | None


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What a blocking function returns. If the task is cancelled, the thread goes on and nobody waits for it.

    The threads of an executor would be too few for many tools at once, and the interpreter waits for them
    when it exits.
    """
    loop = asyncio.get_running_loop()
    returned: asyncio.Future[_Returned] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = _Returned(context.run(function, *args), None)
        except BaseException as error:
            result = _Returned(None, error)
        # A closed loop raises RuntimeError, and nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, returned, result)

    threading.Thread(target=work, name="asm tool", daemon=True).start()
    value, error = await returned
    if error is None:
        return value
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        raise error
    # These would end the event loop, or the coroutine that awaits them.
    raise RuntimeError(f"a tool raised {type(error).__name__}") from error


def _settle(returned: asyncio.Future[_Returned], result: _Returned) -> None:
    if not returned.done():
        returned.set_result(result)
