"""Staff at their desks: accounts, sign-in, and forms posted with the session's own token."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any

from starlette.routing import Route
from starlette.testclient import TestClient

from prefs.core import identity
from prefs.store import staff
from prefs.store.staff import Role
from tests.served import PUBLIC, Served

PASSWORD = "correct horse battery"
SAM = "sam@example.co.uk"


@cache
def hashed(password: str) -> str:
    return staff.hashed(password)


def employ(
    rt: Served,
    email: str = SAM,
    role: Role = Role.RECEPTION,
    brand: str = "rt",
    password: str = PASSWORD,
) -> str:
    """An account; returns its id."""
    keys, now = rt.runtime.keys, rt.runtime.clock().timestamp()
    address, kept = identity.email(email), hashed(password)
    return rt.runtime.database.write_now(
        lambda conn: staff.add(conn, keys, brand, address, role, kept, now)
    )


@dataclass
class Desk:
    """One browser of one member of staff."""

    rt: Served
    browser: Any

    def sign_in(self, email: str = SAM, password: str = PASSWORD, **more: str) -> Any:
        self.browser.cookies.clear()
        fields = {"email": email, "password": password, **more}
        return self.browser.post("/staff/login", data=fields, follow_redirects=False)

    def get(self, path: str, status: int = 200) -> str:
        answer = self.browser.get(path)
        assert answer.status_code == status, answer.text
        text: str = answer.text
        return text

    @property
    def token(self) -> str:
        found: str = re.findall(r'name="csrf" value="([^"]+)"', self.get("/staff"))[0]
        return found

    def send(self, path: str, /, **fields: str) -> Any:
        """The answer to a form, before it leads on."""
        data = {"csrf": self.token, **fields}
        return self.browser.post(path, data=data, follow_redirects=False)

    def post(self, path: str, status: int = 200, /, **fields: str) -> str:
        """The page that a form leads to."""
        answer = self.browser.post(path, data={"csrf": self.token, **fields})
        assert answer.status_code == status, answer.text
        text: str = answer.text
        return text

    def upload(self, path: str, data: bytes, status: int = 200, /, **fields: str) -> str:
        form = {"csrf": self.token, **fields}
        answer = self.browser.post(path, data=form, files={"file": ("file.csv", data, "text/csv")})
        assert answer.status_code == status, answer.text
        text: str = answer.text
        return text


@dataclass
class Seen(HTMLParser):
    """A page as a browser takes it: its elements, and what a person reads."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    read: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.read += data

    @property
    def text(self) -> str:
        return " ".join(self.read.split())

    @property
    def acts(self) -> list[str]:
        """Whatever in it might run: none of ours does but the one script file."""
        found = [tag for tag, has in self.elements if tag == "script" and "src" not in has]
        for tag, has in self.elements:
            found += [f"{tag} {name}" for name in has if name.startswith("on") or name == "style"]
            found += [tag] if tag in ("iframe", "object", "embed", "base", "svg", "img") else []
        return found


def seen(page: str) -> Seen:
    made = Seen()
    made.feed(page)
    made.close()
    return made


def desk(rt: Served, role: Role = Role.RECEPTION, email: str = SAM, brand: str = "rt") -> Desk:
    """Somebody of that role, signed in."""
    employ(rt, email, role, brand)
    made = browser(rt)
    assert made.sign_in(email).status_code == 303
    return made


def browser(rt: Served) -> Desk:
    where = ("127.0.0.1", 50000)
    client = TestClient(rt.client.app, base_url=PUBLIC, raise_server_exceptions=False, client=where)
    return Desk(rt, client)


def routes(rt: Served, method: str) -> list[Route]:
    """Every route of the console but the sign-in."""
    return [
        route
        for route in rt.client.app.routes
        if isinstance(route, Route)
        and route.path.startswith("/staff")
        and route.path != "/staff/login"
        and method in (route.methods or ())
    ]


def filled(route: Route, id_: str = "s_" + "0" * 16) -> str:
    """The path of a route with something in each of its places."""
    return re.sub(r"\{[^}]+\}", id_, route.path)
