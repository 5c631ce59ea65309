"""An unclear text: marketing waits until staff have read it, whoever shares the number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefs import texts
from prefs.core import identity
from prefs.core.signals import Text
from tests.kit import Clock
from tests.served import Served, served

NUMBER = "+447700900101"
UNCLEAR, AGAIN, PLAIN = "stop sending me reminders", "Stop sending me the reminders", "STOP"
TWILIO = """
[brands.rt.targets.twilio]
system = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "env:TWILIO"
"""


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    environ = {"TWILIO": "a token"}
    with served(tmp_path, TWILIO, environ=environ, clock=Clock()) as made:
        yield made


def consents(rt: Served, ref: str, number: str = NUMBER) -> None:
    change = {"channel": "sms", "purpose": "marketing", "choice": "in"}
    body = {
        "brand": "rt",
        "subject": {"phone": number, "ref": ref},
        "changes": [change],
        "source": "api",
        "basis": "consent",
        "evidence": {"wording": "Yes please"},
    }
    assert rt.post("/v1/preferences", body).status_code == 200


def text(rt: Served, body: str, id_: str = "SM1") -> None:
    runtime = rt.runtime
    target = runtime.settings.targets["rt/twilio"]
    number = identity.phone(NUMBER, "GB")
    said = Text(id_, number, "MG1", None, body, None)
    runtime.database.write_now(lambda conn: texts.take(conn, runtime.intake, target, said, b"{}"))


def tasks(rt: Served) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = rt.get("/v1/tasks?state=open&kind=held_text").json()["items"]
    return items


def settle(rt: Served, task: dict[str, Any], state: str) -> int:
    answer = rt.post(f"/v1/tasks/{task['id']}", {"state": state, "note": "rang her"})
    return int(answer.status_code)


def reason(rt: Served, number: str = NUMBER) -> str:
    return rt.reason(number, channel="sms")


@pytest.mark.parametrize(
    ("state", "after"), [("release", ("consent", "consent")), ("out", ("opted_out", "opted_out"))]
)
@pytest.mark.parametrize("people", [1, 2])
def test_staff_settle_it_also_where_several_share_the_number(
    rt: Served, people: int, state: str, after: tuple[str, str]
) -> None:
    refs = [f"c{number}" for number in range(people)]
    for ref in refs:
        consents(rt, ref)
    text(rt, UNCLEAR)
    assert reason(rt) == "held"
    (task,) = tasks(rt)
    assert settle(rt, task, state) == 200
    assert tasks(rt) == []
    assert (reason(rt), reason_of(rt, refs[-1])) == after


def reason_of(rt: Served, ref: str) -> str:
    return rt.reason({"ref": ref}, channel="sms")


def test_a_release_waits_for_every_open_question_about_the_channel(rt: Served) -> None:
    consents(rt, "c1")
    text(rt, UNCLEAR)
    text(rt, AGAIN, "SM2")
    first, second = tasks(rt)
    assert settle(rt, first, "release") == 200
    assert reason(rt) == "held"
    assert settle(rt, second, "release") == 200
    assert reason(rt) == "consent"


def test_a_release_takes_no_out_back(rt: Served) -> None:
    consents(rt, "c1")
    text(rt, UNCLEAR)
    text(rt, PLAIN, "SM2")
    (task,) = tasks(rt)
    assert settle(rt, task, "release") == 200
    assert reason(rt) == "opted_out"


def test_nobody_new_is_made_for_an_unclear_text_that_means_stop(rt: Served) -> None:
    text(rt, UNCLEAR)
    (task,) = tasks(rt)
    assert settle(rt, task, "out") == 200
    assert reason(rt) == "opted_out"
    found = rt.post("/v1/subjects/search", {"brand": "rt", "phone": NUMBER}).json()["items"]
    assert [one["subject_id"] for one in found] == [task["subject_id"]]
