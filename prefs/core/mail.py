"""What an inbound mail says, read from its raw bytes: no bytes make it raise, none mean an `in`.

Nobody is believed here: who wrote is told beside what the receiving server proved of it (RFC 8601),
and a token is only found, not opened. Headers are cut and parts are counted before they are parsed:
a mail of 400 KiB with one long Content-Type kept the standard library busy for 21 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from enum import StrEnum
from hashlib import sha256
from html import unescape
from typing import NamedTuple

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.signals import Identifier
from prefs.core.sms import Meaning, meaning
from prefs.core.words import Purpose

LONGEST_HEADER = 4096
MOST_PARTS = 50
MOST_BOUNDARIES = 20
"""The standard library parses nested parts by recursion, each line against every open boundary."""
MOST_TEXT = 64 * 1024
MOST_LINES = 20
MOST_WORDS = 1600
"""Characters of the own words that are read."""

_FAULTS = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    RecursionError,
    MessageError,
)
"""What the standard library's parsers raise on malformed headers and bodies."""


class Nature(StrEnum):
    LETTER = "letter"
    """A person wrote it, as far as its headers say."""
    AUTOMATIC = "automatic"
    """An auto-reply, or mail of a list (RFC 3834, RFC 2919)."""
    NOTICE = "notice"
    """A report on a delivery, or mail without a return path: nobody's words."""
    COMPLAINT = "complaint"
    """An abuse report (RFC 5965)."""
    BOUNCE = "bounce"
    """A delivery status notification (RFC 3464)."""


class Wish(StrEnum):
    """What the words of a mail may mean: an `in` is not among it."""

    OUT = "out"
    UNCLEAR = "unclear"
    NONE = "none"


class Request(StrEnum):
    """What only staff may answer."""

    RIGHTS = "rights_request"
    """UK GDPR articles 15 to 20."""
    REMINDERS = "reminder_request"


class Method(NamedTuple):
    """One result of an Authentication-Results header, all in lower case."""

    name: str
    result: str
    properties: Mapping[str, str]


class Verdict(NamedTuple):
    """One Authentication-Results header."""

    server: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Mail:
    """The facts of one mail."""

    key: str
    """The same for each copy of one mail: a hash of its Message-ID, else of its bytes."""
    message_id: str
    nature: Nature
    sender: Identifier | None
    """The one address in the one From header; None where there are more, or none."""
    recipients: tuple[str, ...]
    """As they are spelled, from To, Cc and what the receiving servers noted."""
    verdicts: tuple[Verdict, ...]
    """Topmost first: the last server that saw the mail wrote the first."""
    arrived_at: datetime | None
    """When the last server took it, else when the sender says to have written it."""
    subject: str
    text: str
    """The first own lines, without quotes and signature."""
    wish: Wish
    requests: tuple[Request, ...]
    quoted_tokens: tuple[str, ...] = ()
    """Of a report: what looks like a token in the List-Unsubscribe header it quotes."""
    complained: Identifier | None = None
    """Of an abuse report: whom the mail had gone to, where the reporter tells it."""
    unreachable: tuple[Identifier, ...] = ()
    """Of a delivery report: recipients who do not exist, as addressed and as forwarded to."""

    def plus_parts(self, address: str) -> list[str]:
        """What stands between `+` and `@` where the mail went to this inbox of ours."""
        ours, _, domain = address.lower().rpartition("@")
        found = []
        for one in self.recipients:
            local, _, host = one.rpartition("@")
            name, plus, tag = local.partition("+")
            if plus and name.lower() == ours and host.lower() == domain and tag not in found:
                found.append(tag)
        return found

    def went_to(self, address: str) -> bool:
        plain = {one.lower() for one in self.recipients}
        return address.lower() in plain or bool(self.plus_parts(address))

    def proved(self, authserv_id: str | None) -> bool:
        """Whether our own receiving server says that the sender's domain sent it.

        Only the topmost header of that server counts: senders write such headers too (RFC 8601
        section 5 lets the server take out forged ones). dmarc=pass, or dkim=pass aligned.
        """
        server = (authserv_id or "").lower()
        verdict = next((one for one in self.verdicts if server and one.server == server), None)
        if verdict is None or self.sender is None:
            return False
        domain = self.sender.key.rpartition("@")[2]
        judged = [one for one in verdict.methods if one.name == "dmarc"]
        if judged:
            return all(_dmarc(one, domain) for one in judged)
        return any(_aligned(one, domain) for one in verdict.methods)


