"""Content that an attacker wrote: nothing of it is markup, and no page takes long or grows without bound."""

from __future__ import annotations

import re
import time
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient

import asm
from tests.conftest import an_event

Viewer = tuple[TestClient, asm.SessionStore]

PAGE_BYTES_MAX = 1_000_000
MARKUP = (
    "<script>alert(1)</script>",
    "</pre></details></article><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<style>*{display:none}</style>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content=0>",
    "{{ 7 * 191 }} {% raw %}",
    "<!-- the items -->",
    "]]><a href=javascript:alert(1)>x</a>",
)
LINKS = (
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x](data:image/svg+xml;base64,PHN2Zy8+)",
    "[x]: javascript:alert(1)\n\n[x]",
)


class _Markup(HTMLParser):
    """Fails at whatever could run, load or send something."""

    ELEMENTS = frozenset(
        ("script", "iframe", "object", "embed", "style", "base", "form", "meta", "link", "img")
    )

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("style", "srcdoc")], attrs
        for name, value in attrs:
            if name in ("href", "src", "action") and value:
                assert re.match(r"[/#]|https?://|mailto:|data:image/png", value), (tag, name, value)
        if tag in self.ELEMENTS:
            self.elements.append((tag, dict(attrs)))


def _elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Markup()
    parser.feed(page)
    return parser.elements


def everywhere(text: str) -> list[asm.Event]:
    """Events that have a text in every place that a page shows."""
    block = {"type": text, "text": text, text: text}
    datas: list[tuple[str, dict[str, Any]]] = [
        ("message_sent", {"role": text, "content": text}),
        ("message_received", {"content": [block, {"type": "thinking", "thinking": text}], "thinking": text}),
        ("message_sent", {"content": [{"type": "image", "source": {"media_type": text, "data": text}}]}),
        (
            "message_sent",
            {"content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}]},
        ),
        ("message_streamed", {"delta": text}),
        ("tool_call_started", {"name": text, "input": {text: text, "file_path": text, "command": text}}),
        ("tool_call_completed", {"output": text, text: text}),
        ("tool_call_started", {"name": "Edit", "input": {"path": text, "old_str": text, "new_str": "x"}}),
        ("tool_call_failed", {"error": {"code": text, "message": text}}),
        ("tool_call_completed", {"output": f"diff --git a b\n@@ {text}\n+{text}\n-{text}"}),
        ("run_failed", {"code": text, "message": text}),
        ("workspace_diff_computed", {"diff": f"@@\n+{text}\n"}),
        ("acme.note", {text: [text, {text: text}]}),
    ]
    return [
        an_event(type=type, data=data, correlation_id=f"{text[:200]}{n // 2}", run_id=text[:200])
        for n, (type, data) in enumerate(datas)
    ]


def save(store: asm.SessionStore, text: str) -> None:
    name = text[:200] or "x"
    store.save_session(
        asm.Session(agent_id=name, id="ses_1", tags=(name,), metadata={"title": text}, parent_session_id=name)
    )
    store.save_session(
        asm.Session(agent_id=name, id=name, parent_session_id="ses_1", metadata={"title": text})
    )
    for id in (name, "run_2"):
        metadata = {"model": text}
        store.save_run(asm.Run(session_id="ses_1", id=id, input=text, error=text, provider_metadata=metadata))
    store.append_events(everywhere(text))


PATHS = (
    "/",
    "/sessions/ses_1",
    "/sessions/ses_1/events/1",
    "/sessions/ses_1/events/6",
    "/sessions/ses_1/export.html",
)


@pytest.mark.parametrize(
    "text", [*MARKUP, *LINKS], ids=[f"text-{n}" for n in range(len(MARKUP) + len(LINKS))]
)
def test_markup_and_links_in_content_are_text(viewer: Viewer, text: str) -> None:
    client, store = viewer
    plain = client.get("/").text
    save(store, text)
    for path in PATHS:
        page = client.get(path).text
        expected = _elements(plain) if path == "/" else None
        found = _elements(page)
        assert not [each for each in found if each[0] in ("iframe", "object", "embed", "base", "img")], path
        assert sum(each[0] == "script" for each in found) == (0 if "export" in path else 1), path
        if expected is not None:
            assert [each[0] for each in found] == [each[0] for each in expected]
        assert "1337" not in page


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m \x1b]0;title\x07",
        "a\u202etxt.exe",
        "zero\u200bwidth",
        "tag\U000e0041",
        "\ud800",
        "\x00\x85",
    ],
    ids=["ansi", "bidi", "zero-width", "tag", "surrogate", "control"],
)
def test_characters_that_nobody_sees_are_shown_or_left_out(viewer: Viewer, text: str) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1", metadata={"title": text}))
    store.append_events([an_event(type=e.type, data=e.data) for e in everywhere(text)])
    for path in PATHS:
        page = unescape(client.get(path).text)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\ud800\U000e0041]", page), path
    store.append_event(an_event(type="tool_call_completed", data={"output": "\x1b[1;32mpassed\x1b[0m"}))
    assert ">passed<" in client.get("/sessions/ses_1").text


