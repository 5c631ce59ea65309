"""The Pabau twin behaves as the vendor's pages say, and where they are silent at its worst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.served import eventually
from tests.twins.kit import ActError, running
from tests.twins.pabau import FLAGS, PabauTwin

HTTP = httpx.Client(timeout=60)
ON = dict.fromkeys(FLAGS, 1)
OFF = dict.fromkeys(FLAGS, 0)


@pytest.fixture
def twin() -> Iterator[PabauTwin]:
    with running(PabauTwin()) as (made, _):
        made.configure(windows=[])
        yield made


def path(twin: PabauTwin, rest: str = "") -> str:
    return f"{twin.url}/{twin.api_key}/clients{rest}"


def listed(twin: PabauTwin, **query: Any) -> Any:
    return HTTP.get(path(twin), params=query).json()


def ids(answer: Any) -> list[int]:
    return [one["details"]["id"] for one in answer["clients"]]


def test_the_key_stands_in_the_path(twin: PabauTwin) -> None:
    assert HTTP.get(path(twin)).status_code == 200
    assert HTTP.get(f"{twin.url}/another/clients").status_code == 401
    twin.configure(closed=True)
    assert HTTP.get(path(twin)).status_code == 402
    assert HTTP.get(f"{twin.url}/another/clients").status_code == 401


def test_pages_are_of_twenty_and_at_most_of_fifty(twin: PabauTwin) -> None:
    made = [twin.new_client(f"p{number}@example.com") for number in range(120)]
    assert ids(listed(twin)) == made[:20]
    assert ids(listed(twin, per_page=1000)) == made[:50]
    assert ids(listed(twin, per_page=50, page=3)) == made[100:]
    assert listed(twin, page=99) == {"success": True, "total": 120, "clients": []}
    for query in ({"page": 0}, {"per_page": "many"}):
        assert HTTP.get(path(twin), params=query).status_code == 400


def test_there_is_no_search(twin: PabauTwin) -> None:
    made = [twin.new_client(f"p{number}@example.com") for number in range(2)]
    assert ids(listed(twin, mobile="07700 900101", email="p1@example.com")) == made
    assert HTTP.get(path(twin, f"/{made[0]}")).status_code == 404
    assert len(twin.unknown()) == 1


def test_a_new_client_shifts_the_pages(twin: PabauTwin) -> None:
    made = [twin.new_client(f"p{number}@example.com") for number in range(21)]
    twin.configure(newest_first=True)
    assert ids(listed(twin, page=2)) == made[:1]
    twin.new_client("new@example.com")
    assert ids(listed(twin, page=2)) == made[1::-1]


def test_what_an_update_leaves_out_becomes_one(twin: PabauTwin) -> None:
    id_ = twin.new_client("amy@example.com", flags=OFF, active=0)
    answer = HTTP.post(path(twin, f"/{id_}/update"), json={"opt_in_sms": 0})
    assert answer.json() == {"status": 1, "message": "Client updated", "contact_id": str(id_)}
    assert twin.flags(id_) == {**ON, "opt_in_sms": 0}
    assert twin.client(id_).is_active == 1


@pytest.mark.parametrize("taken", ["json", "form", "query"])
@pytest.mark.parametrize("sent", ["json", "form", "query"])
def test_another_encoding_than_the_one_taken_is_not_seen(
    twin: PabauTwin, taken: str, sent: str
) -> None:
    twin.configure(encodings=[taken])
    id_ = twin.new_client("amy@example.com")
    name = {"json": "json", "form": "data", "query": "params"}[sent]
    HTTP.post(path(twin, f"/{id_}/update"), **{name: OFF})  # type: ignore[arg-type]  # one of three
    assert twin.flags(id_) == (OFF if sent == taken else ON)


def test_need_to_knows_are_neither_shown_nor_changed(twin: PabauTwin) -> None:
    id_ = twin.new_client("amy@example.com")
    assert "need_to_knows" not in HTTP.get(path(twin)).text
    assert not twin.reminders_touched()
    HTTP.post(path(twin, f"/{id_}/update"), json={**OFF, "need_to_knows": 0})
    assert twin.client(id_).need_to_knows == 1
    assert twin.reminders_touched()


def test_a_wrong_update_changes_nothing(twin: PabauTwin) -> None:
    id_ = twin.new_client("amy@example.com")
    for body in ({**OFF, "opt_in_sms": 2}, {**OFF, "No SMS": 1}, [1], "x"):
        assert HTTP.post(path(twin, f"/{id_}/update"), json=body).status_code == 400
    assert HTTP.post(path(twin, "/999/update"), json=OFF).status_code == 400
    assert twin.flags(id_) == ON


def test_custom_fields_are_shown_where_the_account_does(twin: PabauTwin) -> None:
    twin.new_field("Marketing messenger")
    id_ = twin.new_client("amy@example.com")
    HTTP.post(path(twin, f"/{id_}/update"), json={**ON, "Marketing_messenger": "opted out"})
    assert "custom_fields" not in listed(twin)["clients"][0]
    twin.configure(shows_custom=True)
    (client,) = listed(twin)["clients"]
    assert client["custom_fields"] == {"Marketing_messenger": "opted out"}


def test_the_smallest_plan_allows_twenty_calls_in_two_seconds(twin: PabauTwin) -> None:
    twin.reset()
    answers = [HTTP.get(path(twin)).status_code for _ in range(21)]
    assert answers == [200] * 20 + [429]


def test_what_happens_inside_is_told(twin: PabauTwin) -> None:
    with running(PabauTwin()) as (ear, url):
        twin.webhook_url = f"{url}/hook"
        id_ = twin.new_client("amy@example.com")
        twin.client_unsubscribes(id_, "sms")
        twin.staff_set(id_, "opt_in_post", "0")
        assert twin.flags(id_) == {**ON, "opt_in_sms": 0, "opt_in_post": 0}
        twin.booking(id_)
        assert twin.flags(id_) == ON
        twin.webhook({"any": ["thing"]})
        eventually(lambda: len(ear.calls) >= 5)
    told = [call.json() for call in ear.calls]
    assert {"any": ["thing"]} in told
    actions = [one["action"] for one in told if "action" in one]
    assert sorted(actions) == ["change", "change", "change", "create"]


def test_what_cannot_be_is_refused(twin: PabauTwin) -> None:
    id_ = twin.new_client("amy@example.com")
    with pytest.raises(ActError):
        twin.client_unsubscribes(id_, "fax")
    with pytest.raises(ActError):
        twin.staff_set(id_, "need_to_knows")
    with pytest.raises(ActError):
        twin.staff_edit(id_, "id", "7")
    with pytest.raises(ActError):
        twin.booking(999)


def test_the_page_shows_people_and_what_can_be_done(twin: PabauTwin) -> None:
    twin.new_client("amy@example.com", flags={"opt_in_sms": 0})
    page = HTTP.get(twin.url).text
    assert "amy@example.com" in page
    for flag in ("email: on", "phone: on", "post: on", "newsletter: on", "sms: off"):
        assert flag in page
    answer = HTTP.post(f"{twin.url}/_twin/acts/client_unsubscribes", data={"id": "1001"})
    assert answer.status_code == 303
    assert twin.flags(1001)["opt_in_newsletter"] == 0
