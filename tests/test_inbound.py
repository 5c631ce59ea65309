"""Inbound mail over HTTP and from a mailbox: an out at most, else work for staff."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from prefs import inbound
from prefs.cli import main
from prefs.core.mail import read
from prefs.inbound import one_month
from prefs.mailbox import LONGEST, Away, Mailbox
from tests.core.test_mail import BYTES
from tests.imap import PASSWORD, Post, mail_server
from tests.kit import Clock
from tests.served import Served, configure, eventually, listening, served

ADA, BOB, PHONE = "ada@example.com", "bob@example.com", "+447700900101"
INBOX = "unsubscribe@example.co.uk"
KEY = "a long key of the hook"
HOOK = f"/webhooks/mail/rt/inbox?key={KEY}"
MX = "mx.example.co.uk"
PASSED = f"Authentication-Results: {MX}; dmarc=pass header.from=example.com"
SETTINGS = f"""
[brands.rt.mail]
inbox = "{INBOX}"
authserv_id = "{MX}"
key = "env:MAIL_HOOK_KEY"
[brands.second.mail]
inbox = "out@skin.example.co.uk"
authserv_id = "{MX}"
key = "env:OTHER_HOOK_KEY"
[brands.foreign.mail]
inbox = "out@example.org"
"""
ENVIRON = {"MAIL_HOOK_KEY": KEY, "OTHER_HOOK_KEY": "another key", "INBOX_PASSWORD": PASSWORD}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rt(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, SETTINGS, environ=ENVIRON, clock=clock) as made:
        made.consent(ADA)
        yield made


_numbers = iter(range(1, 1_000_000))


def letter(
    subject: str = "",
    text: str = "",
    *more: str,
    to: str = INBOX,
    sender: str = ADA,
    message_id: str | None = None,
) -> bytes:
    id_ = message_id or f"<{next(_numbers)}@mail.example.com>"
    heads = [*more, f"From: Ada <{sender}>", f"To: {to}", f"Subject: {subject}"]
    return "\r\n".join([*heads, f"Message-ID: {id_}", "", text]).encode()


def send(rt: Served, raw: bytes, path: str = HOOK) -> None:
    answer = rt.client.post(path, content=raw, headers={"Content-Type": "message/rfc822"})
    assert (answer.status_code, answer.content) == (200, b"")


def mailto(rt: Served, **who: Any) -> str:
    """The address of the person's link, as their mail program reads it from our header."""
    made = rt.post("/v1/links", {"brand": "rt", **(who or {"email": ADA})}).json()
    header: str = made["headers"]["List-Unsubscribe"]
    return header.partition("<mailto:")[2].rstrip(">")


def tasks(rt: Served, kind: str | None = None) -> list[Any]:
    found: list[Any] = rt.get("/v1/tasks" + (f"?kind={kind}" if kind else "")).json()["items"]
    return found


def rows(rt: Served, text: str) -> list[Any]:
    return rt.runtime.database.read_now(lambda conn: list(conn.exec_driver_sql(text)))


def last(rt: Served) -> tuple[Any, ...]:
    (row,) = rows(rt, "SELECT choice, source, result FROM ledger ORDER BY id DESC LIMIT 1")
    return tuple(row)


def nothing_happened(rt: Served) -> bool:
    return rt.reason(ADA) == "consent" and tasks(rt) == []


# --- a token in the address ----------------------------------------------------------------------


def test_a_token_holders_mail_is_an_out_whoever_sends_it(rt: Served) -> None:
    send(rt, letter(to=mailto(rt), sender="someone@else.example"))
    assert rt.reason(ADA) == "opted_out"
    assert last(rt) == ("out", "mail", "applied")
    assert rt.reason(ADA, purpose="reminders") == "service"
    assert rt.reason("someone@else.example") == "no_basis"


