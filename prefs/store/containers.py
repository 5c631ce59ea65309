"""Containers of each target as the last reading found them. One that could not send before counts
as first seen when it can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, and_, case, delete, select

from prefs.core.propagation import Container
from prefs.store import dialect
from prefs.store.schema import containers, lanes

INERT, UNCLASSIFIED = "inert", "unclassified"


def keep(conn: Connection, target: str, found: Iterable[tuple[Container, str]], now: float) -> None:
    """What a complete reading found, each with its class; the others are gone."""
    upsert = dialect.insert(containers)
    rows = [
        {
            "target": target,
            "id": one.id,
            "name": one.name,
            "class": class_,
            "first_seen": now,
            "seen_at": now,
        }
        for one, class_ in found
    ]
    new = upsert.excluded
    began = and_(containers.c["class"] == INERT, new["class"] != INERT)
    if rows:
        conn.execute(
            upsert.on_conflict_do_update(
                index_elements=["target", "id"],
                set_={name: new[name] for name in ("name", "class", "seen_at")}
                | {"first_seen": case((began, new.first_seen), else_=containers.c.first_seen)},
            ),
            rows,
        )
    conn.execute(
        delete(containers).where(containers.c.target == target, containers.c.seen_at < now)
    )


def listed(conn: Connection, target: str) -> list[Any]:
    wanted = select(containers).where(containers.c.target == target)
    return list(conn.execute(wanted.order_by(containers.c.name, containers.c.id)))


def unclassified(conn: Connection, target: str) -> Mapping[str, str]:
    """Id -> name of those that can send and that nobody has classified."""
    return {row.id: row.name for row in listed(conn, target) if row[3] == UNCLASSIFIED}


def since_live(conn: Connection, target: str) -> set[str]:
    """Ids of the unclassified ones that appeared after the target went live."""
    wanted = (
        select(containers.c.id)
        .join(lanes, lanes.c.target == containers.c.target)
        .where(
            containers.c.target == target,
            containers.c["class"] == UNCLASSIFIED,
            containers.c.first_seen > lanes.c.live_since,
        )
    )
    return set(conn.execute(wanted).scalars())
