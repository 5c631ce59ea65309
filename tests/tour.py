"""Pictures of every page, of people's and of the console's, from a sample clinic on this machine:
`make screenshots`, or `python -m tests.tour [--whole] [FOLDER]`.

A phone's screen and a desktop's, as far as one sees without scrolling; `--whole` takes whole pages.
A page of the console that needs nothing in its address is found by itself. Everybody is made up.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page
from starlette.routing import Route

from prefs import links, screening
from prefs.app import make_app
from prefs.core import identity
from prefs.core.errors import Unavailable
from prefs.core.screening import Register
from prefs.core.tokens import TokenKind
from prefs.links import Holder
from prefs.store.database import Database
from prefs.store.staff import Role
from tests import browser as chromium
from tests.desk import PASSWORD, add_staff
from tests.served import Served, eventually, listening, served
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.timely import COLUMNS, TimelyTwin
from tests.web.test_browser import SCREENS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
OWNER = "owner@example.co.uk"
PEOPLE = [
    ("amelia@example.com", "+447700900101", "Amelia Hart", "p1"),
    ("beth@example.com", "+447700900102", "Beth Lowe", "p2"),
    ("chloe@example.com", "+447700900103", "Chloe Marsh", "p3"),
    ("dana@example.com", "+447700900104", "Dana Pike", "p4"),
    ("erin@example.com", "+447700900105", "Erin Shaw", "p5"),
]
AMELIA, BETH, ERIN = PEOPLE[0], PEOPLE[1], PEOPLE[4]
ON_REGISTER, STRANGER = "+447700900198", "+447700900199"
WEEKS = 12
CROWD = 160
"""More clients, so that there is something to count."""
HELD = 52
"""Of an import that waits for the owner."""
TARGETS = """
[brands.rt.targets.mailchimp]
system = "mailchimp"
mode = "live"
base_url = "{mailchimp}"
api_key = "env:MAILCHIMP"
audiences = {{ a1 = ["treatments", "products", "offers", "competitions", "news"] }}
[brands.rt.targets.hubspot]
system = "hubspot"
mode = "observe"
base_url = "{hubspot}"
token = "env:HUBSPOT"
types = {{ 101 = "*" }}
limit = "4000/10s"
[brands.rt.targets.timely]
system = "timely"
mode = "live"
columns = {{ {columns} }}
"""


class Clock:
    """Runs as fast as any, from a day of its own: the pictures do not change with the calendar."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._began = time.monotonic()

    def __call__(self) -> datetime:
        return self._at + timedelta(seconds=time.monotonic() - self._began)

    def forward(self, step: timedelta) -> None:
        self._at += step


# --- the clinic --------------------------------------------------------------------------------


class Clinic(NamedTuple):
    rt: Served
    clock: Clock
    mailchimp: MailchimpTwin


@contextmanager
def clinic(folder: Path) -> Iterator[Clinic]:
    """Twelve weeks without any system; then three are connected, and more happens."""
    clock = Clock(datetime(2026, 3, 3, 10, 0, tzinfo=UTC) - timedelta(weeks=WEEKS))
    chance = random.Random(4)  # the same clinic every time
    with served(folder, clock=clock) as rt:
        left = live_through(rt, clock, chance)
    with ExitStack() as stack:
        mailchimp, mailchimp_url = stack.enter_context(running(MailchimpTwin()))
        hubspot, hubspot_url = stack.enter_context(running(HubspotTwin()))
        furnish(mailchimp, hubspot)
        columns = ", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())
        extra = TARGETS.format(mailchimp=mailchimp_url, hubspot=hubspot_url, columns=columns)
        secrets = {"MAILCHIMP": mailchimp.api_key, "HUBSPOT": hubspot.token}
        rt = stack.enter_context(listening(folder, extra, environ=secrets, clock=clock))
        for address in left[:4]:
            say_no(rt, address, chance)
        for address in left[4 : 4 + HELD]:
            rt.say(address, "out", source="import")
        add_staff(rt, OWNER)
        for screen in SCREENS:
            add_staff(rt, reception(screen), Role.RECEPTION)
        screen_numbers(rt, folder)
        eventually(lambda: settled(rt))
        yield Clinic(rt, clock, mailchimp)


def reception(screen: str) -> str:
    return f"desk-{screen}@example.co.uk"


def screen_numbers(rt: Served, folder: Path) -> None:
    """Against the telephone preference register."""
    file, brand, now = folder / "hits.csv", rt.runtime.settings.brands["rt"], rt.runtime.clock()
    file.write_text(f"{ON_REGISTER}\n")
    when = screening.when(now.isoformat(), brand, now)
    screening.run(screening.Job(rt.runtime.service, brand, Register.TPS, when, file, False, None))


