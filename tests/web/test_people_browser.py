"""The people's pages in Chromium: each flow by mouse and by keyboard alone, on a phone and a desk,
with scripts off; axe-core finds nothing; scanners that run scripts change nothing."""

from __future__ import annotations

import email
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, ViewportSize

from prefs import links
from prefs.core import identity
from prefs.core.tokens import TokenKind
from prefs.core.words import Kind
from tests import browser as chromium
from tests.served import Served, eventually, listening

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

SCREENS = {
    "phone": ViewportSize(width=360, height=740),
    "desk": ViewportSize(width=1280, height=800),
}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
TARGET = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
audiences = { a1 = ["treatments", "offers"] }
"""
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as made:
        yield made


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("people")
    with listening(folder, TARGET, environ={"KEY": "abc-us6"}) as made:
        yield made


@contextmanager
def opened(browser: Browser, screen: str, *, scripts: bool = False) -> Iterator[Page]:
    context = browser.new_context(viewport=SCREENS[screen], java_script_enabled=scripts)
    try:
        yield context.new_page()
    finally:
        context.close()


@pytest.fixture(params=list(SCREENS))
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    with opened(browser, request.param) as made:
        yield made


@pytest.fixture
def ada(rt: Served) -> str:
    """Somebody new with email and texts on."""
    number = next(numbers)
    address, phone = f"ada{number}@example.com", f"+447700900{200 + number}"
    both = {"subject": {"email": address, "phone": phone, "name": "Ada Lowe"}}
    rt.consent(address, **both)
    sms = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
    rt.consent(address, **both, changes=sms)
    return address


def link(rt: Served, kind: TokenKind, address: str) -> str:
    service = rt.runtime.service
    hash_ = service.keys.hash(identity.email(address))
    holder = links.Holder("rt", Kind.EMAIL, hash_)
    return f"{str(rt.client.base_url).rstrip('/')}{links.path(service, kind, holder)}"


def focus(page: Page, locator: str) -> None:
    """Tab to what is wanted, as somebody without a mouse does."""
    wanted = page.locator(locator).first.element_handle()
    for _ in range(90):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"the keyboard does not reach {locator}")


def by_keyboard(page: Page, locator: str, key: str = "Enter") -> None:
    focus(page, locator)
    page.keyboard.press(key)


def by_mouse(page: Page, locator: str, key: str = "") -> None:
    page.locator(locator).first.click()


Press = Callable[..., None]
ways = pytest.mark.parametrize("press", [by_mouse, by_keyboard])


def heading(page: Page, text: str) -> None:
    page.get_by_role("heading", level=1, name=text).wait_for()


# --- flows -------------------------------------------------------------------------------------


@ways
def test_from_mail_to_stopped_in_two_clicks(page: Page, rt: Served, ada: str, press: Press) -> None:
    """The link in the mail is the first, the button the second."""
    page.goto(link(rt, TokenKind.FOOTER_UNSUBSCRIBE, ada))
    press(page, "form button")
    heading(page, "You are unsubscribed")
    assert rt.reason(ada) == "opted_out"


@ways
def test_a_save_and_its_undo(page: Page, rt: Served, ada: str, press: Press) -> None:
    page.goto(link(rt, TokenKind.CENTRE_FRESH, ada))
    press(page, 'input[name="choice:email:*"]', "Space")
    press(page, "fieldset ~ button")
    heading(page, "Your preferences are saved")
    assert rt.reason(ada) == "opted_out"
    press(page, 'form:has(input[name="undo"]) button')
    heading(page, "Your preferences are saved")
    assert rt.reason(ada) == "consent"


@ways
def test_stop_all_from_a_mail(page: Page, rt: Served, ada: str, press: Press) -> None:
    page.goto(link(rt, TokenKind.FOOTER_UNSUBSCRIBE, ada))
    press(page, 'form[action$="/all"] button')
    heading(page, "All marketing is stopped")
    assert rt.reason(ada) == "objected"
    assert rt.reason(ada, purpose="reminders") == "service"


@ways
def test_stop_all_in_the_centre_and_its_undo(
    page: Page, rt: Served, ada: str, press: Press
) -> None:
    page.goto(link(rt, TokenKind.CENTRE_FRESH, ada))
    press(page, 'form[action$="/all"] button')
    heading(page, "All marketing is stopped")
    assert rt.reason(ada) == "objected"
    press(page, 'form:has(input[name="undo"]) button')
    heading(page, "Your preferences are saved")
    assert rt.reason(ada) == "consent"


@ways
def test_a_break_and_its_end(page: Page, rt: Served, ada: str, press: Press) -> None:
    page.goto(link(rt, TokenKind.CENTRE_FRESH, ada))
    press(page, 'form[action$="/pause"] button')
    heading(page, "Your break begins now")
    assert rt.reason(ada) == "opted_out"
    press(page, 'form[action$="/resume"] button')
    heading(page, "Your break is over")
    assert rt.reason(ada) == "consent"


@ways
def test_a_complaint(page: Page, rt: Served, ada: str, press: Press) -> None:
    page.goto(link(rt, TokenKind.FOOTER_UNSUBSCRIBE, ada))
    press(page, 'a[href^="/complain/"]')
    heading(page, "Complain about how we use your data")
    press(page, "textarea", "End")
    page.keyboard.type(f"No more calls please, {ada}")
    press(page, "form button")
    heading(page, "Your complaint has arrived")
    texts = [one["body"]["text"] for one in rt.get("/v1/tasks?kind=complaint").json()["items"]]
    assert f"No more calls please, {ada}" in texts


@ways
def test_what_we_hold(page: Page, rt: Served, ada: str, press: Press) -> None:
    page.goto(link(rt, TokenKind.CENTRE_FRESH, ada))
    press(page, 'a[href$="/data"]')
    heading(page, "What we hold about you")
    press(page, "summary")
    assert page.locator("details[open] .quoted").inner_text() == "Yes please"


@ways
def test_a_footer_link_asks_for_a_fresh_one(page: Page, rt: Served, ada: str, press: Press) -> None:
    rt.say(ada)
    page.goto(link(rt, TokenKind.CENTRE_FOOTER, ada))
    press(page, 'input[name="choice:email:*"]', "Space")
    press(page, "fieldset ~ button")
    heading(page, "We send you a personal link")
    assert rt.reason(ada) == "opted_out"


@ways
def test_from_a_wrong_link_to_a_personal_one(
    page: Page, rt: Served, ada: str, press: Press
) -> None:
    page.goto(f"{str(rt.client.base_url).rstrip('/')}/u/forged")
    heading(page, "This link does not work")
    press(page, 'main a[href="/p"]')
    press(page, 'input[name="email"]', "End")
    page.keyboard.type(ada)
    press(page, "form button")
    heading(page, "Thank you")
    page.goto(mailed(rt, ada, "/p/"))
    heading(page, "What may RT Aesthetics send you?")
    assert page.locator('input[name="choice:email:*"]').is_checked()


@ways
def test_asking_for_ones_own_link_on_somebody_elses_page(
    page: Page, rt: Served, ada: str, press: Press
) -> None:
    page.goto(link(rt, TokenKind.FOOTER_UNSUBSCRIBE, ada))
    press(page, "summary")
    press(page, 'details a[href^="/p?brand="]')
    heading(page, "See and change what we send you")
    assert rt.reason(ada) == "consent"


def mailed(rt: Served, address: str, door: str) -> str:
    """The link to that door in this brand's mail to this address, once it has come. The other one
    of the controller writes too where no brand was named."""
    mail = rt.runtime.settings.mail
    assert mail
    folder, found = Path(urlsplit(mail.send).path), []

    def came() -> list[str]:
        for file in folder.glob("*.eml"):
            message = email.message_from_bytes(file.read_bytes(), policy=policy.default)
            body = message.get_body(("plain",))
            ours = message["To"] == address and message["Subject"].endswith("RT Aesthetics")
            if body and ours:
                found.extend(re.findall(rf"http\S+{door}\S+", body.get_content()))
        return found

    eventually(came)
    return str(found[0])


# --- a clinic's own site -----------------------------------------------------------------------


@contextmanager
def other_site(form: str) -> Iterator[str]:
    """A page of another origin that carries the form as it was copied."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as http.server names it
            body = f"<!doctype html><title>Clinic</title><h1>News</h1>{form}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_address[1]}/news?from=mail"
    finally:
        server.shutdown()
        server.server_close()


