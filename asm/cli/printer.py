"""Lines on the standard output: coloured and fitted to a terminal, plain and complete in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import IO, TypeAlias

from rich.console import Console
from rich.text import Text

from asm.shown import prose

Part: TypeAlias = str | tuple[str, str]
"""Text, or text and its style."""

_LINES_TOLERATED = 3
"""A block with at most this many lines too many is printed whole."""

_ROWS_PER_LINE = 5
"""The rows of a terminal that one line of a block may take before it is cut."""

_CHARACTERS_TOLERATED = 40
"""A line with at most this many characters too many is printed whole."""


class Printer:
    """Prints lines. `full=True` shortens nothing on a terminal either.

    `color=True` prints to a pipe what a terminal would get, and `color=False` prints no colours. By default
    the environment variables FORCE_COLOR and NO_COLOR decide. `pager` is the input of a pager, which gets
    what the terminal would get.
    """

    def __init__(
        self, *, full: bool = False, color: bool | None = None, pager: IO[str] | None = None
    ) -> None:
        self._console = Console(
            file=pager,
            force_terminal=True if color or pager is not None else None,
            no_color=True if color is False else None,
            highlight=False,
        )
        self._width = self._console.width if self._console.is_terminal else None
        self._full = full or self._width is None

    @property
    def width(self) -> int | None:
        """The columns of the terminal. None in a pipe, where nothing is shortened to fit."""
        return self._width

    @property
    def is_full(self) -> bool:
        """Whether nothing is shortened."""
        return self._full

    def fits(self, width: int) -> bool:
        """Whether a line of this width fits the terminal."""
        return self._width is None or width <= self._width

    def line(self, *parts: Part) -> None:
        """Print a line. The terminal wraps it if it is too long."""
        self._print(Text.assemble(*parts))

    def truncated(self, *parts: Part) -> None:
        """Print a line, cut at the width of the terminal."""
        text = Text.assemble(*parts)
        if self._width is not None and not self._full:
            text.truncate(self._width, overflow="ellipsis")
        self._print(text)

    def continued(self, text: str, style: str = "") -> None:
        """Print text without an end of line, for what arrives in pieces."""
        if self._width is None:
            self._console.file.write(text)
        else:
            self._console.print(Text(text, style), end="", soft_wrap=True)
        self._console.file.flush()

    def block(self, body: str, *, first: Text, others: str, style: str = "", lines_max: int) -> None:
        """Print several lines, `first` before the first one and `others` before the others.

        Of a body with more than `lines_max` lines, the lines in the middle are left out.
        """
        rows = self._rows(body, style, lines_max, first.cell_len)
        margins = chain([first], repeat(Text.assemble((others, "dim"))))
        for margin, row in zip(margins, rows, strict=False):
            self._print(margin + row)

    def _rows(self, body: str, style: str, lines_max: int, margin: int) -> Iterator[Text]:
        lines = prose(body).split("\n")
        left_out = len(lines) - lines_max
        if self._full or left_out <= _LINES_TOLERATED:
            yield from self._fitted(lines, style, margin)
            return
        # The first lines say most, then the last ones.
        last = max(1, lines_max // 4)
        yield from self._fitted(lines[: lines_max - last], style, margin)
        yield Text(f"… {left_out:,} more lines", "dim italic")
        yield from self._fitted(lines[-last:], style, margin)

    def _fitted(self, lines: Iterable[str], style: str, margin: int) -> Iterator[Text]:
        for line in lines:
            if self._width is None:
                yield Text(line, style)
            else:
                yield from self._wrapped(line, style, max(self._width - margin, 20))

    def _wrapped(self, line: str, style: str, width: int) -> Iterator[Text]:
        length = width * _ROWS_PER_LINE
        if self._full or len(line) <= length + _CHARACTERS_TOLERATED:
            length = len(line)
        text = Text(line[:length].expandtabs(), style)
        yield from text.wrap(self._console, width)
        if len(line) > length:
            yield Text(f"… {len(line) - length:,} more characters", "dim italic")

    def _print(self, text: Text) -> None:
        text.rstrip()
        if self._width is None:
            # Without styles and a width there is nothing to render, which takes most of the time of a line.
            self._console.file.write(f"{text.plain}\n")
            self._console.file.flush()
        else:
            self._console.print(text, soft_wrap=True)
