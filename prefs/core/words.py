"""The words of the field, one for each thing; code, SQL, API and pages use these."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Channel(StrEnum):
    EMAIL = "email"
    SMS = "sms"
    PHONE = "phone"
    POST = "post"
    MESSENGER = "messenger"


class Purpose(StrEnum):
    MARKETING = "marketing"
    REMINDERS = "reminders"
    SERVICE = "service"


CHANNELS_OF: dict[Purpose, tuple[Channel, ...]] = {
    Purpose.MARKETING: tuple(Channel),
    Purpose.REMINDERS: (Channel.EMAIL, Channel.SMS),
    Purpose.SERVICE: tuple(Channel),
}


class Kind(StrEnum):
    """What an identifier is."""

    EMAIL = "email"
    PHONE = "phone"
    MESSENGER = "messenger"
    POST = "post"


KIND_OF: dict[Channel, Kind] = {
    Channel.EMAIL: Kind.EMAIL,
    Channel.SMS: Kind.PHONE,
    Channel.PHONE: Kind.PHONE,
    Channel.POST: Kind.POST,
    Channel.MESSENGER: Kind.MESSENGER,
}
CHANNEL_OF_LINK: dict[Kind, Channel] = {
    Kind.EMAIL: Channel.EMAIL,
    Kind.PHONE: Channel.SMS,
    Kind.MESSENGER: Channel.MESSENGER,
    Kind.POST: Channel.POST,
}


class Choice(StrEnum):
    """What was chosen; a scope without one is unset, which is not a no."""

    IN = "in"
    OUT = "out"


class Source(StrEnum):
    """Through which door a wish came."""

    ONE_CLICK = "one_click"
    LINK = "link"
    CENTRE = "centre"
    SMS = "sms"
    MAIL = "mail"
    MESSENGER = "messenger"
    COMPLAINT = "complaint"
    DOUBLE_OPT_IN = "double_opt_in"
    VENDOR_PERSON = "vendor_person"
    STAFF = "staff"
    IMPORT = "import"
    API = "api"
    FORM = "form"
    SOFT_OPT_IN = "soft_opt_in"
    VENDOR_ADMIN = "vendor_admin"
    VENDOR_API = "vendor_api"


class Strength(IntEnum):
    MACHINE = 1
    STAFF = 2
    PERSON = 3


PERSONAL = frozenset(
    {
        Source.ONE_CLICK,
        Source.LINK,
        Source.CENTRE,
        Source.SMS,
        Source.MAIL,
        Source.MESSENGER,
        Source.COMPLAINT,
        Source.DOUBLE_OPT_IN,
        Source.VENDOR_PERSON,
    }
)
OUR_PAGES = frozenset({Source.ONE_CLICK, Source.LINK, Source.CENTRE, Source.DOUBLE_OPT_IN})


_STRENGTHS = {
    **dict.fromkeys(Source, Strength.MACHINE),
    **dict.fromkeys(PERSONAL, Strength.PERSON),
    Source.STAFF: Strength.STAFF,
}


def strength(source: Source) -> Strength:
    return _STRENGTHS[source]


class Basis(StrEnum):
    """Why marketing is lawful (UK GDPR article 6, PECR regulation 22)."""

    CONSENT = "consent"
    SOFT_OPT_IN = "soft_opt_in"
    LEGITIMATE_INTEREST = "legitimate_interest"


class Scope(NamedTuple):
    """What a choice is about. `topic` hangs under marketing; None is the whole channel."""

    channel: Channel
    purpose: Purpose
    topic: str | None = None

    @property
    def covering(self) -> Scope:
        """The scope whose `out` covers this one: its channel and purpose without the topic."""
        return Scope(self.channel, self.purpose)


def offered(channel: Channel, purpose: Purpose) -> bool:
    return channel in CHANNELS_OF[purpose]


class Result(StrEnum):
    """What became of one statement."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    PENDING = "pending"
    HELD = "held"


class Why(StrEnum):
    """The reason of a result."""

    APPLIED_RULE = "applied_rule"
    SOURCE_TOO_WEAK = "source_too_weak"
    OLDER = "older"
    SAME = "same"
    NO_BASIS = "no_basis"
    NO_EVIDENCE = "no_evidence"
    AMBIGUOUS = "ambiguous"
    NEEDS_CONFIRMATION = "needs_confirmation"
    HELD = "held"
    NOT_OFFERED = "not_offered"
