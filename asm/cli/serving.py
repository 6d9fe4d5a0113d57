"""`asm serve`: the viewer, a local web page."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
import webbrowser
from functools import partial
from urllib.parse import quote

import click

from asm.async_store import AsyncSessionStore
from asm.cli.html import check_installed
from asm.cli.options import dsn_argument
from asm.dsn import parse_dsn
from asm.errors import ValidationError
from asm.migrations import runner

_GRACE_S = 1
"""Readers that follow a session would keep the server from ending."""


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. Any but this machine's own needs a token, which the printed address has.",
)
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="The port to listen on. 0 is any free one.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@dsn_argument
def serve(dsn: str | None, schema: str | None, *, host: str, port: int, no_browser: bool) -> None:
    """Show sessions on a local web page, until Ctrl-C.

    The first line of the output is the address of the page. The page is read-only, and nobody but this
    machine can read it unless --host says so. On a terminal a browser opens it.

    \b
    asm serve
    asm serve sqlite:///agents.db --port 0 --no-browser
    """
    check_installed()
    with _listening(host, port) as listener:
        asyncio.run(_serve(listener, dsn, schema, host, opens=not no_browser and sys.stdout.isatty()))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValidationError(
            f"cannot listen on {host} port {port}: {error.strerror or error}: name another --host or --port"
        ) from error


async def _serve(
    listener: socket.socket, dsn: str | None, schema: str | None, host: str, *, opens: bool
) -> None:
    import uvicorn

    from asm.web import app
    from asm.web.security import LOOPBACK

    token = None if host in LOOPBACK else secrets.token_urlsafe(32)
    # A reader at a page sees at once that the server of the store is down.
    async with AsyncSessionStore(dsn, schema=schema, retry_for=0) as store:
        viewer = app(
            store,
            token=token,
            name=str(parse_dsn(dsn, schema)),
            status=partial(runner.status, dsn, schema=schema),
        )
        config = uvicorn.Config(
            viewer,
            # A line of the access log would contain the token.
            access_log=False,
            log_level="warning",
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
        address = _address(listener, host, token)
        click.echo(address)
        sys.stdout.flush()
        if opens:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, address)
        await uvicorn.Server(config).serve(sockets=[listener])


def _address(listener: socket.socket, host: str, token: str | None) -> str:
    port = listener.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    return address if token is None else f"{address}?token={quote(token)}"
