"""The sample people: made up, with numbers from Ofcom's range for drama and addresses of a
reserved domain."""

from __future__ import annotations

from typing import NamedTuple

PAGE = "900100"
"""The Facebook Page that some of them wrote to."""


class Person(NamedTuple):
    """`psid` is empty for who never wrote to the Page; `away` names systems that do not have
    them."""

    ref: str
    first: str
    last: str
    email: str
    phone: str
    psid: str = ""
    away: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def messenger(self) -> str:
        return f"{PAGE}:{self.psid}"


AMELIA = Person("p1", "Amelia", "Hart", "amelia@example.com", "+447700900101", "2001")
BETH = Person(
    "p2",
    "Beth",
    "Lowe",
    "beth@example.com",
    "+447700900102",
    "2002",
    frozenset({"activecampaign", "pipedrive"}),
)
CHLOE = Person(
    "p3", "Chloe", "Marsh", "chloe@example.com", "+447700900103", "2003", frozenset({"xero"})
)
DANA = Person(
    "p4",
    "Dana",
    "Pike",
    "dana@example.com",
    "+447700900104",
    away=frozenset({"activecampaign", "keap", "messenger"}),
)
ERIN = Person("p5", "Erin", "Shaw", "erin@example.com", "+447700900105", "2005")
PEOPLE = (AMELIA, BETH, CHLOE, DANA, ERIN)
