"""How Pipedrive is reached, and which custom person fields hold our markers.

Statuses: https://pipedrive.readme.io/docs/core-api-concepts-http-status-codes
Limits: https://pipedrive.readme.io/docs/core-api-concepts-rate-limiting
Fields: https://developers.pipedrive.com/docs/api/v1/PersonFields
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors import http
from connectors.budget import TokenBudget
from connectors.oauth import Fixed
from prefs.core.errors import PropagationError, Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import Budget, Limit, Target, Wish

Json = Mapping[str, Any]
Now = Callable[[], datetime]

HOST = "https://api.pipedrive.com"
PERSONS = "/api/v2/persons"
SEARCH = f"{PERSONS}/search"
FIELDS = "/api/v2/personFields"
WEBHOOKS = "/v1/webhooks"
ME = "/v1/users/me"
WRITES = (("PATCH", rf"{PERSONS}/[0-9]+"), ("POST", FIELDS), ("POST", WEBHOOKS))
PAGE = 500
"""Most items of one page."""

SEARCHES = Limit(10, 2.0)
"""https://developers.pipedrive.com/changelog/post/announcing-search-api-rate-limit: on every plan,
beside the limit of all calls."""
BURST = 2.0
"""Seconds of the ordinary limit, which a 429 need not name."""
LONGEST_PAUSE = 10.0
DAY_SPENT = 3600.0
"""Seconds until a company whose daily tokens are spent is asked again, or the next day (UTC)."""
SPENT = "Pipedrive's daily tokens are spent"

FIELDS_FOR = timedelta(hours=1)
"""How long the fields are taken as read: reading them costs as much as ten persons."""
LABELS = {Wish.ON: "No objection", Wish.OFF: "Opted out"}

_UNSAFE = re.compile(r"https?://\S+|[^\s\"'<>(),:;]+@[^\s\"'<>(),:;]+|\+?\d[\d ()./-]{5,}\d")


class Denied(Unusable):
    """403: our user may not do this, or the account has reached a limit."""


class Line:
    """All calls, with the token in a header.

    https://pipedrive.readme.io/docs/core-api-concepts-authentication
    """

    def __init__(self, target: Target, budget: Budget, now: Now) -> None:
        token = target.text("token")
        if not token:
            raise SettingsError([f"{target.label}: set token"])
        self._token, self._header = Fixed(token), {"x-api-token": token}
        self._budget, self._now = budget, now
        self._searches = TokenBudget(SEARCHES)
        self._way = http.Way(target, budget, HOST, WRITES)
        self._spent_until: datetime | None = None

    async def close(self) -> None:
        await self._way.close()

    async def page(self, path: str, params: Mapping[str, str]) -> Json:
        return await http.retried(lambda: self._send("GET", path, params))

    async def search(self, params: Mapping[str, str]) -> Json:
        async def send() -> Json:
            await self._searches.acquire()
            try:
                return await self._send("GET", SEARCH, params)
            finally:
                self._searches.release()

        return await http.retried(send)

    async def person(self, number: str, params: Mapping[str, str]) -> Json | None:
        """None where Pipedrive itself answers that it has no such person."""

        async def send() -> Json | None:
            reply = await self._ask("GET", f"{PERSONS}/{number}", params)
            if reply.status == 404 and _error(reply):
                return None
            return _object(self._checked(reply))

        return await http.retried(send)

    async def patch(self, number: str, body: Json, *, repeat: bool) -> Json:
        """Without `repeat` (an `on`) it is sent exactly once."""

        async def send() -> Json:
            return _object(await self._send("PATCH", f"{PERSONS}/{number}", None, body))

        return await (http.retried(send) if repeat else send())

    async def new_field(self, body: Json) -> Json:
        """Sent once: a repeat would make a second field of the same name."""
        return _object(await self._send("POST", FIELDS, None, body))

    async def webhooks(self) -> list[Json]:
        """All of the company, in one answer. Costs ten of its daily tokens."""
        return listed(await self.page(WEBHOOKS, {}))

    async def new_webhook(self, body: Json) -> None:
        """Sent once: a repeat would make a second one."""
        await self._send("POST", WEBHOOKS, None, body)

    async def me(self) -> Json:
        """The user whose token we hold."""
        return _object(await self.page(ME, {}))

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Json | None = None
    ) -> Json:
        return self._checked(await self._ask(method, path, params, body))

    async def _ask(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Json | None = None
    ) -> http.Reply:
        self._refuse_while_spent()
        reply = await self._way.send(method, path, params=params, json=body, headers=self._header)
        self._token.check(reply, "")
        return reply

    def _refuse_while_spent(self) -> None:
        """Every call of the day counts, refused ones too: none is sent."""
        left = (self._spent_until - self._now()).total_seconds() if self._spent_until else 0.0
        if left > 0:
            raise Temporary(SPENT, retry_after=min(left, DAY_SPENT))

    def _checked(self, reply: http.Reply) -> Json:
        """The answer's object. Raises what its status amounts to."""
        if 200 <= reply.status < 300:
            answer = reply.json()
            if not isinstance(answer, Mapping) or answer.get("success") is False:
                raise Temporary("Pipedrive answered JSON that is no success")
            return answer
        if reply.status == 429:
            raise self._too_many(reply)
        reason = words(_error(reply))
        if reply.status == 403:
            raise Denied(f"HTTP 403: {reason}")
        if reply.status == 402:
            raise Unusable(f"HTTP 402, the account is not open: {reason}")
        raise http.fault_of(reply, reason)

    def _too_many(self, reply: http.Reply) -> Temporary:
        """Two limits answer alike: calls in two seconds, and the company's tokens of the day."""
        if reply.headers.get("x-daily-requests-left", "").strip() == "0":
            wait = min(DAY_SPENT, _until_midnight(self._now()))
            self._spent_until = self._now() + timedelta(seconds=wait)
            return Temporary(SPENT, retry_after=wait)
        wait = http.retry_after(reply.headers) or _reset(reply) or BURST
        self._budget.pause(min(wait, LONGEST_PAUSE))
        return Temporary("HTTP 429: too many calls", retry_after=wait)


