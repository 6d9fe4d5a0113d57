"""The list of sessions."""

from __future__ import annotations

import re

from starlette.testclient import TestClient

import asm
from tests.conftest import an_event

Viewer = tuple[TestClient, asm.SessionStore]


def test_the_list_shows_titles_figures_and_the_session_that_was_updated_last_first(viewer: Viewer) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="coder", id="ses_old", metadata={"title": "The old one"}))
    new = asm.Session(agent_id="coder", id="ses_new", tags=("prod",))
    store.save_session(new)
    store.append_event(an_event("ses_new", data={"role": "user", "content": "Count the files"}))
    store.save_run(
        asm.Run(
            session_id="ses_new", token_usage={"input_tokens": 1_240_000, "output_tokens": 1}, cost_usd=1.5
        )
    )
    page = client.get("/").text
    assert page.index("Count the files") < page.index("The old one")
    assert "1.24M" in page
    assert "$1.50" in page


def test_pages_of_sessions_link_to_the_next_one_until_the_last(viewer: Viewer) -> None:
    client, store = viewer
    for n in range(120):
        store.save_session(
            asm.Session(agent_id="coder", id=f"ses_{n:03}", metadata={"title": f"Number {n:03}"})
        )
    url, found = "/?agent=coder", list[str]()
    while url:
        page = client.get(url).text
        found += re.findall(r"Number (\d+)", page)
        following = re.search(r'<a rel="next" href="([^"]+)"', page)
        url = following[1].replace("&amp;", "&") if following else ""
    assert sorted(found) == [f"{n:03}" for n in range(120)]


def test_the_filters_are_the_address(viewer: Viewer) -> None:
    client, store = viewer
    for id, agent, status, tags in (
        ("ses_1", "coder", "failed", ("prod", "eu")),
        ("ses_2", "coder", "active", ("prod",)),
        ("ses_3", "writer", "failed", ()),
    ):
        store.save_session(asm.Session(agent_id=agent, id=id, status=status, tags=tags))
    for query, ids in (
        ("agent=coder", {"ses_1", "ses_2"}),
        ("status=failed", {"ses_1", "ses_3"}),
        ("tag=prod&tag=eu", {"ses_1"}),
        ("agent=coder&status=active&tag=&since=day", {"ses_2"}),
    ):
        assert set(re.findall(r'data-key="(\w+)"', client.get(f"/?{query}").text)) == ids, query


def test_a_filter_that_cannot_be_read_is_an_error_that_says_so(viewer: Viewer) -> None:
    client, _ = viewer
    for query, message in (("status=done", "done"), ("since=soon", "soon"), ("cursor=x", "cursor")):
        answer = client.get(f"/?{query}")
        assert answer.status_code == 400, query
        assert message in answer.text


def test_the_words_of_events_are_searched_where_the_store_has_their_index(
    viewer: Viewer, migrated: str
) -> None:
    client, store = viewer
    for id, text in (
        ("ses_1", "a <b>heron</b> by the lake"),
        ("ses_2", "two sparrows"),
        ("ses_3", "heron heron"),
    ):
        store.save_session(asm.Session(agent_id="coder", id=id))
        store.append_event(an_event(id, data={"role": "user", "content": text}))
    assert 'name="text"' not in client.get("/").text
    answer = client.get("/?text=heron")
    assert answer.status_code == 400
    assert "--text-search" in answer.text
    asm.migrate(migrated, text_search=True)
    assert 'name="text"' in client.get("/").text
    page = client.get("/?text=heron").text
    assert re.findall(r'data-key="(\w+)"', page) == ["ses_3", "ses_1"]
    assert "&lt;b&gt;<mark>heron</mark>&lt;/b&gt;" in page
