"""A receiver of webhooks on loopback, for the twins' own tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass
class Mailbox:
    """What came, in order; `answers` are the next status codes (200 when used up), `echoes` names a
    header that a good answer repeats."""

    url: str = ""
    echoes: str = ""
    got: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def take(self) -> list[Received]:
        """What came since the last time."""
        taken, self.got = self.got, []
        return taken


@contextlib.contextmanager
def mailbox() -> Iterator[Mailbox]:
    """A mailbox at a free port; takes GET and POST."""
    box = Mailbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            box.got.append(Received(self.command, self.path, headers, body))
            status = box.answers.pop(0) if box.answers else 200
            self.send_response(status)
            if status == 200 and box.echoes.lower() in headers:
                self.send_header(box.echoes, headers[box.echoes.lower()])
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    box.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield box
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
