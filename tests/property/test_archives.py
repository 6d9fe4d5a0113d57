"""What was archived remains, whatever a session becomes afterwards and whatever is done to its file."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.export_files import archives, jsonl
from tests.contract.planted_files import names_in

TIMES = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
Archived = dict[str, asm.SessionExport]


@dataclass
class Life:
    """A session that an agent writes, deletes and stores again, with few ids, so that they are used again."""

    session: asm.Session = field(default_factory=lambda: a_session(0))
    events: list[asm.Event] = field(default_factory=list)
    runs: dict[str, asm.Run] = field(default_factory=dict)
    last_sequence: int = 0

    def append(self, id: int, data: int) -> None:
        if all(event.id != f"evt_{id}" for event in self.events):
            self.last_sequence += 1
            self.events.append(an_event(id, data, self.last_sequence))

    def prune(self, number: int, _: int) -> None:
        del self.events[:number]

    def begin_again(self, created_at: int, _: int) -> None:
        self.session, self.events, self.runs, self.last_sequence = a_session(created_at), [], {}, 0

    def save_run(self, id: int, state: int) -> None:
        run = asm.Run(id=f"run_{id}", session_id="ses_1", started_at=TIMES[0], metadata={"state": state})
        self.runs[run.id] = [run, run.set_output("a"), run.set_output("b")][state % 3]

    def export(self) -> asm.SessionExport:
        return asm.SessionExport(
            session=self.session,
            runs=sorted(self.runs.values(), key=lambda run: run.id),
            events=list(self.events),
            last_sequence=self.last_sequence,
            pruned_events=self.last_sequence - len(self.events),
        )


def a_session(created_at: int) -> asm.Session:
    at = TIMES[created_at % 2]
    return asm.Session(id="ses_1", agent_id="agent", created_at=at, updated_at=at)


def an_event(id: int, data: int, number: int) -> asm.Event:
    return asm.Event(
        id=f"evt_{id}",
        type="message_sent",
        session_id="ses_1",
        timestamp=TIMES[0],
        data={"n": data},
        sequence_number=number,
    )


def archived_in(folder: Path) -> Archived:
    return {file.name: archives.read(file) for file in folder.iterdir()}


def recorded(export: asm.SessionExport) -> dict[str, tuple[Any, Any]]:
    return {run.id: (run.status, run.output) for run in export.runs if run.status.is_terminal}


def remains(before: asm.SessionExport, after: asm.SessionExport) -> bool:
    """Whether all that is evidence of one archive is in another."""
    return (
        all(event in after.events for event in before.events)
        and recorded(before).items() <= recorded(after).items()
    )


ACTIONS = st.sampled_from(
    [Life.append, Life.append, Life.append, Life.prune, Life.begin_again, Life.save_run]
)
STEPS = st.lists(st.tuples(ACTIONS, st.integers(0, 4), st.integers(0, 2)), max_size=6)


@given(st.lists(STEPS, min_size=2, max_size=6))
def test_what_was_archived_remains_and_every_export_is_in_a_file(rounds: list[Any]) -> None:
    life, before = Life(), Archived()
    with TemporaryDirectory() as folder:
        for steps in rounds:
            for act, one, other in steps:
                act(life, one, other)
            archives.archive_session(Path(folder), export := life.export())
            after = archived_in(Path(folder))
            assert all(remains(archived, after[name]) for name, archived in before.items())
            assert any(remains(export, each) and each.session == export.session for each in after.values())
            before = after


WHOLE = asm.SessionExport(
    session=a_session(0),
    runs=[asm.Run(id="run_1", session_id="ses_1", started_at=TIMES[0]).set_output("a")],
    events=[an_event(number, number, number) for number in (1, 2, 3)],
)
LATER = replace(WHOLE, events=[*WHOLE.events, an_event(4, 4, 4)], last_sequence=4)
LINES = list(jsonl.dump([WHOLE]))


def damaged_lines(data: st.DataObject) -> bytes:
    """An archive with a line that is missing, repeated, moved or changed."""
    lines = list(LINES)
    line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
    changed = line.replace(*data.draw(st.sampled_from(REPLACED)))
    for _ in range(data.draw(st.integers(0, 2))):
        lines.insert(data.draw(st.integers(0, len(lines))), changed)
    return gzip.compress(b"".join(lines))


REPLACED = [
    (b"", b""),
    (b"1", b"2"),
    (b"3", b"99999999999999999999"),
    (b'"', b""),
    (b":", b":["),
    (b"a", b"\xff"),
]


def damaged_bytes(data: st.DataObject) -> bytes:
    """An archive that is truncated, or has another byte somewhere."""
    content = bytearray(gzip.compress(b"".join(LINES)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    return bytes(content[: data.draw(st.integers(place, len(content)))])


@pytest.mark.parametrize("damaged", [damaged_lines, damaged_bytes])
def test_a_damaged_archive_is_kept_and_is_an_error_unless_it_is_an_archive(damaged: Any) -> None:
    @given(st.data())
    def check(data: st.DataObject) -> None:
        content = damaged(data)
        with TemporaryDirectory() as folder:
            (file := Path(folder, "ses_1.jsonl.gz")).write_bytes(content)
            try:
                archived = archives.read(file)
            except asm.StorageError:
                with pytest.raises(asm.StorageError, match="is not an archive of one session"):
                    archives.archive_session(Path(folder), LATER)
                assert (file.read_bytes(), names_in(Path(folder))) == (content, {file.name})
            else:
                archives.archive_session(Path(folder), LATER)
                assert remains(archived, archives.read(file))

    check()
