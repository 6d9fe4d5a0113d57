"""Sessions as HTML files, by the templates of the viewer."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

from asm.async_store import AsyncSessionStore
from asm.errors import ValidationError


def check_installed() -> None:
    """Raise the error that says how to install what the viewer needs."""
    try:
        import asm.web  # noqa: F401
    except ImportError as error:
        raise ValidationError(str(error)) from error


def write_html(dsn: str | None, schema: str | None, session_id: str, file: BinaryIO) -> int:
    """Write a session as one page that needs nothing else. Returns the number of its events."""
    return asyncio.run(_write(dsn, schema, session_id, file))


async def _write(dsn: str | None, schema: str | None, session_id: str, file: BinaryIO) -> int:
    from asm.web.exports import html_page

    async with AsyncSessionStore(dsn, schema=schema, retry_for=0) as store:
        async for piece in html_page(store, session_id):
            file.write(piece.encode("utf-8", "backslashreplace"))
        return (await store.query.get_session_stats(session_id)).event_count
