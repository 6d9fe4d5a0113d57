"""The page of one session."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from starlette.testclient import TestClient

import asm
from asm.web import session
from tests.conftest import an_event
from tests.formats.atif_rules import check_trajectory

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
Viewer = tuple[TestClient, asm.SessionStore]


def saved(store: asm.SessionStore, *events: asm.Event, id: str = "ses_1", **fields: Any) -> None:
    store.save_session(asm.Session(agent_id="coder", id=id, **fields))
    store.append_events(list(events))


def test_a_conversation_reads_as_people_wrote_it(viewer: Viewer) -> None:
    client, store = viewer
    saved(
        store,
        an_event(data={"role": "user", "content": "Please *fix* it"}),
        an_event(
            type="message_received",
            data={"content": "Done:\n\n```python\ndef f(): pass\n```", "thinking": "How do I do this?"},
        ),
    )
    page = client.get("/sessions/ses_1").text
    assert "<p>Please <em>fix</em> it</p>" in page
    assert '<span class="h-k">def</span>' in page
    assert re.search(r'<details class="fold thinking"><summary>.*?How do I do this\?', page, re.DOTALL)


def test_a_result_stands_in_its_call_and_a_failed_one_is_open(viewer: Viewer) -> None:
    client, store = viewer
    saved(
        store,
        an_event(
            type="tool_call_started", correlation_id="a", data={"name": "bash", "input": {"command": "ls"}}
        ),
        an_event(
            type="tool_call_started", correlation_id="b", data={"name": "bash", "input": {"command": "cat x"}}
        ),
        an_event(type="tool_call_failed", correlation_id="b", data={"error": "no such file"}),
        an_event(type="tool_call_completed", correlation_id="a", data={"output": "README.md"}),
    )
    page = client.get("/sessions/ses_1").text
    calls = re.findall(r'<details class="fold call.*?</details>', page, re.DOTALL)
    assert ["README.md" in call for call in calls] == [True, False]
    assert ["no such file" in call for call in calls] == [False, True]
    assert [" open" in call.partition(">")[0] for call in calls] == [False, True]
    assert "1 error" in page


def test_an_edit_is_a_diff(viewer: Viewer) -> None:
    client, store = viewer
    edit = {"file_path": "a.py", "old_string": "x = 1\ny = 2", "new_string": "x = 1\ny = 3"}
    patch = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+two\n"
    saved(
        store,
        an_event(type="tool_call_started", correlation_id="a", data={"name": "Edit", "input": edit}),
        an_event(type="tool_call_completed", correlation_id="a", data={"output": patch}),
    )
    page = client.get("/sessions/ses_1").text
    for line in (
        '<span class="del">-y = 2\n</span>',
        '<span class="add">+y = 3\n</span>',
        '<span class="del">-one\n</span>',
        '<span class="add">+two\n</span>',
    ):
        assert line in page


def test_pages_lead_through_every_event_and_begin_at_the_first(viewer: Viewer) -> None:
    client, store = viewer
    saved(store, *(an_event(data={"content": f"number {n}"}) for n in range(1, 251)))
    url, pages = "/sessions/ses_1", []
    while url:
        page = client.get(url).text
        pages.append([int(n) for n in re.findall(r'class="item[^"]*" id="event-(\d+)"', page)])
        url = next(iter(re.findall(r'<link rel="next" href="([^"]+)"', page)), "")
    assert pages == [list(range(1, 101)), list(range(101, 201)), list(range(201, 251))]
    page = client.get("/sessions/ses_1?after=200").text
    back = re.findall(r'<link rel="prev" href="([^"]+)"', page)[0]
    assert 'id="event-101"' in client.get(back).text
    assert 'rel="prev"' not in client.get("/sessions/ses_1").text


def test_every_number_leads_to_the_event_also_of_one_that_is_part_of_another(viewer: Viewer) -> None:
    client, store = viewer
    run = asm.Run(session_id="ses_1", id="run/1")
    saved(
        store,
        *(an_event(data={"content": "before"}) for _ in range(99)),
        *(an_event(type="message_streamed", run_id="run/1", data={"delta": f"word {n} "}) for n in range(5)),
        an_event(type="tool_call_started", correlation_id="a", data={"name": "bash", "input": "ls"}),
        an_event(type="tool_call_completed", correlation_id="a", data={"output": "x"}),
    )
    store.save_run(run)
    for number in range(1, 107):
        answer = client.get(f"/sessions/ses_1/jump?to={number}", follow_redirects=False)
        url, _, anchor = answer.headers["Location"].partition("#")
        assert anchor == f"event-{number}"
        if number > 95:
            assert f'id="{anchor}"' in client.get(url).text, number
    answer = client.get("/sessions/ses_1/runs/run%2F1", follow_redirects=False)
    assert answer.headers["Location"] == "/sessions/ses_1#event-100"
    assert (
        client.get("/sessions/ses_1/last", follow_redirects=False).headers["Location"].endswith("#event-106")
    )


def test_pruned_events_leave_no_gap_in_the_pages(viewer: Viewer) -> None:
    client, store = viewer
    saved(store, *(an_event(data={"content": str(n)}) for n in range(500)))
    store.delete_events("ses_1", after=3, before=498)
    page = client.get("/sessions/ses_1").text
    assert re.findall(r'class="item[^"]*" id="event-(\d+)"', page) == ["1", "2", "3", "498", "499", "500"]
    assert 'id="event-3"' in client.get("/sessions/ses_1?before=498").text


def test_every_event_is_reached_where_large_ones_make_the_pages_shorter(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, store = viewer
    monkeypatch.setattr(session, "_PAGE_CHARACTERS", 1)  # a page ends with the first batch, of 25 events
    saved(store, *(an_event(data={"content": str(n)}) for n in range(210)))
    for number in (1, 26, 99, 137, 210):
        assert f'id="event-{number}"' in client.get(f"/sessions/ses_1/jump?to={number}").text
    url, read = "/sessions/ses_1/last", list[int]()
    while url:
        page = client.get(url).text
        read = [*map(int, re.findall(r'class="item[^"]*" id="event-(\d+)"', page)), *read]
        url = next(iter(re.findall(r'<link rel="prev" href="([^"]+)"', page)), "")
    assert read == list(range(1, 211))


def test_the_columns_of_a_table_are_aligned_as_it_says(viewer: Viewer) -> None:
    client, store = viewer
    table = (
        '| a | b | c |\n|:-:|---|--:|\n| 1 | <td style="text-align:right" | `<td style="text-align:right"` |'
    )
    saved(store, an_event(data={"content": table}))
    page = client.get("/sessions/ses_1").text
    assert re.findall(r"<td( class=\"[^\"]*\")?>", page) == [' class="to-center"', "", ' class="to-right"']
    assert '<td class="to-right"><code>&lt;td style=' in page


def test_a_sub_session_is_linked_at_the_call_that_began_it(viewer: Viewer) -> None:
    client, store = viewer
    saved(
        store,
        an_event(
            type="tool_call_started",
            correlation_id="toolu_1",
            data={"name": "Task", "input": {"prompt": "x"}},
        ),
    )
    child = {"title": "Look around", "tool_use_id": "toolu_1"}
    store.save_session(
        asm.Session(agent_id="coder", id="ses_1/agent-a", parent_session_id="ses_1", metadata=child)
    )
    page = client.get("/sessions/ses_1").text
    assert page.count('href="/sessions/ses_1%2Fagent-a"') == 2
    assert "Look around" in client.get("/sessions/ses_1%2Fagent-a").text


def test_an_id_may_have_any_characters(viewer: Viewer) -> None:
    client, store = viewer
    for id in ("a/../b", "a?b#c", 'a"><script>', "é 日本", "%2F", "a\\b"):
        saved(store, an_event(id, data={"content": f"hello from {id!r}"}), id=id)
        url = f"/sessions/{quote(id, safe='')}"
        assert client.get(url).status_code == 200, id
        assert url in client.get("/").text.replace("&#34;", '"')
        assert client.get(f"{url}/events/1.json").json()["session_id"] == id


def test_an_event_has_a_page_with_its_json(viewer: Viewer) -> None:
    client, store = viewer
    data = {"content": "long " * 10_000, "big": 10**30, "lone": "\ud800"}
    saved(store, an_event(data=data))
    assert "characters more" in client.get("/sessions/ses_1").text
    page = client.get("/sessions/ses_1/events/1").text
    assert page.count("long ") >= 20_000
    answer = client.get("/sessions/ses_1/events/1.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert asm.Event.from_dict(answer.json()) == store.get_events("ses_1")[0]
    for number in ("0", "2", "99999999999999999999"):
        assert client.get(f"/sessions/ses_1/events/{number}").status_code == 404


def test_an_image_is_shown_if_it_is_of_a_known_type(viewer: Viewer) -> None:
    client, store = viewer

    def image(type: str) -> dict[str, Any]:
        source = {"type": "base64", "media_type": type, "data": _PNG}
        return {"content": [{"type": "image", "source": source}]}

    saved(store, an_event(data=image("image/png")), an_event(data=image("image/svg+xml")))
    page = client.get("/sessions/ses_1").text
    assert re.findall(r'<img src="([^,]+),', page) == ["data:image/png;base64"]
    assert "image: image/svg+xml" in page


def test_what_is_exported_is_the_session(viewer: Viewer) -> None:
    client, store = viewer
    saved(
        store, *(an_event(data={"content": f"number {n}"}) for n in range(450)), metadata={"title": "A title"}
    )
    lines = client.get("/sessions/ses_1/export.jsonl").content.splitlines()
    assert sum("sequence_number" in line.decode() for line in lines) >= 450
    assert all(orjson.loads(line) for line in lines)
    answer = client.get("/sessions/ses_1/export.html")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ses_1.html"'
    assert re.findall(r"number (\d+)</p>", answer.text) == [str(n) for n in range(450)]
    # The file needs nothing else.
    assert not re.findall(r'(?:src|href)="(?!#|data:)', answer.text)
    answer = client.get("/sessions/ses_1/export.atif.json")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ses_1.atif.json"'
    check_trajectory(answer.json())
    assert len(answer.json()["steps"]) == 450
    assert "/sessions/ses_1/export.atif.json" in client.get("/sessions/ses_1").text


def test_what_is_not_there_is_an_error_that_says_so(viewer: Viewer) -> None:
    client, _ = viewer
    exports = ("/export.html", "/export.jsonl", "/export.atif.json")
    for path in ("", "/events/1", "/events/1.json", *exports, "/live", "/runs/x"):
        answer = client.get(f"/sessions/ses_none{path}")
        assert answer.status_code == 404, path
    assert client.get("/sessions/ses_none?after=x").status_code == 400


def test_the_timeline_has_what_the_runs_took(viewer: Viewer) -> None:
    client, store = viewer
    saved(store, an_event())

    def timeline() -> list[str]:
        return re.findall(
            r'<rect class="(?:bar|output)[^>]* width="([0-9.]+)"', client.get("/sessions/ses_1").text
        )

    at = datetime(2026, 3, 1, tzinfo=UTC)
    runs = [
        asm.Run(session_id="ses_1", id=f"run_{n}", status="completed", started_at=at, ended_at=at)
        for n in (1, 2)
    ]
    for run in runs:
        store.save_run(run)
    assert timeline() == []
    for run in runs:
        store.save_run(replace(run, token_usage={"output_tokens": 10}))
    # Frameworks that tell of a model call when it has ended give it no time.
    assert timeline() == ["499.0", "499.0"]
    store.save_run(replace(runs[1], ended_at=at + timedelta(minutes=1)))
    assert timeline() == ["2.0", "996.0", "2.0"]


def test_failed_results_of_items_are_errors_that_can_be_reached(viewer: Viewer) -> None:
    client, store = viewer

    def item(is_error: bool) -> asm.Event:
        block = {"type": "tool_result", "tool_use_id": "a", "content": "no", "is_error": is_error}
        return an_event(
            type="claude.entry",
            data={"item": {"type": "user", "message": {"role": "user", "content": [block]}}},
        )

    saved(store, item(False), item(True), an_event(type="error_occurred", data={"message": "no"}))
    store.append_events([item(number == 1_200) for number in range(1_300)])
    page = client.get("/sessions/ses_1").text
    # Only the first items are read for the page, and the others when somebody asks for the next error.
    assert "<h2>2+ errors</h2>" in page
    assert re.findall(r'class="bad" href="[^"]*to=(\d+)"', page) == ["2", "3"]
    for after, number in ((0, 2), (2, 3), (3, 1_204), (1_204, 2)):
        answer = client.get(f"/sessions/ses_1/error?after={after}", follow_redirects=False)
        assert answer.headers["Location"].endswith(f"#event-{number}")
