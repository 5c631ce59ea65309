"""The vendors of a whole clinic: running twins with everybody in them, under one set of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from tests.twins.activecampaign import ActiveCampaignTwin
from tests.twins.google import GoogleTwin
from tests.twins.hubspot import HubspotTwin
from tests.twins.keap import KeapTwin
from tests.twins.kit import Limits, Twin, running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.messenger import MessengerTwin
from tests.twins.pabau import PabauTwin
from tests.twins.pipedrive import PipedriveTwin
from tests.twins.twilio import TwilioTwin
from tests.twins.xero import XeroTwin

MARKETING_SENDER, REMINDER_SENDER = "+447700900001", "+447700900002"
HOOK_KEY = "a-long-random-key-of-a-webhook"
UNLIMITED = "100000/1s"


def email(number: int) -> str:
    return f"p{number}@example.com"


def phone(number: int) -> str:
    return f"+4477100{number:05d}"


def psid(number: int) -> str:
    return f"77{number:08d}"


def label(channel: str) -> str:
    """What marks who is out where a system holds no preference."""
    return f"No marketing - {channel}"


MARKED = frozenset({"email", "sms", "messenger"})
"""Channels that tags, fields, labels and groups are looked at for."""


class Place:
    """One vendor. E-mail marketing unless it says otherwise; people are numbered.

    Everybody has a phone number in the clinic's own software and in the address book; elsewhere an
    address is all that is held."""

    system: ClassVar[str]
    options: ClassVar[str]
    """Its part of the configuration, formatted with the twin's own secrets."""
    on_at_first: ClassVar[int] = 1
    """Switches that show `on` for somebody new whom nobody asked."""
    carries: ClassVar[frozenset[str]] = frozenset({"email"})
    """The channels whose outs can be seen there."""

    def __init__(self, twin: Twin[Any], *, limit: str | None) -> None:
        self.twin = twin
        self.limit = limit
        if limit:
            twin.limits = Limits()
        self.furnish()

    def furnish(self) -> None:
        """What stands there before anybody comes."""

    def config(self) -> str:
        lines = [
            f"[brands.rt.targets.{self.system}]",
            f'system = "{self.system}"',
            'mode = "live"',
            f'base_url = "{self.twin.url}"',
            *([f'limit = "{self.limit}"'] if self.limit else []),
            self.options.strip(),
        ]
        return "\n".join(lines) + "\n"

    def secrets(self) -> Mapping[str, str]:
        """Environment variables that the configuration names."""
        raise NotImplementedError

    def hears(self, url: str) -> None:
        """Its webhooks go there."""
        self.twin.webhook_url = url

    def add(self, number: int, *, out: bool = False) -> None:
        """Somebody as found at the start: subscribed, or out."""
        raise NotImplementedError

    def add_unasked(self, number: int) -> None:
        """Somebody whom nobody ever asked there."""
        raise NotImplementedError

    def leaves(self, number: int) -> None:
        """The person opts out there (staff do, where a person cannot)."""
        raise NotImplementedError

    def turned_on(self, number: int) -> None:
        """Somebody there turns the person on against the wish."""
        raise NotImplementedError

    def off(self, number: int, channel: str = "email") -> bool:
        """What the twin itself holds."""
        raise NotImplementedError

    def unharmed(self) -> bool:
        """No write of ours reached what reminders hang on."""
        return True


class Mailchimp(Place):
    twin: MailchimpTwin
    system = "mailchimp"
    options = """
api_key = "env:MAILCHIMP"
webhook_secret = "env:MAILCHIMP_SIGNING"
audiences = { a1 = ["treatments", "products", "offers", "competitions", "news"] }
"""

    def furnish(self) -> None:
        self.twin.new_audience("a1")
        self.twin.new_member("a1", "receipts@example.com", status="transactional")

    def secrets(self) -> Mapping[str, str]:
        return {"MAILCHIMP": self.twin.api_key, "MAILCHIMP_SIGNING": "mailchimp-signing"}

    def hears(self, url: str) -> None:
        sources = ("user", "admin")
        self.twin.old_webhook("a1", url, sources=sources, secret="mailchimp-signing")

    def add(self, number: int, *, out: bool = False) -> None:
        self.twin.new_member("a1", email(number), status="unsubscribed" if out else "subscribed")

    def leaves(self, number: int) -> None:
        self.twin.person_unsubscribes("a1", email(number))

    def turned_on(self, number: int) -> None:
        self.twin.admin_resubscribes("a1", email(number))

    def off(self, number: int, channel: str = "email") -> bool:
        return self.twin.member("a1", email(number)).status == "unsubscribed"

    def unharmed(self) -> bool:
        return not any(one.changed_by("api") for one in self.twin.service_members())


