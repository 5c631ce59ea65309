"""What people, staff and other programs do inside Mailchimp, not through our API calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.twins import mailchimp_checks as checks
from tests.twins.kit import PLAIN, ActError, Travel, act
from tests.twins.mailchimp_account import (
    EVENTS,
    SOURCES,
    Actor,
    Audience,
    Category,
    Change,
    Member,
    Status,
    Webhook,
    derived,
    subscriber_hash,
)
from tests.twins.mailchimp_rules import RefusedError, Rules


class Acts(Rules):
    """Each with `list_id` first; `travel` says how its webhooks travel."""

    # Setting up: no webhooks, nobody's act

    @act
    def new_audience(
        self,
        list_id: str,
        name: str = "Newsletter",
        double_optin: bool = False,
        interests: Mapping[str, str] | None = None,
        permissions: Mapping[str, str] | None = None,
        purpose: str = "marketing",
    ) -> Audience:
        """An audience; `interests` (one category, "Topics") and GDPR boxes: texts by id; `purpose`
        is for the page."""
        audience = Audience(list_id, name, self.state.number(), self.clock(), bool(double_optin))
        audience.purpose = purpose
        if interests:
            category = Category(derived("category", list_id, 10), "Topics", dict(interests))
            audience.categories[category.id] = category
        audience.permissions = dict(permissions or {})
        self.state.audiences[list_id] = audience
        return audience

    @act
    def new_member(
        self, /, list_id: str, email: str, status: Status = "subscribed", **fields: Any
    ) -> Member:
        """A member as found at the start; `fields` as attributes of `Member`."""
        audience, now = self.audience(list_id), self.now()
        member = Member(email, list_id, self.state.number(), status, now, **fields)
        if status == "subscribed":
            member.timestamp_opt = fields.get("timestamp_opt", now)
        if status == "unsubscribed":
            member.left_by = fields.get("left_by", "person")
            member.unsubscribed_at = now
        if status == "cleaned":
            member.left_by = "bounce"
        member.history.append(Change(now, "admin", {"status": status}))
        audience.members[member.id] = member
        return member

    @act
    def old_webhook(
        self,
        list_id: str,
        url: str,
        events: Sequence[str] = EVENTS,
        sources: Sequence[str] = SOURCES,
        secret: str = "",
    ) -> Webhook:
        """A webhook from before: not validated, unsigned unless `secret` is given."""
        given = {"events": dict.fromkeys(events, True), "sources": dict.fromkeys(sources, True)}
        return self.add_webhook(self.audience(list_id), url, given, secret)

    @act
    def webhooks_vanish(self, list_id: str) -> None:
        """Somebody deleted them in Mailchimp's own pages."""
        self.audience(list_id).webhooks.clear()

    # Acts of people

    @act
    def person_unsubscribes(
        self,
        list_id: str,
        email: str,
        reason: str = "manual",
        said: str = "No longer interested",
        travel: Travel = PLAIN,
    ) -> None:
        """The person clicks unsubscribe in a mail (or, reason `abuse`, complains)."""
        audience, member = self.audience(list_id), self.member(list_id, email)
        if member.status == "unsubscribed" and member.left_by == "person":
            return
        member.left_by = "person"
        self.set_status(audience, member, "unsubscribed", "user", {"said": said})
        self.note_change(member, "user", {"status": "unsubscribed"})
        self.tell_left(audience, member, "user", "unsub", reason, travel)

    @act
    def subscribe_by_form(
        self,
        list_id: str,
        email: str,
        ip: str = "192.0.2.7",
        form: str = "Hosted Signup Form",
        boxes: Sequence[str] = (),
        travel: Travel = PLAIN,
    ) -> None:
        """The person fills in Mailchimp's own form: the one way back for all who left. `boxes` are
        the ids of the GDPR boxes that they tick."""
        audience = self.audience(list_id)
        audience.forgotten.discard(subscriber_hash(email))
        held = audience.find(email)
        if held is not None and held.status == "subscribed":
            return
        facts = {"ip_signup": ip, "timestamp_signup": self.now().isoformat()}
        status: Status = "pending" if audience.double_optin else "subscribed"
        if status == "subscribed":
            facts["ip_opt"] = ip
        ticked = [{"marketing_permission_id": box, "enabled": True} for box in boxes]
        given = {**facts, "status": status, "marketing_permissions": ticked}
        if held is None:
            number = self.state.number()
            held = Member(email, list_id, number, "archived", self.now(), source=form)
            audience.members[held.id] = held
        self.change(audience, held, given, "user", new=True, travel=travel)

    @act
    def person_confirms(
        self, list_id: str, email: str, ip: str = "192.0.2.7", travel: Travel = PLAIN
    ) -> None:
        """The person clicks the link of the confirmation mail."""
        audience, member = self.audience(list_id), self.member(list_id, email)
        if member.status != "pending":
            raise ActError("nothing to confirm")
        self.change(audience, member, {"status": "subscribed", "ip_opt": ip}, "user", travel=travel)

    @act
    def profile_change(
        self,
        list_id: str,
        email: str,
        merge_fields: Mapping[str, Any] | None = None,
        interests: Mapping[str, bool] | None = None,
        by: Actor = "user",
        travel: Travel = PLAIN,
    ) -> None:
        """The person (or staff) changes names or topics in Mailchimp's profile page."""
        audience, member = self.audience(list_id), self.member(list_id, email)
        given = {"merge_fields": dict(merge_fields or {}), "interests": dict(interests or {})}
        if wrong := checks.member_faults(given, checks.MEMBER, audience):
            raise ActError(f"{wrong[0][0]}: {wrong[0][1]}")
        self.change(audience, member, given, by, travel=travel)

    @act
    def upemail(
        self, list_id: str, old: str, new: str, by: Actor = "user", travel: Travel = PLAIN
    ) -> None:
        """The address of a member changes; the record and its status move along."""
        try:
            self.move(self.audience(list_id), self.member(list_id, old), new, by, travel)
        except RefusedError as refused:
            raise ActError(refused.title) from refused

    @act
    def sms_change(
        self, list_id: str, email: str, phone: str, status: str, travel: Travel = PLAIN
    ) -> None:
        """The person joins (`subscribed`) or leaves (`unsubscribed`) SMS marketing."""
        if status not in ("subscribed", "unsubscribed"):
            raise ActError("subscribed or unsubscribed")
        audience, member = self.audience(list_id), self.member(list_id, email)
        member.sms_phone_number, member.sms_status = phone, status
        member.sms_changed_at = self.now()
        self.note_change(member, "user", {"sms_status": status})
        data = {"list_id": list_id, "id": member.unique_email_id, "email": email}
        kind = "sms_" + status.removesuffix("d")
        self.tell(audience, kind, "user", data | {"phone_number": phone}, travel)

    # Acts of staff, of other programs and of the system

    @act
    def admin_unsubscribes(self, list_id: str, email: str, travel: Travel = PLAIN) -> None:
        """Staff unsubscribe somebody in Mailchimp's own pages."""
        given = {"status": "unsubscribed"}
        self.change(
            self.audience(list_id), self.member(list_id, email), given, "admin", travel=travel
        )

    @act
    def admin_adds(self, list_id: str, email: str, travel: Travel = PLAIN) -> None:
        """Staff type somebody in, as subscribed."""
        self.put(self.audience(list_id), email, {}, "subscribed", "admin")

    @act
    def admin_imports(self, list_id: str, email: str, ip: str = "192.0.2.8") -> None:
        """Staff import a file with columns for the opt-in's time and IP. No webhook tells."""
        self.new_member(
            list_id,
            email,
            source="List Import from CSV",
            ip_signup=ip,
            timestamp_signup=self.now(),
            ip_opt=ip,
        )

    @act
    def admin_deletes(
        self, list_id: str, email: str, permanently: bool = False, travel: Travel = PLAIN
    ) -> None:
        """Staff archive somebody, or delete them for ever."""
        remove = self.erase if permanently else self.archive
        remove(self.audience(list_id), self.member(list_id, email), "admin", travel)

    @act
    def admin_resubscribes(self, list_id: str, email: str, travel: Travel = PLAIN) -> None:
        """Staff turn somebody on against their wish; with `travel` dropped nobody hears of it."""
        given = {"status": "subscribed"}
        self.change(
            self.audience(list_id), self.member(list_id, email), given, "admin", travel=travel
        )

    @act
    def other_program_writes(
        self, list_id: str, email: str, status: Status, travel: Travel = PLAIN
    ) -> None:
        """Another tool with a key of its own sets a status through the API."""
        try:
            given = {"status": status}
            member = self.member(list_id, email)
            self.change(self.audience(list_id), member, given, "api", travel=travel)
        except RefusedError as refused:
            raise ActError(refused.title) from refused

    @act
    def cleaned(
        self, list_id: str, email: str, reason: str = "hard", travel: Travel = PLAIN
    ) -> None:
        """The address bounced for good (`hard`) or its owner complained (`abuse`)."""
        if reason not in ("hard", "abuse"):
            raise ActError("hard or abuse")
        audience, member = self.audience(list_id), self.member(list_id, email)
        self.set_status(audience, member, "cleaned", "admin", {})
        self.note_change(member, "admin", {"status": "cleaned", "reason": reason})
        data = {
            "list_id": list_id,
            "campaign_id": derived("campaign", list_id, 10),
            "reason": reason,
            "email": member.email,
        }
        self.tell(audience, "cleaned", None, data, travel)
