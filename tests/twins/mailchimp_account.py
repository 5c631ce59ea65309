"""What the Mailchimp twin knows, and how the API shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["subscribed", "unsubscribed", "cleaned", "pending", "transactional", "archived"]
Actor = Literal["user", "admin", "api"]
"""The words of a webhook's `sources`."""

UNSUBSCRIBED_FOR = "N/A (Unsubscribed by an admin)"
"""`unsubscribe_reason` where an administrator or the API did it; people give their own."""

ADDED_BY: Mapping[Actor, str] = {
    "admin": "Admin Add",
    "api": "API - Generic",
    "user": "Hosted Signup Form",
}
"""`source` of a new member."""
OFFICE_IP = "198.51.100.9"
"""Where staff and programs are: their IP stands as that of the opt-in."""

EVENTS = (
    "subscribe",
    "unsubscribe",
    "profile",
    "cleaned",
    "upemail",
    "campaign",
    "sms_subscribe",
    "sms_unsubscribe",
    "upsms",
    "sms_campaign",
)
SOURCES: tuple[Actor, ...] = ("user", "admin", "api")


def subscriber_hash(email: str) -> str:
    """MD5 of the lower-cased address: the member's `id`."""
    return hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()


def derived(kind: str, text: str, length: int) -> str:
    """An id of the vendor's own: stable, and no hash that a caller could compute from the page."""
    return hashlib.sha256(f"{kind}:{text}".encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Change:
    """One change to a member, kept so that a test can prove who did what, or that nobody did."""

    at: datetime
    actor: Actor
    what: Mapping[str, Any]


@dataclass
class Member:
    email: str
    list_id: str
    web_id: int
    status: Status
    changed_at: datetime
    left_by: Literal["person", "bounce", "api", "admin"] | None = None
    """Who made them leave; `person` and `bounce` are Mailchimp's compliance state."""
    unsubscribe_reason: str = ""
    unsubscribed_at: datetime | None = None
    email_type: str = "html"
    merge_fields: dict[str, Any] = field(default_factory=dict)
    interests: dict[str, bool] = field(default_factory=dict)
    permissions: dict[str, bool] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    ip_signup: str = ""
    timestamp_signup: datetime | None = None
    ip_opt: str = ""
    timestamp_opt: datetime | None = None
    language: str = ""
    vip: bool = False
    location: dict[str, float] = field(default_factory=dict)
    source: str = "API - Generic"
    sms_phone_number: str = ""
    sms_status: str = ""
    sms_changed_at: datetime | None = None
    history: list[Change] = field(default_factory=list)
    contact_id: str = ""

    def __post_init__(self) -> None:
        self.contact_id = derived("contact", f"{self.list_id}:{self.web_id}", 32)

    @property
    def id(self) -> str:
        return subscriber_hash(self.email)

    @property
    def unique_email_id(self) -> str:
        return derived("email", self.email.lower(), 10)

    @property
    def in_compliance_state(self) -> bool:
        return self.left_by in ("person", "bounce")

    def changed_by(self, *actors: Actor) -> list[Change]:
        return [change for change in self.history if change.actor in actors]


@dataclass
class Category:
    id: str
    title: str
    interests: dict[str, str]
    """Names by id."""


@dataclass
class Webhook:
    id: str
    list_id: str
    url: str
    events: dict[str, bool]
    sources: dict[str, bool]
    secret: str = ""
    """Empty: made before signing came, never signed."""
    disabled: bool = False
    """Answered 410."""


@dataclass
class Audience:
    id: str
    name: str
    web_id: int
    created_at: datetime
    double_optin: bool = False
    purpose: str = "marketing"
    members: dict[str, Member] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    """Hashes of addresses deleted for ever: no import takes them back."""
    categories: dict[str, Category] = field(default_factory=dict)
    permissions: dict[str, str] = field(default_factory=dict)
    """Texts of the GDPR boxes by id."""
    merge_fields: dict[str, str] = field(default_factory=lambda: {"FNAME": "text", "LNAME": "text"})
    webhooks: dict[str, Webhook] = field(default_factory=dict)

    def interests(self) -> dict[str, str]:
        return {i: n for c in self.categories.values() for i, n in c.interests.items()}

    def find(self, key: str) -> Member | None:
        """By hash, address or contact id, as the path takes them."""
        if "@" in key:
            return self.members.get(subscriber_hash(key))
        by_contact = (m for m in self.members.values() if m.contact_id == key)
        return self.members.get(key) or next(by_contact, None)


@dataclass
class Operation:
    method: str
    path: str
    params: dict[str, Any]
    body: str
    operation_id: str


@dataclass
class Batch:
    id: str
    operations: list[Operation]
    submitted_at: datetime
    stage: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)
    completed_at: datetime | None = None
    finished: int = 0
    errored: int = 0


