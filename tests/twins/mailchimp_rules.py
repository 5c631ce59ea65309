"""What Mailchimp does with a member and with a webhook, whoever asks for it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tests.twins.kit import (
    PLAIN,
    ActError,
    Courier,
    Letter,
    Limits,
    Sent,
    Travel,
    Twin,
    not_2xx,
    plain,
)
from tests.twins.mailchimp_account import (
    ADDED_BY,
    EVENTS,
    OFFICE_IP,
    SOURCES,
    UNSUBSCRIBED_FOR,
    Account,
    Actor,
    Audience,
    Change,
    Mail,
    Member,
    Status,
    Webhook,
    derived,
    subscriber_hash,
)

Item = Mapping[str, Any]

AT_ONCE = 10
GAPS = (60.0, 120.0, 240.0, 480.0, 960.0, 1200.0, 1440.0)
"""Growing, 75 minutes together."""

DIRECT = {"email_type", "language", "vip", "location", "ip_signup", "ip_opt"}
FACTS = (
    *sorted(DIRECT),
    "timestamp_signup",
    "timestamp_opt",
    "merge_fields",
    "interests",
    "permissions",
)


class RefusedError(Exception):
    """A member that may not be written: title and detail of the vendor's 400."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(title)
        self.title, self.detail = title, detail


def compliance(email: str) -> RefusedError:
    why = "is in a compliance state due to unsubscribe, bounce, or compliance review"
    return RefusedError("Member In Compliance State", f"{email} {why} and cannot be subscribed.")


def forgotten(email: str) -> RefusedError:
    why = "was permanently deleted and cannot be re-imported."
    how = "The contact must re-subscribe to get back on the list."
    return RefusedError("Forgotten Email Not Subscribed", f"{email} {why} {how}")