def _dmarc(one: Method, domain: str) -> bool:
    judged = one.properties.get("header.from", domain).rpartition("@")[2]
    return one.result == "pass" and judged == domain


def _aligned(one: Method, domain: str) -> bool:
    """The signing domain is that of From, or one above it (RFC 7489 section 3.1.1). One below is
    not enough: without the list of public suffixes, nobody knows who may sign there."""
    signer = one.properties.get("header.d") or one.properties.get("header.i", "")
    signer = signer.rpartition("@")[2]
    if one.name != "dkim" or one.result != "pass" or "." not in signer:
        return False
    return domain == signer or domain.endswith(f".{signer}")


# --- reading -------------------------------------------------------------------------------------


class _Short(policy.EmailPolicy):
    """The standard library's policy with a limit on each header."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:LONGEST_HEADER]


_POLICY = _Short()


def read(raw: bytes) -> Mail:
    """The facts of a mail, whatever the bytes are."""
    message = _parsed(raw)
    parts = list(_parts(message))
    nature = _nature(message, parts)
    subject, text = _own_subject(message), _own_words(_text(parts))
    asked = f"{subject}\n{text}"
    by_client = _apple(message)
    message_id = _first(message, "message-id")
    return Mail(
        key=sha256(message_id.encode() or raw).hexdigest(),
        message_id=message_id,
        nature=Nature.LETTER if by_client and nature is Nature.AUTOMATIC else nature,
        sender=_sender(message),
        recipients=_recipients(message),
        verdicts=tuple(map(_verdict, _all(message, "authentication-results"))),
        arrived_at=_arrived(message),
        subject=subject,
        text=text,
        wish=Wish.OUT if by_client else _either(_wish(subject), _wish(text)),
        requests=tuple(one for one, form in _REQUESTS.items() if form.search(_plain(asked))),
        quoted_tokens=_quoted_tokens(parts),
        complained=_complained(parts),
        unreachable=tuple(_unreachable(parts)),
    )


def _parsed(raw: bytes) -> Message:
    nested = raw.lower().count(b"boundary")
    try:
        if nested <= MOST_BOUNDARIES:
            return message_from_bytes(raw, policy=_POLICY)
        return BytesParser(policy=_POLICY).parsebytes(raw, headersonly=True)
    except _FAULTS:
        return _only_text(raw)


def _only_text(raw: bytes) -> Message:
    message = Message(policy=_POLICY)
    message.set_payload(raw[:MOST_TEXT].decode("utf-8", "replace"))
    return message


def _all(message: Message, name: str) -> list[str]:
    """Every header of that name on one line each, as it was sent."""
    found = [str(value) for one, value in message.raw_items() if one.lower() == name]
    return [_clean(re.sub(r"[\r\n]+", " ", value[:LONGEST_HEADER])).strip() for value in found]


def _first(message: Message, name: str) -> str:
    return next(iter(_all(message, name)), "")


def _clean(text: str) -> str:
    """What can be stored: no lone surrogates (bytes that were no characters), no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _decoded(name: str, value: str) -> str:
    """A header as people read it, encoded words (RFC 2047) resolved."""
    try:
        return _clean(str(_POLICY.header_factory(name, value)))
    except _FAULTS:
        return value


def _parts(message: Message) -> Iterator[Message]:
    """The message and all in it, outermost first."""
    waiting = [message]
    for _ in range(MOST_PARTS):
        if not waiting:
            return
        one = waiting.pop(0)
        yield one
        inner = one.get_payload() if one.is_multipart() else []
        waiting += [part for part in inner if isinstance(part, Message)]


def _kind(part: Message) -> str:
    try:
        return part.get_content_type()
    except _FAULTS:
        return "text/plain"


def _parameter(part: Message, name: str) -> str:
    try:
        return str(part.get_param(name, "")).lower()
    except _FAULTS:
        return ""


def _body(part: Message) -> str:
    """A part as text, whatever its encoding says."""
    try:
        raw = part.get_payload(decode=True)
        charset = part.get_content_charset("utf-8")
    except _FAULTS:
        raw, charset = part.get_payload(), "utf-8"
    if not isinstance(raw, bytes):
        return _clean(raw) if isinstance(raw, str) else ""
    try:
        return _clean(raw[:MOST_TEXT].decode(charset, "replace"))
    except _FAULTS:
        return _clean(raw[:MOST_TEXT].decode("utf-8", "replace"))


# --- what kind of mail ---------------------------------------------------------------------------

