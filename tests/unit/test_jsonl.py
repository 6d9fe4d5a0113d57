"""Exports as JSON Lines: written exports are read again, and an error names its line."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.export_files import jsonl
from asm.export_files.exported import ExportedSession
from asm.formats import registry
from asm.operations.imports import batches_of
from asm.shown import UNSAFE

DEEP: dict[str, Any] = {}
for _ in range(499):
    DEEP = {"x": DEEP}


def an_export(id: str = "ses_1", *, last_sequence: int = 9) -> asm.SessionExport:
    return asm.SessionExport(
        session=asm.Session(id=id, agent_id="é", tags=("a",), metadata={"n": 10**4_000, "half": "\ud800"}),
        runs=[asm.Run(session_id=id, input="\udc00", output=2**70, error=[1.0], cost_usd=0.1)],
        events=[
            asm.Event(type="message_sent", session_id=id, sequence_number=3, data=DEEP),
            asm.Event(type="acme.odd", session_id=id, sequence_number=8, metadata={"s": "\0\x1b\u2028"}),
        ],
        artifacts=[
            asm.Artifact(
                key="k",
                session_id=id,
                byte_size=2**52,
                checksum_sha256="0",
                storage_backend="s3",
                storage_ref="s3://b/k",
            )
        ],
        last_sequence=last_sequence,
        pruned_events=7,
    )


def dump(*exports: asm.SessionExport) -> list[bytes]:
    return list(jsonl.dump(exports))


def read(content: list[bytes]) -> list[asm.SessionExport]:
    return list(jsonl.load(content))


def test_written_exports_are_read_again() -> None:
    exports = [an_export("ses_1"), an_export("ses_2")]
    assert read(dump(*exports)) == exports


def test_an_export_may_have_no_sessions() -> None:
    assert read(dump()) == []


def test_an_empty_file_is_not_an_export() -> None:
    with pytest.raises(asm.ValidationError, match="line 1: expected the header of an export"):
        read([])


def test_the_first_key_of_each_line_says_what_it_is() -> None:
    kinds = [next(iter(values)) for values in map(json_of, dump(an_export()))]
    assert kinds == ["format", "session", "run", "event", "event", "artifact", "end"]


def json_of(line: bytes) -> Any:
    return json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < 20 else 0)


def test_one_export_may_follow_another() -> None:
    first, second = an_export("ses_1"), an_export("ses_2")
    assert read(dump(first) + dump(second)) == [first, second]


def test_a_line_with_other_whitespace_is_read() -> None:
    spaced = [json.dumps(json_of(line), indent=None, separators=(" , ", " : ")).encode() for line in HEADED]
    assert read(spaced) == [asm.SessionExport(session=SESSION)]


SESSION = asm.Session(agent_id="a", metadata={"n": 1})
HEADED = list(jsonl.dump([asm.SessionExport(session=SESSION)]))


@pytest.mark.parametrize("number", range(1, 7))
def test_truncation_between_lines_is_detected(number: int) -> None:
    with pytest.raises(asm.ValidationError, match=f"^line {number + 1}: .* is truncated") as caught:
        read(dump(an_export())[:number])
    assert caught.value.details["line"] == number + 1


@pytest.mark.parametrize("number", range(1, 8))
def test_truncation_within_a_line_is_detected(number: int) -> None:
    *whole, last = dump(an_export())[:number]
    with pytest.raises(asm.ValidationError, match=f"^line {number}: not JSON"):
        read([*whole, last[:-9]])


@pytest.mark.parametrize("number", range(2, 7))
def test_a_missing_line_is_detected(number: int) -> None:
    content = dump(an_export())
    with pytest.raises(asm.ValidationError, match=r"^line \d: expected "):
        read(content[: number - 1] + content[number:])


def test_an_end_with_another_number_of_sessions_is_detected() -> None:
    content = dump(an_export("ses_1"), an_export("ses_2"))
    with pytest.raises(asm.ValidationError, match=r"^line 7: the end does not count the 1 sessions"):
        read(content[:6] + content[-1:])


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (b"remember the milk\n", "not JSON at column 1"),
        (b"[1, 2]\n", "expected a JSON object, not list"),
        (b"{}\n", "expected `event`, not ``"),
        (b'{"run": {}}\n', "expected `event`, not `run`"),
        (b'{"event": 3}\n', "Event.from_dict takes a dict, not int"),
        (b'{"event": {"odd": 3}}\n', "Event has no field 'odd'"),
        (b'{"event": {"type": "message_sent"}}\n', "session_id"),
        (b'{"event": {"type": "x", "session_id": "s"}}\n', "'x' is not an event type"),
        (b'{"event": {"type": "a.b", "session_id": "s", "data": {"x": [NaN]}}}\n', "NaN"),
        (
            b'{"event": {"type": "a.b", "session_id": "s", "data": {"x": [1e999]}}}\n',
            "the number 1e999 is inf",
        ),
        (
            b'{"event": {"type": "a.b", "session_id": "s", "sequence_number": -1}}\n',
            "sequence_number must be",
        ),
        (b'\xff{"event": {}}\n', "not UTF-8 at byte 1"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"event": {"data": {"n": ' + b"1" * 4_301 + b"}}}\n", "4,301 digits"),
        (b'{"event": {"data": {"n": -' + b"1" * 1_000_000 + b"}}}\n", "1,000,000 digits"),
    ],
)
def test_an_error_names_the_line(garbage: bytes, message: str) -> None:
    content = dump(an_export())
    content[3] = garbage
    with pytest.raises(asm.ValidationError, match=f"^line 4: .*{message}"):
        read(content)


def test_blank_lines_are_ignored_and_counted() -> None:
    content = [b"\r\n", *dump(an_export()), b"\n", b" \t\n"]
    assert len(read(content)) == 1
    content[4:4] = [b"\n", b"remember the milk\n"]
    with pytest.raises(asm.ValidationError, match=r"^line 6: not JSON"):
        read(content)


@pytest.mark.parametrize(("line", "kind"), [(3, "run"), (4, "event"), (6, "artifact")])
def test_a_row_of_another_session_is_reported_with_its_line(line: int, kind: str) -> None:
    content = dump(an_export("ses_1"))
    content[line - 1] = dump(an_export("ses_2"))[line - 1]
    message = f"^line {line}: the {kind} belongs to session 'ses_2', not to 'ses_1'"
    with pytest.raises(asm.ValidationError, match=message):
        read(content)


@pytest.mark.parametrize("counter", [(2**52, 0), (8, 7), (9, 6), (10, 7), (2**53 - 1, 7), (0, 0)])
def test_a_session_whose_numbers_do_not_add_up_is_refused_at_its_line(counter: tuple[int, int]) -> None:
    content = dump(an_export())
    last, pruned = counter
    content[1] = content[1].replace(
        b'"last_sequence":9,"pruned_events":7', b'"last_sequence":%d,"pruned_events":%d' % (last, pruned)
    )
    with pytest.raises(asm.ValidationError, match=r"^line 2: the export does not add up: 2 events"):
        # The lines after it are not read.
        read(content[:2])


@pytest.mark.parametrize(
    ("first", "second", "line"), [(0, 8, 4), (8, 8, 5), (9, 8, 5), (3, 10, 5), (None, 8, 4), (3, 2**60, 5)]
)
def test_an_event_with_an_impossible_number_is_refused_at_its_line(
    first: int | None, second: int, line: int
) -> None:
    content = dump(an_export())
    for index, number in ((3, first), (4, second)):
        text = content[index].decode()
        content[index] = re.sub(
            r'"sequence_number":\d+', f'"sequence_number":{json.dumps(number)}', text
        ).encode()
    with pytest.raises(asm.ValidationError, match=rf"^line {line}: .*sequence.number"):
        read(content)


@pytest.mark.parametrize("field", ["last_sequence", "pruned_events", "runs", "events", "artifacts"])
def test_a_session_line_without_a_count_is_refused(field: str) -> None:
    content = dump(an_export())
    content[1] = content[1].replace(f'"{field}":'.encode(), b'"other":')
    with pytest.raises(asm.ValidationError, match=f"^line 2: {field} must be a whole number"):
        read(content)


def test_an_export_of_a_newer_version_is_refused() -> None:
    content = dump(an_export())
    content[0] = b'{"format": "asm-export", "version": 2}\n'
    with pytest.raises(asm.ValidationError, match=r"^line 1: the export has version 2, but .* version 1"):
        read(content)


@pytest.mark.parametrize("header", [b'{"format": "asm-export"}', b'{"format": "other", "version": 1}', b"{}"])
def test_an_invalid_header_is_refused(header: bytes) -> None:
    with pytest.raises(
        asm.ValidationError,
        match=r"^line 1: expected the header .*: give a file .* by its path",
    ):
        read([header])


# What a terminal obeys, and what takes no room.

UNSEEN = "".join(map(chr, [0x7F, *range(0x80, 0xA0), 0xAD, 0x200B, 0x200D, 0x2028, 0x202E, 0x2066, 0x3164]))
TAGS = "".join(chr(0xE0000 + ord(letter)) for letter in "delete all")


def test_an_export_has_no_character_that_a_terminal_obeys_or_that_is_not_seen() -> None:
    said = f"é 中 🎉 \x1b]0;x\x07 {UNSEEN} {TAGS} \ufeff"
    event = asm.Event(
        type="message_sent",
        session_id=said,
        sequence_number=1,
        data={said: [said]},
        metadata={"half": "\ud800"},
    )
    export = asm.SessionExport(session=asm.Session(agent_id=said, id=said), events=[event])
    lines = dump(export)
    text = b"".join(lines).decode()
    assert UNSAFE.findall(text.replace("\n", "")) == []
    assert all(each in text for each in ("é 中 🎉", r"\u007f", r"\u009b", r"\u202e", r"\udb40\udc64"))
    assert read(lines) == [export]


# Sizes.


def test_an_export_is_read_in_the_memory_of_a_few_rows() -> None:
    small, large = (peak_of_importing(lines_of_a_session(events), events) for events in (2_000, 8_000))
    assert large < 1.5 * small


def lines_of_a_session(events: int) -> Iterator[bytes]:
    export = asm.SessionExport(session=SESSION)
    header, session, end = dump(export)
    event = {"event": asm.Event(type="message_sent", session_id=SESSION.id, data={"s": "x" * 100}).to_dict()}
    yield header
    yield session.replace(b'"last_sequence":0', b'"last_sequence":%d' % events).replace(
        b'"events":0', b'"events":%d' % events
    )
    for number in range(1, events + 1):
        event["event"] |= {"id": f"evt_{number}", "sequence_number": number}
        yield json.dumps(event).encode()
    yield end


def peak_of_importing(lines: Iterable[bytes], events: int) -> int:
    """The memory in use at most while a session is read and prepared for its import."""
    tracemalloc.start()
    try:
        for session in jsonl.iterate_lines(lines):
            batches = batches_of(session.session, session.rows, session.counter)
            assert sum(len(batch.events) for batch in batches) == events
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Files.


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[..., Path]:
    def write(content: bytes, name: str = "store.jsonl") -> Path:
        file = tmp_path / name
        file.write_bytes(content)
        return file

    return write


def test_an_export_is_recognised_by_its_first_line_whatever_its_name(new_file: Callable[..., Path]) -> None:
    file = new_file(b"".join(dump(an_export())), "trajectory.traj")
    assert whole(file) == [only_export(file)]


def whole(file: Path) -> list[asm.SessionExport]:
    return [each.whole() for each in registry.read(file) if isinstance(each, ExportedSession)]


def only_export(file: Path) -> asm.SessionExport:
    (export,) = jsonl.load(file.read_bytes().splitlines(keepends=True))
    return export


def test_a_compressed_file_is_read(new_file: Callable[..., Path]) -> None:
    export = an_export()
    assert whole(new_file(gzip.compress(b"".join(dump(export))))) == [export]


def test_a_truncated_compressed_file_is_reported_with_its_line(new_file: Callable[..., Path]) -> None:
    file = new_file(gzip.compress(b"".join(dump(an_export())))[:-12])
    with pytest.raises(asm.ValidationError, match=rf"{file}: line \d: the compressed file is truncated"):
        list(registry.read(file))


def test_a_compressed_file_with_other_contents_is_not_an_export(new_file: Callable[..., Path]) -> None:
    with pytest.raises(asm.ValidationError, match="unknown file format"):
        list(registry.read(new_file(gzip.compress(b"remember the milk"))))
