"""How many examples each property is tried with.

A property is checked inside its test, on the one store of that test, with ids of its own for each example:

    def test_something(store: Any) -> None:
        @given(documents())
        def check(document: Any) -> None: ...

        check()

Set ASM_EXAMPLES to a whole number to try so many times as many. Tests that draw for themselves print
their seed, and ASM_SEED brings it back.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("ASM_EXAMPLES", "1"))
"""How many times as many as usual."""

SEED = int(os.environ.get("ASM_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


def tell(*facts: object) -> None:
    """For whoever reads what a test printed, such as after a failure."""
    print(*facts)  # noqa: T201


# A database has no deadline per example, and a failure prints what brings it back.
settings.register_profile("asm", max_examples=20 * EXAMPLES, deadline=None, print_blob=True)
settings.load_profile("asm")

# The threads of a connection pool draw random pauses, for which hypothesis blames the strategy
# that happens to be drawing an example at that moment.
_RANDOM_ELSEWHERE = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(_RANDOM_ELSEWHERE)
            item.add_marker(pytest.mark.timeout(120 * EXAMPLES))