def test_the_token_says_channel_purpose_and_topic(rt: Served) -> None:
    send(rt, letter(to=mailto(rt, phone=PHONE)))
    assert rt.reason(PHONE, channel="sms") == "opted_out"
    send(rt, letter(to=mailto(rt, email=ADA, topic="offers")))
    assert rt.reason(ADA, topic="offers") == "opted_out"
    assert rt.reason(ADA) == "consent"
    send(rt, letter(to=mailto(rt, email=BOB, purpose="reminders")))
    assert rt.reason(BOB, purpose="reminders") == "opted_out"


@pytest.mark.parametrize(
    "heads",
    [
        ("Auto-Submitted: auto-replied", "X-Apple-Unsubscribe: true"),
        ("Auto-Submitted: auto-generated",),
        ("Precedence: bulk",),
    ],
)
def test_mail_programs_send_token_mails_by_themselves(rt: Served, heads: tuple[str, ...]) -> None:
    send(rt, letter("", "", *heads, to=mailto(rt)))
    assert rt.reason(ADA) == "opted_out"


def test_the_address_may_stand_where_the_receiving_server_noted_it(rt: Served) -> None:
    noted = f"Delivered-To: {mailto(rt)}"
    send(rt, letter("", "", noted, to="undisclosed-recipients:;"))
    assert rt.reason(ADA) == "opted_out"


def test_a_token_in_lower_case_is_spoiled_and_holds_a_proved_sender(rt: Served) -> None:
    address = mailto(rt).lower()
    send(rt, letter(to=address, sender=BOB))
    assert rt.reason(ADA) == "consent"
    send(rt, letter("", "", PASSED, to=address))
    assert rt.reason(ADA) == "held"
    assert [one["kind"] for one in tasks(rt)] == ["held_mail"]


def test_a_forged_token_is_none(rt: Served) -> None:
    address = mailto(rt)
    local, _, domain = address.partition("@")
    wrong = "A" if local[-1] != "A" else "B"
    send(rt, letter(to=f"{local[:-1]}{wrong}@{domain}", sender="x@evil.example"))
    assert nothing_happened(rt)


def test_a_token_of_the_preference_centre_opens_nothing_here(rt: Served) -> None:
    made = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()
    token = made["preferences"].rsplit("/", 1)[1]
    send(rt, letter(to=f"unsubscribe+{token}@example.co.uk", sender="x@evil.example"))
    assert nothing_happened(rt)


def test_a_bounce_to_a_token_address_is_nobodys_wish(rt: Served) -> None:
    send(rt, letter("failed", "", "Return-Path: <>", to=mailto(rt)))
    send(rt, letter("failed", "", to=mailto(rt), sender=f"mailer-daemon@{MX}"))
    assert nothing_happened(rt)


def test_our_own_mail_that_comes_back_is_ignored(rt: Served) -> None:
    send(rt, letter("unsubscribe", "", to=mailto(rt), sender="prefs@example.co.uk"))
    send(rt, letter("unsubscribe", "", to=mailto(rt), sender=INBOX))
    ours = "<174000000000000.12.3456789@example.co.uk>"
    send(rt, letter("unsubscribe", "", to=mailto(rt), message_id=ours))
    assert nothing_happened(rt)


# --- without a token -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "text"), [("Unsubscribe", ""), ("", "Please stop emailing me")]
)
def test_a_proved_senders_plain_wish_is_an_out(rt: Served, subject: str, text: str) -> None:
    send(rt, letter(subject, text, PASSED))
    assert rt.reason(ADA) == "opted_out"
    assert last(rt) == ("out", "mail", "applied")
    assert rt.reason(ADA, purpose="reminders") == "service"
    assert tasks(rt) == []


def test_nobodys_word_is_taken_for_another(rt: Served, clock: Clock) -> None:
    """From can be written by anybody: without proof staff look at it, nothing changes."""
    for heads in [(), ("Authentication-Results: evil.org; dmarc=pass header.from=example.com",)]:
        send(rt, letter("Unsubscribe", "", *heads))
    assert rt.reason(ADA) == "consent"
    found = tasks(rt, "unproved_mail")
    assert [one["body"]["from"] for one in found] == [ADA, ADA]
    assert found[0]["body"]["proved"] is False
    assert found[0]["due_at"] == "2026-03-03T09:00:00Z"
    assert found[0]["subject_id"] == rt.say(ADA)["subject_id"]


