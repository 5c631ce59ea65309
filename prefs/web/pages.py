"""Pages for people: how they look, what every answer carries, and what happens on a fault.

Rendered here, readable without scripts, nothing from third parties. No cookie is set or read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Connection
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from prefs.core import identity
from prefs.core.errors import BadInput, NotFound, Unavailable
from prefs.core.signals import Evidence, Identifier
from prefs.core.spans import span
from prefs.core.tokens import Forged, Token, TokenKind, read
from prefs.core.words import KIND_OF, Channel, Kind
from prefs.door import Deed
from prefs.settings import Brand, Look, Settings
from prefs.store import subjects
from prefs.web.context import Service, service
from prefs.web.problems import RETRY_AFTER, Stalled
from prefs.web.texts import Agreed, texts_of

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

HERE = Path(__file__).parent
LOGOS = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
BODY_LIMIT = 64 * 1024
WRITE_WITHIN = 5.5
"""Seconds. A locked store gives up after 5; behind others in the queue it may take longer."""
METHODS = ["GET", "HEAD", "OPTIONS", "POST"]

CSP = "; ".join(  # noqa: FLY002  # one directive a line
    [
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}

log = structlog.get_logger()

environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
STATIC = {
    "pages.css": ("text/css", (HERE / "static" / "pages.css").read_bytes()),
    "console.css": ("text/css", (HERE / "static" / "console.css").read_bytes()),
    "console.js": ("text/javascript", (HERE / "static" / "console.js").read_bytes()),
    "overview.js": ("text/javascript", (HERE / "static" / "overview.js").read_bytes()),
    "chart.umd.min.js": (
        "text/javascript",
        (HERE / "static" / "vendor" / "chart.umd.min.js").read_bytes(),
    ),
    "icon.svg": ("image/svg+xml", (HERE / "static" / "icon.svg").read_bytes()),
}


def static(name: str) -> str:
    """The address of a file; it changes with the content, so the file may be kept for ever."""
    return f"/static/{name}?{sha256(STATIC[name][1]).hexdigest()[:12]}"


environment.globals["static"] = static


def look_of(brand: Brand | None) -> str:
    """The address of a brand's own style sheet, empty where it has none."""
    if brand is None or brand.look == Look(None, None):
        return ""
    return f"/static/brands/{brand.id}.css?{sha256(_style(brand)).hexdigest()[:12]}"


def _style(brand: Brand) -> bytes:
    colour = brand.look.colour
    return f":root{{--act:{colour}}}\n".encode() if colour else b""


def logo_of(brand: Brand | None) -> str:
    if brand is None or brand.look.logo is None:
        return ""
    return f"/static/brands/{brand.id}/logo?{sha256(brand.look.logo.read_bytes()).hexdigest()[:12]}"


environment.globals["look_of"] = look_of
environment.globals["logo_of"] = logo_of


# --- rendering ---------------------------------------------------------------------------------


def page(
    settings: Settings, brand: str | None, template: str, status: int = 200, **context: Any
) -> Response:
    """A page in the brand's name and language; without a brand, in nobody's."""
    shown = settings.brands[brand] if brand else None
    texts = texts_of(shown)
    body = environment.get_template(template).render(
        t=texts,
        brand=shown,
        controller=settings.controllers[shown.controller] if shown else None,
        **context,
    )
    return Response(body, status, headers=HEADERS, media_type="text/html")


def forged_page(settings: Settings) -> Response:
    """The same bytes for every link that is none of ours."""
    return page(settings, None, "forged.html", 404)


def away_page(settings: Settings, brand: str | None) -> Response:
    """Nothing was recorded: say so, and name another way out."""
    answer = page(settings, brand, "away.html", 503)
    answer.headers["Retry-After"] = RETRY_AFTER
    return answer


def options() -> Response:
    return Response(status_code=204, headers={**HEADERS, "Allow": ", ".join(METHODS)})


