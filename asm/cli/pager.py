"""The pager that a long text on a terminal goes through."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

_DEFAULT = "less"
_ENVIRONMENT = {"LESS": "FRX", "LESSCHARSET": "utf-8", "LV": "-c"}
"""What pagers read: quit if the text fits one screen, pass colours on, leave the text on the screen."""


@contextmanager
def paged(*, wanted: bool) -> Iterator[IO[str] | None]:
    """The input of a pager, or None if the output is not a terminal, or there is no pager.

    The pager is the value of ASM_PAGER, else of PAGER, else `less`. An empty value or `cat` is none. When the
    user leaves the pager, the rest of the output is not written.
    """
    command = _command() if wanted and sys.stdout.isatty() else []
    if not command:
        yield None
        return
    try:
        # The text is ASCII and what `prose` leaves of it, in the encoding that terminals have today.
        pager = subprocess.Popen(
            command, stdin=subprocess.PIPE, encoding="utf-8", env={**_ENVIRONMENT, **os.environ}
        )
    except OSError:
        # A text that is printed without a pager serves better than an error about the pager.
        yield None
        return
    assert pager.stdin is not None
    # Ctrl-C is the pager's, which shares the terminal: it ends its own waiting and not the command.
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with suppress(BrokenPipeError):
            yield pager.stdin
    finally:
        with suppress(BrokenPipeError):
            pager.stdin.close()
        pager.wait()
        signal.signal(signal.SIGINT, interrupted)


def _command() -> list[str]:
    command = os.environ.get("ASM_PAGER", os.environ.get("PAGER", _DEFAULT))
    try:
        words = shlex.split(command)
    except ValueError:
        words = [command]
    return [] if words == ["cat"] else words
