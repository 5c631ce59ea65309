"""What the Mailchimp twin takes: the fields of each call, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from tests.twins.mailchimp_account import EVENTS, SOURCES, Audience

Fault = tuple[str, str]
"""Field and message, as in `errors[]`."""
Check = Callable[[Any], str | None]
"""What is wrong with a value, None if nothing."""
Fields = Mapping[str, Check]

ADDRESS = re.compile(r"[^@\s,;<>\"]+@[^@\s.,;<>\"]+(\.[^@\s.,;<>\"]+)+")
SETTABLE = ("subscribed", "unsubscribed", "cleaned", "pending")
ANY_STATUS = (*SETTABLE, "transactional")
MOST_MEMBERS = 500
MOST_COUNT = 1000


def text(value: Any) -> str | None:
    return None if isinstance(value, str) else "Schema describes string"


def boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "Schema describes boolean"


def mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else "Schema describes object"


def array(value: Any) -> str | None:
    return None if isinstance(value, list) else "Schema describes array"


def address(value: Any) -> str | None:
    good = isinstance(value, str) and ADDRESS.fullmatch(value)
    return None if good else "Please provide a valid email address."


def time(value: Any) -> str | None:
    try:
        aware = isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    return None if aware else "Please provide a valid ISO 8601 date and time with its zone."


def one_of(*words: str) -> Check:
    problem = f"Data did not match any of the following types: {', '.join(words)}"
    return lambda value: None if value in words and isinstance(value, str) else problem


def whole(least: int, most: int | None = None) -> Check:
    def check(value: Any) -> str | None:
        number = int(value) if str(value).isdigit() else -1
        good = number >= least and (most is None or number <= most)
        return None if good else f"Please provide a number from {least} to {most or 'any'}."

    return check


def flag(value: Any) -> str | None:
    """A boolean in a query."""
    return one_of("true", "false")(value)


MEMBER: Fields = {
    "email_address": address,
    "email_type": one_of("html", "text"),
    "status": one_of(*ANY_STATUS),
    "merge_fields": mapping,
    "interests": mapping,
    "language": text,
    "vip": boolean,
    "location": mapping,
    "marketing_permissions": array,
    "ip_signup": text,
    "timestamp_signup": time,
    "ip_opt": text,
    "timestamp_opt": time,
}
"""`sms_*` and all else of a member are read-only: sending them is refused."""
PATCH_MEMBER: Fields = {**MEMBER, "status": one_of(*SETTABLE)}
PUT_MEMBER: Fields = {**MEMBER, "status_if_new": one_of(*ANY_STATUS)}
POST_MEMBER: Fields = {**MEMBER, "tags": array}
BULK: Fields = {"members": array, "sync_tags": boolean, "update_existing": boolean}
WEBHOOK: Fields = {"url": text, "events": mapping, "sources": mapping}
BATCH: Fields = {"operations": array}
OPERATION: Fields = {
    "method": one_of("GET", "POST", "PUT", "PATCH", "DELETE"),
    "path": text,
    "params": mapping,
    "body": text,
    "operation_id": text,
}
TAGS: Fields = {"tags": array, "is_syncing": boolean}
TAG: Fields = {"name": text, "status": one_of("active", "inactive")}
MERGE_FIELD: Fields = {"name": text, "type": one_of("text", "number", "phone"), "tag": text}

PART: Fields = {"fields": text, "exclude_fields": text}
PAGED: Fields = {**PART, "count": whole(0, MOST_COUNT), "offset": whole(0)}
LISTS: Fields = {**PAGED, "email": address, "include_total_contacts": flag}
LIST: Fields = {**PART, "include_total_contacts": flag}
MEMBERS: Fields = {
    **PAGED,
    "email_type": one_of("html", "text"),
    "status": one_of(*ANY_STATUS, "archived"),
    "since_timestamp_opt": time,
    "before_timestamp_opt": time,
    "since_last_changed": time,
    "before_last_changed": time,
    "unique_email_id": text,
    "vip_only": flag,
    "interest_category_id": text,
    "interest_ids": text,
    "interest_match": one_of("any", "all", "none"),
    "sort_field": one_of("timestamp_opt", "timestamp_signup", "last_changed"),
    "sort_dir": one_of("ASC", "DESC"),
    "unsubscribed_since": time,
}
SEARCH: Fields = {**PART, "query": text, "list_id": text}
WRITE: Fields = {"skip_merge_validation": flag}
BULK_WRITE: Fields = {**WRITE, "skip_duplicate_check": flag}


def faults(
    given: Mapping[str, Any], fields: Fields, required: tuple[str, ...] = (), at: str = ""
) -> list[Fault]:
    """Everything wrong with the given fields; unknown ones are wrong."""
    found = [
        (at + name, "This value should not be blank.") for name in required if name not in given
    ]
    for name, value in given.items():
        check = fields.get(name)
        problem = check(value) if check else "This field is not expected here."
        if problem:
            found.append((at + name, problem))
    return found


def member_faults(
    given: Any,
    fields: Fields,
    audience: Audience,
    required: tuple[str, ...] = (),
    at: str = "",
) -> list[Fault]:
    """As `faults`, and the ids inside must be the audience's."""
    if not isinstance(given, dict):
        return [(at.rstrip("."), "Schema describes object")]
    found = faults(given, fields, required, at)
    return found or [(at + name, problem) for name, problem in _inner_faults(given, audience)]


def _inner_faults(given: Mapping[str, Any], audience: Audience) -> list[Fault]:
    found = [
        (f"interests.{i}", "Invalid interest ID" if i not in audience.interests() else "not a bool")
        for i, on in given.get("interests", {}).items()
        if i not in audience.interests() or not isinstance(on, bool)
    ]
    found += [
        (f"merge_fields.{tag}", "Unknown merge field")
        for tag in given.get("merge_fields", {})
        if tag not in audience.merge_fields
    ]
    for n, permission in enumerate(given.get("marketing_permissions", [])):
        if not _good_permission(permission, audience):
            found.append((f"marketing_permissions.item:{n}", "Invalid marketing permission"))
    return found


def _good_permission(permission: Any, audience: Audience) -> bool:
    return (
        isinstance(permission, dict)
        and set(permission) == {"marketing_permission_id", "enabled"}
        and permission["marketing_permission_id"] in audience.permissions
        and isinstance(permission["enabled"], bool)
    )


def webhook_faults(given: Mapping[str, Any]) -> list[Fault]:
    found = faults(given, WEBHOOK)
    if not found:
        found = faults(given.get("events", {}), dict.fromkeys(EVENTS, boolean), at="events.")
        found += faults(given.get("sources", {}), dict.fromkeys(SOURCES, boolean), at="sources.")
    if "url" in given and not re.match(r"https?://[^/]+", str(given["url"])):
        found.append(("url", "Please provide a valid URL."))
    return found


def operation_faults(given: list[Any]) -> list[Fault]:
    found: list[Fault] = []
    for n, operation in enumerate(given):
        at = f"operations.item:{n}"
        if isinstance(operation, dict):
            found += faults(operation, OPERATION, ("method", "path"), at + ".")
        else:
            found.append((at, "Schema describes object"))
    return found
