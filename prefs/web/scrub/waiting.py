"""Answers that wait until their reader takes them, in flat memory.

Many programs send all of their list before they read a byte of the answer. If we waited for them as
they wait for us, neither would go on: what they do not take goes to a nameless file meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from typing import IO

IN_MEMORY = 256 * 1024
"""Bytes; what is more goes to a file of the temporary folder, which no name leads to."""
PIECE = 64 * 1024


class Waiting:
    """First in, first out. The file holds what is newer than all in memory."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._file: IO[bytes] | None = None
        self._read = self._written = 0
        self._ended = False
        self._news = asyncio.Event()

    def put(self, part: bytes) -> None:
        if not part:
            return
        if self._written > self._read or self._size + len(part) > IN_MEMORY:
            self._keep(part)
        else:
            self._parts.append(part)
            self._size += len(part)
        self._news.set()

    def _keep(self, part: bytes) -> None:
        """A disk that is full raises OSError, and the answer breaks off."""
        self._file = self._file or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed below
        while part:
            done = os.pwrite(self._file.fileno(), part, self._written)
            part, self._written = part[done:], self._written + done

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def taken(self) -> AsyncIterator[bytes]:
        """All parts, as they come, until the end."""
        while True:
            if part := self._next():
                yield part
            elif self._ended:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _next(self) -> bytes:
        if self._parts:
            part = self._parts.popleft()
            self._size -= len(part)
            return part
        return self._fetch()

    def _fetch(self) -> bytes:
        if self._file is None or self._read == self._written:
            return b""
        part = os.pread(self._file.fileno(), PIECE, self._read)
        self._read += len(part)
        if self._read == self._written:
            self._file.truncate(0)
            self._read = self._written = 0
        return part

    def close(self) -> None:
        if self._file:
            self._file.close()