class Rules(Twin[Account]):
    """State and rules. Settings beside those of the kit:

    api_key               the password asked for
    pending_allowed       `pending` is taken for a person who left by themselves (default yes)
    api_may_resubscribe   `subscribed` is taken where the API unsubscribed (default yes; the
                          vendor's pages do not say)
    sign_new              webhooks made from now on are signed (default yes)
    spare_signature       send a second, wrong `v1` before the right one, as in a rotation
    stages_a_poll         how many stages a batch advances each time it is asked for (default 1)
    """

    name = "mailchimp"
    default_limits = staticmethod(lambda: Limits(at_once=AT_ONCE))

    def __init__(self) -> None:
        super().__init__()
        self.courier = Courier(GAPS, lambda status: not_2xx(status) and status != 410)
        self._defaults()

    def _defaults(self) -> None:
        self.api_key = "twin-key-us6"
        self.pending_allowed = True
        self.api_may_resubscribe = True
        self.sign_new = True
        self.spare_signature = False
        self.stages_a_poll = 1

    def fresh(self) -> Account:
        return Account()

    def reset(self) -> None:
        super().reset()
        self._defaults()

    def configure(self, **settings: Any) -> None:
        """Its own settings by name, else as the kit."""
        own = {
            "api_key": str,
            "pending_allowed": bool,
            "api_may_resubscribe": bool,
            "sign_new": bool,
            "spare_signature": bool,
            "stages_a_poll": int,
        }
        for name in own.keys() & settings.keys():
            setattr(self, name, own[name](settings.pop(name)))
        super().configure(**settings)

    # Reading for tests

    def audience(self, list_id: str) -> Audience:
        """Raises ActError when there is none."""
        if list_id not in self.state.audiences:
            raise ActError(f"no audience {list_id}")
        return self.state.audiences[list_id]

    def member(self, list_id: str, email: str) -> Member:
        """Raises ActError when there is none."""
        found = self.audience(list_id).members.get(subscriber_hash(email))
        if found is None:
            raise ActError("no such member")
        return found

    def service_members(self) -> list[Member]:
        """All with status `transactional`, now or at first: people who may only get receipts.

        `changed_by("api")` of each must be empty for a connector that leaves reminders alone."""
        with self.lock:
            return [
                member
                for audience in self.state.audiences.values()
                for member in audience.members.values()
                if "transactional" in (member.status, member.history[0].what.get("status"))
            ]

    def show(self) -> Any:
        shown = plain(self.state)
        shown["service"] = [
            {
                "list": m.list_id,
                "email": m.email,
                "status": m.status,
                "api_changes": len(m.changed_by("api")),
            }
            for m in self.service_members()
        ]
        return shown

    # Members: every change goes through here

    def put(
        self,
        audience: Audience,
        email: str,
        given: Item,
        status: Status,
        actor: Actor = "api",
    ) -> Member:
        """Create a member, or take back an archived one. Raises RefusedError."""
        if subscriber_hash(email) in audience.forgotten:
            raise forgotten(email)
        held = audience.find(email)
        if held is not None:
            return self.change(audience, held, {**given, "status": status}, actor)
        number, now = self.state.number(), self.now()
        # A new member starts as `archived`, that is nothing, so that one path sets every status.
        member = Member(email, audience.id, number, "archived", now, source=ADDED_BY[actor])
        member.tags = list(given.get("tags", []))
        audience.members[member.id] = member
        return self.change(audience, member, {**given, "status": status}, actor, new=True)

    def change(
        self,
        audience: Audience,
        member: Member,
        given: Item,
        actor: Actor,
        new: bool = False,
        travel: Travel = PLAIN,
    ) -> Member:
        """Apply the fields; an unchanged member stays as it is. Raises RefusedError."""
        status: Status = given.get("status", member.status)
        self._may(member, status, actor)
        other = given.get("email_address", member.email)
        if subscriber_hash(other) != member.id:
            self.move(audience, member, other, actor, travel)
        facts = self._set_facts(member, given)
        was, turned = member.status, status != member.status
        if turned:
            self.set_status(audience, member, status, actor, given)
        if not (facts or turned):
            return member
        self.note_change(member, actor, facts | ({"status": status} if turned else {}))
        if turned:
            self._tell_status(audience, member, was, actor, travel)
        elif not new:
            self.tell(audience, "profile", actor, _profile(member, audience), travel)
        return member

    def _may(self, member: Member, status: Status, actor: Actor) -> None:
        """Refuse what the API may not do to somebody who left."""
        if actor != "api" or status == member.status:
            return
        barred = member.in_compliance_state
        by_api = member.left_by == "api" and not self.api_may_resubscribe
        final = member.left_by == "bounce" or not self.pending_allowed
        if (status == "subscribed" and (barred or by_api)) or (
            status == "pending" and barred and final
        ):
            raise compliance(member.email)

    def _set_facts(self, member: Member, given: Item) -> dict[str, Any]:
        """Everything but status and address: what really changed."""
        before = {name: getattr(member, name) for name in FACTS}
        for name in DIRECT & given.keys():
            setattr(member, name, given[name])
        for name in ("timestamp_signup", "timestamp_opt"):
            if name in given:
                setattr(member, name, datetime.fromisoformat(given[name]))
        member.merge_fields = member.merge_fields | given.get("merge_fields", {})
        member.interests = member.interests | given.get("interests", {})
        member.permissions = member.permissions | {
            p["marketing_permission_id"]: p["enabled"]
            for p in given.get("marketing_permissions", [])
        }
        after = {name: getattr(member, name) for name in FACTS}
        return {name: after[name] for name in FACTS if after[name] != before[name]}

    def set_status(
        self, audience: Audience, member: Member, status: Status, actor: Actor, given: Item
    ) -> None:
        now = self.now()
        member.status = status
        if status == "pending":
            self.state.mails.append(Mail(now, audience.id, member.email))
        elif status == "subscribed":
            member.left_by, member.unsubscribe_reason = None, ""
            member.unsubscribed_at = None
            if "timestamp_opt" not in given:
                member.timestamp_opt = now
            if actor != "user" and "ip_opt" not in given:
                member.ip_opt = OFFICE_IP
        elif status == "unsubscribed":
            if not member.in_compliance_state:
                member.left_by = "person" if actor == "user" else actor
            member.unsubscribe_reason = str(given.get("said", UNSUBSCRIBED_FOR))
            member.unsubscribed_at = now
        elif status == "cleaned":
            member.left_by = "bounce"

    def _tell_status(
        self, audience: Audience, member: Member, was: Status, actor: Actor, travel: Travel
    ) -> None:
        if member.status == "subscribed":
            self.tell(audience, "subscribe", actor, _profile(member, audience), travel)
        elif member.status == "unsubscribed":
            self.tell_left(audience, member, actor, "unsub", "manual", travel)

    def tell_left(
        self,
        audience: Audience,
        member: Member,
        actor: Actor,
        action: str,
        reason: str,
        travel: Travel,
    ) -> None:
        data = _profile(member, audience) | {
            "action": action,
            "reason": reason,
            "campaign_id": derived("campaign", audience.id, 10),
        }
        self.tell(audience, "unsubscribe", actor, data, travel)

    def move(
        self, audience: Audience, member: Member, email: str, actor: Actor, travel: Travel
    ) -> None:
        if subscriber_hash(email) in audience.members:
            raise RefusedError("Member Exists", f"{email} is already a list member.")
        if subscriber_hash(email) in audience.forgotten:
            raise forgotten(email)
        del audience.members[member.id]
        old, member.email = member.email, email
        audience.members[member.id] = member
        self.note_change(member, actor, {"email_address": email})
        data = {
            "list_id": audience.id,
            "new_id": member.unique_email_id,
            "new_email": email,
            "old_email": old,
        }
        self.tell(audience, "upemail", actor, data, travel)

    def archive(
        self, audience: Audience, member: Member, actor: Actor, travel: Travel = PLAIN
    ) -> None:
        if member.status == "archived":
            return
        member.status = "archived"
        self.note_change(member, actor, {"status": "archived"})
        self.tell_left(audience, member, actor, "delete", "manual", travel)

    def erase(
        self, audience: Audience, member: Member, actor: Actor, travel: Travel = PLAIN
    ) -> None:
        """Mailchimp forgets that they left, too; only the hash stays, to refuse imports."""
        self.archive(audience, member, actor, travel)
        audience.forgotten.add(member.id)
        del audience.members[member.id]

    def note_change(self, member: Member, actor: Actor, what: Item) -> None:
        member.changed_at = self.now()
        member.history.append(Change(member.changed_at, actor, dict(what)))

    def now(self) -> datetime:
        return self.clock().replace(microsecond=0)

    # Webhooks

    def add_webhook(self, audience: Audience, url: str, given: Item, secret: str) -> Webhook:
        number = self.state.number()
        hook = Webhook(
            id=derived("hook", str(number), 10),
            list_id=audience.id,
            url=url,
            events=dict.fromkeys(EVENTS, False) | given.get("events", {}),
            sources=dict.fromkeys(SOURCES, False) | given.get("sources", {}),
            secret=secret,
        )
        audience.webhooks[hook.id] = hook
        return hook

    def tell(
        self,
        audience: Audience,
        kind: str,
        source: Actor | None,
        data: Item,
        travel: Travel,
    ) -> None:
        """Send to each webhook that wants this event from this source (None: the system)."""
        fired_at = f"{self.clock():%Y-%m-%d %H:%M:%S}"
        fields = {"type": kind, "fired_at": fired_at} | _bracketed("data", data)
        body = urlencode(fields).encode()
        for hook in audience.webhooks.values():
            heard = source is None or hook.sources[source]
            if hook.events[kind] and heard and not hook.disabled:
                self.post(self._letter(hook, body), travel, self._answered(hook))

    def _letter(self, hook: Webhook, body: bytes) -> Callable[[int], Letter]:
        def compose(attempt: int) -> Letter:
            headers = {
                "Content-Type": "application/x-www-form-urlencoded",
                "User-Agent": "MailChimp",
            }
            if hook.secret:
                headers["X-Mailchimp-Signature"] = self.signature(hook.secret, body)
            return Letter(hook.url, body, headers)

        return compose

    def signature(self, secret: str, body: bytes) -> str:
        """`t=<unix seconds>,v1=<hex>` by the twin's clock."""
        seconds = str(int(self.clock().timestamp()))
        spare = f",v1={secrets.token_hex(32)}" if self.spare_signature else ""
        signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
        return f"t={seconds}{spare},v1={signed.hexdigest()}"

    def _answered(self, hook: Webhook) -> Callable[[Sent], None]:
        def answered(sent: Sent) -> None:
            with self.lock:
                hook.disabled = hook.disabled or sent.status == 410

        return answered


def _profile(member: Member, audience: Audience) -> dict[str, Any]:
    """`data` of subscribe, profile and (with more) unsubscribe."""
    names = audience.interests()
    chosen = ", ".join(names[i] for i, on in member.interests.items() if on)
    merges = {"EMAIL": member.email}
    merges |= {tag: member.merge_fields.get(tag, "") for tag in audience.merge_fields}
    return {
        "id": member.unique_email_id,
        "list_id": audience.id,
        "email": member.email,
        "email_type": member.email_type,
        "ip_opt": member.ip_opt,
        "ip_signup": member.ip_signup,
        "web_id": member.web_id,
        "merges": merges | ({"INTERESTS": chosen} if names else {}),
    }


def _bracketed(prefix: str, data: Item) -> dict[str, str]:
    """`{"a": {"b": 1}}` as `prefix[a][b]=1`."""
    fields: dict[str, str] = {}
    for key, value in data.items():
        name = f"{prefix}[{key}]"
        fields |= _bracketed(name, value) if isinstance(value, Mapping) else {name: str(value)}
    return fields
