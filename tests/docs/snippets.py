"""Runs the examples of one page in the current folder: python -m tests.docs.snippets PAGE

The blocks of a page run from top to bottom, so that a later one may use what an earlier one made:

- `python` blocks run in one namespace. If an `output` block follows, they print exactly that.
- `console` blocks run each line after `$ ` in a shell. Lines up to the next command are its output. A line
  `[exit status 1]` at the end of the output is the exit status, if it is not 0.
  `export NAME=value` holds for all that follows.
- A block with a `title` is a file, and is written to it. A `.py` file has to compile.

`…` in an expected output stands for any text, and a line `…` for any lines.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: (?P<options>[^\n`]*))?\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_EXPORT = re.compile(r"export (\w+)=(\S*)")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the number of the line on which its text begins."""

    language: str
    title: str | None
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return self.language in ("python", "console") or self.title is not None


class WrongExample(AssertionError):
    """An example does not do what its page says."""


def blocks_of(page: str) -> list[Block]:
    return list(_blocks(page))


def _blocks(page: str) -> Iterator[Block]:
    for fence in _FENCE.finditer(page):
        title = _TITLE.search(fence["options"] or "")
        line = page.count("\n", 0, fence.start("text")) + 1
        text = textwrap.dedent(fence["text"])
        yield Block(fence["language"], title[1] if title else None, text, line)


def run_page(name: str, page: str) -> None:
    """Run the examples in the current folder. WrongExample says what differs and where."""
    namespace: dict[str, Any] = {"__name__": "example"}
    blocks = blocks_of(page)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        where = f"{name}:{block.line}"
        if block.title is not None:
            _write(block)
        elif block.language == "python":
            printed = _execute(block, name, namespace)
            if following is not None and following.language == "output":
                _compare(where, printed, following.text)
        elif block.language == "console":
            for command, expected in commands_of(block.text):
                _compare(f"{where}: {command}", *_shell(command, expected))


def _write(block: Block) -> None:
    assert block.title is not None
    file = Path(block.title)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, "utf-8")
    if file.suffix == ".py":
        compile(block.text, block.title, "exec")


def _execute(block: Block, name: str, namespace: dict[str, Any]) -> str:
    # With empty lines before it, so that a traceback has the line of the page.
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, namespace)
    return output.getvalue()


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with its expected output."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        length = next((n for n, line in enumerate(lines, 1) if not line.endswith("\\")), len(lines))
        yield "\n".join(lines[:length]), "\n".join(lines[length:])


def _shell(command: str, expected: str) -> tuple[str, str]:
    """What a command prints, followed by its exit status, and what it should print."""
    if variable := _EXPORT.fullmatch(command):
        os.environ[variable[1]] = variable[2]
        return "", expected
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    status = f"\n[exit status {done.returncode}]" if done.returncode else ""
    if not expected.strip():
        # A command without output on the page may print anything, but it succeeds.
        return (done.stdout + status, "") if status else ("", "")
    return done.stdout.rstrip() + status, expected


def _compare(where: str, printed: str, expected: str) -> None:
    if not re.fullmatch(_pattern(expected), _stripped(printed), re.DOTALL):
        raise WrongExample(f"{where}\nprints\n{printed}\nand not\n{expected}")


def _pattern(expected: str) -> str:
    lines = _stripped(expected).split("\n")
    return "\n".join(
        ".*" if line.strip() == "…" else "[^\n]*".join(map(re.escape, line.split("…"))) for line in lines
    )


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def main(arguments: Iterable[str]) -> None:
    for name in arguments:
        run_page(name, Path(name).read_text("utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
