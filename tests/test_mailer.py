"""Mail through a real SMTP server: what goes out, and what happens while the server refuses."""

from __future__ import annotations

import asyncio
import contextlib
import email
import re
import socket
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from prefs.core import identity
from prefs.mailer import DAY, Mailer, send
from prefs.store import outbox
from tests.kit import Clock
from tests.served import Served, served

ADA = "ada@example.com"


class Postbox:
    """Keeps what it takes; `answer` is what it says to a message."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.kept: list[tuple[list[str], EmailMessage]] = []
        self.raw: list[bytes] = []
        self.answer = "250 kept"
        self.to = "250 yes"

    def start(self) -> None:
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self.controller.start()

    def stop(self) -> None:
        self.controller.stop()

    async def handle_RCPT(  # noqa: N802  # as aiosmtpd names it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.to.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to

    async def handle_DATA(  # noqa: N802  # as aiosmtpd names it
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            message = email.message_from_bytes(envelope.content, policy=policy.default)
            self.kept.append((list(envelope.rcpt_tos), message))
            self.raw.append(envelope.content)
        return self.answer


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        made = Postbox(probe.getsockname()[1])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, postbox: Postbox, clock: Clock) -> Iterator[Served]:
    url = {"PREFS__MAIL__SEND": f"smtp://127.0.0.1:{postbox.port}"}
    with served(tmp_path, environ=url, clock=clock) as made:
        made.consent(ADA)
        yield made


def ask(rt: Served) -> None:
    assert rt.client.post("/p?brand=rt", data={"email": ADA}).status_code == 200


def work(rt: Served, clock: Clock, seconds: float = 0.0) -> None:
    """Let the outbox be worked through, `seconds` later."""
    clock.forward(seconds)

    async def rounds() -> None:
        mailer = Mailer(rt.runtime.service)
        await mailer.run()
        await mailer.run()

    rt.client.portal.call(rounds)


def states(rt: Served) -> list[Any]:
    text = "SELECT state, attempts FROM outbox WHERE kind = 'centre_link' AND hash IS NOT NULL"
    return rt.runtime.database.read_now(lambda conn: list(conn.exec_driver_sql(text)))


def test_none_waits_for_one_that_cannot_be_made(rt: Served, postbox: Postbox, clock: Clock) -> None:
    """Its brand left the configuration while it waited."""
    keys, database = rt.runtime.keys, rt.runtime.database
    hash_, now = keys.hash(identity.email(ADA)), clock().timestamp()
    database.write_now(lambda conn: outbox.add(conn, keys, "centre_link", "gone", hash_, {}, now))
    ask(rt)
    work(rt, clock)
    assert len(postbox.kept) == 1
    assert sorted(states(rt)) == [("sent", 0), ("waiting", 1)]
    work(rt, clock, DAY)
    assert sorted(states(rt)) == [("sent", 0), ("waiting", 2)]


def test_a_link_arrives(rt: Served, postbox: Postbox, clock: Clock) -> None:
    ask(rt)
    work(rt, clock)
    ((to, message),) = postbox.kept
    assert to == [ADA]
    assert message["To"] == ADA
    assert message["From"] == "prefs@example.co.uk"
    assert message["Message-ID"].rstrip(">").endswith("@example.co.uk")
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message["Auto-Submitted"] == "auto-generated"
    assert {part.get_content_type() for part in message.walk()} >= {"text/plain", "text/html"}


def test_the_way_out_travels_as_it_is_written(rt: Served, postbox: Postbox, clock: Clock) -> None:
    """Encoded words are for people to read (RFC 2047 section 5): no mail program follows a link
    that is written in them."""
    ask(rt)
    work(rt, clock)
    (raw,) = postbox.raw
    (line,) = [one for one in raw.split(b"\r\n") if one.startswith(b"List-Unsubscribe:")]
    assert line.startswith(b"List-Unsubscribe: <https://prefs.example.co.uk/u/")
    assert line.endswith(b">")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert raw.isascii(), "not every server takes eight bits"


def test_a_server_that_refuses_for_now_gets_it_later(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    postbox.answer = "451 try later"
    ask(rt)
    work(rt, clock)
    assert states(rt) == [("waiting", 1)]
    work(rt, clock)
    assert states(rt) == [("waiting", 1)], "not before its time"
    postbox.answer = "250 kept"
    work(rt, clock, 10)
    assert states(rt) == [("sent", 1)]
    assert len(postbox.kept) == 1


def test_a_server_that_is_away_loses_nothing(rt: Served, postbox: Postbox, clock: Clock) -> None:
    postbox.stop()
    ask(rt)
    work(rt, clock)
    assert states(rt) == [("waiting", 1)]
    postbox.start()
    work(rt, clock, 10)
    assert states(rt) == [("sent", 1)]


def test_a_mail_is_sent_once(rt: Served, postbox: Postbox, clock: Clock) -> None:
    ask(rt)
    for _ in range(3):
        work(rt, clock, 3600)
    assert len(postbox.kept) == 1


# --- what cannot be sent -----------------------------------------------------------------------


def failed(rt: Served) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = rt.get("/v1/tasks?kind=mail_failed").json()["items"]
    return items


def test_after_the_last_try_staff_are_told_once(rt: Served, postbox: Postbox, clock: Clock) -> None:
    postbox.answer = "451 try later"
    ask(rt)
    ask(rt)
    began = clock.at
    work(rt, clock)
    while states(rt)[0][0] == "waiting":
        work(rt, clock, 3600)
    assert (clock.at - began).total_seconds() > 86400
    assert {state for state, _ in states(rt)} == {"failed"}
    (task,) = failed(rt)
    assert task["body"]["mail"] == "centre_link"
    assert task["body"]["to"] == ADA
    assert task["subject_id"]


def test_an_address_that_the_server_refuses_is_given_up_at_once(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    postbox.to = "550 no such mailbox"
    ask(rt)
    work(rt, clock)
    assert states(rt) == [("failed", 0)]
    assert failed(rt)[0]["body"]["reason"] == "the mail server refuses this address"


def test_mails_that_waited_for_the_server_count_on_the_day_they_went(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    postbox.answer = "451 try later"
    for _ in range(3):
        ask(rt)
    work(rt, clock)
    clock.forward(23 * 3600)
    postbox.answer = "250 kept"
    work(rt, clock)
    assert len(postbox.kept) == 3
    clock.forward(2 * 3600)
    ask(rt)
    work(rt, clock)
    assert len(postbox.kept) == 3
    clock.forward(23 * 3600)
    ask(rt)
    work(rt, clock)
    assert len(postbox.kept) == 4


def test_two_workers_keep_one_limit(
    rt: Served, postbox: Postbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is still sending while the other goes through the rest."""
    other = Mailer(rt.runtime.service)

    async def slowly(*args: Any) -> None:
        monkeypatch.setattr("prefs.mailer.send", send)
        await other.run()
        await send(*args)

    for _ in range(5):
        ask(rt)
    rt.client.portal.call(other.run)
    monkeypatch.setattr("prefs.mailer.send", slowly)
    rt.client.portal.call(Mailer(rt.runtime.service).run)
    assert len(postbox.kept) == 3


