"""Identifiers: many spellings, one key; what is doubtful is refused without being repeated."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefs.core import identity
from prefs.core.errors import BadIdentifier
from prefs.core.signals import Identifier
from prefs.core.words import Channel, Kind


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("anna@example.com", "anna@example.com"),
        ("  Anna@Example.CO.UK\t\r\n", "anna@example.co.uk"),
        ("anna.b+news@example.com", "anna.b+news@example.com"),
        ("a@clinic.test", "a@clinic.test"),
        ("j@FASS.de", "j@fass.de"),
        ("j@faß.de", "j@xn--fa-hia.de"),
        ("j@BÜCHER.de", "j@xn--bcher-kva.de"),
        ("j@xn--bcher-kva.de", "j@xn--bcher-kva.de"),
        ("j@XN--BCHER-KVA.de", "j@xn--bcher-kva.de"),
        ("j@bu\u0308cher.de", "j@xn--bcher-kva.de"),
        ("j@example。com", "j@example.com"),
        ("a@" + "b" * 63 + ".com", "a@" + "b" * 63 + ".com"),
        ("JOSE\u0301@example.com", "josÉ@example.com"),
        ("ﬁ@example.com", "ﬁ@example.com"),
    ],
)
def test_one_key_for_the_spellings_of_an_address(text: str, key: str) -> None:
    found = identity.email(text)
    assert (found.kind, found.key) == (Kind.EMAIL, key)
    assert found.spelling == text.strip()


def test_sharp_s_is_a_letter_of_its_own() -> None:
    assert identity.email("j@faß.de").key != identity.email("j@fass.de").key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "anna",
        "@example.com",
        "anna@",
        "anna@example",
        "anna@1.2.3.4",
        "anna@[1.2.3.4]",
        "anna@example.com.",
        "anna@.com",
        "anna@exa_mple.com",
        "anna@-a.com",
        "anna@ab--cd.com",
        "anna@xn--zzzzzzzz9999.com",
        "anna@" + "b" * 64 + ".com",
        "an na@example.com",
        "anna..b@example.com",
        ".anna@example.com",
        "anna@b@example.com",
        "Anna <anna@example.com>",
        "anna@example.com, ben@example.com",
        '"anna b"@example.com',
        "anna\0@example.com",
        "anna@exam\u202eple.com",
        "an\u200ena@example.com",
        "an\nna@example.com",
        "an\ud800na@example.com",
        "a" * 243 + "@example.com",
        "é" * 130 + "@example.com",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(BadIdentifier) as raised:
        identity.email(text)
    _says_nothing_of(text, raised.value)


def _says_nothing_of(text: str, error: BadIdentifier) -> None:
    """Neither the message nor what it was raised from shows the value."""
    assert error.__context__ is None
    assert error.__cause__ is None
    shown = str(error).lower()
    assert not any(word in shown for word in text.lower().split() if len(word) > 3)


def test_the_longest_address() -> None:
    longest = "a" * 242 + "@example.com"
    assert len(longest) == identity.LONGEST_EMAIL
    assert identity.email(longest).key == longest


_ODD = st.text(alphabet="aZ0.-_@+xnß é\u0301\u200e\0", max_size=12)
ADDRESSES = st.one_of(
    st.emails(),
    st.builds("{}@{}.{}".format, _ODD, _ODD, st.sampled_from(["com", "CO.UK", "9", "ß"])),
)


@given(ADDRESSES)
@example("a@ab--cd.com")
@example("a@b.xn--zz")
@example("a@x.c--m")
def test_the_quick_way_to_an_address_is_the_long_way(text: str) -> None:
    assert _key(identity.email, text) == _key(_long_email, text)


def _long_email(text: str) -> Identifier:
    spelling = text.strip()
    identity._trimmed(text)
    return Identifier(Kind.EMAIL, identity._email_key(spelling), spelling)


def _key(make: object, *given: str) -> str | None:
    assert callable(make)
    try:
        key = make(*given).key
    except BadIdentifier:
        return None
    assert isinstance(key, str)
    return key


@given(ADDRESSES)
def test_a_key_is_its_own_key(text: str) -> None:
    key = _key(identity.email, text)
    if key is not None:
        assert identity.email(key).key == key
        assert unicodedata.is_normalized("NFC", key)


@pytest.mark.parametrize(
    ("text", "region", "key"),
    [
        ("+447911123456", "GB", "+447911123456"),
        ("07911 123456", "GB", "+447911123456"),
        ("+44 (0)7911 123456", "GB", "+447911123456"),
        ("0044 7911-123.456", "GB", "+447911123456"),
        ("447911123456", "GB", "+447911123456"),
        ("7911123456", "GB", "+447911123456"),
        ("\u00a007911\u00a0123456 ", "GB", "+447911123456"),
        ("+44 20 7946 0018", "FR", "+442079460018"),
        ("020 7946 0018", "GB", "+442079460018"),
        ("0800 1111", "GB", "+448001111"),
        ("01481 960194", "GG", "+441481960194"),
        ("07700 900123", "GB", "+447700900123"),
        ("+447700900123", "US", "+447700900123"),
        ("01632 960001", "GB", "+441632960001"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("06 12 34 56 78", "FR", "+33612345678"),
        ("+39 06 1234 5678", "GB", "+390612345678"),
    ],
)
def test_one_key_for_the_spellings_of_a_number(text: str, region: str, key: str) -> None:
    assert identity.phone(text, region) == Identifier(Kind.PHONE, key, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "+44",
        "12345",
        "999",
        "anna@example.com",
        "0800 FLOWERS",
        "07911 123456 ext 5",
        "07911 123456 x5",
        "07911 123456#5",
        "07911 123456;ext=5",
        "07911 123456 (Mum)",
        "07911 123456 / 07911 123457",
        "07911 123456, 07911 123457",
        "01604 12345/6",
        "07911 123456 7",
        "+44 7911 123456 78",
        "+44791112345",
        "0791112345",
        "2025550123",
        "+0 7911 123456",
        "+44 0000 000 0001",
        "+999 123456789",
        "07911+123456",
        "07911\0123456",
        "0" * 200,
        "+447911123456\u202e",
    ],
)
def test_no_number(text: str) -> None:
    with pytest.raises(BadIdentifier) as raised:
        identity.phone(text)
    _says_nothing_of(text, raised.value)


def test_an_unknown_region_reads_international_numbers_only() -> None:
    assert identity.phone("+447911123456", "XX").key == "+447911123456"
    with pytest.raises(BadIdentifier):
        identity.phone("07911123456", "XX")


REGIONS = st.sampled_from(
    ["GB", "GG", "JE", "IM", "IE", "FR", "DE", "IT", "US", "CA", "AU", "JP", "RU", "KZ", "DK", "XX"]
)
_CODES = ["44", "353", "33", "49", "39", "1", "61", "81", "7", "45"]
NUMBERS = st.one_of(
    st.from_regex(r"\A\+?[0-9 ().-]{5,18}\Z"),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["0", "00", "010", *_CODES, *(f"+{code}" for code in _CODES)]),
        st.sampled_from(["", "7", "77", "2", "1", "0", "180020", "700", "20"]),
        st.from_regex(r"\A[0-9]{4,10}\Z"),
    ),
)


@given(NUMBERS, REGIONS)
@example("+441800201234", "GB")
@example("01800201234", "GB")
@example("0101234567", "JP")
@example("+447700900123", "GB")
@example("011842446", "BO")
@example("07116138122", "CO")
@example("0849836992", "KR")
def test_the_quick_way_to_a_number_is_the_long_way(text: str, region: str) -> None:
    quick = identity._quick_phone(text.strip(), region)
    if quick is not None:
        assert quick == identity._parsed_phone(text.strip(), region)


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("+447911123456", "GB"),
        ("07911 123456", "GB"),
        ("+447700900123", "GB"),
        ("+33612345678", "FR"),
        ("+12025550123", "US"),
    ],
)
def test_the_usual_forms_go_the_quick_way(text: str, region: str) -> None:
    assert identity._quick_phone(text, region)


@given(NUMBERS, REGIONS)
def test_a_number_s_key_is_its_own_key_everywhere(text: str, region: str) -> None:
    key = _key(identity.phone, text, region)
    if key is not None:
        assert _key(identity.phone, key, "GB") == key
        assert _key(identity.phone, key, region) == key


@pytest.mark.parametrize("sender", ["+447911123456", "+4479111234567890", "60777", "RTClinic"])
def test_a_signed_sender_stands_as_it_is(sender: str) -> None:
    assert identity.signed_phone(f" {sender} ") == (Kind.PHONE, sender, sender)


@pytest.mark.parametrize("sender", ["", "  ", "+44\x007911", "RT\u202eClinic", "1" * 65])
def test_no_sender(sender: str) -> None:
    with pytest.raises(BadIdentifier):
        identity.signed_phone(sender)


def test_a_signed_number_meets_the_one_a_person_typed() -> None:
    assert identity.signed_phone("+447911123456").key == identity.phone("07911 123456").key


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("+447911123456", True),
        ("+447700900123", True),
        ("+12025550123", True),
        ("+442079460018", False),
        ("+441632960001", False),
        ("+448001111", False),
        ("+447012345678", False),
        ("+4476999123456789", False),
        ("60777", None),
        ("RTClinic", None),
        ("+9", None),
    ],
)
def test_what_may_be_texted(number: str, answer: bool | None) -> None:
    assert identity.mobile(identity.signed_phone(number)) is answer


def test_an_address_is_no_mobile() -> None:
    assert identity.mobile(identity.email("anna@example.com")) is None


def test_a_psid_counts_within_its_page() -> None:
    assert identity.messenger(" 24601 ", "9001").key == "9001:24601"
    assert identity.messenger("9002:24601", "9001").key == "9002:24601"
    assert identity.messenger("9002:24601", None).spelling == "9002:24601"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("24601", None),
        ("", "9001"),
        ("9001:", None),
        (":24601", None),
        ("2 4", "9001"),
        ("1", "a b"),
    ],
)
def test_no_psid(text: str, page: str | None) -> None:
    with pytest.raises(BadIdentifier):
        identity.messenger(text, page)


SMITH = identity.post("Jane Smith", ["12a High Street", "Leeds"], "LS1 4AP", "GB")


@pytest.mark.parametrize(
    ("name", "lines", "postcode"),
    [
        ("MRS J SMITH", ["12A, high st."], "ls14ap"),
        ("Smith, Jane", ["12a High Street"], "LS1 4AP"),
        ("Jane Smith, MBE", ["The Annexe", "12a High Street"], " ls1  4ap "),
        ("Jane Smíth", ["LS1 4AP", "12a High Street"], "LS1 4AP"),
    ],
)
def test_one_key_for_the_spellings_of_a_postal_address(
    name: str, lines: list[str], postcode: str
) -> None:
    assert identity.post(name, lines, postcode).key == SMITH.key == "ls14ap|12a|smith"


@pytest.mark.parametrize(
    ("name", "lines", "postcode"),
    [
        ("Jane Smythe", ["12a High Street"], "LS1 4AP"),
        ("Jane Smith", ["12 High Street"], "LS1 4AP"),
        ("Jane Smith", ["12a High Street"], "LS1 4AQ"),
    ],
)
def test_another_person_or_house(name: str, lines: list[str], postcode: str) -> None:
    assert identity.post(name, lines, postcode).key != SMITH.key


def test_a_house_without_a_number_goes_by_its_name() -> None:
    found = identity.post("Ann O’Brien", ["Rose Cottage", "Mill Lane", "LS1 4AP"], "LS1 4AP")
    assert found.key == "ls14ap|rosecottage|obrien"


def test_a_postal_address_is_written_a_line_each() -> None:
    assert SMITH.spelling == "Jane Smith\n12a High Street\nLeeds\nLS1 4AP\nGB"


@pytest.mark.parametrize(
    ("name", "lines", "postcode"),
    [
        ("", ["12 High Street"], "LS1 4AP"),
        ("Jane Smith", [], "LS1 4AP"),
        ("Jane Smith", ["LS1 4AP"], "LS1 4AP"),
        ("Jane Smith", ["12 High Street"], " - "),
        ("Jane Smith", ["12 High\0Street"], "LS1 4AP"),
        ("Jane Smith", ["12 " + "High" * 300], "LS1 4AP"),
    ],
)
def test_no_postal_address(name: str, lines: list[str], postcode: str) -> None:
    with pytest.raises(BadIdentifier) as raised:
        identity.post(name, lines, postcode)
    assert "Smith" not in str(raised.value)


@pytest.mark.parametrize(
    ("channel", "text", "kind", "key"),
    [
        (Channel.EMAIL, "Anna@example.com", Kind.EMAIL, "anna@example.com"),
        (Channel.SMS, "06 12 34 56 78", Kind.PHONE, "+33612345678"),
        (Channel.PHONE, "+447911123456", Kind.PHONE, "+447911123456"),
        (Channel.MESSENGER, "24601", Kind.MESSENGER, "9001:24601"),
    ],
)
def test_a_text_is_what_its_channel_makes_of_it(
    channel: Channel, text: str, kind: Kind, key: str
) -> None:
    found = identity.guess(text, channel, "FR", "9001")
    assert (found.kind, found.key) == (kind, key)


def test_a_bare_text_is_no_postal_address() -> None:
    with pytest.raises(BadIdentifier):
        identity.guess("12 High Street, LS1 4AP", Channel.POST)


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [
        (identity.email("jane.doe@example.co.uk"), "j•••@e•••.co.uk"),
        (identity.phone("+447911123456"), "+44 •••• ••456"),
        (identity.phone("+12025550123"), "+1 •••• ••123"),
        (identity.signed_phone("60777"), "•••77"),
        (identity.signed_phone("+99999999"), "+ •••• ••999"),
        (identity.messenger("9001:2460135", None), "•••135"),
        (SMITH, "LS•••"),
    ],
)
def test_a_masked_identifier(identifier: Identifier, shown: str) -> None:
    assert identity.masked(identifier) == shown
