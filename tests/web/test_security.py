"""Every route that a person can reach, walked: what each answer carries, who may act, and what no
page tells or fetches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection
from starlette.routing import Route

from prefs import links
from prefs.core import identity
from prefs.core.tokens import TokenKind
from prefs.links import Holder
from prefs.store import jobs, tasks
from prefs.store.batches import FEW
from prefs.store.schema import metadata
from prefs.store.staff import Role
from prefs.web.console import session
from tests.desk import Desk, add_staff, desk
from tests.served import PUBLIC, Served, served

pytestmark = pytest.mark.told_on("sqlite")

EVIL = "https://evil.example/"
NAME, EMAIL, PHONE = "Adelaide Lowe", "adelaide.lowe@example.com", "+447700900177"
PERSONAL = ("adelaide", "lowe", "900177", "sam.smith", "may.jones")
TARGETS = """
[brands.rt.targets.timely]
system = "timely"
mode = "live"
"""


LEADS_BACK = ("/staff/changes/{target}",)
"""A reload of what a form showed leads to the page where that form is."""
OF_A_BRAND = dict.fromkeys(("/signup", "/signup/form"), "?brand=rt")


@dataclass
class Clinic:
    """One of everything that a path can name."""

    rt: Served
    owner: Desk
    examples: dict[str, dict[str, str]]
    """Path of a route -> what stands for its names."""

    @property
    def routes(self) -> list[Route]:
        return [one for one in self.rt.client.app.routes if isinstance(one, Route)]

    def path(self, route: Route) -> str:
        """Fails for a page that nobody has said how to reach."""
        names = re.findall(r"{(\w+)[^}]*}", route.path)
        known = self.examples if of_people(route) else {route.path: dict.fromkeys(names, "x")}
        assert not names or route.path in known, f"say in `examples` how to reach {route.path}"
        path = re.sub(r"{(\w+)[^}]*}", lambda name: known[route.path][name[1]], route.path)
        return path + OF_A_BRAND.get(route.path, "")

    def ask(self, method: str, route: Route, **more: Any) -> Any:
        """As the owner where it is the console's, as anybody else elsewhere."""
        one = self.owner if of_staff(route) else Desk(self.rt, "")
        return one.ask(method, self.path(route), **more)

    def dump(self) -> dict[str, list[Any]]:
        """All that is kept, but for the tries to sign in."""

        def read(conn: Connection) -> dict[str, list[Any]]:
            tables = [one for one in metadata.sorted_tables if one.name != "attempts"]
            return {one.name: list(conn.execute(one.select())) for one in tables}

        return self.rt.runtime.database.read_now(read)


def of_staff(route: Route) -> bool:
    return route.path == "/staff" or route.path.startswith("/staff/")


def of_people(route: Route) -> bool:
    """Pages; programs and vendors have doors of their own."""
    return not route.path.startswith(("/v1/", "/webhooks/", "/openapi", "/healthz", "/readyz"))