def ask_for(rt: Served, address: str) -> None:
    rt.consent(address)
    rt.client.post("/p?brand=rt", data={"email": address})


def test_a_domain_with_accents_travels_in_its_plain_form(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    """Encoded words are not for addresses (RFC 2047 section 5), and not every server takes UTF-8
    (RFC 6531); the A-label is the same domain (RFC 5890)."""
    ask_for(rt, "Jo@B\u00fccher.example")
    work(rt, clock)
    ((to, message),) = postbox.kept
    assert to == [message["To"]] == ["Jo@xn--bcher-kva.example"]


def test_what_the_server_cannot_spell_is_told_to_staff_and_stops_nobody_elses_mail(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    ask_for(rt, "j\u00fcrgen@example.com")
    work(rt, clock)
    ask(rt)
    work(rt, clock)
    assert [to for to, _ in postbox.kept] == [[ADA]]
    assert failed(rt)[0]["body"]["to"] == "j\u00fcrgen@example.com"


def test_an_address_that_is_refused_for_now_is_tried_again(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    postbox.to = "450 greylisted"
    ask(rt)
    work(rt, clock)
    postbox.to = "250 yes"
    work(rt, clock, 10)
    assert states(rt) == [("sent", 1)]
    assert failed(rt) == []


def test_an_alert_that_nobody_gets_is_told_in_the_list(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    content = {"to": "owner@example.co.uk", "text": "rt/list is unsafe"}
    rt.runtime.database.write_now(
        lambda conn: outbox.add(conn, rt.runtime.keys, "alert", None, None, content, 0.0)
    )
    postbox.to = "550 no such mailbox"
    work(rt, clock)
    (task,) = failed(rt)
    assert (task["body"]["mail"], task["body"]["to"]) == ("alert", "owner@example.co.uk")


# --- several workers, and a worker that ends ----------------------------------------------------


def test_two_workers_send_one_mail(rt: Served, postbox: Postbox, clock: Clock) -> None:
    ask(rt)
    work(rt, clock)
    clock.forward(86400)
    postbox.kept.clear()
    ask(rt)

    async def both() -> None:
        mailer = Mailer(rt.runtime.service)
        await mailer.run()
        await asyncio.gather(mailer.run(), Mailer(rt.runtime.service).run())

    rt.client.portal.call(both)
    assert len(postbox.kept) == 1


def test_a_mail_whose_worker_ended_goes_out_later(
    rt: Served, postbox: Postbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between taking the mail and sending it."""
    ask(rt)
    with monkeypatch.context() as patched:
        patched.setattr("prefs.mailer.send", killed)
        with contextlib.suppress(ProcessLookupError):
            work(rt, clock)
    assert postbox.kept == []
    work(rt, clock)
    assert postbox.kept == [], "the other worker may yet be at it"
    work(rt, clock, 301)
    assert len(postbox.kept) == 1


async def killed(mail: object, letter: object) -> None:
    raise ProcessLookupError


# --- whom we write to ----------------------------------------------------------------------------


def test_every_mail_to_a_person_carries_its_own_way_out_in_two_forms(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    ask(rt)
    change = {"channel": "email", "purpose": "marketing", "choice": "in"}
    body = {"brand": "rt", "subject": {"email": "new@example.com"}, "changes": [change]}
    rt.post("/v1/preferences", {**body, "source": "form", "basis": "consent"})
    made = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()["unsubscribe"]
    (complain,) = re.findall(r"/complain/[^\"]+", rt.client.get(made).text)
    rt.client.post(complain, data={"text": "You sold my address."})
    work(rt, clock)
    assert len(postbox.kept) == 3
    for _, message in postbox.kept:
        kinds = [part.get_content_type() for part in message.iter_parts()]
        assert kinds == ["text/plain", "text/html"]
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        (link,) = re.findall(r"<https://prefs[^>]*(/u/[^>]+)>", message["List-Unsubscribe"])
        plain, html = (part.get_content() for part in message.iter_parts())
        assert "/u/" in plain
        assert "/u/" in html
        assert rt.client.post(link).status_code == 200
    assert rt.reason(ADA) == rt.reason("new@example.com") == "opted_out"


def test_who_is_out_gets_the_one_mail_that_was_asked_for(
    rt: Served, postbox: Postbox, clock: Clock
) -> None:
    rt.say(ADA)
    for _ in range(4):
        ask(rt)
        work(rt, clock, 3600)
    assert len(postbox.kept) == 1
    work(rt, clock, 86400)
    assert len(postbox.kept) == 1, "what was asked for too often is not sent later"


def test_the_error_that_is_kept_names_nobody(rt: Served, postbox: Postbox, clock: Clock) -> None:
    postbox.answer = f"554 no such user {ADA}"
    ask(rt)
    work(rt, clock)
    text = "SELECT reason FROM outbox WHERE reason IS NOT NULL"
    kept = rt.runtime.database.read_now(lambda conn: conn.exec_driver_sql(text).scalars().all())
    assert kept
    assert not any(ADA in one for one in kept)
