"""ActiveCampaign's webhooks: all events of an account, or those of one list.

An answer of 410 switches one off for good: it has to be deleted and made again. That the list shows
its `state` is not described; one without a state, or with an unknown one, counts as alive.

https://developers.activecampaign.com/reference/list-all-webhooks
https://developers.activecampaign.com/page/webhooks (automatic deactivation)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from connectors.activecampaign_line import WEBHOOKS, Json, Line
from connectors.upkeep import leads_here
from prefs.core.propagation import Target

EVENTS = ("subscribe", "unsubscribe", "sms_unsub", "sms_reply", "bounce", "update")
SOURCES = ("public", "admin", "system")
"""Without `api`: it would tell us of our own writes."""
OFF = frozenset({"0", "inactive"})
ALL_LISTS = "0"


class ActiveCampaignHooks:
    """Names are `<event>` for all lists, `<event>@<list>` for one."""

    remedy = "Make the webhook again (Settings > Developer > Manage Webhooks)."

    def __init__(self, target: Target, line: Line) -> None:
        self._target, self._line = target, line
        self._dead: list[Json] = []

    async def look(self) -> Mapping[str, bool]:
        listed = await self._line.everything(WEBHOOKS, "webhooks")
        ours = [hook for hook in listed if leads_here(hook.get("url"), self._target)]
        self._dead = [hook for hook in ours if not _alive(hook)]
        told = {name for hook in ours if _alive(hook) for name in _names(hook)}
        return {name: name in told for hook in ours for name in _names(hook)}

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        """What was switched off goes first, so that nothing stands there twice."""
        for hook in self._dead:
            await self._line.delete_webhook(str(hook.get("id")))
        by_list: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            event, _, place = name.partition("@")
            by_list[place].append(event)
        for place, events in by_list.items():
            await self._line.new_webhook(self._webhook(events, place))

    def _webhook(self, events: Collection[str], place: str) -> Json:
        made = {
            "name": f"prefs {self._target.label}",
            "url": self._target.webhook_url,
            "events": list(events),
            "sources": list(SOURCES),
        }
        return made | ({"listid": int(place)} if place else {})

    def never(self, known: Collection[str]) -> Collection[str]:
        return set(EVENTS) - {name.partition("@")[0] for name in known}


def _alive(hook: Json) -> bool:
    return str(hook.get("state")).lower() not in OFF


def _names(hook: Json) -> list[str]:
    place = str(hook.get("listid") or ALL_LISTS)
    beside = "" if place == ALL_LISTS else f"@{place}"
    events = hook.get("events")
    return [f"{event}{beside}" for event in events] if isinstance(events, list) else []
