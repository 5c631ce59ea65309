"""Nothing that people read is hard-coded: with a catalogue of accented English, every plain letter
on a page or in a mail is one that no translation reaches.

A new template must be shown here (PEOPLE, STAFF or a mail), or this fails and names it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from starlette.routing import Route

from prefs import links, mailer
from prefs.core import identity
from prefs.core.errors import Unavailable
from prefs.core.tokens import TokenKind
from prefs.locales import FALLBACK, catalogues, table_of
from prefs.store import jobs, outbox, staff
from prefs.store.database import Database
from prefs.store.staff import Role
from prefs.web import pages
from prefs.web.console.search import PART
from prefs.web.console.session import COOKIE
from tests.kit import Clock
from tests.served import PUBLIC, Served, served
from tests.web.people import ADA, form, mails, post_mail

PLAIN = string.ascii_letters
ACCENTED = "ȧƀƈḓḗƒɠħīĵķŀḿƞǿƥɋřşŧŭṽẇẋẏẑȦƁƇḒḖƑƓĦĪĴĶĿḾȠǾƤɊŘŞŦŬṼẆẊẎẐ"
TABLE = str.maketrans(PLAIN, ACCENTED)
TEMPLATES = Path(pages.HERE) / "templates"
TECHNICAL = (
    "waiting for its turn",
    "nothing is known that this system keys on",
    "mailchimp",
)
"""What a system or the lane says of itself is told to staff as it is, in English."""
SHOWN = ("alt", "title", "placeholder", "aria-label")
BRANDS = """
[brands.rt.targets.1]
system = "mailchimp"
mode = "live"
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
audiences = { a1 = ["treatments", "offers"] }
[brands.rt.targets.2]
system = "timely"
mode = "live"
"""


def accented(text: str) -> str:
    """With its values left alone: `{brand}` stays."""
    parts = re.split(r"(\{[^}]*\})", text)
    return "".join(part if part.startswith("{") else part.translate(TABLE) for part in parts)


def without_data(text: str) -> str:
    """Without addresses (masked ones too), links, and what systems say of themselves."""
    for said in TECHNICAL:
        text = text.replace(said, "")
    return re.sub(r"https?://\S+|\S*@\S*", "", text)


class Seen(HTMLParser):
    """What somebody reads, or has read to them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._unseen = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen = tag in ("style", "script", "code")
        self.texts += [value for name, value in attrs if name in SHOWN and value]

    def handle_endtag(self, tag: str) -> None:
        self._unseen = False

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.texts.append(data)


def hard_coded(html: str) -> list[str]:
    parser = Seen()
    parser.feed(html)
    return [one.strip() for one in parser.texts if re.search("[A-Za-z]", without_data(one))]


# --- every template as it is written -----------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(TEMPLATES.rglob("*.*")), ids=lambda path: str(path.relative_to(TEMPLATES))
)
def test_a_template_holds_no_text(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(), flags=re.DOTALL)
    assert hard_coded(re.sub(rf' (?!{"|".join(SHOWN)})[\w-]+="[^"<>]*"', "", text)) == []


# --- every page and mail as it is read ---------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the templates that were used."""
    found: set[str] = set()

    def note(environment: Environment, prefix: str) -> None:
        get = environment.get_template

        def noting(name: Any, *args: Any, **more: Any) -> Any:
            found.add(f"{prefix}{name}")
            return get(name, *args, **more)

        monkeypatch.setattr(environment, "get_template", noting)

    note(pages.environment, "")
    note(mailer._environment, "mail/")
    return found


