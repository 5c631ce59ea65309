"""The owner's and manager's pages in a real browser: on a phone and a desktop, by mouse and by
keyboard alone, with scripts and without, and held to WCAG 2.2 AA."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from sqlalchemy import Connection

from prefs.store import batches
from prefs.store.batches import FEW
from prefs.store.staff import Role
from tests import browser as chromium
from tests.desk import PASSWORD, Desk, add_staff
from tests.hands import HANDS, Hands
from tests.served import Served, eventually, listening
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin
from tests.web.test_browser import SCREENS

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "observe"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
audiences = {{{{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}}}
[brands.rt.targets.timely]
system = "timely"
mode = "live"
"""
SAM, ADA, BOB = "sam@example.co.uk", "ada@example.com", "bob@example.com"
MISSING = "/staff/campaign/none"
"""A page that is not there: a browser says so by itself."""
GUIDELINES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LIST = f"First name,Email\nAda,{ADA}\nBob,{BOB}\n,=cmd@example.com\n".encode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as made:
        yield made


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A clinic with something on every page. What a test changes hurts no other."""
    folder = tmp_path_factory.mktemp("clinic")
    with ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(tempfile, "tempdir", str(folder))
        twin, url = stack.enter_context(running(MailchimpTwin()))
        twin.new_audience("a1", name="Newsletter")
        for address in (ADA, BOB, "cat@example.com"):
            twin.new_member("a1", address)
        extra = TARGETS.format(mailchimp=url).format()
        made = stack.enter_context(listening(folder, extra, environ={"MAILCHIMP": twin.api_key}))
        made.consent(ADA, subject={"email": ADA, "phone": "+447700900101", "name": "Ada Lowe"})
        made.say(BOB, "out")
        for number in range(FEW + 2):
            made.say(f"p{number}@example.com", "out", source="import")
        add_staff(made, SAM)
        yield made


@dataclass
class Seen:
    """What a browser asked for and said."""

    hosts: set[str | None] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    def hear(self, url: str, text: str) -> None:
        if not url.endswith(MISSING):
            self.said.append(text)

    def watch(self, page: Page) -> None:
        page.on("request", lambda asked: self.hosts.add(urlsplit(asked.url).hostname))
        page.on("console", lambda one: self.hear(one.location["url"], one.text))
        page.on("pageerror", lambda fault: self.said.append(str(fault)))


@pytest.fixture(scope="module")
def cookie(rt: Served) -> str:
    """Of one session for all: tries to sign in are counted."""
    sam = Desk(rt, SAM)
    assert sam.sign_in() == 303
    return sam.cookies["prefs_staff"]


def opened(browser: Browser, rt: Served, cookie: str, screen: str, **more: Any) -> BrowserContext:
    url = str(rt.client.base_url)
    made = browser.new_context(viewport=SCREENS[screen], base_url=url, **more)
    made.set_default_timeout(60_000)
    made.add_cookies([{"name": "prefs_staff", "value": cookie, "url": f"{url}/staff"}])
    return made


@pytest.fixture(params=list(SCREENS))
def page(
    request: pytest.FixtureRequest, browser: Browser, rt: Served, cookie: str
) -> Iterator[Page]:
    """A page that asks nobody else and breaks no rule of its own policy."""
    context = opened(browser, rt, cookie, request.param)
    made, seen = context.new_page(), Seen()
    seen.watch(made)
    yield made
    assert seen.hosts <= {"127.0.0.1"}
    assert seen.said == []
    context.close()


@pytest.fixture(params=list(SCREENS))
def plain(
    request: pytest.FixtureRequest, browser: Browser, rt: Served, cookie: str
) -> Iterator[Page]:
    """The same without scripts."""
    context = opened(browser, rt, cookie, request.param, java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.fixture(params=list(HANDS))
def hands(request: pytest.FixtureRequest, page: Page) -> Hands:
    return HANDS[request.param](page)


NEXT = count(1)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name).first


def good(page: Page) -> None:
    """No violation of the guidelines, and nothing wider than the screen."""
    options = {"runOnly": {"type": "tag", "values": GUIDELINES}}
    found = Axe().run(page, options=options).response["violations"]
    told = [f"{one['id']}: {[node['html'] for node in one['nodes']][:3]}" for one in found]
    assert told == [], page.url
    assert narrow(page)


def narrow(page: Page) -> bool:
    """Nothing to scroll sideways to."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def press(page: Page, name: str, key: str = "Enter") -> None:
    """Walk there by the Tab key, and press it."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if name in page.evaluate(FOCUSED):
            page.keyboard.press(key)
            return
    raise AssertionError(f"{name} cannot be reached by keyboard")


FOCUSED = """() => {
  const one = document.activeElement;
  const said = (one.labels && one.labels[0] ? one.labels[0].textContent : one.textContent) || "";
  return said.replace(/\\s+/g, " ").trim();
}"""


# --- every page --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/staff/systems",
        "/staff/systems/mailchimp",
        "/staff/systems/timely",
        "/staff/onboarding",
        "/staff/accounts",
        "/staff/me",
        "/staff/campaign",
        "/staff/overview",
        MISSING,
    ],
)
def test_a_page_is_for_everybody(page: Page, path: str) -> None:
    page.goto(path)
    for summary in page.locator("summary").all():
        summary.click()
    good(page)
    assert page.locator("h1").count() == 1


HIT = "button:visible, summary:visible, nav a:visible, select:visible"


def test_buttons_and_links_can_be_hit(page: Page) -> None:
    """24 by 24 pixels at least (WCAG 2.2, 2.5.8), links within a sentence left out."""
    for path in ("/staff/systems", "/staff/accounts", "/staff/me", "/staff/overview"):
        page.goto(path)
        for one in page.locator(HIT).all():
            box = one.bounding_box()
            assert box
            assert min(box["width"], box["height"]) >= 24, one.inner_text()


def test_focus_is_seen(page: Page) -> None:
    for path in ("/staff/systems", "/staff/campaign", "/staff/accounts"):
        page.goto(path)
        for _ in range(25):
            page.keyboard.press("Tab")
            style = page.evaluate(
                "() => getComputedStyle(document.activeElement).outlineStyle + ' '"
                " + getComputedStyle(document.activeElement).outlineWidth"
            )
            assert style != "none 0px", page.evaluate(FOCUSED)


# --- systems -----------------------------------------------------------------------------------


def test_what_differs_is_read_and_shown_by_itself(page: Page) -> None:
    page.goto("/staff/systems/mailchimp")
    press(page, "Read it and compare")
    page.get_by_text("3 entries read").wait_for()
    good(page)


def test_the_report_comes_without_scripts_too(plain: Page) -> None:
    plain.goto("/staff/onboarding")
    press_plain(plain, "Read all systems now")

    def there() -> bool:
        plain.goto("/staff/onboarding")
        return plain.get_by_text("Report of").count() > 0

    eventually(there)
    assert narrow(plain)


def press_plain(page: Page, name: str) -> None:
    """By the keyboard where no script can say what has the focus."""
    page.get_by_role("button", name=name).focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_a_batch_is_taken_back_only_with_a_reason(page: Page) -> None:
    page.goto("/staff/systems")
    press(page, "It was a fault")
    press(page, "What went wrong", "Shift")
    assert page.evaluate("document.activeElement.required")
    press(page, "Take these opt-outs back")
    assert page.url.endswith("/staff/systems"), "an empty reason is not sent"
    assert page.get_by_text("other systems wait for you").count() == 1


def held(rt: Served) -> str:
    """A batch of an origin of its own that waits; returns the origin."""
    origin, now = f"rt/flood{next(NEXT)}", rt.runtime.clock().timestamp()

    def flood(conn: Connection) -> None:
        batch = batches.join(conn, "rt", origin, now)
        batches.grow(conn, batch, FEW + 2, now, holds=True, walking=False)

    rt.runtime.database.write_now(flood)
    return origin


def test_other_systems_follow_and_it_is_taken_back(page: Page, rt: Served, hands: Hands) -> None:
    origin = held(rt)
    page.goto("/staff/systems")
    card = page.locator("article").filter(has_text=origin)
    hands.press(card.get_by_role("button", name="Let other systems follow"))
    page.wait_for_url("**#batches")
    eventually(lambda: batch_state(rt, origin) == batches.RELEASED)
    hands.press(page.locator("summary", has_text="Other runs"))
    hands.press(card.locator("summary"))
    hands.write(card.get_by_label("What went wrong"), "the wrong file")
    hands.press(card.get_by_role("button", name="Take these opt-outs back"))
    eventually(lambda: batch_state(rt, origin) == batches.RETRACTED)


def batch_state(rt: Served, origin: str) -> str:
    listed = rt.runtime.database.read_now(lambda conn: batches.listed(conn, "rt"))
    (state,) = [one.state for one in listed if one.origin == origin]
    return state


def test_a_report_is_made(page: Page, hands: Hands) -> None:
    page.goto("/staff/onboarding")
    made = page.locator("h2", has_text="Report of")
    before = made.all_inner_texts()
    hands.press(button(page, "Read all systems now"))
    expect(made).to_have_count(1)
    expect(made).not_to_have_text(before or ["none"])


# --- accounts ----------------------------------------------------------------------------------


def test_somebody_is_let_in_by_keyboard(page: Page, rt: Served) -> None:
    width = page.viewport_size
    assert width
    email = f"new{width['width']}@example.co.uk"
    page.goto("/staff/accounts")
    press(page, "Email address", "Shift")
    page.keyboard.type(email)
    press(page, "Make the account")
    shown = page.locator("code.secret")
    shown.wait_for()
    assert len(shown.inner_text()) >= 16
    good(page)


def test_an_account_is_made_changed_and_ended(page: Page, rt: Served, hands: Hands) -> None:
    email = f"kit{next(NEXT)}@example.co.uk"
    page.goto("/staff/accounts")
    hands.write(page.locator("form[action='/staff/accounts/add'] [name=email]"), email)
    hands.press(button(page, "Make the account"))
    page.locator("code.secret").wait_for()
    kit = page.locator("article").filter(has_text=email)
    hands.press(kit.locator("summary"))
    hands.select(kit.get_by_label("Role"), "Manager")
    hands.press(kit.get_by_role("button", name="Set the role"))
    kit.get_by_text("Manager", exact=True).first.wait_for()
    hands.press(kit.locator("summary"))
    hands.press(kit.get_by_role("button", name="End this account"))
    page.wait_for_url("**/staff/accounts")
    kit.wait_for(state="detached")
    assert Desk(rt, email).sign_in() == 401


def test_a_second_press_meanwhile_is_none(page: Page, rt: Served) -> None:
    """Else its answer would hide the password that is shown once."""
    email = f"twice{next(NEXT)}@example.co.uk"
    page.goto("/staff/accounts")
    page.locator("form[action='/staff/accounts/add'] [name=email]").fill(email)
    held_up: list[Route] = []
    page.route("**/accounts/add", lambda route: held_up.append(route))
    make = button(page, "Make the account")
    make.scroll_into_view_if_needed()
    box = make.bounding_box()
    assert box
    for _ in range(2):
        page.mouse.click(box["x"] + 20, box["y"] + 10)
        page.wait_for_timeout(100)
    (first,) = held_up
    first.continue_()
    password = page.locator("code.secret").inner_text()
    assert Desk(rt, email).sign_in(password) == 303


def test_a_key_is_made_and_revoked(page: Page, rt: Served, hands: Hands) -> None:
    page.goto("/staff/accounts")
    hands.tick(page.locator("[name=scope_check]"))
    hands.press(button(page, "Make the key"))
    key = page.locator("code.secret").inner_text()
    asked = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": [ADA]}
    told = {"Authorization": f"Bearer {key}"}
    assert rt.client.post("/v1/check", json=asked, headers=told).is_success
    hands.press(button(page, f"Revoke {key.split('_')[1]}"))
    page.wait_for_url("**#keys")

    def refused() -> bool:
        return bool(rt.client.post("/v1/check", json=asked, headers=told).status_code == 401)

    eventually(refused)


def test_my_password_is_changed(page: Page, rt: Served, hands: Hands) -> None:
    lee = Desk(rt, f"lee{next(NEXT)}@example.co.uk")
    add_staff(rt, lee.email, Role.RECEPTION)
    assert lee.sign_in() == 303
    base = str(rt.client.base_url)
    cookie = {"name": "prefs_staff", "value": lee.cookies["prefs_staff"], "url": f"{base}/staff"}
    page.context.add_cookies([cookie])  # type: ignore[list-item]  # playwright's own dictionary
    page.goto("/staff/me")
    new = "another horse battery"
    hands.write(page.get_by_label("Your present password"), PASSWORD)
    hands.write(page.locator("[name=new]"), new)
    hands.write(page.locator("[name=again]"), new)
    hands.press(button(page, "Change my password"))
    page.get_by_role("heading", name="Your password is changed").wait_for()
    good(page)
    assert lee.ask("GET", "/staff").status_code == 303
    assert lee.sign_in() == 401
    assert lee.sign_in(new) == 303


def test_the_ledger_is_verified_by_keyboard(page: Page) -> None:
    page.goto("/staff/accounts")
    press(page, "Verify the whole ledger")
    page.get_by_text("nothing missing and nothing changed").wait_for()


def test_a_second_factor_is_set_up_and_removed_by_keyboard(page: Page) -> None:
    page.goto("/staff/me")
    press(page, "Set it up")
    picture = page.locator("img[src='/staff/me/totp.svg']")
    picture.wait_for()
    eventually(lambda: page.evaluate("document.images[0].naturalWidth") > 100)
    good(page)
    secret = page.locator("code.secret").inner_text().replace(" ", "")
    press(page, "Code", "Shift")
    page.keyboard.type(pyotp.TOTP(secret).now())
    page.keyboard.press("Enter")
    page.get_by_text("is asked for whenever you sign in").wait_for()
    good(page)
    page.locator("#totp").scroll_into_view_if_needed()
    field = page.locator("form[action='/staff/me/totp/remove'] input[type=password]")
    field.focus()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Set it up").wait_for()


# --- a list before a campaign ------------------------------------------------------------------


def test_a_list_is_checked_by_keyboard(page: Page, tmp_path: Path) -> None:
    (tmp_path / "spring.csv").write_bytes(LIST)
    page.goto("/staff/campaign")
    with page.expect_file_chooser() as chooser:
        press(page, "List (CSV)")
    chooser.value.set_files(tmp_path / "spring.csv")
    press(page, "Look at this list")
    page.get_by_role("heading", name="spring.csv").wait_for()
    assert page.locator("[name=column]").input_value() == "1"
    good(page)
    press(page, "Check every row")
    page.get_by_text("of 3 may be sent to.").wait_for()
    good(page)
    with page.expect_download() as got:
        press(page, "Download the checked list")
    assert got.value.suggested_filename == "checked-spring.csv"
    found = Path(got.value.path()).read_bytes().splitlines()
    assert found[0] == b"First name,Email,allowed,reason"
    assert found[1:3] == [
        b"Ada,ada@example.com,true,consent",
        b"Bob,bob@example.com,false,opted_out",
    ]
    press(page, "Delete this list now")
    page.wait_for_url("**/staff/campaign")
    assert page.get_by_text("spring.csv").count() == 0


def test_a_list_of_numbers_is_checked(page: Page, tmp_path: Path, hands: Hands) -> None:
    (tmp_path / "texts.csv").write_bytes(b"Name,Mobile\nAda,07700 900101\n")
    page.goto("/staff/campaign")
    with page.expect_file_chooser() as chooser:
        hands.press(page.locator("input[type=file]"))
    chooser.value.set_files(tmp_path / "texts.csv")
    hands.press(button(page, "Look at this list"))
    page.get_by_role("heading", name="texts.csv").wait_for()
    hands.select(page.get_by_label("Sent by"), "Phone call")
    hands.press(button(page, "Check every row"))
    page.get_by_text("of 1 may be sent to.").wait_for()
    page.get_by_text("screening_stale").wait_for()
    hands.press(button(page, "Delete this list now"))
    page.wait_for_url("**/staff/campaign")


def test_a_list_is_dropped_onto_the_page(page: Page, tmp_path: Path) -> None:
    (tmp_path / "dropped.csv").write_bytes(LIST)
    page.goto("/staff/campaign")
    box = page.locator("input[type=file]").bounding_box()
    assert box
    drag = {
        "x": box["x"] + box["width"] / 2,
        "y": box["y"] + box["height"] / 2,
        "data": {"items": [], "files": [str(tmp_path / "dropped.csv")], "dragOperationsMask": 1},
    }
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **drag})
    page.get_by_role("button", name="Look at this list").click()
    page.get_by_role("heading", name="dropped.csv").wait_for()


def test_a_list_is_checked_without_scripts(plain: Page, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_bytes(LIST)
    plain.goto("/staff/campaign")
    plain.locator("input[type=file]").set_input_files(tmp_path / "plain.csv")
    press_plain(plain, "Look at this list")
    plain.get_by_role("heading", name="plain.csv").wait_for()
    assert narrow(plain)
    press_plain(plain, "Check every row")
    path = re.sub("#.*", "", plain.url)

    def there() -> bool:
        plain.goto(path)
        return plain.get_by_text("of 3 may be sent to.").count() > 0

    eventually(there)
    assert narrow(plain)


# --- the overview ------------------------------------------------------------------------------


COLOURS = """one => {
  const all = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  return new Set(all.data).size;
}"""


def test_pictures_are_drawn_and_the_tables_stay(page: Page) -> None:
    page.goto("/staff/overview")
    pictures = page.locator("canvas")
    tables = page.locator(".pair table")
    assert pictures.count() == tables.count() == 5
    for one in pictures.all():
        assert one.is_visible()
        assert one.get_attribute("aria-label")
        drawn = one.evaluate(COLOURS)
        assert drawn > 5
    assert all(one.is_visible() for one in tables.all())
    press(page, "26 weeks")
    page.wait_for_url("**weeks=26")
    good(page)


def test_without_scripts_the_tables_are_all_there_is(plain: Page) -> None:
    plain.goto("/staff/overview")
    assert not any(one.is_visible() for one in plain.locator("canvas").all())
    assert all(one.is_visible() for one in plain.locator(".pair table").all())
    assert narrow(plain)
