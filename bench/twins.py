"""Vendors' twins in a process of their own, with everybody of a range known there as subscribed.

    python -m bench.twins '[{"system": "mailchimp", "people": 30000, "latency": 0.05}, ...]'

Every further field of a twin is a setting of it (`configure`); "unlimited" takes its limits away.
Prints a line of URLs when all answer; at the end of its input a line of what each saw: "calls" that
it took, "busy" (seconds in which calls were open, added up), "first" and "last" (when the first
came and the last one went, seconds of the machine's monotonic clock), "refused" (over its limits),
"offs" (people who are off there now).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, cast

from starlette.requests import Request
from starlette.responses import Response

from bench import population
from bench.kit import cpu_seconds, start
from connectors.mailchimp import FIELDS, LISTED
from tests.twins import mailchimp_checks as checks
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import Limits, Twin, running
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.mailchimp_account import Audience, Member, member_view, select

AUDIENCE, TYPE = "a1", "100"


class Meter(Limits):
    """The vendor's limits, and what comes through them."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits.at_once, limits.windows)
        self.taken, self.busy, self.first, self.last = 0, 0.0, 0.0, 0.0

    def enter(self) -> bool:
        self._turn()
        entered = super().enter()
        self.taken += entered
        return entered

    def leave(self) -> None:
        self._turn()
        super().leave()

    def _turn(self) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.busy += self.open * (now - (self.last or now))
        self.last = now


class Prepared(MailchimpTwin):
    """Lists members from bytes that are made once for each change of one, as far as they are asked
    for as our connector asks: a vendor's work costs our machine nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._shown_as: dict[str, tuple[datetime, bytes]] = {}

    async def get_members(self, request: Request) -> Response:
        query = self._query(request, checks.MEMBERS)
        if query.keys() != ASKED or query["fields"] != LISTED:
            return await super().get_members(request)
        audience = self._audience(request)
        members = sorted(audience.members.values(), key=attrgetter("changed_at"), reverse=True)
        first, count = int(query["offset"]), int(query["count"])
        shown = b",".join(self._bytes(audience, one) for one in members[first : first + count])
        body = b'{"members":[%b],"total_items":%d}' % (shown, len(members))
        return Response(body, media_type="application/json")

    def prepare(self, audience: Audience) -> None:
        for member in audience.members.values():
            self._bytes(audience, member)

    def _bytes(self, audience: Audience, member: Member) -> bytes:
        at, made = self._shown_as.get(member.id, (None, b""))
        if at != member.changed_at:
            made = json.dumps(select(member_view(member, audience), FIELDS.split(","), ())).encode()
            self._shown_as[member.id] = member.changed_at, made
        return made


ASKED = {"count", "offset", "fields", "sort_field", "sort_dir"}


def mailchimp(people: int) -> Made:
    twin = Prepared()
    twin.new_audience(AUDIENCE)
    for number in range(people):
        twin.new_member(AUDIENCE, population.address(number))
    members = twin.audience(AUDIENCE).members
    twin.prepare(twin.audience(AUDIENCE))
    return twin, lambda: sum(one.status == "unsubscribed" for one in members.values())


def hubspot(people: int) -> Made:
    """Of an account with bulk calls. Everybody is subscribed to the one type."""
    twin = HubspotTwin()
    twin.enterprise = True
    twin.new_type(TYPE)
    for number in range(people):
        twin.set_status(population.address(number), TYPE, "SUBSCRIBED")
    kept = twin.state.statuses
    return twin, lambda: sum(of[TYPE].state == "UNSUBSCRIBED" for of in kept.values())


KINDS = {"mailchimp": mailchimp, "hubspot": hubspot}
CONFIGURED = {
    "mailchimp": f"""api_key = "env:BENCH_MAILCHIMP"
audiences = {{ {AUDIENCE} = ["treatments", "products", "offers", "competitions", "news"] }}""",
    "hubspot": f"""token = "env:BENCH_HUBSPOT"
types = {{ {TYPE} = "*" }}""",
}
Made = tuple[Twin[Any], Callable[[], int]]
"""And how many are off there."""


def make(system: str, people: int, unlimited: bool = False, **settings: Any) -> Made:
    twin, offs = KINDS[system](people)
    twin.configure(**settings)
    twin.limits = Meter(Limits() if unlimited else twin.limits)
    return twin, offs


def seen(twin: Twin[Any], offs: Callable[[], int]) -> dict[str, float]:
    meter = cast(Meter, twin.limits)
    told = {"calls": meter.taken, "busy": meter.busy, "first": meter.first, "last": meter.last}
    return {**told, "refused": meter.refused, "offs": offs()}


def main(wanted: Sequence[Mapping[str, Any]]) -> None:
    made = [make(**one) for one in wanted]
    with ExitStack() as stack:
        urls = [stack.enter_context(running(twin))[1] for twin, _ in made]
        print(json.dumps(urls), flush=True)
        sys.stdin.read()
        print(json.dumps([seen(*one) for one in made]), flush=True)


class Seen(NamedTuple):
    calls: int
    busy: float
    first: float
    last: float
    refused: int
    offs: int

    @property
    def seconds(self) -> float:
        return self.last - self.first


class Hosted:
    """Twins of another process, from the outside. `end` tells what they saw."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdout
        self._out = process.stdout
        self.urls: list[str] = json.loads(self._out.readline() or "null") or []
        if not self.urls:
            raise SystemExit("the twins did not start")

    @property
    def cpu(self) -> float:
        """Seconds, so far."""
        return cpu_seconds(self._process.pid)

    def end(self) -> list[Seen]:
        assert self._process.stdin
        self._process.stdin.close()
        return [Seen(**one) for one in json.loads(self._out.readline())]


@contextmanager
def hosted(*wanted: Mapping[str, Any]) -> Iterator[Hosted]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start("bench.twins", json.dumps(wanted), **pipes)
    try:
        yield Hosted(process)
    finally:
        process.terminate()
        process.wait()


def configured(system: str, url: str, name: str = "", limit: str = "") -> str:
    """The lines of a target in a configuration."""
    lines = [f"[brands.rt.targets.{name or system}]", f'system = "{system}"', 'mode = "live"']
    lines += [f'base_url = "{url}"', CONFIGURED[system]]
    return "\n".join([*lines, f'limit = "{limit}"' if limit else "", ""])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
