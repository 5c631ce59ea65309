"""What is written in many ways becomes one key: addresses, numbers, PSIDs, postal addresses.

Every function raises `BadIdentifier` with a message that never repeats the value. Two spellings
with one key are one identifier; likeness beyond that is a hint to staff and never decided here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import idna
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import CountryCodeSource, PhoneMetadata, PhoneNumber, PhoneNumberType

from prefs.core.errors import BadIdentifier
from prefs.core.signals import Identifier
from prefs.core.words import KIND_OF, Channel, Kind

# --- email ----------------------------------------------------------------------------------------

LONGEST_EMAIL = 254
"""Octets of a path without its brackets: RFC 5321 section 4.5.3.1.3, RFC 3696 erratum 1690."""

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# A hyphen in the third and fourth place is an A-label or nothing: left to idna.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN_EMAIL = re.compile(
    rf"{_ATEXT}(?:\.{_ATEXT})*@(?:{_LABEL}\.)+(?!..--)[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?"
)
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def email(text: str) -> Identifier:
    """Key: NFC, ASCII-lower-cased local part, domain as lower-case IDNA 2008 A-labels (UTS 46,
    non-transitional). Dots and tags stay: only the address's own host knows what they mean."""
    spelling = _trimmed(text)
    if len(spelling) <= LONGEST_EMAIL and _PLAIN_EMAIL.fullmatch(spelling):
        return Identifier(Kind.EMAIL, spelling.lower(), spelling)
    return Identifier(Kind.EMAIL, _email_key(spelling), spelling)


def _email_key(spelling: str) -> str:
    if len(spelling) > LONGEST_EMAIL:
        raise BadIdentifier("the email address is longer than 254 characters")
    local, at, domain = spelling.rpartition("@")
    if not (at and local and domain):
        raise BadIdentifier("an email address has a name, an @ and a domain")
    key = f"{_local_part(local)}@{_domain(domain)}"
    if len(key.encode()) > LONGEST_EMAIL:
        raise BadIdentifier("the email address is longer than 254 bytes")
    return key


def _local_part(local: str) -> str:
    # The library refuses reserved domains (.test, .local), which a CRM may well hold: it is asked
    # about the local part alone.
    try:
        found = validate_email(f"{local}@example.com", check_deliverability=False).local_part
    except EmailNotValidError:
        found = None
    if found is None:
        raise BadIdentifier("the part before the @ is not that of an email address")
    return found.translate(_ASCII_LOWER)


def _domain(domain: str) -> str:
    try:
        found = idna.encode(domain, uts46=True).decode().lower()
    except UnicodeError:
        found = ""
    host, dot, top = found.rpartition(".")
    if not (host and dot and top) or top.isdigit():
        raise BadIdentifier("the part after the @ is not an internet domain")
    return found


def _trimmed(text: str) -> str:
    trimmed = text.strip()
    if not trimmed.isprintable() and any(map(_unprintable, trimmed)):
        raise BadIdentifier("the text contains control characters")
    return trimmed


def _unprintable(character: str) -> bool:
    """Control characters, lone surrogates, and what turns the direction of reading."""
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI


# --- phone ----------------------------------------------------------------------------------------

_PHONE_TEXT = re.compile(r"[+\uff0b]?[\d\s().\u2010-\u2015\u2060\u00ad-]+")
_MOST_PHONE_TEXT = 40
_LEAST_DIGITS = 5


def phone(text: str, region: str = "GB") -> Identifier:
    """Key and spelling: E.164 by libphonenumber, national forms read as `region`'s (ISO 3166).

    Refuses rather than guesses: letters, extensions, trailing text, a wrong count of digits, and a
    bare number without any prefix that is not in use in the region.
    """
    spelling = _trimmed(text)
    key = _quick_phone(spelling, region) or _parsed_phone(spelling, region)
    return Identifier(Kind.PHONE, key, key)


