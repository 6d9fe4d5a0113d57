"""Deleting some checkpoints of LangGraph's threads: by age, by number, by run.

A checkpoint has its channels' values in rows of their own, one for each version, which many checkpoints
share. A channel may have no value in a checkpoint, but the writes since an ancestor that has one: while the
checkpoint is kept, so are its ancestors up to that one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from asm.documents import load
from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Rows, Script, UnitOfWork, no_result
from asm.errors import ValidationError
from asm.validation import count, is_collection, safe_repr, texts

BATCH_SIZE = 1_000
"""Checkpoints, or threads, that one transaction deletes or looks at."""

ORPHAN_AFTER = timedelta(hours=1)

AGE_DAYS_MAX = 36_500


class Outline(NamedTuple):
    """The columns that decide whether a checkpoint is kept, and its values."""

    namespace: str
    id: str
    parent_id: str | None
    root_id: str | None
    """The checkpoint of the root graph from which the call of a subgraph started."""
    run_id: str | None
    versions: dict[str, str]
    delta_channels: list[str]
    created_at: datetime


Choice: TypeAlias = Callable[[Sequence[Outline]], Iterable[Outline]]
"""Which checkpoints of a thread to delete, in which order."""


def prune_threads(session_ids: Iterable[str], strategy: str) -> Job[None]:
    """Delete all checkpoints of threads, or all but the newest of each namespace and what it needs."""
    if strategy not in ("keep_latest", "delete"):
        raise ValidationError(f"strategy must be 'keep_latest' or 'delete', not {safe_repr(strategy)}")
    return _prune_threads(texts(session_ids, "thread_ids"), partial(_outdated, 1, None), strategy == "delete")


def _prune_threads(session_ids: Iterable[str], choose: Choice, deletes: bool) -> Job[None]:
    for session_id in session_ids:
        if deletes:
            params = {"session_id": session_id}
            yield from run_step(Query("delete_thread_checkpoints", params, no_result))
        else:
            yield from _delete(session_id, choose)


def delete_for_runs(run_ids: Iterable[Any]) -> Job[None]:
    """Delete the checkpoints that these runs made, of whatever thread."""
    if is_collection(run_ids):
        run_ids = [str(each) if isinstance(each, UUID) else each for each in run_ids]
    return _delete_for_runs(texts(run_ids, "run_ids"))


def _delete_for_runs(run_ids: tuple[str, ...]) -> Job[None]:
    found = yield from run_step(Query("find_threads_of_runs", {"run_ids": run_ids}, _ids, prepare=False))
    for session_id in found:
        yield from _delete(session_id, partial(_made_by, run_ids))


def expire(max_age_days: int | None, max_checkpoints: int | None) -> Job[int]:
    """Delete old checkpoints of all threads, and return how many.

    Of each namespace `max_checkpoints` stay, and of these those of the last `max_age_days`, but the newest
    always. Deletes also the writes that were stored while their thread was deleted.
    """
    keep = None if max_checkpoints is None else count(max_checkpoints, "max_checkpoints", minimum=1)
    before = None
    if max_age_days is not None:
        before = datetime.now(UTC) - timedelta(count(max_age_days, "max_age_days", AGE_DAYS_MAX, minimum=1))
    return _expire(partial(_outdated, keep, before))


def _expire(choose: Choice) -> Job[int]:
    deleted, after = 0, None
    while session_ids := (yield from run_step(_page_threads(after))):
        for session_id in session_ids:
            deleted += yield from _delete(session_id, choose)
        after = session_ids[-1]
    orphaned = {"before": datetime.now(UTC) - ORPHAN_AFTER}
    yield from run_step(Query("delete_orphaned_checkpoint_writes", orphaned, no_result, prepare=False))
    return deleted


def _page_threads(after: str | None) -> Query[list[str]]:
    return Query("page_threads", {"after": after, "limit": BATCH_SIZE}, _ids)


def _delete(session_id: str, choose: Choice) -> Job[int]:
    """Delete what is chosen of a thread, in transactions that each choose again."""
    deleted = 0
    while number := (yield from run_step(UnitOfWork(partial(_delete_batch, session_id, choose)))):
        deleted += number
        if number < BATCH_SIZE:
            break
    return deleted


def _delete_batch(session_id: str, choose: Choice) -> Script[int]:
    # A new checkpoint locks the row of the session, too: it is either seen here or waits for the end.
    yield from Query("lock_session", {"id": session_id}, no_result)
    outlines = yield from Query("outline_thread", {"session_id": session_id}, _outlines)
    gone = list(islice(choose(outlines), BATCH_SIZE))
    if gone:
        chosen = set(map(_place, gone))
        kept = [each for each in outlines if _place(each) not in chosen]
        yield from _delete_these(session_id, gone, kept)
    return len(gone)


def _delete_these(session_id: str, gone: Iterable[Outline], kept: Iterable[Outline]) -> Script[None]:
    places = [_place(each) for each in gone]
    yield from Query("delete_checkpoints", _places(session_id, places), no_result)
    if blobs := sorted(set(_blobs(gone)).difference(_blobs(kept))):
        namespaces, channels, versions = map(list, zip(*blobs, strict=True))
        params = {"session_id": session_id, "namespaces": namespaces}
        params |= {"channels": channels, "versions": versions}
        yield from Query("delete_checkpoint_blobs", params, no_result)
    lost = set(places)
    if orphans := [_place(each) for each in kept if (each.namespace, each.parent_id) in lost]:
        yield from Query("forget_checkpoint_parents", _places(session_id, orphans), no_result)


def _made_by(run_ids: Collection[str], outlines: Sequence[Outline]) -> Iterator[Outline]:
    return (each for each in outlines if each.run_id in run_ids)


def _outdated(keep: int | None, before: datetime | None, outlines: Sequence[Outline]) -> Iterator[Outline]:
    """The checkpoints to delete, those of subgraphs first."""
    by_place = {_place(each): each for each in outlines}
    namespaces = [list(group) for _, group in groupby(outlines, attrgetter("namespace"))]
    kept: set[tuple[str, str]] = set()
    for newest, *others in namespaces:
        for each in (newest, *_recent(others, keep, before)):
            kept.update(map(_place, _with_ancestors(each, by_place)))
    for of_namespace in sorted(namespaces, key=lambda each: not each[0].namespace):
        # A namespace with a task in its name is of one call, and goes with the checkpoint of the root graph
        # that it started from. A call may be stored before that one.
        root = ("", of_namespace[0].root_id or "")
        is_over = ":" in of_namespace[0].namespace and root in by_place and root not in kept
        yield from (each for each in of_namespace if is_over or _place(each) not in kept)


def _recent(others: Sequence[Outline], keep: int | None, before: datetime | None) -> Iterator[Outline]:
    """Those that are kept beside the newest."""
    for each in others if keep is None else others[: keep - 1]:
        if before is None or each.created_at >= before:
            yield each


def _with_ancestors(outline: Outline, by_place: Mapping[tuple[str, str], Outline]) -> Iterator[Outline]:
    """A checkpoint, and its ancestors up to those that have the values of its delta channels."""
    missing = set(outline.delta_channels)
    ancestor: Outline | None = outline
    while ancestor is not None:
        yield ancestor
        missing.difference_update(ancestor.versions)
        ancestor = by_place.get((ancestor.namespace, ancestor.parent_id or "")) if missing else None


def _place(outline: Outline) -> tuple[str, str]:
    return outline.namespace, outline.id


def _places(session_id: str, places: Iterable[tuple[str, str]]) -> dict[str, Any]:
    namespaces, checkpoint_ids = map(list, zip(*places, strict=True))
    return {"session_id": session_id, "namespaces": namespaces, "checkpoint_ids": checkpoint_ids}


def _blobs(outlines: Iterable[Outline]) -> Iterator[tuple[str, str, str]]:
    for each in outlines:
        for channel, version in each.versions.items():
            yield each.namespace, channel, version


def _outlines(rows: Rows) -> list[Outline]:
    return [
        Outline(namespace, id, parent_id, root_id, run_id, load(versions), load(delta or "[]"), created_at)
        for namespace, id, parent_id, root_id, run_id, versions, delta, created_at in rows
    ]


def _ids(rows: Rows) -> list[str]:
    return [id for (id,) in rows]
