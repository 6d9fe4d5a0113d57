"""Why a server lets nobody in, asked where much is open."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from asm.postgres.login_errors import login_sqlstate

SELECT_MAX = 1_024


@pytest.fixture
def _many_open() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SELECT_MAX + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine opens no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with ExitStack() as stack:
        for _ in range(SELECT_MAX):
            stack.callback(os.close, os.dup(0))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_open")
def test_a_server_is_asked_through_a_socket_of_any_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hanging_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hanging_up.start()
        port = listening.getsockname()[1]
        assert login_sqlstate(f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable") is None
        hanging_up.join()