def test_an_unclear_mail_is_held_and_staff_decide(rt: Served) -> None:
    send(rt, letter("", "I am not interested", PASSED))
    assert rt.reason(ADA) == "held"
    (task,) = tasks(rt)
    assert (task["kind"], task["body"]["text"]) == ("held_mail", "I am not interested")
    settled = rt.post(f"/v1/tasks/{task['id']}", {"state": "release", "note": "meant a brochure"})
    assert settled.status_code == 200, settled.text
    assert rt.reason(ADA) == "consent"


def test_a_held_mail_that_meant_stop_is_an_out_by_email(rt: Served) -> None:
    send(rt, letter("", "I am not interested", PASSED))
    (task,) = tasks(rt)
    rt.post(f"/v1/tasks/{task['id']}", {"state": "out", "note": "asked by phone"})
    assert rt.reason(ADA) == "opted_out"
    assert last(rt)[:2] == ("out", "staff")


def test_an_empty_mail_to_the_address_for_unsubscribing_is_held(rt: Served) -> None:
    send(rt, letter("", "", PASSED))
    assert rt.reason(ADA) == "held"


@pytest.mark.parametrize("words", ["START", "yes", "Please subscribe me again, I consent"])
def test_no_mail_is_an_in(rt: Served, words: str) -> None:
    rt.say(ADA)
    send(rt, letter(words, words, PASSED))
    send(rt, letter(words, words, to=mailto(rt, email=BOB)))
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason(BOB) == "opted_out"
    assert rows(rt, "SELECT 1 FROM ledger WHERE choice = 'in' AND source = 'mail'") == []


@pytest.mark.parametrize(
    "head",
    [
        "Auto-Submitted: auto-replied",
        "Precedence: bulk",
        "X-Auto-Response-Suppress: All",
        "Return-Path: <>",
        "List-Id: <news.example.com>",
    ],
)
def test_auto_replies_and_lists_say_nothing(rt: Served, head: str) -> None:
    send(rt, letter("Unsubscribe", "not interested. delete my data", PASSED, head))
    assert nothing_happened(rt)
    assert len(rows(rt, "SELECT 1 FROM inbox")) == 1, "kept all the same"


def test_other_mail_is_kept_and_changes_nothing(rt: Served) -> None:
    send(rt, letter("Offer", "unsubscribe from spam: click here", sender="spam@evil.example"))
    send(rt, letter("Hello", "See you on Friday", PASSED))
    assert nothing_happened(rt)


def test_an_old_mail_does_not_undo_a_newer_consent(rt: Served, clock: Clock) -> None:
    received = "Received: from a by b; Mon, 02 Mar 2026 10:00:30 +0000"
    old = letter("Unsubscribe", "", received, PASSED)
    clock.forward(3600)
    rt.consent(BOB)
    send(rt, letter("Unsubscribe", "", PASSED, sender=BOB))
    assert rt.reason(BOB) == "opted_out", "without a time it counts from receipt"
    send(rt, old)
    assert rt.reason(ADA) == "opted_out", "a consent by api is no act of the person's"


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [PASSED, "X-Nothing: x"])
def test_a_request_about_data_is_a_task_and_nothing_is_told(rt: Served, head: str) -> None:
    send(rt, letter("My data", "What data do you hold about me? Delete my data.", head))
    (task,) = tasks(rt)
    assert (task["kind"], task["due_at"][:10]) == ("rights_request", "2026-04-02")
    assert task["body"]["proved"] is (head is PASSED)
    assert rt.reason(ADA) == "consent"
    assert rows(rt, "SELECT 1 FROM outbox") == []


def test_a_request_about_reminders_is_a_task_for_the_next_working_day(rt: Served) -> None:
    send(rt, letter("", "Please stop the appointment reminders", PASSED))
    (task,) = tasks(rt)
    assert (task["kind"], task["due_at"]) == ("reminder_request", "2026-03-03T09:00:00Z")
    assert rt.reason(ADA, purpose="reminders") == "service"
    assert rt.reason(ADA) == "consent"


