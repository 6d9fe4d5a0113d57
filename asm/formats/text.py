"""Text files as other programs write them.

They may be compressed with gzip, begin with a byte order mark, have line ends of Windows, blank lines, or no
line end after the last line. What they contain decides, and not their name.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from asm.errors import ValidationError

_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Bytes that end compressed data too early, or are not that.
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


def read_head(path: Path, size_bytes: int) -> bytes:
    """The first text of a file as UTF-8, without a byte order mark and white space before it."""
    with path.open("rb") as file:
        head = file.read(size_bytes)
    if head.startswith(_GZIP):
        head = _decompressed(head, size_bytes)
    if _is_utf_16(head):
        # The format is recognised, so that its reader can refuse the encoding.
        encoding = "utf-16-be" if head[0] in (0, codecs.BOM_UTF16_BE[0]) else "utf-16-le"
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    return head.removeprefix(codecs.BOM_UTF8).lstrip()


def read_bytes(path: Path) -> bytes:
    """The contents of a file as UTF-8 without a byte order mark."""
    content = path.read_bytes()
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except _DAMAGE as error:
            raise _damaged(error) from error
    return _as_utf_8(content)


def read_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines of an open file or a pipe as UTF-8, compressed or not."""
    if file.peek(len(_GZIP)).startswith(_GZIP):
        with gzip.open(file) as uncompressed:
            yield from clean_lines(_undamaged(uncompressed))
    else:
        yield from clean_lines(file)


def clean_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines as UTF-8 without white space around them. A blank line is empty.

    Any line may begin with a byte order mark, because files are joined by `cat`.
    """
    for line in lines:
        yield _as_utf_8(line).strip()


def _decompressed(head: bytes, size_bytes_max: int) -> bytes:
    """The first text of compressed data, or the data itself if it is damaged."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        text = decompressor.decompress(head, size_bytes_max)
    except zlib.error:
        return head
    return text if text or decompressor.eof else head


def _as_utf_8(text: bytes) -> bytes:
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
