"""How HubSpot is reached: contacts through the vendor's SDK in threads, the rest through httpx.

Errors: https://developers.hubspot.com/docs/api-reference/error-handling
Limits: https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import urllib3
from urllib3.util import Retry

from connectors import http
from connectors.oauth import Fixed, OAuth, Tokens
from prefs.core.errors import Temporary, Unusable
from prefs.core.propagation import Budget, Target

Json = Mapping[str, Any]
Now = Callable[[], datetime]

HOST = "https://api.hubapi.com"
TOKENS = "/oauth/v1/token"
DEFINITIONS = "/communication-preferences/v4/definitions"
STATUSES = "/communication-preferences/v4/statuses"
CONTACTS = "/crm/v3/objects/contacts"
BATCH = 100
WRITES = (
    ("POST", rf"{STATUSES}/(?!batch$)[^/]+"),
    ("POST", rf"{STATUSES}/batch/write"),
    ("POST", rf"{CONTACTS}/batch/upsert"),
)
READS_BY_POST = (
    ("POST", TOKENS),
    ("POST", f"{STATUSES}/batch/read"),
    ("POST", f"{STATUSES}/batch/unsubscribe-all/read"),
    ("POST", f"{CONTACTS}/search"),
)
CHANGED = "lastmodifieddate"

WAITS = {"DAILY": 600.0, "SECONDLY": 1.0, "TEN_SECONDLY_ROLLING": 10.0}
"""Seconds by a 429's `policyName`; it comes without Retry-After."""
TEN_SECONDS = 10.0
"""The period of the ordinary limit."""
LOCKED = 2.0
"""Seconds to wait after 423, at least."""
_ADDRESS = re.compile(r"[^\s\"'<>(),:;]+@[^\s\"'<>(),:;]+")


class Forbidden(Unusable):
    """403: the token lacks a scope, or the account has no such product."""


class Line:
    """Contacts through the SDK in threads, the rest through httpx; one token for both."""

    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        self._budget = budget
        self._way = http.Way(target, budget, HOST, WRITES, READS_BY_POST)
        self._token = tokens(target, now, self._way)
        self._contacts = Contacts(self._way.base)

    async def close(self) -> None:
        await self._way.close()

    async def read(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        return await http.retried(lambda: self._send(method, path, params, body))

    async def write(self, path: str, body: Json, *, repeat: bool = True) -> Json:
        """Without `repeat` (an `on`) it is sent exactly once."""

        async def send() -> Json:
            return await self._send("POST", path, None, body)

        return await (http.retried(send) if repeat else send())

    async def contact(
        self, email: str, vendor_id: str | None, properties: Sequence[str]
    ) -> Json | None:
        """None where HubSpot itself answers that there is no such contact: its errors are JSON."""
        by = {"id_property": "email"} if email else {}
        key = email or vendor_id
        path = f"{CONTACTS}/{{contactId}}"

        async def send() -> Json | None:
            reply = await self._ask("GET", path, "get_by_id", key, properties=properties, **by)
            missing = reply.status == 404 and bool(_error(reply))
            return None if missing else self._checked(reply)

        return await http.retried(send)

    async def page(self, since: str | None, after: str | None, properties: Sequence[str]) -> Json:
        """Contacts, all or those changed `since` (an ISO time)."""

        async def send() -> Json:
            if since:
                search = _search(since, after, properties)
                reply = await self._ask("POST", f"{CONTACTS}/search", "do_search", search)
            else:
                onward = {"after": after} if after else {}
                reply = await self._ask(
                    "GET", CONTACTS, "get_page", limit=BATCH, properties=properties, **onward
                )
            return self._checked(reply)

        return await http.retried(send)

    async def upsert(self, inputs: Sequence[Json], *, repeat: bool) -> Json:
        async def send() -> Json:
            path = f"{CONTACTS}/batch/upsert"
            return self._checked(await self._ask("POST", path, "upsert", {"inputs": inputs}))

        return await (http.retried(send) if repeat else send())

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Json | None
    ) -> Json:
        token = await self._token.get()
        headers = {"Authorization": f"Bearer {token}"}
        reply = await self._way.send(method, path, params=params, json=body, headers=headers)
        self._token.check(reply, token)
        return self._checked(reply)

    async def _ask(
        self, method: str, path: str, name: str, *args: object, **kwargs: object
    ) -> http.Reply:
        token = await self._token.get()
        reply = await self._way.in_thread(
            method, path, lambda: self._contacts.call(name, token, *args, **kwargs)
        )
        self._token.check(reply, token)
        return reply

    def _checked(self, reply: http.Reply) -> Json:
        """The answer's object. Raises what its status amounts to."""
        if 200 <= reply.status < 300:
            answer = reply.json()
            if not isinstance(answer, Mapping):
                raise Temporary("HubSpot answered JSON that is not an object")
            return answer
        error = _error(reply)
        if reply.status == 403:
            raise Forbidden(words(error))
        failure = http.fault_of(reply, words(error))
        if isinstance(failure, Temporary):
            failure.retry_after = failure.retry_after or _wait(reply.status, error)
        if reply.status == 429:
            self._budget.pause(http.retry_after(reply.headers) or _pause(error))
        raise failure