def test_a_wish_beside_a_request_counts_too(rt: Served) -> None:
    send(rt, letter("Unsubscribe", "And please delete my data.", PASSED))
    assert rt.reason(ADA) == "opted_out"
    assert [one["kind"] for one in tasks(rt)] == ["rights_request"]


def test_a_request_to_a_token_address_is_a_task_of_the_tokens_brand(rt: Served) -> None:
    send(
        rt,
        letter("", "Please delete my data", to=mailto(rt)),
        "/webhooks/mail/second/inbox?key=another key",
    )
    assert rt.reason(ADA) == "opted_out"
    assert [one["kind"] for one in tasks(rt)] == ["rights_request"]


@pytest.mark.parametrize(
    ("day", "due"),
    [
        ("2026-01-31", "2026-02-28"),
        ("2028-01-30", "2028-02-29"),
        ("2026-12-15", "2027-01-15"),
        ("2026-03-31", "2026-04-30"),
    ],
)
def test_one_month_is_the_same_day_of_the_next(day: str, due: str) -> None:
    assert one_month(datetime.fromisoformat(day)) == datetime.fromisoformat(due)


# --- abuse reports and bounces -------------------------------------------------------------------


def report(
    kind: str, fields: str, quoted: str, *more: str, quoted_as: str = "message/rfc822"
) -> bytes:
    part = {"feedback-report": "message/feedback-report"}.get(kind, "message/delivery-status")
    heads = [
        *more,
        "From: reports@provider.example",
        f"To: {INBOX}",
        f"Message-ID: <{next(_numbers)}@provider.example>",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind}; boundary="b"',
    ]
    body = (
        f"\n--b\nContent-Type: text/plain\n\nA report. Unsubscribe.\n"
        f"--b\nContent-Type: {part}\n\n{fields}\n"
        f"--b\nContent-Type: {quoted_as}\n\n{quoted}\n--b--\n"
    )
    return "\n".join([*heads, body]).encode()


def quoted(rt: Served, **who: Any) -> str:
    made = rt.post("/v1/links", {"brand": "rt", **(who or {"email": ADA})}).json()
    return (
        f"From: prefs@example.co.uk\nTo: hidden\nSubject: Offers\n"
        f"List-Unsubscribe: {made['headers']['List-Unsubscribe']}\n\nText"
    )


ABUSE = "Feedback-Type: abuse\nUser-Agent: X/1\nVersion: 1\n"


@pytest.mark.parametrize("quoted_as", ["message/rfc822", "text/rfc822-headers"])
def test_a_spam_complaint_is_a_persons_out(rt: Served, quoted_as: str) -> None:
    send(rt, report("feedback-report", ABUSE, quoted(rt), quoted_as=quoted_as))
    assert rt.reason(ADA) == "opted_out"
    assert last(rt) == ("out", "complaint", "applied")
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_a_complaint_about_a_topic_or_reminder_is_about_marketing(rt: Served) -> None:
    send(rt, report("feedback-report", ABUSE, quoted(rt, email=ADA, purpose="reminders")))
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_a_complaint_without_our_token_needs_a_proved_reporter(rt: Served) -> None:
    about = f"{ABUSE}Original-Rcpt-To: <{ADA}>\n"
    plain = "From: prefs@example.co.uk\nSubject: Offers\n\nText"
    send(rt, report("feedback-report", about, plain))
    assert rt.reason(ADA) == "consent"
    assert [one["kind"] for one in tasks(rt)] == ["unproved_complaint"]
    passed = f"Authentication-Results: {MX}; dmarc=pass header.from=provider.example"
    send(rt, report("feedback-report", about, plain, passed))
    assert rt.reason(ADA) == "opted_out"
    assert last(rt)[:2] == ("out", "complaint")


@pytest.mark.parametrize("kind", ["not-spam", "virus", "auth-failure"])
def test_other_feedback_is_no_complaint(rt: Served, kind: str) -> None:
    send(rt, report("feedback-report", ABUSE.replace("abuse", kind), quoted(rt)))
    assert nothing_happened(rt)


