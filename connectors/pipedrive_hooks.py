"""Pipedrive's webhooks: three days without a delivered event delete one.

A webhook sees what its user may see, so it is made with an admin's user only; it brings HTTP
credentials where we ask for them. Version 1.0 has another body, which nobody here reads.

https://developers.pipedrive.com/docs/api/v1/Webhooks
https://pipedrive.readme.io/docs/guide-for-webhooks-v2
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from connectors.pipedrive_line import Json, Line
from connectors.upkeep import leads_here
from prefs.core.errors import Refused
from prefs.core.propagation import Target

ACTIONS = frozenset({"create", "change", "delete"})
ALL, PERSON = "*", "person"
VERSION, OLD_VERSION = "2.0", "1.0"
APPS = frozenset({"global", "sales"})
"""Where an admin sees every person."""


class PipedriveHooks:
    """Names are actions on persons."""

    remedy = (
        "Make it there again: * on person, version 2.0, with an admin's user and the HTTP "
        "credentials of the configuration (Settings > Tools and apps > Webhooks)."
    )

    def __init__(self, target: Target, line: Line) -> None:
        self._target, self._line = target, line
        self._user, self._password = target.text("webhook_user"), target.text("webhook_password")

    async def look(self) -> Mapping[str, bool]:
        ours = [hook for hook in await self._line.webhooks() if self._is_ours(hook)]
        told = {action for hook in ours if _alive(hook) for action in _actions(hook)}
        return {action: action in told for hook in ours for action in _actions(hook)}

    def _is_ours(self, hook: Json) -> bool:
        credentials = bool(self._user and self._password)
        return (
            leads_here(hook.get("subscription_url"), self._target, keyed=not credentials)
            and hook.get("event_object") in (PERSON, ALL)
            and str(hook.get("version", VERSION)) != OLD_VERSION
        )

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        admin = await self._admin()
        for action in [ALL] if set(names) >= ACTIONS else sorted(names):
            await self._line.new_webhook(self._webhook(action, admin))

    async def _admin(self) -> int:
        """The user of our token. Raises Refused where it is no admin."""
        me = await self._line.me()
        number, access = me.get("id"), me.get("access")
        if not isinstance(number, int) or not any(map(_is_admin, access or ())):
            raise Refused("the token's user is no admin and would not see every person")
        return number

    def _webhook(self, action: str, user: int) -> Json:
        made = {
            "subscription_url": self._target.webhook_url,
            "event_action": action,
            "event_object": PERSON,
            "name": f"prefs {self._target.label}",
            "user_id": user,
            "version": VERSION,
        }
        login = {"http_auth_user": self._user, "http_auth_password": self._password}
        return made | (login if self._user and self._password else {})

    def never(self, known: Collection[str]) -> Collection[str]:
        return ACTIONS - frozenset(known)


def _is_admin(right: object) -> bool:
    held = right if isinstance(right, Mapping) else {}
    return held.get("admin") is True and held.get("app") in APPS


def _alive(hook: Json) -> bool:
    """Removed ones may still be listed."""
    return bool(hook.get("is_active", 1)) and not hook.get("remove_time")


def _actions(hook: Json) -> Iterator[str]:
    action = str(hook.get("event_action"))
    yield from ACTIONS if action == ALL else (action,)
