"""JSON over httpx with one token: what most vendors' interfaces come down to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connectors import http
from connectors.oauth import Tokens
from prefs.core.errors import PropagationError, Temporary

Json = Mapping[str, Any]
Fault = Callable[[http.Reply], PropagationError]


class Line:
    """`fault` tells what a status and its body amount to; `headers` go along with every call."""

    def __init__(
        self,
        way: http.Way,
        tokens: Tokens,
        headers: Mapping[str, str] | None = None,
        fault: Fault = http.fault_of,
    ) -> None:
        self._way, self._tokens, self._fault = way, tokens, fault
        self._headers = dict(headers or {})

    async def close(self) -> None:
        await self._way.close()

    async def read(self, path: str, params: Any = None, headers: Json | None = None) -> Json:
        """A GET, tried a few times."""
        return await http.retried(lambda: self._json("GET", path, params, None, headers))

    async def write(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Any = None,
        headers: Json | None = None,
        repeat: bool,
        empty: bool = False,
    ) -> Json:
        """Without `repeat` (an `on`) it is sent exactly once. With `empty` the answer has no
        body."""

        async def send() -> Json:
            return await self._json(method, path, params, body, headers, empty=empty)

        return await (http.retried(send) if repeat else send())

    async def _json(
        self,
        method: str,
        path: str,
        params: Any,
        body: Any,
        headers: Json | None,
        *,
        empty: bool = False,
    ) -> Json:
        token = await self._tokens.get()
        sent = {"Authorization": f"Bearer {token}", **self._headers, **(headers or {})}
        reply = await self._way.send(method, path, params=params, json=body, headers=sent)
        self._tokens.check(reply, token)
        if not 200 <= reply.status < 300:
            raise self._refused(reply)
        if empty and reply.status == 204:
            return {}
        answer = reply.json()
        if not isinstance(answer, Mapping):
            raise Temporary("the vendor answered JSON that is not an object")
        return answer

    def _refused(self, reply: http.Reply) -> PropagationError:
        if reply.status == 429:
            self._way.pause(reply)
        return self._fault(reply)


def items(answer: Json, name: str) -> list[Json]:
    """A list of objects, missing where the vendor leaves empty lists out. Raises Temporary for
    anything else."""
    found = answer.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise Temporary("the vendor's answer lacks what was asked for")
    return found