def settled(rt: Served) -> bool:
    """Mailchimp has followed wherever it may."""
    first = rt.get("/v1/targets").json()["items"][0]
    return bool(first["lag"]["p50"] and first["backlog"] <= HELD)


def furnish(mailchimp: MailchimpTwin, hubspot: HubspotTwin) -> None:
    hubspot.limits.windows = ()
    mailchimp.new_audience("a1", name="Newsletter")
    hubspot.new_type("101", "Treatments and offers")
    hubspot.new_type("102", "Competition winners")
    for address in [one[0] for one in PEOPLE] + clients():
        mailchimp.new_member("a1", address)
        hubspot.new_contact(address, statuses={"101": "SUBSCRIBED"})


def clients() -> list[str]:
    return [f"client{number}@example.com" for number in range(CROWD)]


def live_through(rt: Served, clock: Clock, chance: random.Random) -> list[str]:
    """Consents, and by ones and twos people who have had enough; returns who is left."""
    for email, phone, name, ref in PEOPLE:
        who = {"email": email, "phone": phone, "name": name, "ref": ref}
        rt.consent(email, subject=who)
        rt.consent(email, subject=who, changes=[wish("sms", "in")])
    told = {"actor": OWNER, "note": "by phone: no calls at work"}
    rt.say("", changes=[wish("phone", "out")], subject={"ref": "p2"}, source="staff", evidence=told)
    family = {"email": "carl@example.com", "phone": BETH[1], "name": "Carl Lowe", "ref": "p6"}
    rt.consent(family["email"], subject=family)
    left = clients()
    agree = iter(chance.sample(left, len(left)))
    for _ in range(WEEKS):
        clock.forward(timedelta(weeks=1))
        for _ in range(chance.randint(6, 13)):
            rt.consent(next(agree))
        for _ in range(chance.randint(2, 7)):
            number = f"+4477009{chance.randint(2000, 9999):05}"
            rt.consent("", subject={"phone": number}, changes=[wish("sms", "in")])
        for _ in range(chance.randint(3, 9)):
            say_no(rt, left.pop(), chance)
    return left


def wish(channel: str, choice: str) -> dict[str, str]:
    return {"channel": channel, "purpose": "marketing", "choice": choice}


def say_no(rt: Served, email: str, chance: random.Random) -> None:
    made = rt.post("/v1/links", {"brand": "rt", "email": email}).json()
    unsubscribe = urlsplit(made["unsubscribe"]).path
    door = chance.choice(["button", "button", "button", "all", "staff"])
    if door == "button":
        rt.client.post(unsubscribe)
    elif door == "all":
        rt.client.post(f"{unsubscribe}/all")
    else:
        told = {"actor": OWNER, "note": "by phone"}
        rt.say(email, changes=[wish("phone", "out")], source="staff", evidence=told)


# --- the pictures ------------------------------------------------------------------------------


@dataclass
class Camera:
    rt: Served
    page: Page
    screen: str
    folder: Path
    whole: bool

    def go(self, path: str, name: str) -> None:
        self.page.goto(path)
        self.take(name)

    def take(self, name: str) -> None:
        self.page.wait_for_load_state("networkidle")
        target = self.folder / f"{name}-{self.screen}.png"
        self.page.screenshot(path=str(target), full_page=self.whole, animations="disabled")

    def until_done(self) -> None:
        """A page that tells how far a job is shows itself again at its end."""
        self.page.wait_for_load_state()
        self.page.locator("[data-poll]").wait_for(state="detached")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=False).first.click()


def link(rt: Served, kind: TokenKind, email: str) -> str:
    identifier = identity.email(email)
    holder = Holder("rt", identifier.kind, rt.runtime.keys.hash(identifier), None)
    return links.path(rt.runtime.service, kind, holder)


def peoples(camera: Camera) -> None:
    rt, page = camera.rt, camera.page
    mine = PEOPLE[2 + list(SCREENS).index(camera.screen)][0]
    camera.go(link(rt, TokenKind.FOOTER_UNSUBSCRIBE, mine), "unsubscribe")
    camera.press("Yes, unsubscribe me")
    camera.take("unsubscribed")
    camera.go(link(rt, TokenKind.CENTRE_FRESH, PEOPLE[4][0]), "centre")
    page.locator("input[type=checkbox]:checked").first.uncheck()
    camera.press("Save")
    camera.take("centre-saved")
    camera.press("Pause until that day")
    camera.take("centre-paused")
    camera.press("End the break now")
    camera.take("centre-goes-on")
    camera.go(f"{link(rt, TokenKind.CENTRE_FRESH, ERIN[0])}/data", "what-we-hold")
    camera.go(link(rt, TokenKind.CENTRE_FRESH, "carl@example.com"), "centre-of-another")
    camera.go(link(rt, TokenKind.CENTRE_FOOTER, ERIN[0]), "centre-from-a-footer")
    camera.go(link(rt, TokenKind.CONFIRM, ERIN[0]), "confirm")
    camera.press("Yes, I confirm")
    camera.take("confirmed")
    camera.go(link(rt, TokenKind.COMPLAIN, ERIN[0]), "complain")
    page.locator("[name=text]").fill("You wrote again after I said stop.")
    page.locator("main form button").first.click()
    camera.take("complained")
    camera.go("/signup?brand=rt", "sign-up")
    page.locator("[name=email]").fill(f"new-{camera.screen}@example.com")
    page.locator("input[type=checkbox]").first.check()
    page.locator("main form button").first.click()
    camera.take("signed-up")
    camera.go("/p?brand=rt", "ask-for-a-link")
    page.get_by_label("email", exact=False).fill(AMELIA[0])
    page.get_by_role("button").click()
    camera.take("link-is-on-its-way")
    camera.go("/u/forged", "broken-link")


