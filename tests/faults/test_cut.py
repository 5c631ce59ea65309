"""A process that is cut off from the database: others go on, and it comes back by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from prefs.store import schema
from tests.faults.kit import MAILCHIMP, Installation, address, end
from tests.served import eventually
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin
from tests.way import Way

pytestmark = pytest.mark.postgresql

PEOPLE = 6


@pytest.fixture
def twin() -> Iterator[tuple[MailchimpTwin, str]]:
    with running(MailchimpTwin()) as (made, url):
        made.new_audience("a1")
        for number in range(PEOPLE):
            made.new_member("a1", address(number))
        yield made, url


def follows(twin: MailchimpTwin, number: int) -> None:
    member = twin.member("a1", address(number))
    eventually(lambda: member.status == "unsubscribed")


def holder(made: Installation) -> str | None:
    with made.opened() as runtime:
        asked = select(schema.lanes.c.holder).where(schema.lanes.c.target == "rt/mailchimp")
        return runtime.database.read_now(lambda conn: conn.execute(asked).scalar_one_or_none())


def test_a_worker_that_is_cut_off_is_followed_by_another(
    tmp_path: Path, twin: tuple[MailchimpTwin, str]
) -> None:
    vendor, url = twin
    made = Installation(tmp_path, MAILCHIMP.format(url=url), {"MAILCHIMP": vendor.api_key})
    links = iter(enumerate(made.links(PEOPLE)))

    def click() -> int:
        number, link = next(links)
        assert httpx.post(link, timeout=60).status_code == 200
        return number

    with ExitStack() as stack:
        way = stack.enter_context(Way(made.database))
        stack.enter_context(made.serving("--no-work"))
        first = made.by(way.url).start("work")
        stack.callback(end, first)
        eventually(lambda: holder(made) is not None)
        follows(vendor, click())
        held = holder(made)
        second = made.start("work")
        stack.callback(end, second)
        way.cut()
        follows(vendor, click())
        assert holder(made) != held
        way.mend()
        follows(vendor, click())
        end(second)
        follows(vendor, click())
        assert first.poll() is None


def test_an_api_process_that_is_cut_off_says_so_and_comes_back(tmp_path: Path) -> None:
    """A click is told to come again, is never told that it was done, and counts at the others."""
    made = Installation(tmp_path, "", {})
    links = made.links(3)
    with ExitStack() as stack:
        way = stack.enter_context(Way(made.database))
        beside = made.beside().by(way.url)
        for one in (made, beside):
            stack.enter_context(one.serving("--no-work"))
        there = [f"{beside.url}{httpx.URL(link).path}" for link in links]
        assert httpx.post(there[0], timeout=60).status_code == 200
        way.cut()
        began = time.monotonic()
        assert httpx.get(f"{beside.url}/readyz", timeout=10).status_code == 503
        assert time.monotonic() - began < 5
        told = httpx.post(there[1], timeout=60)
        assert (told.status_code, "retry-after" in told.headers) == (503, True)
        assert httpx.post(links[1], timeout=60).status_code == 200
        way.mend()
        eventually(lambda: httpx.get(f"{beside.url}/readyz", timeout=5).status_code == 200)
        assert httpx.post(there[2], timeout=60).status_code == 200
