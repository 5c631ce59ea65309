"""Somebody of the staff at the console: an account, a session, forms with its token."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any

import httpx

from prefs.core import identity
from prefs.store import staff
from prefs.store.staff import Role
from tests.served import Served, eventually

SAM = "sam@example.co.uk"
PASSWORD = "correct horse battery"
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


@cache
def hashed(password: str) -> str:
    return staff.hashed(password)


def add_staff(
    rt: Served, email: str = SAM, role: Role = Role.OWNER, brand: str = "rt", kept: str = ""
) -> str:
    """Returns the id of a new account with PASSWORD, or with the hash of another."""
    address, now = identity.email(email), rt.runtime.clock().timestamp()
    kept = kept or hashed(PASSWORD)
    return rt.runtime.database.write_now(
        lambda conn: staff.add(conn, rt.runtime.keys, brand, address, role, kept, now)
    )


@dataclass
class Desk:
    """Carries its own session, so that several can be signed in at one service."""

    rt: Served
    email: str = SAM
    cookies: dict[str, str] = field(default_factory=dict)

    def login(self, password: str = PASSWORD, code: str = "", brand: str = "", **more: Any) -> Any:
        """The answer to the form of the sign-in, sent by a browser that kept nothing."""
        data = {"email": self.email, "password": password, "code": code, "brand": brand}
        self.cookies = {}
        answer = self.ask("POST", "/staff/login", data=data, **more)
        if found := answer.cookies.get("prefs_staff"):
            self.cookies = {"prefs_staff": found}
        return answer

    def sign_in(self, password: str = PASSWORD, code: str = "") -> int:
        """The status of the answer: 303 when let in."""
        return int(self.login(password, code).status_code)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        self.rt.client.cookies.clear()
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {**more.pop("headers", {}), **({"Cookie": cookie} if cookie else {})}
        return self.rt.client.request(method, path, headers=headers, follow_redirects=False, **more)

    def get(self, path: str, status: int = 200) -> str:
        """The page. Fails for any other status."""
        answer = self.ask("GET", path)
        assert answer.status_code == status, f"{path}: {answer.status_code}"
        return str(answer.text)

    @property
    def csrf(self) -> str:
        found = _CSRF.search(self.get("/staff"))
        assert found
        return found[1]

    def post(self, path: str, /, **fields: str) -> httpx.Response:
        """The answer to a form, before it leads on."""
        answer: httpx.Response = self.ask("POST", path, data={"csrf": self.csrf, **fields})
        return answer

    def submit(self, path: str, status: int = 200, /, **fields: str) -> str:
        """The page that a form leads to."""
        return self._led(self.post(path, **fields), status)

    def upload(self, path: str, data: bytes, status: int = 200, /, **fields: str) -> str:
        """The page that a form with a file leads to."""
        files = {"file": ("file.csv", data, "text/csv")}
        form = {"csrf": self.csrf, **fields}
        return self._led(self.ask("POST", path, data=form, files=files), status)

    def _led(self, answer: Any, status: int) -> str:
        if answer.status_code == 303:
            answer = self.ask("GET", answer.headers["location"])
        assert answer.status_code == status, answer.text
        return str(answer.text)

    def wait(self, path: str) -> str:
        """The page once no job runs on it."""
        eventually(lambda: "data-poll" not in self.get(path))
        return self.get(path)


def desk(rt: Served, role: Role = Role.OWNER, email: str = SAM, brand: str = "rt") -> Desk:
    """Somebody of that role, signed in."""
    add_staff(rt, email, role, brand)
    made = Desk(rt, email)
    assert made.sign_in() == 303
    return made


# --- reading pages -----------------------------------------------------------------------------


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