def mails(camera: Camera) -> None:
    """What the last mail looks like, as a mail program shows it."""
    mail = camera.rt.runtime.settings.mail
    assert mail
    folder = Path(urlsplit(mail.send).path)
    eventually(lambda: list(folder.glob("*.eml")))
    newest = max(folder.glob("*.eml"), key=lambda path: path.stat().st_mtime)
    body = message_from_bytes(newest.read_bytes(), policy=policy.default).get_body(("html",))
    assert body
    camera.page.set_content(body.get_content())
    camera.take("mail")


def console(camera: Camera) -> None:
    page = camera.page
    camera.go("/staff", "sign-in")
    page.locator("[name=email]").fill(OWNER)
    page.locator("[name=password]").fill("a wrong one")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    camera.take("sign-in-refused")
    sign_in(camera, OWNER)
    page.locator("[name=q]").fill("0113 496 0999")
    page.wait_for_selector("[name=who]", state="attached")
    camera.take("search-nobody")
    page.locator("[name=q]").fill(BETH[2].split()[1])
    page.wait_for_selector(".people")
    camera.take("search")
    page.get_by_role("link", name=BETH[2]).click()
    camera.take("person")
    quick_form(camera)
    calls(camera)
    for path in plain_pages(camera.rt):
        camera.go(path, path.removeprefix("/staff/").replace("/", "-"))
    changes(camera)
    systems(camera)
    campaign(camera)
    camera.go("/staff/people/s_0000000000000000", "nothing-here")
    camera.go("/staff/me", "me")
    camera.press("Set it up")
    camera.take("second-factor")
    sign_in(camera, reception(camera.screen))
    camera.take("reception")
    page.goto("/staff/me")
    page.locator("#content [name=password]").first.fill(PASSWORD)
    for name in ("new", "again"):
        page.locator(f"[name={name}]").fill(f"{PASSWORD} staple")
    camera.press("Change my password")
    camera.take("password-changed")


def sign_in(camera: Camera, email: str) -> None:
    camera.page.goto("/staff/login")
    camera.page.locator("[name=email]").fill(email)
    camera.page.locator("[name=password]").fill(PASSWORD)
    camera.page.keyboard.press("Enter")
    camera.page.wait_for_url("**/staff")


def person(camera: Camera, name: str) -> None:
    page = camera.page
    page.goto("/staff")
    page.locator("[name=q]").fill(name)
    page.get_by_role("link", name=name).click()
    page.get_by_role("heading", name=name).wait_for()


def quick_form(camera: Camera) -> None:
    """What may become of a wish: of somebody who stopped mails by themselves."""
    page = camera.page
    person(camera, PEOPLE[2 + list(SCREENS).index(camera.screen)][2])
    for channel, choice, note, name in [
        ("Email", "Start", "", "person-lacks-a-note"),
        ("Email", "Start", "Please send me news again", "person-refused"),
        ("Text message", "Hold until we know", "rang off", "person-held"),
        ("Phone call", "Stop", "no calls at work", "person-saved"),
    ]:
        page.get_by_label(channel, exact=True).check()
        page.get_by_label(choice, exact=True).check()
        page.get_by_label("Note").fill(note)
        camera.press("Save")
        page.get_by_role("alert" if not note else "status").first.wait_for()
        camera.take(name)


def calls(camera: Camera) -> None:
    numbers = [one[1] for one in PEOPLE]
    camera.page.goto("/staff/calls")
    camera.page.locator("textarea").fill("\n".join([*numbers, ON_REGISTER, STRANGER, "Ann Other"]))
    camera.page.get_by_role("button", name="Check", exact=True).click()
    camera.page.wait_for_url("**/calls/*")
    camera.take("call-list")


