"""An adapter without its SDK says how to install it."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [
        ("anthropic", "anthropic", "anthropic"),
        ("openai", "openai", "openai"),
        ("claude_code", "claude_agent_sdk", "claude-code"),
    ],
)
def test_an_adapter_without_its_sdk_names_the_command_that_installs_it(
    adapter: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"asm.agents.{adapter}", raising=False)

    with pytest.raises(ImportError, match=rf"pip install 'asm-store\[{extra}\]'"):
        import_module(f"asm.agents.{adapter}")
