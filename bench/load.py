"""A load generator of raw asyncio streams, run as a process of its own.

python -m bench.load PORT CONNECTIONS SECONDS < requests
Standard input holds one HTTP request body a line (path, header and JSON are on the first line as
JSON: {"path": ..., "headers": {...}}). Prints {"requests", "seconds", "errors", "latencies"}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import cast

import uvloop


def compose(path: str, headers: dict[str, str], body: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, requests: itertools.cycle[bytes], until: float) -> None:
        self._requests = requests
        self._until = until
        self._sent = 0.0
        self._buffer = b""
        self.latencies: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        self.errors += not head.startswith(b"HTTP/1.1 200")
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run(port: int, connections: int, seconds: float, requests: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + seconds
    shared = itertools.cycle(requests)
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(shared, until), "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    took = time.perf_counter() - began
    latencies = sorted(one for client in clients for one in client.latencies)
    errors = sum(client.errors for client in clients)
    json.dump(
        {
            "requests": len(latencies),
            "seconds": took,
            "errors": errors,
            "latencies": latencies[::10],
        },
        sys.stdout,
    )


def main() -> None:
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    first, *bodies = sys.stdin.read().splitlines()
    shape = json.loads(first)
    requests = [compose(shape["path"], shape["headers"], body) for body in bodies]
    uvloop.run(run(port, connections, seconds, requests))


if __name__ == "__main__":
    main()
