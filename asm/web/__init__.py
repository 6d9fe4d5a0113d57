"""The viewer: a local, read-only web page over a store.

`app` makes the ASGI application, and `asm serve` runs it. Pages are rendered on the server, and work without
JavaScript. Handlers read through an `AsyncSessionStore`: a reader that follows a session costs a coroutine,
where a blocking store would cost a thread. Rendering takes processor time, so it runs in threads.

Everything that a page shows of events may have been written by an attacker. What Jinja2 prints goes through
`asm.shown`, and is escaped; only `asm.web.markdown`, `code`, `timeline` and `plots` make markup.
"""

from asm.errors import missing_extra

_REQUIRED = ("jinja2", "markdown_it", "markupsafe", "nh3", "pygments", "starlette")

try:
    from asm.web.app import app
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in _REQUIRED:
        raise
    raise missing_extra("asm.web", error.name or "starlette", "web") from error

__all__ = ["app"]
