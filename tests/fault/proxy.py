"""A TCP proxy in front of a PostgreSQL server that injects network faults.

It runs in its own thread. A fault is in effect when the call returns, except that of `cut_when`, which
waits for its bytes.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any, Literal, NamedTuple, Self, TypeVar

from psycopg.conninfo import conninfo_to_dict, make_conninfo

T = TypeVar("T")
Moment = Literal["before", "in", "after"]
Way = Literal["server", "client"]

HOST = "127.0.0.1"
SOON_S = 30.0
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
READY_FOR_QUERY = b"Z\0\0\0\5"
"""The start of a ReadyForQuery message; one byte with the transaction status follows."""


class Proxy:
    """A proxy in front of a server. `with` opens it, and resets the remaining connections at the end.

    `faults` counts the faults: a cut once for each connection, any other once for each call.
    """

    def __init__(self, dsn: str) -> None:
        given = conninfo_to_dict(dsn)
        self._server = (str(given["host"]), int(given.get("port") or 5432))
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[_Link] = set()
        self._triggers: list[_Trigger] = []
        self._discards: set[Way] = set()
        self._delay_s = 0.0
        self._listening: _Listening | None = None
        self.faults: Counter[str] = Counter()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def dsn(self) -> str:
        """The DSN through the proxy. Nothing is encrypted, so that the proxy finds its bytes."""
        return make_conninfo(self._dsn, host=HOST, port=self.port, sslmode="disable", gssencmode="disable")

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def cut(self) -> int:
        """Reset all connections, and return how many there were."""
        return self._do(self._cut_all())

    def cut_when(self, needle: bytes, moment: Moment, *, times: int = 1) -> None:
        """Reset the next connections whose client sends these bytes, in upper or lower case.

        `before`: the server does not receive them. `in`: it does, and its answer is lost. `after`: it
        has answered in full, and the answer is lost.
        """
        self._do(self._await_needle(_Trigger(needle.lower(), moment, times)))

    def black_hole(self, *ways: Way) -> None:
        """Discard what is sent in these directions, by default both, as if the other side were stuck.

        Every byte is acknowledged. It lasts until `mend`, and for these connections for ever.
        """
        self._do(self._discard_all(set(ways or ("server", "client"))))

    def unplug(self) -> None:
        """Drop every packet from and to clients, as an unplugged cable does, until `mend`."""
        self._do(self._unplug())

    def mend(self) -> None:
        """Forward new connections without faults, and unplugged ones again."""
        self._do(self._mend())

    def delay(self, seconds: float) -> None:
        """Delay each piece that the server sends."""
        self.faults["delay"] += 1
        self._delay_s = seconds

    def half_close(self) -> None:
        """Close the direction to all clients, and keep the other one open."""
        self._do(self._half_close_all())

    def refuse(self) -> None:
        """Refuse new connections, as a closed port does."""
        self.faults["refuse"] += 1
        self._do(self._stop_listening())

    def accept(self) -> None:
        """Accept new connections, always on the same port."""
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SOON_S)

    # The methods below run in the proxy's thread.

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = _Listening(self.port)
            self.port = self._listening.port
            self._listening.task = asyncio.create_task(self._accept_all(self._listening.socket))

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await _ended(listening.task)
            listening.socket.close()

    async def _accept_all(self, listening: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listening)
            client.setblocking(False)
            link = _Link(client, self._discards)
            self._links.add(link)
            link.task = asyncio.create_task(self._serve(link))
            link.task.add_done_callback(partial(self._forget, link))

    async def _serve(self, link: _Link) -> None:
        try:
            await self._loop.sock_connect(link.server, self._server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._to_server(link))
                ways.create_task(self._to_client(link))
        except* (OSError, _Cut):
            pass

    def _forget(self, link: _Link, _task: asyncio.Task[None]) -> None:
        self._links.discard(link)
        link.close()

    async def _to_server(self, link: _Link) -> None:
        before = b""
        while data := await self._loop.sock_recv(link.client, 65_536):
            if "server" in link.discards:
                continue
            sent = (before + data).lower()
            before = data[-64:]
            moment = self._matching_moment(sent)
            if moment == "before":
                raise _Cut
            link.loses_answer = link.loses_answer or moment == "after"
            await self._loop.sock_sendall(link.server, data)
            if moment == "in":
                raise _Cut
        link.server.shutdown(socket.SHUT_WR)

    async def _to_client(self, link: _Link) -> None:
        while data := await self._loop.sock_recv(link.server, 65_536):
            if link.loses_answer:
                if data[-6:-1] == READY_FOR_QUERY:
                    raise _Cut
                continue
            await asyncio.sleep(self._delay_s)
            await link.plugged_in.wait()
            if "client" not in link.discards:
                await self._loop.sock_sendall(link.client, data)
        await link.plugged_in.wait()
        if "client" not in link.discards:
            link.client.shutdown(socket.SHUT_WR)

    def _matching_moment(self, sent: bytes) -> Moment | None:
        for trigger in self._triggers:
            if trigger.needle in sent:
                self._triggers.remove(trigger)
                if trigger.times > 1:
                    self._triggers.append(trigger._replace(times=trigger.times - 1))
                self.faults[f"cut {trigger.moment}"] += 1
                return trigger.moment
        return None

    async def _cut_all(self) -> int:
        links = list(self._links)
        self.faults["cut"] += len(links)
        for link in links:
            await _ended(link.task)
        return len(links)

    async def _await_needle(self, trigger: _Trigger) -> None:
        self._triggers.append(trigger)

    async def _discard_all(self, ways: set[Way]) -> None:
        self.faults["black hole"] += 1
        self._discards = ways
        for link in self._links:
            link.discards = ways

    async def _unplug(self) -> None:
        self.faults["unplug"] += 1
        if self._listening is not None:
            _drop_packets(self._listening.socket)
        for link in self._links:
            link.plugged_in.clear()
            _drop_packets(link.client)

    async def _mend(self) -> None:
        self._discards = set()
        self._delay_s = 0.0
        if self._listening is not None:
            _accept_packets(self._listening.socket)
        for link in self._links:
            _accept_packets(link.client)
            link.plugged_in.set()

    async def _half_close_all(self) -> None:
        self.faults["half close"] += len(self._links)
        for link in self._links:
            link.discards = {*link.discards, "client"}
            link.client.shutdown(socket.SHUT_WR)

    async def _close(self) -> None:
        await self._stop_listening()
        for link in list(self._links):
            await _ended(link.task)


class _Cut(Exception):
    pass


class _Trigger(NamedTuple):
    needle: bytes
    moment: Moment
    times: int


class _Listening:
    """A listening socket, and the task that accepts its connections."""

    task: asyncio.Task[None]

    def __init__(self, port: int) -> None:
        self.socket = socket.create_server((HOST, port))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]


class _Link:
    """A client's connection, and its connection to the server."""

    task: asyncio.Task[None]

    def __init__(self, client: socket.socket, discards: set[Way]) -> None:
        self.client = client
        self.server = socket.socket()
        self.server.setblocking(False)
        for each in (self.client, self.server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.discards = discards
        self.loses_answer = False
        self.plugged_in = asyncio.Event()
        self.plugged_in.set()

    def close(self) -> None:
        # Only the client is reset: the server still executes what it has received.
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()
        self.server.close()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _drop_packets(listener: socket.socket) -> None:
    """Make the kernel drop every packet for a socket without an acknowledgement."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _accept_packets(listener: socket.socket) -> None:
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except FileNotFoundError:
        return  # No filter was attached.