def changes(camera: Camera) -> None:
    """Work that waits, what a system's export tells, and work that is done."""
    page, twin = camera.page, TimelyTwin()
    twin.new_customer("9", "Erin", "Shaw", ERIN[0], "", marketing=True)
    page.goto("/staff/tasks?kind=held_wish")
    camera.take("tasks-of-one-kind")
    page.locator("[name=note]").first.fill("rang her: she meant stop")
    camera.press("They mean stop")
    page.wait_for_url("**settled=yes*")
    camera.go("/staff/tasks?state=settled", "tasks-settled")
    page.goto("/staff/tasks?kind=held_wish")
    brought = {"name": "export.csv", "mimeType": "text/csv", "buffer": twin.export()}
    page.set_input_files("[name=file]", brought)  # type: ignore[arg-type]  # a FilePayload
    camera.press("Bring the file")
    page.get_by_role("button", name="Take it in").wait_for()
    camera.take("changes")


def plain_pages(rt: Served) -> list[str]:
    """Pages of the console whose addresses name nothing."""
    routes = [one for one in make_app(rt.runtime, work=False).routes if isinstance(one, Route)]
    shown = [one.path for one in routes if "GET" in (one.methods or ())]
    return [one for one in shown if re.fullmatch(r"/staff/(?!login)[a-z/]+", one)]


def systems(camera: Camera) -> None:
    page = camera.page
    page.goto("/staff/systems/hubspot")
    camera.press("Read it and compare")
    camera.until_done()
    page.get_by_text("entries read").wait_for()
    page.locator("#drift").scroll_into_view_if_needed()
    camera.take("system")
    page.goto("/staff/onboarding")
    camera.press("Read all systems now")
    camera.until_done()
    page.get_by_text("Report of").wait_for()
    camera.take("onboarding")


def campaign(camera: Camera) -> None:
    page = camera.page
    rows = [f"{name},{email},{phone}" for email, phone, name, _ in PEOPLE]
    rows += [f"Client {n},client{n}@example.com,07700 90{n:04}" for n in range(CROWD)]
    content = "\n".join(["Name,Email,Mobile", *rows, ""]).encode()
    page.goto("/staff/campaign")
    brought = {"name": "spring-offers.csv", "mimeType": "text/csv", "buffer": content}
    page.locator("input[type=file]").set_input_files(brought)  # type: ignore[arg-type]  # a FilePayload
    camera.press("Look at this list")
    camera.take("list")
    camera.press("Check every row")
    camera.until_done()
    page.get_by_text("may be sent to").first.wait_for()
    camera.take("list-checked")


# --- when something is wrong -------------------------------------------------------------------


def trouble(clinic: Clinic, cameras: list[Camera]) -> None:
    """A system answers no more; a day later it is unsafe; then our own store is away."""
    rt = clinic.rt
    clinic.mailchimp.faults.add("status", times=None, status=503)
    click = link(rt, TokenKind.FOOTER_UNSUBSCRIBE, AMELIA[0])
    rt.client.post(click)
    for camera in cameras:
        sign_in(camera, OWNER)
        person(camera, AMELIA[2])
        camera.take("person-waiting")
    clinic.clock.forward(timedelta(hours=25))
    eventually(lambda: rt.get("/v1/targets").json()["items"][0]["unsafe"])
    for camera in cameras:
        sign_in(camera, OWNER)
        camera.go("/staff/systems", "systems-unsafe")
        camera.go("/staff/systems/mailchimp", "system-unsafe")
        camera.page.goto(click)
    with patch.object(Database, "read", away), patch.object(Database, "write", away):
        for camera in cameras:
            camera.page.locator("main form button").first.click()
            camera.take("away")
            camera.go("/staff", "staff-away")


async def away(*_: object) -> None:
    raise Unavailable("the store is away")


def take(clinic: Clinic, browser: Browser, folder: Path, *, whole: bool) -> None:
    cameras = []
    for screen, size in SCREENS.items():
        context = browser.new_context(viewport=size, base_url=str(clinic.rt.client.base_url))
        cameras.append(Camera(clinic.rt, context.new_page(), screen, folder, whole))
    for camera in cameras:
        peoples(camera)
        console(camera)
        # A page of its own: what is set as its content hears no more of the service.
        mails(replace(camera, page=camera.page.context.new_page()))
    trouble(clinic, cameras)


def main(arguments: list[str]) -> int:
    whole = "--whole" in arguments
    rest = [one for one in arguments if one != "--whole"]
    folder = Path(rest[0]) if rest else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if chromium.found() is None:
        print(chromium.HOW_TO_GET_ONE)
        return 1
    with tempfile.TemporaryDirectory() as made:
        tempfile.tempdir = made
        with clinic(Path(made)) as found, chromium.running() as browser:
            take(found, browser, folder, whole=whole)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
