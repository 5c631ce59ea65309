"""uvicorn in a thread of the tests: it begins and ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn


class Prompt(uvicorn.Server):
    """uvicorn looks every 0.1 s whether it is to end, then waits 0.1 s whatever there is to wait
    for: more than most tests take, and hundreds of them start and end a server."""

    _loop: asyncio.AbstractEventLoop
    _ended: asyncio.Event

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = threading.Event()

    async def main_loop(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self.begun.set()
        while not self.should_exit:
            await self.on_tick(0)  # the Date of its answers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ended.wait()

    def end(self) -> None:
        self.should_exit = True
        with contextlib.suppress(AttributeError, RuntimeError):  # not begun, already over
            self._loop.call_soon_threadsafe(self._ended.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._all_gone()
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()

    async def _all_gone(self) -> None:
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.002)


@contextlib.contextmanager
def running(config: uvicorn.Config, listener: socket.socket, name: str) -> Iterator[Prompt]:
    """Serve on this socket from a thread of that name, from when it answers."""
    server = Prompt(config)
    thread = threading.Thread(target=server.run, args=([listener],), name=name, daemon=True)
    thread.start()
    try:
        while not server.begun.wait(0.1):
            assert thread.is_alive(), f"{name} did not start"
        yield server
    finally:
        server.end()
        thread.join(15)
