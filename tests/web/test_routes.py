"""Every route is listed with who may use it, and tried as everybody else."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.routing import Route

from prefs.core.tokens import TokenKind
from prefs.store import access
from prefs.store.staff import Role
from tests.desk import desk
from tests.served import served
from tests.web.test_security import PERSONAL, TARGETS, Clinic, examples, token_of

pytestmark = pytest.mark.told_on("sqlite")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "routes.md"
_ROW = re.compile(r"^\| `(/[^`]*)` \| ([A-Z ]+) \| (.+) \|$", re.MULTILINE)
SHOWN = {"GET", "POST", "PUT", "PATCH", "DELETE"}


class Listed(NamedTuple):
    path: str
    methods: frozenset[str]
    who: str

    @property
    def door(self) -> str:
        return self.who.partition(":")[0]

    @property
    def let_in(self) -> set[str]:
        return set(self.who.partition(": ")[2].split())


LISTED = [
    Listed(path, frozenset(how.split()), who) for path, how, who in _ROW.findall(PAGE.read_text())
]


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with served(tmp_path, TARGETS) as rt:
        rt.consent(
            "adelaide.lowe@example.com",
            subject={"email": "adelaide.lowe@example.com", "name": "Adelaide Lowe", "ref": "p1"},
        )
        owner = desk(rt, email="sam.smith@example.co.uk")
        yield Clinic(rt, owner, examples(rt, owner))


def said(route: Route) -> str:
    """Who the program itself says may use it; empty where it says nothing."""
    if needs := getattr(route.endpoint, "needs", None):
        return f"key: {' '.join(sorted(needs))}"
    least = getattr(route.endpoint, "least", None)
    return f"staff: {least}" if least else ""


def test_every_route_is_listed_with_who_may_use_it(clinic: Clinic) -> None:
    listed = {(one.path, method): one.who for one in LISTED for method in one.methods}
    found = {
        (route.path, method): said(route)
        for route in clinic.routes
        for method in SHOWN & set(route.methods or ())
    }
    assert found.keys() - listed.keys() == set(), f"list these in {PAGE.name}"
    assert listed.keys() - found.keys() == set(), f"these are gone: take them out of {PAGE.name}"
    wrong = {at: who for at, who in found.items() if who and who != listed[at]}
    assert wrong == {}
    silent = {
        at for at, who in found.items() if not who and listed[at].startswith(("key", "staff"))
    }
    assert silent == set()


@pytest.mark.parametrize("scope", ["", *access.SCOPES])
def test_a_key_opens_what_is_listed_for_its_scope(clinic: Clinic, scope: str) -> None:
    """Without any key all is 401."""
    headers = {"Authorization": f"Bearer {clinic.rt.key_for(scope)}"} if scope else {}
    for one in (one for one in LISTED if one.door == "key"):
        path = re.sub(r"{\w+}", "x", one.path)
        for method in one.methods:
            status = clinic.rt.client.request(method, path, headers=headers).status_code
            if not scope:
                assert status == 401, one.path
            else:
                assert (status == 403) == (scope not in one.let_in), f"{one.path} {scope}"


@pytest.mark.parametrize("kind", list(TokenKind))
def test_a_token_opens_what_is_listed_for_its_kind(clinic: Clinic, kind: TokenKind) -> None:
    token = token_of(clinic.rt, kind)
    for one in (one for one in LISTED if one.door == "token"):
        opens = kind.name.lower() in one.let_in
        for method in sorted(one.methods):
            answer = clinic.rt.client.request(method, one.path.replace("{token}", token))
            # a form that lacks its fields is told so by the page that the token opened
            wanted = (200, 422) if opens and method == "POST" else (200,) if opens else (404,)
            assert answer.status_code in wanted, f"{method} {one.path}"


def test_a_token_that_is_none_of_ours_gets_the_same_bytes_everywhere(clinic: Clinic) -> None:
    whole = token_of(clinic.rt, TokenKind.FOOTER_UNSUBSCRIBE)
    forged = ["x", whole[:-1], whole[:-1] + ("A" if whole[-1] != "A" else "B"), "A" * 400]
    pages = {
        clinic.rt.client.get(one.path.replace("{token}", token)).content
        for one in LISTED
        if one.door == "token"
        for token in forged
    }
    assert len(pages) == 1


@pytest.mark.parametrize("role", list(Role))
def test_a_session_opens_what_is_listed_for_its_role(clinic: Clinic, role: Role) -> None:
    """What it may not open is 403; what that would have changed is another test's."""
    one = desk(clinic.rt, role, f"{role}@example.co.uk")
    for listed in (listed for listed in LISTED if listed.door == "staff"):
        (least,) = listed.let_in
        for route in (route for route in clinic.routes if route.path == listed.path):
            for method in sorted(listed.methods & set(route.methods or ())):
                one.sign_in()
                form = {"data": {"csrf": one.csrf}} if method == "POST" else {}
                status = one.ask(method, clinic.path(route), **form).status_code
                allowed = role.covers(Role(least))
                assert (status == 403) != allowed, f"{role} {method} {listed.path}: {status}"


def test_staff_of_another_brand_see_and_change_nothing(clinic: Clinic) -> None:
    """The highest role of a brand of another controller, with ids of ours in every path."""
    foreign = desk(clinic.rt, Role.OWNER, "olga@example.org", "foreign")
    csrf, before = foreign.csrf, clinic.dump()
    form = {"csrf": csrf, "note": "x", "role": "owner", "told": "phone", "choice": "out"}
    form |= {"channel": "all", "target": "timely", "column": "0", "purpose": "marketing"}
    for listed in (listed for listed in LISTED if listed.door == "staff" and "{" in listed.path):
        route = next(route for route in clinic.routes if route.path == listed.path)
        for method in sorted(listed.methods):
            more = {"data": form} if method == "POST" else {}
            answer = foreign.ask(method, clinic.path(route), **more)
            status = answer.status_code
            assert status in (404, 303, 422), f"{method} {listed.path}: {status}"
            shown = answer.text.lower()
            assert [word for word in PERSONAL if word in shown] == [], listed.path
    assert clinic.dump() == before
