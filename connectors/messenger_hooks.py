"""The Page's subscription to our app: after an hour of failures Meta ends it.

Meta does not say which of several apps is ours: the one that hears most of what we need is taken,
and what else it hears is believed to be ours only where it hears all of that.

https://developers.facebook.com/docs/messenger-platform/webhooks
https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

FIELDS = (
    "messages",
    "messaging_postbacks",
    "messaging_optins",
    "messaging_policy_enforcement",
    "inbox_labels",
)
"""What the Page must be subscribed to."""
NEEDED = frozenset(FIELDS)


class Apps(Protocol):
    """Where the Page's subscriptions are read and set."""

    async def subscribed(self) -> list[Mapping[str, Any]]:
        """The apps, each with its `subscribed_fields`."""

    async def subscribe(self, fields: Collection[str]) -> None:
        """Our app hears these fields and no others."""


class MessengerHooks:
    """Names are fields."""

    remedy = (
        "Subscribe the Page to the app again (Meta for Developers, Messenger settings); see that "
        "the app's callback is that address and that it answers from outside."
    )

    def __init__(self, apps: Apps) -> None:
        self._apps = apps

    async def look(self) -> Mapping[str, bool]:
        held = [_fields(app) for app in await self._apps.subscribed()]
        ours = max(held, key=lambda fields: len(fields & NEEDED), default=set())
        return dict.fromkeys(ours if ours >= NEEDED else ours & NEEDED, True)

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        """What else the app heard before goes along: fields that are not named end."""
        await self._apps.subscribe(dict.fromkeys([*FIELDS, *sorted(known)]))

    def never(self, known: Collection[str]) -> Collection[str]:
        return NEEDED - frozenset(known)


def _fields(app: Mapping[str, Any]) -> set[str]:
    return {str(field) for field in app.get("subscribed_fields") or ()}