_ROBOTS = ("mailer-daemon", "postmaster")
_ABUSE = ("abuse", "opt-out")
"""`not-spam` (RFC 6430) takes a complaint back, the others speak of forgery or viruses."""


def _nature(message: Message, parts: Iterable[Message]) -> Nature:
    if _kind(message) == "multipart/report":
        return _reported(_parameter(message, "report-type"), parts)
    sender = _first(message, "from").lower()
    if _first(message, "return-path").replace(" ", "") == "<>" or any(
        f"{robot}@" in sender for robot in _ROBOTS
    ):
        return Nature.NOTICE
    return Nature.AUTOMATIC if _automatic(message) else Nature.LETTER


def _reported(kind: str, parts: Iterable[Message]) -> Nature:
    if kind == "delivery-status":
        return Nature.BOUNCE
    if kind == "feedback-report" and _field(parts, "feedback-type").lower() in _ABUSE:
        return Nature.COMPLAINT
    return Nature.NOTICE


def _automatic(message: Message) -> bool:
    """RFC 3834 section 2; Precedence and Microsoft's header are older habits:
    https://learn.microsoft.com/openspecs/exchange_server_protocols/ms-oxcmail/ced68690-498a-4567-9d14-5c01f974d8b1
    """
    submitted = _first(message, "auto-submitted").partition(";")[0].strip().lower()
    suppressed = _first(message, "x-auto-response-suppress").lower()
    return (
        submitted not in ("", "no")
        or suppressed not in ("", "none")
        or _first(message, "precedence").lower() in ("bulk", "list", "junk", "auto_reply")
        or bool(_first(message, "list-id") or _first(message, "x-autoreply"))
    )


def _apple(message: Message) -> bool:
    """Apple Mail's Unsubscribe button: marked `Auto-Submitted: auto-replied`, yet a person's act.
    https://github.com/sisimai/set-of-emails/issues/26 shows one."""
    return _first(message, "x-apple-unsubscribe").lower() == "true"


# --- who, to whom, when --------------------------------------------------------------------------

_TO = (
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "x-forwarded-to",
    "to",
    "cc",
)


def _sender(message: Message) -> Identifier | None:
    found = _all(message, "from")
    if len(found) != 1:
        return None
    try:
        addresses = _POLICY.header_factory("from", found[0]).addresses
        return identity.email(addresses[0].addr_spec) if len(addresses) == 1 else None
    except (*_FAULTS, BadIdentifier):
        return None


def _recipients(message: Message) -> tuple[str, ...]:
    found = [
        word
        for name in _TO
        for value in _all(message, name)
        for word in re.split(r"[\s<>,;:\"()]+", value)
        if "@" in word
    ]
    return tuple(dict.fromkeys(found))


def _arrived(message: Message) -> datetime | None:
    """The clock of the last server, where the mail tells it: a sender's clock may be wrong, and an
    out that seems older than an `in` would change nothing."""
    for value in (_first(message, "received").rpartition(";")[2], _first(message, "date")):
        try:
            found = parsedate_to_datetime(value.strip())
        except (*_FAULTS, OverflowError):
            continue
        if found.tzinfo is not None:
            return found
    return None


# --- Authentication-Results (RFC 8601 section 2.2) -----------------------------------------------

_PAIR = re.compile(r"([a-z][a-z0-9._-]*)(?:/[0-9]+)? *= *([^\s]+)")
_OUTSIDE = re.compile(r"[^\"(\\]+|\"(?:[^\"\\]|\\.)*\"|\\.|.", re.DOTALL)
_INSIDE = re.compile(r"[^()\\]+|\\.|.", re.DOTALL)


def _verdict(value: str) -> Verdict:
    head, *rest = _plain_tokens(value.lower()).split(";")
    server = next(iter(head.split()), "")
    return Verdict(server, tuple(one for one in map(_method, rest) if one))


def _plain_tokens(value: str) -> str:
    """Without comments, which nest and may quote the sender; quoted texts become one word."""
    kept, depth, at = [], 0, 0
    while found := (_INSIDE if depth else _OUTSIDE).match(value, at):
        piece, at = found[0], found.end()
        if piece == "(":
            depth += 1
        elif depth:
            depth -= piece == ")"
            kept.append(" ")
        else:
            kept.append(_word(piece) if piece.startswith('"') else piece)
    return "".join(kept)


def _word(quoted: str) -> str:
    return re.sub(r"[\s;=\"\\]", "_", quoted[1:-1])


