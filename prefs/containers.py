"""What a target sends from: lists, audiences, types, senders. Read at start and daily.

Each stands in the configuration as marketing, service or ignored. One that can send and stands
nowhere is an alarm; if it appeared after go-live, marketing through its target is denied. Whoever
opted out must be out in a new place too: a new target, list or sender marks every standing out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

import structlog
from sqlalchemy import Connection

from prefs.core.fold import denies
from prefs.core.propagation import Connector, Container, Slot, Target
from prefs.core.words import Channel, Purpose
from prefs.intake import Intake
from prefs.settings import SERVICE_LISTS, TOPIC_TABLES
from prefs.store import containers, marks, subjects, tasks
from prefs.store.database import Store
from prefs.store.marks import Lease
from prefs.texts import next_working_day

log = structlog.get_logger()

EVERY = 86400.0
"""Seconds between readings."""
TASK = "container"
PAGE = 500
"""Subjects looked at in one transaction."""


class Class(StrEnum):
    MARKETING = "marketing"
    SERVICE = "service"
    IGNORED = "ignored"
    INERT = containers.INERT
    """It cannot send, or the vendor keeps it for itself."""
    UNCLASSIFIED = containers.UNCLASSIFIED


def configured(target: Target) -> Mapping[str, Class]:
    """Container id -> what the configuration says that it is."""
    found = {id_: Class.MARKETING for name in TOPIC_TABLES for id_ in target.table(name)}
    found |= dict.fromkeys(target.options.get("sms_lists", ()), Class.MARKETING)
    for purpose, senders in target.senders.items():
        marketing = purpose == Purpose.MARKETING.value
        found |= dict.fromkeys(senders, Class.MARKETING if marketing else Class.SERVICE)
    for name in SERVICE_LISTS:
        found |= dict.fromkeys(target.options.get(name, ()), Class.SERVICE)
    return found | dict.fromkeys(target.options.get("ignored_containers", ()), Class.IGNORED)


def class_of(one: Container, known: Mapping[str, Class]) -> Class:
    if one.id in known:
        return known[one.id]
    return Class.UNCLASSIFIED if one.sends and not one.inactive else Class.INERT


@dataclass
class Census:
    """The containers of one target, under its lane's lease."""

    target: Target
    connector: Connector
    database: Store
    intake: Intake
    clock: Callable[[], datetime]

    # --- new places ----------------------------------------------------------------------------

    async def mark_new_places(self, lease: Lease) -> None:
        """Every standing out is marked for places that this target did not carry before; at
        go-live, what waited for it is due."""
        row = await self.database.read(lambda conn: marks.lane(conn, self.target.label))
        known = set(json.loads(row.places or "[]")) if row else set()
        places = {_place(slot): slot for slot in self.connector.slots}
        new = {slot.channel for name, slot in places.items() if name not in known}
        if new:
            count = await self._mark_outs(new)
            log.info("new_places", target=self.target.label, marked=count)
        if self.target.live:
            now = self.clock().timestamp()
            await self.database.write(partial(marks.went_live, target=self.target.label, now=now))
        if set(places) != known:
            text = json.dumps(sorted(places))
            await self.database.write(partial(marks.set_lane, lease=lease, places=text))

    async def _mark_outs(self, channels: Collection[Channel]) -> int:
        """Page by page, so that no opt-out waits for the writer meanwhile."""
        controller, count, last = self.intake.brands[self.target.brand], 0, -1

        def page(conn: Connection) -> list[subjects.Subject]:
            return subjects.page(conn, controller, last, PAGE)

        while found := await self.database.read(page):
            last = found[-1].id
            ids = [one.id for one in found if denies(one.state, self.target.brand, channels)]
            wanted = [(self.target.label, id_, "") for id_ in ids]
            now = self.clock().timestamp()
            await self.database.write(partial(marks.set_marks, wanted=wanted, now=now, urgent=True))
            count += len(ids)
        return count

    # --- reading -------------------------------------------------------------------------------

    async def read(self, lease: Lease) -> None:
        """Raises what the connector raises; nothing is concluded then."""
        found = await self.connector.containers()
        known = configured(self.target)
        classed = [(one, class_of(one, known)) for one in found]
        await self.database.write(partial(self._keep, lease=lease, classed=classed))

    def _keep(
        self, conn: Connection, lease: Lease, classed: Iterable[tuple[Container, Class]]
    ) -> None:
        now = self.clock().timestamp()
        row = marks.lane(conn, self.target.label)
        since = row.live_since if row else None
        if self.target.live != bool(since):
            marks.set_lane(conn, lease, live_since=now if self.target.live else None)
        containers.keep(conn, self.target.label, classed, now)
        self._ask_staff(conn, now)

    def _ask_staff(self, conn: Connection, now: float) -> None:
        """One open task for each unclassified container; it closes when it stands somewhere."""
        keys, brand, label = self.intake.keys, self.target.brand, self.target.label
        wanted = dict(containers.unclassified(conn, label))
        late = containers.since_live(conn, label)
        for row in tasks.open_about(conn, keys, brand, TASK, target=label):
            body = tasks.body(keys, row)
            if wanted.pop(body["container"], None) is None:
                tasks.settle(conn, keys, row.id, "closed", body, now)
        for id_, name in wanted.items():
            log.error("container_unclassified", target=label, container=id_)
            body = {"target": label, "container": id_, "name": name, "after_go_live": id_ in late}
            due = next_working_day(self.clock()).timestamp()
            tasks.add(conn, keys, brand, TASK, None, body, now, due)


def _place(slot: Slot) -> str:
    return " ".join([slot.place, slot.channel.value, *slot.topics])
