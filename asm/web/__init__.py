"""The viewer: a local, read-only web page over a store.

`app` makes the ASGI application, and `asm serve` runs it. Pages are rendered on the server, and work without
JavaScript. Handlers read through an `AsyncSessionStore`: a reader who follows a session costs a coroutine,
where a blocking store would cost a thread. Rendering takes processor time, so it runs in threads.

Everything that a page shows of events may have been written by an attacker. What Jinja2 prints goes through
`asm.shown`, and is escaped; only `asm.web.markdown`, `code`, `diffs` and `plots` make markup.
"""

from asm.errors import missing_extra

try:
    import jinja2  # noqa: F401
    import markdown_it  # noqa: F401
    import nh3  # noqa: F401
    import pygments  # noqa: F401
    import starlette  # noqa: F401
except ImportError as error:
    raise missing_extra("asm.web", error.name or "starlette", "web") from error

from asm.web.app import app

__all__ = ["app"]
