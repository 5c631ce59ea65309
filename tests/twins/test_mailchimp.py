"""The Mailchimp twin behaves as the vendor's pages say."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.twins.kit import ActError, Travel, running
from tests.twins.mailbox import Mailbox, mailbox
from tests.twins.mailchimp import MailchimpTwin
from tests.twins.mailchimp_account import subscriber_hash

HTTP = httpx.Client(timeout=60)
AMY = "Amy@Example.com"
LIST = "a1"


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as made:
        yield made


@pytest.fixture
def twin() -> Iterator[MailchimpTwin]:
    with running(MailchimpTwin()) as (made, _):
        made.new_audience(LIST, interests={"i1": "Treatments", "i2": "Offers"})
        made.new_member(LIST, AMY, interests={"i1": True})
        yield made


def call(twin: MailchimpTwin, method: str, path: str, body: Any = None, **query: Any) -> Any:
    return HTTP.request(
        method,
        twin.url + "/3.0" + path,
        json=body,
        params=query,
        auth=("anyone", twin.api_key),
    )


def path_of(email: str = AMY) -> str:
    return f"/lists/{LIST}/members/{hashlib.md5(email.lower().encode()).hexdigest()}"


def patch(twin: MailchimpTwin, status: str, email: str = AMY) -> Any:
    return call(twin, "PATCH", path_of(email), {"status": status})


def emails(answer: Any) -> list[str]:
    return [member["email_address"] for member in answer.json()["members"]]


def test_the_key_is_asked_for(twin: MailchimpTwin) -> None:
    url = twin.url + "/3.0/ping"
    refused = httpx.get(url, auth=("anyone", "wrong"))
    assert refused.status_code == 401
    assert refused.headers["content-type"].startswith("application/problem+json")
    assert set(refused.json()) == {"type", "title", "status", "detail", "instance"}
    assert httpx.get(url).status_code == 401
    assert call(twin, "GET", "/ping").json() == {"health_status": "Everything's Chimpy!"}
    bearer = {"authorization": f"Bearer {twin.api_key}"}
    assert httpx.get(url, headers=bearer).status_code == 200


def test_a_member_is_found_by_hash_address_and_contact_id(twin: MailchimpTwin) -> None:
    shown = call(twin, "GET", path_of()).json()
    assert shown["id"] == hashlib.md5(b"amy@example.com").hexdigest()
    assert (shown["status"], shown["interests"]) == ("subscribed", {"i1": True, "i2": False})
    assert shown["timestamp_opt"].endswith("+00:00")
    for key in (AMY, shown["contact_id"]):
        assert call(twin, "GET", f"/lists/{LIST}/members/{key}").json()["id"] == shown["id"]
    absent = call(twin, "GET", path_of("bob@example.com"))
    assert (absent.status_code, absent.json()["title"]) == (404, "Resource Not Found")
    assert call(twin, "GET", "/lists/none/members/x").status_code == 404


def test_an_opt_out_by_the_api_is_remembered_as_such(twin: MailchimpTwin) -> None:
    answer = patch(twin, "unsubscribed").json()
    assert (answer["status"], bool(answer["unsubscribe_reason"])) == ("unsubscribed", True)
    member = twin.member(LIST, AMY)
    assert member.left_by == "api"
    assert [c.what for c in member.changed_by("api")] == [{"status": "unsubscribed"}]
    patch(twin, "unsubscribed")
    assert len(member.changed_by("api")) == 1
    assert patch(twin, "subscribed").status_code == 200
    patch(twin, "unsubscribed")
    twin.configure(api_may_resubscribe=False)
    assert patch(twin, "subscribed").json()["title"] == "Member In Compliance State"


def test_who_left_by_themselves_is_refused(twin: MailchimpTwin) -> None:
    twin.person_unsubscribes(LIST, AMY)
    refused = patch(twin, "subscribed")
    assert (refused.status_code, refused.json()["title"]) == (400, "Member In Compliance State")
    patch(twin, "unsubscribed")
    assert twin.member(LIST, AMY).left_by == "person"
    twin.configure(pending_allowed=False)
    assert patch(twin, "pending").status_code == 400
    twin.configure(pending_allowed=True)
    assert patch(twin, "pending").json()["status"] == "pending"
    assert patch(twin, "subscribed").status_code == 400
    assert patch(twin, "pending").status_code == 200
    assert len(twin.state.mails) == 1
    twin.person_confirms(LIST, AMY)
    member = twin.member(LIST, AMY)
    assert (member.status, member.left_by, member.ip_opt) == ("subscribed", None, "192.0.2.7")


def test_a_cleaned_address_stays_cleaned(twin: MailchimpTwin) -> None:
    twin.cleaned(LIST, AMY, "hard")
    for status in ("subscribed", "pending"):
        assert patch(twin, status).json()["title"] == "Member In Compliance State"
    assert twin.member(LIST, AMY).status == "cleaned"


def test_archive_and_erase(twin: MailchimpTwin) -> None:
    assert call(twin, "DELETE", path_of()).status_code == 204
    assert call(twin, "GET", path_of()).json()["status"] == "archived"
    assert emails(call(twin, "GET", f"/lists/{LIST}/members")) == []
    assert emails(call(twin, "GET", f"/lists/{LIST}/members", status="archived")) == [AMY]
    assert call(twin, "POST", path_of() + "/actions/delete-permanent").status_code == 204
    assert call(twin, "GET", path_of()).status_code == 404
    put = {"email_address": AMY, "status_if_new": "unsubscribed"}
    assert call(twin, "PUT", path_of(), put).json()["title"] == "Forgotten Email Not Subscribed"
    bulk = {"members": [{"email_address": AMY, "status": "subscribed"}]}
    assert call(twin, "POST", f"/lists/{LIST}", bulk).json()["error_count"] == 1
    twin.subscribe_by_form(LIST, AMY)
    assert twin.member(LIST, AMY).status == "subscribed"


def test_an_archived_person_who_left_is_still_refused(twin: MailchimpTwin) -> None:
    twin.person_unsubscribes(LIST, AMY)
    call(twin, "DELETE", path_of())
    put = {"email_address": AMY, "status_if_new": "subscribed", "status": "subscribed"}
    assert call(twin, "PUT", path_of(), put).status_code == 400


def test_put_creates_and_only_status_overwrites(twin: MailchimpTwin) -> None:
    new = {"email_address": "bob@example.com", "status_if_new": "transactional"}
    assert call(twin, "PUT", path_of("bob@example.com"), new).json()["status"] == "transactional"
    patch(twin, "unsubscribed")
    put = {"email_address": AMY, "status_if_new": "subscribed"}
    assert call(twin, "PUT", path_of(), put).json()["status"] == "unsubscribed"
    assert call(twin, "PUT", path_of(), put | {"status": "subscribed"}).json()["status"] == (
        "subscribed"
    )
    assert call(twin, "PUT", path_of("eve@example.com"), new).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {"status": "off"},
        {"status": "transactional"},
        {"sms_subscription_status": "unsubscribed"},
        {"interests": {"none": False}},
        {"interests": {"i1": "no"}},
        {"merge_fields": {"NONE": "x"}},
        {"email_address": "not an address"},
        {"timestamp_opt": "2026-01-01"},
    ],
)
def test_strict_about_bodies(twin: MailchimpTwin, body: dict[str, Any]) -> None:
    refused = call(twin, "PATCH", path_of(), body)
    assert (refused.status_code, refused.json()["title"]) == (400, "Invalid Resource")
    assert refused.json()["errors"][0]["field"].split(".")[0] == next(iter(body))
    assert twin.member(LIST, AMY).changed_by("api") == []


@pytest.mark.parametrize(
    "query",
    [
        {"cuont": 5},
        {"count": 1001},
        {"offset": -1},
        {"status": "off"},
        {"since_last_changed": "yesterday"},
        {"unsubscribed_since": "2026-01-01T00:00:00+00:00"},
        {"sort_field": "email"},
    ],
)
def test_strict_about_queries(twin: MailchimpTwin, query: dict[str, Any]) -> None:
    assert call(twin, "GET", f"/lists/{LIST}/members", **query).status_code == 400


def test_topics(twin: MailchimpTwin) -> None:
    (category,) = call(twin, "GET", f"/lists/{LIST}/interest-categories").json()["categories"]
    interests = f"/lists/{LIST}/interest-categories/{category['id']}/interests"
    names = {i["id"]: i["name"] for i in call(twin, "GET", interests).json()["interests"]}
    assert names == {"i1": "Treatments", "i2": "Offers"}
    answer = call(twin, "PATCH", path_of(), {"interests": {"i1": False}}).json()
    assert answer["interests"] == {"i1": False, "i2": False}
    assert call(twin, "GET", f"/lists/{LIST}/interest-categories/none/interests").status_code == 404


def test_lists_and_partial_answers(twin: MailchimpTwin) -> None:
    twin.new_audience("a2", name="VIP", double_optin=True)
    lists = call(twin, "GET", "/lists", fields="lists.id,lists.double_optin,total_items").json()
    assert lists == {
        "lists": [{"id": "a1", "double_optin": False}, {"id": "a2", "double_optin": True}],
        "total_items": 2,
    }
    one = call(twin, "GET", "/lists/a1", exclude_fields="stats.member_count,_links").json()
    assert "member_count" not in one["stats"]
    assert "total_contacts" in one["stats"]


def test_listing_pages_sorts_and_filters(twin: MailchimpTwin) -> None:
    twin.clock.stop(datetime(2030, 1, 1, tzinfo=UTC))
    for n in range(12):
        twin.new_member(LIST, f"p{n:02}@example.com")
        twin.clock.move(60)
    members = f"/lists/{LIST}/members"
    assert len(emails(call(twin, "GET", members))) == 10
    query = {"count": 5, "offset": 3, "sort_field": "last_changed", "sort_dir": "ASC"}
    assert emails(call(twin, "GET", members, **query)) == [
        f"p{n:02}@example.com" for n in range(2, 7)
    ]
    since = {"since_last_changed": "2030-01-01T00:09:00+00:00"}
    assert emails(call(twin, "GET", members, **since)) == ["p10@example.com", "p11@example.com"]
    patch(twin, "unsubscribed", "p00@example.com")
    left = {"status": "unsubscribed", "unsubscribed_since": "2030-01-01T00:11:00+00:00"}
    answer = call(twin, "GET", members, **left, fields="members.status,total_items")
    assert answer.json() == {"members": [{"status": "unsubscribed"}], "total_items": 1}


def test_search_across_audiences(twin: MailchimpTwin) -> None:
    twin.new_audience("a2")
    twin.new_member("a2", AMY, status="unsubscribed")
    found = call(twin, "GET", "/search-members", query="amy@example.com").json()
    assert [m["list_id"] for m in found["exact_matches"]["members"]] == ["a1", "a2"]
    assert call(twin, "GET", "/search-members").status_code == 400


def test_bulk_names_what_failed_and_answers_200(twin: MailchimpTwin) -> None:
    twin.new_member(LIST, "left@example.com", status="unsubscribed")
    twin.new_member(LIST, "odd@example.com")
    twin.new_member(LIST, "gone@example.com")
    twin.faults.add("bad_item", key="odd@")
    twin.faults.add("omit_item", key="gone@")
    sent = [
        {"email_address": AMY, "status": "unsubscribed"},
        {"email_address": "left@example.com", "status": "subscribed"},
        {"email_address": "odd@example.com", "status": "unsubscribed"},
        {"email_address": "gone@example.com", "status": "unsubscribed"},
        {"email_address": "nonsense", "status": "unsubscribed"},
        {"email_address": "new@example.com", "status": "unsubscribed"},
        {"email_address": AMY.upper(), "status": "subscribed"},
    ]
    body = {"members": sent, "update_existing": True}
    answer = call(twin, "POST", f"/lists/{LIST}", body)
    result = answer.json()
    assert answer.status_code == 200
    assert [m["email_address"] for m in result["updated_members"]] == [AMY]
    assert [m["email_address"] for m in result["new_members"]] == ["new@example.com"]
    assert [e["email_address"] for e in result["errors"]] == [
        "left@example.com",
        "odd@example.com",
        "nonsense",
        AMY.upper(),
    ]
    assert "compliance" in result["errors"][0]["error"]
    assert (result["total_created"], result["total_updated"], result["error_count"]) == (1, 1, 4)
    assert twin.member(LIST, "gone@example.com").status == "subscribed"
    assert twin.member(LIST, AMY).status == "unsubscribed"


def test_bulk_limits(twin: MailchimpTwin) -> None:
    bulk = f"/lists/{LIST}"
    item = {"email_address": AMY, "status": "unsubscribed"}
    exists = call(twin, "POST", bulk, {"members": [item]}).json()
    assert exists["errors"][0]["error_code"] == "ERROR_CONTACT_EXISTS"
    many = [{"email_address": f"p{n}@example.com", "status": "subscribed"} for n in range(501)]
    assert call(twin, "POST", bulk, {"members": many}).status_code == 400
    assert call(twin, "POST", bulk, {"members": [item | {"oops": 1}]}).status_code == 400
    nobody = {"email_address": "", "status": "unsubscribed"}
    assert call(twin, "POST", bulk, {"members": [item, nobody]}).status_code == 400
    assert len(twin.audience(LIST).members) == 1


def test_ten_at_once(twin: MailchimpTwin) -> None:
    twin.latency = 0.5
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: call(twin, "GET", "/ping"), range(12)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 2
    assert refused[0].json()["title"] == "Too Many Requests"
    assert "retry-after" not in refused[0].headers
    twin.latency = 0
    twin.faults.add("status", status=403, body="")
    empty = call(twin, "GET", "/ping")
    assert (empty.status_code, empty.content) == (403, b"")


def run_batch(twin: MailchimpTwin, operations: list[dict[str, Any]]) -> dict[str, Any]:
    batch = call(twin, "POST", "/batches", {"operations": operations}).json()
    seen = [batch["status"]]
    while seen[-1] != "finished":
        batch = call(twin, "GET", f"/batches/{batch['id']}").json()
        seen.append(batch["status"])
    assert seen == ["pending", "preprocessing", "started", "finalizing", "finished"]
    return dict(batch)


def results_of(batch: dict[str, Any]) -> dict[str, Any]:
    packed = httpx.get(batch["response_body_url"]).content
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        files = [tar.extractfile(entry) for entry in tar.getmembers() if entry.isfile()]
        items = [item for file in files if file for item in json.load(file)]
    return {item["operation_id"]: item for item in items}


def test_a_batch_finishes_with_errors(twin: MailchimpTwin) -> None:
    twin.faults.add("omit_item", key="lost")
    off = json.dumps({"status": "unsubscribed"})
    operations = [
        {"method": "PATCH", "path": path_of(), "body": off, "operation_id": "amy"},
        {"method": "PATCH", "path": path_of("bob@e.uk"), "body": off, "operation_id": "bob"},
        {"method": "GET", "path": "/ping", "operation_id": "lost"},
    ]
    batch = run_batch(twin, operations)
    assert (batch["total_operations"], batch["finished_operations"]) == (3, 2)
    assert batch["errored_operations"] == 1
    results = results_of(batch)
    assert {key: item["status_code"] for key, item in results.items()} == {"amy": 200, "bob": 404}
    assert json.loads(results["amy"]["response"])["status"] == "unsubscribed"
    assert twin.member(LIST, AMY).left_by == "api"
    assert [c.method for c in twin.writes()] == ["POST"]
    assert call(twin, "DELETE", f"/batches/{batch['id']}").status_code == 204
    assert call(twin, "GET", f"/batches/{batch['id']}").status_code == 404


def test_a_batch_body_is_a_json_text(twin: MailchimpTwin) -> None:
    wrong = [{"method": "PATCH", "path": path_of(), "body": {"status": "unsubscribed"}}]
    refused = call(twin, "POST", "/batches", {"operations": wrong}).json()
    assert refused["errors"][0]["field"] == "operations.item:0.body"


HOOKS = f"/lists/{LIST}/webhooks"
ALL = {
    "events": dict.fromkeys(("subscribe", "unsubscribe", "profile", "cleaned", "upemail"), True),
    "sources": {"user": True, "admin": True, "api": False},
}


def hook_up(twin: MailchimpTwin, box: Mailbox, **changes: Any) -> dict[str, Any]:
    made = call(twin, "POST", HOOKS, {"url": box.url, **ALL, **changes})
    assert made.status_code == 200, made.text
    box.take()
    return dict(made.json())


def heard(twin: MailchimpTwin, box: Mailbox) -> list[dict[str, str]]:
    twin.courier.settle()
    return [received.form() for received in box.take()]


def test_a_webhook_is_validated_and_its_secret_shown_once(
    twin: MailchimpTwin, box: Mailbox
) -> None:
    box.answers = [404]
    refused = call(twin, "POST", HOOKS, {"url": box.url, **ALL})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "url")
    made = call(twin, "POST", HOOKS, {"url": box.url, **ALL}).json()
    assert [received.method for received in box.take()] == ["GET", "GET"]
    assert (made["signing_enabled"], bool(made["signing_secret"])) == (True, True)
    assert call(twin, "POST", HOOKS, {"url": box.url, **ALL}).status_code == 400
    (listed,) = call(twin, "GET", HOOKS).json()["webhooks"]
    assert listed["id"] == made["id"]
    one = f"{HOOKS}/{made['id']}"
    patched = call(twin, "PATCH", one, {"sources": {"api": True}}).json()
    assert patched["sources"] == {"user": True, "admin": True, "api": True}
    for view in (listed, patched, call(twin, "GET", one).json()):
        assert "signing_secret" not in view
    assert call(twin, "DELETE", one).status_code == 204
    assert call(twin, "GET", HOOKS).json()["total_items"] == 0
    dead = {"url": "http://127.0.0.1:9/none"}
    assert call(twin, "POST", HOOKS, dead).status_code == 400


def test_an_unsubscribe_is_told_in_brackets_and_signed(twin: MailchimpTwin, box: Mailbox) -> None:
    secret = hook_up(twin, box)["signing_secret"]
    twin.clock.stop(datetime(2026, 5, 1, 9, 30, tzinfo=UTC))
    twin.person_unsubscribes(LIST, AMY, reason="abuse")
    twin.courier.settle()
    (received,) = box.take()
    form = received.form()
    assert (form["type"], form["fired_at"]) == ("unsubscribe", "2026-05-01 09:30:00")
    assert (form["data[action]"], form["data[reason]"]) == ("unsub", "abuse")
    assert (form["data[list_id]"], form["data[email]"]) == (LIST, AMY)
    assert form["data[merges][EMAIL]"] == AMY
    assert form["data[merges][INTERESTS]"] == "Treatments"
    assert form["data[id]"] != subscriber_hash(AMY)
    assert received.headers["content-type"] == "application/x-www-form-urlencoded"
    signed = hmac.new(secret.encode(), b"1777627800." + received.body, "sha256").hexdigest()
    assert received.headers["x-mailchimp-signature"] == f"t=1777627800,v1={signed}"


def test_old_webhooks_are_unsigned_and_spare_signatures_come_first(
    twin: MailchimpTwin, box: Mailbox
) -> None:
    twin.old_webhook(LIST, box.url)
    twin.person_unsubscribes(LIST, AMY)
    twin.courier.settle()
    assert "x-mailchimp-signature" not in box.take()[0].headers
    twin.configure(spare_signature=True)
    assert twin.signature("s", b"x").count("v1=") == 2


def test_sources_and_events_are_honoured(twin: MailchimpTwin, box: Mailbox) -> None:
    hook_up(twin, box, events={"unsubscribe": True})
    patch(twin, "unsubscribed")
    twin.other_program_writes(LIST, AMY, "subscribed")
    twin.profile_change(LIST, AMY, interests={"i2": True})
    assert heard(twin, box) == []
    twin.admin_unsubscribes(LIST, AMY)
    assert [form["type"] for form in heard(twin, box)] == ["unsubscribe"]


def test_each_act_tells_its_event(twin: MailchimpTwin, box: Mailbox) -> None:
    hook_up(twin, box)
    twin.profile_change(LIST, AMY, {"FNAME": "Amelia"}, {"i2": True})
    (profile,) = heard(twin, box)
    assert (profile["type"], profile["data[merges][FNAME]"]) == ("profile", "Amelia")
    twin.upemail(LIST, AMY, "amelia@example.com")
    (moved,) = heard(twin, box)
    assert (moved["data[old_email]"], moved["data[new_email]"]) == (AMY, "amelia@example.com")
    assert call(twin, "GET", path_of()).status_code == 404
    twin.person_unsubscribes(LIST, "amelia@example.com")
    twin.admin_resubscribes(LIST, "amelia@example.com")
    assert [form["type"] for form in heard(twin, box)] == ["unsubscribe", "subscribe"]
    assert twin.member(LIST, "amelia@example.com").left_by is None
    twin.admin_deletes(LIST, "amelia@example.com")
    assert heard(twin, box)[0]["data[action]"] == "delete"
    twin.new_member(LIST, "bob@example.com")
    twin.cleaned(LIST, "bob@example.com", "hard")
    (bounced,) = heard(twin, box)
    assert (bounced["type"], bounced["data[reason]"]) == ("cleaned", "hard")
    with pytest.raises(ActError):
        twin.upemail(LIST, "none@example.com", "x@example.com")


def test_a_form_asks_twice_where_double_opt_in_is_on(twin: MailchimpTwin, box: Mailbox) -> None:
    twin.audience(LIST).double_optin = True
    hook_up(twin, box)
    twin.subscribe_by_form(LIST, "bob@example.com")
    assert heard(twin, box) == []
    assert twin.member(LIST, "bob@example.com").status == "pending"
    twin.person_confirms(LIST, "bob@example.com")
    assert [form["type"] for form in heard(twin, box)] == ["subscribe"]
    shown = call(twin, "GET", path_of("bob@example.com")).json()
    assert shown["ip_signup"]
    assert shown["timestamp_opt"]
    assert shown["source"] == "Hosted Signup Form"


def test_webhooks_double_and_get_lost_and_410_ends_them(twin: MailchimpTwin, box: Mailbox) -> None:
    hook_up(twin, box)
    twin.person_unsubscribes(LIST, AMY, travel=Travel(duplicate=1))
    first, second = heard(twin, box)
    assert first == second
    twin.admin_resubscribes(LIST, AMY, travel=Travel(drop=True))
    assert heard(twin, box) == []
    assert twin.member(LIST, AMY).status == "subscribed"
    box.answers = [410]
    twin.person_unsubscribes(LIST, AMY)
    twin.admin_resubscribes(LIST, AMY)
    assert len(heard(twin, box)) == 2
    twin.person_unsubscribes(LIST, AMY)
    assert heard(twin, box) == []


def test_a_failed_webhook_is_sent_again(twin: MailchimpTwin, box: Mailbox) -> None:
    assert sum(twin.courier.gaps) == 75 * 60
    twin.configure(gaps=[0.01])
    hook_up(twin, box)
    box.answers = [503]
    twin.person_unsubscribes(LIST, AMY)
    assert len(heard(twin, box)) == 2


def test_sms_is_shown_and_told(twin: MailchimpTwin, box: Mailbox) -> None:
    hook_up(twin, box, events={"sms_unsubscribe": True})
    twin.sms_change(LIST, AMY, "+447700900001", "unsubscribed")
    assert [form["type"] for form in heard(twin, box)] == ["sms_unsubscribe"]
    shown = call(twin, "GET", path_of()).json()
    assert shown["sms_subscription_status"] == "unsubscribed"
    assert shown["status"] == "subscribed"


def test_service_members_prove_untouched(twin: MailchimpTwin) -> None:
    twin.new_member(LIST, "receipts@example.com", status="transactional")
    (member,) = twin.service_members()
    assert member.changed_by("api") == []
    patch(twin, "unsubscribed", "receipts@example.com")
    (member,) = twin.service_members()
    assert [c.what for c in member.changed_by("api")] == [{"status": "unsubscribed"}]
    (shown,) = httpx.get(twin.url + "/_twin/state").json()["service"]
    assert shown["api_changes"] == 1


def test_tags_and_merge_fields(twin: MailchimpTwin) -> None:
    tags = {"tags": [{"name": "No marketing - post", "status": "active"}]}
    assert call(twin, "POST", path_of() + "/tags", tags).status_code == 204
    assert call(twin, "GET", path_of() + "/tags").json()["tags"][0]["name"] == "No marketing - post"
    made = call(twin, "POST", f"/lists/{LIST}/merge-fields", {"name": "Post", "type": "text"})
    merge = {"merge_fields": {made.json()["tag"]: "no"}}
    assert call(twin, "PATCH", path_of(), merge).json()["merge_fields"]["MMERGE3"] == "no"


def test_the_page_shows_people_and_takes_acts(twin: MailchimpTwin) -> None:
    twin.new_member(LIST, "receipts@example.com", status="transactional")
    page = httpx.get(twin.url + "/").text
    assert "Newsletter: subscribed" in page
    assert "transactional, 0 API writes" in page
    form = {"list_id": LIST, "email": AMY}
    httpx.post(twin.url + "/_twin/acts/person_unsubscribes", data=form)
    assert twin.member(LIST, AMY).left_by == "person"
    assert "off by person" in httpx.get(twin.url + "/").text


def test_set_up_over_http() -> None:
    with running(MailchimpTwin()) as (twin, url):
        control = httpx.Client(base_url=url + "/_twin/")
        control.post("acts/new_audience", json={"list_id": "z", "interests": {"i": "T"}})
        control.post("acts/new_member", json={"list_id": "z", "email": AMY})
        control.post("configure", json={"api_key": "other-us1", "at_once": 3})
        assert call(twin, "GET", "/lists/z/members").json()["total_items"] == 1
        assert (twin.api_key, twin.limits.at_once) == ("other-us1", 3)
        control.post("reset")
        assert (twin.api_key, twin.limits.at_once) == ("twin-key-us6", 10)
        assert twin.state.audiences == {}


SPEC = Path(__file__).parents[2].parent / "shared" / "specs" / "mailchimp_marketing.trimmed.json"


def answer_schema(spec: Any, path: str, method: str) -> Any:
    """The vendor's schema of a 200, closed: what it does not name may not be sent."""

    def closed(schema: Any) -> Any:
        if isinstance(schema, list):
            return [closed(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        inner = {name: closed(value) for name, value in schema.items()}
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            inner.setdefault("additionalProperties", False)
        return inner

    schema = spec["paths"][path][method]["responses"]["200"]["schema"]
    return closed({**schema, "definitions": spec["definitions"]})


def test_answers_fit_the_vendors_description(twin: MailchimpTwin, box: Mailbox) -> None:
    if not SPEC.exists():
        if os.environ.get("PREFS_NO_SKIP") == "1":
            pytest.fail(f"{SPEC.name} is not here")
        pytest.skip(f"{SPEC.name} is not here")
    spec = json.loads(SPEC.read_text())
    twin.audience(LIST).permissions["p1"] = "Email"
    twin.sms_change(LIST, AMY, "+447700900001", "subscribed")
    (category,) = twin.audience(LIST).categories
    one, off = "/lists/{list_id}/members/{subscriber_hash}", {"status": "unsubscribed"}
    bulk = {"members": [off | {"email_address": AMY}, {"email_address": "x"}]}
    hook = call(twin, "POST", HOOKS, {"url": box.url + "/one", **ALL}).json()["id"]
    ping = {"operations": [{"method": "GET", "path": "/ping"}]}
    batch = call(twin, "POST", "/batches", ping).json()["id"]
    put = {"email_address": AMY, "status_if_new": "subscribed"}
    interests = "/lists/{list_id}/interest-categories"
    known = {
        "list_id": LIST,
        "subscriber_hash": subscriber_hash(AMY),
        "interest_category_id": category,
        "webhook_id": hook,
        "batch_id": batch,
    }
    for method, path, body in [
        ("get", "/", None),
        ("get", "/ping", None),
        ("get", "/lists", None),
        ("get", "/lists/{list_id}", None),
        ("post", "/lists/{list_id}", {**bulk, "update_existing": True}),
        ("get", "/lists/{list_id}/members", None),
        ("get", one, None),
        ("put", one, put),
        ("patch", one, off),
        ("get", one + "/tags", None),
        ("get", interests, None),
        ("get", interests + "/{interest_category_id}/interests", None),
        ("get", "/lists/{list_id}/merge-fields", None),
        ("get", "/lists/{list_id}/webhooks", None),
        ("post", "/lists/{list_id}/webhooks", {"url": box.url, **ALL}),
        ("get", "/lists/{list_id}/webhooks/{webhook_id}", None),
        ("patch", "/lists/{list_id}/webhooks/{webhook_id}", {"sources": {"api": True}}),
        ("get", "/batches", None),
        ("post", "/batches", ping),
        ("get", "/batches/{batch_id}", None),
    ]:
        answer = call(twin, method.upper(), path.format(**known), body)
        assert answer.status_code == 200, (method, path, answer.text)
        jsonschema.validate(
            answer.json(), answer_schema(spec, path, method), jsonschema.Draft4Validator
        )
    found = call(twin, "GET", "/search-members", query=AMY).json()
    schema = answer_schema(spec, "/search-members", "get")
    jsonschema.validate(found, schema, jsonschema.Draft4Validator)


def test_two_thousand_members_are_bulk_updated(twin: MailchimpTwin) -> None:
    for n in range(2000):
        twin.new_member(LIST, f"p{n}@example.com")
    for start in range(0, 2000, 500):
        sent = [
            {"email_address": f"p{n}@example.com", "status": "unsubscribed"}
            for n in range(start, start + 500)
        ]
        body = {"members": sent, "update_existing": True}
        assert call(twin, "POST", f"/lists/{LIST}", body).json()["total_updated"] == 500
    assert {twin.member(LIST, f"p{n}@example.com").status for n in range(2000)} == {"unsubscribed"}
