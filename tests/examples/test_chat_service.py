"""The chat service over real connections: its streams begin, break off, go on and end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple

import pytest

import asm
from tests.conftest import an_event, numbers
from tests.examples.programs import environment

# A heartbeat that a test does not have to wait for.
SERVE = "import chat_service; chat_service.HEARTBEAT_S = 0.1; chat_service.main()"
ADDRESS = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class ServerSent(NamedTuple):
    id: int
    type: str
    event: asm.Event


class Service:
    """The service in a process of its own, on a free port."""

    def __init__(self, dsn: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "--port", "0"],
            env=environment(ASM_DSN=dsn),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.port = self._port()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        with closing(self._connection()) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.load(response)

    def post(self, path: str, body: Any = None) -> Any:
        status, answer = self.request("POST", path, body)
        assert status < 300, answer
        return answer

    @contextmanager
    def follow(self, chat_id: str, last_event_id: int | None = None) -> Iterator[HTTPResponse]:
        """The open stream of a chat. The end of the block disconnects."""
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        with closing(self._connection()) as connection:
            connection.request("GET", f"/chats/{chat_id}/events", headers=headers)
            with connection.getresponse() as response:
                assert response.status == 200, response.read()
                yield response

    def stop(self) -> str:
        """Stop it as a supervisor does, and return what it logged since it has started."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _port(self) -> int:
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if address := ADDRESS.search(line):
                return int(address[1])
        raise AssertionError("the service did not start:\n" + "".join(lines))


def sent(stream: HTTPResponse) -> Iterator[ServerSent]:
    """The events of a stream, without its comments."""
    fields: dict[str, str] = {}
    for line in (line.decode().rstrip("\n") for line in stream):
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "id" in fields:
            event = asm.Event.from_dict(json.loads(fields["data"]))
            yield ServerSent(int(fields["id"]), fields["event"], event)
            fields = {}


def sent_until(stream: HTTPResponse, type: str) -> list[ServerSent]:
    received = []
    for each in sent(stream):
        received.append(each)
        if each.type == type:
            return received
    raise AssertionError(f"the stream ended before {type}: {received}")


@pytest.fixture
def service(migrated: str) -> Iterator[Service]:
    service = Service(migrated)
    yield service
    service.close()


def test_a_client_that_disconnects_and_returns_misses_no_event(service: Service, migrated: str) -> None:
    chat_id = service.post("/chats")["id"]
    with service.follow(chat_id) as stream:
        service.post(f"/chats/{chat_id}/messages", {"content": "Will it rain in Bergen?"})
        before = sent_until(stream, "message_streamed")

    with asm.SessionStore(migrated) as store:
        store.append_event(an_event(chat_id, "acme.note", data={"text": "zażółć\n\ngęślą"}))
    service.post(f"/chats/{chat_id}/messages", {"content": "And in Oslo?"})
    with service.follow(chat_id, last_event_id=before[-1].id) as stream:
        after = sent_until(stream, "run_completed") + sent_until(stream, "run_completed")

    received = [*before, *after]
    with asm.SessionStore(migrated) as store:
        assert [each.event for each in received] == store.get_events(chat_id)
        assert [each.id for each in received] == numbers(store.get_events(chat_id))
        assert [run.output for run in store.list_runs(chat_id)] == [
            "You said: Will it rain in Bergen? ",
            "You said: And in Oslo? ",
        ]
        assert store.maintenance.health_check() == []


def test_stopping_ends_idle_streams_and_completes_the_answers(service: Service, migrated: str) -> None:
    chat_id = service.post("/chats")["id"]
    with service.follow(chat_id, last_event_id=1) as stream:
        assert stream.readline() == b":\n"  # a heartbeat: the stream waits for events

        service.post(f"/chats/{chat_id}/messages", {"content": "Good night"})
        log = service.stop()
        stream.read()  # raises IncompleteRead if the stream was broken off

    assert "Application shutdown complete" in log
    assert "Traceback" not in log
    with asm.SessionStore(migrated) as store:
        assert [run.status for run in store.list_runs(chat_id)] == [asm.RunStatus.COMPLETED]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_errors_of_the_store_have_a_status_and_a_code(service: Service) -> None:
    chat_id = service.post("/chats")["id"]
    too_large = f"/chats/{'x' * 256}"

    statuses = [
        service.request("GET", "/chats/missing/events"),
        service.request("POST", "/chats/missing/messages", {"content": "Hello"}),
        service.request("GET", too_large),
    ]
    assert [(status, body["code"]) for status, body in statuses] == [
        (404, "session_not_found"),
        (404, "session_not_found"),
        (422, "validation_error"),
    ]
    assert service.request("POST", f"/chats/{chat_id}/messages", {"content": ""})[0] == 422
