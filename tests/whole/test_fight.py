"""A tool turns one person on again every minute: we turn them off four times an hour, and say so.

Over the real service, HubSpot's twin and its webhooks, on a clock that is moved for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prefs.push.fights import PUSH_BACKS_AN_HOUR
from prefs.store import marks, subjects
from tests.served import Served, eventually, listening
from tests.twins.hubspot import HubspotTwin
from tests.twins.kit import Clock
from tests.whole.kit import backlog, identifiers, reasons, recorded, say, secrets, targets
from tests.whole.places import HOOK_KEY, Hubspot, email, opened

HOURS = 3
ADA, BOB = 0, 1
HOUR = timedelta(hours=1)
STEP = timedelta(minutes=1)


@dataclass
class Clinic:
    service: Served
    there: Hubspot
    clock: Clock
    ids: dict[int, str]
    logged: list[Any] = field(default_factory=list)

    def move(self, seconds: float) -> None:
        self.there.twin.clock.move(seconds)
        self.clock.move(seconds)

    def tool_writes(self) -> None:
        """It turns Ada on, and HubSpot tells of it, whether that changed anything or not."""
        self.there.turned_on(ADA)
        self.there.twin.property_change(email(ADA), "hs_email_optout_101", "false")
        self.there.twin.courier.settle()

    def settled(self) -> bool:
        """Whether Ada is off there and was read so, or is left for later than the next flip: one
        that comes before our write was read back is answered by the same push once more."""
        due = self._due()
        later = (self.clock() + STEP).timestamp()
        return all(at > later for at in due) and bool(due or self.there.off(ADA))

    def _due(self) -> list[float]:
        """When what is open for Ada comes up."""
        hashes = self.service.runtime.keys.hashes(identifiers(ADA)[0])

        def look(conn: Any) -> list[float]:
            (owner,) = subjects.owners(conn, "rt", hashes)
            return [one.due_at for one in marks.of_subject(conn, owner)]

        return self.service.runtime.database.read_now(look)

    def outcome(self) -> str:
        answer = self.service.get(f"/v1/subjects/{self.ids[ADA]}/targets").json()
        found: str = answer["items"][0]["outcome"]
        return found

    def turned_off(self) -> list[datetime]:
        """When we turned Ada off there, by the vendor's clock."""
        changes = self.there.twin.changes(email(ADA), "101")
        return [one.at for one in changes if (one.by, one.state) == ("api", "UNSUBSCRIBED")]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Ada and Bob consented and are on the list there. The lease outlasts what the clock jumps."""
    clock = Clock()
    with ExitStack() as stack:
        (there,) = stack.enter_context(opened([(Hubspot, HubspotTwin)]))
        assert isinstance(there, Hubspot)
        logged = stack.enter_context(capture_logs())
        for number in (ADA, BOB):
            there.add(number)
        ids = recorded(tmp_path, dict.fromkeys((ADA, BOB), ("email",)), clock=clock)
        environ = secrets([there], PREFS__WORKER__LEASE="24h", PREFS__WORKER__POLL_EVERY="15m")
        config = targets([there])
        served = listening(tmp_path, config, environ=environ, clock=clock)
        service = stack.enter_context(served)
        base = service.runtime.settings.public_url
        there.hears(f"{base}/webhooks/hubspot/rt/hubspot?key={HOOK_KEY}")
        yield Clinic(service, there, clock, ids, logged)


def most_in_an_hour(times: list[datetime]) -> int:
    """By the vendor's time, which may be a step of the clock behind ours."""
    return max(sum(one <= other < one + HOUR - STEP for other in times) for one in times)


@pytest.mark.timeout(300)
def test_we_push_back_four_times_an_hour_and_win_when_the_tool_stops(clinic: Clinic) -> None:
    clinic.service.say(email(ADA))
    eventually(lambda: clinic.there.off(ADA) and not backlog(clinic.service))
    first = len(clinic.turned_off())

    for _ in range(HOURS * 60):
        clinic.move(STEP.total_seconds())
        clinic.tool_writes()
        eventually(clinic.settled)
        assert reasons(clinic.service, [email(ADA), email(BOB)]) == ["opted_out", "consent"]

    fought = clinic.turned_off()[first:]
    say("fight", f"{HOURS * 60} times turned on in {HOURS} hours, {len(fought)} times pushed back")
    assert most_in_an_hour(fought) == PUSH_BACKS_AN_HOUR
    # Not given up after the first four: they go on, hour by hour.
    assert len(fought) >= PUSH_BACKS_AN_HOUR * (HOURS - 1)
    alarms = [one for one in clinic.logged if one["event"] == "push_back_fight"]
    assert alarms
    assert all(one["target"] == "rt/hubspot" for one in alarms)

    clinic.tool_writes()
    clinic.move(3600)
    eventually(lambda: clinic.there.off(ADA) and not backlog(clinic.service))
    assert clinic.outcome() == "confirmed"
    assert reasons(clinic.service, [email(ADA)]) == ["opted_out"]
    assert not clinic.there.off(BOB)
