"""Every page at every width, light and dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser import seeds
from tests.browser.conftest import SCREENSHOTS, Viewer, Watched
from tests.formats.samples import SAMPLES

WIDTHS = (400, 1_000, 1_600)
SCHEMES = ("light", "dark")
_SHOT_HEIGHT_MAX = 4_000

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
    **{f"sample {sample.name}": "sample" for sample in SAMPLES},
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_its_width_is_accessible_and_loads_nothing_else(
    opened_page: Callable[..., Watched], viewer: Viewer, name: str, width: int
) -> None:
    url = PAGES[name]
    if url == "file":
        url = viewer.file.as_uri()
    elif url == "sample":
        url = f"/sessions/{viewer.imported[name.removeprefix('sample ')]}"
    watched = opened_page(url, viewport={"width": width, "height": 900})
    page = watched.page
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        take_screenshot(page, f"{name.replace(' ', '-')}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert found_by_axe(page, scheme) == []
    assert watched.faults == []


def found_by_axe(page: Page, scheme: str) -> list[str]:
    """The findings of the accessibility check. The schemes differ in nothing but their colours."""
    rules = {} if scheme == SCHEMES[0] else {"runOnly": ["color-contrast"]}
    found = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
    return [
        f"{each['impact']} {each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found
        for node in each["nodes"]
    ]


def take_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    height = min(page.evaluate("document.documentElement.scrollHeight"), _SHOT_HEIGHT_MAX)
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}  # type: ignore[index]
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, clip=clip)  # type: ignore[arg-type]
