"""The console over the service: who gets in, whom they see, what a form does and may not do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pyotp
import pytest
from starlette.routing import Route
from structlog.testing import capture_logs

from prefs import links
from prefs.core import identity
from prefs.core.errors import Unavailable
from prefs.core.ids import subject_number
from prefs.core.propagation import Outcome, Slot, Value, Wish
from prefs.core.signals import Evidence
from prefs.core.words import Channel, Kind
from prefs.store import marks, outbox, staff, tasks
from prefs.store.marks import Proof
from prefs.store.schema import metadata
from prefs.store.staff import SESSION_LASTS, TRIES, TRIES_FROM, Role
from prefs.web.console import person as person_page
from tests.desk import PASSWORD, SAM, Desk, add_staff, desk, hashed, seen
from tests.kit import Clock
from tests.served import Served, served

ADA, PHONE = "ada@example.com", "+447700900101"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ATTACKS = [
    "<script>document.title='hit'</script>",
    '"><img src=x onerror=document.title=1>',
    "{{ 7*7 }}{% raw %}",
    "'\"`;--",
    "\u202eevil\u2066\u200bname",
    "a\r\nSet-Cookie: x=1",
]
BLOCKED = """
[brands.rt.targets.list]
system = "mailchimp"
mode = "observe"
base_url = "http://127.0.0.1:9"
api_key = "env:MAILCHIMP"
audiences = { a1 = ["treatments"] }
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, BLOCKED, environ={"MAILCHIMP": "a-us6"}, clock=clock) as made:
        yield made


@pytest.fixture
def sam(rt: Served) -> Desk:
    return desk(rt, Role.RECEPTION)


def ada(rt: Served, **more: Any) -> str:
    """Ada's page; she agreed to emails."""
    subject = {"email": ADA, "phone": PHONE, "name": "Ada Lowe", "ref": "p1", **more}
    id_ = rt.consent(ADA, subject=subject)["subject_id"]
    return f"/staff/people/{id_}"


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


def bare(page: str) -> str:
    """A page without the token in it, and without the address that was typed."""
    return re.sub(r'name="(csrf|email)" value="[^"]+"', "", page)


def says(page: str) -> str:
    """What a person reads."""
    return seen(page.replace("<", " <")).text


# --- sign-in -----------------------------------------------------------------------------------


def test_who_is_wrong_is_told_the_same_whatever_is_wrong(rt: Served) -> None:
    id_ = add_staff(rt)
    keys = rt.runtime.keys
    sam = Desk(rt)
    wrong = [Desk(rt, "nobody@example.com").login(), sam.login("wrong horse battery")]
    rt.runtime.database.write_now(lambda conn: staff.set_totp(conn, keys, "rt", id_, SECRET))
    wrong += [sam.login(), sam.login(code="000000")]
    wrong += [Desk(rt, "no address at all").login()]
    assert {one.status_code for one in wrong} == {401}
    assert len({bare(one.text) for one in wrong}) == 1
    assert all("prefs_staff" not in one.cookies for one in wrong)


def test_tries_are_counted_together_by_all_processes(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path, clock=clock) as one, served(tmp_path, clock=clock) as other:
        add_staff(one)
        here, there = Desk(one), Desk(other)
        for n in range(TRIES):
            assert (here, there)[n % 2].sign_in("wrong") == 401
        for late in (here, there):
            answer = late.login()
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) <= staff.WINDOW
        assert Desk(one, "other@example.com").sign_in() == 401
        clock.forward(staff.WINDOW + 1)
        assert there.sign_in() == 303


def test_one_network_may_not_try_many_addresses(rt: Served) -> None:
    add_staff(rt)
    for n in range(TRIES_FROM):
        assert Desk(rt, f"p{n}@example.com").sign_in() == 401
    assert Desk(rt).sign_in() == 429


def test_signing_in_uses_no_try_up(rt: Served) -> None:
    """A whole clinic sits behind one network address."""
    add_staff(rt)
    for _ in range(TRIES_FROM + 5):
        assert Desk(rt).sign_in() == 303


TRUSTED = {"PREFS__TRUSTED_PROXIES": '["127.0.0.1"]'}


def test_behind_a_trusted_proxy_the_limit_is_of_whom_it_names(tmp_path: Path) -> None:
    with served(tmp_path, environ=TRUSTED) as rt:
        add_staff(rt)
        for n in range(TRIES_FROM + 1):
            told = {"X-Forwarded-For": f"10.0.0.1, 192.0.2.{n}"}
            assert Desk(rt, f"p{n}@example.com").login(headers=told).status_code == 401


