"""Pages are opened in a real Chromium, headless; without one these tests skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not have done."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Errors and warnings of the console, exceptions, dialogs."""
    requests: list[str] = field(default_factory=list)
    """Whatever it asked for besides itself."""

    def drawn(self) -> Opened:
        """Wait for the chart."""
        self.page.wait_for_selector("#chart[data-drawn]")
        return self


# Not for the session: while Playwright is open its event loop counts as running, and tests of MCP need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=[*root, "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Open a file: `opened(path, width=390, dark=True, hash="#attempt-3")`. Afterwards nothing must have gone wrong."""
    contexts, pages = [], []

    def open_page(
        path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, fragment: str = "", **options: Any
    ) -> Opened:
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        found = Opened(context.new_page())
        pages.append(found)
        own = path.resolve().as_uri()

        def decide(route: Any) -> None:
            if route.request.url.partition("#")[0] == own:
                route.continue_()
            else:
                found.requests.append(route.request.url)
                route.abort()

        context.route("**/*", decide)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("dialog", lambda dialog: (found.errors.append(dialog.message), dialog.dismiss()))
        found.page.on(
            "console",
            lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        found.page.goto(own + fragment)
        return found

    yield open_page
    for context in contexts:
        context.close()
    assert [error for found in pages for error in found.errors] == []
    assert [request for found in pages for request in found.requests] == []