@ways
def test_signing_up_on_another_site(page: Page, rt: Served, press: Press) -> None:
    address = f"new{next(numbers)}@example.com"
    with other_site(rt.client.get("/signup/form?brand=rt").text) as url:
        page.goto(url)
        assert page.locator("input:checked").count() == 0
        assert not page.locator('input[name="website"]').is_visible()
        press(page, 'input[name="email"]', "End")
        page.keyboard.type(address)
        press(page, 'input[name="choice:email:*"]', "Space")
        press(page, "button")
        heading(page, "Thank you")
    assert page.context.cookies() == []
    eventually(lambda: rt.reason(address) == "unconfirmed")
    page.goto(mailed(rt, address, "/c/"))
    heading(page, "Did you ask for this?")
    press(page, "form button")
    heading(page, "Thank you, it is confirmed")
    assert rt.reason(address) == "consent"


# --- for everybody -----------------------------------------------------------------------------


def pages(rt: Served, ada: str) -> dict[str, str]:
    """Every page that can be looked at, by name; the one that stops all comes last."""
    base = str(rt.client.base_url).rstrip("/")
    fresh, footer = (
        link(rt, kind, ada) for kind in (TokenKind.CENTRE_FRESH, TokenKind.CENTRE_FOOTER)
    )
    return {
        "centre": fresh,
        "centre by a footer": footer,
        "data": f"{fresh}/data",
        "data by a footer": f"{footer}/data",
        "confirm": link(rt, TokenKind.CONFIRM, ada),
        "complain": link(rt, TokenKind.COMPLAIN, ada),
        "request": f"{base}/p?brand=rt",
        "request of no brand": f"{base}/p",
        "signup": f"{base}/signup?brand=rt",
        "forged": f"{base}/u/forged",
        "unsubscribe": link(rt, TokenKind.FOOTER_UNSUBSCRIBE, ada),
    }