def status(code: str, address: str = ADA, action: str = "failed") -> str:
    return (
        f"Reporting-MTA: dns; {MX}\n\nFinal-Recipient: rfc822; {address}\n"
        f"Action: {action}\nStatus: {code}\n"
    )


@pytest.mark.parametrize("code", ["5.1.1", "5.1.10 (no mail here)"])
def test_an_address_that_does_not_exist_is_undeliverable_and_no_wish(rt: Served, code: str) -> None:
    send(rt, report("delivery-status", status(code), quoted(rt), "Return-Path: <>"))
    assert rt.reason(ADA) == "undeliverable"
    assert rt.reason(ADA, purpose="reminders") == "undeliverable"
    assert rows(rt, "SELECT 1 FROM ledger WHERE choice = 'out'") == []


@pytest.mark.parametrize(
    "fields",
    [
        status("5.2.2"),
        status("4.1.1"),
        status("5.1.8"),
        status("5.1.1", action="delayed"),
        status("5.1.1", BOB),
        status("5.1.1", "no address"),
    ],
)
def test_other_reports_say_nothing_of_the_address(rt: Served, fields: str) -> None:
    send(rt, report("delivery-status", fields, quoted(rt)))
    assert nothing_happened(rt)
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_a_report_that_quotes_no_mail_of_ours_says_nothing(rt: Served) -> None:
    plain = "From: prefs@example.co.uk\nSubject: Offers\n\nText"
    send(rt, report("delivery-status", status("5.1.1"), plain))
    send(rt, report("delivery-status", status("5.1.1"), quoted(rt, email=BOB)))
    assert nothing_happened(rt)


# --- the hook ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/webhooks/mail/rt/inbox",
        "/webhooks/mail/rt/inbox?key=",
        "/webhooks/mail/rt/inbox?key=wrong",
        "/webhooks/mail/rt/inbox?key=%ff",
        "/webhooks/mail/rt/inbox?key=another key",
        f"{HOOK}&key={KEY}",
        "/webhooks/mail/foreign/inbox?key=",
        "/webhooks/mail/foreign/inbox?key=None",
    ],
)
def test_without_the_brands_key_nothing_is_kept(rt: Served, path: str) -> None:
    answer = rt.client.post(path, content=letter(to=mailto(rt)))
    assert answer.status_code == 401
    assert rows(rt, "SELECT 1 FROM inbox") == []
    assert nothing_happened(rt)


def test_there_is_no_hook_of_other_brands_or_methods(rt: Served) -> None:
    assert rt.client.post(f"/webhooks/mail/nobody/inbox?key={KEY}").status_code == 404
    assert rt.client.get(HOOK).status_code == 404


def test_one_message_id_is_one_event(rt: Served) -> None:
    raw = letter("Unsubscribe", "delete my data", PASSED)
    for again in (raw, raw, b"Received: by another; x\r\n" + raw):
        send(rt, again)
    assert len(tasks(rt)) == 1
    assert len(rows(rt, "SELECT 1 FROM ledger WHERE source = 'mail'")) == 1
    assert len(rows(rt, "SELECT 1 FROM inbox")) == 1


def test_a_copy_with_another_token_is_another_event(rt: Served) -> None:
    rt.consent(BOB)
    for who in (ADA, BOB):
        send(rt, letter(to=mailto(rt, email=who), message_id="<same@x.example>"))
    assert {rt.reason(ADA), rt.reason(BOB)} == {"opted_out"}


def test_a_mail_that_is_too_large_or_empty_is_told_so(rt: Served) -> None:
    answer = rt.client.post(HOOK, content=b"x" * (LONGEST + 1))
    assert answer.status_code == 413
    assert answer.json()["detail"] == f"the body is larger than {LONGEST} bytes"
    assert rt.client.post(HOOK, content=b"").status_code == 422


