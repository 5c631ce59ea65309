"""A small IMAP server on loopback (RFC 3501): one user, one folder, and the faults of real ones."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

USER, PASSWORD = "unsubscribe@example.co.uk", "pass word"


@dataclass
class Post:
    """The folder. `events` tells what the client did, in order."""

    port: int = 0
    validity: int = 7
    next_uid: int = 1
    kept: dict[int, bytes] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
    password: str = PASSWORD
    hang_up_on: str = ""
    """A command that ends the connection before its answer, once."""
    refuses_marks: bool = False

    def put(self, raw: bytes) -> int:
        uid = self.next_uid
        self.kept[uid] = raw
        self.next_uid += 1
        return uid

    def renumber(self) -> None:
        """The server lost its numbers: the same messages under new ones."""
        self.validity += 1
        self.kept = dict(enumerate(self.kept.values(), 1))
        self.next_uid = len(self.kept) + 1

    def fetched(self) -> list[int]:
        return [int(one.split()[1]) for one in self.events if one.startswith("FETCH")]


async def _serve(post: Post, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"* OK ready\r\n")
    try:
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            tag, _, command = line.partition(" ")
            name = command.upper().removeprefix("UID ").split(" ")[0]
            if name == post.hang_up_on:
                post.hang_up_on = ""
                return
            writer.write(_answer(post, tag, name, command))
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


def _answer(post: Post, tag: str, name: str, command: str) -> bytes:
    done = f"{tag} OK done\r\n".encode()
    refused = f"{tag} NO refused for {USER}\r\n".encode()
    if name == "CAPABILITY":
        return b"* CAPABILITY IMAP4rev1\r\n" + done
    if name == "LOGIN":
        return done if f'"{post.password}"' in command and USER in command else refused
    if name == "SELECT":
        if '"Unsubscribe me"' not in command:
            return refused
        lines = f"* {len(post.kept)} EXISTS\r\n* OK [UIDVALIDITY {post.validity}] valid\r\n"
        return lines.encode() + f"{tag} OK [READ-WRITE] done\r\n".encode()
    if name == "SEARCH":
        first = int(command.rpartition(" ")[2].partition(":")[0])
        found = [uid for uid in post.kept if uid >= first]
        found = found or sorted(post.kept)[-1:]  # `n:*` names the last message all the same
        return f"* SEARCH {' '.join(map(str, found))}\r\n".encode() + done
    if name == "FETCH":
        return _fetched(post, int(command.split()[2]), command) + done
    if name == "STORE":
        uid = int(command.split()[2])
        post.events.append(f"STORE {uid}")
        if post.refuses_marks:
            return refused
        post.seen.add(uid)
        return done
    return b"* BYE\r\n" + done if name == "LOGOUT" else f"{tag} BAD unknown\r\n".encode()


def _fetched(post: Post, uid: int, command: str) -> bytes:
    post.events.append(f"FETCH {uid}")
    if uid not in post.kept:
        return b""
    partial = re.search(r"BODY\.PEEK\[\]<0\.(\d+)>", command)
    assert partial, "only a part is asked for, and unmarked"
    raw = post.kept[uid][: int(partial[1])]
    head = f"* {uid} FETCH (UID {uid} BODY[]<0> {{{len(raw)}}}\r\n".encode()
    return head + raw + b")\r\n"


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None) -> Iterator[Post]:
    """The server at a free port, in a thread of its own."""
    post, started, stop = Post(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        server = await asyncio.start_server(
            lambda r, w: _serve(post, r, w), "127.0.0.1", 0, ssl=tls
        )
        post.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield post
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