def test_whom_an_untrusted_proxy_names_counts_for_nothing(rt: Served) -> None:
    for n in range(TRIES_FROM):
        told = {"X-Forwarded-For": f"192.0.2.{n}"}
        assert Desk(rt, f"p{n}@example.com").login(headers=told).status_code == 401
    told = {"X-Forwarded-For": "192.0.2.250"}
    assert Desk(rt, "q@example.com").login(headers=told).status_code == 429


def test_a_network_of_ipv6_is_no_endless_store_of_addresses(tmp_path: Path) -> None:
    with served(tmp_path, environ=TRUSTED) as rt:
        for n in range(TRIES_FROM):
            told = {"X-Forwarded-For": f"2001:db8:0:1::{n:x}"}
            assert Desk(rt, f"p{n}@example.com").login(headers=told).status_code == 401
        for last, status in (("0:1:ffff::1", 429), ("0:2::1", 401)):
            told = {"X-Forwarded-For": f"2001:db8:{last}"}
            assert Desk(rt, "q@example.com").login(headers=told).status_code == status


def test_who_works_for_two_brands_by_one_password_is_asked_which(rt: Served) -> None:
    for brand in ("rt", "second"):
        add_staff(rt, brand=brand)
    asked = Desk(rt).login()
    assert asked.status_code == 200
    assert "prefs_staff" not in asked.cookies
    assert f'value="{SAM}"' in asked.text
    assert re.findall(r'<option value="(\w+)"', asked.text) == ["rt", "second"]
    for brand, name in (("rt", "RT Aesthetics"), ("second", "RT Skin")):
        sam = Desk(rt)
        assert sam.login(brand=brand).status_code == 303
        assert f'<p class="name">{name}</p>' in sam.get("/staff")
    assert Desk(rt).login(brand="foreign").status_code == 401


def test_a_wrong_password_leaves_the_address_in_place(rt: Served) -> None:
    assert f'value="{SAM}"' in Desk(rt).login("wrong").text


