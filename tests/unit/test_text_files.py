"""Text files as other programs write them: every reader takes them."""

from __future__ import annotations

import codecs
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import asm
from asm.formats import jsonl, registry

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


def test_every_reader_has_a_sample() -> None:
    assert set(SAMPLES) == {reader.name for reader in registry.READERS}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_a_file_is_read_however_it_was_written(
    tmp_path: Path, sample: bytes, variant: Callable[[bytes], bytes]
) -> None:
    expected = list(registry.read(written(tmp_path, sample)))
    assert list(registry.read(written(tmp_path, variant(sample)))) == expected


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
    assert len(list(registry.read(file))) == 2


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"remember the milk", "unknown file format; asm reads asm export and SWE-agent"),
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

    assert (found.files, found.failures) == ([read], [])
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
