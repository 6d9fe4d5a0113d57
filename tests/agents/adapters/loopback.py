"""A provider on 127.0.0.1: an HTTP server that answers with server-sent events, well or badly."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

SOON_S = 30

Ending = Literal["end", "cut", "stall"]


@dataclass(frozen=True)
class Answer:
    """One answer of the provider.

    `events` are sent in pieces of `piece_bytes`. Then the answer ends as HTTP says, the connection is cut
    in the middle of the answer, or nothing more is sent until the client closes its connection.
    """

    events: Sequence[Mapping[str, Any]] = ()
    ending: Ending = "end"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    piece_bytes: int | None = None
    cut_bytes: int = 0
    """The bytes at the end of the events that are not sent."""

    @property
    def body(self) -> bytes:
        if self.status != 200:
            return json.dumps(self.events[0]).encode()
        text = "".join(
            f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
            for event in self.events
        )
        encoded = text.encode()
        return encoded[: len(encoded) - self.cut_bytes]

    @property
    def pieces(self) -> Iterator[bytes]:
        size = self.piece_bytes or max(len(self.body), 1)
        for start in range(0, len(self.body), size):
            yield self.body[start : start + size]


class Provider:
    """Gives its answers in turn, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.stalled = threading.Event()
        """An answer has begun and will not go on."""
        self.was_left = threading.Event()
        """The client closed the connection of an answer that had not ended."""
        self.url = ""

    @property
    def request(self) -> dict[str, Any]:
        """The last request."""
        return self.requests[-1]

    def say(self, *events: Mapping[str, Any], **how: Any) -> None:
        self.answers.append(Answer(events, **how))


@contextmanager
def provider() -> Iterator[Provider]:
    state = Provider()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"provider": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(SOON_S)


class _Handler(BaseHTTPRequestHandler):
    provider: Provider
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.provider.requests.append(json.loads(body))
        self.provider.headers.append(dict(self.headers.items()))
        answer = self.provider.answers.pop(0)
        self._begin(answer)
        for piece in answer.pieces:
            self._send(piece)
        if answer.ending == "end":
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
            if answer.ending == "stall":
                self._stall()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _begin(self, answer: Answer) -> None:
        self.send_response(answer.status)
        kind = "text/event-stream" if answer.status == 200 else "application/json"
        for name, value in {"content-type": kind, "transfer-encoding": "chunked", **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def _stall(self) -> None:
        self.provider.stalled.set()
        self.connection.settimeout(SOON_S)
        with suppress(ConnectionResetError):
            if self.connection.recv(1):
                return
        self.provider.was_left.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