@dataclass(frozen=True)
class Mail:
    """A confirmation mail that Mailchimp sent."""

    at: datetime
    list_id: str
    email: str


@dataclass
class Account:
    audiences: dict[str, Audience] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    last_number: int = 1000

    def number(self) -> int:
        self.last_number += 1
        return self.last_number


# -- as the API shows them -------------------------------------------------------------------

STAGES = ("pending", "preprocessing", "started", "finalizing", "finished")


def when(at: datetime | None) -> str:
    """ISO 8601 in whole seconds with its zone; empty where there is none."""
    return at.astimezone(UTC).replace(microsecond=0).isoformat() if at else ""


def member_view(member: Member, audience: Audience) -> dict[str, Any]:
    """A `ListMember`."""
    view: dict[str, Any] = {
        "id": member.id,
        "email_address": member.email,
        "unique_email_id": member.unique_email_id,
        "contact_id": member.contact_id,
        "full_name": full_name(member),
        "web_id": member.web_id,
        "email_type": member.email_type,
        "status": member.status,
        "consents_to_one_to_one_messaging": True,
        "merge_fields": {tag: member.merge_fields.get(tag, "") for tag in audience.merge_fields},
        "interests": {i: member.interests.get(i, False) for i in audience.interests()},
        "stats": {"avg_open_rate": 0, "avg_click_rate": 0},
        "ip_signup": member.ip_signup,
        "timestamp_signup": when(member.timestamp_signup),
        "ip_opt": member.ip_opt,
        "timestamp_opt": when(member.timestamp_opt),
        "member_rating": 2,
        "last_changed": when(member.changed_at),
        "language": member.language,
        "vip": member.vip,
        "email_client": "",
        "location": {"latitude": 0, "longitude": 0} | member.location,
        "source": member.source,
        "tags_count": len(member.tags),
        "tags": [{"id": tag_id(tag), "name": tag} for tag in member.tags],
        "list_id": member.list_id,
        "_links": [],
    }
    return view | _occasional(member, audience)


NOT_IN_BULK = {
    "contact_id",
    "full_name",
    "web_id",
    "consents_to_one_to_one_messaging",
    "source",
    "marketing_permissions",
    "sms_phone_number",
    "sms_subscription_status",
    "sms_subscription_last_updated",
    "unsubscribe_reason",
}


def bulk_member_view(member: Member, audience: Audience) -> dict[str, Any]:
    """A member as the bulk call shows it, with less than a `ListMember`."""
    view = member_view(member, audience)
    return {name: value for name, value in view.items() if name not in NOT_IN_BULK}


def _occasional(member: Member, audience: Audience) -> dict[str, Any]:
    """Fields that only some members have."""
    view: dict[str, Any] = {}
    if member.status == "unsubscribed":
        view["unsubscribe_reason"] = member.unsubscribe_reason
    if audience.permissions:
        view["marketing_permissions"] = [
            {
                "marketing_permission_id": i,
                "text": text,
                "enabled": member.permissions.get(i, False),
            }
            for i, text in audience.permissions.items()
        ]
    if member.sms_status:
        view["sms_phone_number"] = member.sms_phone_number
        view["sms_subscription_status"] = member.sms_status
        view["sms_subscription_last_updated"] = when(member.sms_changed_at)
    return view


def full_name(member: Member) -> str:
    names = (str(member.merge_fields.get(tag, "")) for tag in ("FNAME", "LNAME"))
    return " ".join(name for name in names if name)


