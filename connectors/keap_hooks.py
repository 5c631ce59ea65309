"""Keap's REST hooks, one for each event: after four failed deliveries a hook is Inactive.

Verifying one makes Keap call its URL, which must repeat the secret of that call; then it is live.

https://developer.keap.com/docs/rest/#tag/REST-Hooks
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from connectors.keap_line import Json, Line
from connectors.upkeep import leads_here
from prefs.core.propagation import Target

EVENTS = frozenset(
    {
        "contact.add",
        "contact.edit",
        "contact.delete",
        "contact.redact",
        "contactGroup.applied",
        "contactGroup.removed",
    }
)
LIVE = "Verified"
"""Unverified and Inactive hooks deliver nothing."""


class KeapHooks:
    """Names are events."""

    remedy = (
        "Keap must reach that address and get its secret back: see that the service answers there "
        "from outside. It is tried again every hour."
    )

    def __init__(self, target: Target, line: Line) -> None:
        self._target, self._line = target, line
        self._silent: dict[str, Json] = {}

    async def look(self) -> Mapping[str, bool]:
        hooks = await self._line.hooks()
        ours = [hook for hook in hooks if leads_here(hook.get("hookUrl"), self._target)]
        live = {_event(hook) for hook in ours if hook.get("status") == LIVE}
        self._silent = {_event(hook): hook for hook in ours if _event(hook) not in live}
        return {_event(hook): _event(hook) in live for hook in ours}

    async def mend(self, names: Collection[str], known: Collection[str]) -> None:
        for event in sorted(names):
            if event in self._silent:
                await self._line.verify_hook(str(self._silent[event].get("key")))
            else:
                await self._line.new_hook(event, self._target.webhook_url)

    def never(self, known: Collection[str]) -> Collection[str]:
        return EVENTS - frozenset(known)


def _event(hook: Json) -> str:
    return str(hook.get("eventKey"))
