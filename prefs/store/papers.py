"""What staff brought or listed for a day's work: call lists, files that wait for a yes.

Kept encrypted, and forgotten after a day.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, delete, insert, select

from prefs.core.errors import NotFound
from prefs.core.keys import Keyring
from prefs.store.schema import papers

T = TypeVar("T")

KEEP = 86400.0

_pack = msgspec.msgpack.Encoder().encode


class Paper(NamedTuple):
    id: str
    brand: str
    kind: str
    by: str
    """Who brought it: the id of the account."""
    made_at: float
    rows: int
    body: bytes


def add(
    conn: Connection,
    keys: Keyring,
    brand: str,
    kind: str,
    by: str,
    content: Any,
    rows: int,
    now: float,
) -> str:
    """Returns the id. `rows` is how many lines it has, for lists of papers."""
    purge(conn, now)
    id_ = secrets.token_hex(8)
    body = keys.encrypt(_pack(content), _aad(id_))
    conn.execute(insert(papers), Paper(id_, brand, kind, by, now, rows, body)._asdict())
    return id_


def _aad(id_: str) -> bytes:
    return b"paper" + id_.encode()


def one(conn: Connection, brand: str, kind: str, id_: str, now: float) -> Paper:
    """Raises NotFound for another brand's, and for one of yesterday."""
    wanted = select(papers).where(
        papers.c.id == id_,
        papers.c.brand == brand,
        papers.c.kind == kind,
        papers.c.made_at > now - KEEP,
    )
    row = conn.execute(wanted).first()
    if row is None:
        raise NotFound("there is no such list any more")
    return Paper(*row)


def content(keys: Keyring, paper: Paper, shape: type[T]) -> T:
    return msgspec.msgpack.decode(keys.decrypt(paper.body, _aad(paper.id)), type=shape)


def listed(conn: Connection, brand: str, kind: str, now: float) -> list[Paper]:
    """The newest first."""
    wanted = select(papers).where(
        papers.c.brand == brand, papers.c.kind == kind, papers.c.made_at > now - KEEP
    )
    return [Paper(*row) for row in conn.execute(wanted.order_by(papers.c.made_at.desc()))]


def drop(conn: Connection, brand: str, id_: str) -> None:
    conn.execute(delete(papers).where(papers.c.id == id_, papers.c.brand == brand))


def purge(conn: Connection, now: float) -> None:
    conn.execute(delete(papers).where(papers.c.made_at <= now - KEEP))