def tag_id(tag: str) -> int:
    return int(derived("tag", tag, 6), 16)


def audience_view(audience: Audience) -> dict[str, Any]:
    """One of `GET /lists`."""
    return {
        "id": audience.id,
        "web_id": audience.web_id,
        "name": audience.name,
        "permission_reminder": "",
        "use_archive_bar": False,
        "notify_on_subscribe": "",
        "notify_on_unsubscribe": "",
        "date_created": when(audience.created_at),
        "list_rating": 0,
        "email_type_option": False,
        "visibility": "prv",
        "double_optin": audience.double_optin,
        "has_welcome": False,
        "marketing_permissions": bool(audience.permissions),
        "modules": [],
        "stats": _stats(audience),
        "_links": [],
    }


def _stats(audience: Audience) -> dict[str, Any]:
    counts = dict.fromkeys(("subscribed", "unsubscribed", "cleaned"), 0)
    for member in audience.members.values():
        counts[member.status] = counts.get(member.status, 0) + 1
    return {
        "member_count": counts["subscribed"],
        "total_contacts": len(audience.members),
        "unsubscribe_count": counts["unsubscribed"],
        "cleaned_count": counts["cleaned"],
        "merge_field_count": len(audience.merge_fields),
    }


def webhook_view(hook: Webhook) -> dict[str, Any]:
    """Without the secret: that is shown once, when it is made."""
    return {
        "id": hook.id,
        "url": hook.url,
        "events": dict(hook.events),
        "sources": dict(hook.sources),
        "list_id": hook.list_id,
        "signing_enabled": bool(hook.secret),
        "_links": [],
    }


def category_view(audience: Audience, category: Category, order: int) -> dict[str, Any]:
    return {
        "list_id": audience.id,
        "id": category.id,
        "title": category.title,
        "display_order": order,
        "type": "checkboxes",
        "_links": [],
    }


def interest_views(audience: Audience, category: Category) -> list[dict[str, Any]]:
    return [
        {
            "category_id": category.id,
            "list_id": audience.id,
            "id": interest,
            "name": name,
            "subscriber_count": str(_holders(audience, interest)),
            "display_order": order,
            "_links": [],
        }
        for order, (interest, name) in enumerate(category.interests.items(), 1)
    ]


def _holders(audience: Audience, interest: str) -> int:
    return sum(member.interests.get(interest, False) for member in audience.members.values())


def batch_view(batch: Batch, results_url: str) -> dict[str, Any]:
    finished = STAGES[batch.stage] == "finished"
    return {
        "id": batch.id,
        "status": STAGES[batch.stage],
        "total_operations": len(batch.operations),
        "finished_operations": batch.finished,
        "errored_operations": batch.errored,
        "submitted_at": when(batch.submitted_at),
        "completed_at": when(batch.completed_at),
        "response_body_url": results_url if finished else "",
        "_links": [],
    }


# -- partial answers -------------------------------------------------------------------------


def select(view: Any, fields: Iterable[str], excluded: Iterable[str]) -> Any:
    """`fields` and `exclude_fields`: names in dot notation, lists looked through."""
    wanted = [name.split(".") for name in fields]
    unwanted = [name.split(".") for name in excluded]
    chosen = _keep(view, wanted) if wanted else view
    return _drop(chosen, unwanted) if unwanted else chosen


def _keep(view: Any, paths: list[list[str]]) -> Any:
    if isinstance(view, list):
        return [_keep(item, paths) for item in view]
    if not isinstance(view, dict) or [] in paths:
        return view
    return {
        key: _keep(value, below) for key, value in view.items() if (below := _below(key, paths))
    }


def _drop(view: Any, paths: list[list[str]]) -> Any:
    if isinstance(view, list):
        return [_drop(item, paths) for item in view]
    if not isinstance(view, dict):
        return view
    return {
        key: _drop(value, _below(key, paths)) for key, value in view.items() if [key] not in paths
    }


def _below(key: str, paths: list[list[str]]) -> list[list[str]]:
    return [path[1:] for path in paths if path and path[0] == key]
