"""The pages in use: by keyboard, without JavaScript, while a session goes on, and with hostile content."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

import asm
from tests.browser import seeds
from tests.browser.conftest import TIMEOUT_MS, Viewer, Watched
from tests.conftest import an_event

expect.set_options(timeout=TIMEOUT_MS)

Open = Callable[..., Watched]
EVERYTHING = f"/sessions/{seeds.EVERYTHING}"
LONG = f"/sessions/{seeds.LONG}"
PATH = "decodeURIComponent(location.pathname + location.search + location.hash)"


def focused(page: Page) -> str:
    """What the focused element is called, if a reader can see that it is focused."""
    return str(
        page.evaluate(
            """() => {
                const focused = document.activeElement;
                const style = getComputedStyle(focused);
                const box = focused.getBoundingClientRect();
                const isSeen = parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== "none"
                    && box.bottom > 0 && box.top < innerHeight && box.width > 4;
                const name = focused.name || focused.getAttribute("aria-label") || focused.innerText;
                return isSeen ? name.trim() : `not visible: ${focused.outerHTML.slice(0, 200)}`;
            }"""
        )
    )


def tabbed(page: Page, count: int) -> list[str]:
    names = []
    for _ in range(count):
        page.keyboard.press("Tab")
        names.append(focused(page))
    return names


def test_the_keyboard_reaches_the_filters_and_sessions_in_the_order_in_which_they_are_read(
    opened_page: Open,
) -> None:
    page = opened_page("/").page
    assert tabbed(page, 12) == [
        *("Skip to the content", "asm, the list of sessions", "Sessions", "Usage", "Health"),
        *("text", "agent", "tag", "status", "since", "Filter"),
        page.locator("a.title").first.inner_text(),
    ]


def test_the_skip_link_leads_past_the_header(opened_page: Open) -> None:
    page = opened_page(EVERYTHING).page
    assert tabbed(page, 1) == ["Skip to the content"]
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    # The first error of the session.
    assert tabbed(page, 1) == ["7"]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_call_is_unfolded_and_folded_by_the_keyboard(opened_page: Open, key: str) -> None:
    page = opened_page(EVERYTHING).page
    call = page.locator("#event-4 details.call")
    call.locator("> summary").focus()
    for is_open in (True, False):
        page.keyboard.press(key)
        expect(call).to_have_attribute("open", "") if is_open else expect(call).not_to_have_attribute(
            "open", ""
        )
        expect(call.locator(".result")).to_be_visible(visible=is_open)


def test_the_number_of_an_event_is_a_link_that_focuses_it(opened_page: Open) -> None:
    page = opened_page(f"{EVERYTHING}#event-4").page
    expect(page.locator("#event-4")).to_be_focused()
    expect(page.locator("#event-4 .result")).to_be_visible()
    # The result of the call.
    page.goto(f"{EVERYTHING}#event-11")
    expect(page.locator(".result#event-11")).to_be_focused()
    expect(page.locator(".result#event-11")).to_be_visible()
    page.locator("#event-13 .meta a", has_text="13").click()
    expect(page.locator("#event-13")).to_be_focused()


def test_the_number_of_an_event_leads_to_it_from_every_page_of_the_session(
    opened_page: Open, viewer: Viewer
) -> None:
    page = opened_page(f"{LONG}#event-137").page
    expect(page.locator("#event-137")).to_be_focused()
    assert page.evaluate(PATH) == f"{LONG}?after=100#event-137"
    page.evaluate("location.hash = '#event-7'")
    expect(page.locator("#event-7")).to_be_focused()
    # There is none with this number: the last one is nearest.
    page.goto(f"{LONG}?after=100#event-999")
    expect(page.locator(f"#event-{seeds.LONG_EVENTS}")).to_be_focused()
    page.locator("input[name=to]").fill("150")
    page.keyboard.press("Enter")
    expect(page.locator("#event-150")).to_be_focused()


def test_the_link_of_an_event_that_was_pruned_stays_where_its_page_is(
    opened_page: Open, viewer: Viewer
) -> None:
    with asm.SessionStore(viewer.dsn) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_pruned"))
        store.append_events([an_event("ses_pruned", data={"content": str(n)}) for n in range(210)])
        store.delete_events("ses_pruned", after=120, before=131)
    watched = opened_page("/sessions/ses_pruned#event-125")
    watched.page.wait_for_url("**/ses_pruned?after=100#event-125")
    expect(watched.page.locator("#event-131")).to_be_visible()
    navigations: list[str] = []
    watched.page.on("framenavigated", lambda frame: navigations.append(frame.url))
    watched.page.reload()
    assert len(navigations) == 1


def test_the_filters_are_in_the_address_and_return_with_it(opened_page: Open) -> None:
    watched = opened_page("/")
    page = watched.page
    page.locator("input[name=text]").fill("cache forget*")
    page.locator("select[name=since]").select_option("year")
    page.locator("input[name=text]").press("Enter")
    expect(page.locator("a.title")).to_have_count(1)
    expect(page.locator("mark").first).to_have_text("cache")
    page.locator("a.title").click()
    expect(page.locator("h1")).to_contain_text("Find out why the cache")
    page.go_back()
    expect(page.locator("input[name=text]")).to_have_value("cache forget*")
    expect(page.locator("select[name=since]")).to_have_value("year")
    expect(page.locator("a.title")).to_have_count(1)
    page.go_back()
    expect(page.locator("input[name=text]")).to_have_value("")
    assert page.locator("a.title").count() > 5
    page.go_forward()
    expect(page.locator("a.title")).to_have_count(1)
    assert watched.faults == []


def test_everything_but_what_is_live_works_without_javascript(opened_page: Open) -> None:
    watched = opened_page("/", java_script_enabled=False)
    page = watched.page
    page.locator("input[name=agent]").fill("codex")
    page.get_by_role("button", name="Filter").click()
    page.locator("a.title", has_text="A long session").click()
    page.get_by_role("link", name="Later events").click()
    expect(page.locator("#event-101")).to_be_visible()
    page.get_by_role("link", name="Earlier events").click()
    expect(page.locator("#event-1")).to_be_visible()
    page.locator("input[name=to]").fill("150")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#event-150")).to_be_in_viewport()
    page.goto(EVERYTHING)
    call = page.locator("#event-4")
    expect(call.locator(".result")).to_be_hidden()
    call.locator("summary").click()
    expect(call.locator(".result")).to_be_visible()
    page.set_viewport_size({"width": 400, "height": 800})
    expect(page.get_by_role("link", name="JSON Lines")).to_be_visible()
    assert watched.faults == []


def test_new_events_appear_on_the_page_of_a_session_and_the_session_rises_in_the_list(
    opened_page: Open, viewer: Viewer
) -> None:
    with asm.SessionStore(viewer.dsn) as store:
        for name in ("first", "second"):
            store.save_session(asm.Session(agent_id="live", id=f"ses_{name}", metadata={"title": name}))
        store.append_event(an_event("ses_first", data={"content": "Begin"}))
        listed, one = opened_page("/?agent=live"), opened_page("/sessions/ses_first")
        expect(listed.page.locator("a.title")).to_have_text(["second", "first"])
        expect(one.page.get_by_role("status")).to_contain_text("Live")
        call = {"name": "Bash", "input": {"command": "ls"}}
        for event in (
            an_event("ses_first", type="message_streamed", data={"delta": "<b>Half "}),
            an_event("ses_first", type="message_streamed", data={"delta": "a word"}),
            an_event("ses_first", type="message_received", data={"role": "assistant", "content": "*Whole*"}),
            an_event("ses_first", type="tool_call_started", correlation_id="c", data=call),
            an_event(
                "ses_first", type="tool_call_failed", correlation_id="c", data={"error": "no such file"}
            ),
        ):
            session = asm.Session(agent_id="live", id="ses_first")
            number = store.append_event(event, session=session).sequence_number
            if number == 3:
                expect(one.page.get_by_text("<b>Half a word")).to_be_visible()
        expect(one.page.locator(".result#event-6")).to_contain_text("no such file")
        expect(one.page.locator("#event-4 em")).to_have_text("Whole")
        expect(one.page.get_by_text("Half a word")).to_have_count(0)
        expect(listed.page.locator("a.title")).to_have_text(["first", "second"])
        expect(listed.page.locator("tr.moved")).to_have_count(1)
    assert listed.faults == one.faults == []


def test_hostile_content_runs_and_loads_nothing_when_it_is_opened_and_when_it_arrives(
    opened_page: Open, viewer: Viewer
) -> None:
    url = f"/sessions/{seeds.HOSTILE}"
    watched = opened_page(url)
    page = watched.page
    expect(page.get_by_role("status")).to_contain_text("Live")
    with asm.SessionStore(viewer.dsn) as store:
        newest = store.append_events(seeds.hostile_events())[-1]
    expect(page.locator(f"#event-{newest.sequence_number}")).to_be_attached()
    for path in ("/?text=script", url, *(f"{url}/events/{n}" for n in (1, 6, 8))):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        # A link in a message leads to the web, or nowhere.
        links = page.locator("a").evaluate_all("(links) => links.map((link) => link.protocol)")
        assert {*links} <= {"http:", "https:", "mailto:"}
        assert page.locator("script").count() == 1
    page.goto(viewer.file.as_uri())
    assert page.locator("script").count() == 0
    assert watched.faults == []
