"""Who may read the viewer, and what a browser may do with its pages."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The hosts that need no token."""

_COOKIE = "asm_token"
_METHODS = ("GET", "HEAD")
_QUERY_LENGTH_MAX = 8_192

_HEADERS: Mapping[str, str] = {
    # No `unsafe-inline`: markup that got onto a page in spite of everything can neither run nor load.
    "Content-Security-Policy": (
        "default-src 'none'; "
        "script-src 'self'; "
        "style-src 'self'; "
        "img-src 'self' data:; "
        "connect-src 'self'; "
        "form-action 'self'; "
        "base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "private, no-cache",
}


class Guard:
    """Answers a request only if its method, its host and its token allow it, with the headers of every page.

    A page of a stranger may resolve its own name to 127.0.0.1, and then read what is served there. Its
    requests carry that name as their `Host`.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(HTTPConnection(scope))
        # The id of a session may contain a slash, so routes see each segment of the path as it was quoted.
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        inner = {**scope, "path": raw.partition(b"?")[0].decode("ascii", "replace")}
        await (refusal or self._app)(inner, receive, send_with_headers)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        if request.scope["method"] not in _METHODS:
            return PlainTextResponse("The viewer is read-only.", 405, {"Allow": ", ".join(_METHODS)})
        if len(request.scope["query_string"]) > _QUERY_LENGTH_MAX:
            return PlainTextResponse("The query is too long.", 414)
        if self._token is None:
            host = request.headers.get("host", "")
            return None if _name(host) in LOOPBACK else PlainTextResponse("Not a name of this machine.", 421)
        return self._ask_for_token(request, self._token)

    def _ask_for_token(self, request: HTTPConnection, token: str) -> Response | None:
        if _is_same(request.cookies.get(_COOKIE, ""), token):
            return None
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not (given and _is_same(given[0], token)):
            return PlainTextResponse("Open the address that `asm serve` printed: it has a token.", 401)
        return _remembering(request, token, [each for each in query if each[0] != "token"])


def _remembering(request: HTTPConnection, token: str, query: list[tuple[str, Any]]) -> Response:
    """The same page without the token in its address, where it would get into the history and into logs."""
    # Two slashes would begin the name of another host.
    path = "/" + request.scope.get("raw_path", b"/").partition(b"?")[0].decode("ascii", "replace").lstrip(
        "/\\"
    )
    response = RedirectResponse(path + ("?" + urlencode(query) if query else ""), 303)
    response.set_cookie(
        _COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _name(host: str) -> str:
    """The name in a `Host` header, without the port and without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
