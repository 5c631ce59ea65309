"""Mailchimp's webhooks, each of one audience: an answer of 410 switches one off.

None is ever made here: a new one gets a signing secret that Mailchimp shows once, and that belongs
into the configuration. The list does not show which are switched off.

https://mailchimp.com/developer/marketing/api/list-webhooks/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from connectors.upkeep import leads_here
from prefs.core.errors import Refused
from prefs.core.propagation import Target

Json = Mapping[str, Any]

EVENTS = ("subscribe", "unsubscribe", "profile", "cleaned", "upemail")
BY_PEOPLE = "user"
"""The source without which an audience is as good as silent."""


class MailchimpHooks:
    """Names are `<event>@<audience>`. `listed` gives the webhooks of an audience."""

    remedy = (
        "Make the webhook again for that audience, by the API with sources user and admin, and put "
        "the signing secret of the answer into webhook_secret: Mailchimp shows it once."
    )

    def __init__(self, target: Target, listed: Callable[[str], Awaitable[Sequence[Json]]]) -> None:
        self._target, self._listed = target, listed
        self._audiences = [str(audience) for audience in target.table("audiences")]

    async def look(self) -> Mapping[str, bool]:
        seen: dict[str, bool] = {}
        for audience in self._audiences:
            for hook in await self._listed(audience):
                if leads_here(hook.get("url"), self._target, keyed=self._keyed(audience)):
                    seen |= {f"{event}@{audience}": True for event in _events(hook)}
        return seen

    def _keyed(self, audience: str) -> bool:
        """Deliveries without a signature are let in by the key."""
        signed = self._target.text("webhook_secret") or self._target.table("webhook_secret")
        known = isinstance(signed, str) or audience in signed
        return not known and self._target.text("webhook_key") is not None

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        raise Refused("its new signing secret has to be put into the configuration by hand")

    def never(self, known: Collection[str]) -> Collection[str]:
        needed = {f"{event}@{audience}" for audience in self._audiences for event in EVENTS}
        return needed - frozenset(known)


def _events(hook: Json) -> list[str]:
    """What it tells of the people themselves."""
    events, sources = hook.get("events"), hook.get("sources")
    heard = isinstance(sources, Mapping) and sources.get(BY_PEOPLE) is True
    if not heard or not isinstance(events, Mapping):
        return []
    return [str(event) for event, on in events.items() if on is True]