SLOW = {
    "brackets": "[" * 60_000,
    "images": "![[" * 20_000,
    "emphasis": "*a_" * 20_000,
    "strong": "**a " * 20_000,
    "quotes": "> " * 30_000,
    "nested lists": "\n".join("  " * n + "- a" for n in range(250)),
    "table": "|a" * 300 + "\n" + "|-" * 300 + "\n" + "|a\n" * 4_000,
    "wide table": "|a" * 20_000 + "\n" + "|-" * 20_000 + "\n",
    "references": "[a]: b\n" * 8_000,
    "backticks": "`" * 30_000 + " ".join("`" * n for n in range(180)),
    "entities": "&" * 60_000,
    "html": "<" * 60_000,
    "lines": "\n" * 60_000,
    "one line": "x" * 3_000_000,
    "code": "```python\n" + "'" * 30_000 + "\n```",
    "many codes": "```json\n{\n```\n" * 4_000,
    "strings": "```js\n" + '"\\' * 5_900 + "\n```",
    "bash": "```bash\n" + "$((" * 3_900 + "\n```",
    "yaml": "```yaml\n" + "- " * 5_900 + "\n```",
    "diff": "@@\n" + "+a\n-b\n" * 20_000,
    "ansi": "\x1b[" * 40_000,
    "invisible": "\u200b" * 60_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_a_page_is_bounded_whatever_its_events_contain(viewer: Viewer, name: str) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1", metadata={"title": SLOW[name]}))
    store.append_events([an_event(type=e.type, data=e.data) for e in everywhere(SLOW[name])])
    before = time.process_time()
    page = client.get("/sessions/ses_1")
    took = time.process_time() - before
    assert page.status_code == 200
    assert len(page.content) < 2 * PAGE_BYTES_MAX
    # A backtracking pattern takes minutes, or for ever.
    assert took < 10
    assert len(client.get("/").content) < 50_000


@pytest.mark.parametrize(
    "lexer", ["bash", "c", "cpp", "css", "go", "html", "ini", "java", "js", "json", "python"]
)
def test_no_language_takes_long_to_highlight(lexer: str) -> None:
    from asm.web.code import highlighted

    for piece in (
        "'",
        '"',
        "\\",
        "(",
        "{",
        "/*",
        "<!--",
        "<a ",
        "$(",
        "a.",
        "0x",
        "#",
        "@",
        "`",
        "r'",
        "\n ",
        "a b ",
    ):
        before = time.process_time()
        highlighted((piece * 900 + "\n") * (11_000 // (len(piece) * 900)), lexer)
        assert time.process_time() - before < 5, piece


def test_many_large_events_are_a_shorter_page(viewer: Viewer) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    store.append_events(
        [an_event(type="tool_call_completed", data={"output": "x " * 100_000}) for _ in range(90)]
    )
    page = client.get("/sessions/ses_1")
    assert len(page.content) < PAGE_BYTES_MAX
    assert 'rel="next"' in page.text