@pytest.fixture
def rt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Dates as in Japan: without a letter of ours."""
    english = catalogues()[FALLBACK]
    pseudo = {key: accented(text) for key, text in english.items()}
    monkeypatch.setattr("prefs.locales.catalogues", lambda: {FALLBACK: pseudo})
    environ = {"KEY": "abc-us6"}
    for brand in ("RT", "SECOND", "FOREIGN"):
        environ[f"PREFS__BRANDS__{brand}__NAME"] = accented(brand)
        environ[f"PREFS__BRANDS__{brand}__LOCALE"] = "ja-JP"
    for controller in ("RT", "OTHER"):
        environ[f"PREFS__CONTROLLERS__{controller}__NAME"] = accented(controller)
        environ[f"PREFS__CONTROLLERS__{controller}__ADDRESS"] = accented("High Street")
    table_of.cache_clear()
    with served(tmp_path, BRANDS, environ=environ, clock=Clock()) as made:
        yield made
    table_of.cache_clear()


def person(rt: Served, address: str, **more: Any) -> str:
    """Somebody with email and texts on; the id."""
    subject = {"email": address, "name": accented("Ada Lowe"), **more}
    both = [{"channel": c, "purpose": "marketing", "choice": "in"} for c in ("email", "sms")]
    proof = {"wording": accented("Yes please")}
    said = rt.say("", "in", basis="consent", subject=subject, changes=both, evidence=proof)
    return str(said["subject_id"])


def path(rt: Served, kind: TokenKind, address: str = ADA) -> str:
    service = rt.runtime.service
    one = identity.email(address) if "@" in address else identity.phone(address)
    return links.path(service, kind, links.Holder("rt", one.kind, service.keys.hash(one)))


def check(name: str, answer: Any) -> None:
    assert answer.status_code < 500 or answer.status_code == 503, name
    assert hard_coded(answer.text) == [], name


def test_every_page_and_mail_of_people(rt: Served, rendered: set[str]) -> None:
    phone = "+447700900101"
    person(rt, ADA, phone=phone)
    for ref in ("1", "2"):
        person(rt, "both@example.com", ref=ref)
    fresh, footer = path(rt, TokenKind.CENTRE_FRESH), path(rt, TokenKind.CENTRE_FOOTER)
    complain, confirm = path(rt, TokenKind.COMPLAIN), path(rt, TokenKind.CONFIRM)
    click, of_number = (path(rt, TokenKind.FOOTER_UNSUBSCRIBE, one) for one in (ADA, phone))
    shared = path(rt, TokenKind.CENTRE_FRESH, "both@example.com")
    for one in (fresh, footer, shared, f"{fresh}/data", f"{footer}/data", f"{shared}/data"):
        check(one, rt.client.get(one))
    off = {"shown": "choice:email:*=on choice:sms:*=off reminders:sms=on", "choice:sms:*": "in"}
    saved = rt.client.post(fresh, data=off)
    check("saved", saved)
    check("undone", rt.client.post(fresh, data=form(saved.text, "undo")[1]))
    check("damaged", rt.client.post(fresh, data={"shown": "x"}))
    raised = {"shown": "choice:email:*=off", "choice:email:*": "in"}
    check("a footer that raises", rt.client.post(footer, data=raised))
    check("no day", rt.client.post(f"{fresh}/pause", data={"until": "x"}))
    check("paused", rt.client.post(f"{fresh}/pause", data={"until": "2026-04-01"}))
    check("a footer during a pause", rt.client.get(footer))
    check("not ended", rt.client.post(f"{footer}/resume"))
    check("data", rt.client.get(f"{fresh}/data"))
    check("ended", rt.client.post(f"{fresh}/resume"))
    check("complain", rt.client.get(complain))
    check("no complaint", rt.client.post(complain))
    check("complained", rt.client.post(complain, data={"text": accented("Explain")}))
    for one in (click, of_number, f"{click}/all"):
        check(one, rt.client.get(one))
    for one in (click, of_number, f"{click}/all"):
        check(f"{one} done", rt.client.post(one))
    check("already", rt.client.get(click))
    check("confirm", rt.client.get(confirm))
    check("confirm refused", rt.client.post(confirm))
    check("forged", rt.client.get("/u/forged"))
    sign_up(rt)
    asking(rt)
    by_mail(rt)
    not_now(rt, click)
    missing = people_templates() - rendered
    assert missing == set(), "show these in this test"


def people_templates() -> set[str]:
    names = {str(one.relative_to(TEMPLATES)) for one in TEMPLATES.rglob("*.*")}
    return {name for name in names if not name.startswith("staff/")}


def sign_up(rt: Served) -> None:
    page = rt.client.get("/signup?brand=rt")
    check("signup", page)
    _, untouched = form(page.text, "website")
    check("nothing filled in", rt.client.post("/signup?brand=rt", data=untouched))
    check("out of date", rt.client.post("/signup?brand=rt", data={**untouched, "version": "x"}))
    filled = {**untouched, "email": "new@example.com", "choice:email:*": "in", "topic:offers": "in"}
    check("signed up", rt.client.post("/signup?brand=rt", data=filled))


def asking(rt: Served) -> None:
    for one in ("/p", "/p?brand=rt"):
        check(one, rt.client.get(one))
        check(one, rt.client.post(one, data={"email": ADA}))


def by_mail(rt: Served) -> None:
    runtime, text = rt.runtime, accented("unsafe")
    alert = {"to": "owner@example.com", "text": text}
    runtime.database.write_now(
        lambda conn: outbox.add(conn, runtime.keys, "alert", None, None, alert, 0.0)
    )
    post_mail(rt)
    sent = mails(rt)
    assert len({message["Subject"] for message in sent}) >= 4
    for message in sent:
        plain, html = (part.get_content() for part in message.iter_parts())
        assert hard_coded(message["Subject"]) == []
        assert hard_coded(plain) == []
        assert hard_coded(html) == []
        for link in re.findall(re.escape(PUBLIC) + r"(/c/\S+)", plain):
            check("confirm", rt.client.get(link))
            check("confirmed", rt.client.post(link))


def not_now(rt: Served, click: str) -> None:
    """The store is away."""
    rt.runtime.database.close()
    check("away", rt.client.post(click))


# --- the console -------------------------------------------------------------------------------


def values(rt: Served, csrf: str) -> Mapping[str, Mapping[str, str]]:
    """Route of the console -> what stands in the place of `{id}` and the like."""
    ada = {"id": person(rt, ADA, phone="+447700900101")}
    posted = {"data": {"csrf": csrf, "rows": "+447700900101"}, "follow_redirects": False}
    calls = rt.client.post("/staff/calls", **posted).headers["location"].partition("?")[0]
    file = {"list": ("1", f"1,2\n{ADA},3\n".encode(), "text/csv")}
    token = {"csrf": csrf}
    listed = rt.client.post("/staff/campaign", data=token, files=file, follow_redirects=False)
    now = rt.runtime.clock().timestamp()
    job = rt.runtime.database.write_now(lambda conn: jobs.start(conn, "rt", "none", "", now))
    return {
        "/staff/people/{id}": ada,
        "/staff/calls/{id}": {"id": calls.rpartition("/")[2]},
        "/staff/campaign/{id}": {"id": listed.headers["location"].rpartition("/")[2]},
        "/staff/jobs/{id}": {"id": str(job)},
        "/staff/systems/{name}": {"name": "1"},
    }


FILES = (".csv", ".svg", "/download", "/staff/changes/{target}")
"""Routes that lead to a file, or back to the page that it came from."""


def test_every_page_of_the_console(
    rt: Served, rendered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = signed_in(rt)
    check("home", home)
    known = values(rt, form(home.text, "/staff/search")[1]["csrf"])
    for route in looked_at(rt):
        named = not route.param_convertors or route.path in known
        assert named, f"{route.path}: add its values to values()"
        answer = rt.client.get(route.path.format(**known.get(route.path, {})))
        assert answer.status_code == 200, route.path
        check(route.path, answer)
    searched = form(home.text, "/staff/search")[1]
    for text in (accented("Ada"), "nobody@example.com", accented("nobody")):
        for headers in ({}, {PART: "1"}):
            sought = searched | {"q": text}
            check(text, rt.client.post("/staff/search", data=sought, headers=headers))
    check("gone", rt.client.get("/staff/people/zzz"))
    brought_back(rt, searched["csrf"])
    check("password", rt.client.post("/staff/me/password", data=searched | NEW_PASSWORD))
    rt.client.cookies.set(COOKIE, "x", path="/staff")
    monkeypatch.setattr(Database, "read", away)
    check("away", rt.client.get("/staff"))
    templates = {str(one.relative_to(TEMPLATES)) for one in (TEMPLATES / "staff").rglob("*.*")}
    assert templates - rendered == set(), "show these in this test"


WORD = "correct horse battery"
NEW_PASSWORD = {"password": WORD, "new": f"{WORD} staple", "again": f"{WORD} staple"}


async def away(*_: object) -> None:
    raise Unavailable("the store is away")


def brought_back(rt: Served, csrf: str) -> None:
    """The export of a system without an interface."""
    export = f"id,email,mobile,sms_marketing,email_marketing\n1,{ADA},,yes,no\n"
    file = {"file": ("1", export.encode(), "text/csv")}
    check("brought", rt.client.post("/staff/changes/2", data={"csrf": csrf}, files=file))


def signed_in(rt: Served) -> Any:
    """The page that the owner is shown first."""
    runtime, email, word = rt.runtime, "owner@example.com", WORD
    login = rt.client.get("/staff/login")
    check("login", login)
    asked = {**form(login.text, "password")[1], "email": email, "password": word}
    check("wrong", rt.client.post("/staff/login", data={**asked, "password": "no"}))
    member = ("rt", identity.email(email), Role.OWNER, staff.hashed(word), 0.0)
    runtime.database.write_now(lambda conn: staff.add(conn, runtime.keys, *member))
    return rt.client.post("/staff/login", data=asked)


def looked_at(rt: Served) -> list[Route]:
    routes = [one for one in rt.client.app.routes if isinstance(one, Route)]
    shown = [
        one for one in routes if one.path.startswith("/staff") and "GET" in (one.methods or ())
    ]
    return [one for one in shown if not one.path.endswith(FILES)]