@dataclass(frozen=True, slots=True)
class Field:
    """One custom field of type `enum`: its 40-character code and the ids of its options."""

    name: str
    code: str
    options: Mapping[int, str]

    def option(self, to: Wish) -> int:
        """Raises Refused where staff did not give the field such an option."""
        wanted = _folded(LABELS[to])
        found = (number for number, label in self.options.items() if _folded(label) == wanted)
        number = next(found, None)
        if number is None:
            raise Refused(f"the Pipedrive field {self.name} has no option {LABELS[to]!r}; add it")
        return number

    def meaning(self, number: object) -> Wish:
        """Raises Refused for an option that is neither of ours."""
        label = self.options.get(number, "") if isinstance(number, int) else ""
        for to, ours in LABELS.items():
            if _folded(ours) == _folded(label):
                return to
        known = " and ".join(LABELS.values())
        raise Refused(f"unknown option in the Pipedrive field {self.name}; known are {known}")


class Fields:
    """The account's person fields by name; read at first use and kept for an hour.

    Codes differ from account to account, so names are what is configured.
    """

    def __init__(self, line: Line, now: Now) -> None:
        self._line, self._now = line, now
        self._lock = asyncio.Lock()
        self._items: list[Json] = []
        self._read_at: datetime | None = None

    async def read(self, names: Sequence[str]) -> dict[str, Field]:
        """Those of the names that exist. Raises Refused where several fields have the name."""
        async with self._lock:
            if names and (self._read_at is None or self._now() - self._read_at > FIELDS_FOR):
                await self._load()
            found = {name: self._named(name) for name in names}
        return {name: field for name, field in found.items() if field}

    async def made(self, name: str) -> Field:
        """The field, made with its two options where the account does not have it yet."""
        field = (await self.read([name])).get(name)
        return field or await self._make(name)

    def forget(self) -> None:
        """Staff may have changed the fields: read them again before the next use."""
        self._read_at = None

    async def _make(self, name: str) -> Field:
        async with self._lock:
            await self._load()
            field = self._named(name, to_write=True)
            if field is None:
                options = [{"label": LABELS[to]} for to in (Wish.ON, Wish.OFF)]
                body = {"field_name": name, "field_type": "enum", "options": options}
                self._items.append(await self._new(name, body))
                field = self._named(name)
        if field is None:
            raise Temporary("Pipedrive made another field than it was asked for")
        return field

    async def _new(self, name: str, body: Json) -> Json:
        try:
            return await self._line.new_field(body)
        except PropagationError as fault:
            self.forget()
            if isinstance(fault, Denied | Refused):
                options = " and ".join(LABELS.values())
                raise Refused(
                    f"Pipedrive does not let us make the field {name} ({fault}): make it by hand, "
                    f"single option, with the options {options}"
                ) from None
            raise

    async def _load(self) -> None:
        items: list[Json] = []
        after: str | None = None
        while True:
            onward = {"cursor": after} if after else {}
            answer = await self._line.page(FIELDS, {"limit": str(PAGE), **onward})
            items += listed(answer)
            after = following(answer)
            if not after:
                break
        self._items, self._read_at = items, self._now()

    def _named(self, name: str, *, to_write: bool = False) -> Field | None:
        """A field of the name that is no single option holds nothing that we could read, and
        bars the way to make one. Raises Refused for that, and for two that could be meant."""
        found = [
            item
            for item in self._items
            if item.get("is_custom_field") is not False
            and _folded(str(item.get("field_name", ""))) == _folded(name)
        ]
        good = [item for item in found if item.get("field_type") == "enum"]
        if len(good) > 1:
            raise Refused(f"Pipedrive has {len(good)} person fields called {name}; keep one")
        if to_write and found and not good:
            raise Refused(f"the Pipedrive field {name} is not of the type single option")
        return _field(name, good[0]) if good else None


