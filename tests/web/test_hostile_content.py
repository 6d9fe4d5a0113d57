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
from asm.web.code import highlighted
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


def everywhere(text: str, session_id: str = "ses_1") -> list[asm.Event]:
    """Events that have a text in every place that a page shows."""
    block = {"type": text, "text": text, text: text}
    datas: list[tuple[str, dict[str, Any]]] = [
        ("message_sent", {"role": text, "content": text}),
        ("message_received", {"content": [block, {"type": "thinking", "thinking": text}], "thinking": text}),
        ("message_sent", {"content": [{"type": "image", "source": {"media_type": text, "data": text}}]}),
        (
            "message_sent",
            {"content": [{"type": "image", "source": {"media_type": "image/png", "data": text}}]},
        ),
        ("message_streamed", {"delta": text}),
        ("tool_call_started", {"name": text, "input": {text: text, "file_path": text, "command": text}}),
        ("tool_call_completed", {"output": text, text: text}),
        ("tool_call_started", {"name": "Edit", "input": {"path": text, "old_str": text, "new_str": "x"}}),
        ("tool_call_failed", {"error": {"code": text, "message": text}}),
        ("tool_call_completed", {"output": f"diff --git a b\n@@ {text}\n+{text}\n-{text}"}),
        ("run_failed", {"code": text, "message": text}),
        ("workspace_diff_computed", {"diff": f"@@\n+{text}\n"}),
        ("token_usage_updated", {"input_tokens": text, "output_tokens": 10**400, "model": text}),
        ("acme.note", {text: [text, {text: text}]}),
    ]
    name = id_of(text)
    return [
        an_event(session_id, type=type, data=data, correlation_id=f"{name[:200]}{n // 2}", run_id=name)
        for n, (type, data) in enumerate(datas)
    ]


def id_of(text: str) -> str:
    """A text as it may be an id."""
    return re.sub("[\0\ud800-\udfff]", "", text)[:200] or "x"


def save(store: asm.SessionStore, text: str, id: str = "ses_1") -> None:
    name = id_of(text)
    store.save_session(
        asm.Session(agent_id=name, id=id, tags=(name,), metadata={"title": text}, parent_session_id=name)
    )
    child = f"{name}-{id}"
    store.save_session(asm.Session(agent_id=name, id=child, parent_session_id=id, metadata={"title": text}))
    for run_id in (name, "run_2"):
        metadata = {"model": text}
        store.save_run(asm.Run(session_id=id, id=run_id, input=text, error=text, provider_metadata=metadata))
    store.append_events(everywhere(text, id))


@pytest.fixture
def kind() -> str:
    """Content is the same in every database."""
    return "sqlite"


PAGES = ("", "/events/1", "/events/6", "/export.html")


def test_markup_and_links_in_content_are_text(viewer: Viewer) -> None:
    client, store = viewer
    for n, text in enumerate((*MARKUP, *LINKS)):
        save(store, text, f"ses_{n}")
        for path in PAGES:
            page = client.get(f"/sessions/ses_{n}{path}").text
            elements = [name for name, _ in _elements(page)]
            assert not {*elements} & {"iframe", "object", "embed", "base", "img"}, (text, path)
            assert elements.count("script") == ("export" not in path), (text, path)
            assert "1337" not in page
        assert [name for name, _ in _elements(client.get("/").text)].count("script") == 1


def test_characters_that_nobody_sees_are_shown(viewer: Viewer) -> None:
    client, store = viewer
    texts = [
        "\x1b[31mred \x1b]0;title\x07",
        "a\u202etxt.exe",
        "a\u200bb",
        "tag\U000e0041",
        "\ud800",
        "\x00\x85",
    ]
    for n, text in enumerate(texts):
        save(store, text, f"ses_{n}")
        for path in (f"/sessions/ses_{n}{path}" for path in PAGES):
            page = unescape(client.get(path).text)
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\ud800\U000e0041]", page), (
                text,
                path,
            )


def test_the_colours_of_a_terminal_are_left_out_of_an_output(viewer: Viewer) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
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
    "one line": "x" * 1_000_000,
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
    save(store, SLOW[name])
    before = time.process_time()
    page = client.get("/sessions/ses_1")
    took = time.process_time() - before
    assert page.status_code == 200
    assert len(page.content) < PAGE_BYTES_MAX
    # A backtracking pattern takes minutes, or for ever.
    assert took < 10
    assert len(client.get("/").content) < 50_000


@pytest.mark.parametrize(
    "lexer", ["bash", "c", "cpp", "css", "go", "html", "ini", "js", "json", "python", "rust", "sql", "yaml"]
)
def test_no_language_takes_long_to_highlight(lexer: str) -> None:

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