def examples(rt: Served, owner: Desk) -> dict[str, dict[str, str]]:
    made = rt.post("/v1/links", {"brand": "rt", "email": EMAIL}).json()
    unsubscribe = {"token": made["unsubscribe"].rpartition("/")[2]}
    centre = {"token": made["preferences"].rpartition("/")[2]}
    (found,) = rt.post("/v1/subjects/search", {"brand": "rt", "ref": "p1"}).json()["items"]
    person = {"id": found["subject_id"]}
    key = {"id": rt.key_for("check").split("_")[1]}
    other = {"id": add_staff(rt, "may.jones@example.co.uk", Role.MANAGER)}
    owner.post("/staff/me/totp")
    listed = owner.ask(
        "POST",
        "/staff/campaign",
        data={"csrf": owner.csrf},
        files={"list": ("clients.csv", f"email,name\n{EMAIL},{NAME}\n".encode(), "text/csv")},
    ).headers["location"]
    one_list = {"id": listed.rpartition("/")[2]}
    owner.post(f"{listed}/check", column="0", channel="email", purpose="marketing", headed="yes")
    owner.wait(listed)
    now = rt.runtime.clock().timestamp()
    job = rt.runtime.database.write_now(lambda conn: jobs.start(conn, "rt", "none", "", now))
    assert job
    pasted = owner.post("/staff/calls", rows=PHONE).headers["location"]
    calls = {"id": pasted.partition("?")[0].rpartition("/")[2]}
    asked = {"text": "what do you hold about me?"}
    task = {
        "id": str(
            rt.runtime.database.write_now(
                lambda conn: tasks.add(
                    conn, rt.runtime.keys, "rt", "rights_request", None, asked, now, now
                )
            )
        )
    }
    return {
        "/u/{token}": unsubscribe,
        "/u/{token}/all": unsubscribe,
        "/p/{token}": centre,
        "/p/{token}/all": centre,
        "/p/{token}/pause": centre,
        "/p/{token}/resume": centre,
        "/p/{token}/data": centre,
        "/complain/{token}": {"token": token_of(rt, TokenKind.COMPLAIN)},
        "/c/{token}": {"token": token_of(rt, TokenKind.CONFIRM)},
        "/static/{name}": {"name": "pages.css"},
        "/static/brands/{brand}.css": {"brand": "rt"},
        "/static/brands/{brand}/logo": {"brand": "rt"},
        "/staff/people/{id}": person,
        "/staff/people/{id}/record": person,
        "/staff/people/{id}/retry": person,
        "/staff/people/{id}/undo": person,
        "/staff/people/{id}/release": person,
        "/staff/people/{id}/link": person,
        "/staff/calls/{id}": calls,
        "/staff/calls/{id}/stop": calls,
        "/staff/calls/{id}/callable.csv": calls,
        "/staff/tasks/{id}/settle": task,
        "/staff/changes/{target}": {"target": "timely"},
        "/staff/changes/{target}/list.csv": {"target": "timely"},
        "/staff/changes/{target}/take": {"target": "timely"},
        "/staff/jobs/{id}": {"id": job},
        "/staff/systems/{name}": {"name": "timely"},
        "/staff/systems/{name}/drift": {"name": "timely"},
        "/staff/batches/{label}/go": {"label": "b_1"},
        "/staff/batches/{label}/back": {"label": "b_1"},
        "/staff/accounts/{id}/role": other,
        "/staff/accounts/{id}/password": other,
        "/staff/accounts/{id}/totp": other,
        "/staff/accounts/{id}/end": other,
        "/staff/keys/{id}/revoke": key,
        "/staff/campaign/{id}": one_list,
        "/staff/campaign/{id}/check": one_list,
        "/staff/campaign/{id}/download": one_list,
        "/staff/campaign/{id}/drop": one_list,
    }


def token_of(rt: Served, kind: TokenKind) -> str:
    identifier = identity.email(EMAIL)
    holder = Holder("rt", identifier.kind, rt.runtime.keys.hash(identifier), None)
    return links.path(rt.runtime.service, kind, holder).rpartition("/")[2]


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    look = '[brands.rt.look]\ncolour = "#7a3e9d"\nlogo = "logo.svg"\n'
    with served(tmp_path, TARGETS + look) as rt:
        who = {"email": EMAIL, "phone": PHONE, "name": NAME, "ref": "p1"}
        rt.consent(EMAIL, subject=who)
        for number in range(FEW + 2):
            rt.say(f"p{number}@example.com", "out", source="import")
        owner = desk(rt, email="sam.smith@example.co.uk")
        yield Clinic(rt, owner, examples(rt, owner))


# --- what every answer carries -----------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, holds and is called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        """Where a person may go on to."""
        self.fetched: list[str] = []
        """What is fetched or posted to without asking."""
        self.inline: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        given = {name: value or "" for name, value in attrs}
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag in ("style", "base", "iframe", "object", "embed"):
            self.inline.append(tag)
        if tag == "script" and not given.get("src"):
            self.inline.append(tag)
        (self.links if tag == "a" else self.fetched).extend(
            given[name] for name in ("href", "src", "action", "formaction") if name in given
        )

    def handle_data(self, data: str) -> None:
        if self._in == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


def guards(answer: Any) -> list[str]:
    """What the headers of an answer lack."""
    policy = answer.headers.get("content-security-policy", "")
    rules = dict(one.strip().partition(" ")[::2] for one in policy.split(";") if one.strip())
    wanted = {
        "default-src": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
    }
    found = [name for name, value in wanted.items() if rules.get(name) != value]
    found += [name for name, value in rules.items() if value not in ("'none'", "'self'")]
    if answer.headers.get("referrer-policy") != "no-referrer":
        found.append("referrer-policy")
    if answer.headers.get("x-content-type-options") != "nosniff":
        found.append("nosniff")
    return found


