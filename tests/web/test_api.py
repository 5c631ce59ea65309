"""The API of programs: every call of the contract, and its bad input."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefs.core.errors import Unavailable
from prefs.store import ledger
from prefs.store.database import Database
from prefs.store.permissions import LookUp
from prefs.web.check import MANY
from tests.served import Served, served

ADA = "ada@example.co.uk"
BOB = "bob@example.co.uk"


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


def rows(rt: Served) -> int:
    def count(conn: Any) -> int:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one()
        return found

    return rt.runtime.database.read_now(count)


BODY: dict[str, Any] = {
    "brand": "rt",
    "subject": {"email": ADA},
    "changes": [{"channel": "email", "purpose": "marketing", "choice": "out"}],
    "source": "api",
}


def with_(**more: Any) -> dict[str, Any]:
    return {**BODY, **more}


def change(**more: Any) -> list[dict[str, Any]]:
    return [{**BODY["changes"][0], **more}]


# --- record and check ----------------------------------------------------------------------------


def test_an_out_is_recorded_and_denied_at_once(rt: Served) -> None:
    answer = rt.say(ADA)
    outcome = answer["outcomes"][0]
    assert (outcome["result"], outcome["reason"]) == ("applied", "applied_rule")
    assert isinstance(answer["subject_id"], str)
    assert isinstance(outcome["event_id"], str)
    assert answer["revision"] == 1
    assert rt.reason("ADA@example.co.uk") == "opted_out"
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_consent_allows_until_it_is_taken_back(rt: Served) -> None:
    assert rt.reason(ADA) == "no_basis"
    rt.consent(ADA)
    assert rt.reason(ADA) == "consent"
    rt.say(ADA)
    again = rt.consent(ADA)
    assert again["outcomes"][0]["reason"] == "source_too_weak"
    assert rt.reason(ADA) == "opted_out"


def test_answers_come_in_the_order_asked(rt: Served) -> None:
    rt.consent("b@example.co.uk")
    rt.say("c@example.co.uk")
    to = ["c@example.co.uk", "not an address", "b@example.co.uk", "c@example.co.uk"]
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": to}
    results = rt.post("/v1/check", body).json()["results"]
    assert [one["to"] for one in results] == to
    reasons = [one["reason"] for one in results]
    assert reasons == ["opted_out", "invalid_identifier", "consent", "opted_out"]
    assert results[2]["basis"] == "consent"
    assert results[2]["since"].endswith("Z")


def test_a_check_by_ref_speaks_for_the_person(rt: Served) -> None:
    rt.consent(ADA, subject={"email": ADA, "ref": "p1"})
    assert rt.reason({"ref": "p1"}) == "consent"
    rt.say(ADA, subject={"ref": "p1"})
    assert rt.reason({"ref": "p1"}) == "opted_out"
    assert rt.reason(ADA) == "opted_out"
    assert rt.reason({"ref": "nobody"}) == "no_basis"


def test_a_check_in_the_past_folds_the_ledger(rt: Served) -> None:
    rt.consent(ADA)
    between = datetime.now(UTC)
    rt.say(ADA)
    assert rt.reason(ADA, at=between.isoformat()) == "consent"
    assert rt.reason(ADA) == "opted_out"
    future = (between + timedelta(hours=1)).isoformat()
    asked = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": [ADA], "at": future}
    assert rt.post("/v1/check", asked).status_code == 422


def test_a_fault_while_many_ask_together_is_told_to_each(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    rt.consent(ADA)
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": [ADA]}
    with monkeypatch.context() as patched:
        patched.setattr(rt.runtime.database.engine, "hot", broken)
        assert rt.post("/v1/check", body).status_code == 500
    assert rt.reason(ADA) == "consent"


@pytest.mark.postgresql
def test_a_check_whose_connection_was_cut_finds_another(rt: Served) -> None:
    rt.consent(ADA)
    assert rt.reason(ADA) == "consent"
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%permissions%'"
    others = f"{cut} AND pid <> pg_backend_pid() AND datname = current_database()"
    gone = rt.runtime.database.read_now(lambda conn: conn.exec_driver_sql(others).all())
    assert gone
    assert rt.reason(ADA) == "consent"


def test_a_long_list_is_answered_as_each_of_it_alone(rt: Served) -> None:
    rt.consent(ADA)
    rt.say(BOB)
    asked = [ADA, "no address", BOB, *[f"p{number}@example.co.uk" for number in range(MANY)]]
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": asked}
    results = rt.post("/v1/check", body).json()["results"]
    assert [one["to"] for one in results] == asked
    assert [one["reason"] for one in results] == [rt.reason(one) for one in asked[:4]] + (
        ["no_basis"] * (MANY - 1)
    )


def test_the_store_away_denies_marketing_and_lets_reminders_go(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("gone")

    rt.consent(ADA)
    monkeypatch.setattr(LookUp, "of", away)
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": [ADA]}
    answer = rt.post("/v1/check", body).json()
    assert answer["degraded"] is True
    assert answer["results"][0]["reason"] == "paused"
    assert rt.reason(ADA, purpose="reminders") == "service"


def test_the_store_away_for_long_denies_marketing_and_lets_reminders_go(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys cannot be looked up any more either: who had one may go on asking."""

    async def away(*_: object) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr("prefs.web.auth.REMEMBERED", 0.0)
    writes = {"Authorization": f"Bearer {rt.key_for('write')}"}
    never_seen = {"Authorization": f"Bearer {rt.key_for('check')}"}
    rt.consent(ADA)
    assert rt.reason(ADA) == "consent"
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": [ADA]}
    assert rt.post("/v1/check", body, headers=writes).status_code == 403
    monkeypatch.setattr(Database, "read", away)
    answer = rt.post("/v1/check", body).json()
    assert (answer["degraded"], answer["results"][0]["reason"]) == (True, "paused")
    assert rt.reason(ADA, purpose="reminders") == "service"
    assert rt.post("/v1/check", {**body, "brand": "second"}).status_code == 403
    assert rt.post("/v1/check", body, headers=writes).status_code == 403
    assert rt.post("/v1/check", body, headers=never_seen).status_code == 503
    assert rt.get("/v1/targets").status_code == 503