ACTS: dict[str, tuple[str, ...]] = {
    "unsubscribe": ("form button", 'form[action$="/all"] button'),
    "centre": (
        'form[action$="/pause"] button',
        'form[action$="/resume"] button',
        "fieldset ~ button",
        'form[action$="/all"] button',
    ),
    "confirm": ("form button",),
    "request": ("form button",),
    "signup": ("form button",),
    "complain": ("form button",),
}
"""What is pressed on a page, one after another: what follows is looked at too."""
FILLED = {"request": ("email", "ada@example.com"), "complain": ("text", "Please explain.")}


def looked_at(page: Page, rt: Served, ada: str) -> Iterator[str]:
    for name, url in pages(rt, ada).items():
        page.goto(url)
        for summary in page.locator("summary").all():
            summary.click()
        yield name
        for number, button in enumerate(ACTS.get(name, ())):
            page.goto(url) if name == "unsubscribe" else None
            if name in FILLED:
                page.fill(f'[name="{FILLED[name][0]}"]', FILLED[name][1])
            page.locator(button).first.click()
            page.locator("main h1").wait_for()
            yield f"{name}, after act {number + 1}"


@pytest.mark.parametrize("screen", list(SCREENS))
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    browser: Browser, rt: Served, ada: str, screen: str
) -> None:
    options = {"runOnly": {"type": "tag", "values": TAGS}, "resultTypes": ["violations"]}
    found: dict[str, Any] = {}
    with opened(browser, screen, scripts=True) as page:
        for name in looked_at(page, rt, ada):
            results = Axe().run(page, options=options)
            if results.violations_count:
                wrong = results.response["violations"]
                found[name] = [(one["id"], one["nodes"][0]["html"]) for one in wrong]
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, name
            for button in page.get_by_role("button").all():
                box = button.bounding_box()
                assert box is not None
                assert box["height"] >= 24, f"{name}: WCAG 2.5.8"
    assert found == {}


