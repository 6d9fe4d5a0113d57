"""A client of the viewer over a store with a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

import asm
from asm.web import app


@pytest.fixture
def opened_viewer(migrated: str) -> Iterator[Callable[..., tuple[TestClient, asm.SessionStore]]]:
    """Opens a viewer with the options of `app`: a client of it, and a store that writes what it shows."""
    with ExitStack() as stack:

        def open_viewer(**options: Any) -> tuple[TestClient, asm.SessionStore]:
            writer = stack.enter_context(asm.SessionStore(migrated))
            store = asm.AsyncSessionStore(migrated)
            client = stack.enter_context(TestClient(opening(store, **options), base_url="http://localhost"))
            return client, writer

        yield open_viewer


@pytest.fixture
def viewer(
    opened_viewer: Callable[..., tuple[TestClient, asm.SessionStore]],
) -> tuple[TestClient, asm.SessionStore]:
    return opened_viewer()


def opening(store: asm.AsyncSessionStore, **options: Any) -> Any:
    """The application of a store that is opened and closed in the event loop of its client."""
    viewer = app(store, **options)

    async def with_store(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await viewer(scope, receive, send)
            return
        await receive()
        await store.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await store.close()
        await send({"type": "lifespan.shutdown.complete"})

    return with_store
