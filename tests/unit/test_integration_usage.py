"""The usage that providers report to integrations."""

from __future__ import annotations

import pytest

from asm.integrations import common
from asm.integrations.common import counts_of


def test_a_usage_that_a_run_cannot_have_is_left_out_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "_WARNED", set())

    for _ in range(3):
        assert counts_of({"input_tokens": -1}, "openai") == {}
    assert counts_of({"input_tokens": 1}, "openai") == {"input_tokens": 1}

    [record] = caplog.records
    assert (record.name, record.levelname) == ("asm", "WARNING")
    assert "usage.input_tokens must be from 0" in record.message