class Contacts:
    """The SDK's contact calls, kept: each access to `client.crm.contacts` builds a new pool.

    Answers are taken raw, so that a page or a cut answer is seen as what it is.
    """

    def __init__(self, host: str) -> None:
        self._host = host

    @cached_property
    def _calls(self) -> Mapping[str, Callable[..., Any]]:
        from hubspot import HubSpot

        retry = Retry(0, redirect=0, raise_on_redirect=False)
        more = {"retry": retry, "socket_options": http.socket_options()}
        contacts = HubSpot(host=self._host, **more).crm.contacts
        basic, batch, search = contacts.basic_api, contacts.batch_api, contacts.search_api
        found = basic.get_by_id, basic.get_page, batch.upsert, search.do_search
        return {call.__name__: call for call in found}

    def call(self, name: str, token: str, *args: object, **kwargs: object) -> http.Reply:
        """Blocks. The token goes along as a header: the SDK keeps one for good."""
        from hubspot.crm.contacts import ApiException

        try:
            raw = self._calls[name](
                *args,
                **kwargs,
                _headers={"Authorization": f"Bearer {token}"},
                _preload_content=False,
                _request_timeout=(http.CONNECT_LIMIT, http.CALL_LIMIT),
            )
            return _reply(raw.status, raw.headers, raw.data)
        except ApiException as fault:
            return _reply(fault.status, fault.headers or {}, (fault.body or "").encode())
        except UnicodeDecodeError:
            raise Temporary("HubSpot answered something that is not text") from None
        except urllib3.exceptions.HTTPError as fault:
            raise _broken(fault) from None


def _reply(status: int, headers: Mapping[str, str], body: bytes) -> http.Reply:
    return http.Reply(status, {name.lower(): value for name, value in headers.items()}, body)


def _broken(fault: urllib3.exceptions.HTTPError) -> Temporary:
    """Only a connection that never stood is sure to have carried nothing. The fault's own text
    holds the URL, and with it the address."""
    reason = fault.reason if isinstance(fault, urllib3.exceptions.MaxRetryError) else fault
    never = urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError
    return Temporary("the connection to HubSpot failed", unclear=not isinstance(reason, never))


def tokens(target: Target, now: Now, way: http.Way) -> Tokens:
    """A private app's token, or OAuth's; HubSpot's refresh token stays the same.

    https://developers.hubspot.com/docs/apps/legacy-apps/authentication/working-with-oauth
    """
    fixed = target.text("token")
    if fixed:
        return Fixed(fixed)
    keys = ("client_id", "client_secret", "refresh_token")
    form = {"grant_type": "refresh_token", **{key: target.text(key) or "" for key in keys}}
    return OAuth(way, TOKENS, form, now)


def results(answer: Json) -> list[Json]:
    found = answer.get("results")
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise Temporary("HubSpot answered something that is not a list of results")
    return found


def following(answer: Json) -> str | None:
    """Where the next page starts; None after the last one."""
    onward = (answer.get("paging") or {}).get("next") or {}
    return onward.get("after")


def _search(since: str, after: str | None, properties: Sequence[str]) -> Json:
    """https://developers.hubspot.com/docs/api-reference/search/guide: times in milliseconds."""
    moment = str(int(datetime.fromisoformat(since).timestamp() * 1000))
    changed = {"propertyName": CHANGED, "operator": "GTE", "value": moment}
    return {
        "filterGroups": [{"filters": [changed]}],
        "sorts": [CHANGED],
        "properties": list(properties),
        "limit": BATCH,
        "after": after or "0",
    }


def _error(reply: http.Reply) -> Json:
    """The error's object; every field of it is optional, and a proxy's page has none."""
    try:
        error = json.loads(reply.body)
    except ValueError:
        return {}
    return error if isinstance(error, Mapping) else {}


def _wait(status: int, error: Json) -> float | None:
    """Seconds before another try where HubSpot names none."""
    if status == 429:
        return WAITS.get(str(error.get("policyName")), TEN_SECONDS)
    return LOCKED if status == 423 else None


def _pause(error: Json) -> float:
    """Nobody waits for a new day inside a call: the mark does."""
    return min(_wait(429, error) or TEN_SECONDS, TEN_SECONDS)


def words(error: Json) -> str:
    """HubSpot's own words for staff, without the address in them."""
    message = _ADDRESS.sub("(address)", str(error.get("message") or "no reason given"))
    return f"{message[:200]} ({error.get('category') or 'no category'})"
