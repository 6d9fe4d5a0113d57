"""How many examples each property is tried with.

A property is checked inside its test, on the one store of that test, with ids of its own for each example:

    def test_something(store: Any) -> None:
        @given(documents())
        def check(document: Any) -> None: ...

        check()
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A database has no deadline per example, and a failure prints what brings it back.
settings.register_profile("asm", max_examples=20, deadline=None, print_blob=True)
settings.load_profile("asm")

# The threads of a connection pool draw random pauses, for which hypothesis blames the strategy
# that happens to be drawing an example at that moment.
_RANDOM_ELSEWHERE = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(_RANDOM_ELSEWHERE)
