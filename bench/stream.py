"""Sends a list while its answer comes, in a process of its own.

    python -m bench.stream PORT KEY LIST TIMES

Prints {"seconds": from the first byte sent to the last one read, "rows": how many were answered}
of the last time.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

QUERY = "brand=rt&channel=email&purpose=marketing&column=email"
ENDS = b"\r\n0\r\n\r\n"


def send(to: socket.socket, key: str, path: Path) -> None:
    head = (
        f"POST /v1/scrub?{QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/csv\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {path.stat().st_size}\r\n\r\n"
    )
    to.sendall(head.encode())
    with path.open("rb") as file:
        to.sendfile(file)


def pieces(of: socket.socket) -> Iterator[bytes]:
    """Until the last chunk (RFC 9112 section 7.1)."""
    tail = b""
    while not tail.endswith(ENDS):
        piece = of.recv(1 << 18)
        if not piece:
            raise SystemExit("the answer broke off")
        tail = (tail + piece)[-len(ENDS) :]
        yield piece


def scrub(port: int, key: str, path: Path) -> dict[str, float]:
    with socket.create_connection(("127.0.0.1", port)) as conn:
        began = time.perf_counter()
        sender = threading.Thread(target=send, args=(conn, key, path))
        sender.start()
        read = b"".join(pieces(conn))
        sender.join()
        took = time.perf_counter() - began
    if not read.startswith(b"HTTP/1.1 200"):
        raise SystemExit(read[:200].decode("latin-1"))
    return {"seconds": took, "rows": read.count(b",true,") + read.count(b",false,")}


def main(port: int, key: str, path: Path, times: int) -> None:
    for _ in range(times):
        found = scrub(port, key, path)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
