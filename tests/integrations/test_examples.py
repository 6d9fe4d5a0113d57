"""The examples that no other test runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.programs import printed


@pytest.mark.parametrize("program", ["with_agent_framework.py", "with_strands.py"])
def test_an_agent_remembers_what_was_said_before(program: str, dsn: str, tmp_path: Path) -> None:
    assert printed(tmp_path, program, dsn).splitlines() == [
        "Hello? That was message 1.",
        "And now? That was message 3.",
    ]