def _method(section: str) -> Method | None:
    pairs = _PAIR.findall(section)
    if not pairs:
        return None
    (name, result), *properties = pairs
    return Method(name, result, dict(properties))


# --- own words -----------------------------------------------------------------------------------

_ANSWERED = re.compile(r"(?:re|fwd?|aw|wg|sv|tr|antw|rif)(?:\[\d+\])? ?:", re.IGNORECASE)
_INTRODUCES = re.compile(
    r"(?:on .{4,200} wrote|am .{4,200} schrieb.{0,80}|le .{4,200} a [e\u00e9]crit"
    r"|el .{4,200} escribi[o\u00f3]) ?:\s*$",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"-- ?$|_{8,}\s*$|-{2,} ?(?:original message|forwarded message|original appointment) ?-{2,}"
    r"|begin forwarded message:|(?:from|von|de): .{0,200}@|sent from (?:my|mail|outlook|yahoo)"
    r"|get outlook for|sent via ",
    re.IGNORECASE,
)


def _own_subject(message: Message) -> str:
    """The subject where the person wrote it; that of an answer is ours."""
    found = _decoded("subject", _first(message, "subject")).strip()
    return "" if _ANSWERED.match(found) else found[:MOST_WORDS]


def _own_words(text: str) -> str:
    """The first own lines: an answer stands above what it quotes, or below lines marked `>`."""
    own: list[str] = []
    lines = [line.strip() for line in text[:MOST_TEXT].splitlines()]
    for number, line in enumerate(lines):
        if len(own) == MOST_LINES or _ENDS.match(line):
            break
        if _INTRODUCES.match(line):
            after = next((one for one in lines[number + 1 :] if one), "")
            if not after.startswith(">"):
                break
        elif line and not line.startswith(">"):
            own.append(line)
    return "\n".join(own)[:MOST_WORDS]


def _text(parts: Iterable[Message]) -> str:
    """The first plain text, else the first HTML, of what is no report's third part."""
    texts: dict[str, str] = {}
    for part in parts:
        kind = _kind(part)
        if kind == "message/rfc822":
            break
        if kind in ("text/plain", "text/html") and not part.is_multipart():
            texts.setdefault(kind, _body(part))
    if texts.get("text/plain", "").strip():
        return texts["text/plain"]
    return _of_html(texts.get("text/html", ""))


_TAG = re.compile(r"<(/?)([a-z]*)([^<>]*)>", re.IGNORECASE)
_SILENT = ("style", "script", "head", "title", "blockquote")
_BREAKS = ("br", "p", "div", "tr", "li")
_REPLIES = re.compile(r"gmail_quote|divRplyFwdMsg|appendonsend", re.IGNORECASE)


def _of_html(html: str) -> str:
    """The text that a person sees, without what they quote.

    Tag by tag: the standard library's parser took 48 s for 64 KiB of tags that never end.
    """
    found, silent, at = [], 0, 0
    for tag in _TAG.finditer(html):
        if not silent:
            found.append(" ".join(html[at : tag.start()].split("\n")))
        at = tag.end()
        closing, name, attributes = tag[1], tag[2].lower(), tag[3]
        if _REPLIES.search(attributes):
            return unescape("".join(found))
        if name in _SILENT:
            silent = max(0, silent + (-1 if closing else 1))
        found.append("\n" if name in _BREAKS else "")
    return unescape("".join([*found, "" if silent else html[at:]]))


# --- what they mean ------------------------------------------------------------------------------

_AS_TEXTS = (
    (r"\b(?:my|this) e-?mail(?: address| id)?\b|\b(?:my|this) address\b", "this number"),
    (r"\be-?mail address(?:es)?\b", "number"),
    (r"\be-?mailing\b(?! list)", "messaging"),
    (r"\be-?mails\b|\bmails\b|\bmailings\b", "messages"),
    (r"\be-?mail\b|\bmail\b", "message"),
)
"""The words of mail as those of texts, whose meaning is known."""
_OUTS = (Meaning.MARKETING_OUT, Meaning.ALL_SMS_OUT)
_APPOINTMENTS = ("cancel", "end")
"""Keywords to a gateway; in a mail as likely about an appointment."""


def _wish(text: str) -> Wish:
    words = _plain(text)
    for form, other in _AS_TEXTS:
        words = re.sub(form, other, words)
    said = meaning(words, Purpose.MARKETING, None)
    if words.strip(" .!\n") in _APPOINTMENTS or said is Meaning.HOLD:
        return Wish.UNCLEAR
    return Wish.OUT if said in _OUTS else Wish.NONE