def guarded(handler: Handler) -> Handler:
    """Answers a fault with a page, and OPTIONS without asking the handler."""

    async def answer(request: Request) -> Response:
        settings = service(request).settings
        if request.method == "OPTIONS":
            return options()
        try:
            return await handler(request)
        except NotFound:
            return forged_page(settings)
        except BadInput as fault:
            back = f"{request.url.path}?{request.url.query}".rstrip("?")
            return page(settings, _brand(request), "bad.html", fault.status, back=back)
        except Unavailable:
            return away_page(settings, _brand(request))

    return answer


def _brand(request: Request) -> str | None:
    """Whose page it is, as far as it was found out before the fault."""
    found: str | None = getattr(request.state, "brand", None)
    return found


# --- what a request brings ---------------------------------------------------------------------


def opened(request: Request, kinds: Collection[TokenKind]) -> Token:
    """The token in the path. Raises Forged, also for a brand that is no longer configured."""
    served = service(request)
    token = read(served.keys, request.path_params["token"], kinds)
    if token.brand not in served.settings.brands:
        raise Forged
    request.state.brand = token.brand
    return token


async def swallow(request: Request) -> None:
    """Read a body of whatever kind, up to 64 KiB, and forget it. Whoever hangs up or stalls
    meanwhile has posted all the same."""
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size >= BODY_LIMIT:
                return
    except (ClientDisconnect, Stalled):
        return


def evidence_of(request: Request, path: str, agreed: Agreed | None = None) -> Evidence:
    """`path` is the page's template: a token proves nothing and opens doors."""
    client = request.client
    agent = request.headers.get("user-agent")
    return Evidence(
        wording=agreed.text if agreed else None,
        version=agreed.version if agreed else None,
        language=agreed.language if agreed else None,
        page=path,
        ip=client.host if client else None,
        user_agent=agent[:300] if agent else None,
    )


async def write(served: Service, job: Callable[[Connection], T]) -> T:
    """Run `job` in the store; returns once it is on disk. Raises Unavailable after 5.5 s."""
    return await _in_time(served.database.write(job))


async def take(served: Service, deed: Deed[T]) -> T:
    """The same for what is recorded together with others'."""
    return await _in_time(served.door.take(deed))


async def _in_time(written: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(WRITE_WITHIN):
            with span("page.write"):
                return await written
    except TimeoutError:
        raise Unavailable("the store does not answer in time") from None


def masked(conn: Connection, served: Service, token: Token) -> tuple[Channel, str] | None:
    """The channel and masked spelling of the token's identifier; None where only its hash is
    left."""
    controller = served.settings.brands[token.brand].controller
    known = subjects.known(conn, controller, token.hash, served.keys)
    if known is None or known.spelling is None:
        return None
    spelled = Identifier(known.kind, known.spelling, known.spelling)
    return _channel(known.kind), identity.masked(spelled)


def _channel(kind: Kind) -> Channel:
    return next(channel for channel, of in KIND_OF.items() if of is kind)


# --- static files ------------------------------------------------------------------------------


async def one_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise NotFound
    return _kept(*STATIC[name])


async def brand_style(request: Request) -> Response:
    return _kept("text/css", _style(_known_brand(request)))


async def brand_logo(request: Request) -> Response:
    logo = _known_brand(request).look.logo
    if logo is None:
        raise NotFound
    content = await asyncio.to_thread(logo.read_bytes)
    return _kept(LOGOS[logo.suffix], content)


def _known_brand(request: Request) -> Brand:
    brand = service(request).settings.brands.get(request.path_params["brand"])
    if brand is None:
        raise NotFound
    return brand


def _kept(kind: str, content: bytes) -> Response:
    """A file whose address changes with its content."""
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type=kind)


routes = [
    Route("/static/{name}", one_file, methods=["GET"]),
    Route("/static/brands/{brand}.css", brand_style, methods=["GET"]),
    Route("/static/brands/{brand}/logo", brand_logo, methods=["GET"]),
]
