"""uvicorn with deadlines: a client that is slow or silent is closed.

uvicorn keeps a connection that never sends its headers open for ever. Here a client has ten
seconds for its headers and ten for each piece of a body, and a limit on the headers' size.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_WITHIN = 10.0
BODY_PIECE_WITHIN = 10.0
HEADER_BYTES = 32 * 1024
SHUTDOWN_WITHIN = 10


class Deadlines(HttpToolsProtocol):
    """Closes a connection whose headers do not come, or are too large."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself narrows it
        super().connection_made(transport)
        self._expect_headers()

    def _expect_headers(self) -> None:
        self._forget_headers()
        self._in_headers, self._header_bytes = True, 0
        self._headers_due = self.loop.call_later(HEADERS_WITHIN, self._too_slow)

    def _forget_headers(self) -> None:
        if self._headers_due:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            if self._headers_due is None:
                self._expect_headers()
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES + 64 * 1024:
                self._too_slow()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._forget_headers()
        self._in_headers = False
        size = sum(len(name) + len(value) for name, value in self.headers)
        if size > HEADER_BYTES:
            self._too_slow()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers, self._header_bytes = True, 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_headers()
        super().connection_lost(exc)


class Stalled(Exception):
    """A body stopped arriving."""


class BodyDeadline:
    """Ends a request whose body stalls; the connection is closed with a 408."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole = False
        started = False

        async def in_time() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_PIECE_WITHIN)
            except TimeoutError:
                raise Stalled from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, in_time, noted)
        except Stalled:
            if not started:
                await _close(send)


async def _close(send: Send) -> None:
    headers = [(b"connection", b"close"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 408, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


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
        timeout_keep_alive=30,
        timeout_graceful_shutdown=SHUTDOWN_WITHIN,
        ws="none",
        lifespan="on",
    )
