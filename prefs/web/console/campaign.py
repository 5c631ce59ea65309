"""/staff/campaign: check a list before it is sent to. The answers are those of `POST /v1/check`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from prefs.core.errors import BadInput, NotFound
from prefs.core.words import CHANNELS_OF, Channel, Purpose
from prefs.store.staff import Role
from prefs.web.bodies import CheckBody
from prefs.web.check import asked
from prefs.web.console import jobs, uploads
from prefs.web.console.jobs import Tell
from prefs.web.console.lists import MOST, List, Lists
from prefs.web.console.session import Visit, go, headers, signed_in
from prefs.web.context import Service
from prefs.web.scrub.asking import Asking, answered
from prefs.web.scrub.guess import Guess, Shape, guess
from prefs.web.scrub.rows import PIECE, Unreadable
from prefs.web.scrub.table import Table

PATH = "/staff/campaign"
KIND = "campaign"
LARGEST = 100 * 1024 * 1024
"""Bytes of a list."""
CHANNELS = [channel for channel in Channel if channel is not Channel.POST]
"""A postal address is several cells, which no single column holds."""


def _lists(request: Request) -> Lists:
    found: Lists = request.app.state.lists
    return found


@signed_in(Role.MANAGER)
async def campaign(request: Request, visit: Visit) -> Response:
    return await _start_page(request, visit)


async def _start_page(
    request: Request, visit: Visit, wrong: str = "", status: int = 200
) -> Response:
    """`wrong` is a whole sentence."""
    found = await asyncio.to_thread(_lists(request).of_brand, visit.member.brand)
    return visit.page("campaign.html", status, lists=found, wrong=wrong, largest=LARGEST >> 20)


# --- bringing a list ---------------------------------------------------------------------------


@signed_in(Role.MANAGER, brings_file=True)
async def bring(request: Request, visit: Visit) -> Response:
    too_large = "staff.campaign.bad.large"
    async with uploads.brought(request, visit, LARGEST, too_large) as (_, brought):
        if brought is None:
            return await _start_page(request, visit, visit.t("staff.campaign.bad.none"), 422)
        return await _keep(request, visit, brought)


async def _keep(request: Request, visit: Visit, brought: UploadFile) -> Response:
    lists, brand, region = _lists(request), visit.member.brand, visit.brand.region
    if len(await asyncio.to_thread(lists.of_brand, brand)) >= MOST:
        return await _start_page(request, visit, visit.t("staff.campaign.bad.many"), 409)
    try:
        await asyncio.to_thread(guess, brought.file, region)
    except Unreadable as fault:
        return await _start_page(request, visit, visit.t(fault.key, row=fault.row), 422)
    brought.file.seek(0)
    made = await asyncio.to_thread(lists.keep, brand, brought.filename or "", brought.file)
    return go(f"{PATH}/{made.id}")


# --- one list ----------------------------------------------------------------------------------


@signed_in(Role.MANAGER)
async def one_list(request: Request, visit: Visit) -> Response:
    found = _lists(request).one(visit.member.brand, request.path_params["id"])
    guessed = await asyncio.to_thread(_guess, found, visit.brand.region)
    return visit.page(
        "list.html",
        list=found,
        left=max(60.0, found.goes_at - time.time()),
        guess=guessed,
        job=await jobs.latest(visit, KIND, found.id),
        checked=found.checked.exists(),
        channels=CHANNELS,
        purposes=list(Purpose),
        topics=visit.brand.topics,
        targets=list(visit.brand.targets),
    )


def _guess(found: List, region: str) -> Guess:
    with found.source.open("rb") as file:
        return guess(file, region)


@signed_in(Role.MANAGER)
async def check(request: Request, visit: Visit) -> Response:
    """Answer every row, in the background."""
    found = _lists(request).one(visit.member.brand, request.path_params["id"])
    guessed = await asyncio.to_thread(_guess, found, visit.brand.region)
    shape = _shape(visit, guessed)
    body = _body(visit)
    await asked(visit.served, body)

    async def work(tell: Tell) -> Mapping[str, Any]:
        try:
            return await _check(visit.served, found, shape, body, tell)
        except Unreadable as fault:
            raise BadInput(visit.t(fault.key, row=fault.row)) from None

    await jobs.of(request).start(visit.served, body.brand, KIND, found.id, work)
    return go(f"{PATH}/{found.id}#result")


def _shape(visit: Visit, guessed: Guess) -> Shape:
    """Raises BadInput for a column that the list does not have."""
    text = visit.form.get("column", "")
    if not text.isascii() or not text.isdigit() or int(text) >= len(guessed.headings):
        raise BadInput("staff.campaign.bad.column")
    headed = visit.form.get("headed") == "yes"
    return guessed.shape._replace(column=int(text), headed=headed)


def _body(visit: Visit) -> CheckBody:
    """What `POST /v1/check` would be asked. Raises BadInput for words that are none."""
    form = visit.form
    channel, purpose, topic = (form.get(name, "") for name in ("channel", "purpose", "topic"))
    if purpose in set(Purpose) and channel not in CHANNELS_OF[Purpose(purpose)]:
        raise BadInput("staff.campaign.bad.purpose")
    if topic and purpose != Purpose.MARKETING:
        raise BadInput("staff.campaign.bad.topic")
    via = form.get("via") or None
    return CheckBody(visit.member.brand, channel, purpose, [], topic or None, via)


async def _check(
    served: Service, found: List, shape: Shape, body: CheckBody, tell: Tell
) -> Mapping[str, Any]:
    """Memory is flat: the rows of one read are held, and the answered list grows on disk."""
    ask, unfinished = await asked(served, body), found.folder / "unfinished.csv"
    with found.source.open("rb") as file, unfinished.open("wb") as out:
        asking = Asking(served, body.brand, ask)
        async for part in answered(Table(asking, shape=shape), _pieces(file)):
            out.write(part)
            tell("", asking.count)
    unfinished.replace(found.checked)
    return {
        "rows": asking.count,
        "allowed": asking.allowed,
        "reasons": {str(reason): count for reason, count in asking.reasons.most_common()},
        "channel": body.channel,
        "purpose": body.purpose,
        "topic": body.topic,
        "via": body.via,
    }


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


@signed_in(Role.MANAGER)
async def download(request: Request, visit: Visit) -> Response:
    found = _lists(request).one(visit.member.brand, request.path_params["id"])
    if not found.checked.exists():
        raise NotFound("this list is not checked yet")
    name = f"{visit.t('staff.campaign.checked')}-{Path(found.name).name or 'list.csv'}"
    return FileResponse(found.checked, headers=headers(), media_type="text/csv", filename=name)


@signed_in(Role.MANAGER)
async def drop(request: Request, visit: Visit) -> Response:
    """Delete a list and its answers at once."""
    brand, id_ = visit.member.brand, request.path_params["id"]
    lists = _lists(request)
    await asyncio.to_thread(lambda: lists.drop(lists.one(brand, id_)))
    return go(PATH)


routes = [
    Route(PATH, campaign, methods=["GET"]),
    Route(PATH, bring, methods=["POST"]),
    Route(f"{PATH}/{{id}}", one_list, methods=["GET"]),
    Route(f"{PATH}/{{id}}/check", check, methods=["POST"]),
    Route(f"{PATH}/{{id}}/download", download, methods=["GET"]),
    Route(f"{PATH}/{{id}}/drop", drop, methods=["POST"]),
]
