"""Every page at every width, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser import seeds
from tests.browser.conftest import SCREENSHOTS, Viewer, Watched
from tests.formats.samples import SAMPLES

WIDTHS = (1_600, 1_000, 400)
SCHEMES = ("light", "dark")
RULES: dict[tuple[int, str], dict[str, Any]] = {
    (1_000, "light"): {},
    (1_000, "dark"): {"runOnly": ["color-contrast"]},
    (400, "light"): {"rules": {"color-contrast": {"enabled": False}}},
}
"""The rules of the accessibility check.

The schemes differ in nothing but their colours, which do not depend on the width, and a page of 1,600 pixels
has no style that one of 1,000 does not have. A session of a sample consists of the elements that the others
have, in the same colours, and their contrast takes most of the time.
"""

PAGES = {
    "sessions": "/",
    "sessions-found": "/?text=cache+forget*&since=year",
    "sessions-none": "/?agent=nobody",
    "session": f"/sessions/{seeds.EVERYTHING}",
    "session-long": f"/sessions/{seeds.LONG}?after=200",
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
            is_repeated = PAGES[name] == "sample" and scheme == "dark"
            if (rules := RULES.get((width, scheme))) is not None and not is_repeated:
                assert found_by_axe(page, rules) == [], (width, scheme)
    assert watched.faults == []


def found_by_axe(page: Page, rules: dict[str, Any]) -> list[str]:
    """The findings of the accessibility check."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    options = {"resultTypes": ["violations"], "preload": False, **rules}
    found = page.evaluate("async (options) => (await axe.run(document, options)).violations", options)
    return [
        f"{each['impact']} {each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found
        for node in each["nodes"]
    ]


def take_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace(' ', '-')}.png")