def test_nothing_of_a_mail_stands_in_the_open(rt: Served, tmp_path: Path) -> None:
    """Neither the address nor the words, in no file of the store; nor the Message-ID."""
    secret = "zebra-quartz@private.example"
    send(rt, letter("Unsubscribe", "umbrella-violin", sender=secret, message_id="<id-9f3@secret>"))
    send(rt, letter("", "umbrella-violin, not interested", PASSED))
    assert len(tasks(rt)) == 2
    kept = b"".join(one.read_bytes() for one in tmp_path.glob("prefs.db*"))
    for text in (b"zebra-quartz", b"umbrella-violin", b"id-9f3"):
        assert text not in kept


@settings(max_examples=80, deadline=None)
@given(raw=st.one_of(BYTES, st.binary(max_size=500)))
def test_no_bytes_break_the_taking_or_mean_an_in(shared: Served, raw: bytes) -> None:
    raw = b"X: y\r\n" + raw
    found = read(raw)
    shared.runtime.database.write_now(
        lambda conn: inbound.take(conn, shared.runtime.service, "rt", raw, found)
    )
    assert rows(shared, "SELECT 1 FROM ledger WHERE choice = 'in'") == []


@pytest.fixture(scope="module")
def shared(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("rt"), SETTINGS, environ=ENVIRON) as made:
        yield made


# --- the mailbox ---------------------------------------------------------------------------------


@pytest.fixture
def post() -> Iterator[Post]:
    with mail_server() as made:
        yield made


def reading(port: int, scheme: str = "imap") -> dict[str, str]:
    url = f"{scheme}://unsubscribe%40example.co.uk@127.0.0.1:{port}/Unsubscribe%20me"
    return {"PREFS__MAIL__INBOX": url, "PREFS__MAIL__INBOX_PASSWORD": PASSWORD, **ENVIRON}


@pytest.fixture
def boxed(tmp_path: Path, post: Post) -> Iterator[Served]:
    with served(tmp_path, SETTINGS, environ=reading(post.port)) as made:
        made.consent(ADA)
        yield made


def look(rt: Served) -> int:
    found: int = rt.client.portal.call(Mailbox(rt.runtime.service).read)
    return found


def test_what_lies_in_the_mailbox_is_taken_once_and_marked(boxed: Served, post: Post) -> None:
    first = post.put(letter("Unsubscribe", "", PASSED))
    second = post.put(letter("", "delete my data", sender=BOB))
    assert look(boxed) == 2
    assert boxed.reason(ADA) == "opted_out"
    assert [one["kind"] for one in tasks(boxed)] == ["rights_request"]
    assert post.seen == {first, second}
    assert look(boxed) == 0
    third = post.put(letter(to=mailto(boxed, email=BOB)))
    assert look(boxed) == 1
    assert post.fetched() == [first, second, third]
    assert boxed.reason(BOB) == "opted_out"


