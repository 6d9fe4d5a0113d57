"""Any session is equal after export and import, through JSON and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.export_files import jsonl
from asm.models import new_id
from tests.conftest import an_artifact
from tests.property.strategies import documents, times, values

Conversion = Callable[[asm.SessionExport], asm.SessionExport]


def through_json(export: asm.SessionExport) -> asm.SessionExport:
    return asm.SessionExport.from_dict(json.loads(json.dumps(export.to_dict())))


def through_lines(export: asm.SessionExport) -> asm.SessionExport:
    (loaded,) = jsonl.load(jsonl.dump([export]))
    return loaded


def exports() -> st.SearchStrategy[asm.SessionExport]:
    """Exports of sessions with new ids, some with pruned events."""
    return st.builds(
        _build,
        st.builds(
            asm.Session,
            agent_id=st.just("agent"),
            status=st.sampled_from(asm.SessionStatus),
            tags=st.lists(st.sampled_from(["a", "é", '"', "\\", "{,}"])),
            metadata=documents(),
            context=documents(),
            created_at=times(),
            deleted_at=st.none() | times(),
        ),
        st.lists(_runs(), max_size=2),
        st.lists(st.tuples(documents(), times(), st.integers(1, 3)), max_size=4),
        st.lists(documents(), max_size=2),
        st.integers(0, 2),
    )


def _runs() -> st.SearchStrategy[asm.Run]:
    return st.builds(
        asm.Run, session_id=st.just("ses_1"), input=values(), output=values(), started_at=times()
    )


def _build(
    session: asm.Session, runs: list[asm.Run], drafts: list[Any], artifacts: list[Any], more: int
) -> asm.SessionExport:
    session = replace(session, id=new_id("ses_"))
    numbers = accumulate(step for _, _, step in drafts)
    events = [
        asm.Event(
            type="acme.event", session_id=session.id, sequence_number=number, data=data, timestamp=timestamp
        )
        for number, (data, timestamp, _) in zip(numbers, drafts, strict=True)
    ]
    last = (events[-1].sequence_number or 0) + more if events else more
    return asm.SessionExport(
        session=session,
        runs=sorted(
            (replace(run, session_id=session.id, id=new_id("run_")) for run in runs),
            key=lambda run: (run.started_at, run.id),
        ),
        events=events,
        artifacts=[an_artifact(new_id("key_"), session_id=session.id, metadata=each) for each in artifacts],
        last_sequence=last,
        pruned_events=last - len(events),
    )


@pytest.fixture
def target(opened: Callable[..., Any], other: str) -> Any:
    return opened(other)


@pytest.mark.parametrize("convert", [through_json, through_lines])
def test_an_exported_and_imported_session_is_equal(store: Any, target: Any, convert: Conversion) -> None:
    @given(exports())
    def check(export: asm.SessionExport) -> None:
        store.import_session(export)
        first = store.query.export_session(export.session.id, include_artifacts=True)
        target.import_session(convert(first))
        second = target.query.export_session(export.session.id, include_artifacts=True)

        assert exact(first) == exact(export)
        assert exact(second) == exact(export)

    check()


def exact(export: asm.SessionExport) -> str:
    """A text that differs for 1, 1.0 and True, and for different orders of keys."""
    return repr(export.to_dict())