def test_a_store_that_hangs_is_away_for_a_check_too(
    rt: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("prefs.web.auth.REMEMBERED", 0.0)
    monkeypatch.setattr("prefs.web.auth.LOOK_UP_WITHIN", 0.1)
    assert rt.reason(ADA, purpose="reminders") == "service"
    monkeypatch.setattr(Database, "read", hang)
    body = {"brand": "rt", "channel": "email", "purpose": "reminders", "to": [ADA]}
    assert rt.post("/v1/check", body).json()["degraded"] is True


@pytest.mark.parametrize(
    ("scope", "choice", "result"),
    [
        ({"channel": "phone", "purpose": "reminders"}, "out", "refused"),
        ({"channel": "email", "purpose": "reminders"}, "out", "refused"),
        ({"channel": "post", "purpose": "marketing"}, "out", "applied"),
    ],
)
def test_what_is_refused_is_a_200_that_says_so(
    rt: Served, scope: dict[str, str], choice: str, result: str
) -> None:
    body = with_(changes=[{**scope, "choice": choice}])
    answer = rt.post("/v1/preferences", body)
    assert answer.status_code == 200
    assert answer.json()["outcomes"][0]["result"] == result


def test_staff_may_record_with_name_and_note(rt: Served) -> None:
    evidence = {"actor": "reception", "note": "told us on the phone"}
    body = with_(source="staff", evidence=evidence, changes=change(channel="phone"))
    body["subject"] = {"phone": "020 7946 0018"}
    assert rt.post("/v1/preferences", body).json()["outcomes"][0]["result"] == "applied"
    assert rt.reason("+442079460018", channel="phone") == "objected"


def test_a_form_sign_up_waits_for_its_link(rt: Served) -> None:
    signed = with_(source="form", changes=change(choice="in"), basis="consent")
    answer = rt.post("/v1/preferences", signed).json()
    assert answer["outcomes"][0]["result"] == "pending"
    assert rt.reason(ADA) == "unconfirmed"


def test_a_soft_opt_in_needs_all_its_conditions(rt: Served) -> None:
    soft = {
        "kind": "soft_opt_in",
        "sale": True,
        "own_similar": True,
        "refusal_offered": True,
        "refusal_in_each": True,
        "not_refused": True,
    }
    body = with_(source="soft_opt_in", changes=change(choice="in"))
    part = rt.post("/v1/preferences", {**body, "basis": {**soft, "sale": False}}).json()
    assert part["outcomes"][0]["reason"] == "no_basis"
    whole = rt.post("/v1/preferences", {**body, "basis": soft}).json()
    assert whole["outcomes"][0]["result"] == "applied"
    assert rt.reason(ADA) == "soft_opt_in"


# --- idempotency ---------------------------------------------------------------------------------


def test_the_same_key_and_body_answer_the_same_once(rt: Served) -> None:
    first = rt.post("/v1/preferences", BODY, headers={"Idempotency-Key": "k"})
    second = rt.post("/v1/preferences", BODY, headers={"Idempotency-Key": "k"})
    assert first.content == second.content
    assert rows(rt) == 1
    other = rt.post("/v1/preferences", with_(source="import"), headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert rows(rt) == 1


def test_parallel_twins_record_once(rt: Served) -> None:
    answers: list[bytes] = []

    def act() -> None:
        answer = rt.post("/v1/preferences", BODY, headers={"Idempotency-Key": "twin"})
        answers.append(answer.content)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert rows(rt) == 1


# --- people --------------------------------------------------------------------------------------


def test_search_by_each_way(rt: Served) -> None:
    body = with_(
        subject={"email": ADA, "phone": "07700 900123", "ref": "p1", "name": "Ada Lóvelace"}
    )
    subject_id = rt.post("/v1/preferences", body).json()["subject_id"]
    ways = ({"email": ADA}, {"phone": "+447700900123"}, {"ref": "p1"}, {"name": "love"})
    for way in ways:
        items = rt.post("/v1/subjects/search", {"brand": "rt", **way}).json()["items"]
        assert [one["subject_id"] for one in items] == [subject_id]
    assert items[0]["marketing"]["email"] == "out"
    assert items[0]["reminders"] == {"email": "unset", "sms": "unset"}
    assert {"kind": "email", "value": ADA} in items[0]["identifiers"]


def test_one_persons_choices_and_history(rt: Served) -> None:
    rt.consent(ADA)
    subject_id = rt.say(ADA)["subject_id"]
    rt.say(ADA)
    person = rt.get(f"/v1/subjects/{subject_id}").json()
    (choice,) = person["choices"]
    assert (choice["choice"], choice["source"]) == ("out", "api")
    items = rt.get(f"/v1/subjects/{subject_id}/history").json()["items"]
    assert [one["result"] for one in items] == ["applied", "applied", "unchanged"]
    assert items[0]["evidence"]["wording"] == "Yes please"
    assert all(one["event_id"] for one in items)


def test_a_person_of_another_controller_is_not_found(rt: Served) -> None:
    subject_id = rt.say(ADA)["subject_id"]
    foreign = {"Authorization": f"Bearer {rt.key_for('staff', 'foreign')}"}
    for path in ("", "/history", "/targets"):
        answer = rt.client.get(f"/v1/subjects/{subject_id}{path}", headers=foreign)
        assert answer.status_code == 404


def test_links_make_no_subject_and_a_click_on_one_counts(rt: Served) -> None:
    made = rt.post("/v1/links", {"brand": "rt", "email": ADA}).json()
    assert rt.post("/v1/subjects/search", {"brand": "rt", "email": ADA}).json()["items"] == []
    assert made["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert made["unsubscribe"] in made["headers"]["List-Unsubscribe"]
    assert ADA not in json.dumps(made)
    path = made["unsubscribe"].removeprefix("https://prefs.example.co.uk")
    assert rt.client.post(path).status_code == 200
    assert rt.reason(ADA) == "opted_out"
    assert rt.post("/v1/links", {"brand": "rt", "ref": "nobody"}).status_code == 404


def test_the_feed_is_sealed_and_in_order(rt: Served) -> None:
    for number in range(3):
        rt.say(f"p{number}@example.co.uk")
    rt.runtime.database.write_now(ledger.seal)
    first = rt.get("/v1/changes?limit=2").json()
    assert [one["n"] for one in first["items"]] == [1, 2]
    rest = rt.get(f"/v1/changes?after={first['next']}").json()
    assert [one["n"] for one in rest["items"]] == [3]
    assert rt.get("/v1/changes?after=x").status_code == 422


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (with_(brand="second"), 403, None),
        (with_(brand="nowhere"), 403, None),
        (with_(source="one_click"), 403, None),
        (with_(source="centre"), 403, None),
        (with_(source="staff"), 422, "$.evidence"),
        (with_(changes=change(channel="fax")), 422, "$.changes[0].channel"),
        (with_(changes=change(purpose="spam")), 422, "$.changes[0].purpose"),
        (with_(changes=change(topic="weather")), 422, "$.changes[0].topic"),
        (with_(changes=change(choice="maybe")), 422, "$.changes[0].choice"),
        (with_(changes=[]), 422, "$.changes"),
        (with_(subject={}), 422, "$.subject"),
        (with_(subject={"email": "nobody"}), 422, "$.subject.email"),
        (with_(subject={"phone": "ring me"}), 422, "$.subject.phone"),
        (with_(subject={"email": ADA, "fax": "1"}), 422, "$.subject"),
        (with_(occurred_at="2026-03-02T10:00:00"), 422, "$.occurred_at"),
        (with_(basis="because"), 422, "$.basis"),
        (with_(extra=1), 422, None),
    ],
)
def test_bad_input_is_a_clear_problem_and_stores_nothing(
    rt: Served, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = rt.post("/v1/preferences", body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    if field:
        assert problem["field"] == field
    for personal in (ADA, "nobody", "ring me"):
        assert personal not in problem["detail"]
    assert rows(rt) == 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"brand": "\xff"}', 400),
        (b"[]", 422),
        (b'{"brand": "rt", "name": "\\u0000"}', 422),
        (b'{"a": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_broken_bodies(rt: Served, raw: bytes, status: int) -> None:
    answer = rt.client.post("/v1/preferences", content=raw, headers=rt.headers)
    assert answer.status_code == status
    assert rows(rt) == 0


def test_ten_thousand_are_checked_and_one_more_is_too_many(rt: Served) -> None:
    body = {"brand": "rt", "channel": "email", "purpose": "marketing", "to": ["a@b.example"]}
    body["to"] = ["a@b.example"] * 10_000
    assert len(rt.post("/v1/check", body).json()["results"]) == 10_000
    body["to"] = ["a@b.example"] * 10_001
    assert rt.post("/v1/check", body).status_code == 413


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", "Basic abc", "Bearer prefs_a_b"]
)
def test_without_a_valid_key_nothing_is_answered(rt: Served, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = rt.client.post("/v1/check", json={}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_scope_that_is_missing_is_403(rt: Served) -> None:
    headers = {"Authorization": f"Bearer {rt.key_for('check')}"}
    assert rt.client.post("/v1/preferences", json=BODY, headers=headers).status_code == 403
    reading = {"Authorization": f"Bearer {rt.key_for('write')}"}
    staff = with_(source="staff", evidence={"actor": "a", "note": "b"})
    assert rt.client.post("/v1/preferences", json=staff, headers=reading).status_code == 403


def test_a_foreign_host_is_misdirected(rt: Served) -> None:
    answer = rt.client.get("/healthz", headers={"Host": "evil.example"})
    assert answer.status_code == 421
    for host in ("prefs.example.co.uk", "prefs.example.co.uk:443", "127.0.0.1:9", "localhost"):
        assert rt.client.get("/healthz", headers={"Host": host}).status_code == 200


# --- the whole -----------------------------------------------------------------------------------


def test_health_readiness_and_metrics(rt: Served) -> None:
    rt.say(ADA)
    assert rt.client.get("/healthz").status_code == 200
    assert rt.client.get("/readyz").json() == {
        "status": "ready",
        "workers": 0,
        "marketing": "open",
    }
    text = rt.client.get("/metrics").text
    assert 'prefs_statements_total{result="applied",source="api"} ' in text
    assert ADA not in text


def test_every_route_of_programs_names_the_scopes_it_needs(rt: Served) -> None:
    app: Any = rt.client.app
    for route in app.routes:
        if getattr(route, "path", "").startswith("/v1/"):
            assert route.endpoint.needs, route.path


def test_every_route_of_programs_stands_in_the_openapi_document(rt: Served) -> None:
    app: Any = rt.client.app
    document = rt.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    served_paths = {r.path for r in app.routes if getattr(r, "path", "").startswith("/v1/")}
    assert served_paths == set(document["paths"])


def test_all_errors_have_one_shape(rt: Served) -> None:
    for method, path in (("GET", "/nowhere"), ("DELETE", "/v1/check"), ("GET", "/v1/subjects/x")):
        answer = rt.client.request(method, path, headers=rt.headers)
        assert answer.status_code in (404, 405)
        assert answer.headers["content-type"] == "application/problem+json"