def test_every_page_carries_its_guards_and_fetches_from_here_alone(clinic: Clinic) -> None:
    seen = []
    for route in filter(of_people, clinic.routes):
        for method in sorted((route.methods or set()) & {"GET", "POST"}):
            answer = clinic.ask(method, route)
            kind = answer.headers.get("content-type", "").partition(";")[0]
            if kind in ("application/problem+json", "text/plain"):
                continue
            assert guards(answer) == [], f"{method} {route.path}"
            if kind == "text/html":
                page = Page(answer.text)
                assert page.inline == [], f"{method} {route.path}"
                assert [one for one in page.fetched if not re.match(r"/(?!/)", one)] == []
                seen.append(route.path)
    assert {"/staff", "/u/{token}", "/p", "/staff/overview", "/staff/me"} <= set(seen)


def test_every_page_that_is_looked_at_is_there(clinic: Clinic) -> None:
    """Else the walk above would have walked through error pages."""
    missed = [
        route.path
        for route in filter(of_people, clinic.routes)
        if "GET" in (route.methods or set()) and clinic.ask("GET", route).status_code != 200
    ]
    assert [path for path in missed if path not in LEADS_BACK] == []


def test_no_title_and_no_address_tells_of_a_person(clinic: Clinic) -> None:
    for route in filter(of_people, clinic.routes):
        if "GET" not in (route.methods or set()):
            continue
        page = Page(clinic.ask("GET", route).text)
        told = " ".join([clinic.path(route), page.title, *page.links, *page.fetched]).lower()
        assert [one for one in PERSONAL if one in told] == [], route.path


def test_links_abroad_tell_nobody_where_they_were_followed(clinic: Clinic) -> None:
    for route in filter(of_people, clinic.routes):
        if "GET" not in (route.methods or set()):
            continue
        text = clinic.ask("GET", route).text
        for tag in re.findall(r"<a [^>]*href=\"https?:[^>]*>", text):
            assert 'rel="noreferrer"' in tag, f"{route.path}: {tag}"


# --- hosts and redirects -----------------------------------------------------------------------


def test_another_host_is_served_nothing(clinic: Clinic) -> None:
    for route in clinic.routes:
        for method in sorted(route.methods or set()):
            answer = clinic.ask(method, route, headers={"Host": "evil.example"})
            assert answer.status_code == 421, f"{method} {route.path}"
            assert "set-cookie" not in answer.headers


NAMES = ("next", "url", "return", "return_to", "redirect", "continue", "back", "to")


def test_no_route_redirects_to_where_it_is_asked_to(clinic: Clinic) -> None:
    asked = dict.fromkeys(NAMES, EVIL)
    for route in filter(of_people, clinic.routes):
        for method in sorted((route.methods or set()) & {"GET", "POST"}):
            clinic.owner.sign_in()
            data = {"data": {"csrf": clinic.owner.csrf, **asked}} if method == "POST" else {}
            answer = clinic.ask(method, route, params=asked, **data)
            where = answer.headers.get("location", "/")
            assert re.match(r"/(?!/)", where), f"{method} {route.path} -> {where}"
            assert "evil" not in where


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/staff/", "/staff//", "/p//"])
def test_a_path_that_looks_like_a_host_leads_nowhere(clinic: Clinic, path: str) -> None:
    answer = clinic.rt.client.get(f"{PUBLIC}{path}", follow_redirects=False)
    where = answer.headers.get("location", "")
    assert urlsplit(where).netloc in ("", urlsplit(PUBLIC).netloc)


# --- who may act -------------------------------------------------------------------------------


def changing(clinic: Clinic) -> list[Route]:
    posted = [one for one in clinic.routes if of_staff(one) and "POST" in (one.methods or ())]
    return [one for one in posted if one.path != session.SIGN_IN]


