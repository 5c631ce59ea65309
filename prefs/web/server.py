"""uvicorn with deadlines: a client that is slow or silent is closed. And with a leave in steps, so
that a proxy notices before anybody is refused.

uvicorn keeps a connection that never sends its headers open for ever. Here a client has ten
seconds for its headers and ten for each piece of a body, and a limit on the headers' size.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prefs.web.problems import Stalled

HEADERS_WITHIN = 10.0
BODY_PIECE_WITHIN = 10.0
TAKEN_WITHIN = 60.0
"""Seconds in which a client that has sent all of its request must take some of the answer."""
LINGER = 1.0
"""Seconds for the rest of a body after the answer: a client that still sends may yet read it."""
HEADER_BYTES = 32 * 1024
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
HELD_BYTES = 64 * 1024
TURN = 0.0005
"""Seconds that a thread computes while another one waits for the interpreter."""
IDLE_WITHIN = 30
SHUTDOWN_WITHIN = 10


WHOLE = "prefs.whole"
"""In the scope of a request that has come to its end before anybody looks at it."""


class TooLarge(Exception):
    """The headers of a request exceed HEADER_BYTES."""


class Joined:
    """A transport on which all that is written in one turn of the event loop leaves at its end, in
    one system call. uvicorn writes the head of an answer and what follows apart; and answers that
    were worked out together, sent one by one, would each wake a client that has gone to sleep."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._let_go)
        self._held += data
        if len(self._held) > HELD_BYTES:
            self._let_go()

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def _let_go(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Deadlines(HttpToolsProtocol):
    """Closes a connection whose headers do not come in time or are too large, one whose body goes
    on after its answer was given, and one whose answer is not taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None
        self._take_by: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._whole = False
        self._ended = False
        self._unfinished_bytes = 0
        self._came = self._piece = 0
        self._large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself narrows it
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
        self._wait(HEADERS_WITHIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._ended = False  # a request may come whole in one piece: its body is no header
        self._piece = len(data)
        self._came += self._piece  # since the piece that held the end of the headers before
        super().data_received(data)
        if self._in_headers and not self._ended:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > HEADER_BYTES:
                self._large = True
                self.send_400_response("")
            elif self._due is None:
                self._wait(HEADERS_WITHIN)

    def on_headers_complete(self) -> None:
        if self._came > HEADER_BYTES and self._header_bytes() > HEADER_BYTES:
            self._large = True
            raise TooLarge
        self._came = self._piece
        self._stop_waiting()
        self._in_headers, self._whole = False, False
        super().on_headers_complete()

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_message_complete(self) -> None:
        self._in_headers, self._whole = True, True
        self._ended, self._unfinished_bytes = True, 0
        self.scope[WHOLE] = True  # type: ignore[literal-required]  # ours, beside the names of ASGI
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole:
            self._wait(LINGER)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._take_by = self.loop.call_later(TAKEN_WITHIN, self._not_taken)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._take_by:
            self._take_by.cancel()
            self._take_by = None

    def _not_taken(self) -> None:
        """Who still sends may well read later: a list that comes slowly is no fault."""
        if self._whole:
            self.transport.abort()
        else:
            self._take_by = self.loop.call_later(TAKEN_WITHIN, self._not_taken)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's one way to refuse what its parser could not take, a raised TooLarge too."""
        if not self._large:
            super().send_400_response(msg)
        elif not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._due = self.loop.call_later(seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class BodyDeadline:
    """Ends a request whose body stalls: Stalled is raised where the body is read. Most bodies came
    with their headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get(WHOLE):
            await self._app(scope, receive, send)
            return
        whole = False

        async def in_time() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(BODY_PIECE_WITHIN):
                    message = await receive()
            except TimeoutError:
                raise Stalled from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, in_time, send)


def take_turns() -> None:
    """Every statement of a click gives the interpreter away and asks for it again. A thread that
    computes (a scrub) would keep it for 5 ms each time; it is asked to give it up sooner."""
    sys.setswitchinterval(TURN)


def calm_collector() -> None:
    """Full collections walk every live object, 35 to 60 ms a time: freeze what start-up made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        BodyDeadline(app),
        host=host,
        port=port,
        loop="uvloop",
        http=Deadlines,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_WITHIN,
        timeout_graceful_shutdown=SHUTDOWN_WITHIN,
        ws="none",
        lifespan="on",
    )


class Server(uvicorn.Server):
    """On SIGTERM it goes in steps: `leaving` is set (not ready any more), `drain` seconds later the
    listener closes, and what is in flight then ends within SHUTDOWN_WITHIN. Ctrl-C, and a second
    signal, skip the wait."""

    def __init__(self, config: uvicorn.Config, leaving: asyncio.Event, drain: float) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._drain = drain
        self._asked_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn would end the process by the signal itself, before the database is closed."""
        if sig == signal.SIGTERM and self._asked_at is None and self.started:
            self._asked_at = time.monotonic()
        elif self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._asked_at is not None:
            self._leaving.set()
            if time.monotonic() >= self._asked_at + self._drain:
                self.should_exit = True
        return await super().on_tick(counter)
