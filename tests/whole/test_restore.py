"""A backup is taken, a hundred people opt out, the backup is restored: the service itself, as
processes, notices, pauses marketing, and opens again when all of them are denied as before."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefs.store.database import Database
from tests import empty, restore
from tests.faults.kit import MAILCHIMP, Installation
from tests.served import eventually
from tests.twins.kit import running
from tests.twins.mailchimp import MailchimpTwin

pytestmark = [pytest.mark.long, pytest.mark.told_on("postgresql")]

PEOPLE = [f"p{number}@example.com" for number in range(110)]
OUT = PEOPLE[:100]
SCOPES = "check,write,staff,rights,admin"


class Story:
    """One installation, and what programs ask of it."""

    def __init__(self, made: Installation, key: str) -> None:
        self.made = made
        self.client = httpx.Client(
            base_url=made.url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json={"brand": "rt", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def say(self, address: str, choice: str) -> None:
        change = {"channel": "email", "purpose": "marketing", "choice": choice}
        body: dict[str, Any] = {"subject": {"email": address}, "changes": [change], "source": "api"}
        if choice == "in":
            body |= {"basis": "consent", "evidence": {"wording": "Yes please"}}
        self.post("/v1/preferences", body)

    def reasons(self, people: list[str], purpose: str = "marketing") -> set[str]:
        body = {"channel": "email", "purpose": purpose, "to": people}
        return {one["reason"] for one in self.post("/v1/check", body)["results"]}

    def degraded(self) -> bool:
        body = {"channel": "email", "purpose": "marketing", "to": ["a@example.com"]}
        return bool(self.post("/v1/check", body).get("degraded"))

    def link(self, address: str) -> str:
        found: str = self.post("/v1/links", {"email": address})["unsubscribe"]
        return found

    def ready(self) -> dict[str, str]:
        found: dict[str, str] = self.client.get("/readyz").json()
        return found


def prefs(made: Installation, *args: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "prefs.cli", *args, "--json"],
        env=made.environ,
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr.decode()


def backup(made: Installation, folder: Path) -> Callable[[], None]:
    """Taken while the service runs; what it returns puts it back, once that is stopped."""
    url = empty.database(folder)
    if empty.engine == empty.SQLITE:
        kept = folder / "backup.db"
        with sqlite3.connect(folder / "prefs.db") as conn:
            conn.execute("VACUUM INTO ?", (str(kept),))

        def put_file_back() -> None:
            for path in folder.glob("prefs.db*"):
                path.unlink()
            shutil.copy(kept, folder / "prefs.db")

        return put_file_back
    with Database(url) as database:
        rows = restore.take(database)

    def put_rows_back() -> None:
        with Database(url) as database:
            restore.put_back(database, rows)

    return put_rows_back


@pytest.fixture
def twin() -> Iterator[tuple[MailchimpTwin, str]]:
    with running(MailchimpTwin()) as (made, url):
        made.new_audience("a1")
        for address in PEOPLE:
            made.new_member("a1", address)
        yield made, url


@pytest.mark.timeout(400)
def test_a_restored_backup_is_brought_up_to_date(
    tmp_path: Path, twin: tuple[MailchimpTwin, str]
) -> None:
    vendor, url = twin
    extra = MAILCHIMP.format(url=url)
    made = Installation(tmp_path, extra, {"MAILCHIMP": vendor.api_key})
    text = made.config.read_text()
    made.config.write_text(f'checkpoint = "file:checkpoints"\n{text}')
    _, key = prefs(made, "api-keys", "add", "--brand", "rt", "--scopes", SCOPES)
    story = Story(made, key["key"])
    with made.serving():
        for address in PEOPLE:
            story.say(address, "in")
        links = {address: story.link(address) for address in OUT[50:]}
        put_back = backup(made, tmp_path)
        for address in OUT[:50]:
            story.say(address, "out")
        for link in links.values():
            assert httpx.post(link).status_code == 200
        assert story.reasons(OUT) == {"opted_out"}
    put_back()
    with made.serving():
        assert story.ready()["marketing"] == "paused"
        assert "older than its newest checkpoint" in story.ready()["reason"]
        assert story.reasons(PEOPLE) == {"paused"}
        assert story.degraded()
        assert story.reasons(PEOPLE, "reminders") == {"service"}
        late = PEOPLE[105]
        assert httpx.post(story.link(late)).status_code == 200  # outs are taken in meanwhile
        eventually(lambda: vendor.member("a1", late).status == "unsubscribed")
        code, told = prefs(made, "doctor")
        assert (code, any("paused" in one for one in told["findings"])) == (1, True)
        code, told = prefs(made, "ledger", "verify")
        assert code == 0, told  # the folder has gone on from what both know
        code, told = prefs(made, "checkpoint", "replay")
        assert (code, told["missing"], told["brought"]) == (1, 100, 0)
        assert story.reasons(OUT) == {"paused"}
        code, told = prefs(made, "checkpoint", "replay", "--apply")
        assert (code, told["brought"], told["opened"]) == (0, 100, True)
        eventually(lambda: story.ready()["marketing"] == "open")
        assert story.reasons(OUT) == {"opted_out"}
        assert story.reasons([late]) == {"opted_out"}
        assert story.reasons(PEOPLE[100:105]) == {"consent"}
        assert not story.degraded()
        assert httpx.post(links[OUT[50]]).status_code == 200
        out = ("unsubscribed",)
        eventually(lambda: all(vendor.member("a1", one).status in out for one in OUT))
    assert "marketing_paused" in made.log.read_text()
    assert prefs(made, "ledger", "verify")[0] == 0
    assert prefs(made, "checkpoint", "verify")[0] == 0
    denied_as_before(made)


def denied_as_before(made: Installation) -> None:
    """A restart finds nothing to complain of."""
    with made.opened() as runtime:
        assert runtime.watch.paused is None
