"""Somebody of the staff at the console: signed in, with the token that every form carries."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from prefs.core import identity
from prefs.store import staff
from prefs.store.staff import Role
from tests.served import Served, eventually

PASSWORD = "correct horse battery"
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


@cache
def _hashed() -> str:
    return staff.hashed(PASSWORD)


def add_staff(rt: Served, email: str, role: Role = Role.OWNER, brand: str = "rt") -> str:
    """Returns the id of a new account with PASSWORD."""
    return rt.runtime.database.write_now(
        lambda conn: staff.add(
            conn,
            rt.runtime.keys,
            brand,
            identity.email(email),
            role,
            _hashed(),
            rt.runtime.clock().timestamp(),
        )
    )


@dataclass
class Desk:
    """Carries its own session, so that several can be signed in at one service."""

    rt: Served
    email: str
    cookies: dict[str, str] = field(default_factory=dict)

    def sign_in(self, password: str = PASSWORD, code: str = "") -> int:
        """The status of the answer: 303 when let in."""
        data = {"email": self.email, "password": password, "code": code}
        answer = self.ask("POST", "/staff/login", data=data)
        if found := answer.cookies.get("prefs_staff"):
            self.cookies = {"prefs_staff": found}
        return int(answer.status_code)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        self.rt.client.cookies.clear()
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {**more.pop("headers", {}), **({"Cookie": cookie} if cookie else {})}
        return self.rt.client.request(method, path, headers=headers, follow_redirects=False, **more)

    def get(self, path: str) -> str:
        """The page. Fails for any status but 200."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
        return str(answer.text)

    @property
    def csrf(self) -> str:
        found = _CSRF.search(self.get("/staff"))
        assert found
        return found[1]

    def post(self, path: str, **fields: str) -> httpx.Response:
        data = {"csrf": self.csrf, **fields}
        answer: httpx.Response = self.ask("POST", path, data=data)
        return answer

    def wait(self, path: str, seconds: float = 8.0) -> str:
        """The page once no job runs on it."""
        eventually(lambda: "data-poll" not in self.get(path), seconds)
        return self.get(path)


def desk(
    rt: Served, role: Role = Role.OWNER, email: str = "sam@example.co.uk", brand: str = "rt"
) -> Desk:
    add_staff(rt, email, role, brand)
    made = Desk(rt, email)
    assert made.sign_in() == 303
    return made