OVER = """all => all.filter(one => {
    const words = document.createRange();
    words.selectNodeContents(one);
    return words.getBoundingClientRect().right > one.closest("label").getBoundingClientRect().right;
}).map(one => one.textContent)"""


@pytest.mark.parametrize("topic", ["Sonderangebote", "Schönheitsbehandlungsneuigkeiten"])
def test_no_long_word_runs_into_the_box_beside_it(
    browser: Browser, tmp_path: Path, topic: str
) -> None:
    """German has them, and a clinic names its own topics."""
    topics = f'[brands.rt.topics]\na = "{topic}"\nb = "Produkte"\n'
    locale = {"PREFS__BRANDS__RT__LOCALE": "de-DE"}
    with listening(tmp_path, topics, environ=locale) as rt, opened(browser, "phone") as page:
        rt.consent("ada@example.com")
        base = str(rt.client.base_url).rstrip("/")
        for url in (link(rt, TokenKind.CENTRE_FRESH, "ada@example.com"), f"{base}/signup?brand=rt"):
            page.goto(url)
            assert page.locator("label span").evaluate_all(OVER) == []


def test_scanners_that_run_scripts_submit_nothing(browser: Browser, rt: Served, ada: str) -> None:
    """They load the page, run what is on it, move over everything, follow every link."""
    methods: set[str] = set()

    def rows(conn: Any) -> int:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one()
        return found

    base, before = str(rt.client.base_url).rstrip("/"), rt.runtime.database.read_now(rows)
    with opened(browser, "desk", scripts=True) as page:
        page.on("request", lambda asked: methods.add(asked.method))
        for url in pages(rt, ada).values():
            page.goto(url, wait_until="networkidle")
            page.evaluate(
                """async () => {
                    for (const one of document.querySelectorAll("*"))
                        for (const kind of ["mouseover", "focus", "mousedown", "touchstart"])
                            one.dispatchEvent(new Event(kind, {bubbles: true}));
                    scrollTo(0, document.body.scrollHeight);
                }"""
            )
            for where in {a.get_attribute("href") for a in page.locator('main a[href^="/"]').all()}:
                page.context.request.get(f"{base}{where}")
            page.wait_for_load_state("networkidle")
    assert methods == {"GET"}
    assert rt.runtime.database.read_now(rows) == before
    assert rt.reason(ada) == "consent"


# --- what came from outside --------------------------------------------------------------------

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</textarea><svg onload=alert(1)>",
    "{{ 7 * 7 }} {brand} %s",
    "a\u202eb\u200bc",
    "x\r\nBcc: eve@example.com",
)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_what_came_from_outside_is_shown_as_text(browser: Browser, rt: Served, attack: str) -> None:
    """In a name, in the words of a consent, in a complaint, in a form that is shown again."""
    address = f"attacked{next(numbers)}@example.com"
    rt.say(
        address,
        "in",
        basis="consent",
        subject={"email": address, "name": attack},
        evidence={"wording": attack, "page": attack},
    )
    dialogs: list[str] = []

    def noted(one: Dialog) -> None:
        dialogs.append(one.message)
        one.dismiss()

    with opened(browser, "desk", scripts=True) as page:
        page.on("dialog", noted)
        page.goto(f"{link(rt, TokenKind.CENTRE_FRESH, address)}/data")
        assert as_text(page, attack)
        page.goto(link(rt, TokenKind.COMPLAIN, address))
        page.fill("textarea", attack)
        page.locator("form button").click()
        heading(page, "Your complaint has arrived")
        assert as_text(page, attack)
        page.goto(pages(rt, address)["signup"])
        page.fill('[name="name"]', attack)
        page.locator("main button").click()
        page.locator(".fault").first.wait_for()
        shown = page.locator('[name="name"]').input_value()
        assert "".join(shown.split()) == "".join(attack.split())
        assert as_text(page, "")
    assert dialogs == []


def as_text(page: Page, attack: str) -> bool:
    """Nothing of it has become a part of the page."""
    assert page.locator("script, img, svg, iframe, object, [onerror], [onload]").count() == 0
    return all(part in (page.locator("main").text_content() or "") for part in attack.splitlines())
