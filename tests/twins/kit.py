"""What every twin is built from: a vendor played by a small stateful app on loopback.

A twin keeps state, notes every call, misbehaves on demand and sends the vendor's webhooks::

    with running(MailchimpTwin()) as (twin, url):
        twin.faults.add("status", path="/3.0/lists", status=429, body="", times=2)
        ...                                        # the code under test calls `url`
        twin.person_unsubscribes(list="a1", email="amy@example.com")
        twin.courier.settle()                      # its webhooks have been tried
        assert [c.path for c in twin.writes()] == [...]

A vendor's twin subclasses `Twin[State]` and gives: `name`, `fresh()` (a new state: plain,
deep-copyable data), `routes()` (Starlette routes; endpoints are `async def` and change
`self.state` only after all checks have passed), `problem()` (the vendor's error shape) and
where needed `gate()`, `too_many()`, `show()`, `people()`, `configure()` and `@act` methods.

Control over HTTP, never noted in `calls`: `GET /` (page), `GET /_twin/state`,
`GET /_twin/calls?since=N`, `POST|DELETE /_twin/faults`, `POST /_twin/reset`,
`POST /_twin/configure`, `POST /_twin/acts/<act>` (JSON, or a form sent by the page).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import functools
import inspect
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
)
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from tests import prompt
from tests.twins.courier import PLAIN, Compose, Courier, Letter, Sent, Travel, not_2xx
from tests.twins.faults import Fault, Faults
from tests.twins.page import Button, Mark, Row, render_page

__all__ = [
    "PLAIN",
    "ActError",
    "Button",
    "Call",
    "Clock",
    "Compose",
    "Courier",
    "Fault",
    "Faults",
    "Letter",
    "Limits",
    "Mark",
    "Refusal",
    "Row",
    "Sent",
    "Travel",
    "Twin",
    "Window",
    "act",
    "not_2xx",
    "plain",
    "running",
]

S = TypeVar("S")
T = TypeVar("T", bound="Twin[Any]")
P = ParamSpec("P")
R = TypeVar("R")

# -- time ------------------------------------------------------------------------------------


class Clock:
    """The twin's time (UTC). Runs with the real one until a test moves or stops it."""

    def __init__(self) -> None:
        self._shift = timedelta()
        self._fixed: datetime | None = None

    def __call__(self) -> datetime:
        return (self._fixed or datetime.now(UTC)) + self._shift

    def move(self, seconds: float) -> None:
        """Move forward (or back, when negative) by that many seconds."""
        self._shift += timedelta(seconds=seconds)

    def stop(self, at: datetime) -> None:
        """Stand still at this time (aware); `move` still moves it."""
        self._fixed, self._shift = at.astimezone(UTC), timedelta()

    def reset(self) -> None:
        self._fixed, self._shift = None, timedelta()


# -- calls -----------------------------------------------------------------------------------

READS = ("GET", "HEAD", "OPTIONS")
SECRET_HEADERS = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-token",
    "x-keap-api-key",
)


@dataclass
class Call:
    """One call that reached the twin.

    n          counts from 1
    at         the twin's time; `began` is time.monotonic()
    path       decoded; `target` is path and query as sent
    headers    lower-case names; credentials replaced by "<scheme> redacted"
    status     None while it is open and when no reply was sent
    applied    the vendor did the work: the endpoint ran, succeeded, and its change was kept
    known      the vendor has such a method and path
    fault      kind of the fault that struck, "limit" for a refusal by rate, else None
    """

    n: int
    at: datetime
    began: float
    method: str
    path: str
    target: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    status: int | None = None
    applied: bool = False
    known: bool = True
    fault: str | None = None

    @property
    def writes(self) -> bool:
        return self.method not in READS

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> list[tuple[str, str]]:
        """The body's form fields in order, empty ones kept."""
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    def shown(self) -> dict[str, Any]:
        """As `GET /_twin/calls` shows it."""
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown.pop("began")
        return shown | {"at": self.at.isoformat(), "body": self.body.decode(errors="replace")}


@dataclass(frozen=True)
class Window:
    """At most `calls` begun in any `seconds`."""

    calls: int
    seconds: float


