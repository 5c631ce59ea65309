"""The twins' pages in a browser: nothing runs off a phone's screen, a button leads back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from prefs.demo.people import AMELIA, ERIN
from prefs.demo.system import Vendor
from prefs.demo.systems import SYSTEMS
from tests import browser
from tests.twins.__main__ import load
from tests.twins.kit import running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.running() as made:
        yield made


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_off_the_screen(chromium: Browser, name: str, width: int) -> None:
    system = SYSTEMS[name]
    with running(load(name)) as (_, url):
        vendor = Vendor(name, url, "", dict.fromkeys(system.secrets, "x" * 40))
        system.furnish(vendor)
        for person in (AMELIA, ERIN):
            system.add(vendor, person)
        page = chromium.new_page(viewport={"width": width, "height": 844})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/?still")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator(".mark").count() >= 4
        buttons = page.locator("td button").count()
        assert buttons >= 2
        page.locator("td button").first.click()
        assert page.url == f"{url}/?still"
        assert all(one.startswith((url, "data:")) for one in asked)
        page.close()
