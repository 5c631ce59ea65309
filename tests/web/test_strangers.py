"""What strangers and machines learn from the pages, and what they change: nothing."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from prefs import links
from prefs.core import identity
from prefs.core.tokens import TokenKind
from prefs.core.words import Kind
from prefs.store import subjects
from prefs.store.schema import identifiers
from tests.kit import Clock
from tests.served import Served, served
from tests.web.people import ADA, footer, fresh, mails, post_mail, unsubscribe

pytestmark = pytest.mark.told_on("sqlite")

PAIRS = 1_000
VISITS = 1_000
TABLES = (
    "ledger",
    "payloads",
    "subjects",
    "identifiers",
    "links",
    "permissions",
    "marks",
    "outbox",
    "tasks",
    "notices",
    "events",
)
ERASED, SHARED, OUT = "erased@example.com", "shared@example.com", "out@example.com"
ASKED = {
    "unknown": "nobody@example.com",
    "suppressed": ERASED,
    "malformed": "no address at all",
    "shared": SHARED,
    "out": OUT,
}


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    clock = Clock()
    with served(tmp_path, clock=clock) as made:
        made.consent(ADA)
        for ref in ("ann", "ben"):
            made.consent("", subject={"email": SHARED, "ref": ref})
        made.say(OUT)
        erase(made, made.consent(ERASED)["subject_id"])
        clock.forward(1)
        yield made


def erase(rt: Served, subject: str) -> None:
    """As an erasure leaves it: the hash is listed, and nobody live explains it."""
    rt.client.post(unsubscribe(rt, ERASED))
    intake = rt.runtime.intake
    hashes = rt.runtime.keys.hashes(identity.email(ERASED))

    def job(conn: Any) -> None:
        (one,) = subjects.by_ids(conn, subjects.owners(conn, "rt", hashes))
        subjects.store(conn, one._replace(state=replace(one.state, erased=True)))
        known = identifiers.c.hash == hashes[0]
        conn.execute(update(identifiers).where(known).values(spelling=None))
        intake.refresh(conn, "rt", [one.id])

    rt.runtime.database.write_now(job)
    assert rt.reason(ERASED) == "suppressed"


def counts(rt: Served) -> Mapping[str, int]:
    def count(conn: Any, table: str) -> int:
        found: int = conn.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
        return found

    return {table: rt.runtime.database.read_now(partial(count, table=table)) for table in TABLES}


# --- asking for a link -------------------------------------------------------------------------


def ask(rt: Served, address: str) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = rt.client.post("/p?brand=rt", data={"email": address})
    return time.perf_counter() - began, answer


def test_asking_about_anybody_looks_and_lasts_the_same(
    rt: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known first and known last by turns, so that whatever drifts meets both alike."""
    took: dict[str, list[float]] = {name: [] for name in ("known", *ASKED)}
    seen = set()
    for number in range(PAIRS):
        other = list(ASKED)[number % len(ASKED)]
        both = [("known", ADA), (other, ASKED[other])]
        for name, address in both if number % 2 else reversed(both):
            seconds, answer = ask(rt, address)
            took[name].append(seconds)
            seen.add((answer.status_code, answer.content, tuple(sorted(answer.headers.items()))))
    assert len(seen) == 1
    medians = {name: statistics.median(found) for name, found in took.items()}
    with capsys.disabled():
        gaps = {name: 1000 * (medians[name] - medians["known"]) for name in ASKED}
        told = ", ".join(f"{name} {gap:+.2f}" for name, gap in gaps.items())
        print(f"\n/p, {PAIRS} pairs, median gap to a known address in ms: {told}")  # noqa: T201  # the run's own report
    assert max(medians.values()) < 2 * min(medians.values())


def test_what_asking_leads_to_is_seen_in_the_mailbox_alone(rt: Served) -> None:
    before = {path: rt.client.get(path).content for path in ("/p", "/p?brand=rt")}
    rows = counts(rt)
    for address in (ADA, *ASKED.values()):
        ask(rt, address)
    after = counts(rt)
    assert after["outbox"] == rows["outbox"] + len(ASKED) + 1, "a row for everybody alike"
    assert {**after, "outbox": 0} == {**rows, "outbox": 0}
    post_mail(rt)
    assert {message["To"] for message in mails(rt)} == {ADA, SHARED, OUT}
    assert {path: rt.client.get(path).content for path in before} == before


# --- scanners ----------------------------------------------------------------------------------


def confirm(rt: Served) -> str:
    holder = links.Holder("rt", Kind.EMAIL, rt.runtime.keys.hash(identity.email(ADA)))
    return links.path(rt.runtime.service, TokenKind.CONFIRM, holder)


def doors(rt: Served) -> list[str]:
    """Every page that a token opens, and those that need none."""
    centre, click = fresh(rt), unsubscribe(rt)
    (complain,) = re.findall(r'href="(/complain/[^"]+)"', rt.client.get(click).text)
    more = [f"{centre}{end}" for end in ("/pause", "/resume", "/data")]
    tokens = [click, f"{click}/all", centre, *more, footer(rt), confirm(rt), complain]
    return [*tokens, "/p", "/p?brand=rt", "/signup?brand=rt", "/signup/form?brand=rt"]


def test_a_thousand_visits_of_scanners_change_nothing(rt: Served) -> None:
    paths = doors(rt)
    before = counts(rt)
    prefetch = {"Purpose": "prefetch", "Sec-Purpose": "prefetch;prerender"}
    for number in range(VISITS):
        path = paths[number % len(paths)]
        method = ("GET", "HEAD", "OPTIONS")[number // len(paths) % 3]
        headers = prefetch if number % 2 else {"User-Agent": "Mozilla/5.0 (scanner)"}
        answer = rt.client.request(method, path, headers=headers)
        assert answer.status_code in (200, 204, 405), path
    assert counts(rt) == before
    assert rt.reason(ADA) == "consent"


def test_no_page_of_people_holds_a_script(rt: Served) -> None:
    """Nor anything that a browser would run, or submit by itself."""
    for path in doors(rt):
        page = rt.client.get(path)
        assert "script" not in page.headers.get("content-security-policy", "")
        assert not re.search(r"<script|\son\w+=|javascript:|http-equiv", page.text, re.IGNORECASE)
