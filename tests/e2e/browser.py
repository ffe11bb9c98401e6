"""A real browser on the page, and what is done in it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.built import built

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
PICTURES: Final = ROOT / "build" / "screenshots"  # kept by CI
PATIENCE: Final = 30_000  # ms


class Page:
    """One tab, on the page at ``url``. What it says on its console as an error is kept."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab = tab
        self.url = url
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        tab.on("request", lambda asked: None if asked.url.startswith(url) else self.elsewhere.append(asked.url))

    def open(self, where: str) -> None:
        """Go to a screen, and wait until it is shown."""
        self.tab.goto(f"{self.url}#/{where}")
        self.shown(where)

    def shown(self, where: str) -> None:
        """Wait until a screen is shown."""
        self.until(f"document.getElementById('main').dataset.shown?.startsWith({json.dumps('#/' + where)})")

    def settled(self) -> None:
        """Wait until nothing is being asked for."""
        self.until("document.getElementById('main').getAttribute('aria-busy') === null")

    def until(self, condition: str) -> None:
        """Wait until an expression is true.

        Playwright's own way compiles it in the page each time, which the page's policy forbids.
        """
        self.tab.evaluate(
            f"""new Promise((resolve, reject) => {{
                const ends = Date.now() + {PATIENCE};
                const look = () => {{
                    if ({condition}) resolve();
                    else if (Date.now() > ends) reject(new Error({json.dumps(f"still not: {condition}")}));
                    else setTimeout(look, 20);
                }};
                look();
            }})"""
        )

    def picture(self, name: str) -> None:
        """Keep a picture."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=PICTURES / f"{name}.png")

    def focused(self) -> str:
        """The text of the element that has the focus."""
        return str(self.tab.evaluate("document.activeElement.textContent"))


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    command = built("browser")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
        chromium = playwright.chromium.launch(executable_path=command, args=arguments)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def page(chromium: Any, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Page]:
    """A tab of its own."""
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    try:
        yield Page(context.new_page(), url)
    finally:
        context.close()
