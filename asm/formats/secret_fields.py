"""Secrets in the settings that a tool writes beside a conversation. They are not imported."""

from __future__ import annotations

import re
from typing import Any

from asm.export_files import text

REMOVED = "[removed]"
"""What is stored instead of a secret."""

_NAME = re.compile(
    r"api_?key|access_?key|secret|passw|passphrase|credential|authorization|cookie"
    r"|(?:^|[_-])(?:key|token|pat|pwd|auth)$",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(r"((?:--env[= ]|-e ?)?([A-Za-z_]\w{0,99})=).")
_IN_ADDRESS = re.compile(r"(://[^/\s:@]{0,100}:)[^/\s@]{1,500}@")


def without_secrets(value: Any) -> Any:
    """The value, without what a field has whose name is one of a secret.

    So has a variable in a text such as "OPENAI_API_KEY=…", and an address may have a password.
    """
    try:
        return _without(value)
    except RecursionError as error:
        raise text.too_deep() from error


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _field(name, each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without(each) for each in value]
    if isinstance(value, str):
        found = _ASSIGNMENT.match(value)
        return (
            found[1] + REMOVED
            if found and _NAME.search(found[2])
            else _IN_ADDRESS.sub(rf"\1{REMOVED}@", value)
        )
    return value


def _field(name: str, value: Any) -> Any:
    is_secret = _NAME.search(name) and value and isinstance(value, str | list | dict)
    return REMOVED if is_secret else _without(value)
