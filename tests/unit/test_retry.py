"""How long to retry, and which errors, processes and event loops are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import asm
from asm.engine import guards, retry, shielding


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Advances the time, which stands still otherwise."""
    now = 1_000.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("asm.engine.retry.time.monotonic", lambda: now)
    return advance


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asm.engine.retry.random.uniform", lambda _, longest: longest)


def pauses_of(retry_for: float, clock: Callable[[float], None]) -> list[float]:
    """All pauses, each waited for in full."""
    pauses = []
    for pause_s in retry.Backoff(retry_for):
        pauses.append(pause_s)
        clock(pause_s)
    return pauses


def test_with_no_time_to_retry_there_is_no_pause(clock: Callable[[float], None]) -> None:
    assert pauses_of(0.0, clock) == []


def test_all_pauses_together_take_the_time_to_retry(clock: Callable[[float], None]) -> None:
    assert sum(pauses_of(10.0, clock)) == pytest.approx(10.0)


@pytest.mark.usefixtures("no_jitter")
def test_pauses_grow(clock: Callable[[float], None]) -> None:
    *pauses, _ = pauses_of(10.0, clock)

    assert pauses == sorted(pauses)


@pytest.mark.usefixtures("no_jitter")
def test_the_longest_pause_is_limited(clock: Callable[[float], None]) -> None:
    assert max(pauses_of(60.0, clock)) == retry.BACKOFF_MAX_S


@pytest.mark.usefixtures("no_jitter")
def test_the_first_pause_is_short(clock: Callable[[float], None]) -> None:
    assert pauses_of(10.0, clock)[0] == retry.BACKOFF_MIN_S


def test_pauses_are_jittered(clock: Callable[[float], None]) -> None:
    assert pauses_of(10.0, clock) != pauses_of(10.0, clock)


def test_each_pause_is_longer_than_0(clock: Callable[[float], None]) -> None:
    assert min(pauses_of(10.0, clock)) > 0


def test_the_time_between_the_pauses_counts(clock: Callable[[float], None]) -> None:
    pauses = retry.Backoff(10.0)
    next(pauses)

    clock(10.0)

    assert next(pauses, None) is None


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (asm.ConnectionFailed("connection lost"), True),
        (asm.StorageError("deadlock", retryable=True), True),
        (asm.StorageError("disk full"), False),
        (asm.StorageTimeout("timed out"), False),
        (asm.MigrationRequired("no tables"), False),
        (asm.StoreClosed("closed"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_an_error_that_may_pass_is_retryable(error: asm.StorageError, retryable: bool) -> None:
    assert retry.is_retryable(error) is retryable


def test_another_process_is_refused() -> None:
    with pytest.raises(asm.StoreClosed, match="process"):
        guards.check_process(0)


def test_another_event_loop_is_refused() -> None:
    other = asyncio.new_event_loop()

    async def check() -> None:
        shielding.check_loop(other)

    with pytest.raises(asm.StoreClosed, match="loop"):
        asyncio.run(check())
    other.close()
