"""No password shows in a repr, a log, an error or a traceback, with the values of its variables."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import asm
from asm.migrations.runner import status
from tests.conftest import INSTALLATIONS, POSTGRES, UNSYNCED, an_event, in_memory
from tests.contract.other_clients import SHORT_S, fetch_rows, only
from tests.servers import Server

pytestmark = only(POSTGRES[:1], why="SQLite has no passwords, and servers do not repeat them")

PASSWORD = "s3cr3t:@/ %&'é"
SPELLINGS = ("s3cr3t", PASSWORD, quote(PASSWORD, safe=""))
OURS = str(Path(asm.__file__).parent)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    later: BaseException | None = error
    while later is not None:
        yield later
        later = later.__cause__ or later.__context__


def shown(error: BaseException, of: str = OURS) -> str:
    """The text of an error, with the variables of the frames of our own files, or of those in a folder."""
    text = ["".join(traceback.format_exception(error))]
    for each in chain(error):
        text += [repr(each), repr(each.args), repr(getattr(each, "details", None))]
        frames = traceback.walk_tb(each.__traceback__)
        selected = ((frame, line) for frame, line in frames if frame.f_code.co_filename.startswith(of))
        stack = traceback.StackSummary.extract(selected, capture_locals=True)
        text += stack.format()
    return "\n".join(text)


def hides_the_password(text: str) -> bool:
    return not any(spelling in text for spelling in SPELLINGS)


FORMS: dict[str, Callable[[str, str], str]] = {
    "url": lambda host, port: f"postgresql://me:{quote(PASSWORD, safe='')}@{host}:{port}/db",
    "several hosts": lambda host, port: (
        f"postgresql://me:{quote(PASSWORD, safe='')}@{host}:{port},{host}:{port}/db"
    ),
    "query": lambda host, port: f"postgresql://{host}:{port}/db?user=me&password={quote(PASSWORD, safe='')}",
    "key=value": lambda host, port: make_conninfo(
        host=host, port=port, user="me", dbname="db", password=PASSWORD
    ),
    "ssl key": lambda host, port: make_conninfo(host=host, port=port, user="me", sslpassword=PASSWORD),
    "environment": lambda host, port: f"postgresql://me@{host}:{port}/db",
    "file": lambda host, port: f"postgresql://me@{host}:{port}/db",
    "service": lambda host, port: f"service=agents host={host} port={port}",
}
READ_BY_LIBPQ = ["environment", "file", "service"]
UNREADABLE = [
    "postgresql://me:s3cr3t@[::1/db",
    "postgresql://me:s3cr3t%zz@localhost/db",
    "postgresql://me:s3cr3t@more@localhost/db",
    "postgresql://me:12/s3cr3t@localhost/db",
    "postgresql://localhost/db?password=s3cr3t&nonsense=1",
    "host=localhost password='s3cr3t",
    "host=localhost password=s3cr3t nonsense",
    "host=localhost password='a's3cr3t=x'",
    "host=localhost oauth_client_secret=a s3cr3t=x",
    "postgresql://localhost/db?password=a&s3cr3t=x",
    "host=localhost dbname='postgresql://me:s3cr3t@localhost/db'",
    "host=localhost dbname='host=localhost password=s3cr3t'",
    "mysql://me:s3cr3t@localhost/db",
    "s3cr3t",
]


@pytest.fixture(params=FORMS)
def render(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A way to pass a password; makes the DSN for a host and a port."""
    if request.param == "environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    if request.param == "file":
        file = tmp_path / "passwords"
        file.write_text("*:*:*:*:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
    if request.param == "service":
        file = tmp_path / "services"
        file.write_text(f"[agents]\nuser=me\ndbname=db\npassword={PASSWORD}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
    return FORMS[request.param]


def raised_by(work: Callable[[], Any], of: str = OURS) -> str:
    with pytest.raises(asm.AsmError) as caught:
        work()
    return shown(caught.value, of)


def ways_in(dsn: str, opened: Callable[..., Any]) -> list[Callable[[], Any]]:
    return [
        lambda: opened(dsn, retry_for=0),
        lambda: opened(dsn, retry_for=0, migrate=True, schema="s"),
        lambda: asm.migrate(dsn),
        lambda: asm.rollback(dsn, schema="s"),
        lambda: asm.pending_migrations(dsn),
        lambda: status(dsn),
    ]


@pytest.mark.parametrize("place", ["127.0.0.1:1", "nowhere.invalid:5432", "server"])
def test_an_error_while_connecting_does_not_show_the_password(
    migrated: str,
    render: Callable[[str, str], str],
    place: str,
    opened: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = conninfo_to_dict(migrated)
    host, _, port = (f"{server['host']}:{server['port']}" if place == "server" else place).partition(":")
    for way in ways_in(render(host, port), opened):
        assert hides_the_password(raised_by(way))
    assert hides_the_password(caplog.text)


@pytest.mark.parametrize("render", READ_BY_LIBPQ, indirect=True)
def test_no_frame_shows_a_password_that_libpq_reads_by_itself(
    migrated: str, render: Callable[[str, str], str], opened: Callable[..., Any]
) -> None:
    server = conninfo_to_dict(migrated)
    for host, port in (("127.0.0.1", "1"), (str(server["host"]), str(server["port"]))):
        for way in ways_in(render(host, port), opened):
            assert hides_the_password(raised_by(way, of=""))


@pytest.mark.parametrize("dsn", UNREADABLE)
def test_an_error_about_a_dsn_does_not_show_it(
    kind: str, dsn: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind in POSTGRES
    for way in ways_in(dsn, opened):
        assert hides_the_password(raised_by(way))
    monkeypatch.setenv("ASM_DSN", dsn)
    for work in (opened, asm.migrate):
        assert hides_the_password(raised_by(work))


@pytest.mark.parametrize("options", [{"timeout": -1}, {"schema": 5}, {"max_size": 0}, {"retry_for": "x"}])
def test_an_error_about_another_option_does_not_show_the_dsn(
    kind: str, opened: Callable[..., Any], options: dict[str, Any]
) -> None:
    assert kind in POSTGRES
    dsn = FORMS["url"]("localhost", "1")
    assert hides_the_password(raised_by(lambda: opened(dsn, **options)))


def test_no_call_that_succeeds_shows_the_password(
    migrated: str, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    password = str(conninfo_to_dict(migrated)["password"])
    asm.rollback(migrated)
    asm.migrate(migrated)
    store = opened(migrated, max_size=2)
    store.append_event(an_event())
    with pytest.raises(asm.AsmError) as caught:
        store.get_session("nobody")
    fetch_rows(
        migrated,
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'asm' and pid <> pg_backend_pid()",
    )
    store.append_event(an_event())
    text = repr(store) + str(store) + shown(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert password not in text


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not INSTALLATIONS:
        pytest.skip("only a server of our own can be stopped")
    with Server(next(iter(INSTALLATIONS.values())), in_memory(), settings=UNSYNCED) as server:
        asm.migrate(server.dsn())
        yield server


def test_an_error_of_a_store_whose_server_is_gone_does_not_show_the_password(
    kind: str, server: Server, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    assert kind in POSTGRES
    caplog.set_level(logging.DEBUG)
    store = opened(server.dsn(), retry_for=0, timeout=SHORT_S)
    store.append_event(an_event())
    server.stop("immediate")
    try:
        text = raised_by(lambda: store.append_event(an_event()))
        text += raised_by(lambda: store.append_events([an_event() for _ in range(1_000)]))
        text += raised_by(lambda: store.transaction().__enter__())
    finally:
        server.start()
    assert server.password not in text + caplog.text + "".join(capfd.readouterr())
