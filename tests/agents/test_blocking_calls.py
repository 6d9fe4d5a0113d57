"""Calls of the blocking manager end, whatever they are given and however they are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import asm
from tests.agents.scripted import answer

WRONG_CALLS: dict[str, Callable[[asm.SessionManager], Any]] = {
    "an unknown keyword": lambda manager: manager.recover(foo=1),  # type: ignore[call-arg]
    "a misspelt keyword": lambda manager: manager.transcript("ses_1", max_message=3),  # type: ignore[call-arg]
    "a missing argument": lambda manager: manager.cancel(),  # type: ignore[call-arg]
    "no input": lambda manager: manager.run_once(answer()),  # type: ignore[call-arg]
    "a run without a session": lambda manager: manager.run(),  # type: ignore[call-arg]
    "an unknown keyword of a run": lambda manager: manager.run_once(answer(), "Hi", foo=1),
}


@pytest.fixture
def memory() -> Any:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        yield store


@pytest.mark.parametrize("wrong", WRONG_CALLS)
def test_a_call_with_wrong_arguments_raises_a_type_error(wrong: str, memory: asm.SessionStore) -> None:
    with pytest.raises(TypeError, match=r"argument"):
        WRONG_CALLS[wrong](asm.SessionManager(memory))