def _field(name: str, item: Json) -> Field:
    options = item.get("options") or ()
    try:
        held = {int(one["id"]): str(one["label"]) for one in options}
        return Field(name, str(item["field_code"]), held)
    except (KeyError, TypeError, ValueError):
        raise Temporary("Pipedrive answered something that is not a person field") from None


def listed(answer: Json) -> list[Json]:
    """The items of a page; `data` is null where there are none."""
    found = answer.get("data", ())
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise Temporary("Pipedrive answered something that is not a list")
    return found


def following(answer: Json) -> str | None:
    """Where the next page starts; None after the last one."""
    return (answer.get("additional_data") or {}).get("next_cursor") or None


def _object(answer: Json) -> Json:
    found = answer.get("data")
    if not isinstance(found, Mapping):
        raise Temporary("Pipedrive answered something that is not an object")
    return found


def _reset(reply: http.Reply) -> float | None:
    """Seconds until the limit of calls starts afresh."""
    text = reply.headers.get("x-ratelimit-reset", "").strip()
    return float(text) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) else None


def _until_midnight(now: datetime) -> float:
    today = now.astimezone(UTC)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - today).total_seconds()


def _error(reply: http.Reply) -> Json:
    """The error's object; a proxy's page has none."""
    try:
        error = json.loads(reply.body)
    except ValueError:
        return {}
    return error if isinstance(error, Mapping) else {}


def words(error: Json) -> str:
    """Pipedrive's own words for staff, without addresses, numbers and URLs in them (a webhook's URL
    may hold its key)."""
    return _UNSAFE.sub("(removed)", str(error.get("error") or "no reason given"))[:200]


def _folded(text: str) -> str:
    return text.strip().casefold()