class Hubspot(Place):
    twin: HubspotTwin
    system = "hubspot"
    options = """
token = "env:HUBSPOT"
signing_secret = "env:HUBSPOT_SIGNING"
types = { 101 = "*" }
reminder_types = ["900"]
"""

    def furnish(self) -> None:
        self.twin.new_type("101", "News")
        self.twin.new_type("900", "Reminders", purpose="reminders")

    def secrets(self) -> Mapping[str, str]:
        return {"HUBSPOT": self.twin.token, "HUBSPOT_SIGNING": self.twin.signing_secret}

    def add(self, number: int, *, out: bool = False) -> None:
        state = "UNSUBSCRIBED" if out else "SUBSCRIBED"
        self.twin.new_contact(email(number), statuses={"101": state, "900": "SUBSCRIBED"})

    def add_unasked(self, number: int) -> None:
        self.twin.new_contact(email(number), statuses={"900": "SUBSCRIBED"})

    def leaves(self, number: int) -> None:
        self.twin.person_unsubscribes(email(number), "101")

    def turned_on(self, number: int) -> None:
        self.twin.admin_sets(email(number), "101", "SUBSCRIBED")

    def off(self, number: int, channel: str = "email") -> bool:
        return self.twin.status(email(number), "101") == "UNSUBSCRIBED"

    def unharmed(self) -> bool:
        return not self.twin.api_changes_of_reminders() and not self.twin.state.out_of_all


class ActiveCampaign(Place):
    twin: ActiveCampaignTwin
    system = "activecampaign"
    options = """
api_key = "env:ACTIVECAMPAIGN"
webhook_key = "env:HOOK"
marketing_lists = { 1 = ["*"] }
service_lists = ["9"]
"""

    def furnish(self) -> None:
        self.ids: dict[int, str] = {}
        self.twin.new_list("1", "News")
        self.twin.new_list("9", "Reminders", purpose="reminders")

    def secrets(self) -> Mapping[str, str]:
        return {"ACTIVECAMPAIGN": self.twin.token}

    def add(self, number: int, *, out: bool = False) -> None:
        rows = {"1": "2" if out else "1", "9": "1"}
        self.ids[number] = self.twin.new_contact(email(number), "", rows)

    def add_unasked(self, number: int) -> None:
        self.ids[number] = self.twin.new_contact(email(number), "", {"1": "0", "9": "1"})

    def leaves(self, number: int) -> None:
        self.twin.person_unsubscribes(email(number), "1")

    def turned_on(self, number: int) -> None:
        self.twin.admin_sets(email(number), "1", "1")

    def off(self, number: int, channel: str = "email") -> bool:
        with self.twin.lock:
            return self.twin.state.rows[f"{self.ids[number]}/1"].status == "2"

    def unharmed(self) -> bool:
        return not self.twin.api_changes_of_service()


class Keap(Place):
    twin: KeapTwin
    system = "keap"
    options = """
token = "env:KEAP"
webhook_key = "env:HOOK"
"""

    carries = MARKED

    def furnish(self) -> None:
        self.ids: dict[int, int] = {}

    def secrets(self) -> Mapping[str, str]:
        return {"KEAP": self.twin.token}

    def add(self, number: int, *, out: bool = False) -> None:
        status = "LIST_UNSUBSCRIBE" if out else "CONFIRMED"
        self.ids[number] = self.twin.new_contact(email(number), "", status)

    def leaves(self, number: int) -> None:
        self.twin.person_unsubscribes(email(number))

    def turned_on(self, number: int) -> None:
        self.twin.new_status(email(number), "SINGLE_OPT_IN")

    def off(self, number: int, channel: str = "email") -> bool:
        if channel == "email":
            return not self.twin.state.statuses[email(number)].opted_in
        return label(channel) in self.twin.tags_of(self.ids[number])


