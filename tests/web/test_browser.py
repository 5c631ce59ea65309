"""The people's pages in a real browser, with scripts switched off and on a phone."""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from email import policy
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from tests import browser as chromium
from tests.served import Served, eventually, listening

pytestmark = pytest.mark.told_on("sqlite")

SCREENS = {
    "phone": ViewportSize(width=360, height=740),
    "desktop": ViewportSize(width=1280, height=800),
}
SMS_TOO = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
ADA, ADAS_PHONE = "ada@example.com", "+447700900101"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as made:
        yield made


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with listening(tmp_path) as made:
        both = {"subject": {"email": ADA, "phone": ADAS_PHONE}}
        made.consent(ADA, **both)
        made.consent(ADA, **both, changes=SMS_TOO)
        yield made


@pytest.fixture(params=list(SCREENS))
def page(request: pytest.FixtureRequest, browser: Browser, rt: Served) -> Iterator[Page]:
    """A page that asks nobody else, breaks no rule of its own policy and fits its screen."""
    context = browser.new_context(viewport=SCREENS[request.param], java_script_enabled=False)
    made = context.new_page()
    hosts: set[str | None] = set()
    said: list[str] = []
    made.on("request", lambda asked: hosts.add(urlsplit(asked.url).hostname))
    made.on("console", lambda one: said.append(f"{one.location['url'][-9:]}: {one.text}"))
    yield made
    assert hosts == {"127.0.0.1"}
    assert [one for one in said if not one.startswith("/u/forged: ")] == []
    assert context.cookies() == []
    context.close()


def fits(page: Page) -> bool:
    """No line is wider than the screen."""
    box = page.locator("body").bounding_box()
    view = page.viewport_size
    assert box
    assert view
    widest = max(
        (item.bounding_box() or {"x": 0.0, "width": 0.0} for item in page.locator("body *").all()),
        key=lambda one: one["x"] + one["width"],
    )
    return widest["x"] + widest["width"] <= view["width"] + 1


def unsubscribe(rt: Served) -> str:
    return str(rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"])


def fresh_centre(rt: Served) -> str:
    """The link in the mail that Ada asked for."""
    mail = rt.runtime.settings.mail
    assert mail
    folder = Path(urlsplit(mail.send).path)
    rt.client.post("/p?brand=rt", data={"email": ADA})
    eventually(lambda: list(folder.glob("*.eml")))
    (sent,) = folder.glob("*.eml")
    message = email.message_from_bytes(sent.read_bytes(), policy=policy.default)
    body = message.get_body(("plain",))
    assert body
    (found,) = re.findall(r"http\S+/p/\S+", body.get_content())
    return str(found)


def test_looking_changes_nothing_and_one_press_stops(page: Page, rt: Served) -> None:
    page.goto(unsubscribe(rt))
    assert fits(page)
    assert ADA not in page.content()
    assert rt.reason(ADA) == "consent"
    page.get_by_role("button", name="Unsubscribe").click()
    assert fits(page)
    assert "appointment" in page.locator("main").inner_text().lower()
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason(ADAS_PHONE, channel="sms") == "consent"


def test_stop_all_marketing(page: Page, rt: Served) -> None:
    page.goto(unsubscribe(rt))
    page.get_by_role("button", name="Stop all marketing").click()
    assert fits(page)
    assert rt.reason(ADA) == "objected"
    assert rt.reason(ADAS_PHONE, channel="sms") == "objected"
    assert rt.reason(ADAS_PHONE, channel="sms", purpose="reminders") == "service"


def test_the_centre_by_mouse_and_by_keyboard(page: Page, rt: Served) -> None:
    path = fresh_centre(rt)
    page.goto(path)
    assert fits(page)
    box = page.locator('input[name="choice:email:*"]')
    assert box.is_checked()
    box.uncheck()
    page.get_by_role("button", name="Save").click()
    assert rt.reason(ADA) == "opted_out"
    page.goto(path)
    box = page.locator('input[name="choice:email:*"]')
    assert not box.is_checked()
    box.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.locator("h1").wait_for()
    assert rt.reason(ADA) == "consent"


def test_every_box_and_button_can_be_named_and_hit(page: Page, rt: Served) -> None:
    page.goto(fresh_centre(rt))
    for box in page.locator("input[type=checkbox]").all():
        name = box.get_attribute("name")
        assert page.locator(f'label:has(input[name="{name}"]), label[for="{name}"]').count() == 1
    for button in page.get_by_role("button").all():
        size = button.bounding_box()
        assert size
        assert size["height"] >= 44, "WCAG 2.5.5's comfortable target"
    assert page.locator("html").get_attribute("lang")
    assert page.locator("h1").count() == 1


def test_asking_for_a_link(page: Page, rt: Served) -> None:
    page.goto(f"{rt.client.base_url}/p?brand=rt")
    page.get_by_label("email", exact=False).fill(ADA)
    page.get_by_role("button").click()
    assert fits(page)
    assert ADA not in page.url


def test_a_forged_link_offers_the_way(page: Page, rt: Served) -> None:
    page.goto(f"{rt.client.base_url}/u/forged")
    assert fits(page)
    page.locator('a[href^="/p"]').first.click()
    assert page.locator("input[type=email]").count() == 1
