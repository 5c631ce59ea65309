"""POST /v1/scrub: a list of any size, answered while it still comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from prefs.core.errors import BadInput, PrefsError
from prefs.core.words import Channel
from prefs.metrics import CHECKED
from prefs.store.access import ApiKey
from prefs.web.auth import needs, same_brand
from prefs.web.bodies import CheckBody
from prefs.web.check import asked
from prefs.web.context import Service
from prefs.web.scrub.asking import Asking, List, answered
from prefs.web.scrub.lines import Lines
from prefs.web.scrub.table import Table
from prefs.web.scrub.waiting import Waiting

log = structlog.get_logger()

NEEDED = ("brand", "channel", "purpose")
QUERY = (*NEEDED, "topic", "column")
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


@needs("check")
async def scrub(request: Request, served: Service, key: ApiKey) -> Response:
    """The list as it came, row for row, with `allowed` and `reason` added."""
    query = _query(request)
    brand = same_brand(key, query["brand"])
    body = CheckBody(brand, query["channel"], query["purpose"], [], query.get("topic"))
    try:
        ask = await asked(served, body)
    except BadInput as fault:
        raise BadInput(str(fault), field=fault.field.removeprefix("$.")) from None
    list_ = _list(request, Asking(served, brand, ask), query.get("column"))
    return Scrubbing(request, list_)


def _query(request: Request) -> Mapping[str, str]:
    """Raises BadInput for a parameter that is missing, unknown or given twice."""
    given = request.query_params.multi_items()
    unknown = sorted({name for name, _ in given} - set(QUERY))
    if unknown:
        raise BadInput(f"unknown parameters; known are: {', '.join(QUERY)}", field=unknown[0])
    twice = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
    if twice:
        raise BadInput("given twice", field=twice[0])
    query = {name: text for name, text in given if text}
    missing = [name for name in NEEDED if name not in query]
    if missing:
        raise BadInput("this parameter is missing", field=missing[0])
    return query


def _list(request: Request, asking: Asking, column: str | None) -> List[Any]:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadInput("send the list without content-encoding", status=415)
    sort = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sort in NDJSON:
        return Lines(asking, column)
    if sort != "text/csv":
        raise BadInput("the content-type is text/csv or application/x-ndjson", status=415)
    if asking.channel is Channel.POST:
        raise BadInput("a postal address is no single column: send NDJSON", field="channel")
    return Table(asking, column)


class Scrubbing(Response):
    """Sends while the request still comes. What is wrong from the beginning on is a problem with
    its status; later a list that can say so ends with the problem, and any other breaks off: the
    connection is closed before the end of the (chunked) answer."""

    def __init__(self, request: Request, list_: List[Any]) -> None:
        sort = request.headers.get(
            "content-type", list_.media_type
        )  # its charset is the list's own
        super().__init__(headers={"Content-Type": sort, "Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._request = request
        self._list = list_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, waiting = answered(self._list, self._request.stream()), Waiting()
        sending: asyncio.Task[None] | None = None
        try:
            waiting.put(await anext(parts))
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.create_task(_send(waiting, send))
            whole = await self._fill(waiting, parts)
            await sending
        except ClientDisconnect:
            if sending is None:
                raise
            return
        finally:
            if sending:
                sending.cancel()
            waiting.close()
            self._count()
        if whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _fill(self, waiting: Waiting, parts: AsyncIterator[bytes]) -> bool:
        """Whether the answer ends as one should."""
        try:
            async for part in parts:
                waiting.put(part)
        except PrefsError as fault:
            log.warning("scrub_broken", fault=type(fault).__name__, rows=self._list.asking.count)
            status = fault.status if isinstance(fault, BadInput) else 503
            detail = str(fault) if isinstance(fault, BadInput) else "the store does not answer"
            waiting.put(self._list.fault(status, detail))
            return self._list.tells_faults
        finally:
            waiting.end()
        return True

    def _count(self) -> None:
        asking = self._list.asking
        CHECKED.labels("yes").inc(asking.allowed)
        CHECKED.labels("no").inc(asking.count - asking.allowed)


async def _send(waiting: Waiting, send: Send) -> None:
    async for part in waiting.taken():
        await send({"type": "http.response.body", "body": part, "more_body": True})


routes = [Route("/v1/scrub", scrub, methods=["POST"])]