class Pipedrive(Place):
    twin: PipedriveTwin
    system = "pipedrive"
    options = """
token = "env:PIPEDRIVE"
campaigns = true
webhook_key = "env:HOOK"
webhook_user = "twin-hook"
webhook_password = "env:PIPEDRIVE_HOOK"
"""

    carries = MARKED

    def furnish(self) -> None:
        self.ids: dict[int, int] = {}
        for channel in sorted(MARKED - {"email"}):
            self.twin.new_field(f"Marketing - {channel}", ["No objection", "Opted out"])

    def secrets(self) -> Mapping[str, str]:
        return {"PIPEDRIVE": self.twin.token, "PIPEDRIVE_HOOK": self.twin.webhook_password}

    def add(self, number: int, *, out: bool = False) -> None:
        status = "unsubscribed" if out else "subscribed"
        self.ids[number] = self.twin.new_person([email(number)], [], status)

    def leaves(self, number: int) -> None:
        self.twin.person_unsubscribes(email(number))

    def turned_on(self, number: int) -> None:
        self.twin.staff_sets_status(email(number), "subscribed")

    def off(self, number: int, channel: str = "email") -> bool:
        if channel == "email":
            return self.twin.status(email(number)) == "unsubscribed"
        return self.twin.option(self.ids[number], f"Marketing - {channel}") == "Opted out"


class Pabau(Place):
    twin: PabauTwin
    system = "pabau"
    options = """
api_key = "env:PABAU"
webhook_key = "env:HOOK"
"""
    on_at_first = 5
    carries = frozenset({"email", "sms"})
    FLAGS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "email": ("opt_in_email", "opt_in_newsletter"),
        "sms": ("opt_in_sms",),
    }

    def furnish(self) -> None:
        self.ids: dict[int, int] = {}

    def secrets(self) -> Mapping[str, str]:
        return {"PABAU": self.twin.api_key}

    def add(self, number: int, *, out: bool = False) -> None:
        flags = dict.fromkeys(self.FLAGS["email"], 0) if out else None
        self.ids[number] = self.twin.new_client(email(number), phone(number), flags=flags)

    def leaves(self, number: int) -> None:
        """From the newsletter alone: one switch of the two that e-mail has."""
        self.twin.staff_set(self.ids[number], "opt_in_newsletter", "0")

    def turned_on(self, number: int) -> None:
        self.twin.staff_set(self.ids[number], "opt_in_newsletter", "1")

    def off(self, number: int, channel: str = "email") -> bool:
        flags = self.twin.flags(self.ids[number])
        return not any(flags[one] for one in self.FLAGS[channel])

    def unharmed(self) -> bool:
        return not self.twin.reminders_touched()


class Google(Place):
    """A label marks who is out; nobody is ever `on`."""

    twin: GoogleTwin
    system = "google"
    options = """
client_id = "twin-client"
client_secret = "env:GOOGLE"
refresh_token = "env:GOOGLE_REFRESH"
"""
    on_at_first = 0
    carries = MARKED

    def furnish(self) -> None:
        self.labels = {one: self.twin.new_label(label(one)) for one in sorted(MARKED)}
        self.ids: dict[int, str] = {}

    def secrets(self) -> Mapping[str, str]:
        return {"GOOGLE": self.twin.client_secret, "GOOGLE_REFRESH": self.twin.refresh_token}

    def add(self, number: int, *, out: bool = False) -> None:
        labels = [label("email")] if out else []
        made = self.twin.new_contact(email(number), phone(number), labels=labels)
        self.ids[number] = made

    def leaves(self, number: int) -> None:
        self.twin.staff_labels(email(number), label("email"))

    def turned_on(self, number: int) -> None:
        self.twin.staff_removes_label(email(number), label("email"))

    def off(self, number: int, channel: str = "email") -> bool:
        with self.twin.lock:
            return self.labels[channel] in self.twin.state.versions[self.ids[number]][-1].groups

    def unharmed(self) -> bool:
        return not self.twin.dangers and not self.twin.parallel_writes


