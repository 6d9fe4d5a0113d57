"""AsmConversationStore keeps the protocol of pydantic-ai, and what it stores is readable without pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from asm.integrations.pydantic_ai import AsmConversationStore
from tests.conftest import in_loop

T = TypeVar("T")

Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run(colour: str) -> Run[Any]:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def conversations(store: Any) -> AsmConversationStore:
    return AsmConversationStore(getattr(store, "_target", store))
