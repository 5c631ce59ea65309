"""How Keap is reached: httpx, with a personal access token or OAuth's, on two hosts.

https://developer.keap.com/docs/restv2/
Tokens: https://developer.keap.com/pat-and-sak/ https://developer.keap.com/getting-started-oauth-keys/
Limits: https://developer.keap.com/limits/
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any
from urllib.parse import quote

from connectors import http
from connectors.oauth import Fixed, OAuth, Tokens
from prefs.core.errors import PropagationError, Refused, Temporary
from prefs.core.propagation import Budget, Target

Json = Mapping[str, Any]
Now = Callable[[], datetime]
Listing = tuple[list[Json], str | None]
"""One page, and the token of the next."""

API = "https://api.keap.com"
OLDER = "https://api.infusionsoft.com"
"""Where tokens are given, and version 1 is."""
TOKENS = "/token"
ADDRESSES = "/crm/rest/v2/emailAddresses"
CONTACTS = "/crm/rest/v2/contacts"
TAGS = "/crm/rest/v2/tags"
HOOKS = "/crm/rest/v1/hooks"
FIELDS = "id,email_addresses,phone_numbers,tag_ids"
WRITES = (
    ("PATCH", rf"{ADDRESSES}/[^/]+/status"),
    ("POST", TAGS),
    ("POST", rf"{TAGS}/[^/]+/contacts:applyTags"),
    ("POST", rf"{TAGS}/[^/]+/contacts:removeTags"),
    ("POST", HOOKS),
    ("POST", rf"{HOOKS}/[^/]+/verify"),
)
READS_BY_POST = (("POST", TOKENS),)
PAGE = 500
"""Items a page; Keap allows 1000."""
OAUTH_KEYS = ("client_id", "client_secret", "refresh_token")

THROTTLED = 10.0
"""Seconds to wait after a 429 that names none: the limits are by the second and the minute."""
DAY_LEFT = "x-keap-product-quota-available"
"""Calls left of the day, which begins at 00:00 UTC."""
_WORD = re.compile(r"[A-Za-z_. ]{1,60}")


class Gone(Refused):
    """404 in Keap's own words: there is no such thing."""


