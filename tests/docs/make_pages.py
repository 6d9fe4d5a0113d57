"""Writes the parts of README and docs that are made of code and figures: python -m tests.docs.make_pages

A part is between the comments `<!-- generated: NAME -->` and `<!-- end generated -->`. `make pages` writes
all parts and the plot; `--check` only compares them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.docs import performance, reference, tables

ROOT = Path(__file__).parents[2]
PLOT = ROOT / "docs/picture/callers.svg"
PARTS: dict[str, Callable[[], str]] = {
    "commands": reference.commands,
    "errors": reference.errors,
    "performance": performance.page,
    "speed": performance.speed,
    "tables": tables.tables,
}
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def files() -> Iterator[tuple[Path, str]]:
    """Every file with a generated part, and the text that it should have."""
    for page in (ROOT / "README.md", *sorted(ROOT.joinpath("docs").rglob("*.md"))):
        text = page.read_text("utf-8")
        if _PART.search(text):
            yield page, _PART.sub(_generated, text)
    yield PLOT, performance.plot()


def _generated(part: re.Match[str]) -> str:
    return f"{part[1]}{PARTS[part[2]]().strip()}\n{part[3]}"


def outdated() -> list[Path]:
    return [file for file, text in files() if not file.exists() or file.read_text("utf-8") != text]


def main(arguments: list[str]) -> None:
    if "--check" in arguments:
        if changed := outdated():
            sys.exit(f"run `make pages`: outdated are {', '.join(map(str, changed))}")
        return
    for file, text in files():
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
