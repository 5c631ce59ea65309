"""Staff, keys of programs, the ledger's seals, and one's own account."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pyotp
import pytest
from sqlalchemy import Connection

from prefs.store import access, ledger, staff
from prefs.store.staff import Member, Role
from tests.desk import PASSWORD, Desk, add_staff, desk
from tests.served import Served, served

SAM, ANN = "sam@example.co.uk", "ann@example.co.uk"
NEW = "four quite new words"


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


@pytest.fixture
def owner(rt: Served) -> Desk:
    return desk(rt, email=SAM)


def secret_in(answer: httpx.Response) -> str:
    assert answer.status_code == 200
    (found,) = re.findall(r'<code class="secret">([^<]+)</code>', answer.text)
    return html.unescape(found)


def members(rt: Served, brand: str = "rt") -> dict[str, Member]:
    read = rt.runtime.database.read_now
    found = read(lambda conn: staff.listed(conn, rt.runtime.keys, brand))
    return {one.email: one for one in found}


# --- staff -------------------------------------------------------------------------------------


def test_somebody_is_let_in_with_a_password_that_is_shown_once(rt: Served, owner: Desk) -> None:
    password = secret_in(owner.post("/staff/accounts/add", email=ANN, role="reception"))
    assert password not in owner.get("/staff/accounts")
    ann = Desk(rt, ANN)
    assert ann.sign_in(password) == 303
    assert ann.ask("GET", "/staff/accounts").status_code == 403
    assert members(rt)[ANN].role is Role.RECEPTION


@pytest.mark.parametrize(
    ("email", "says"),
    [("nobody", "This is not an email address"), (SAM, "has an account here already")],
)
def test_an_address_that_cannot_be_let_in_is_told_with_its_fix(
    rt: Served, owner: Desk, email: str, says: str
) -> None:
    answer = owner.post("/staff/accounts/add", email=email, role="manager")
    assert answer.status_code == 422
    assert says in answer.text
    assert list(members(rt)) == [SAM]


def test_a_new_role_counts_at_once(rt: Served, owner: Desk) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    assert ann.ask("GET", "/staff/systems").status_code == 403
    owner.post(f"/staff/accounts/{members(rt)[ANN].id}/role", role="owner")
    assert ann.ask("GET", "/staff/systems").status_code == 200
    assert owner.post(f"/staff/accounts/{members(rt)[ANN].id}/role", role="king").status_code == 422


def test_an_ended_account_is_signed_out_at_once(rt: Served, owner: Desk) -> None:
    ann = desk(rt, Role.MANAGER, ANN)
    owner.post(f"/staff/accounts/{members(rt)[ANN].id}/end")
    assert ann.ask("GET", "/staff").headers["location"] == "/staff/login"
    assert ann.sign_in() == 401
    assert list(members(rt)) == [SAM]


@pytest.mark.parametrize("act", ["end", "role"])
def test_the_last_owner_stays_one(rt: Served, owner: Desk, act: str) -> None:
    path = f"/staff/accounts/{members(rt)[SAM].id}/{act}"
    answer = owner.post(path, role="manager")
    assert answer.status_code == 409
    assert "make somebody else an owner first" in answer.text
    assert members(rt)[SAM].role is Role.OWNER
    add_staff(rt, ANN, Role.OWNER)
    assert owner.post(path, role="manager").status_code == 303


def test_a_forgotten_password_is_replaced_and_every_session_ends(rt: Served, owner: Desk) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    password = secret_in(owner.post(f"/staff/accounts/{members(rt)[ANN].id}/password"))
    assert ann.ask("GET", "/staff").status_code == 303
    assert ann.sign_in() == 401
    assert ann.sign_in(password) == 303
    assert owner.post(f"/staff/accounts/{members(rt)[SAM].id}/password").status_code == 422
    assert owner.get("/staff")


def test_a_lost_second_factor_is_removed(rt: Served, owner: Desk) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    set_up(ann)
    owner.post(f"/staff/accounts/{members(rt)[ANN].id}/totp")
    assert ann.sign_in() == 303


@pytest.mark.parametrize("act", ["end", "role", "password", "totp"])
def test_staff_of_another_brand_are_none(rt: Served, owner: Desk, act: str) -> None:
    add_staff(rt, ANN, Role.OWNER, "second")
    theirs = members(rt, "second")[ANN]
    answer = owner.post(f"/staff/accounts/{theirs.id}/{act}", role="reception")
    assert answer.status_code == 404
    assert members(rt, "second") == {ANN: theirs}
    assert ANN not in owner.get("/staff/accounts")


# --- keys --------------------------------------------------------------------------------------


def works(rt: Served, key: str) -> bool:
    answer = rt.client.get("/v1/targets", headers={"Authorization": f"Bearer {key}"})
    return bool(answer.status_code == 200)


def test_a_key_is_shown_once_and_holds_what_was_ticked(rt: Served, owner: Desk) -> None:
    key = secret_in(owner.post("/staff/keys/add", scope_check="yes", scope_staff="yes"))
    found = rt.runtime.database.read_now(lambda conn: access.find_key(conn, key))
    assert found
    assert found.brand == "rt"
    assert found.scopes == {"check", "staff"}
    assert works(rt, key)
    assert key not in owner.get("/staff/accounts")


def test_a_key_without_any_scope_is_not_made(rt: Served, owner: Desk) -> None:
    before = len(rt.runtime.database.read_now(access.list_keys))
    assert "Tick at least one" in owner.post("/staff/keys/add").text
    assert len(rt.runtime.database.read_now(access.list_keys)) == before


def test_a_key_is_revoked_by_its_own_brand_alone(rt: Served, owner: Desk) -> None:
    key = rt.key_for("check")
    id_ = key.split("_")[1]
    other = desk(rt, email="ola@example.co.uk", brand="second")
    assert id_ not in other.get("/staff/accounts")
    other.post(f"/staff/keys/{id_}/revoke")
    assert rt.runtime.database.read_now(lambda conn: access.find_key(conn, key))
    owner.post(f"/staff/keys/{id_}/revoke")
    assert rt.runtime.database.read_now(lambda conn: access.find_key(conn, key)) is None
    assert "Revoked" in owner.get("/staff/accounts")


# --- ledger ------------------------------------------------------------------------------------


def _spoil(conn: Connection) -> None:
    conn.exec_driver_sql("UPDATE ledger SET source = 'staff' WHERE n = 2")


def test_the_ledger_is_verified_in_the_background(rt: Served, owner: Desk) -> None:
    assert "Nothing is sealed yet." in owner.get("/staff/accounts")
    for number in range(3):
        rt.say(f"p{number}@example.com", "out")
    rt.runtime.database.write_now(ledger.seal)
    head = rt.runtime.database.read_now(ledger.head)
    assert head[1].hex() in owner.get("/staff/accounts")
    owner.post("/staff/accounts/verify")
    assert "3 rows read, nothing missing" in owner.wait("/staff/accounts")
    rt.runtime.database.write_now(_spoil)
    owner.post("/staff/accounts/verify")
    assert "row 2 (event 2) was changed after sealing" in owner.wait("/staff/accounts")


# --- my account --------------------------------------------------------------------------------


def change(one: Desk, old: str = PASSWORD, new: str = NEW, again: str = NEW) -> httpx.Response:
    return one.post("/staff/me/password", password=old, new=new, again=again)


def test_my_password_is_changed_and_every_session_ends(rt: Served) -> None:
    here = desk(rt, Role.RECEPTION, ANN)
    elsewhere = Desk(rt, ANN)
    elsewhere.sign_in()
    assert change(here).status_code == 200
    assert {one.ask("GET", "/staff").status_code for one in (here, elsewhere)} == {303}
    assert here.sign_in() == 401
    assert here.sign_in(NEW) == 303


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"old": "wrong"}, "That is not your present password"),
        ({"again": "something else"}, "was not the same twice"),
        ({"new": "short", "again": "short"}, "it needs at least 12 characters"),
    ],
)
def test_a_password_that_cannot_be_changed_says_why(
    rt: Served, sent: dict[str, str], says: str
) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    answer = change(ann, **sent)
    assert (answer.status_code, says in answer.text) == (422, True)
    assert ann.ask("GET", "/staff").status_code == 200
    assert ann.sign_in() == 303


def test_nobody_guesses_a_password_at_an_open_session(rt: Served) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    for _ in range(staff.TRIES):
        change(ann, old="wrong")
    assert "Too many tries" in change(ann).text
    assert ann.sign_in() == 303


def set_up(one: Desk) -> tuple[pyotp.TOTP, str]:
    """The factor once it counts, and the code that proved it."""
    one.post("/staff/me/totp")
    (shown,) = re.findall(r'<code class="secret">([^<]+)</code>', one.get("/staff/me"))
    factor = pyotp.TOTP(str(shown).replace(" ", ""))
    code = factor.now()
    one.post("/staff/me/totp/confirm", code=code)
    return factor, code


def test_a_second_factor_counts_once_its_first_code_was_right(rt: Served) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    ann.post("/staff/me/totp")
    wrong = ann.post("/staff/me/totp/confirm", code="000000")
    assert (wrong.status_code, "This code does not fit" in wrong.text) == (422, True)
    assert ann.sign_in() == 303
    factor, _ = set_up(ann)
    assert "is asked for whenever you sign in" in ann.get("/staff/me")
    assert ann.sign_in() == 401
    assert ann.sign_in(code=factor.at(int(time.time()), counter_offset=1)) == 303


def test_the_code_that_set_it_up_is_used(rt: Served) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    factor, code = set_up(ann)
    assert ann.sign_in(code=code) == 401
    assert ann.sign_in(code=factor.at(int(time.time()), counter_offset=1)) == 303


def test_the_picture_is_the_sessions_own(rt: Served) -> None:
    ann, elsewhere = desk(rt, Role.RECEPTION, ANN), Desk(rt, ANN)
    elsewhere.sign_in()
    assert ann.ask("GET", "/staff/me/totp.svg").status_code == 404
    ann.post("/staff/me/totp")
    picture = ann.ask("GET", "/staff/me/totp.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.headers["cache-control"] == "no-store"
    assert picture.text.count("<path") == 2
    assert elsewhere.ask("GET", "/staff/me/totp.svg").status_code == 404
    ann.post("/staff/me/totp/stop")
    assert ann.ask("GET", "/staff/me/totp.svg").status_code == 404


def test_a_second_factor_is_removed_by_the_password(rt: Served) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    set_up(ann)
    assert ann.post("/staff/me/totp/remove", password="wrong").status_code == 422
    assert members(rt)[ANN].has_totp
    ann.post("/staff/me/totp")
    assert ann.ask("GET", "/staff/me/totp.svg").status_code == 404
    ann.post("/staff/me/totp/remove", password=PASSWORD)
    assert not members(rt)[ANN].has_totp
    assert ann.sign_in() == 303


def test_a_secret_is_kept_encrypted(rt: Served) -> None:
    ann = desk(rt, Role.RECEPTION, ANN)
    ann.post("/staff/me/totp")
    (shown,) = re.findall(r'<code class="secret">([^<]+)</code>', ann.get("/staff/me"))
    secret = shown.replace(" ", "").encode()
    folder = rt.folder
    rt.runtime.database.write_now(partial(access.purge_answers, now=0.0))
    assert all(secret not in path.read_bytes() for path in folder.glob("prefs.db*"))
