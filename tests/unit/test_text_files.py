"""Text files as other programs write them: every reader takes them."""

from __future__ import annotations

import codecs
import gzip
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import asm
from asm import documents
from asm.export_files import jsonl, text
from asm.export_files.exported import ExportedSession
from asm.formats import registry, swe_agent
from asm.formats.base import Transcript
from asm.validation import REFERENCE_LENGTH_MAX, TAGS_MAX, TEXT_LENGTH_MAX

SMALL = Path(__file__).parents[1] / "data" / "small.traj"
EXPORT = b"".join(
    jsonl.dump([asm.SessionExport(session=asm.Session(id="ses_1", agent_id="é", metadata={"s": "ü\u2028"}))])
)

SAMPLES = {"asm export": EXPORT, "SWE-agent trajectory": SMALL.read_bytes()}

VARIANTS: dict[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda text: codecs.BOM_UTF8 + text,
    "blank lines before it": lambda text: b"\n\r\n" + text,
    "blank lines after it": lambda text: text.rstrip() + b"\n\n \r\n",
    "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "no line end at the end": bytes.rstrip,
    "compressed": gzip.compress,
    "compressed with a byte order mark": lambda text: gzip.compress(codecs.BOM_UTF8 + text),
    "compressed in two parts": lambda text: gzip.compress(text[:40]) + gzip.compress(text[40:]),
}


def written(tmp_path: Path, content: bytes, name: str = "sample.traj") -> Path:
    file = tmp_path / name
    file.write_bytes(content)
    # A trajectory gets the time of its file.
    os.utime(file, (0, 0))
    return file


def contents(file: Path) -> list[Transcript | asm.SessionExport]:
    return [each.whole() if isinstance(each, ExportedSession) else each for each in registry.read(file)]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_a_file_is_read_however_it_was_written(
    tmp_path: Path, sample: bytes, variant: Callable[[bytes], bytes]
) -> None:
    expected = contents(written(tmp_path, sample))
    assert contents(written(tmp_path, variant(sample))) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_another_encoding_is_refused_by_its_name(tmp_path: Path, sample: bytes, encoding: str) -> None:
    file = written(tmp_path, sample.decode().encode(encoding))
    with pytest.raises(asm.ValidationError, match=rf"{file}: .*the text is UTF-16: convert .* `iconv"):
        list(registry.read(file))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_a_compressed_file_that_is_damaged_is_reported(tmp_path: Path, sample: bytes) -> None:
    file = written(tmp_path, gzip.compress(sample)[:-12])
    with pytest.raises(asm.ValidationError, match=rf"{file}: .*the compressed file is truncated or damaged"):
        list(registry.read(file))


def test_exports_that_were_joined_are_read_with_their_byte_order_marks(tmp_path: Path) -> None:
    file = written(tmp_path, (codecs.BOM_UTF8 + EXPORT + b"\n") * 2)
    assert len(contents(file)) == 2


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"remember the milk", "unknown file format; asm reads asm export, Claude Code, Codex, Gemini CLI, "),
        (b"\x1f\x8b", "unknown file format"),
        (b"SQLite format 3\0", "a SQLite database, and `asm copy` copies stores"),
    ],
)
def test_a_file_of_no_known_format_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    with pytest.raises(asm.ValidationError, match=fault):
        list(registry.read(written(tmp_path, content, "notes.txt")))


def test_what_a_folder_holds_that_is_not_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    read = written(tmp_path, EXPORT, "a.jsonl")
    for name, content in {
        "notes": b"hi",
        "empty": b"",
        "x.db": b"SQLite format 3\0",
        ".b.new": EXPORT,
    }.items():
        written(tmp_path, content, name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "up").symlink_to(tmp_path)
    written(tmp_path, EXPORT, "own.jsonl")

    found = registry.read_folder(tmp_path, excluded=lambda file: "mine" if file.name == "own.jsonl" else None)

    assert (list(found.files), found.failures) == ([read], [])
    assert {file.name: reason for file, reason in found.skipped} == {
        ".b.new": "an unfinished export",
        "broken": "a broken symbolic link",
        "empty": "the file is empty",
        "notes": "unknown file format",
        "own.jsonl": "mine",
        "pipe": "not a regular file",
        "up": "a symbolic link to a folder",
        "x.db": "a SQLite database, and `asm copy` copies stores",
    }


# Files that are made to exhaust the memory.


def zeros(file: Path, size: int) -> None:
    """A file that takes no room on the disk."""
    with file.open("wb") as opened:
        opened.truncate(size)