class Line:
    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        self._budget, self._now = budget, now
        self._own_header = bool(target.text("token"))
        self._way = http.Way(target, budget, API, WRITES)
        self._older_way = http.Way(target, budget, OLDER, WRITES, READS_BY_POST)
        self._token = _tokens(target, now, self._older_way)

    async def close(self) -> None:
        await self._way.close()
        await self._older_way.close()

    # --- addresses -----------------------------------------------------------------------------

    async def status(self, address: str) -> Json | None:
        """None where Keap knows no such address."""
        return await self._one(_status_path(address))

    async def set_status(
        self, address: str, *, opted_in: bool, reason: str, repeat: bool
    ) -> Json | None:
        """The new status, None for an unknown address. Without `repeat` it is sent exactly once.

        The schema asks for `reason`; the text of the same page speaks of `opt_in_reason`.
        """
        body = {"opted_in": opted_in, "reason": reason}

        async def send() -> Json | None:
            try:
                return _object(await self._send("PATCH", _status_path(address), body=body))
            except Gone:
                return None

        return await (http.retried(send) if repeat else send())

    async def statuses(self, token: str | None, *, only_out: bool) -> Listing:
        out = {"filter": "opted_in==false"} if only_out else {}
        return await self._page(ADDRESSES, "email_addresses", token, out)

    # --- contacts ------------------------------------------------------------------------------

    async def contact(self, vendor_id: str) -> Json | None:
        return await self._one(f"{CONTACTS}/{quote(vendor_id, safe='')}", {"fields": FIELDS})

    async def contacts(self, criteria: str | None, token: str | None) -> Listing:
        params = {"fields": FIELDS} | ({"filter": criteria} if criteria else {})
        return await self._page(CONTACTS, "contacts", token, params)

    async def contacts_by(self, criteria: str) -> list[Json]:
        found, token = await self.contacts(criteria, None)
        while token:
            more, token = await self.contacts(criteria, token)
            found += more
        return found

    async def tags_of(self, vendor_id: str) -> list[Json]:
        path = f"{CONTACTS}/{quote(vendor_id, safe='')}/tags"
        return [_object(item.get("tag")) for item in await self._all(path, "tags")]

    # --- tags ----------------------------------------------------------------------------------

    async def tags(self) -> list[Json]:
        return await self._all(TAGS, "tags")

    async def new_tag(self, name: str) -> Json:
        return _object(await self._send("POST", TAGS, body={"name": name}))

    async def apply_tag(self, tag_id: str, contacts: Sequence[str]) -> Mapping[str, str]:
        """Contact id -> Keap's word for what it did."""

        async def send() -> Mapping[str, str]:
            path = f"{TAGS}/{quote(tag_id, safe='')}/contacts:applyTags"
            answer = _object(await self._send("POST", path, body={"contact_ids": list(contacts)}))
            return _object(answer.get("results"))

        return await http.retried(send)

    async def remove_tag(self, tag_id: str, contacts: Sequence[str]) -> None:
        """Sent exactly once; the answer (204) names nobody."""
        path = f"{TAGS}/{quote(tag_id, safe='')}/contacts:removeTags"
        await self._reply("POST", path, body={"contact_ids": list(contacts)})

    # --- hooks, in version 1 only ----------------------------------------------------------------

    async def hooks(self) -> list[Json]:
        """https://developer.keap.com/docs/rest/#tag/REST-Hooks"""

        async def send() -> list[Json]:
            found = (await self._reply("GET", HOOKS)).json()
            if not isinstance(found, list):
                raise Temporary("Keap answered something that is not a list")
            return [_object(item) for item in found]

        return await http.retried(send)

    async def new_hook(self, event: str, url: str) -> None:
        """Keap calls the URL at once; events flow when that was answered. Sent exactly once."""
        await self._reply("POST", HOOKS, body={"eventKey": event, "hookUrl": url})

    async def verify_hook(self, key: str) -> None:
        """Keap calls the URL once more."""
        await self._reply("POST", f"{HOOKS}/{quote(key, safe='')}/verify")

    # --- calls ---------------------------------------------------------------------------------

    async def _one(self, path: str, params: Mapping[str, str] | None = None) -> Json | None:
        async def send() -> Json | None:
            try:
                return _object(await self._send("GET", path, params=params))
            except Gone:
                return None

        return await http.retried(send)

    async def _all(self, path: str, name: str) -> list[Json]:
        found, token = await self._page(path, name, None, {})
        while token:
            more, token = await self._page(path, name, token, {})
            found += more
        return found

    async def _page(
        self, path: str, name: str, token: str | None, params: Mapping[str, str]
    ) -> Listing:
        asked = {**params, "page_size": str(PAGE), **({"page_token": token} if token else {})}

        async def send() -> Listing:
            answer = _object(await self._send("GET", path, params=asked))
            items = answer.get(name)
            if not isinstance(items, list):
                raise Temporary("Keap answered something that is not a list")
            following = str(answer.get("next_page_token") or "")
            if following and following == token:
                raise Temporary("Keap's page names itself as the next one")
            return [_object(item) for item in items], following or None

        return await http.retried(send)

    async def _send(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        return (await self._reply(method, path, params=params, body=body)).json()

    async def _reply(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> http.Reply:
        """A personal token goes in a header of its own; some of Keap's pages show it as a bearer
        token, so a refused one is tried that way too."""
        token = await self._token.get()
        way = self._older_way if path.startswith(HOOKS) else self._way
        bearer = {"Authorization": f"Bearer {token}"}
        headers = {"X-Keap-API-Key": token} if self._own_header else bearer
        reply = await way.send(method, path, params=params, json=body, headers=headers)
        if reply.status == 401 and headers is not bearer:
            reply = await way.send(method, path, params=params, json=body, headers=bearer)
            self._own_header = reply.status == 401
        self._token.check(reply, token)
        if 200 <= reply.status < 300:
            return reply
        raise self._fault(reply)

    def _fault(self, reply: http.Reply) -> PropagationError:
        error = _error(reply)
        word = _word(error)
        if reply.status == 404 and error and "fault" not in error:
            return Gone(f"HTTP 404: {word}")
        failure = http.fault_of(reply, word)
        if reply.status == 429 and isinstance(failure, Temporary):
            failure.retry_after = failure.retry_after or self._wait(reply)
            self._budget.pause(min(failure.retry_after, THROTTLED))
        return failure

    def _wait(self, reply: http.Reply) -> float:
        """Seconds before another try where Keap names none."""
        if reply.headers.get(DAY_LEFT) != "0":
            return THROTTLED
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)
        return min((midnight - now).total_seconds(), http.MOST_PAUSE)


def _tokens(target: Target, now: Now, way: http.Way) -> Tokens:
    """A personal access token, or OAuth's. A refresh token is good for one use and replaced."""
    fixed = target.text("token")
    if fixed:
        return Fixed(fixed)
    client, secret, refresh = (target.text(key) or "" for key in OAUTH_KEYS)
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    return OAuth(way, TOKENS, form, now, vault=target.vault, basic=(client, secret))


def _status_path(address: str) -> str:
    return f"{ADDRESSES}/{quote(address, safe='')}/status"


def _object(found: Any) -> Json:
    if not isinstance(found, Mapping):
        raise Temporary("Keap answered something that is not an object")
    return found


def _error(reply: http.Reply) -> Json:
    """The API's `{code, message, status, details}`, or the gateway's `{fault: {...}}`."""
    try:
        error = json.loads(reply.body)
    except ValueError:
        return {}
    return error if isinstance(error, Mapping) else {}


def _word(error: Json) -> str:
    """Keap's own word for an error. Its message is not repeated: it may hold an address."""
    fault = error.get("fault")
    detail = fault.get("detail") if isinstance(fault, Mapping) else None
    word = detail.get("errorcode") if isinstance(detail, Mapping) else error.get("status")
    return word if isinstance(word, str) and _WORD.fullmatch(word) else ""
