"""Text files as other programs write them, of which nothing is believed.

They may be compressed with gzip, begin with a byte order mark, have line ends of Windows, blank lines, or no
line end after the last line. What they contain decides, and not their name.

A file may also be made to exhaust the memory: a few megabytes of gzip are gigabytes of text. So sizes are
limited while the text is read, and compressed text is decompressed in pieces.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

from asm import documents, files
from asm.documents import ROW_LENGTH_MAX
from asm.errors import ValidationError

Binary: TypeAlias = BufferedReader | gzip.GzipFile

LINE_LENGTH_MAX = ROW_LENGTH_MAX + 4 * 1024 * 1024
"""Characters of a line: of a row with the longest documents, and its other columns."""

LINE_SIZE_MAX = 4 * LINE_LENGTH_MAX
"""Bytes of a line. A character of UTF-8 has up to four."""

FILE_SIZE_MAX = ROW_LENGTH_MAX
"""Bytes of a file that is one JSON document, also when it is decompressed."""

_PIECE_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Bytes that end compressed data too early, or are not that.
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


# Reading.


def read_head(path: Path, size_bytes: int) -> bytes:
    """The first text of a file as UTF-8, without a byte order mark and white space before it."""
    with files.reading(path, follow_links=True) as file:
        head = file.read(size_bytes)
    if head.startswith(_GZIP):
        head = _decompressed(head, size_bytes)
    if _is_utf_16(head):
        # The format is recognised, so that its reader can refuse the encoding.
        encoding = "utf-16-be" if head[0] in (0, codecs.BOM_UTF16_BE[0]) else "utf-16-le"
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    return head.removeprefix(codecs.BOM_UTF8).lstrip()


def is_compressed(path: Path) -> bool:
    with files.reading(path, follow_links=True) as file:
        return file.read(len(_GZIP)) == _GZIP


def read_bytes(path: Path) -> bytes:
    """The contents of a file as UTF-8 without a byte order mark."""
    with files.reading(path, follow_links=True) as file:
        if not file.peek(len(_GZIP)).startswith(_GZIP):
            return _as_utf_8(_read_all(file))
        with gzip.open(file) as uncompressed:
            try:
                return _as_utf_8(_read_all(uncompressed))
            except _DAMAGE as error:
                raise _damaged(error) from error


def read_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines of an open file or a pipe as UTF-8, compressed or not."""
    if file.peek(len(_GZIP)).startswith(_GZIP):
        with gzip.open(file) as uncompressed:
            yield from clean_lines(_undamaged(raw_lines(uncompressed)))
    else:
        yield from clean_lines(raw_lines(file))


def clean_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines as UTF-8 without white space around them. A blank line is empty.

    Any line may begin with a byte order mark, because files are joined by `cat`.
    """
    return map(clean_line, lines)


def clean_line(line: bytes) -> bytes:
    return _as_utf_8(line).strip()


def parse_json(text: bytes) -> Any:
    """The value of a JSON text."""
    if is_too_long(text):
        raise _too_long()
    try:
        return documents.parse(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if b"\n" in text else ""
        raise ValidationError(f"not JSON at {line}column {error.colno:,}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"not UTF-8 at byte {error.start + 1:,}: {error.reason}") from error
    except RecursionError as error:
        raise too_deep() from error


def too_deep() -> ValidationError:
    return ValidationError("the document is nested too deeply for Python's JSON parser")


def is_too_long(line: bytes) -> bool:
    """Whether a line has more characters than one with the largest row. An escape counts as one."""
    if len(line) <= LINE_LENGTH_MAX:
        return False
    length = len(line.decode(errors="ignore")) - len(r"u0000") * line.count(rb"\u")
    return len(line) > LINE_SIZE_MAX or length > LINE_LENGTH_MAX


# Sizes.


def _read_all(file: Binary) -> bytes:
    # Joined at the end, so that a text that is too long has not been copied.
    pieces, size_bytes = [], 0
    while piece := file.read(_PIECE_BYTES):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > FILE_SIZE_MAX:
            raise ValidationError(
                f"the file has more than {FILE_SIZE_MAX:,} bytes of text, the maximum of a file that is one "
                "JSON document"
            )
    return b"".join(pieces)


def raw_lines(file: Binary) -> Iterator[bytes]:
    """The lines of an open file with their line ends, as they are. A line that is too long is refused."""
    while line := file.readline(_PIECE_BYTES):
        yield line if len(line) < _PIECE_BYTES else _whole_line(line, file)


def _whole_line(start: bytes, file: Binary) -> bytes:
    pieces, size_bytes = [start], len(start)
    while not pieces[-1].endswith(b"\n") and (piece := file.readline(_PIECE_BYTES)):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > LINE_SIZE_MAX:
            raise _too_long()
    return b"".join(pieces)


def _too_long() -> ValidationError:
    return ValidationError(
        f"the line is longer than {LINE_LENGTH_MAX:,} characters, and no row of a store is as long"
    )


# Encodings and compression.


def _decompressed(head: bytes, size_bytes_max: int) -> bytes:
    """The first text of compressed data, or the data itself if it is damaged."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        text = decompressor.decompress(head, size_bytes_max)
    except zlib.error:
        return head
    return text if text or decompressor.eof else head


def _as_utf_8(text: bytes) -> bytes:
    # Most lines begin with the two characters that no other encoding has as their first bytes.
    if text.startswith(b'{"'):
        return text
    if _is_utf_16(text):
        raise ValidationError("the text is UTF-16: convert the file with `iconv -f UTF-16 -t UTF-8`")
    return text.removeprefix(codecs.BOM_UTF8)


def _is_utf_16(text: bytes) -> bool:
    # Without a byte order mark it is recognised by the NUL beside its first character, which is ASCII.
    return text.startswith(_UTF_16) or (len(text) > 1 and (text[0] == 0) != (text[1] == 0))


def _undamaged(lines: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from lines
    except _DAMAGE as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ValidationError:
    return ValidationError(f"the compressed file is truncated or damaged: {error}")
