"""`SessionManager`: the coroutines of AsyncSessionManager, driven for callers that block.

They run in one thread with an event loop of its own, because the clients of the providers' SDKs belong to the
loop that first used them. The methods of the blocking store are called in threads, so that the loop goes on
to renew leases while one of them waits.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial, update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from asm.agents.manager import AsyncSessionManager, check_store
from asm.agents.recording import Redact
from asm.async_store import AsyncSessionStore
from asm.awaited import in_threads
from asm.errors import StoreClosed, ValidationError
from asm.models import Event
from asm.store import SessionStore

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

INTERRUPT_WAIT_S = 15.0
"""How long an interrupted call waits until its run is stored as cancelled."""

STOP_WAIT_S = 0.01
"""How long a loop that nobody owns waits before it looks again whether its iterators are closed."""


def _method(
    method: Callable[Concatenate[AsyncSessionManager, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SessionManager, P], T]:
    """A method that blocks until the awaited one has returned."""

    def call(self: SessionManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_may_block()
        return self._loop.result_of(partial(method, self._manager, *args, **kwargs))

    return _like(method, call)


def _iterator(
    method: Callable[Concatenate[AsyncSessionManager, P], AsyncIterator[Event]],
) -> Callable[Concatenate[SessionManager, P], Iterator[Event]]:
    """A method that returns an iterator, which blocks until the awaited one yields."""

    def call(self: SessionManager, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        self._check_may_block()
        return self._loop.iterate(method(self._manager, *args, **kwargs))

    return _like(method, call)


def _like(method: Any, call: F) -> F:
    update_wrapper(call, method)
    signature = inspect.signature(method)
    annotation = str(signature.return_annotation).removeprefix("Async")
    # inspect would follow the wrapped function to the awaited result.
    del vars(call)["__wrapped__"]
    vars(call)["__signature__"] = signature.replace(return_annotation=annotation)
    return call


class SessionManager:
    """Runs agents in the sessions of a store, and stores every step before it is shown.

    One run at a time goes on in a session. It has a lease of `lease` seconds, which is renewed while it goes
    on, so that a run whose program was killed is found: `recover`, or the next run of the session, ends it as
    failed. `redact(event)` returns what is stored in place of an event; the input, the output and the error
    of a run are passed to it as data of events, too. `keep_deltas` stores the deltas of messages, gathered
    for that many seconds or 4 KiB; without it they are shown to the caller only.

    The store is lent, and never opened or closed. Threads may share a manager. Its methods block: in a
    coroutine, use AsyncSessionManager with an AsyncSessionStore.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        lease: float = 60.0,
        redact: Redact | None = None,
        keep_deltas: float | None = None,
    ) -> None:
        check_store(store, AsyncSessionStore, "SessionManager takes a SessionStore", "AsyncSessionManager")
        self._loop = _LoopThread()
        self._manager = AsyncSessionManager(
            in_threads(store), lease=lease, redact=redact, keep_deltas=keep_deltas
        )

    run_once = _method(AsyncSessionManager.run_once)
    run = _method(AsyncSessionManager.run)
    stream = _iterator(AsyncSessionManager.stream)
    cancel = _method(AsyncSessionManager.cancel)
    recover = _method(AsyncSessionManager.recover)
    transcript = _method(AsyncSessionManager.transcript)
    start_session = _method(AsyncSessionManager.start_session)
    pause = _method(AsyncSessionManager.pause)
    resume = _method(AsyncSessionManager.resume)
    complete = _method(AsyncSessionManager.complete)
    fail = _method(AsyncSessionManager.fail)

    def _check_may_block(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ValidationError(
            "SessionManager blocks, and an event loop is running in this thread: use AsyncSessionManager "
            "with an AsyncSessionStore, and await its methods"
        )


class _LoopThread:
    """An event loop in a daemon thread, which starts at the first call and ends with its owner."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._iterators: set[Any] = set()
        """Those that are not closed yet, each of which may need the loop to end a run."""

    def result_of(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine. If the caller is interrupted, the coroutine is cancelled first."""
        loop = self._started()
        tasks: list[asyncio.Task[T]] = []
        done: Future[T] = Future()

        def start() -> None:
            try:
                task = loop.create_task(call())
            except Exception as error:
                # Of wrong arguments no coroutine is made. The loop would only log that, and the caller waits.
                done.set_exception(error)
            else:
                tasks.append(task)
                task.add_done_callback(lambda ended: _copy(ended, done))

        try:
            loop.call_soon_threadsafe(start)
            return done.result()
        except BaseException:
            if not done.done():
                # Ctrl-C: the run is stored as cancelled before the caller goes on.
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                with suppress(TimeoutError):
                    done.exception(INTERRUPT_WAIT_S)
            raise

    def iterate(self, events: AsyncIterator[T]) -> Iterator[T]:
        generator = cast(Any, events)
        loop = self._started()
        self._iterators.add(generator)
        try:
            while True:
                reader = threading.get_ident()
                try:
                    yield self.result_of(generator.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            # The garbage collector may end this in any thread, also in one that the run waits for.
            if threading.get_ident() == reader:
                self.result_of(partial(_close, generator))
            else:
                loop.call_soon_threadsafe(lambda: loop.create_task(_close(generator)))
            self._iterators.discard(generator)

    def _started(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._process:
            raise StoreClosed("this manager was made in another process: make one in each process")
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=(self._loop,), name="asm runs", daemon=True).start()
                stop = partial(_stop, self._loop, self._iterators)
                self._collected = weakref.finalize(self, self._loop.call_soon_threadsafe, stop)
        return self._loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, iterators: set[Any]) -> None:
    """Stop a loop when its last task has ended.

    An iterator may be collected together with the manager. The garbage collector then calls this before it
    closes the iterator.
    """
    if tasks := asyncio.all_tasks(loop):
        loop.create_task(asyncio.wait(tasks)).add_done_callback(lambda _: _stop(loop, iterators))
    elif iterators:
        loop.call_later(STOP_WAIT_S, _stop, loop, iterators)
    else:
        loop.stop()


async def _close(generator: Any) -> None:
    """Close an asynchronous generator, if an interrupted call, or the garbage collector, does not already."""
    if not generator.ag_running:
        await generator.aclose()


def _copy(task: asyncio.Task[T], done: Future[T]) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
