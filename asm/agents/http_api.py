"""What the adapters share whose SDKs call an API with httpx2."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import httpx2

from asm.errors import ValidationError


def check_is_async(client: Any, name: str) -> None:
    """Refuse the blocking client of an SDK before a turn awaits it."""
    if client is not None and not hasattr(client, "__aenter__"):
        raise ValidationError(f"client must be an {name}, not {type(client).__name__}", path="client")


@cache
def tls_context() -> ssl.SSLContext:
    """The certificates that clients trust. Reading them takes longer than the rest of making a client."""
    return httpx2.create_ssl_context()


def is_lost(error: Exception) -> bool:
    """Whether the connection failed or was silent for too long. Not every SDK wraps this error."""
    return isinstance(error, httpx2.TransportError)
