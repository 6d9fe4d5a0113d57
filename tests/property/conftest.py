"""Settings of the property tests: the number of examples and the seed.

A test checks its property inside a function, on one store, with new ids for each example:

    def test_something(store: Any) -> None:
        @given(documents())
        def check(document: Any) -> None: ...

        check()

ASM_EXAMPLES multiplies the number of examples by a whole number. Tests that use their own random numbers
print their seed; ASM_SEED sets it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("ASM_EXAMPLES", "1"))
"""The factor by which the number of examples is multiplied."""

SEED = int(os.environ.get("ASM_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


def report(*facts: object) -> None:
    """Print facts about a test. pytest shows them if the test fails."""
    print(*facts)  # noqa: T201


# A call to a database may take any time, and a failure prints how to repeat its example.
settings.register_profile("asm", max_examples=20 * EXAMPLES, deadline=None, print_blob=True)
settings.load_profile("asm")

# The threads of a connection pool use `random` for their pauses, and hypothesis attributes that to the
# strategy that draws an example at the same moment.
_IGNORE_RANDOM = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.parent == folder:
            item.add_marker(_IGNORE_RANDOM)
            item.add_marker(pytest.mark.timeout(120 * EXAMPLES))
