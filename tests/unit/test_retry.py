"""How long to go on asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import asm
from asm.engine import retry


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time on, which otherwise stands."""
    moment = 1_000.0

    def move(seconds: float) -> None:
        nonlocal moment
        moment += seconds

    monkeypatch.setattr("asm.engine.retry.time.monotonic", lambda: moment)
    return move


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asm.engine.retry.random.uniform", lambda _, longest: longest)


def taken(budget_s: float, clock: Callable[[float], None]) -> list[float]:
    """All pauses of a budget, each taken in full."""
    pauses = []
    for pause_s in retry.backoff(budget_s):
        pauses.append(pause_s)
        clock(pause_s)
    return pauses


def test_without_a_budget_there_is_no_pause(clock: Callable[[float], None]) -> None:
    assert taken(0.0, clock) == []


def test_pauses_together_take_no_longer_than_the_budget(clock: Callable[[float], None]) -> None:
    assert sum(taken(10.0, clock)) == pytest.approx(10.0)


@pytest.mark.usefixtures("no_jitter")
def test_pauses_grow(clock: Callable[[float], None]) -> None:
    *pauses, _ = taken(10.0, clock)

    assert pauses == sorted(pauses)


@pytest.mark.usefixtures("no_jitter")
def test_pauses_do_not_grow_without_end(clock: Callable[[float], None]) -> None:
    assert max(taken(60.0, clock)) == retry.BACKOFF_MAX_S


@pytest.mark.usefixtures("no_jitter")
def test_the_first_pause_is_short(clock: Callable[[float], None]) -> None:
    assert taken(10.0, clock)[0] == retry.BACKOFF_MIN_S


def test_pauses_are_jittered(clock: Callable[[float], None]) -> None:
    assert taken(10.0, clock) != taken(10.0, clock)


def test_no_pause_is_nothing(clock: Callable[[float], None]) -> None:
    assert min(taken(10.0, clock)) > 0


def test_the_budget_counts_what_was_spent_between_the_pauses(clock: Callable[[float], None]) -> None:
    pauses = retry.backoff(10.0)
    next(pauses)

    clock(10.0)

    assert next(pauses, None) is None


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (asm.ConnectionFailed("cut"), True),
        (asm.StorageError("deadlock", retryable=True), True),
        (asm.StorageError("disk full"), False),
        (asm.StorageTimeout("had its time"), False),
        (asm.MigrationRequired("no tables"), False),
        (asm.StoreClosed("closed"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass_is_worth_another_try(error: asm.StorageError, worth: bool) -> None:
    assert retry.is_retryable(error) is worth


def test_another_process_has_no_store() -> None:
    with pytest.raises(asm.StoreClosed, match="process"):
        retry.check_process(0)


def test_another_event_loop_has_no_store() -> None:
    other = asyncio.new_event_loop()

    async def check() -> None:
        retry.check_loop(other)

    with pytest.raises(asm.StoreClosed, match="loop"):
        asyncio.run(check())
    other.close()