class Xero(Place):
    """A group marks who is out; nobody is ever `on`."""

    twin: XeroTwin
    system = "xero"
    options = """
client_id = "twin-client"
client_secret = "env:XERO"
tenant = "aef86862-2015-4b6b-88bc-d89032cecc50"
"""
    on_at_first = 0
    carries = MARKED

    def furnish(self) -> None:
        self.groups = {one: self.twin.new_group(label(one)) for one in sorted(MARKED)}
        self.ids: dict[int, str] = {}

    def secrets(self) -> Mapping[str, str]:
        return {"XERO": self.twin.client_secret}

    def add(self, number: int, *, out: bool = False) -> None:
        made = self.twin.new_contact(email(number))
        self.ids[number] = made
        if out:
            self.twin.state.groups[self.groups["email"]].members.add(made)

    def leaves(self, number: int) -> None:
        self.twin.staff_adds(email(number), label("email"))

    def turned_on(self, number: int) -> None:
        self.twin.staff_removes(email(number), label("email"))

    def off(self, number: int, channel: str = "email") -> bool:
        with self.twin.lock:
            return self.ids[number] in self.twin.state.groups[self.groups[channel]].members

    def unharmed(self) -> bool:
        return not self.twin.dangers


class Twilio(Place):
    """The gateway: text messages, and consents that cannot be read back."""

    twin: TwilioTwin
    system = "twilio"
    options = """
account_sid = "AC00000000000000000000000000000000"
auth_token = "env:TWILIO"
consents = true
"""
    on_at_first = 0
    carries = frozenset({"sms"})

    def furnish(self) -> None:
        self.twin.new_service(sid="MG1", numbers=[MARKETING_SENDER])
        self.twin.new_service(sid="MG2", numbers=[REMINDER_SENDER], purpose="reminders")

    def secrets(self) -> Mapping[str, str]:
        return {"TWILIO": self.twin.auth_token}

    def add(self, number: int, *, out: bool = False) -> None:
        self.twin.new_person(phone(number))

    def leaves(self, number: int) -> None:
        self.twin.text(sender=phone(number), to=MARKETING_SENDER, body="STOP")

    def off(self, number: int, channel: str = "email") -> bool:
        return self.twin.blocked(phone(number), "MG1")

    def unharmed(self) -> bool:
        return not self.twin.consents_of("MG2") and not self.twin.consents_of(REMINDER_SENDER)


class Messenger(Place):
    """Marketing tokens of one Page."""

    twin: MessengerTwin
    system = "messenger"
    options = """
page = "900100"
token = "env:MESSENGER"
app_secret = "env:MESSENGER_SECRET"
verify_token = "env:MESSENGER_VERIFY"
"""
    on_at_first = 0
    carries = frozenset({"messenger"})

    def secrets(self) -> Mapping[str, str]:
        return {
            "MESSENGER": self.twin.token,
            "MESSENGER_SECRET": self.twin.app_secret,
            "MESSENGER_VERIFY": self.twin.verify_token,
        }

    def add(self, number: int, *, out: bool = False) -> None:
        self.twin.new_person(psid(number), token=not out)

    def leaves(self, number: int) -> None:
        self.twin.stops(psid(number))

    def off(self, number: int, channel: str = "email") -> bool:
        return not self.twin.state.people[psid(number)].tokens


READABLE: Sequence[tuple[type[Place], type[Twin[Any]]]] = (
    (Mailchimp, MailchimpTwin),
    (Hubspot, HubspotTwin),
    (ActiveCampaign, ActiveCampaignTwin),
    (Keap, KeapTwin),
    (Pipedrive, PipedriveTwin),
    (Pabau, PabauTwin),
    (Google, GoogleTwin),
    (Xero, XeroTwin),
)
"""The eight that tell what they hold."""
HEARD: Sequence[tuple[type[Place], type[Twin[Any]]]] = (
    (Twilio, TwilioTwin),
    (Messenger, MessengerTwin),
)
"""The two that only tell what people did."""


@contextmanager
def opened(
    kinds: Sequence[tuple[type[Place], type[Twin[Any]]]], limit: str | None = UNLIMITED
) -> Iterator[list[Place]]:
    """Run them. With a `limit` of our own the twins have none: see the test that says why."""
    with ExitStack() as stack:
        places = []
        for kind, twin in kinds:
            made, _ = stack.enter_context(running(twin()))
            places.append(kind(made, limit=limit))
        yield places
        assert all(place.unharmed() for place in places)
