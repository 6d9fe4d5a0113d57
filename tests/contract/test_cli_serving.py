"""`asm serve`, and sessions as HTML files."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from psycopg.conninfo import conninfo_to_dict

import asm
from tests.conftest import an_event
from tests.contract.test_cli import invoke, output_of


@pytest.fixture
def kept(migrated: str) -> str:
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1", metadata={"title": "A <b>title</b>"}))
        store.append_events([an_event(data={"content": f"number {n}"}) for n in range(300)])
    return migrated


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address that `asm serve` prints. It ends by Ctrl-C, with nothing on its standard error."""
    command = [sys.executable, "-m", "asm", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")


def read(address: str) -> str:
    with urllib.request.urlopen(address) as answer:
        return str(answer.read().decode())


def test_the_first_line_is_the_address_of_a_page_of_this_machine(kept: str) -> None:
    with serving(kept, "--no-browser") as address:
        assert address.startswith("http://127.0.0.1:")
        assert "A &lt;b&gt;title" in read(address)


def test_another_host_needs_the_token_that_the_address_has(kept: str) -> None:
    with serving("--dsn", kept, "--host", "0.0.0.0", "--no-browser") as address:
        where, _, token = address.replace("0.0.0.0", "127.0.0.1").partition("?token=")
        assert len(token) >= 40
        with pytest.raises(HTTPError, match="401"):
            read(where)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{where}?token={token}") as answer:
            assert answer.url == where
            assert token not in answer.read().decode()


def test_what_cannot_be_served_is_an_error_before_an_address(kept: str, tmp_path: Path) -> None:
    with serving(kept, "--no-browser") as address:
        port = address.rstrip("/").rpartition(":")[2]
        result = invoke("serve", kept, "--port", port)
        assert result.exit_code == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    result = invoke("serve", f"sqlite:///{tmp_path}/none.db", "--port", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "asm migrate" in result.stderr


def test_a_page_names_its_store_without_a_password(kept: str) -> None:
    password = "" if kept.startswith("sqlite") else str(conninfo_to_dict(kept).get("password") or "")
    with serving(kept, "--no-browser") as address:
        page = read(address)
    assert not password or password not in page
    assert "sqlite:///" in page or "postgresql://" in page


def test_a_session_as_html_has_every_event(kept: str, tmp_path: Path) -> None:
    page = output_of("show", "ses_1", "--html", "--dsn", kept)
    assert page.count("number ") == 300
    assert "<script" not in page
    file = tmp_path / "session.html"
    output_of("export", "ses_1", "--format", "html", "-o", file, "--dsn", kept)
    assert file.read_text().count("number ") == 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "ses_1", "--html", "--tail", "3"),
        ("show", "ses_1", "--html", "--json"),
        ("export", "--all", "--format", "html"),
    ],
    ids=" ".join,
)
def test_only_a_whole_session_is_a_page(kept: str, arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments, "--dsn", kept).exit_code == 2
