"""Secrets in the settings that a tool writes beside a conversation. They are not imported."""

from __future__ import annotations

import re
from typing import Any

from asm.export_files import text

REMOVED = "[removed]"
"""What is stored instead of a secret."""

_NAME = re.compile(
    r"api_?key|access_?key|secret|passw|passphrase|credential|authorization|cookie|bearer"
    r"|(?:^|[_-]|(?-i:(?<=[a-z])(?=[A-Z])))(?:key|token|pat|pass|pwd|auth)(?:_?\d{1,9})?$",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(r"((?:--env[= ]|-e ?)?([A-Za-z_]\w{0,99})=).")
_IN_TEXT = re.compile(r"""(?<!\w)([A-Za-z_][\w-]{0,99})=(?:"[^"]+"|'[^']+'|[^\s&;"']+)""")
_OF_CODE = ("key", "auth")
"""Names of arguments in code, such as `sorted(words, key=len)` in a prompt."""

_HEADER = re.compile(
    r"""(authorization["']?[:=] ?["']?(?:(?:bearer|basic|token) )?)[^\s"']+""", re.IGNORECASE
)
_IN_ADDRESS = re.compile(r"(://[^/\s:@]{0,100}:|https?://(?![^/\s:@]{0,100}:))[^/\s@]{1,500}@")


def without_secrets(value: Any) -> Any:
    """The value, without what a field has whose name is one of a secret.

    So has a variable in a text such as "OPENAI_API_KEY=…", the argument after "--api-key" and the value of
    {"name": "API_KEY", "value": …}; a text may have a header, and an address a password.
    """
    try:
        return _without(value)
    except RecursionError as error:
        raise text.too_deep() from error


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        is_variable = isinstance(name := value.get("name"), str) and _NAME.search(name)
        return {
            name: _field("secret" if is_variable and name == "value" else name, each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_field(_option(before), each) for before, each in zip([None, *value], value, strict=False)]
    return _without_in_text(value) if isinstance(value, str) else value


def _field(name: str, value: Any) -> Any:
    is_secret = _NAME.search(name) and value and isinstance(value, str | list | dict)
    return REMOVED if is_secret else _without(value)


def _option(argument: Any) -> str:
    """The name of an option, whose value is the next argument of a command; "" for what is none."""
    is_option = isinstance(argument, str) and argument.startswith("--") and "=" not in argument
    return argument if is_option else ""


def _without_in_text(value: str) -> str:
    found = _ASSIGNMENT.match(value)
    if found and _NAME.search(found[2]):
        return found[1] + REMOVED
    value = _HEADER.sub(rf"\1{REMOVED}", _IN_ADDRESS.sub(rf"\1{REMOVED}@", value))
    return _IN_TEXT.sub(_assignment, value)


def _assignment(found: re.Match[str]) -> str:
    is_secret = _NAME.search(found[1]) and found[1] not in _OF_CODE
    return f"{found[1]}={REMOVED}" if is_secret else found[0]
