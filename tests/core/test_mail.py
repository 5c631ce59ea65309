"""What a mail says: its words, who is proved, and that no bytes whatsoever are an `in`."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefs.core.mail import Nature, Request, Wish, read

MX = "mx.example.co.uk"
ADA = "ada@example.com"


def letter(subject: str = "", text: str = "", *more: str, sender: str = ADA) -> bytes:
    heads = [*more, f"From: Ada <{sender}>", "To: unsubscribe@example.co.uk", f"Subject: {subject}"]
    return ("\r\n".join(heads) + f"\r\n\r\n{text}").encode()


def html(text: str) -> bytes:
    return letter("", text, "Content-Type: text/html; charset=utf-8")


# --- words ---------------------------------------------------------------------------------------

CLEAR = [
    "Unsubscribe",
    "STOP",
    "unsubscribe me please",
    "Please stop emailing me.",
    "Please don't email me again",
    "Take me off your mailing list",
    "Remove my email address from your list",
    "No more emails please",
    "I no longer wish to receive marketing emails",
    "Hi,\n\nI would like to unsubscribe from your newsletter.\n\nKind regards\nAda",
]
UNCLEAR = ["Cancel", "not interested", "wrong email address", "How did you get my address? GDPR"]
NOTHING = [
    "Don't unsubscribe me",
    "Yes",
    "START",
    "Resubscribe me, I want your emails",
    "Can I book for Tuesday?",
    "The bus stop is next to your clinic",
]


@pytest.mark.parametrize("words", CLEAR)
def test_a_plain_wish_is_an_out(words: str) -> None:
    assert read(letter("", words)).wish is Wish.OUT


@pytest.mark.parametrize("words", [one for one in CLEAR if "\n" not in one])
def test_a_plain_wish_in_the_subject_is_enough(words: str) -> None:
    assert read(letter(words, "")).wish is Wish.OUT


@pytest.mark.parametrize("words", UNCLEAR)
def test_what_may_be_a_wish_is_unclear(words: str) -> None:
    assert read(letter("", words)).wish is Wish.UNCLEAR


@pytest.mark.parametrize("words", NOTHING)
def test_other_words_are_no_wish(words: str) -> None:
    assert read(letter("", words)).wish is Wish.NONE


@pytest.mark.parametrize(
    "text",
    [
        "See you on Friday\n\nOn Mon, 2 Mar 2026 at 10:00, RT <a@b.uk> wrote:\nunsubscribe",
        "See you on Friday\n> unsubscribe",
        "See you on Friday\n-- \nunsubscribe",
        "See you on Friday\n-----Original Message-----\nunsubscribe",
        "See you on Friday\nFrom: RT <a@b.uk>\nSent: Monday\nunsubscribe",
        "See you on Friday\nSent from my iPhone\nunsubscribe",
    ],
)
def test_quotes_and_signatures_are_nobodys_wish(text: str) -> None:
    read_ = read(letter("Re: Unsubscribe here", text))
    assert read_.wish is Wish.NONE
    assert read_.text == "See you on Friday"


def test_an_answer_below_its_quote_counts() -> None:
    text = "On Mon, 2 Mar 2026, RT <a@b.uk> wrote:\n> Our offers\n\nPlease unsubscribe me"
    assert read(letter("Re: Our offers", text)).wish is Wish.OUT


def test_html_is_read_as_people_see_it() -> None:
    own = "<style>p {}</style><p>Please <b>unsubscribe</b>&nbsp;me</p>"
    assert read(html(own)).wish is Wish.OUT
    quoted = '<p>Thanks</p><div class="gmail_quote">unsubscribe</div>'
    assert read(html(quoted)).wish is Wish.NONE
    assert read(html("<p>Thanks</p><blockquote>unsubscribe</blockquote>")).wish is Wish.NONE


def test_plain_text_goes_before_html_in_any_encoding() -> None:
    raw = letter(
        "=?utf-8?q?Hallo?=",
        "--x\r\nContent-Type: text/plain; charset=latin-1\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\nVW5zdWJzY3JpYmU=\r\n"
        "--x\r\nContent-Type: text/html\r\n\r\n<p>Thanks</p>\r\n--x--",
        'Content-Type: multipart/alternative; boundary="x"',
    )
    found = read(raw)
    assert (found.subject, found.text, found.wish) == ("Hallo", "Unsubscribe", Wish.OUT)


@pytest.mark.parametrize(
    "words",
    [
        "Please delete my data",
        "I want to make a subject access request",
        "What data do you hold about me?",
        "Under article 15 UK GDPR, a copy of my personal data please",
        "erase all my records",
    ],
)
def test_a_request_about_data_is_told_apart(words: str) -> None:
    assert Request.RIGHTS in read(letter("", words)).requests


def test_a_request_about_reminders_is_told_apart() -> None:
    assert read(letter("Stop the reminders", "")).requests == (Request.REMINDERS,)
    kept = "Please unsubscribe me from offers but keep sending appointment reminders"
    assert read(letter("", kept)).requests == ()


# --- what kind of mail ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "nature"),
    [
        ("Auto-Submitted: auto-replied", Nature.AUTOMATIC),
        ("Auto-Submitted: auto-generated; x=y", Nature.AUTOMATIC),
        ("Auto-Submitted: no", Nature.LETTER),
        ("Precedence: bulk", Nature.AUTOMATIC),
        ("Precedence: List", Nature.AUTOMATIC),
        ("Precedence: junk", Nature.AUTOMATIC),
        ("X-Auto-Response-Suppress: OOF, AutoReply", Nature.AUTOMATIC),
        ("X-Auto-Response-Suppress: None", Nature.LETTER),
        ("List-Id: <news.example.com>", Nature.AUTOMATIC),
        ("Return-Path: <>", Nature.NOTICE),
        ("Return-Path: <ada@example.com>", Nature.LETTER),
    ],
)
def test_who_wrote_a_person_or_a_machine(head: str, nature: Nature) -> None:
    assert read(letter("Unsubscribe", "", head)).nature is nature


def test_mailer_daemon_is_nobody() -> None:
    assert read(letter("Unsubscribe", sender=f"MAILER-DAEMON@{MX}")).nature is Nature.NOTICE


def test_apple_mails_button_is_a_persons_act_though_marked_as_automatic() -> None:
    heads = ("Auto-Submitted: auto-replied", "X-Apple-Unsubscribe: true")
    text = "Apple Mail sent this email to unsubscribe from the message \u201cOffers\u201d."
    found = read(letter("", text, *heads))
    assert (found.nature, found.wish) == (Nature.LETTER, Wish.OUT)


# --- who is proved (RFC 8601) --------------------------------------------------------------------


def proved(*values: str, sender: str = ADA) -> bool:
    heads = [f"Authentication-Results: {value}" for value in values]
    return read(letter("x", "", *heads, sender=sender)).proved(MX)


@pytest.mark.parametrize(
    "value",
    [
        f"{MX}; dmarc=pass header.from=example.com",
        f"{MX} 1; spf=fail; dmarc=pass (p=none; sp=none) header.from=Example.COM",
        "MX.Example.co.uk; dmarc/1=pass",
        f"{MX}; dkim=pass header.d=example.com header.s=k1",
        f"{MX};\r\n dkim=fail header.d=x.org;\r\n dkim=pass header.i=@example.com",
        f'"{MX}"; dmarc=pass header.from="example.com"',
    ],
)
def test_what_our_server_vouches_for_is_proved(value: str) -> None:
    assert proved(value)


@pytest.mark.parametrize(
    "value",
    [
        f"{MX}; none",
        f"{MX}; spf=pass smtp.mailfrom=example.com",
        f"{MX}; dmarc=fail header.from=example.com; dkim=pass header.d=example.com",
        f"{MX}; dmarc=pass header.from=evil.org",
        f"{MX}; dkim=pass header.d=evil.org",
        f"{MX}; dkim=pass header.d=evil.example.com",
        f"{MX}; dkim=pass header.d=com",
        f"{MX}; dkim=neutral header.d=example.com",
        "mx.evil.org; dmarc=pass header.from=example.com",
        f"evil.org ({MX}); dmarc=pass header.from=example.com",
        f"{MX}; spf=none (x; dmarc=pass header.from=example.com)",
        f'{MX}; spf=none reason="x\\"; dmarc=pass header.from=example.com"',
        f"{MX}; spf=none (\\) ; dmarc=pass header.from=example.com",
        f"{MX}.evil.org; dmarc=pass header.from=example.com",
        "dmarc=pass header.from=example.com",
        "",
    ],
)
def test_nothing_else_is(value: str) -> None:
    assert not proved(value)


def test_only_the_topmost_header_of_our_server_counts() -> None:
    good, bad = f"{MX}; dmarc=pass header.from=example.com", f"{MX}; dmarc=fail"
    assert proved("other.net; dmarc=fail", good, bad)
    assert not proved(bad, good)


def test_a_domain_above_the_senders_may_sign_for_it() -> None:
    assert proved(f"{MX}; dkim=pass header.d=example.com", sender="a@mail.example.com")


def test_without_the_name_of_our_server_nobody_is_proved() -> None:
    found = read(letter("x", "", "Authentication-Results: ; dmarc=pass"))
    assert not found.proved(None)
    assert not found.proved("")


@pytest.mark.parametrize(
    "heads",
    [
        "From: ada@example.com\r\nFrom: bob@example.com",
        "From: ada@example.com, bob@example.com",
        "From: undisclosed:;",
        "From: ada",
        "Subject: x",
    ],
)
def test_more_senders_than_one_or_none_are_nobody(heads: str) -> None:
    raw = f"Authentication-Results: {MX}; dmarc=pass\r\n{heads}\r\n\r\nunsubscribe".encode()
    found = read(raw)
    assert found.sender is None
    assert not found.proved(MX)


# --- to whom and when ----------------------------------------------------------------------------


def test_the_plus_part_keeps_its_case_and_is_that_of_our_address_only() -> None:
    tag = "AbC-_9"
    raw = (
        f"Delivered-To: Unsubscribe+{tag}@Example.co.uk\r\n"
        f"To: RT <unsubscribe+{tag}@example.co.uk>, other+zzz@example.co.uk\r\n"
        "Cc: unsubscribe+yyy@example.org\r\n\r\n"
    ).encode()
    assert read(raw).plus_parts("unsubscribe@example.co.uk") == [tag]


def test_the_last_servers_clock_goes_before_the_senders() -> None:
    received = "Received: from a by b (Mon; x); Mon, 2 Mar 2026 10:00:00 +0000"
    date = "Date: Mon, 2 Mar 2020 10:00:00 +0000"
    assert read(letter("x", "", received, date)).arrived_at == datetime(2026, 3, 2, 10, tzinfo=UTC)
    assert read(letter("x", "", date)).arrived_at == datetime(2020, 3, 2, 10, tzinfo=UTC)
    assert read(letter("x", "", "Date: yesterday")).arrived_at is None
    assert read(letter("x", "", "Date: Mon, 2 Mar 2020 10:00:00")).arrived_at is None


def test_one_message_id_is_one_mail() -> None:
    head = "Message-ID: <a@b>"
    assert read(letter("a", "", head)).key == read(letter("b", "", head, "Received: x")).key
    assert read(letter("a", "")).key != read(letter("b", "")).key


# --- whatever comes ------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        b"From: ",
        b"To: ",
        b"Subject: ",
        b"Content-Type: multipart/report; report-type=feedback-report; boundary=x",
        b"Content-Type: multipart/mixed; boundary=",
        b"Content-Type: message/delivery-status",
        b"Content-Type: message/rfc822",
        b"Content-Type: text/html; charset=\xff",
        b"Content-Transfer-Encoding: base64",
        b"Authentication-Results: mx; dmarc=pass (",
        b"Received: ; Mon, 99 Foo",
        b"Date: Mon, 2 Mar 99999 10:00:00 +9999",
        b"--x",
        b"--x--",
        b"=?utf-8?q?=ff?=",
        b"=?x?b?a",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"<",
        b">",
        b'"',
        b"(",
        b";",
        b"@",
        b"\0",
        b"start",
        b"yes please subscribe me",
    ]
)
BYTES = st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=60).map(b"".join)


@settings(max_examples=600, deadline=None)
@given(st.one_of(BYTES, st.binary(max_size=2000)))
def test_no_bytes_break_the_reading_or_cannot_be_stored(raw: bytes) -> None:
    found = read(raw)
    for text in (found.subject, found.text, found.message_id, *found.recipients):
        assert "\0" not in text
        text.encode()
    assert not found.proved(MX)


def _nested(depth: int) -> bytes:
    levels = (
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n)
        for n in range(depth)
    )
    return b"".join(levels) + b"\r\nunsubscribe"


@pytest.mark.parametrize(
    "raw",
    [
        _nested(20) + b"x\r\n" * 300_000,
        _nested(15_000),
        b"Content-Type: text/plain; " + b"a=b;" * 250_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a " * 300_000,
        b"Content-Type: text/html\r\n\r\n" + b"<!--" * 250_000,
        b"From: " + b"<" * 1_000_000,
        b"To: " + b"a@b.c," * 170_000,
        b"Subject: " + b"=?utf-8?q?=41?= " * 60_000,
        b"Authentication-Results: " + b'"(' * 500_000,
        b"Received: x; Mon\r\n" * 60_000,
    ],
    ids=lambda raw: f"{raw[:24]!r} {len(raw)}",
)
def test_no_mail_keeps_the_reader_busy(raw: bytes) -> None:
    began = time.process_time()
    read(raw[: 1024 * 1024])
    assert time.process_time() - began < 1.9