def _quick_phone(text: str, region: str) -> str | None:
    """The same answer as `_parsed_phone` for the usual forms, at a tenth of its time; else None."""
    code, form = _quick_form(region)
    found = form.fullmatch(text.replace(" ", "")) if form else None
    return f"+{code}{found['number']}" if found else None


@lru_cache(maxsize=512)
def _quick_form(region: str) -> tuple[int, re.Pattern[str] | None]:
    code = phonenumbers.country_code_for_region(region)
    facts = PhoneMetadata.metadata_for_region(region, None)
    if facts is None or phonenumbers.region_code_for_country_code(code) != region:
        return code, None
    prefix = facts.national_prefix_for_parsing
    # Digits that the parser might take for a prefix are left to it.
    number = rf"(?!0{f'|{prefix}' if prefix else ''})(?P<number>{_lengths(facts)})"
    if not prefix or prefix.split("|")[0] != "0" or facts.national_prefix_transform_rule:
        return code, re.compile(rf"\+{code}{number}", re.ASCII)
    abroad = facts.international_prefix or "00"
    return code, re.compile(rf"(?:\+{code}|(?!{abroad})0){number}", re.ASCII)


def _lengths(facts: PhoneMetadata) -> str:
    """Digits of a mobile number of the region, as a pattern."""
    own = facts.mobile.possible_length if facts.mobile else ()
    every = facts.general_desc.possible_length if facts.general_desc else ()
    lengths = [length for length in own or every if length > 0]
    return "|".join(rf"\d{{{length}}}" for length in lengths) or r"(?!)"


def _parsed_phone(text: str, region: str) -> str:
    if not _PHONE_TEXT.fullmatch(text) or len(text) > _MOST_PHONE_TEXT:
        raise BadIdentifier("a phone number has digits only, with a + in front or without")
    try:
        number = phonenumbers.parse(text, region, keep_raw_input=True)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not _certain(number, text):
        raise BadIdentifier("the digits are not those of a phone number")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _certain(number: PhoneNumber, text: str) -> bool:
    """In use by the numbering plan, or long enough for a mobile and written with a prefix.

    The plan alone would refuse new ranges, and Ofcom's numbers for drama:
    https://www.ofcom.org.uk/phones-and-broadband/phone-numbers/numbers-for-drama
    """
    if phonenumbers.is_valid_number(number):
        return True
    digits, own = re.sub(r"\D", "", text), phonenumbers.national_significant_number(number)
    local = number.country_code_source == CountryCodeSource.FROM_DEFAULT_COUNTRY
    if own.startswith("0") or (local and len(digits) == len(own)):
        return False
    return phonenumbers.is_possible_number_for_type(number, PhoneNumberType.MOBILE)


_MOST_SENDER_TEXT = 64


def signed_phone(text: str) -> Identifier:
    """The sender of a message as a signed gateway named it: `+` and digits, a short code or an
    alphanumeric name stand as they are."""
    sender = _trimmed(text)
    if not 0 < len(sender) <= _MOST_SENDER_TEXT:
        raise BadIdentifier("the gateway names no sender")
    return Identifier(Kind.PHONE, sender, sender)


_TEXTED = {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE}


def mobile(identifier: Identifier) -> bool | None:
    """Whether this can be texted by its numbering plan; None where that says nothing of it."""
    if identifier.kind is not Kind.PHONE or not identifier.key.startswith("+"):
        return None
    try:
        number = phonenumbers.parse(identifier.key)
    except phonenumbers.NumberParseException:
        return None
    kind = phonenumbers.number_type(number)
    if kind == PhoneNumberType.UNKNOWN:
        return _british_mobile(identifier.key)
    return kind in _TEXTED


def _british_mobile(number: str) -> bool | None:
    # In the UK 07 is mobile, but for personal numbers (070) and pagers (076): National Telephone
    # Numbering Plan, part A.
    if not number.startswith("+44"):
        return None
    return number[3:4] == "7" and number[3:5] not in ("70", "76")


# --- messenger ------------------------------------------------------------------------------------

