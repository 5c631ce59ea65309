"""Permanent numbers of topics: a link that is years old still says which topic it is about."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from prefs.store.schema import catalogue

TOPIC = "topic"
MOST = 0xFFFF
"""A token has two bytes for the number; 0 is the whole channel."""


def topic_number(conn: Connection, brand: str, topic: str) -> int:
    """The topic's number, from 1, given at first sight. Raises OverflowError after 65,535."""
    found = conn.execute(
        select(catalogue.c.number).where(
            catalogue.c.kind == TOPIC, catalogue.c.owner == brand, catalogue.c.name == topic
        )
    ).scalar()
    return int(found) if found is not None else _next(conn, brand, topic)


def _next(conn: Connection, brand: str, topic: str) -> int:
    last = conn.execute(
        select(func.max(catalogue.c.number)).where(
            catalogue.c.kind == TOPIC, catalogue.c.owner == brand
        )
    ).scalar()
    number = int(last or 0) + 1
    if number > MOST:
        raise OverflowError("a brand has no more than 65,535 topics")
    conn.execute(
        insert(catalogue), {"kind": TOPIC, "owner": brand, "name": topic, "number": number}
    )
    return number


def topic_of(conn: Connection, brand: str, number: int) -> str | None:
    """The topic with this number, also one that the configuration no longer has."""
    found: str | None = conn.execute(
        select(catalogue.c.name).where(
            catalogue.c.kind == TOPIC, catalogue.c.owner == brand, catalogue.c.number == number
        )
    ).scalar()
    return found


def topics(conn: Connection, brand: str) -> set[str]:
    """Every topic of the brand that ever had a number."""
    return set(
        conn.execute(
            select(catalogue.c.name).where(catalogue.c.kind == TOPIC, catalogue.c.owner == brand)
        ).scalars()
    )