def test_a_message_is_marked_only_when_it_is_on_disk(
    boxed: Served, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.put(letter("Unsubscribe", "", PASSED))
    kept: list[int] = []
    fetched = post.events.append

    class Noting(list[str]):
        def append(self, event: str) -> None:
            if event.startswith("STORE"):
                kept.append(len(rows(boxed, "SELECT 1 FROM ledger WHERE source = 'mail'")))
            fetched(event)

    monkeypatch.setattr(post, "events", Noting())
    assert look(boxed) == 1
    assert kept == [1]


@pytest.mark.parametrize("command", ["LOGIN", "SELECT", "SEARCH", "FETCH", "STORE"])
def test_a_connection_that_breaks_loses_nothing_and_doubles_nothing(
    boxed: Served, post: Post, command: str
) -> None:
    post.put(letter("", "delete my data"))
    post.put(letter("Unsubscribe", "", PASSED))
    post.hang_up_on = command
    with pytest.raises(Away):
        look(boxed)
    look(boxed)
    assert boxed.reason(ADA) == "opted_out"
    assert len(tasks(boxed)) == 1
    assert look(boxed) == 0


def test_another_uidvalidity_is_another_folder_whose_mails_are_known(
    boxed: Served, post: Post
) -> None:
    for n in range(3):
        post.put(letter("", "delete my data", message_id=f"<{n}@renumbered>"))
    look(boxed)
    del post.kept[1]
    post.renumber()
    post.put(letter("Unsubscribe", "", PASSED))
    assert look(boxed) == 3
    assert boxed.reason(ADA) == "opted_out"
    assert len(tasks(boxed)) == 3


def test_a_flag_that_cannot_be_set_stops_nothing(boxed: Served, post: Post) -> None:
    post.refuses_marks = True
    post.put(letter("", "delete my data"))
    post.put(letter("Unsubscribe", "", PASSED))
    assert look(boxed) == 2
    assert look(boxed) == 0
    assert boxed.reason(ADA) == "opted_out"


def test_a_message_that_somebody_deleted_is_passed_over(boxed: Served, post: Post) -> None:
    post.put(letter("Unsubscribe", "", PASSED))
    post.kept = {1: post.kept[1]}
    post.events.clear()
    raw = post.kept.pop(1)
    post.next_uid = 2
    post.put(raw)
    assert look(boxed) == 1


def test_of_a_large_message_the_beginning_is_read(boxed: Served, post: Post) -> None:
    post.put(letter("Unsubscribe", "", PASSED) + b"x" * (LONGEST + 1000))
    assert look(boxed) == 1
    assert boxed.reason(ADA) == "opted_out"
    ((size,),) = rows(boxed, "SELECT length(body) FROM inbox")
    assert size < LONGEST + 200


def test_the_mail_goes_to_the_brand_it_was_addressed_to(boxed: Served, post: Post) -> None:
    post.put(letter("", "delete my data", to="out@skin.example.co.uk"))
    post.put(letter("", "delete my data", to="out@example.org", sender="x@foreign.example"))
    post.put(letter("Unsubscribe", "", PASSED, to="undisclosed-recipients:;"))
    look(boxed)
    brands = [row[0] for row in rows(boxed, "SELECT brand FROM tasks ORDER BY id")]
    assert brands == ["second", "foreign"]
    assert boxed.reason(ADA) == "opted_out", "known to the controller of these brands"
    assert rows(boxed, "SELECT 1 FROM inbox WHERE target = 'foreign mail'") == [(1,)]


def test_a_refusal_names_neither_user_nor_password(boxed: Served, post: Post) -> None:
    post.password = "changed"
    with pytest.raises(Away) as fault:
        look(boxed)
    assert str(fault.value) == "the mailbox cannot be read: error"
    assert fault.value.__cause__ is None


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with mail_server(_self_signed(tmp_path)) as post:
        post.put(letter("Unsubscribe", "", PASSED))
        environ = reading(post.port, "imaps")
        refused = pytest.raises(Away, match="SSLCertVerificationError")
        with served(tmp_path, SETTINGS, environ=environ) as made, refused:
            look(made)
        assert post.events == []


def _self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / "server.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_the_worker_reads_the_mailbox_by_itself(tmp_path: Path, post: Post) -> None:
    """Over a real port, with the hook beside it."""
    post.put(letter("Unsubscribe", "", PASSED))
    with listening(tmp_path, SETTINGS, environ=reading(post.port)) as made:
        eventually(lambda: made.reason(ADA) == "opted_out")
        made.consent(BOB)
        send(made, letter(to=mailto(made, email=BOB)))
        assert made.reason(BOB) == "opted_out"


def test_sync_reads_the_mailbox(
    tmp_path: Path, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.put(letter("Unsubscribe", "", PASSED))
    environ = {**reading(post.port), "PREFS_CONFIG": str(configure(tmp_path, SETTINGS))}
    environ["PREFS_TEST_KEY"] = "a secret of thirty-two bytes or more"
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run(*args: str) -> Any:
        return CliRunner().invoke(main, ["sync", "--inbox", "--json", *args])

    done = run()
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["targets"]
    assert (one["target"], one["records"], one["complete"]) == ("mailbox", 1, True)
    assert json.loads(run("mailbox").stdout)["targets"][0]["records"] == 0
    post.password = "changed"
    assert run().exit_code == 75