def test_a_password_changed_while_it_is_checked_lets_nobody_in(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, find = add_staff(rt), staff.known_by
    changed = hashed("another horse battery")

    def meanwhile(*given: Any) -> Any:
        found = find(*given)
        rt.runtime.database.write_now(lambda conn: staff.set_password(conn, "rt", id_, changed))
        return found

    monkeypatch.setattr(staff, "known_by", meanwhile)
    assert Desk(rt).sign_in() == 401


def test_what_a_browser_keeps_is_kept_safe(rt: Served) -> None:
    add_staff(rt)
    (cookie,) = [
        one for one in Desk(rt).login().headers.get_list("set-cookie") if "prefs_staff=" in one
    ]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite=strict", "path=/staff"} <= parts
    assert f"max-age={int(SESSION_LASTS)}" in parts


def test_a_form_of_another_site_signs_nobody_in(rt: Served) -> None:
    add_staff(rt)
    fields = {"email": SAM, "password": PASSWORD}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = rt.client.post("/staff/login", data=fields, headers=headers)
        assert answer.status_code == 403
    answer = rt.client.post("/staff/login", data=fields | {"csrf": "made up"})
    assert answer.status_code == 403


def test_it_leads_nowhere_else(rt: Served) -> None:
    add_staff(rt)
    fields = {"email": SAM, "password": PASSWORD, "next": "https://evil.example"}
    answer = Desk(rt).ask("POST", "/staff/login?next=//evil.example", data=fields)
    assert answer.headers["location"] == "/staff"


def test_a_password_is_kept_by_argon2id_at_the_cost_that_rfc_9106_recommends() -> None:
    """In a process of its own: the other tests pay less."""
    told = "from prefs.store import staff; print(staff._hasher.hash('x'), staff._NOBODY)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    for kept in done.stdout.split():
        assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


class TestSecondFactor:
    @pytest.fixture
    def totp(self, rt: Served) -> pyotp.TOTP:
        id_, keys = add_staff(rt), rt.runtime.keys
        rt.runtime.database.write_now(lambda conn: staff.set_totp(conn, keys, "rt", id_, SECRET))
        return pyotp.TOTP(SECRET)

    def test_a_code_lets_in_once(self, rt: Served, clock: Clock, totp: pyotp.TOTP) -> None:
        code = totp.at(clock())
        assert Desk(rt).sign_in(code=code) == 303
        assert Desk(rt).sign_in(code=code) == 401
        clock.forward(30)
        assert Desk(rt).sign_in(code=code) == 401
        assert Desk(rt).sign_in(code=totp.at(clock())) == 303

    def test_no_code_counts_after_a_later_one(
        self, rt: Served, clock: Clock, totp: pyotp.TOTP
    ) -> None:
        early, late = totp.at(clock()), totp.at(clock(), counter_offset=1)
        assert Desk(rt).sign_in(code=late) == 303
        assert Desk(rt).sign_in(code=early) == 401

    def test_a_clock_may_be_half_a_minute_wrong_and_no_more(
        self, rt: Served, clock: Clock, totp: pyotp.TOTP
    ) -> None:
        for offset in (-2, 2):
            code = totp.at(clock(), counter_offset=offset)
            assert Desk(rt).sign_in(code=code) == 401
        code = totp.at(clock(), counter_offset=-1)
        assert Desk(rt).sign_in(code=f"{code[:3]} {code[3:]}") == 303


# --- sessions ----------------------------------------------------------------------------------


def signed_in(one: Desk) -> bool:
    answer = one.ask("GET", "/staff")
    assert answer.status_code in (200, 303)
    return bool(answer.status_code == 200)


def test_a_session_lasts_eight_hours(sam: Desk, clock: Clock) -> None:
    clock.forward(SESSION_LASTS - 10)
    assert signed_in(sam)
    clock.forward(20)
    assert not signed_in(sam)


def test_a_new_password_ends_every_session(rt: Served, clock: Clock) -> None:
    id_ = add_staff(rt)
    here, there = Desk(rt), Desk(rt)
    for one in (here, there):
        one.sign_in()
    kept = hashed("another horse battery")
    rt.runtime.database.write_now(lambda conn: staff.set_password(conn, "rt", id_, kept))
    assert not signed_in(here)
    assert not signed_in(there)
    assert here.sign_in() == 401
    assert here.sign_in(password="another horse battery") == 303


def test_an_ended_account_is_out_at_once(rt: Served, sam: Desk) -> None:
    (member,) = rt.runtime.database.read_now(lambda conn: staff.listed(conn, rt.runtime.keys, "rt"))
    rt.runtime.database.write_now(lambda conn: staff.end(conn, "rt", member.id, 1.0))
    assert not signed_in(sam)
    assert sam.sign_in() == 401


def test_signing_out_ends_the_session_itself(rt: Served, sam: Desk) -> None:
    kept = dict(sam.cookies)
    sam.submit("/staff/logout")
    sam.cookies = kept
    assert not signed_in(sam)


def test_nothing_is_shown_to_nobody(rt: Served) -> None:
    for method in ("GET", "POST"):
        for route in routes(rt, method):
            path = filled(route)
            answer = Desk(rt).ask(method, path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/staff/login"), path


def test_the_store_away_is_told_as_a_page(
    rt: Served, sam: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the store is away or locked")

    monkeypatch.setattr(type(rt.runtime.database), "read", away)
    page = sam.get("/staff", 503)
    assert "nothing was changed" in page


GERMAN = """
[brands.rund]
controller = "rt"
name = "RT Haut"
locale = "de-DE"
region = "DE"
timezone = "Europe/Berlin"
privacy_notice = "https://example.co.uk/privacy"
[brands.rund.targets.timely]
system = "timely"
mode = "live"
"""
FILE = {"file": ("a.csv", b"a,b\n1,2\n", "text/csv")}
BROKEN = {
    "content": b"--x\r\n\r\nfoo",
    "headers": {"Content-Type": "multipart/form-data; boundary=x"},
}


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        ("/staff/campaign", {"data": {}}, "Das Formular kam beschädigt an"),
        ("/staff/campaign", BROKEN, "Das Formular kam beschädigt an"),
        ("/staff/calls", {"data": {"rows": "1" * 70_000}}, "Das Formular kam beschädigt an"),
        ("/staff/changes/timely", {"files": FILE}, "oder eine Spalte fehlt"),
    ],
)
def test_what_is_wrong_is_told_in_the_brands_language(
    tmp_path: Path, path: str, more: dict[str, Any], says: str
) -> None:
    with served(tmp_path, GERMAN) as rt:
        one = desk(rt, Role.OWNER, brand="rund")
        if "content" not in more:
            more = more | {"data": more.get("data", {}) | {"csrf": one.csrf}}
        answer = one.ask("POST", path, **more)
        assert 400 <= answer.status_code < 500
        assert says in answer.text


def test_a_fault_of_ours_is_told_as_a_page_and_logged(
    rt: Served, sam: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("private words")

    page = ada(rt)
    monkeypatch.setattr(person_page, "look", broken)
    with capture_logs() as logs:
        shown = sam.get(page, 500)
    assert "A fault on our side" in shown
    assert "private words" not in shown
    assert 'href="/staff"' in shown
    (told,) = [one for one in logs if one["event"] == "request_failed"]
    assert "private words" not in str(told)


# --- forms and roles ---------------------------------------------------------------------------


def everything(rt: Served) -> dict[str, int]:
    """How many rows each table has, but for what a look at a page may count."""

    def count(conn: Any) -> dict[str, int]:
        names = [name for name in metadata.tables if name not in ("counters", "attempts")]
        return {
            name: conn.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
            for name in names
        }

    return rt.runtime.database.read_now(count)


def test_no_form_counts_without_its_token(rt: Served, sam: Desk) -> None:
    page, token = ada(rt), sam.csrf
    fields = {"channel": "phone", "choice": "out", "told": "phone", "who": "0113 496 0000"}
    fields |= {"target": "list", "note": "x", "state": "done", "q": ADA}
    before = everything(rt)
    walked = 0
    for route in routes(rt, "POST"):
        path = filled(route, page.rpartition("/")[2])
        tries: list[dict[str, Any]] = [
            {"data": fields},
            {"data": fields | {"csrf": "made up"}},
            {"data": fields | {"csrf": token[:-1]}},
            {"data": fields, "files": {"file": ("a.csv", b"07700 900101")}},
            {"data": fields | {"csrf": "no"}, "files": {"file": ("a.csv", b"07700 900101")}},
            {"json": fields},
            {"content": b"--", "headers": {"Content-Type": "multipart/form-data; boundary="}},
        ]
        for one in tries:
            answer = sam.ask("POST", path, **one)
            assert answer.status_code == 403, (path, one)
            walked += 1
    assert walked >= 7 * 8
    assert signed_in(sam)
    assert everything(rt) == before


def test_no_form_breaks_a_page(rt: Served) -> None:
    """Whatever is posted with a good token: an answer that says what is wrong."""
    owner, page = desk(rt, Role.OWNER), ada(rt)
    token = owner.csrf
    odd = [
        "",
        "x" * 5000,
        "-1",
        "9" * 400,
        "\x00",
        "all",
        "in",
        "\ud800".encode("utf-8", "replace").decode(),
    ]
    for route in routes(rt, "POST"):
        if route.path == "/staff/logout":
            continue
        path = filled(route, page.rpartition("/")[2])
        for value in odd:
            names = ("channel", "choice", "told", "at", "note", "who", "act", "address", "target")
            data = dict.fromkeys((*names, "state", "q", "rows", "row", "list"), value)
            answer = owner.ask("POST", path, data=data | {"csrf": token})
            assert answer.status_code < 500, (path, value)
        many = {f"f{n}": "1" for n in range(600)}
        answer = owner.ask("POST", path, data=many | {"csrf": token})
        assert answer.status_code in (403, 422), path


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00", "9999-12-31T23:59", "yesterday", "2026-13-01T00:00", "2026-03-01"]
)
def test_odd_times_are_no_fault_of_ours(rt: Served, sam: Desk, at: str) -> None:
    fields = {"channel": "phone", "choice": "out", "told": "phone", "at": at}
    answer = sam.post(f"{ada(rt)}/record", **fields)
    assert answer.status_code in (303, 422)


def test_every_page_names_the_role_it_needs_and_keeps_to_it(rt: Served) -> None:
    desks = {role: desk(rt, role, f"{role.value}@example.co.uk") for role in Role}
    for method in ("GET", "POST"):
        for route in routes(rt, method):
            least: Role = cast(Any, route.endpoint).least
            path = filled(route)
            for role, one in desks.items():
                if role.covers(least) or route.path == "/staff/logout":
                    continue
                data = {"csrf": one.csrf} if method == "POST" else None
                answer = one.ask(method, path, data=data)
                assert answer.status_code == 403, (role, path)


def test_another_controllers_person_is_nobody(rt: Served, sam: Desk) -> None:
    stranger = desk(rt, Role.OWNER, "eve@example.org", "foreign")
    page = ada(rt)
    before = everything(rt)
    fields = {"channel": "phone", "choice": "out", "told": "phone", "note": "x"}
    for route in routes(rt, "POST"):
        if "{id}" in route.path and "/people/" in route.path:
            path = filled(route, page.rpartition("/")[2])
            answer = stranger.post(path, **fields, target="list", act="1", address="1")
            assert answer.status_code == 404, path
    stranger.get(page, 404)
    assert "Ada" not in stranger.submit("/staff/search", q="ada")
    assert "Ada" not in stranger.submit("/staff/search", q=ADA)
    assert everything(rt) == before
    assert "Ada" in sam.get(page)


# --- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_wrote_is_shown_as_text(rt: Served, sam: Desk, attack: str) -> None:
    subject = {"email": ADA, "name": attack, "ref": attack}
    evidence = {"wording": attack}
    id_ = rt.say(ADA, "in", subject=subject, basis="consent", evidence=evidence)["subject_id"]
    page = f"/staff/people/{id_}"
    fields = {"channel": "phone", "choice": "out", "told": "phone", "note": attack}
    shown = [sam.submit(f"{page}/record", **fields), sam.get(page)]
    shown += [sam.submit("/staff/search", q=attack)]
    for text in map(seen, shown):
        assert text.acts == []
        assert " ".join(attack.split()) in text.text
    assert seen(shown[1]).text.count(" ".join(attack.split())) >= 3


def test_no_address_and_no_title_tells_of_anybody(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    fields = {"channel": "all", "choice": "out", "told": "phone", "note": "rang"}
    led = [
        sam.post("/staff/search", q=ADA),
        sam.post("/staff/search", q="p1"),
        sam.post(f"{page}/record", **fields),
        sam.post("/staff/new", who="new@example.com", name="Bob", **fields),
        sam.post(f"{page}/retry", target="list"),
    ]
    private = re.compile("ada|lowe|@|7700|bob|new|p1|rang", re.IGNORECASE)
    for one in led:
        assert one.status_code == 303
        assert not private.search(one.headers["location"])
        page_shown = sam.get(one.headers["location"])
        (title,) = re.findall(r"<title>(.*?)</title>", page_shown)
        assert not private.search(title)


def test_a_made_up_message_is_not_shown(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    assert 'role="status"' not in sam.get(f"{page}?saved=everything+is+fine&about=email")


def test_every_page_keeps_the_policy(rt: Served, sam: Desk) -> None:
    for path in ("/staff", ada(rt), "/staff/login"):
        headers = sam.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_the_page_says_why_since_when_and_by_whom(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    sam.submit(f"{page}/record", channel="phone", choice="out", told="letter", note="a card")
    text = says(sam.get(page))
    assert re.search(r"Phone call No objected to this \d+ March 2026 staff sam@example", text)
    assert re.search(r"Email Yes agreed to it 2 March 2026 another program", text)
    assert "never agreed to it" in text
    assert "by letter: a card" in text


def test_who_shares_an_address_is_named_with_it(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    other = rt.say("", "out", subject={"phone": PHONE, "name": "Bob Lowe", "ref": "p2"})
    text = says(sam.get(page))
    assert re.search(rf"Others with the same address or number.*Bob Lowe \{PHONE}", text)
    assert f"/staff/people/{other['subject_id']}" in sam.get(page)


def test_an_answer_that_a_sharer_gave_is_told_so(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    change = [{"channel": "sms", "purpose": "marketing", "choice": "out"}]
    rt.say("", subject={"phone": "+447700900102", "name": "Bob", "ref": "p2"}, changes=change)
    rt.say("", subject={"phone": PHONE, "ref": "p2"}, changes=[change[0] | {"channel": "post"}])
    assert "said by somebody with the same" in says(sam.get(page))


def test_each_systems_outcome_has_its_age_and_a_retry(rt: Served, sam: Desk, clock: Clock) -> None:
    page = ada(rt)
    text = sam.submit(f"{page}/record", channel="email", choice="out", told="phone")
    assert re.search(
        r"These systems follow: Mailchimp \(list\) \( ?Email ?\): On its way", says(text)
    )
    looked_at(rt, clock().timestamp())
    clock.forward(7200)
    assert "2 hours ago" in says(sam.get(page))
    before = waiting(rt, page)
    assert "looked at again now" in sam.submit(f"{page}/retry", target="list")
    after = waiting(rt, page)
    assert after.number > before.number
    assert after.urgent
    sam.submit(f"{page}/retry", 404, target="nonsense")


def looked_at(rt: Served, at: float) -> None:
    """A system's lane read Ada's record then, and its write did not go through."""
    hash_ = rt.runtime.keys.hash(identity.email(ADA))
    slot = Slot("a1", Channel.EMAIL, topics=("treatments",))
    proof = Proof(hash_, slot, Wish.OFF, Outcome.PENDING, "down", Value.ON, at)
    rt.runtime.database.write_now(lambda conn: marks.write_receipts(conn, "rt/list", [proof], at))


def waiting(rt: Served, page: str) -> Any:
    id_ = subject_number(page.rpartition("/")[2])
    (mark,) = rt.runtime.database.read_now(lambda conn: marks.of_subject(conn, id_))
    return mark


# --- what a form does --------------------------------------------------------------------------


def test_a_phone_opt_out_is_an_objection_by_name(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    assert "Recorded." in sam.submit(f"{page}/record", channel="phone", choice="out", told="phone")
    assert rt.reason(PHONE, channel="phone") == "objected"
    assert rt.reason(PHONE, channel="sms") == "no_basis"
    assert rt.reason(ADA) == "consent"
    history = rt.get(f"/v1/subjects/{page.rpartition('/')[2]}/history").json()["items"]
    assert history[-1]["actor"] == SAM
    assert history[-1]["source"] == "staff"


def test_all_marketing_is_out_on_every_channel_at_every_brand(rt: Served, sam: Desk) -> None:
    sam.submit(f"{ada(rt)}/record", channel="all", choice="out", told="person")
    assert rt.reason(ADA) == "objected"
    assert rt.reason(PHONE, channel="sms") == "objected"
    assert rt.reason(PHONE, channel="sms", purpose="reminders") == "service"
    key = rt.key_for("check", "second")
    body = {"brand": "second", "channel": "email", "purpose": "marketing", "to": [ADA]}
    headers = {"Authorization": f"Bearer {key}"}
    (result,) = rt.client.post("/v1/check", json=body, headers=headers).json()["results"]
    assert result["reason"] == "objected"


def test_somebody_new_may_say_no_too(rt: Served, sam: Desk) -> None:
    found = sam.submit("/staff/search", q="0113 496 0000")
    assert "Record a wish of somebody new" in found
    page = sam.submit(
        "/staff/new", who="+441134960000", name="Bob", channel="phone", choice="out", told="phone"
    )
    assert "Bob" in page
    assert rt.reason("0113 496 0000", channel="phone") == "objected"


def test_a_stop_counts_from_now_unless_a_time_is_told(rt: Served, sam: Desk, clock: Clock) -> None:
    """A form that stood open for long: what was said meanwhile by themselves is older."""
    page = ada(rt)
    token = sam.csrf
    clock.forward(600)
    centre_in(rt)
    clock.forward(600)
    fields = {"channel": "email", "choice": "out", "told": "phone", "at": "", "csrf": token}
    sam.ask("POST", f"{page}/record", data=fields)
    assert rt.reason(ADA) == "opted_out"


def centre_in(rt: Served) -> None:
    """Ada ticks e-mail on her own page."""
    hash_ = rt.runtime.keys.hash(identity.email(ADA))
    link = links.fresh_link(rt.runtime.service, links.Holder("rt", Kind.EMAIL, hash_, None))
    fields = {"choice:email:*": "in", "shown": "choice:email:*=off"}
    assert rt.client.post(link.removeprefix("https://prefs.example.co.uk"), data=fields).is_success


def test_to_switch_on_needs_what_they_said(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    fields = {"channel": "sms", "choice": "in", "told": "phone"}
    assert "write down in the note" in sam.submit(f"{page}/record", 422, **fields)
    sam.submit(f"{page}/record", note="Yes, text me about offers", **fields)
    assert rt.reason(PHONE, channel="sms") == "consent"


@pytest.mark.parametrize(("channel", "to"), [("email", ADA), ("sms", PHONE)])
def test_reminders_are_switched_by_staff_with_a_note_and_marketing_stays(
    rt: Served, sam: Desk, channel: str, to: str
) -> None:
    page, about = f"{ada(rt)}/record", {"channel": f"reminders:{channel}", "told": "phone"}
    marketing = rt.reason(to, channel=channel)
    assert "no marketing" in sam.submit(page, 422, choice="out", **about)
    assert "Only marketing" in sam.submit(page, 422, choice="hold", note="not sure", **about)
    assert rt.reason(to, channel=channel, purpose="reminders") == "service"
    sam.submit(page, choice="out", note="no more reminders please", **about)
    assert rt.reason(to, channel=channel, purpose="reminders") == "opted_out"
    assert rt.reason(to, channel=channel) == marketing
    sam.submit(page, choice="in", note="send them again", **about)
    assert rt.reason(to, channel=channel, purpose="reminders") == "service"
    assert rt.reason(to, channel=channel) == marketing


def kept(page: str) -> dict[str, str | None]:
    """What the quick form of a page holds."""
    chosen = [has for tag, has in seen(page).elements if tag == "input" and "checked" in has]
    typed = [has for tag, has in seen(page).elements if tag == "input" and has.get("value")]
    names = ("channel", "choice", "told", "note", "at", "name")
    fields = [one for one in chosen + typed if one.get("type") != "radio" or one in chosen]
    return {str(one["name"]): one["value"] for one in fields if one.get("name") in names}


@pytest.mark.parametrize(
    "lacks", [{"choice": "in", "note": ""}, {"at": "yesterday"}, {"choice": "in", "note": " "}]
)
def test_a_quick_form_that_fails_keeps_what_was_typed(
    rt: Served, sam: Desk, lacks: dict[str, str]
) -> None:
    page = ada(rt)
    typed = {"channel": "sms", "choice": "hold", "told": "letter", "note": 'she "says" <no>'}
    fields = typed | {"at": "2026-03-01T10:00"} | lacks
    shown = sam.submit(f"{page}/record", 422, **fields)
    assert "Ada Lowe" in shown
    assert kept(shown) == {name: value for name, value in fields.items() if value}
    new = fields | {"who": "0113 496 0000", "name": "Bob"}
    shown = sam.submit("/staff/new", 422, **new)
    assert kept(shown) == {name: value for name, value in new.items() if value and name != "who"}
    assert 'name="who" value="+441134960000"' in shown


def test_a_note_is_shown_again_where_its_form_is_gone(rt: Served, sam: Desk) -> None:
    page, note = ada(rt), "rang <b>her</b>"
    assert "rang &lt;b&gt;her&lt;/b&gt;" in sam.submit(f"{page}/undo", 422, act="1", note=note)


def test_what_they_switched_off_themselves_is_theirs_alone_to_switch_on(
    rt: Served, sam: Desk
) -> None:
    page = ada(rt)
    link = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    assert rt.client.post(link.removeprefix("https://prefs.example.co.uk")).is_success
    fields = {"channel": "email", "choice": "in", "told": "phone", "note": "Yes please"}
    refused = sam.submit(f"{page}/record", **fields)
    assert "only they can switch it on again" in refused
    assert rt.reason(ADA) == "opted_out"
    (row,) = re.findall(r'name="address" value="(\d+)"', refused)
    assert "on its way" in sam.submit(f"{page}/link", address=row)
    waiting = rt.runtime.database.read_now(lambda conn: outbox.due(conn, 1e12))
    assert [one.kind for one in waiting] == ["centre_link"]
    assert rt.reason(ADA) == "opted_out"


def test_a_link_goes_to_their_own_address_only(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    other = rt.consent("bob@example.com", subject={"email": "bob@example.com"})["subject_id"]
    (row,) = re.findall(r'name="address" value="(\d+)"', sam.get(f"/staff/people/{other}"))
    for address in (row, "0", "", "x"):
        sam.submit(f"{page}/link", 422, address=address)
    assert rt.runtime.database.read_now(lambda conn: outbox.due(conn, 1e12)) == []


def test_staff_may_lift_an_own_objection_to_calls_with_note(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    link = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    rt.client.post(link.removeprefix("https://prefs.example.co.uk") + "/all")
    assert rt.reason(PHONE, channel="phone") == "objected"
    fields = {
        "channel": "phone",
        "choice": "in",
        "told": "phone",
        "note": "Do ring me about offers",
    }
    sam.submit(f"{page}/record", **fields)
    assert rt.reason(PHONE, channel="phone") == "consent"


# --- holds -------------------------------------------------------------------------------------


def open_tasks(rt: Served) -> list[Any]:
    rows: list[Any] = rt.runtime.database.read_now(
        lambda conn: tasks.listed(conn, "rt", "open", None)
    )
    return rows


def test_a_hold_denies_until_it_is_released_with_a_note(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    sam.submit(f"{page}/record", channel="email", choice="hold", told="phone", note="rings back")
    assert rt.reason(ADA) == "held"
    (task,) = open_tasks(rt)
    assert task.kind == "held_wish"
    sam.submit(f"{page}/release", 422, channel="email", note=" ")
    assert "The hold has ended" in sam.submit(f"{page}/release", channel="email", note="meant post")
    assert rt.reason(ADA) == "consent"
    assert open_tasks(rt) == []


def test_a_hold_that_meant_stop_is_answered_by_the_form(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    sam.submit(f"{page}/record", channel="all", choice="hold", told="phone")
    sam.submit(f"{page}/record", channel="email", choice="out", told="phone")
    (task,) = open_tasks(rt)
    body = tasks.body(rt.runtime.keys, task)
    assert Channel.EMAIL not in body["channels"]
    assert len(body["channels"]) == len(Channel) - 1
    sam.submit(f"{page}/record", channel="all", choice="out", told="phone")
    assert open_tasks(rt) == []
    assert rt.reason(ADA) in ("objected", "opted_out")


def test_the_task_of_a_hold_settles_it_too(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    sam.submit(f"{page}/record", channel="email", choice="hold", told="phone")
    (task,) = open_tasks(rt)
    answer = rt.post(f"/v1/tasks/{task.id}", {"state": "out", "note": "rang her"})
    assert answer.status_code == 200
    assert rt.reason(ADA) == "opted_out"
    assert "end the hold" not in sam.get(page)


def test_a_hold_of_a_shared_number_ends_for_all_who_were_held(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    change = [{"channel": "sms", "purpose": "marketing", "choice": "in"}]
    bob = {"phone": PHONE, "name": "Bob", "ref": "p2"}
    rt.consent("", subject=bob, changes=change)
    sam.submit(f"{page}/record", channel="sms", choice="hold", told="phone")
    assert rt.reason(PHONE, channel="sms") == "held"
    sam.submit(f"{page}/release", channel="sms", note="not a stop")
    assert rt.reason(PHONE, channel="sms") == "consent"


# --- slips -------------------------------------------------------------------------------------


def act_of(page: str) -> str:
    found: list[str] = re.findall(r'name="act" value="(\d+)"', page)
    assert len(found) == 1
    return found[0]


def test_a_slip_is_taken_back_with_a_note(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    shown = sam.submit(f"{page}/record", channel="email", choice="out", told="phone")
    assert rt.reason(ADA) == "opted_out"
    sam.submit(f"{page}/undo", 422, act=act_of(shown), note="")
    assert "Taken back" in sam.submit(f"{page}/undo", act=act_of(shown), note="the wrong Ada")
    assert rt.reason(ADA) == "consent"
    sam.submit(f"{page}/undo", 422, act=act_of(shown), note="again")
    assert 'name="act"' not in sam.get(page)


def test_a_slip_of_another_is_theirs_or_a_managers(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    act = act_of(sam.submit(f"{page}/record", channel="email", choice="out", told="phone"))
    other = desk(rt, Role.RECEPTION, "pat@example.co.uk")
    assert 'name="act"' not in other.get(page)
    other.submit(f"{page}/undo", 403, act=act, note="not mine")
    assert rt.reason(ADA) == "opted_out"
    manager = desk(rt, Role.MANAGER, "kim@example.co.uk")
    manager.submit(f"{page}/undo", act=act_of(manager.get(page)), note="wrong person")
    assert rt.reason(ADA) == "consent"


def test_what_is_long_ago_is_no_slip(rt: Served, sam: Desk, clock: Clock) -> None:
    page = ada(rt)
    act = act_of(sam.submit(f"{page}/record", channel="email", choice="out", told="phone"))
    clock.at += timedelta(minutes=16)
    assert 'name="act"' not in sam.get(page)
    assert "too long ago" in sam.submit(f"{page}/undo", 422, act=act, note="late")
    assert rt.reason(ADA) == "opted_out"


def test_no_slip_is_what_they_said_themselves(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    rt.say(ADA)
    assert 'name="act"' not in sam.get(page)
    link = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    act = act_of(sam.submit(f"{page}/record", channel="email", choice="out", told="phone"))
    rt.client.post(link.removeprefix("https://prefs.example.co.uk"))
    sam.submit(f"{page}/undo", act=act, note="wrong person")
    assert rt.reason(ADA) == "opted_out"


def test_a_release_tells_who_and_why(rt: Served, sam: Desk) -> None:
    page = ada(rt)
    id_ = subject_number(page.rpartition("/")[2])
    sam.submit(f"{page}/record", channel="email", choice="hold", told="phone")
    by = Evidence(actor="kim", note="a release of the task")
    rt.runtime.database.write_now(
        lambda conn: rt.runtime.intake.release(conn, "rt", id_, Channel.EMAIL, by)
    )
    assert "a release of the task" in sam.get(page)