class Limits:
    """The vendor's rate limits; `at_once` None and no windows: unlimited."""

    def __init__(self, at_once: int | None = None, windows: Sequence[Window] = ()) -> None:
        self.at_once = at_once
        self.windows = tuple(windows)
        self.open = 0
        self.most_open = 0
        self.refused = 0
        self._begun: dict[Window, deque[float]] = {}

    def enter(self) -> bool:
        """Take a slot, or answer False: too many."""
        now = time.monotonic()
        if (self.at_once is not None and self.open >= self.at_once) or self._full(now):
            self.refused += 1
            return False
        for window in self.windows:
            self._begun[window].append(now)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return True

    def leave(self) -> None:
        self.open -= 1

    def left(self, window: Window) -> int:
        """Calls left in this window now."""
        begun = self._recent(window, time.monotonic())
        return max(0, window.calls - len(begun))

    def _full(self, now: float) -> bool:
        return any(len(self._recent(w, now)) >= w.calls for w in self.windows)

    def _recent(self, window: Window, now: float) -> deque[float]:
        begun = self._begun.setdefault(window, deque())
        while begun and begun[0] <= now - window.seconds:
            begun.popleft()
        return begun


# -- the twin --------------------------------------------------------------------------------


class Refusal(Exception):  # an answer, not a fault
    """Raised by an endpoint: answer this, nothing was changed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class ActError(Exception):
    """An act that cannot be done: no such person, wrong arguments."""


def act(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Something done inside the vendor, not through its API: callable in Python and over HTTP.

    Arguments are keywords; `travel: Travel` says how its webhooks travel. Webhooks queued with
    `self.post` leave when the act has succeeded."""

    @functools.wraps(method)
    def locked(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            try:
                result = method(self, *args, **kwargs)
            except BaseException:
                self.outbox.clear()
                raise
            self.flush()
            return result

    locked.is_act = True  # type: ignore[attr-defined]  # a mark on our own wrapper
    return locked


@dataclass
class Reply:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Twin(Generic[S]):
    """Base of all twins; see the module's docstring for what a vendor adds.

    state         all that the vendor knows; replaced whole by reset and by a lie
    calls         every call to a vendor path, in order of arrival
    faults        misbehaviour to come
    limits        the vendor's rate limits
    latency       seconds each call takes before its work, inside its slot
    webhook_url, webhook_secret   for vendors with one target; Mailchimp keeps its own
    lock          hold it to read several things that must fit together
    crashes       exceptions out of the twin's own code; `running` raises them at its end
    """

    name = "twin"
    title = ""
    """What the page calls it, where that is not the name with a capital."""
    default_limits: Callable[[], Limits] = Limits

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.faults = Faults()
        self.limits = type(self).default_limits()
        self.courier = Courier()
        self.outbox: list[tuple[Compose, Travel, Callable[[Sent], None]]] = []
        self.calls: list[Call] = []
        self.crashes: list[Exception] = []
        self.latency = 0.0
        self.webhook_url = ""
        self.webhook_secret = ""
        self.url = ""
        self.state: S = self.fresh()
        self._halt: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._vendor = Starlette(
            routes=list(self.routes()),
            exception_handlers={
                404: self._no_such_route,
                405: self._no_such_route,
                Refusal: _refused,
            },
        )
        self._vendor.router.redirect_slashes = False
        self._control = Starlette(routes=self._control_routes())

    # What a vendor gives

    def fresh(self) -> S:
        """A new, empty account."""
        raise NotImplementedError

    def routes(self) -> Sequence[BaseRoute]:
        raise NotImplementedError

    def problem(self, status: int, reason: str = "") -> Response:
        """The vendor's error shape for this status."""
        raise NotImplementedError

    def gate(self, request: Request) -> Response | None:
        """The refusal of a caller who may not come in, or None. Runs before routing."""
        return None

    def unlimited(self, path: str) -> bool:
        """Whether calls of this path are outside the limits: another host of the vendor."""
        return False

    def too_many(self) -> Response:
        """The vendor's answer to a call over its limits."""
        return self.problem(429)

    def reply_headers(self) -> Mapping[str, str]:
        """Headers on every answer, such as what is left of the rate."""
        return {}

    def show(self) -> Any:
        """JSON of everything held, for `GET /_twin/state`."""
        return plain(self.state)

    def people(self) -> Sequence[Row]:
        """The page's table."""
        return ()

    def page_buttons(self) -> Sequence[Button]:
        """Forms on the page that belong to nobody in the table."""
        return ()

    def page_links(self) -> Mapping[str, str]:
        """What can be opened from the page: words -> path."""
        return {}

    def configure(self, **settings: Any) -> None:
        """Apply settings by name. Raises ValueError on one that is unknown.

        Known to all: webhook_url, webhook_secret, latency (s), at_once, windows
        ([[calls, seconds], ...]), gaps ([s, ...]: between webhook attempts), clock_shift (s)."""
        for name, value in settings.items():
            match name:
                case "webhook_url" | "webhook_secret" | "latency":
                    setattr(self, name, value)
                case "at_once":
                    self.limits.at_once = value
                case "windows":
                    self.limits.windows = tuple(Window(int(c), float(s)) for c, s in value)
                case "gaps":
                    self.courier.gaps = tuple(float(gap) for gap in value)
                case "clock_shift":
                    self.clock.move(float(value))
                case _:
                    raise ValueError(f"no such setting: {name}")

    # What a vendor's endpoints and acts use

    def post(
        self,
        compose: Compose,
        travel: Travel = PLAIN,
        answered: Callable[[Sent], None] = lambda sent: None,
    ) -> None:
        """Send a webhook once the present call or act has succeeded."""
        self.outbox.append((compose, travel, answered))

    def flush(self) -> None:
        for compose, travel, answered in self.outbox:
            self.courier.post(compose, travel, answered)
        self.outbox.clear()

    def item_fault(self, request: Request, key: str) -> Fault | None:
        """Ask for each item of a bulk call: None, or how this item goes wrong."""
        return self.faults.take_item(request.method, request.url.path, key)

    # What tests use

    def writes(self) -> list[Call]:
        """Calls by another method than GET, HEAD, OPTIONS."""
        return [call for call in self.calls if call.writes]

    def unknown(self) -> list[Call]:
        """Calls to routes that the vendor does not have."""
        return [call for call in self.calls if not call.known]

    def reset(self) -> None:
        """Empty account, no calls, no faults, documented limits, real time."""
        with self.lock:
            self.state = self.fresh()
            self.calls.clear()
            self.faults.clear()
            self.courier.forget()
            self.outbox.clear()
            self.limits = type(self).default_limits()
            self.latency = 0.0
            self.clock = Clock()

    # The app

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: the page and the control routes, else the vendor."""
        if scope["type"] != "http" or scope["path"] == "/" or scope["path"].startswith("/_twin/"):
            await self._control(scope, receive, send)
        else:
            await self._vendor_call(scope, receive, send)

    async def _vendor_call(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._note(scope, await _read(receive))
        fault = self.faults.take(call.method, call.path)
        call.fault = fault.kind if fault else None
        if fault and fault.kind == "down":
            await _hang_up(receive, send)
            return
        free = self.unlimited(call.path)
        with self.lock:
            entered = free or self.limits.enter()
        if not entered:
            call.fault = "limit"
            await self._send(call, await _render(self.too_many(), scope), send)
            return
        try:
            reply = await self._answer(call, fault, scope)
        finally:
            if not free:
                with self.lock:
                    self.limits.leave()
        if reply is None:
            await _hang_up(receive, send)
            return
        await self._send(call, reply, send)

    async def _answer(self, call: Call, fault: Fault | None, scope: Scope) -> Reply | None:
        """The reply, or None: close without one."""
        await self._wait(self.latency)
        if fault is None:
            return await self._work(call, scope)
        match fault.kind:
            case "timeout_before_work":
                await self._wait(fault.seconds)
                return None
            case "late_work":
                await self._wait(fault.seconds)
                await self._work(call, scope)
                return None
            case "timeout_after_work":
                await self._work(call, scope)
                await self._wait(fault.seconds)
                return None
            case "lie":
                return await self._work(call, scope, keep=False)
            case "delay":
                reply = await self._work(call, scope)
                await self._wait(fault.seconds)
                return reply
            case "cut_json":
                reply = await self._work(call, scope)
                return dataclasses.replace(reply, body=reply.body[: len(reply.body) // 2])
            case _:
                if fault.work:
                    await self._work(call, scope)
                return await _render(self._struck(fault), scope)

    def _struck(self, fault: Fault) -> Response:
        if fault.kind == "html":
            return HTMLResponse("<!doctype html><title>Sign in</title><h1>Please sign in</h1>")
        response = (
            self.problem(fault.status)
            if fault.body is None
            else Response(fault.body, fault.status, media_type="text/plain")
        )
        if fault.body == "":
            del response.headers["content-type"]
        response.headers.update(fault.headers)
        return response

    async def _work(self, call: Call, scope: Scope, keep: bool = True) -> Reply:
        with self.lock:
            truth = self.state
            if not keep:
                self.state = copy.deepcopy(truth)
            reply = await self._endpoint(call, scope)
            done = keep and reply.status < 400
            if not keep:
                self.state = truth
            if done:
                self.flush()
            self.outbox.clear()
            call.applied = done
            return reply

    async def inner(self, method: str, path: str, query: str = "", body: bytes = b"") -> Reply:
        """Run one of the vendor's own endpoints from inside an endpoint (asynchronous jobs).

        Not noted, not limited, not struck by faults; a refusal comes back as a reply."""
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"twin")],
            "scheme": "http",
            "server": ("twin", 80),
            "root_path": "",
        }
        call = Call(0, self.clock(), time.monotonic(), method, path, path, (), {}, body)
        return await self._run(scope | {"twin.call": call}, body)

    async def _endpoint(self, call: Call, scope: Scope) -> Reply:
        request = Request(scope, _replay(call.body))
        if (refusal := self.gate(request)) is not None:
            return await _render(refusal, scope)
        return await self._run(dict(scope) | {"twin.call": call}, call.body)

    async def _run(self, scope: Scope, body: bytes) -> Reply:
        captured = _Capture()
        try:
            await self._vendor(scope, _replay(body), captured)
        except Exception as error:  # noqa: BLE001  # a fault of the twin itself: told by `running`
            self.crashes.append(error)
        return captured.reply()

    async def _no_such_route(self, request: Request, error: Exception) -> Response:
        call = cast(Call, request.scope["twin.call"])
        call.known = False
        return self.problem(getattr(error, "status_code", 404))

    async def _send(self, call: Call, reply: Reply, send: Send) -> None:
        call.status = reply.status
        length = str(len(reply.body)).encode()
        headers = [(k, v) for k, v in reply.headers if k != b"content-length"]
        headers += [(k.lower().encode(), v.encode()) for k, v in self.reply_headers().items()]
        headers += [] if reply.status == 204 else [(b"content-length", length)]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _wait(self, seconds: float) -> None:
        """Wait, but not past the end of the twin."""
        if seconds <= 0:
            return
        if self._halt is None:
            self._halt = asyncio.get_running_loop(), asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halt[1].wait(), seconds)

    def halt(self) -> None:
        """End all waiting of calls that hang."""
        if self._halt is not None:
            loop, event = self._halt
            loop.call_soon_threadsafe(event.set)

    def _note(self, scope: Scope, body: bytes) -> Call:
        query = scope["query_string"].decode("latin-1")
        raw = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        with self.lock:
            call = Call(
                n=len(self.calls) + 1,
                at=self.clock(),
                began=time.monotonic(),
                method=scope["method"],
                path=scope["path"],
                target=f"{raw}?{query}" if query else raw,
                query=tuple(parse_qsl(query, keep_blank_values=True)),
                headers=_redacted(scope["headers"]),
                body=body,
            )
            self.calls.append(call)
        return call

    # Control

    def _control_routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._page),
            Route("/_twin/state", self._show_state),
            Route("/_twin/calls", self._show_calls),
            Route("/_twin/faults", self._show_faults),
            Route("/_twin/faults", self._add_fault, methods=["POST"]),
            Route("/_twin/faults", self._clear_faults, methods=["DELETE"]),
            Route("/_twin/faults/clear", self._clear_faults, methods=["POST"]),
            Route("/_twin/reset", self._reset, methods=["POST"]),
            Route("/_twin/configure", self._configure, methods=["POST"]),
            Route("/_twin/acts/{act}", self._act, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        with self.lock:
            return HTMLResponse(render_page(self, still="still" in request.query_params))

    async def _show_state(self, request: Request) -> Response:
        with self.lock:
            return JSONResponse(self.show())

    async def _show_calls(self, request: Request) -> Response:
        since = int(request.query_params.get("since", "0"))
        with self.lock:
            return JSONResponse([call.shown() for call in self.calls if call.n > since])

    async def _show_faults(self, request: Request) -> Response:
        return JSONResponse([dataclasses.asdict(fault) for fault in self.faults.waiting()])

    async def _add_fault(self, request: Request) -> Response:
        fields = await _fields(request)
        if isinstance(times := fields.get("times"), str):
            fields["times"] = int(times) if times else None
        try:
            fault = self.faults.add(fields.pop("kind", None), **fields)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return _done(request, dataclasses.asdict(fault))

    async def _clear_faults(self, request: Request) -> Response:
        self.faults.clear()
        return _done(request, None)

    async def _reset(self, request: Request) -> Response:
        self.reset()
        return _done(request, None)

    async def _configure(self, request: Request) -> Response:
        try:
            with self.lock:
                self.configure(**await _fields(request))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return _done(request, None)

    async def _act(self, request: Request) -> Response:
        method = getattr(self, request.path_params["act"], None)
        if method is None or not getattr(method, "is_act", False):
            return JSONResponse({"error": "no such act"}, 404)
        fields = await _fields(request)
        try:
            if "travel" in fields:
                fields["travel"] = Travel(**fields["travel"])
            inspect.signature(method).bind(**fields)
            return _done(request, method(**fields))
        except (ActError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)


# -- serving ---------------------------------------------------------------------------------


@contextlib.contextmanager
def running(twin: T, port: int = 0, host: str = "127.0.0.1") -> Iterator[tuple[T, str]]:
    """Serve the twin there (port 0: a free one) from a thread: gives (twin, url).

    At the end the first exception out of the twin's own code, if any, is raised."""
    listening = socket.create_server((host, port), backlog=512)
    twin.url = f"http://{host}:{listening.getsockname()[1]}"
    twin._halt = None
    config = uvicorn.Config(
        twin.app,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,  # as vendors' proxies do (nginx: 75 s), and not uvicorn's 5
        timeout_graceful_shutdown=1,
    )
    with listening, prompt.running(config, listening, twin.name):
        try:
            yield twin, twin.url
        finally:
            twin.courier.close()
            twin.halt()
    if twin.crashes:
        raise twin.crashes[0]


# -- small parts -----------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """JSON-able form of dataclasses, mappings, sequences, sets, bytes and times."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value


async def _refused(request: Request, error: Exception) -> Response:
    return cast(Refusal, error).response


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _Capture:
    """A `send` that keeps the response."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    def reply(self) -> Reply:
        return Reply(self.status, self.headers, self.body)


async def _render(response: Response, scope: Scope) -> Reply:
    captured = _Capture()
    await response(scope, _replay(b""), captured)
    return captured.reply()


async def _hang_up(receive: Receive, send: Send) -> None:
    """Close the connection without a reply: ASGI has no word for it, so uvicorn's transport."""
    cycle = cast(Any, send).__self__
    cycle.transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


def _redacted(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    shown = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
    for name in SECRET_HEADERS:
        if name in shown:
            scheme, _, rest = shown[name].partition(" ")
            shown[name] = f"{scheme} redacted" if rest else "redacted"
    return shown


def _is_form(request: Request) -> bool:
    return "urlencoded" in request.headers.get("content-type", "")


async def _fields(request: Request) -> dict[str, Any]:
    body = await request.body()
    if _is_form(request):
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    return dict(json.loads(body or b"{}"))


def _done(request: Request, result: Any) -> Response:
    """Back to the page for a form, which goes on standing still; JSON for a program."""
    if _is_form(request):
        still = request.headers.get("referer", "").endswith("?still")
        return RedirectResponse("/?still" if still else "/", 303)
    return JSONResponse({"done": True, "result": plain(result)})
