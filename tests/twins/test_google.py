"""The twin of Google Contacts refuses, lags and leaves out as its vendor does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.twins.google import MINE, GoogleTwin
from tests.twins.kit import running

PEOPLE, GROUPS = "/v1/people/me/connections", "/v1/contactGroups"
LISTED = {"personFields": "names,memberships,metadata", "requestSyncToken": "true"}
AMY, BEN = "amy@example.com", "ben@example.com"


class Caller:
    """Calls with a token of its own."""

    def __init__(self, twin: GoogleTwin, url: str) -> None:
        keys = ("client_id", "client_secret", "refresh_token")
        form = {key: getattr(twin, key) for key in keys} | {"grant_type": "refresh_token"}
        self.client = httpx.Client(base_url=url)
        token = self.client.post("/token", data=form).json()["access_token"]
        self.client.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params=params)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, json=body)

    def modify(self, group: str, add: list[str], remove: list[str] | None = None) -> Any:
        body = {"resourceNamesToAdd": add, "resourceNamesToRemove": remove or []}
        return self.post(f"/v1/{group}/members:modify", body)


@pytest.fixture
def google() -> Iterator[tuple[GoogleTwin, Caller]]:
    with running(GoogleTwin()) as (twin, url):
        caller = Caller(twin, url)
        yield twin, caller
        caller.client.close()


def reason(answer: Any) -> str:
    details = answer.json()["error"].get("details") or [{}]
    return str(details[0].get("reason"))


def test_without_a_token_nobody_comes_in(google: tuple[GoogleTwin, Caller]) -> None:
    _, caller = google
    caller.client.headers["Authorization"] = "Bearer another"
    assert caller.get(PEOPLE, **LISTED).status_code == 401


def test_writes_that_overlap_fail(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    amy, label = twin.new_contact(AMY), twin.new_label("One")
    twin.configure(latency=0.3)
    statuses: list[int] = []

    def write() -> None:
        statuses.append(caller.modify(label, [amy]).status_code)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 503]
    assert twin.parallel_writes == 1


def test_a_200_names_what_was_not_done(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    amy, label = twin.new_contact(AMY), twin.new_label("One")
    answer = caller.modify(label, [amy, "people/c99"])
    assert answer.status_code == 200
    assert answer.json() == {"notFoundResourceNames": ["people/c99"]}
    assert twin.labels(AMY) == {"One"}
    twin.only_in(AMY, "One")
    answer = caller.modify(label, [], [amy])
    assert answer.json() == {"canNotRemoveLastContactGroupResourceNames": [amy]}
    assert twin.labels(AMY) == {"One"}


def test_labels_refuse_what_google_refuses(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    amy = twin.new_contact(AMY)
    twin.new_label("One")
    assert caller.modify("contactGroups/friends", [amy]).status_code == 400
    assert caller.modify(MINE, [amy]).status_code == 200
    assert caller.modify("contactGroups/none", [amy]).status_code == 404
    assert caller.modify(MINE, [f"people/c{n}" for n in range(1001)]).status_code == 400
    assert caller.post(GROUPS, {"contactGroup": {"name": "One"}}).status_code == 409


def test_members_are_shown_only_where_they_are_asked_for(
    google: tuple[GoogleTwin, Caller],
) -> None:
    twin, caller = google
    amy, label = twin.new_contact(AMY, labels=["One"]), twin.new_label("One")
    assert "memberResourceNames" not in caller.get(f"/v1/{label}").json()
    assert caller.get(f"/v1/{label}", maxMembers=5).json()["memberResourceNames"] == [amy]


def test_a_read_of_many_is_of_two_hundred_at_most(google: tuple[GoogleTwin, Caller]) -> None:
    _, caller = google
    names = [f"people/c{number}" for number in range(201)]
    path = "/v1/people:batchGet"
    assert caller.get(path, resourceNames=names, personFields="names").status_code == 400
    one = caller.get(path, resourceNames=names[:1], personFields="names").json()["responses"][0]
    assert one["httpStatusCode"] == 404


def test_a_sync_token_shows_changes_and_wants_the_same_parameters(
    google: tuple[GoogleTwin, Caller],
) -> None:
    twin, caller = google
    twin.new_contact(AMY)
    token = caller.get(PEOPLE, **LISTED).json()["nextSyncToken"]
    twin.clock.move(60)
    twin.new_contact(BEN)
    twin.delete_contact(AMY)
    found = caller.get(PEOPLE, **LISTED, syncToken=token).json()["connections"]
    assert [one.get("metadata", {}).get("deleted", False) for one in found] == [True, False]
    other = {**LISTED, "personFields": "names"}
    assert caller.get(PEOPLE, **other, syncToken=token).status_code == 400


def test_a_sync_token_ends_after_seven_days(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    token = caller.get(PEOPLE, **LISTED).json()["nextSyncToken"]
    twin.clock.move(7 * 86400)
    later = Caller(twin, str(caller.client.base_url))
    assert reason(later.get(PEOPLE, **LISTED, syncToken=token)) == "EXPIRED_SYNC_TOKEN"
    later.client.close()


def test_a_listing_lags_and_a_read_does_not(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    amy, label = twin.new_contact(AMY), twin.new_label("One")
    twin.clock.move(600)
    twin.configure(lag=300)
    caller.modify(label, [amy])
    listed = caller.get(PEOPLE, **LISTED).json()["connections"][0]
    read = caller.get(f"/v1/{amy}", personFields="memberships").json()
    assert label not in str(listed)
    assert label in str(read)


def test_what_destroys_is_noted(google: tuple[GoogleTwin, Caller]) -> None:
    twin, caller = google
    twin.new_contact(AMY, labels=["One"])
    label = twin.new_label("One")
    assert caller.client.delete(f"/v1/{label}?deleteContacts=true").status_code == 200
    assert twin.dangers == ["a label was deleted"]
    assert "connections" not in caller.get(PEOPLE, **LISTED).json()
