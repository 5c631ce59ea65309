"""The Xero twin behaves as the vendor's pages say, and where they are silent at its worst."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tests.twins.kit import ActError, Twin, act, running
from tests.twins.xero import CONTACTS, GROUPS, XeroTwin

HTTP = httpx.Client(timeout=60)
AMY = "amy@example.com"
SECRET = "twin-signing-key"


@pytest.fixture
def twin() -> Iterator[XeroTwin]:
    with running(XeroTwin()) as (made, _):
        yield made


def token(twin: XeroTwin, **more: str) -> httpx.Response:
    form = {"grant_type": "client_credentials", "scope": "accounting.contacts", **more}
    pair = (twin.client_id, twin.client_secret)
    return HTTP.post(f"{twin.url}/connect/token", data=form, auth=pair)


def headers(twin: XeroTwin, **more: str) -> dict[str, str]:
    given = {"Authorization": f"Bearer {token(twin).json()['access_token']}"}
    return {**given, "xero-tenant-id": twin.tenant, **more}


def get(twin: XeroTwin, path: str, since: str = "", **query: Any) -> httpx.Response:
    more = {"If-Modified-Since": since} if since else {}
    return HTTP.get(f"{twin.url}{path}", params=query, headers=headers(twin, **more))


def send(twin: XeroTwin, method: str, path: str, body: Any = None, **more: str) -> httpx.Response:
    return HTTP.request(method, f"{twin.url}{path}", json=body, headers=headers(twin, **more))


def contacts(answer: httpx.Response) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = answer.json()["Contacts"]
    return found


def members(group: str) -> str:
    return f"{GROUPS}/{group}/Contacts"


def add(twin: XeroTwin, group: str, *ids: str, **more: str) -> httpx.Response:
    body = {"Contacts": [{"ContactID": id_} for id_ in ids]}
    return send(twin, "PUT", members(group), body, **more)


# --- who may come in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "refresh_token"}, "unsupported_grant_type"),
        ({"scope": "accounting.contacts offline_access"}, "invalid_scope"),
    ],
)
def test_a_custom_connection_knows_one_grant(
    twin: XeroTwin, form: Mapping[str, str], error: str
) -> None:
    answer = token(twin, **form)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


def test_credentials_go_in_the_header(twin: XeroTwin) -> None:
    form = {"grant_type": "client_credentials", "scope": "accounting.contacts"}
    for pair in (("", ""), (twin.client_id, "another")):
        answer = HTTP.post(f"{twin.url}/connect/token", data=form, auth=pair)
        assert answer.json() == {"error": "invalid_client"}


def test_a_token_ends_after_half_an_hour(twin: XeroTwin) -> None:
    given = headers(twin)
    assert token(twin).json()["expires_in"] == 1800
    assert HTTP.get(f"{twin.url}{GROUPS}", headers=given).status_code == 200
    twin.clock.move(1801)
    assert HTTP.get(f"{twin.url}{GROUPS}", headers=given).status_code == 401


def test_the_organisation_must_be_named(twin: XeroTwin) -> None:
    given = headers(twin)
    for tenant in ("", "another"):
        answer = HTTP.get(f"{twin.url}{GROUPS}", headers={**given, "xero-tenant-id": tenant})
        assert answer.status_code == 403


# --- contacts -------------------------------------------------------------------------------------


def test_pages_are_of_a_hundred_and_tell_how_many_there_are(twin: XeroTwin) -> None:
    for number in range(101):
        twin.new_contact(f"p{number}@example.com")
    first, second = (get(twin, CONTACTS, page=number) for number in (1, 2))
    assert (len(contacts(first)), len(contacts(second))) == (100, 1)
    pages = {"page": 1, "pageSize": 100, "pageCount": 2, "itemCount": 101}
    assert first.json()["pagination"] == pages
    assert len(contacts(get(twin, CONTACTS, page=1, pageSize=1000))) == 101
    twin.configure(page_cap=100, tell_pages=False)
    capped = get(twin, CONTACTS, page=1, pageSize=1000)
    assert len(contacts(capped)) == 100
    assert "pagination" not in capped.json()
    assert contacts(get(twin, CONTACTS, page=3)) == []


def test_groups_are_in_pages_and_in_single_reads_only(twin: XeroTwin) -> None:
    id_ = twin.new_contact(AMY)
    twin.staff_adds(AMY, "Suppliers")
    assert "ContactGroups" not in contacts(get(twin, CONTACTS))[0]
    for answer in (get(twin, CONTACTS, page=1), get(twin, f"{CONTACTS}/{id_}")):
        (shown,) = contacts(answer)
        assert [group["Name"] for group in shown["ContactGroups"]] == ["Suppliers"]


def test_archived_contacts_show_where_they_are_asked_for(twin: XeroTwin) -> None:
    id_ = twin.new_contact(AMY)
    twin.archive(AMY)
    assert contacts(get(twin, CONTACTS, page=1)) == []
    (shown,) = contacts(get(twin, CONTACTS, page=1, includeArchived="true"))
    assert shown["ContactStatus"] == "ARCHIVED"
    assert contacts(get(twin, f"{CONTACTS}/{id_}"))[0]["ContactStatus"] == "ARCHIVED"
    twin.restore(AMY)
    assert contacts(get(twin, CONTACTS, page=1))[0]["ContactStatus"] == "ACTIVE"


def test_changes_are_found_by_their_date_and_groups_move_none(twin: XeroTwin) -> None:
    twin.new_contact(AMY)
    twin.clock.move(60)
    since = twin.clock().strftime("%Y-%m-%dT%H:%M:%S")
    twin.staff_adds(AMY, "Suppliers")
    assert contacts(get(twin, CONTACTS, since, page=1)) == []
    twin.configure(groups_move=True)
    twin.clock.move(1)
    twin.staff_removes(AMY, "Suppliers")
    assert len(contacts(get(twin, CONTACTS, since, page=1))) == 1


def test_by_date_a_change_pushes_another_off_the_next_page(twin: XeroTwin) -> None:
    made = []
    for number in range(3):
        made.append(twin.new_contact(f"p{number}@example.com"))
        twin.clock.move(1)
    (first,) = contacts(get(twin, CONTACTS, page=1, pageSize=1))
    assert first["ContactID"] == made[0]
    twin.edit("p0@example.com")
    (second,) = contacts(get(twin, CONTACTS, page=2, pageSize=1))
    assert second["ContactID"] == made[2]
    by_id = get(twin, CONTACTS, page=1, order="ContactID ASC")
    assert [one["ContactID"] for one in contacts(by_id)] == sorted(made)


@pytest.mark.parametrize("query", [{"page": 0}, {"pageSize": 0, "page": 1}, {"order": "Phones"}])
def test_a_wrong_question_is_refused(twin: XeroTwin, query: Mapping[str, Any]) -> None:
    assert get(twin, CONTACTS, **query).status_code == 400
    assert get(twin, CONTACTS, colour="red").status_code == 400


def test_an_address_is_found_by_a_filter_and_quotes_are_escaped(twin: XeroTwin) -> None:
    twin.new_contact(AMY, persons=["office@example.com"])
    for address, count in ((AMY, 1), ("office@example.com", 0), (r"a\"b@example.com", 0)):
        found = get(twin, CONTACTS, where=f'EmailAddress=="{address}"')
        assert len(contacts(found)) == count


# --- groups ---------------------------------------------------------------------------------------


def test_a_group_shows_its_members_by_id_only(twin: XeroTwin) -> None:
    id_ = twin.new_contact(AMY, name="Amy Pond")
    twin.staff_adds(AMY, "Suppliers")
    (listed,) = get(twin, GROUPS).json()["ContactGroups"]
    assert (listed["Name"], listed["Contacts"]) == ("Suppliers", [])
    (shown,) = get(twin, f"{GROUPS}/{listed['ContactGroupID']}").json()["ContactGroups"]
    assert shown["Contacts"] == [{"ContactID": id_, "Name": "Amy Pond"}]


def test_names_of_groups_are_unique_whatever_their_case(twin: XeroTwin) -> None:
    first = send(twin, "PUT", GROUPS, {"ContactGroups": [{"Name": "VIPs"}]})
    assert first.json()["ContactGroups"][0]["Name"] == "VIPs"
    for name in ("vips", " VIPs ", ""):
        answer = send(twin, "PUT", GROUPS, {"ContactGroups": [{"Name": name}]})
        assert answer.status_code == 400
        assert answer.json()["Type"] == "ValidationException"


def test_there_are_a_hundred_groups_at_most(twin: XeroTwin) -> None:
    for number in range(100):
        twin.new_group(f"Group {number}")
    assert send(twin, "PUT", GROUPS, {"ContactGroups": [{"Name": "VIPs"}]}).status_code == 400


@pytest.mark.parametrize("other", ["archived", "unknown"])
def test_one_contact_that_is_refused_refuses_all(twin: XeroTwin, other: str) -> None:
    group, id_ = twin.new_group("VIPs"), twin.new_contact(AMY)
    gone = twin.new_contact("gone@example.com")
    twin.archive("gone@example.com")
    bad = gone if other == "archived" else "00000000-0000-0000-0000-000000000000"
    answer = add(twin, group, id_, bad)
    assert answer.status_code == 400
    (element,) = answer.json()["Elements"]
    assert element["ContactID"] == bad
    assert twin.groups_of(AMY) == set()
    assert add(twin, group, id_).status_code == 200
    twin.configure(takes_archived=True)
    assert add(twin, group, id_, gone).status_code == 200


def test_adding_and_taking_out(twin: XeroTwin) -> None:
    group, id_ = twin.new_group("VIPs"), twin.new_contact(AMY)
    for _ in range(2):
        assert [one["ContactID"] for one in contacts(add(twin, group, id_))] == [id_]
    path = f"{members(group)}/{id_}"
    assert [send(twin, "DELETE", path).status_code for _ in range(2)] == [204, 404]
    assert [write.member for write in twin.state.writes] == [True, True, False]
    nowhere = members("00000000-0000-0000-0000-000000000000")
    assert send(twin, "PUT", nowhere, {"Contacts": [{"ContactID": id_}]}).status_code == 404


@pytest.mark.parametrize("end", ["", "/"])
def test_without_a_contact_the_whole_group_is_emptied(twin: XeroTwin, end: str) -> None:
    twin.new_contact(AMY)
    twin.staff_adds(AMY, "VIPs")
    path = members(twin.new_group("VIPs")) + end
    assert send(twin, "DELETE", path).status_code == 204
    assert twin.groups_of(AMY) == set()
    assert twin.dangers == ["a group was emptied"]


def test_a_group_is_deleted_by_its_status(twin: XeroTwin) -> None:
    twin.new_contact(AMY)
    twin.staff_adds(AMY, "VIPs")
    path = f"{GROUPS}/{twin.new_group('VIPs')}"
    send(twin, "POST", path, {"ContactGroups": [{"Status": "DELETED"}]})
    assert get(twin, GROUPS).json()["ContactGroups"] == []
    assert twin.dangers == ["a group was deleted"]


# --- keys and limits ------------------------------------------------------------------------------


def test_a_key_is_done_once(twin: XeroTwin) -> None:
    """A key that is used for a later write gets the old answer, and nothing is done."""
    group, id_ = twin.new_group("VIPs"), twin.new_contact(AMY)
    key = {"Idempotency-Key": "k1"}
    first = add(twin, group, id_, **key)
    send(twin, "DELETE", f"{members(group)}/{id_}")
    again = add(twin, group, id_, **key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert twin.groups_of(AMY) == set()
    other = twin.new_contact("ben@example.com")
    assert add(twin, group, other, **key).status_code == 400
    assert add(twin, group, id_, **{"Idempotency-Key": "x" * 129}).status_code == 400


def test_sixty_a_minute(twin: XeroTwin) -> None:
    given = headers(twin)
    answers = [HTTP.get(f"{twin.url}{GROUPS}", headers=given) for _ in range(61)]
    last = answers[-2]
    assert (last.status_code, answers[-1].status_code) == (200, 429)
    assert answers[-1].headers["x-rate-limit-problem"] == "Minute"
    assert answers[-1].headers["retry-after"] == "60"
    assert last.headers["x-minlimit-remaining"] == "0"
    assert last.headers["x-daylimit-remaining"] == str(5000 - 60)


def test_the_limit_of_a_day(twin: XeroTwin) -> None:
    twin.configure(windows=[[60, 60.0], [1, 86400.0]])
    assert get(twin, GROUPS).headers["x-daylimit-remaining"] == "0"
    answer = get(twin, GROUPS)
    assert answer.headers["x-rate-limit-problem"] == "Day"
    assert answer.headers["retry-after"] == "86400"


def test_five_at_once_and_no_word_of_when(twin: XeroTwin) -> None:
    twin.configure(at_once=0)
    answer = get(twin, GROUPS)
    assert answer.headers["x-rate-limit-problem"] == "Concurrent"
    assert "retry-after" not in answer.headers


# --- webhooks -------------------------------------------------------------------------------------


class Ear(Twin[list[str]]):
    """A receiver that checks signatures, or answers as it is told."""

    name = "ear"
    answer: tuple[int, bytes, Mapping[str, str]] | None = None

    def fresh(self) -> list[str]:
        return []

    def routes(self) -> list[BaseRoute]:
        return [Route("/hook", self.hear, methods=["POST"])]

    async def hear(self, request: Request) -> Response:
        if self.answer:
            status, body, more = self.answer
            return Response(body, status, dict(more))
        content = await request.body()
        digest = hmac.new(SECRET.encode(), content, hashlib.sha256).digest()
        right = request.headers["x-xero-signature"] == base64.b64encode(digest).decode()
        return Response(status_code=200 if right else 401)

    def problem(self, status: int, reason: str = "") -> Response:
        return Response(status_code=status)

    @act
    def answers(self, status: int, body: bytes = b"", cookie: str = "") -> None:
        self.answer = (status, body, {"set-cookie": cookie} if cookie else {})


@pytest.fixture
def ear(twin: XeroTwin) -> Iterator[Ear]:
    with running(Ear()) as (made, url):
        twin.configure(webhook_url=f"{url}/hook", webhook_secret=SECRET, gaps=[0.01])
        yield made


def intend(twin: XeroTwin) -> str:
    twin.intent_to_receive()
    twin.courier.settle()
    return twin.state.hook.status


def test_nothing_is_told_before_the_intent_to_receive(twin: XeroTwin, ear: Ear) -> None:
    twin.new_contact(AMY)
    twin.courier.settle()
    assert ear.calls == []
    assert intend(twin) == "OK"
    assert [call.status for call in ear.calls] == [200, 401, 200, 401]
    for call in ear.calls:
        body = call.json()
        assert (body["events"], body["firstEventSequence"], body["lastEventSequence"]) == ([], 0, 0)
        assert body["entropy"]


@pytest.mark.parametrize(
    ("status", "body", "cookie", "fault"),
    [
        (200, b"", "", "200 instead of 401"),
        (401, b"", "", "401 instead of 200"),
        (204, b"", "", "204 instead of 200"),
        (200, b"ok", "", "a body"),
        (200, b"", "session=1", "a cookie"),
    ],
)
def test_a_wrong_answer_fails_the_intent(
    twin: XeroTwin, ear: Ear, status: int, body: bytes, cookie: str, fault: str
) -> None:
    ear.answers(status=status, body=body, cookie=cookie)
    assert intend(twin) == "Intent to receive required"
    assert fault in twin.state.hook.faults


def test_an_event_names_the_contact_and_no_field_of_it(twin: XeroTwin, ear: Ear) -> None:
    intend(twin)
    id_ = twin.new_contact(AMY)
    twin.archive(AMY)
    twin.staff_adds(AMY, "VIPs")
    twin.courier.settle()
    created, archived = (call.json() for call in ear.calls[4:])
    (event,) = created["events"]
    assert event.pop("eventDateUtc")
    assert event == {
        "resourceUrl": f"https://api.xero.com{CONTACTS}/{id_}",
        "resourceId": id_,
        "eventType": "CREATE",
        "eventCategory": "CONTACT",
        "tenantId": twin.tenant,
        "tenantType": "ORGANISATION",
    }
    assert archived["events"][0]["eventType"] == "UPDATE"
    assert [one["firstEventSequence"] for one in (created, archived)] == [1, 2]
    assert AMY not in json.dumps([created, archived])


def test_a_webhook_that_is_not_taken_is_disabled(twin: XeroTwin, ear: Ear) -> None:
    intend(twin)
    ear.answers(status=503)
    twin.new_contact(AMY)
    twin.courier.settle()
    assert [call.status for call in ear.calls[4:]] == [503, 503]
    assert twin.state.hook.status == "Disabled"
    twin.edit(AMY)
    twin.courier.settle()
    assert len(ear.calls) == 6
    ear.answer = None
    assert intend(twin) == "OK"


# --- acts and page --------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(twin: XeroTwin) -> None:
    with pytest.raises(ActError):
        twin.archive("nobody@example.com")
    with pytest.raises(ActError):
        twin.delete_group("No such group")


def test_the_page_shows_people_and_what_can_be_done(twin: XeroTwin) -> None:
    twin.new_contact(AMY)
    twin.staff_adds(AMY, "VIPs")
    page = HTTP.get(twin.url).text
    assert AMY in page
    assert "VIPs" in page
    fields = {"email": AMY, "group": "VIPs"}
    assert HTTP.post(f"{twin.url}/_twin/acts/staff_removes", data=fields).status_code == 303
    assert twin.groups_of(AMY) == set()
