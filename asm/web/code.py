"""Code and diffs as markup: every line is escaped, and only class names are added."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import cache
from html import escape
from pathlib import PurePosixPath

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name

from asm.shown import prose

HIGHLIGHTED_MAX = 12_000
"""Characters of a code that is highlighted. Lexers are regular expressions, slow on some odd input."""

_LINE_MAX = 1_000
_BLANK_MAX = 30
_DIFFED_LINES_MAX = 400
_CONTEXT = 3

# Each of these was tried on long hostile input. A lexer that is not listed is never used.
_LEXERS = {
    **dict.fromkeys(("bash", "sh", "shell", "zsh", "console"), "bash"),
    **dict.fromkeys(("c", "h"), "c"),
    **dict.fromkeys(("cpp", "c++", "cc", "hpp", "cxx"), "cpp"),
    **dict.fromkeys(("css", "scss"), "css"),
    **dict.fromkeys(("go", "golang"), "go"),
    **dict.fromkeys(("html", "xml", "svg"), "html"),
    **dict.fromkeys(("ini", "cfg", "toml"), "ini"),
    **dict.fromkeys(("javascript", "js", "jsx", "mjs", "typescript", "ts", "tsx"), "javascript"),
    **dict.fromkeys(("json", "jsonl"), "json"),
    **dict.fromkeys(("python", "py", "python3", "pyi"), "python"),
    **dict.fromkeys(("rust", "rs"), "rust"),
    "sql": "sql",
    **dict.fromkeys(("yaml", "yml"), "yaml"),
}


def language_of(path: str) -> str:
    """The language of a file, by the ending of its name."""
    return PurePosixPath(path).suffix.lstrip(".").lower()


def highlighted(text: str, language: str) -> Markup:
    """Code with the parts of its language marked, or as it is if the language is not known."""
    text = prose(text)
    name = _LEXERS.get(language.strip().lower())
    if name is None or len(text) > HIGHLIGHTED_MAX or not _is_code(text):
        return Markup(escape(text))
    return Markup(highlight(text, _lexer(name), _formatter()).rstrip("\n"))


def _is_code(text: str) -> bool:
    """Whether no line is very long, and no gap between lines. Some lexers take the square of either."""
    blank = 0
    for line in text.split("\n"):
        blank = 0 if line.strip() else blank + 1
        if len(line) > _LINE_MAX or blank > _BLANK_MAX:
            return False
    return True


@cache
def _lexer(name: str) -> Lexer:
    return get_lexer_by_name(name, stripnl=False, ensurenl=False)


@cache
def _formatter() -> HtmlFormatter[str]:
    return HtmlFormatter(nowrap=True, classprefix="h-")


# Diffs.

_HUNK = re.compile(
    r"^(?:@@ |diff --git |\*\*\* (?:Begin Patch|Update File|Add File|Delete File))", re.MULTILINE
)


def is_diff(text: str) -> bool:
    """Whether a text is a diff in unified format, or the patch that Codex applies."""
    return _HUNK.search(text, 0, 4_000) is not None and ("\n+" in text or "\n-" in text)


def diff(text: str) -> Markup:
    """A diff with its lines coloured."""
    return Markup("").join(_line(prose(line)) for line in text.rstrip("\n").split("\n"))


def changes(old: str, new: str) -> Markup:
    """What differs between two texts, as the lines of a diff."""
    return Markup("").join(
        _line(prose(line)) for line in _compared(old.rstrip("\n").split("\n"), new.rstrip("\n").split("\n"))
    )


def _compared(old: list[str], new: list[str]) -> list[str]:
    # Comparing takes the square of the number of lines that are alike.
    if len(old) > _DIFFED_LINES_MAX or len(new) > _DIFFED_LINES_MAX:
        return [*(f"-{line}" for line in old), *(f"+{line}" for line in new)]
    lines: list[str] = []
    for number, group in enumerate(SequenceMatcher(None, old, new).get_grouped_opcodes(_CONTEXT)):
        lines += ["@@"] if number else []
        for kind, i1, i2, j1, j2 in group:
            if kind == "equal":
                lines += [f" {line}" for line in old[i1:i2]]
                continue
            lines += [f"-{line}" for line in old[i1:i2]]
            lines += [f"+{line}" for line in new[j1:j2]]
    return lines


_KINDS = {"+": "add", "-": "del", "@": "hunk", "*": "hunk"}


def _line(line: str) -> Markup:
    kind = "hunk" if line.startswith(("+++", "---", "diff ", "index ")) else _KINDS.get(line[:1])
    return Markup(f'<span class="{kind or "same"}">{escape(line)}\n</span>')
