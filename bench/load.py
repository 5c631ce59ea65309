"""A load generator of raw asyncio streams, run as a process of its own.

    python -m bench.load PORT CONNECTIONS SECONDS PER_SECOND < requests

The first line of the input is JSON of what all requests share: {"path": ..., "headers": {...}};
each further line is the body of one. Lines that begin with "/" are paths, without a body of their
own (the shape's "body" is sent). PER_SECOND 0 asks again as soon as an answer came; else requests
set out at that pace whatever becomes of the earlier ones, and their time counts from when they were
due. Prints {"requests", "seconds", "errors", "latencies"}: latencies in seconds, rising.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import uvloop


def compose(shape: Mapping[str, Any], line: str) -> bytes:
    path, body = (line, shape["body"]) if line.startswith("/") else (shape["path"], line)
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name}: {value}" for name, value in shape["headers"].items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@lru_cache(256)
def _length(head: bytes) -> int:
    """Heads of one second are alike, but for the length."""
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._due = 0.0
        self._buffer = b""
        self.latencies: list[float] = []
        self.errors = 0
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, due: float) -> None:
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found or len(rest) < _length(head):
            self._buffer = data
            return
        self._buffer = b""
        now = time.perf_counter()
        self.latencies.append(now - self._due)
        self.errors += not head.startswith(b"HTTP/1.1 200")
        self.answered(now)

    def answered(self, now: float) -> None:
        """A whole answer came; each kind of client says what it does then."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        self.left()

    def left(self) -> None:
        """The connection ended."""


class Hurried(Connection):
    """Asks again as soon as it is answered."""

    def __init__(self, requests: Iterator[bytes], until: float) -> None:
        super().__init__()
        self._requests, self._until = requests, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ask(next(self._requests), time.perf_counter())

    def answered(self, now: float) -> None:
        if now < self._until:
            self.ask(next(self._requests), now)
        else:
            self.transport.close()

    def left(self) -> None:
        if not self.done.done():
            self.errors += time.perf_counter() < self._until  # hung up on us
            self.done.set_result(None)


class Paced(Connection):
    """Takes what is due when it is free."""

    def __init__(self, waiting: deque[tuple[bytes, float]]) -> None:
        super().__init__()
        self._waiting = waiting
        self.free = True

    def answered(self, now: float) -> None:
        self.free = True
        self.go_on()

    def go_on(self) -> None:
        if self.free and self._waiting:
            self.free = False
            self.ask(*self._waiting.popleft())


async def hurry(
    port: int, connections: int, seconds: float, requests: Iterator[bytes]
) -> Sequence[Connection]:
    loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: Hurried(requests, until), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return clients


async def pace(
    port: int, connections: int, seconds: float, requests: Iterator[bytes], per_second: float
) -> Sequence[Connection]:
    loop = asyncio.get_running_loop()
    waiting: deque[tuple[bytes, float]] = deque()
    clients: deque[Paced] = deque()
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Paced(waiting), "127.0.0.1", port)
        clients.append(client)
    began = time.perf_counter()
    for number in range(int(seconds * per_second)):
        due = began + number / per_second
        await asyncio.sleep(due - time.perf_counter())
        waiting.append((next(requests), due))
        clients.rotate(-1)  # in turn: one that rests for half a minute is closed
        for client in clients:
            client.go_on()
    while not all(client.free or client.broken for client in clients):  # noqa: ASYNC110  # the end
        await asyncio.sleep(0.01)
    for client in clients:
        client.errors += client.broken
        client.transport.close()
    return clients


async def run(
    port: int, connections: int, seconds: float, requests: Iterator[bytes], per_second: float
) -> dict[str, Any]:
    began = time.perf_counter()
    clients = await (
        pace(port, connections, seconds, requests, per_second)
        if per_second
        else hurry(port, connections, seconds, requests)
    )
    took = time.perf_counter() - began
    latencies = sorted(one for client in clients for one in client.latencies)
    errors = sum(client.errors for client in clients)
    return {"requests": len(latencies), "seconds": took, "errors": errors, "latencies": latencies}


def main() -> None:
    port, connections = int(sys.argv[1]), int(sys.argv[2])
    seconds, per_second = float(sys.argv[3]), float(sys.argv[4])
    first, *lines = sys.stdin.read().splitlines()
    shape = json.loads(first)
    requests = itertools.cycle([compose(shape, line) for line in lines])
    json.dump(uvloop.run(run(port, connections, seconds, requests, per_second)), sys.stdout)


if __name__ == "__main__":
    main()
