"""The examples of README run and do what README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import asm

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
A_DSN = re.compile(r'"(?:sqlite|postgresql)://[^"]*"')


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(n) for n, _ in enumerate(EXAMPLES, 1)])
def test_an_example_runs(migrated: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(A_DSN.sub(repr(migrated), example, count=1), names)
    assert capsys.readouterr().out


def test_the_first_example_stores_what_its_comments_say(migrated: str) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(A_DSN.sub(repr(migrated), EXAMPLES[0], count=1), names)
    with asm.SessionStore(migrated) as store:
        session = store.list_sessions()[0]
        assert (session.status, store.get_latest_sequence(session.id), names["stored"].sequence_number) == (
            "completed",
            2,
            2,
        )