def compressed_zeros(file: Path, size: int) -> None:
    with gzip.open(file, "wb") as opened:
        for _ in range(size // len(PIECE)):
            opened.write(PIECE)


def export_with_a_long_line(file: Path, size: int) -> None:
    with gzip.open(file, "wb") as opened:
        opened.write(EXPORT.partition(b"\n")[0] + b'\n{"session": "')
        for _ in range(size // len(PIECE)):
            opened.write(PIECE.replace(b"\0", b"a"))


def export_with_blanks(file: Path, size: int) -> None:
    with gzip.open(file, "wb") as opened:
        opened.write(EXPORT.partition(b"\n")[0] + b"\n")
        for _ in range(size // len(PIECE)):
            opened.write(PIECE.replace(b"\0", b" "))


def long_trajectory(file: Path, size: int) -> None:
    with file.open("wb") as opened:
        opened.write(b'{"trajectory": [')
        opened.truncate(size)


PIECE = bytes(1024 * 1024)
BOMBS: dict[str, tuple[str, Callable[[Path, int], None], str]] = {
    "zeros": ("a.jsonl", zeros, "unknown file format"),
    "compressed zeros": ("a.jsonl.gz", compressed_zeros, "unknown file format"),
    "an export with a long line": ("a.jsonl.gz", export_with_a_long_line, r"line 2: the line is longer than"),
    "an export with a line of blanks": ("a.jsonl.gz", export_with_blanks, r"line 2: the line is longer than"),
    "a trajectory of zeros": ("a.traj", zeros, "the file has more than 2,097,152 bytes"),
    "a compressed trajectory": ("a.traj.gz", compressed_zeros, "the file has more than 2,097,152 bytes"),
    "a long trajectory": ("a.traj", long_trajectory, "the file has more than 2,097,152 bytes"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_takes_no_more_memory_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    name, write, message = BOMBS[bomb]
    limit = 2 * len(PIECE)
    for name_of_limit in ("LINE_LENGTH_MAX", "LINE_SIZE_MAX", "FILE_SIZE_MAX"):
        monkeypatch.setattr(text, name_of_limit, limit)
    write(tmp_path / name, 32 * len(PIECE))
    tracemalloc.start()
    try:
        with pytest.raises(asm.ValidationError, match=f"^{tmp_path / name}: {message}"):
            contents(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 3 * limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "is_too_long"),
    [
        (b"a" * 100, False),
        (b"a" * 101, True),
        ("é".encode() * 100, False),
        ("é".encode() * 101, True),
        (rb"\u00e9" * 60, False),
        (rb"\u00e9" * 101, True),
        ("🎉".encode() * 101, True),
    ],
)
def test_the_length_of_a_line_is_that_of_its_characters(
    monkeypatch: pytest.MonkeyPatch, line: bytes, is_too_long: bool
) -> None:
    monkeypatch.setattr(text, "LINE_LENGTH_MAX", 100)
    monkeypatch.setattr(text, "LINE_SIZE_MAX", 400)
    assert text.is_too_long(line) == is_too_long


def test_the_line_of_the_largest_row_is_not_too_long() -> None:
    # An escape of two units counts as two characters.
    other_columns = 2 * (TEXT_LENGTH_MAX * (TAGS_MAX + 20) + REFERENCE_LENGTH_MAX)
    assert documents.ROW_LENGTH_MAX + other_columns < text.LINE_LENGTH_MAX
    assert text.LINE_SIZE_MAX == 4 * text.LINE_LENGTH_MAX


def test_a_line_that_escapes_would_make_too_long_is_written_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export = asm.SessionExport(session=asm.Session(agent_id="a", metadata={"s": "\x7f" * 2_000}))
    monkeypatch.setattr(text, "LINE_LENGTH_MAX", 2_500)
    monkeypatch.setattr(text, "LINE_SIZE_MAX", 10_000)
    lines = list(jsonl.dump([export]))
    assert b"\x7f" in lines[1]
    assert list(jsonl.load(lines)) == [export]


def test_a_file_for_which_the_memory_is_too_small_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(documents, "parse", exhaust)
    for name, content, place in (("a.jsonl", EXPORT, "line 1: "), ("a.traj", SMALL.read_bytes(), "")):
        file = written(tmp_path, content, name)
        with pytest.raises(asm.ValidationError, match=f"^{file}: {place}there is not enough memory"):
            contents(file)


# Files of a special kind.


@pytest.mark.parametrize("name", ["a.jsonl", "a.traj"])
def test_a_device_or_a_socket_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(asm.ValidationError, match=f"^{tmp_path / name}: it is a device"):
        contents(tmp_path / name)
    (tmp_path / name).unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / name))
        with pytest.raises(asm.ValidationError, match=f"^{tmp_path / name}: it is a socket"):
            contents(tmp_path / name)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.traj")
    with pytest.raises(OSError, match="it is a named pipe"):
        swe_agent.read(tmp_path / "a.traj")
