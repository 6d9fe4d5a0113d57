"""The queue of group commit, without a database: the requests of a batch, and what a failure does to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from asm.engine.script import Batchable, Query
from asm.engine.wait_queue import (
    BYTES_MAX,
    ITEMS_MAX,
    MIXED_BATCH_TIMEOUT_S,
    SLOW_BATCH_S,
    Batch,
    Request,
    WaitQueue,
)
from asm.errors import ConnectionFailed, StorageTimeout, counter_at_end


def operation(name: str, *sessions: str, items: int = 1, size_bytes: int = 1) -> Batchable[str]:
    """Its result is its name in capitals. Without sessions, its session is its name."""
    return Batchable(
        (name,) * items,
        lambda items: Query("capitals", {"items": list(items)}, dict),
        lambda merged: merged[name],
        lambda: iter(()),  # type: ignore[arg-type, return-value]
        sessions=sessions or (name,),
        size_bytes=size_bytes,
    )


def request(name: str, *sessions: str, **size: int) -> Request[str]:
    return Request(operation(name, *sessions, **size))


def queue_of(*requests: Request[str], parallel_batches_from: int | None = None) -> WaitQueue[Request[str]]:
    queue: WaitQueue[Request[str]] = WaitQueue(parallel_batches_from)
    for each in requests:
        queue.add(each)
    return queue


def sessions_of_lane(lane: int) -> list[str]:
    """Two sessions of one lane. Python hashes strings differently in each process."""
    found = (str(number) for number in count() if request(str(number)).lane == lane)
    return [next(found), next(found)]


def started(queue: WaitQueue[Request[str]]) -> Batch[Request[str]]:
    batch: Batch[Request[str]] = Batch()
    assert queue.start_batch(batch)
    return batch


def next_batch(queue: WaitQueue[Request[str]]) -> list[str]:
    """The names of the requests in the next batch, which is started. Empty if none can be."""
    batch: Batch[Request[str]] = Batch()
    return names(batch) if queue.start_batch(batch) else []


def names(batch: Batch[Request[str]]) -> list[str]:
    return [each.operation.items[0] for each in batch.requests]


def start_slow(queue: WaitQueue[Request[str]]) -> Batch[Request[str]]:
    """Start a batch, and set its start back so that it is slow."""
    batch = started(queue)
    batch.started_at -= SLOW_BATCH_S
    return batch


def finish(queue: WaitQueue[Request[str]], batch: Batch[Request[str]]) -> None:
    batch.is_finished = True
    queue.finish_batch(batch)


def test_waiting_requests_are_sent_together_in_the_order_of_their_arrival() -> None:
    assert next_batch(queue_of(request("a"), request("b"), request("c"))) == ["a", "b", "c"]


def test_no_batch_starts_while_another_is_being_sent() -> None:
    queue = queue_of(request("a"))
    started(queue)
    queue.add(request("b"))
    assert next_batch(queue) == []


def test_many_requests_are_sent_in_two_lanes_at_a_time() -> None:
    (a, c), (b, d) = sessions_of_lane(0), sessions_of_lane(1)
    queue = queue_of(request(a), request(b), request(c), request(d), parallel_batches_from=4)
    assert [next_batch(queue), next_batch(queue)] == [[a, c], [b, d]]


def test_no_batch_starts_while_both_lanes_are_busy() -> None:
    (a, c), (b, d) = sessions_of_lane(0), sessions_of_lane(1)
    queue = queue_of(request(a), request(b), parallel_batches_from=1)
    started(queue)
    started(queue)
    queue.add(request(c))
    queue.add(request(d))
    assert next_batch(queue) == []


def test_no_batch_starts_while_one_of_both_lanes_is_being_sent() -> None:
    queue = queue_of(request("a"), parallel_batches_from=2)
    started(queue)
    queue.add(request("b"))
    assert next_batch(queue) == []


def test_many_requests_for_a_slow_session_block_no_other_session() -> None:
    (a, _), (b, _) = sessions_of_lane(0), sessions_of_lane(1)
    queue = queue_of(request(a), parallel_batches_from=2)
    start_slow(queue)
    queue.add(request("more", a))
    queue.add(request(b))
    assert next_batch(queue) == [b]


def test_a_slow_batch_does_not_block_other_sessions() -> None:
    queue = queue_of(request("a"))
    start_slow(queue)
    queue.add(request("more", "a"))
    queue.add(request("b"))
    assert next_batch(queue) == ["b"]


def test_requests_of_one_session_keep_their_order() -> None:
    queue = queue_of(request("a"))
    start_slow(queue)
    queue.add(request("batch", "a", "b"))
    queue.add(request("b"))
    queue.add(request("c"))
    assert next_batch(queue) == ["c"]


def test_a_batch_has_a_limited_number_of_events() -> None:
    queue = queue_of(request("a", items=ITEMS_MAX - 1), request("b"), request("c"))
    assert next_batch(queue) == ["a", "b"]


def test_a_batch_has_a_limited_size() -> None:
    queue = queue_of(request("a", size_bytes=BYTES_MAX - 1), request("b"), request("c"))
    assert next_batch(queue) == ["a", "b"]


def test_a_request_larger_than_a_batch_is_sent_alone() -> None:
    assert next_batch(queue_of(request("a", items=ITEMS_MAX + 1), request("b"))) == ["a"]


def test_a_blocked_request_takes_no_room_in_a_batch() -> None:
    queue = queue_of(request("a"))
    start_slow(queue)
    for each in (request("many", "a", items=ITEMS_MAX), request("b"), request("c")):
        queue.add(each)
    assert next_batch(queue) == ["b", "c"]


def test_an_abandoned_request_is_not_sent() -> None:
    abandoned = request("a")
    queue = queue_of(abandoned, request("b"))
    abandoned.abandoned = True
    assert next_batch(queue) == ["b"]


def test_a_request_without_a_result_is_first_in_the_next_batch() -> None:
    queue = queue_of(request("a"), request("b"))
    batch = started(queue)
    queue.add(request("c"))
    batch.requests[0].succeed({})
    finish(queue, batch)
    assert next_batch(queue) == ["b", "c"]


def test_a_batch_that_is_only_marked_as_finished_blocks_nothing() -> None:
    queue = queue_of(request("a"))
    started(queue).is_finished = True
    queue.add(request("b"))
    assert next_batch(queue) == ["a", "b"]


def test_a_queue_is_not_idle_while_any_batch_is_being_sent() -> None:
    queue = queue_of(request("a"))
    first = start_slow(queue)
    queue.add(request("b"))
    second = started(queue)
    for batch in (first, second):
        batch.succeed({})
        batch.is_finished = True
    queue.finish_batch(first)
    third: Batch[Request[str]] = Batch()
    assert queue.start_alone(third, ["c"])
    queue.finish_batch(second)
    assert not queue.is_idle
    finish(queue, third)
    assert queue.is_idle


def test_a_leader_starts_only_a_batch_that_has_its_request() -> None:
    queue = queue_of(request("a"))
    start_slow(queue)
    blocked, free = request("more", "a"), request("b")
    queue.add(blocked)
    queue.add(free)
    assert not queue.start_batch(Batch(), blocked)
    assert queue.start_batch(Batch(), free)


def test_the_next_leader_is_the_first_request_that_can_be_sent() -> None:
    queue = queue_of(request("a"))
    start_slow(queue)
    free = request("b")
    for each in (request("more", "a"), free, request("c")):
        queue.add(each)
    assert queue.next_leader() is free


def test_on_a_slow_server_a_batch_of_several_sessions_waits_longer_for_locks() -> None:
    queue = queue_of()
    for name in "abcdefgh":
        queue.add(request(name))
        slow = started(queue)
        slow.started_at -= MIXED_BATCH_TIMEOUT_S
        slow.succeed({})
        finish(queue, slow)
    for name in "ab":
        queue.add(request(name))
    timeout_s = queue.lock_timeout_s(started(queue))
    assert timeout_s is not None
    assert timeout_s > 3 * MIXED_BATCH_TIMEOUT_S


def test_a_caller_that_finds_the_queue_idle_is_sent_alone() -> None:
    assert queue_of().start_alone(Batch(), ["a"])


def test_a_caller_that_finds_a_request_is_not_sent_alone() -> None:
    assert not queue_of(request("a")).start_alone(Batch(), ["b"])


# Batches that failed.


def fail(error: Exception, *requests: Request[str], late: Sequence[str] = ()) -> list[list[str]]:
    """The batches that are sent, with success, after a first one of all requests has failed."""
    queue = queue_of(*requests)
    batch = started(queue)
    batch.divide_failed(error, lambda each: each.operation.items[0] in late)
    finish(queue, batch)
    sent = []
    while queue.waiting:
        batch = started(queue)
        batch.succeed({})
        finish(queue, batch)
        sent.append(names(batch))
    return sent


def error_of(request: Request[str]) -> Any:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        request.result()
    return raised.value


def test_a_failed_batch_is_sent_again_in_halves() -> None:
    assert fail(ValueError(), *map(request, "abcd")) == [["a", "b"], ["c", "d"]]


def test_a_request_that_failed_alone_raises_the_error() -> None:
    alone = request("a")
    assert fail(ValueError("refused"), alone) == []
    assert str(error_of(alone)) == "refused"


def test_the_end_of_a_counter_fails_the_requests_of_its_session_and_divides_no_others() -> None:
    requests = [request("a"), request("full"), request("b"), request("both", "c", "full"), request("fuller")]

    assert fail(counter_at_end(["full", "fuller"]), *requests) == [["a", "b"]]

    messages = [str(error_of(each)) for each in requests if each.operation.items[0] not in "ab"]
    assert ["session 'full' has" in message for message in messages] == [True, True, False]
    assert "session 'fuller' has" in messages[2]


def test_a_lost_connection_fails_all_requests_of_the_batch() -> None:
    requests = [request("a"), request("b")]
    assert fail(ConnectionFailed("lost"), *requests) == []
    assert [type(error_of(each)) for each in requests] == [ConnectionFailed] * 2


def test_each_caller_gets_its_own_copy_of_the_error() -> None:
    requests = [request("a"), request("b")]
    error = ConnectionFailed("lost", host="db")
    error.__cause__ = OSError("reset")
    fail(error, *requests)
    errors = [error_of(each) for each in requests]
    assert errors[0] is not errors[1]
    assert [(each.details, str(each.__cause__)) for each in errors] == [({"host": "db"}, "reset")] * 2


def test_after_a_timeout_each_session_is_sent_in_its_own_batch() -> None:
    requests = [request("a1", "a"), request("b"), request("a2", "a")]
    assert fail(StorageTimeout(""), *requests) == [["a1", "a2"], ["b"]]


def test_after_a_timeout_a_late_request_fails() -> None:
    requests = [request("a"), request("b")]
    assert fail(StorageTimeout(""), *requests, late=["a"]) == [["b"]]
    assert isinstance(error_of(requests[0]), StorageTimeout)


def test_a_timeout_of_one_session_fails_all_its_requests() -> None:
    requests = [request("a1", "a"), request("a2", "a")]
    assert fail(StorageTimeout(""), *requests) == []
    assert [type(error_of(each)) for each in requests] == [StorageTimeout] * 2
