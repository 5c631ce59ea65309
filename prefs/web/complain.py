"""/complain/{token}: a complaint about how data is used becomes work for staff, with a clock.

A controller must offer a form, acknowledge within 30 days beginning when the complaint is received,
and answer without undue delay: Data Protection Act 2018 section 164A, inserted by section 103 of
the Data (Use and Access) Act 2025. https://www.legislation.gov.uk/ukpga/2025/18/section/103
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from hashlib import sha256
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefs import links
from prefs.core.tokens import Token, TokenKind
from prefs.core.words import Channel, Kind
from prefs.settings import Brand
from prefs.store import events, outbox, subjects, tasks
from prefs.web.centre import form_of
from prefs.web.context import Service, service
from prefs.web.pages import METHODS, guarded, masked, opened, page, write

ONLY = (TokenKind.COMPLAIN,)
KIND = "complaint"
"""Of the task, and of the mail that acknowledges it."""
ACKNOWLEDGED_WITHIN = 30
"""Days, that of receipt counted."""
OFFICE_CLOSES = time(17, 0)
LONGEST = 10_000

Address = tuple[Channel, str] | None


class Taken(NamedTuple):
    """A complaint on its way in. `mailed` is whether a receipt goes out by mail."""

    address: Address
    mailed: bool


@guarded
async def complain(request: Request) -> Response:
    """GET shows the form, POST takes the complaint."""
    served, token = service(request), opened(request, ONLY)
    if request.method != "POST":
        return await _form(served, token)
    text = (await form_of(request)).get("text", "").replace("\r\n", "\n").strip()
    if not text or len(text) > LONGEST:
        fault = "complain.too_long" if text else "complain.empty"
        return await _form(served, token, 422, text=text, fault=fault)
    brand, now = served.settings.brands[token.brand], served.clock()
    taken = await write(served, lambda conn: _take(conn, served, token, text, now))
    by = acknowledge_by(now, brand)
    return _page(served, token, taken.address, done=True, text=text, by=by, mailed=taken.mailed)


def acknowledge_by(received: datetime, brand: Brand) -> date:
    """The last day, where the brand is."""
    day = received.astimezone(ZoneInfo(brand.timezone)).date()
    return day + timedelta(days=ACKNOWLEDGED_WITHIN - 1)


async def _form(
    served: Service, token: Token, status: int = 200, *, text: str = "", fault: str = ""
) -> Response:
    address = await served.database.read(lambda conn: masked(conn, served, token))
    return _page(served, token, address, status, text=text, fault=fault)


def _take(conn: Connection, served: Service, token: Token, text: str, now: datetime) -> Taken:
    """The same words by the same address on the same day are one complaint: a page that was sent
    twice."""
    mailed = token.identifier_kind is Kind.EMAIL and served.settings.mail is not None
    same = sha256(token.hash + text.encode() + now.date().isoformat().encode()).hexdigest()
    label = f"{token.brand} {KIND}"
    if events.first_time(conn, label, f"{KIND} {same}", now.timestamp()):
        id_ = _task(conn, served, token, text, now)
        content = {"task": id_, "received": now.timestamp()}
        at = now.timestamp()
        outbox.add(conn, served.keys, KIND, token.brand, token.hash, content, at)
    return Taken(masked(conn, served, token), mailed)


def _task(conn: Connection, served: Service, token: Token, text: str, now: datetime) -> int:
    brand = served.settings.brands[token.brand]
    known = subjects.known(conn, brand.controller, token.hash, served.keys)
    owners = subjects.owners(conn, brand.controller, [token.hash])
    owner = token.subject_id if token.subject_id in owners else None
    by = acknowledge_by(now, brand)
    due = datetime.combine(by, OFFICE_CLOSES, ZoneInfo(brand.timezone))
    body = {
        "text": text,
        "from": known.spelling if known else None,
        "acknowledge_by": by.isoformat(),
        "acknowledged_at": None,
    }
    subject = owner or (owners[0] if len(owners) == 1 else None)
    at = now.timestamp()
    return tasks.add(conn, served.keys, brand.id, KIND, subject, body, at, due.timestamp())


def acknowledged(conn: Connection, served: Service, brand: str, task: int) -> None:
    """The receipt went out: the clock of the task has stopped."""
    row = tasks.one(conn, brand, task)
    if row is not None:
        at = served.clock().isoformat(timespec="seconds")
        body = {**tasks.body(served.keys, row), "acknowledged_at": at}
        tasks.rewrite(conn, served.keys, task, body)


def _page(
    served: Service,
    token: Token,
    address: Address,
    status: int = 200,
    *,
    done: bool = False,
    text: str = "",
    fault: str = "",
    by: date | None = None,
    mailed: bool = False,
) -> Response:
    holder = links.holder_of(token)
    return page(
        served.settings,
        token.brand,
        "complain.html",
        status,
        done=done,
        text=text,
        fault=fault,
        longest=LONGEST,
        by=by.isoformat() if by else "",
        mailed=mailed,
        address=address,
        stop=f"/u/{links.seal(served, TokenKind.FOOTER_UNSUBSCRIBE, holder)}",
        preferences=links.path(served, TokenKind.CENTRE_FOOTER, holder),
    )


routes = [Route("/complain/{token}", complain, methods=METHODS)]