_MESSENGER_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def messenger(text: str, page: str | None) -> Identifier:
    """`PSID` or `PAGE:PSID`. A PSID counts within one page, so without `page` it must name one."""
    named, colon, psid = _trimmed(text).rpartition(":")
    page_id = named if colon else page
    if not _MESSENGER_ID.fullmatch(psid):
        raise BadIdentifier("the text is no PSID")
    if not page_id:
        raise BadIdentifier("a PSID counts within its page: write PAGE:PSID")
    if not _MESSENGER_ID.fullmatch(page_id):
        raise BadIdentifier("the text is no page id")
    key = f"{page_id}:{psid}"
    return Identifier(Kind.MESSENGER, key, key)


# --- post -----------------------------------------------------------------------------------------

_HOUSE_NUMBER = re.compile(r"\d+[^\W\d_]?(?!\w)")
_MOST_POST_TEXT = 1000


def post(name: str, lines: Sequence[str], postcode: str, country: str | None = None) -> Identifier:
    """Key: postcode, first number or else house name, folded surname. Spelling: a line each."""
    parts = [name, *lines, postcode, country or ""]
    spelling = "\n".join(part for part in map(_trimmed, parts) if part)
    if len(spelling) > _MOST_POST_TEXT:
        raise BadIdentifier("the postal address is longer than 1,000 characters")
    code, house, surname = _folded(postcode), _house(lines, _folded(postcode)), _surname(name)
    if not code:
        raise BadIdentifier("a postal address has a postcode")
    if not house:
        raise BadIdentifier("a postal address has a house number or a house name")
    if not surname:
        raise BadIdentifier("a postal address names a person")
    return Identifier(Kind.POST, f"{code}|{house}|{surname}", spelling)


def _house(lines: Sequence[str], postcode: str) -> str:
    places = [line for line in lines if _folded(line) not in ("", postcode)]
    numbers = [found[0] for line in places if (found := _HOUSE_NUMBER.search(line))]
    return _folded((numbers or places or [""])[0])


def _surname(name: str) -> str:
    """`Jane Smith`, `Smith, Jane` and `Jane Smith, MBE` are all of smith."""
    words = name.partition(",")[0].split()
    return _folded(words[-1]) if words else ""


def _folded(text: str) -> str:
    """Letters and digits only, without case and accents."""
    spread = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in spread if character.isalnum())


# --- all kinds ------------------------------------------------------------------------------------


def guess(text: str, channel: Channel, region: str = "GB", page: str | None = None) -> Identifier:
    """The identifier that a bare text stands for on a channel."""
    kind = KIND_OF[channel]
    if kind is Kind.EMAIL:
        return email(text)
    if kind is Kind.PHONE:
        return phone(text, region)
    if kind is Kind.MESSENGER:
        return messenger(text, page)
    raise BadIdentifier("a postal address is name, lines and postcode")


_DOTS = "\u2022\u2022\u2022"


def masked(identifier: Identifier) -> str:
    """Enough for its owner to know it again, too little for anybody else to use it."""
    if identifier.kind is Kind.EMAIL:
        return _masked_email(identifier.key)
    if identifier.kind is Kind.PHONE:
        return _masked_phone(identifier.key)
    if identifier.kind is Kind.MESSENGER:
        return f"{_DOTS}{identifier.key[-3:]}"
    return f"{identifier.key[:2].upper()}{_DOTS}"


def _masked_email(key: str) -> str:
    local, _, domain = key.rpartition("@")
    host, _, rest = domain.partition(".")
    return f"{local[:1]}{_DOTS}@{host[:1]}{_DOTS}.{rest}"


def _masked_phone(key: str) -> str:
    if not key.startswith("+") or len(key) < 8:
        return f"{_DOTS}{key[-2:]}"
    code = _calling_code(key)
    return f"{code} {_DOTS}\u2022 {_DOTS[:2]}{key[-3:]}"


def _calling_code(number: str) -> str:
    codes = phonenumbers.COUNTRY_CODE_TO_REGION_CODE
    found = (number[1:end] for end in (2, 3, 4) if int(number[1:end]) in codes)
    return f"+{next(found, '')}"
