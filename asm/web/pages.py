"""Templates: what every page has, and how a page prints values."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from asm.shown import identifier, prose
from asm.web import wording

_FOLDER = Path(__file__).parent

NAVIGATION: list[tuple[str, str]] = [("Sessions", "/"), ("Usage", "/usage"), ("Health", "/health")]
"""The pages that every page links to: what they are called, and their addresses."""


class Pages:
    """Renders templates. `name` is what pages call the store."""

    def __init__(self, name: str = "") -> None:
        # What a page prints is first made visible and then escaped. Only values of type Markup are neither.
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_visible,
        )
        self._environment.filters.update(
            {
                "age": wording.age,
                "count": wording.count,
                "date": wording.date,
                "duration": wording.duration,
                "identifier": _identifier,
                "short": wording.short,
                "usd": wording.usd,
            }
        )
        self._environment.globals.update(
            navigation=NAVIGATION,
            store_name=name,
            version=_version(),
            session_url=session_url,
        )

    async def render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """The page of a template. Rendering takes processor time, so other requests go on meanwhile."""
        html = await asyncio.to_thread(self.text, template, path=request.url.path, **values)
        # A lone surrogate has no encoding; `prose` has escaped those of the store.
        return HTMLResponse(html.encode("utf-8", "replace"), status)

    def text(self, template: str, **values: Any) -> str:
        """A template as text, for a page or for a part of one."""
        return self._environment.get_template(template).render(now=datetime.now(UTC), **values)


def session_url(session_id: str, *path: str, **query: object) -> str:
    """The address of a session, or of a page below it."""
    url = "/".join(("/sessions", quote(session_id, safe=""), *(quote(each, safe="") for each in path)))
    given = {name: value for name, value in query.items() if value is not None}
    return f"{url}?{urlencode(given)}" if given else url


def page_url(path: str, query: list[tuple[str, str]], **changes: str | None) -> str:
    """The address of the same page with other values for some of its parameters; None takes one away."""
    kept = [(name, value) for name, value in query if name not in changes]
    return f"{path}?{urlencode([*kept, *((n, v) for n, v in changes.items() if v is not None)])}".rstrip("?")


def _identifier(text: str) -> str:
    return identifier(text[:_ID_LENGTH])


_ID_LENGTH = 255
"""A name that an event contains may be of any length."""


def _visible(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup) else prose(str(value))


def _version() -> str:
    """Changes when a static file does, so that a browser does not use an old one."""
    files = sorted((_FOLDER / "static").iterdir())
    return sha256(b"".join(each.read_bytes() for each in files if each.is_file())).hexdigest()[:12]
