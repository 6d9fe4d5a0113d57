"""Every page at every width, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser import seeds
from tests.browser.conftest import SCREENSHOTS, Viewer, Watched
from tests.formats.samples import SAMPLES

WIDTHS = (1_600, 1_000, 400)
SCHEMES = ("light", "dark")

PAGES = {
    "sessions": "/",
    "sessions-found": "/?text=cache+forget*&since=year",
    "sessions-none": "/?agent=nobody",
    "session": f"/sessions/{seeds.EVERYTHING}",
    "session-long": f"/sessions/{seeds.LONG}?after=100",
    "session-hostile": f"/sessions/{seeds.HOSTILE}",
    "event": f"/sessions/{seeds.EVERYTHING}/events/3",
    "usage": "/usage?from=2026-01-20&to=2026-02-10",
    "usage-none": "/usage?from=2001-01-01&to=2001-01-31",
    "health": "/health",
    "health-checked": "/health?check=1",
    "error-404": "/sessions/ses_none",
    "error-400": f"/sessions/{seeds.LONG}?after=x",
    "file": "file",
    **{sample.name: "sample" for sample in SAMPLES},
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_its_width_is_accessible_and_loads_nothing_else(
    opened_page: Callable[..., Watched], viewer: Viewer, name: str
) -> None:
    url = PAGES[name]
    if url == "file":
        url = viewer.file.as_uri()
    elif url == "sample":
        url = f"/sessions/{viewer.imported[name]}"
    watched = opened_page(url)
    page = watched.page
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1_400})
        if width == WIDTHS[-1]:
            page.reload()  # what is folded on a narrow page is folded when it is loaded
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            take_screenshot(page, f"{name}-{width}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if width != WIDTHS[0]:
                assert found_by_axe(page, scheme) == [], (width, scheme)
    assert watched.faults == []


def found_by_axe(page: Page, scheme: str) -> list[str]:
    """The findings of the accessibility check.

    The schemes differ in nothing but their colours, and a page of 1,600 pixels has no style that one of
    1,000 does not have.
    """
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if scheme == SCHEMES[1]:
        options["runOnly"] = ["color-contrast"]
    page.evaluate(f"window.axe || ({_axe()})")
    found = page.evaluate("async (options) => (await axe.run(document, options)).violations", options)
    return [
        f"{each['impact']} {each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found
        for node in each["nodes"]
    ]


@cache
def _axe() -> str:
    return f"() => {{ {Axe().axe_script} }}"


def take_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace(' ', '-')}.png")
