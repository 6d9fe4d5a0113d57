"""The index of the words of events: adding events to it, and finding those that are not in it yet.

The database notes which events were inserted, and nothing else: to find the words of an event, and to insert
them into an index, takes several times as long as to append it. So a program adds events to the index later,
in batches of its own, and until then a search reads them. An append does not wait for the index, and a search
finds every event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from asm.engine.jobs import Job, run_step
from asm.engine.schema_version import TEXT_SEARCH
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result, scalar
from asm.errors import ValidationError
from asm.operations.words import TEXT_LENGTH_MAX, word_count, words_of

BATCH_SIZE = 200
"""The events that one transaction indexes, at most. Their words take up to 200 MB, and most often 200 kB."""

_RANGES_PER_BATCH = 1_000
_TABLE = "asm_event_words"
_INDEX = "asm_event_words_by_word"

Progress = Callable[[int], object]
"""Is called with the number of events that were indexed by now."""


def has_text_index() -> Query[bool]:
    """Whether the database has the tables of the index."""
    return Query("has_text_index", {"table_name": _TABLE}, lambda rows: bool(scalar(rows)))


def check_text_index() -> Script[None]:
    """ValidationError if the database has no index of words."""
    if not (yield from has_text_index()):
        raise ValidationError(
            "this database has no index of the words in events, which `text` needs: create it with "
            f"`asm migrate --{TEXT_SEARCH}`",
            path="text",
        )


def index_events(progress: Progress | None = None) -> Job[int]:
    """Add to the index the events that are not in it, and return how many there were.

    Each batch is a transaction of its own, so that the job can be stopped anywhere and run again. Programs
    append meanwhile; several may index at the same time, each other events. Returns 0 where the database has
    no index.
    """
    indexed = 0
    if not (yield from run_step(has_text_index())):
        return indexed
    is_done = False
    while not is_done:
        number, is_done = yield from run_step(UnitOfWork(_index_batch))
        indexed += number
        if progress is not None:
            progress(indexed)
    if indexed:
        yield from run_step(Query("clean_text_index", {"index_name": _INDEX}, no_result))
    return indexed


def _index_batch() -> Script[tuple[int, bool]]:
    """Index the events of some ranges, and return how many, and whether these were all.

    With these the job is done, so that it ends while other programs append.
    """
    ranges = yield from Query("lock_unindexed_events", {"limit": _RANGES_PER_BATCH}, list)
    if not ranges:
        return 0, True
    ids = tuple(id for (id,) in ranges)
    rows = yield from find_unindexed(BATCH_SIZE, ids=ids)
    # Ranges may overlap.
    events = sorted({(session_id, number, id): data for _, session_id, number, id, data in rows}.items())
    if events:
        yield from _insert_words(events)
    if len(rows) < BATCH_SIZE:
        yield from Query("delete_unindexed_events", {"ids": ids}, no_result)
        return len(events), len(ranges) < _RANGES_PER_BATCH
    # The rest of the last range is for the next batch. Those before it are complete.
    last_range, _, last_sequence, *_ = rows[-1]
    if complete := tuple(id for id in ids if id < last_range):
        yield from Query("delete_unindexed_events", {"ids": complete}, no_result)
    rest = {"id": last_range, "first_sequence": last_sequence + 1}
    yield from Query("narrow_unindexed_events", rest, no_result)
    return len(events), False


def _insert_words(events: Sequence[tuple[tuple[str, int, str], str]]) -> Query[None]:
    words = [words_of(data) for _, data in events]
    params = {
        "session_ids": [session_id for (session_id, _, _), _ in events],
        "sequence_numbers": [number for (_, number, _), _ in events],
        "event_ids": [id for (_, _, id), _ in events],
        "texts": [" ".join(each) for each in words],
        "word_counts": [word_count(each) for each in words],
    }
    return Query("insert_event_words", params, no_result, prepare=False)


def find_unindexed(
    limit: int, *, ids: tuple[int, ...] | None = None, after: Row | None = None
) -> Query[Rows]:
    """Events that are not in the index, of all ranges or of some, after a row of these: a page of them.

    A row has the id of its range, the id of the session, the sequence number, the id and the data, cut off.
    """
    params = {
        "ids": ids,
        "last_range": None if after is None else after[0],
        "last_sequence": None if after is None else after[2],
        "length_max": TEXT_LENGTH_MAX,
        "limit": limit,
    }
    return Query("find_unindexed_events", params, partial(list), prepare=False)
