"""Markdown as markup. What was written never is: raw HTML is text, and nh3 checks the result."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

from asm.shown import prose
from asm.web.code import highlighted

_LENGTH_MAX = 20_000
_MARKUP_LENGTH_MAX = 8
"""A table of many columns takes more characters of markup than of text, row by row."""

_TAGS = {
    *(
        "a",
        "blockquote",
        "br",
        "code",
        "del",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "ol",
        "p",
    ),
    *("pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "span": {"class"}, "ol": {"start"}, "td": {"class"}, "th": {"class"}}
_FOCUSABLE = {"pre": {"tabindex": "0"}, "table": {"tabindex": "0"}}
"""What is wider than the page is scrolled by the keyboard, too."""

_ALIGNED = re.compile(r'<(t[hd]) style="text-align:(right|center)"')
"""The Content-Security-Policy forbids styles in markup. No text has a `<`, which is escaped."""

_SCHEMES = {"http", "https", "mailto"}


def markdown(text: str) -> Markup:
    """A text as it is meant to be read. One that takes too long to read as Markdown stays as it is."""
    text = prose(text)
    if not _is_quick(text):
        return plain(text)
    html = _ALIGNED.sub(r'<\1 class="to-\2"', _reader().render(text))
    if len(html) > _MARKUP_LENGTH_MAX * len(text) + 2_000:
        return plain(text)
    return Markup(
        nh3.clean(
            html,
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            set_tag_attribute_values=_FOCUSABLE,
            url_schemes=_SCHEMES,
            link_rel="noopener noreferrer nofollow",
        )
    )


def plain(text: str) -> Markup:
    """A text with its lines and spaces as they are."""
    return Markup(f'<pre class="plain">{escape(prose(text))}</pre>')


def _is_quick(text: str) -> bool:
    """Whether no part of the text takes more time than in proportion to its length."""
    if len(text) > _LENGTH_MAX or text.count("[") > 600 or len(_EMPHASIS.findall(text)) > 3_000:
        return False
    if text.count("|") < 1_000:
        return True
    lines = text.split("\n")
    return max(line.count("|") for line in lines) * len(lines) < 10_000


_EMPHASIS = re.compile(r"[*_~<&`]")


@cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt(
        "commonmark", {"html": False, "breaks": True, "maxNesting": 20, "highlight": _highlight}
    )
    # An image would be loaded from elsewhere. Without the rule it is a link.
    return reader.enable(["table", "strikethrough"]).disable(["image", "html_block", "html_inline"])


def _highlight(code: str, language: str, _attributes: Any) -> str:
    return str(highlighted(code, language))
