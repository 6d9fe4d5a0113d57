"""How long the client waits for a statement, beside the limits of the server."""

from __future__ import annotations

import pytest

from asm.postgres.timeouts import Timeouts


@pytest.mark.parametrize(("timeout", "statement_timeout"), [(30, None), (30, 60)])
def test_the_client_waits_longer_for_a_lone_write_than_the_server_for_a_lock(
    timeout: float, statement_timeout: float | None
) -> None:
    limit = Timeouts(timeout, statement_timeout).write
    assert limit is not None
    assert limit.after_s > timeout


def test_the_client_bounds_a_lone_write_by_the_statement_timeout_of_which_no_server_knows() -> None:
    limit = Timeouts(30, 5).write
    assert limit is not None
    assert limit.after_s == 5
