"""A chat service with FastAPI. Browsers follow a chat by server-sent events.

    pip install 'asm-store[binary]' fastapi uvicorn
    ASM_DSN=sqlite:///chat.db python examples/chat_service.py --port 8000

    curl -X POST localhost:8000/chats                          # prints the new chat with its id
    curl -N localhost:8000/chats/ses_…/events                  # follows it
    curl localhost:8000/chats/ses_…/messages --json '{"content": "Will it rain in Bergen?"}'

Every event of a session is sent with its sequence number as its id. A browser's EventSource returns the last
one as Last-Event-ID when it connects again, to this process or to another one on the same database, so it
misses no event and gets none twice.
"""

import argparse
import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import asm

HEARTBEAT_S = 15
"""Proxies close a connection on which nothing is sent for longer, often for 30 or 60 seconds."""

HISTORY_MAX = 50
"""Earlier messages that the model reads."""

T = TypeVar("T")
log = logging.getLogger("chat_service")
stopping = asyncio.Event()
answers: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # With several processes, run `asm migrate` before they start, and leave out `migrate=True`.
    async with asm.AsyncSessionStore(migrate=True) as store:
        app.state.store = store
        yield
        # The server has ended all requests by now. Answers that have begun are completed.
        await asyncio.gather(*answers, return_exceptions=True)


app = FastAPI(title="Chat", lifespan=lifespan)


def opened_store(request: Request) -> asm.AsyncSessionStore:
    store: asm.AsyncSessionStore = request.app.state.store
    return store


Store = Annotated[asm.AsyncSessionStore, Depends(opened_store)]


class Message(BaseModel):
    content: str = Field(min_length=1, max_length=100_000)


@app.post("/chats", status_code=201)
async def create(store: Store) -> asm.Session:
    session = asm.Session(agent_id="chat", status="active")
    created = asm.Event(type="session_created", session_id=session.id)
    await store.append_event(created, session=session)
    return session


@app.get("/chats/{chat_id}")
async def read(chat_id: str, store: Store) -> asm.Session:
    return await store.get_session(chat_id)


@app.post("/chats/{chat_id}/messages", status_code=202)
async def send(chat_id: str, message: Message, store: Store) -> asm.Event:
    run = asm.Run(session_id=chat_id, status="running", input=message.content)
    [sent] = await save(store, run, an_event(run, "message_sent", role="user", content=message.content))
    task = asyncio.create_task(answer(store, run, sent))
    # The event loop has only weak references to its tasks.
    answers.add(task)
    task.add_done_callback(answers.discard)
    return sent


@app.get("/chats/{chat_id}/events")
async def follow(
    chat_id: str, store: Store, last_event_id: Annotated[int, Header(ge=0)] = 0
) -> StreamingResponse:
    # A session without a row may have events, so following an unknown one waits instead of raising.
    await store.get_session(chat_id)
    events = store.follow_events(chat_id, after=last_event_id, heartbeat=HEARTBEAT_S)
    # If the database is lost for longer than the store retries, the stream breaks off. The browser returns.
    return StreamingResponse(
        server_sent(until(stopping, events)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@app.exception_handler(asm.AsmError)
async def respond(_request: Request, error: Exception) -> JSONResponse:
    """The status for an error of the store. Its message never contains a password."""
    assert isinstance(error, asm.AsmError)
    body = {"code": error.code, "message": str(error)}
    match error:
        case asm.NotFound():
            return JSONResponse(body, 404)
        case asm.Conflict():
            return JSONResponse(body, 409)
        case asm.ValidationError():
            return JSONResponse(body, 422)
    log.error("a request failed", exc_info=error)
    return JSONResponse(body, 503 if error.retryable else 500)


# The agent.


async def answer(store: asm.AsyncSessionStore, run: asm.Run, sent: asm.Event) -> None:
    """Append the answer to a message while the model writes it, and then the result of the run."""
    try:
        text = ""
        async for delta in model(await history(store, sent)):
            text += delta
            await store.append_event(an_event(run, "message_streamed", delta=delta))
        received = an_event(run, "message_received", role="assistant", content=text)
        # A real model reports its usage here: run.update_token_usage(response.usage).
        await save(store, run.increment_turn().set_output(text), received, an_event(run, "run_completed"))
    except Exception as error:
        log.exception("run %s failed", run.id)
        failure = {"code": type(error).__name__, "message": str(error)}
        await save(store, run.set_error(failure), an_event(run, "run_failed", **failure))


async def model(messages: list[dict[str, object]]) -> AsyncIterator[str]:
    """Stands for the streaming API of a provider."""
    for word in f"You said: {messages[-1]['content']}".split():
        yield f"{word} "


async def history(store: asm.AsyncSessionStore, sent: asm.Event) -> list[dict[str, object]]:
    """The messages up to the one that is answered. Another one may have been sent in the meantime."""
    types = ("message_sent", "message_received")
    earlier = await store.get_events(
        sent.session_id, type=types, before=sent.sequence_number, last=HISTORY_MAX
    )
    return [event.data for event in (*earlier, sent)]


def an_event(run: asm.Run, type: str, **data: object) -> asm.Event:
    return asm.Event(type=type, session_id=run.session_id, run_id=run.id, data=data)


async def save(store: asm.AsyncSessionStore, run: asm.Run, *events: asm.Event) -> list[asm.Event]:
    """Save a run and append its events, all or nothing. SessionNotFound if the chat was deleted."""

    async def work(tx: asm.AsyncTransaction) -> list[asm.Event]:
        # Updating the session moves its `updated_at`, by which retention finds the chats that are not in use.
        await tx.update_session(run.session_id, lambda session: session.update_status("active"))
        await tx.save_run(run)
        return await tx.append_events(events)

    # The events have their ids, so repeating the transaction after a lost connection changes nothing.
    return await store.run_transaction(work, idempotent=True)


# Server-sent events.


async def server_sent(events: AsyncIterator[asm.Event | None]) -> AsyncIterator[str]:
    async for event in events:
        if event is None:
            yield ":\n\n"  # a comment, which browsers ignore
        else:
            data = json.dumps(event.to_dict())
            yield f"id: {event.sequence_number}\nevent: {event.type}\ndata: {data}\n\n"


async def until(stop: asyncio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The items of an iterator that does not end by itself, until an event is set."""
    stopped = asyncio.ensure_future(stop.wait())
    item: asyncio.Future[T] | None = None
    try:
        while True:
            item = asyncio.ensure_future(anext(items))
            await asyncio.wait((item, stopped), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return
            yield item.result()
    finally:
        stopped.cancel()
        if item is not None:
            item.cancel()


class Server(uvicorn.Server):
    """Ends the open streams when it stops.

    uvicorn waits for open connections before the lifespan ends, and streams do not end by themselves. With
    the command `uvicorn` use `--timeout-graceful-shutdown 5`, which breaks them off.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping.set()
        await super().shutdown(sockets)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat service on the store that ASM_DSN names.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    options = parser.parse_args()
    Server(uvicorn.Config(app, host=options.host, port=options.port)).run()


if __name__ == "__main__":
    main()
