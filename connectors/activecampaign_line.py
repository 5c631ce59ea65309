"""How ActiveCampaign is reached: httpx, with the key in a header.

https://developers.activecampaign.com/reference/authentication
https://developers.activecampaign.com/reference/rate-limits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors import http
from prefs.core.errors import Temporary
from prefs.core.propagation import Budget, Target

Json = Mapping[str, Any]

API = "/api/3"
MEMBERSHIPS = f"{API}/contactLists"
WEBHOOKS = f"{API}/webhooks"
WRITES = (
    ("POST", MEMBERSHIPS),
    ("POST", WEBHOOKS),
    ("DELETE", rf"{WEBHOOKS}/[0-9]+"),
)
PAGE = 100
"""Most items of one page: https://developers.activecampaign.com/reference/pagination"""


class Line:
    """Every integration of the account shares five calls a second."""

    def __init__(self, target: Target, budget: Budget) -> None:
        self._way = http.Way(target, budget, "", WRITES)
        self._headers = {"Api-Token": target.text("api_key") or ""}

    async def close(self) -> None:
        await self._way.close()

    async def read(self, path: str, **params: Any) -> Json:
        return await http.retried(lambda: self._sent("GET", path, params=params))

    async def everything(self, path: str, name: str) -> list[Json]:
        """All of a collection that is walked by offset, until a page shows nothing new."""
        found: dict[str, Json] = {}
        while True:
            answer = await self.read(path, limit=PAGE, offset=len(found))
            page = {str(item.get("id")): item for item in listed(answer, name)}
            if page.keys() <= found.keys():
                return list(found.values())
            found |= page

    async def read_if_there(self, path: str) -> Json | None:
        """None where ActiveCampaign itself answers that there is no such thing: in JSON."""

        async def ask() -> Json | None:
            reply = await self._way.send("GET", path, headers=self._headers)
            if reply.status == 404 and "message" in _error(reply):
                return None
            return self._checked(reply)

        return await http.retried(ask)

    async def set(self, row: Json, *, once: bool) -> Json:
        async def send() -> Json:
            return await self._sent("POST", MEMBERSHIPS, json={"contactList": row})

        return await (send() if once else http.retried(send))

    async def new_webhook(self, webhook: Json) -> None:
        """https://developers.activecampaign.com/reference/create-webhook
        Sent once: a repeat would make a second one."""
        await self._sent("POST", WEBHOOKS, json={"webhook": webhook})

    async def delete_webhook(self, number: str) -> None:
        await self._sent("DELETE", f"{WEBHOOKS}/{number}")

    async def _sent(self, method: str, path: str, **more: Any) -> Json:
        return self._checked(await self._way.send(method, path, headers=self._headers, **more))

    def _checked(self, reply: http.Reply) -> Json:
        """The answer's object. A bad key answers 403, not 401."""
        if reply.status == 429:
            self._way.pause(reply)
        if not 200 <= reply.status < 300:
            raise http.fault_of(reply, _code(reply))
        answer = reply.json()
        if not isinstance(answer, Mapping):
            raise Temporary("ActiveCampaign answered JSON that is not an object")
        return answer


def listed(answer: Json, name: str) -> list[Json]:
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise Temporary(f"ActiveCampaign's answer lacks its {name}")
    return found


def _error(reply: http.Reply) -> Json:
    try:
        error = reply.json()
    except Temporary:
        return {}
    return error if isinstance(error, Mapping) else {}


def _code(reply: http.Reply) -> str:
    """The code of the first error. Titles and details are free text and may hold an address."""
    errors = _error(reply).get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    code = str(first.get("code") or "") if isinstance(first, Mapping) else ""
    return code if code.replace("_", "").isalnum() and len(code) < 60 else ""