def _either(subject: Wish, text: Wish) -> Wish:
    return next((one for one in (Wish.OUT, Wish.UNCLEAR) if one in (subject, text)), Wish.NONE)


def _plain(text: str) -> str:
    return text.casefold().replace("\u2019", "'")


_DATA = r"(?:personal |private )?(?:data|details|information|info|records?|account|profile|notes)"
_RIGHTS = (
    rf"\b(?:delete|erase|destroy|wipe) (?:all )?(?:of )?(?:my|any|the) {_DATA}\b",
    r"\bremove (?:all )?(?:of )?my (?:personal )?(?:data|information|records?|account)\b",
    r"\bright (?:of access|to (?:erasure|be forgotten|rectification|restriction|portability))\b",
    r"\b(?:forget me|subject access request|d?sar|data portability)\b",
    r"\b(?:article|art\.?) ?(?:15|16|17|18|20)\b",
    rf"\bcop(?:y|ies) of (?:all )?(?:of )?(?:my|the) {_DATA}\b",
    rf"\bwhat (?:{_DATA} )?(?:do |have |are )?you (?:hold|have|know|store|keep|held|stored)\b",
    rf"\baccess to (?:all )?(?:of )?my {_DATA}\b",
    rf"\b(?:correct|rectify) my {_DATA}\b",
)
_NO_REMINDERS = (
    r"\b(?:stop|no more|cancel|don'?t|do not|unsubscribe|opt out|(?:turn|switch) off|remove)"
    r"\b(?:(?!\b(?:but|keep|except|still|only)\b)[^.!?;,\n]){0,60}"
    r"\b(?:reminders?|appointment (?:e-?mails?|messages?|texts?|notifications?|alerts?))\b"
)
_REQUESTS = {
    Request.RIGHTS: re.compile("|".join(_RIGHTS)),
    Request.REMINDERS: re.compile(_NO_REMINDERS),
}

# --- reports (RFC 5965, RFC 3464) ----------------------------------------------------------------

_QUOTED = ("message/rfc822", "text/rfc822-headers", "message/rfc822-headers", "message/global")
_TOKEN = re.compile(r"(?:/u/|\+)([A-Za-z0-9_-]{64,512})(?![A-Za-z0-9_-])")
_NO_SUCH_ADDRESS = re.compile(r"5\.1\.(?:1|2|3|4|6|10)\b")
"""RFC 3463 section 3.2, RFC 7505. 5.1.7 and 5.1.8 are faults of the sender's address, 5.1.0 may be
either, so that they say nothing about the recipient."""


def _blocks(parts: Iterable[Message], *kinds: str) -> Iterator[Message]:
    """The fields of the parts of these kinds, one block after the other."""
    for part in parts:
        if _kind(part) not in kinds:
            continue
        inner = part.get_payload() if part.is_multipart() else None
        if isinstance(inner, list):
            yield from (one for one in inner if isinstance(one, Message))
        else:
            body = _body(part).encode()
            yield BytesParser(policy=_POLICY).parsebytes(body, headersonly=True)


def _field(parts: Iterable[Message], name: str) -> str:
    found = (_first(block, name) for block in _blocks(parts, "message/feedback-report"))
    return next((value for value in found if value), "")


def _quoted_tokens(parts: list[Message]) -> tuple[str, ...]:
    if _kind(parts[0]) != "multipart/report":
        return ()
    values = [
        spelling
        for block in _blocks(parts, *_QUOTED)
        for value in _all(block, "list-unsubscribe")
        for spelling in (value, _decoded("subject", value))
    ]
    found = [token for value in values for token in _TOKEN.findall(value)]
    return tuple(dict.fromkeys(found))


def _complained(parts: list[Message]) -> Identifier | None:
    return _address(_field(parts, "original-rcpt-to"))


def _unreachable(parts: list[Message]) -> Iterator[Identifier]:
    if _kind(parts[0]) != "multipart/report":
        return
    for block in _blocks(parts, "message/delivery-status"):
        failed = _first(block, "action").lower() == "failed"
        if failed and _NO_SUCH_ADDRESS.match(_first(block, "status")):
            for name in ("original-recipient", "final-recipient"):
                if found := _address(_first(block, name)):
                    yield found


def _address(value: str) -> Identifier | None:
    """`rfc822;ada@example.com`, with or without brackets."""
    text = value.rpartition(";")[2].strip(" <>")
    try:
        return identity.email(text) if text else None
    except BadIdentifier:
        return None
