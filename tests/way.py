"""A way to a server that can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from sqlalchemy.engine import make_url


class Way:
    """To a database. While it is cut nothing comes through, either way, and nobody is told: as when
    a cable is pulled. Once it is mended, what was held up arrives.

    A statement with the word `halts` gets as far as the server; what follows it on that connection
    never does, as if the sender had frozen in the midst of it."""

    def __init__(self, url: str, halts: bytes | None = None) -> None:
        there = make_url(url)
        self._halts = halts
        self._to = (there.host or "", there.port or 5432)
        self._door = socket.create_server(("127.0.0.1", 0))
        self._whole = threading.Event()
        self._whole.set()
        port = self._door.getsockname()[1]
        self.url = there.set(port=port).render_as_string(hide_password=False)
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.mend()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(self._to)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._whole.wait()
                other.sendall(data)
                if self._halts and self._halts in data and other.getpeername() == self._to:
                    return
            other.shutdown(socket.SHUT_RDWR)
