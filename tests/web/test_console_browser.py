"""The console in a real browser: by keyboard alone and by mouse, on a phone and on a desk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from prefs.core.ids import subject_number
from prefs.store import tasks
from prefs.store.staff import Role
from tests import browser as chromium
from tests.desk import PASSWORD, SAM, Desk, add_staff
from tests.hands import HANDS, Hands
from tests.served import Served, eventually, listening
from tests.twins.timely import COLUMNS, TimelyTwin

pytestmark = [pytest.mark.long, pytest.mark.told_on("sqlite")]

SCREENS = {
    "phone": ViewportSize(width=360, height=740),
    "desktop": ViewportSize(width=1280, height=800),
}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
ADA, BOB = "+447700900101", "+447700900102"
ATTACK = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">\u202e"
TIMELY = f"""
[brands.rt.targets.timely]
system = "timely"
mode = "live"
columns = {{ {", ".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items())} }}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as made:
        yield made


@pytest.fixture(scope="module")
def rt(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for all: each test has people of its own."""
    with listening(tmp_path_factory.mktemp("clinic"), TIMELY) as made:
        add_staff(made, SAM, Role.MANAGER)
        yield made


class Somebody(NamedTuple):
    id: str
    email: str
    phone: str
    name: str


@dataclass
class Clinic:
    """People made for one test."""

    rt: Served

    def person(self, name: str, **more: str) -> Somebody:
        """Somebody new, called so by a number, who agreed to e-mails."""
        n = len(self.rt.runtime.database.read_now(all_names))
        email, phone = f"p{n}@example.com", more.get("phone", f"+4477009{n:05d}")
        subject = {"email": email, "phone": phone, "name": f"{name} {n}", "ref": f"ref{n}"}
        made = self.rt.consent(email, subject=subject)
        return Somebody(made["subject_id"], email, phone, subject["name"])


def all_names(conn: object) -> list[object]:
    found: list[object] = conn.exec_driver_sql("SELECT id FROM subjects").all()  # type: ignore[attr-defined]  # a Connection
    return found


@pytest.fixture
def clinic(rt: Served) -> Clinic:
    return Clinic(rt)


def opened(browser: Browser, screen: str, *, scripts: bool) -> Iterator[Page]:
    """A page that asks nobody else and breaks no rule of its own policy."""
    context = browser.new_context(viewport=SCREENS[screen], java_script_enabled=scripts)
    made = context.new_page()
    hosts: set[str | None] = set()
    said: list[str] = []
    made.on("request", lambda asked: hosts.add(urlsplit(asked.url).hostname))
    made.on("console", lambda one: said.append(one.text))
    made.on("dialog", lambda one: said.append(one.message))
    yield made
    assert hosts == {"127.0.0.1"}
    assert [one for one in said if "404" not in one and "422" not in one] == []
    context.close()


@pytest.fixture(scope="module")
def cookie(rt: Served) -> str:
    """Of one session for all."""
    sam = Desk(rt, SAM)
    assert sam.sign_in() == 303
    return sam.cookies["prefs_staff"]


def at_the_desk(pages: Iterator[Page], rt: Served, cookie: str) -> Iterator[Page]:
    """Signed in, where somebody is looked for."""
    url = f"{rt.client.base_url}/staff"
    for made in pages:
        made.context.add_cookies([{"name": "prefs_staff", "value": cookie, "url": url}])
        made.goto(url)
        expect(made.locator("[name=q]")).to_be_focused()
        yield made


@pytest.fixture(params=list(SCREENS))
def page(
    request: pytest.FixtureRequest, browser: Browser, rt: Served, cookie: str
) -> Iterator[Page]:
    yield from at_the_desk(opened(browser, request.param, scripts=True), rt, cookie)


@pytest.fixture(params=[(screen, on) for screen in SCREENS for on in (True, False)])
def any_page(
    request: pytest.FixtureRequest, browser: Browser, rt: Served, cookie: str
) -> Iterator[Page]:
    """Also without scripts."""
    screen, on = request.param
    yield from at_the_desk(opened(browser, screen, scripts=on), rt, cookie)


@pytest.fixture(params=list(HANDS))
def hands(request: pytest.FixtureRequest, page: Page) -> Hands:
    return HANDS[request.param](page)


def sign_in(page: Page, rt: Served) -> None:
    """By keyboard: the first field has the focus."""
    page.goto(f"{rt.client.base_url}/staff")
    expect(page.locator("[name=email]")).to_be_focused()
    page.keyboard.type(SAM)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("[name=q]")).to_be_focused()


class Keys:
    """A keyboard that counts what is pressed beside the words that are typed."""

    def __init__(self, page: Page) -> None:
        self.page, self.pressed = page, 0

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def press(self, key: str, times: int = 1) -> None:
        for _ in range(times):
            self.page.keyboard.press(key)
        self.pressed += times


def fits(page: Page) -> bool:
    """Nothing makes the page scroll sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth")
    view = page.viewport_size
    assert view
    return int(wide) <= view["width"]


def accessible(page: Page) -> None:
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": TAGS}})
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 10, "nothing was looked at"
    assert fits(page)


def person_of(page: Page, rt: Served, id_: str) -> None:
    page.goto(f"{rt.client.base_url}/staff/people/{id_}")
    ready(page)


def ready(page: Page) -> None:
    """The quick form waits for keys."""
    expect(page.get_by_label("Phone call", exact=True)).to_be_focused()


# --- fifteen seconds ---------------------------------------------------------------------------


def test_from_sign_in_to_a_saved_phone_opt_out(any_page: Page, rt: Served, clinic: Clinic) -> None:
    any_page.context.clear_cookies()
    sign_in(any_page, rt)
    _, _, phone, _ = clinic.person("Quentin Quickly")
    keys = Keys(any_page)
    keys.type(phone)
    keys.press("Enter")
    ready(any_page)
    keys.press("Space")
    keys.press("Enter")
    any_page.wait_for_url("**saved=applied*")
    assert keys.pressed < 12
    assert rt.reason(phone, channel="phone") == "objected"
    expect(any_page.get_by_role("status")).to_contain_text("Recorded.")


def test_the_same_by_name_among_several(page: Page, rt: Served, clinic: Clinic) -> None:
    name = clinic.person("Nora Namesake").name
    other = clinic.person(name).name
    keys = Keys(page)
    keys.type(name.lower())
    page.get_by_text(other).wait_for()
    keys.press("Tab", 2)
    keys.press("Enter")
    ready(page)
    keys.press("Space")
    keys.press("Enter")
    page.wait_for_url("**saved=applied*")
    assert keys.pressed < 12


def test_an_opt_out_of_sms_told_in_person_with_a_note(
    page: Page, rt: Served, clinic: Clinic
) -> None:
    id_, _, phone, _ = clinic.person("Tara Texts")
    person_of(page, rt, id_)
    keys = Keys(page)
    keys.press("Space")
    keys.press("ArrowDown")
    keys.press("Tab", 2)
    keys.press("ArrowDown")
    keys.press("Tab")
    keys.type("said so at the desk")
    keys.press("Enter")
    page.wait_for_url("**saved=applied*")
    assert keys.pressed < 12
    assert rt.reason(phone, channel="sms") == "opted_out"
    expect(page.locator(".history")).to_contain_text("in person: said so at the desk")


def test_a_hasty_enter_records_nothing(page: Page, rt: Served, clinic: Clinic) -> None:
    id_, _, _, _ = clinic.person("Hasty Hand")
    person_of(page, rt, id_)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert "saved" not in page.url
    history = rt.get(f"/v1/subjects/{id_}/history").json()["items"]
    assert [one["source"] for one in history] == ["api"]


def test_the_same_by_mouse(page: Page, rt: Served, clinic: Clinic) -> None:
    _, email, phone, name = clinic.person("Minnie Mouse")
    page.get_by_label("Name, whole number").fill(name)
    page.locator(".people a").click()
    page.get_by_label("All marketing").check()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**saved=applied*")
    assert rt.reason(email) == "objected"
    assert rt.reason(phone, channel="phone") == "objected"


# --- the person's page -------------------------------------------------------------------------


def test_hold_and_release_by_keyboard(page: Page, rt: Served, clinic: Clinic) -> None:
    id_, email, _, _ = clinic.person("Holly Hold")
    person_of(page, rt, id_)
    page.keyboard.press("Space")
    for key in ("ArrowDown", "ArrowDown", "Tab", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url("**saved=held*")
    assert rt.reason(email) == "held"
    page.get_by_label("What they meant").focus()
    page.keyboard.type("only fewer mails")
    page.keyboard.press("Enter")
    page.wait_for_url("**saved=released*")
    assert rt.reason(email) == "consent"


def test_a_slip_is_undone_by_keyboard(any_page: Page, rt: Served, clinic: Clinic) -> None:
    page = any_page
    id_, email, _, _ = clinic.person("Una Undone")
    person_of(page, rt, id_)
    page.get_by_label("Email", exact=True).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_url("**saved=applied*")
    assert rt.reason(email) == "opted_out"
    page.get_by_label("What went wrong").focus()
    page.keyboard.type("the wrong Una")
    page.keyboard.press("Enter")
    page.wait_for_url("**saved=undone*")
    assert rt.reason(email) == "consent"


def test_what_is_theirs_to_switch_on_is_offered_as_a_mail(
    page: Page, rt: Served, clinic: Clinic
) -> None:
    id_, email, _, _ = clinic.person("Olga Own")
    link = rt.post("/v1/links", {"brand": "rt", "email": email}).json()["unsubscribe"]
    assert rt.client.post(urlsplit(link).path).is_success
    person_of(page, rt, id_)
    page.get_by_label("Email", exact=True).check()
    page.get_by_label("Start", exact=True).check()
    page.get_by_label("Note").fill("Please send me news again")
    page.keyboard.press("Enter")
    page.wait_for_url("**saved=refused*")
    page.get_by_role("status").get_by_role("button", name="Mail a link").click()
    page.wait_for_url("**saved=mailed*")
    assert rt.reason(email) == "opted_out"
    mail = rt.runtime.settings.mail
    assert mail
    folder = Path(urlsplit(mail.send).path)
    eventually(lambda: any(email in f.read_text() for f in folder.glob("*.eml")))


def test_names_and_texts_of_others_do_nothing(any_page: Page, rt: Served, clinic: Clinic) -> None:
    page = any_page
    id_, _, phone, _ = clinic.person(ATTACK)
    body = {"text": ATTACK, "number": phone, "instruction": ATTACK}
    runtime, now = rt.runtime, rt.runtime.clock().timestamp()
    runtime.database.write_now(
        lambda conn: tasks.add(
            conn, runtime.keys, "rt", "held_text", subject_number(id_), body, now, now
        )
    )
    person_of(page, rt, id_)
    for path in ("", "/staff/tasks?kind=held_text"):
        if path:
            page.goto(f"{rt.client.base_url}{path}")
        assert page.locator("main img, main script, main svg").count() == 0
        assert page.locator("script").count() == 1
        assert "hit" not in page.title()
        assert "<script>" in page.locator("main").inner_text()


# --- either by mouse or by keyboard alone -------------------------------------------------------


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name).first


def test_somebody_new_says_no(page: Page, rt: Served, hands: Hands) -> None:
    number = f"0113 496 0{200 + len(rt.runtime.database.read_now(all_names))}"
    hands.write(page.locator("[name=q]"), number)
    page.get_by_text("somebody new").wait_for()
    hands.write(page.get_by_label("Name (if they say it)"), "Ned New")
    hands.choose(page.get_by_label("Text message", exact=True))
    hands.press(button(page, "Save"))
    page.wait_for_url("**saved=applied*")
    expect(page.locator("h1")).to_have_text("Ned New")
    assert rt.reason(number, channel="sms") == "opted_out"


def test_a_form_that_fails_keeps_what_was_typed(
    page: Page, rt: Served, clinic: Clinic, hands: Hands
) -> None:
    id_, _, phone, _ = clinic.person("Kay Kept")
    person_of(page, rt, id_)
    hands.choose(page.get_by_label("Text message", exact=True))
    hands.choose(page.get_by_label("Start", exact=True))
    hands.choose(page.get_by_label("by letter", exact=True))
    hands.press(button(page, "Save"))
    expect(page.get_by_role("alert")).to_contain_text("what the person said")
    accessible(page)
    expect(page.get_by_label("Note")).to_be_focused()
    page.keyboard.type("Do text me about offers")
    hands.press(button(page, "Save"))
    page.wait_for_url("**saved=applied*")
    assert rt.reason(phone, channel="sms") == "consent"


def test_hold_release_and_a_slip(page: Page, rt: Served, clinic: Clinic, hands: Hands) -> None:
    id_, email, _, _ = clinic.person("Hal Hands")
    person_of(page, rt, id_)
    hands.choose(page.get_by_label("Email", exact=True))
    hands.choose(page.get_by_label("Hold until we know"))
    hands.press(button(page, "Save"))
    page.wait_for_url("**saved=held*")
    assert rt.reason(email) == "held"
    hands.write(page.get_by_label("What they meant"), "only fewer")
    hands.press(button(page, "They did not mean stop"))
    page.wait_for_url("**saved=released*")
    hands.choose(page.get_by_label("Email", exact=True))
    hands.press(button(page, "Save"))
    page.wait_for_url("**saved=applied*")
    assert rt.reason(email) == "opted_out"
    hands.write(page.get_by_label("What went wrong"), "somebody else")
    hands.press(button(page, "Take it back"))
    page.wait_for_url("**saved=undone*")
    assert rt.reason(email) == "consent"


def test_a_system_is_asked_again(page: Page, rt: Served, clinic: Clinic, hands: Hands) -> None:
    id_, email, _, _ = clinic.person("Rita Retry")
    rt.say(email)
    person_of(page, rt, id_)
    hands.press(button(page, "Try again now"))
    page.wait_for_url("**saved=retry*")
    expect(page.get_by_role("status")).to_contain_text("looked at again now")


def test_a_call_list_and_no_more_calls(
    page: Page, rt: Served, clinic: Clinic, hands: Hands
) -> None:
    phone = clinic.person("Cleo Call").phone
    page.goto(f"{rt.client.base_url}/staff/calls")
    hands.write(page.locator("textarea"), f"{phone}\n+4411")
    hands.press(page.get_by_role("button", name="Check", exact=True))
    page.wait_for_url("**/calls/*")
    hands.press(button(page, f"No more calls {phone}"))
    page.wait_for_url("**done=0*")
    assert rt.reason(phone, channel="phone") == "objected"


def test_a_task_is_settled(page: Page, rt: Served, clinic: Clinic, hands: Hands) -> None:
    id_, email, _, _ = clinic.person("Tim Task")
    runtime, now = rt.runtime, rt.runtime.clock().timestamp()
    about = ("rt", "held_mail", subject_number(id_), {"text": "hm", "from": email}, now, now - 999)
    runtime.database.write_now(lambda conn: tasks.add(conn, runtime.keys, *about))
    page.goto(f"{rt.client.base_url}/staff/tasks?kind=held_mail")
    article = page.locator("article").filter(has_text="Tim Task").first
    hands.write(article.get_by_label("What you did"), "rang")
    hands.press(article.get_by_role("button").nth(0))
    page.wait_for_url("**settled=yes*")
    assert rt.reason(email) == "opted_out"


def test_a_search_that_fails_shows_no_earlier_list(page: Page, rt: Served, clinic: Clinic) -> None:
    clinic.person("Stella Stale")
    page.locator("[name=q]").fill("stella")
    page.get_by_text("Stella Stale").first.wait_for()
    page.route("**/staff/search", lambda route: route.fulfill(status=422))
    page.locator("[name=q]").fill("stellar")
    expect(page.locator("#results")).to_have_text(re.compile("do not answer at this moment"))


# --- calls and tasks ---------------------------------------------------------------------------


def test_a_call_list_by_keyboard(any_page: Page, rt: Served, clinic: Clinic) -> None:
    page = any_page
    numbers = [clinic.person("Call").phone for n in range(3)]
    page.goto(f"{rt.client.base_url}/staff/calls")
    expect(page.locator("textarea")).to_be_focused()
    page.keyboard.insert_text("\n".join(numbers))
    for key in ("Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url("**/calls/*")
    page.get_by_role("button", name=f"No more calls {numbers[0]}").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**done=0*")
    following = page.get_by_role("button", name=f"No more calls {numbers[1]}")
    expect(following).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**done=1*")
    reasons = [rt.reason(number, channel="phone") for number in numbers]
    assert reasons == ["objected", "objected", "screening_stale"]


def test_a_call_list_as_a_file_and_back(page: Page, rt: Served, clinic: Clinic) -> None:
    _, _, phone, _ = clinic.person("Carla Call")
    yes = [{"channel": "phone", "purpose": "marketing", "choice": "in"}]
    rt.consent("", subject={"phone": phone}, changes=yes)
    page.goto(f"{rt.client.base_url}/staff/calls")
    brought = {"name": "list.csv", "mimeType": "text/csv", "buffer": f"Phone\n{phone}\n".encode()}
    page.set_input_files("[name=file]", brought)  # type: ignore[arg-type]  # playwright's own dictionary
    page.get_by_role("button", name="Check", exact=True).click()
    page.wait_for_url("**/calls/*")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the 1").click()
    assert phone in Path(waiting.value.path()).read_text(encoding="utf-8-sig")


def test_tasks_are_settled_by_keyboard_and_never_by_a_hasty_enter(
    any_page: Page, rt: Served, clinic: Clinic
) -> None:
    page = any_page
    id_, email, _, _ = clinic.person("Tess Task")
    runtime, now = rt.runtime, rt.runtime.clock().timestamp()
    runtime.database.write_now(
        lambda conn: tasks.add(
            conn,
            runtime.keys,
            "rt",
            "held_mail",
            subject_number(id_),
            {"text": "hm", "from": email},
            now,
            now - 99,
        )
    )
    page.goto(f"{rt.client.base_url}/staff/tasks?kind=held_mail")
    page.locator("article").first.get_by_label("What you did").focus()
    page.keyboard.type("rang her")
    page.keyboard.press("Enter")
    assert "settled" not in page.url
    assert rt.reason(email) == "consent"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**settled=yes*")
    assert rt.reason(email) == "opted_out"


def test_an_export_is_taken_in_by_keyboard(page: Page, rt: Served, clinic: Clinic) -> None:
    _, email, _, _ = clinic.person("Ely Export")
    twin = TimelyTwin()
    twin.new_customer("9", "Ely", "Export", email, "", marketing=False)
    page.goto(f"{rt.client.base_url}/staff/tasks?kind=container")
    brought = {"name": "export.csv", "mimeType": "text/csv", "buffer": twin.export()}
    page.set_input_files("[name=file]", brought)  # type: ignore[arg-type]  # playwright's own dictionary
    page.get_by_role("button", name="Bring the file").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Take it in")).to_be_focused()
    accessible(page)
    page.keyboard.press("Enter")
    page.get_by_text("Taken in: 1").wait_for()
    assert rt.reason(email) == "opted_out"


# --- for everybody -----------------------------------------------------------------------------


def test_every_page_is_accessible_and_fits(page: Page, rt: Served, clinic: Clinic) -> None:
    base = str(rt.client.base_url)
    id_, _, phone, _ = clinic.person("Axel Access")
    clinic.person("Alma Access", phone=phone)
    page.get_by_label("Name, whole number").fill("ccess")
    accessible(page)
    page.get_by_label("Name, whole number").fill("access")
    page.locator(".people a").first.wait_for()
    accessible(page)
    page.get_by_label("Name, whole number").fill("0113 496 0999")
    page.get_by_text("somebody new").wait_for()
    accessible(page)
    for saved in ("", "?saved=applied&about=email", "?saved=refused&about=email"):
        page.goto(f"{base}/staff/people/{id_}{saved}")
        accessible(page)
    page.get_by_label("Email", exact=True).check()
    page.get_by_label("Hold until we know").check()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**saved=held*")
    page.get_by_label("Phone call", exact=True).check()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**saved=applied*")
    accessible(page)
    for path in ("/staff/tasks", "/staff/tasks?state=settled", "/staff/calls"):
        page.goto(f"{base}{path}")
        accessible(page)
    page.get_by_label("Numbers, names").fill(f"{phone}\n{BOB}\nnobody at all\n1")
    page.get_by_role("button", name="Check", exact=True).click()
    page.wait_for_url("**/calls/*")
    accessible(page)
    page.goto(f"{base}/staff/people/s_0000000000000000")
    accessible(page)


def test_the_sign_in_is_accessible_and_fits(browser: Browser, rt: Served) -> None:
    for screen in SCREENS:
        for page in opened(browser, screen, scripts=True):
            page.goto(f"{rt.client.base_url}/staff/login")
            accessible(page)
            boxes = [one.bounding_box() for one in page.locator("input:visible").all()]
            sizes = {(box["width"], box["height"]) for box in boxes if box}
            assert len(sizes) == 1, "a password is typed into as large a field as an address"
