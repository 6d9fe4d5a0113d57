"""Who may read the viewer, and what a browser may do with its pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

import asm

Viewer = tuple[TestClient, asm.SessionStore]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
def test_a_request_for_another_host_is_refused(viewer: Viewer, host: str) -> None:
    client, _ = viewer
    assert client.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_a_request_for_this_machine_is_answered(viewer: Viewer, host: str) -> None:
    client, _ = viewer
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_get_and_head_are_answered(viewer: Viewer, method: str) -> None:
    client, _ = viewer
    assert client.request(method, "/").status_code == 405
    assert client.head("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/app.css", "/no-such-page", "/?status=x"])
def test_every_answer_has_the_headers_that_keep_foreign_markup_from_running(
    viewer: Viewer, path: str
) -> None:
    headers = viewer[0].get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_viewer_with_a_token_answers_only_who_has_it(
    opened_viewer: Callable[..., Viewer],
) -> None:
    client, _ = opened_viewer(token="right")
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/", headers={"Cookie": "asm_token=wrong"}).status_code == 401
    answer = client.get("/?agent=a&token=right", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?agent=a")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert client.get("/").status_code == 200


def test_a_token_never_leads_to_another_host(opened_viewer: Callable[..., Viewer]) -> None:
    client, _ = opened_viewer(token="right")
    answer = client.get("http://localhost//evil.example/?token=right", follow_redirects=False)
    assert answer.headers["Location"] == "/evil.example/"