def forged(clinic: Clinic) -> list[dict[str, Any]]:
    """Bodies as another site could send them, with what only our pages know left out or wrong."""
    other = desk(clinic.rt, email="ola@example.co.uk").csrf
    fields = {"note": "x", "password": "x", "q": "x", "scope_check": "yes", "role": "owner"}
    boundary = "multipart/form-data; boundary=x"
    plain = b"\r\n".join([b"csrf=", b"note=x"])
    return [
        {"data": fields},
        {"data": {**fields, "csrf": ""}},
        {"data": {**fields, "csrf": "é"}},
        {"data": {**fields, "csrf": other}},
        {"data": fields, "params": {"csrf": clinic.owner.csrf}},
        {"files": {"list": ("a.csv", b"email\n", "text/csv")}},
        {"data": {"csrf": other}, "files": {"list": ("a.csv", b"email\n", "text/csv")}},
        {"content": b"--x--\r\n", "headers": {"Content-Type": boundary}},
        {"content": b"--x--\r\n", "headers": {"Content-Type": boundary.upper()}},
        {"content": plain, "headers": {"Content-Type": "text/plain"}},
        {"json": {"csrf": None}},
        {},
    ]


def test_no_form_that_is_not_ours_changes_anything(clinic: Clinic) -> None:
    bodies = forged(clinic)
    before, lists = clinic.dump(), list(Path(tempfile.gettempdir()).glob("prefs-*/*/*"))
    for route in changing(clinic):
        for body in bodies:
            answer = clinic.ask("POST", route, **body)
            wrong = f"POST {route.path} {body}: {answer.status_code}"
            assert answer.status_code in (400, 403, 415), wrong
    assert clinic.dump() == before
    assert list(Path(tempfile.gettempdir()).glob("prefs-*/*/*")) == lists


def test_every_route_of_the_console_names_the_role_that_it_needs(clinic: Clinic) -> None:
    for route in filter(of_staff, clinic.routes):
        if route.path != session.SIGN_IN:
            assert isinstance(getattr(route.endpoint, "least", None), Role), route.path


def test_nobody_with_a_lesser_role_gets_in_or_changes_anything(clinic: Clinic) -> None:
    desks = {
        Role.RECEPTION: desk(clinic.rt, Role.RECEPTION, "rec@example.co.uk"),
        Role.MANAGER: desk(clinic.rt, Role.MANAGER, "man@example.co.uk"),
    }
    tokens = {role: one.csrf for role, one in desks.items()}
    before = clinic.dump()
    for route in filter(of_staff, clinic.routes):
        least = getattr(route.endpoint, "least", Role.RECEPTION)
        for role, one in desks.items():
            if role.covers(least):
                continue
            for method in sorted((route.methods or set()) & {"GET", "POST"}):
                form = {"csrf": tokens[role], "note": "x", "role": "owner", "scope_check": "yes"}
                more = {"data": form} if method == "POST" else {}
                answer = one.ask(method, clinic.path(route), **more)
                assert answer.status_code == 403, f"{role}: {method} {route.path}"
    assert clinic.dump() == before


def test_nobody_who_is_not_signed_in_gets_in(clinic: Clinic) -> None:
    before = clinic.dump()
    for route in filter(of_staff, clinic.routes):
        if route.path == session.SIGN_IN:
            continue
        for method in sorted((route.methods or set()) & {"GET", "POST"}):
            for cookies in ({}, {"prefs_staff": "forged"}):
                stranger = Desk(clinic.rt, "", cookies=cookies)
                answer = stranger.ask(method, clinic.path(route))
                assert answer.status_code == 303, f"{method} {route.path}"
                assert answer.headers["location"] == session.SIGN_IN
    assert clinic.dump() == before


# --- cookies -----------------------------------------------------------------------------------


def test_the_console_alone_sets_cookies_and_they_stay_within_it(clinic: Clinic) -> None:
    for route in clinic.routes:
        for method in sorted((route.methods or set()) & {"GET", "HEAD", "OPTIONS", "POST"}):
            answer = clinic.ask(method, route)
            for cookie in answer.headers.get_list("set-cookie"):
                assert of_staff(route), f"{method} {route.path} sets a cookie"
                rules = cookie.lower()
                assert "path=/staff" in rules
                if "max-age=0" in rules:
                    continue
                assert {"httponly", "secure", "samesite=strict"} <= set(rules.split("; "))


def test_a_link_in_a_message_never_meets_a_cookie(clinic: Clinic) -> None:
    """Also for a token of another kind, and a forged one."""
    tokens = [*[token_of(clinic.rt, kind) for kind in TokenKind], "forged"]
    for prefix in ("u", "p", "c", "complain"):
        for token in tokens:
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                answer = Desk(clinic.rt, "").ask(method, f"/{prefix}/{token}")
                assert "set-cookie" not in answer.headers
                assert answer.status_code < 500
