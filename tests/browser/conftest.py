"""Chromium, and a viewer with sessions of every kind to look at.

The browser of the machine is driven, none is downloaded. One browser serves the tests of this folder, each
of which has a profile of its own in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.browser import seeds

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

TIMEOUT_MS = 30_000
"""How long a test waits for what a page does. It is only reached if that never happens."""


@dataclass(frozen=True)
class Viewer:
    """`asm serve` as a process, and the database that it shows."""

    url: str
    dsn: str
    imported: dict[str, str]
    file: Path


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(f"no {', '.join(NAMES[:-1])} or {NAMES[-1]} is on the PATH")
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root.
        sandbox = os.geteuid() != 0
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def viewer(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("viewer")
    dsn = f"sqlite:///{folder / 'store.db'}"
    imported = seeds.fill(dsn)
    file = folder / "session.html"
    file.write_bytes(subprocess.check_output(command("show", seeds.EVERYTHING, "--html", "--dsn", dsn)))
    serve = command("serve", dsn, "--port", "0", "--no-browser")
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Viewer(process.stdout.readline().strip().rstrip("/"), dsn, imported, file)
        process.terminate()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "asm", *arguments]


@dataclass
class Watched:
    """A page in a profile of its own, and what it did that no page of the viewer may do."""

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        # An error page is reported as a document that could not be loaded.
        is_status = message.text.startswith("Failed to load resource: the server responded with")
        if message.type in ("error", "warning") and not (
            is_status and message.location["url"] == self.page.url
        ):
            self.faults.append(f"{message.type}: {message.text} {message.location['url']}")

    def _on_request(self, request: Request) -> None:
        is_file = request.is_navigation_request() and request.url.startswith("file:")
        if not is_file and not request.url.startswith((f"{self.origin}/", "data:")):
            self.faults.append(f"request: {request.url}")


@pytest.fixture
def opened_page(browser: Browser, viewer: Viewer) -> Iterator[Callable[..., Watched]]:
    """Opens a page of the viewer by its address, with options of `new_context`."""
    with ExitStack() as stack:

        def open_page(url: str, **options: Any) -> Watched:
            context = browser.new_context(**{"base_url": viewer.url, "reduced_motion": "reduce", **options})
            stack.callback(context.close)
            context.set_default_timeout(TIMEOUT_MS)
            watched = Watched(context.new_page(), viewer.url)
            watched.page.goto(url)
            return watched

        yield open_page
