"""HubSpot: the contract, who said a status, unsubscribe-all, bulk and fallback, walks, OAuth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
import pytest
import respx

from connectors.budget import TokenBudget
from connectors.hubspot import HubSpot, Walk
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    Change,
    Limit,
    Observed,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind, Purpose, Source

T = TypeVar("T")
BASE = "http://127.0.0.1:9"
AMY = Ref(Kind.EMAIL, "amy+1@example.com")
AMYS = f"{BASE}/communication-preferences/v4/statuses/amy%2B1%40example.com"
NEWS = Slot("11", Channel.EMAIL, topics=("news",))
OFFERS = Slot("12", Channel.EMAIL, topics=("offers",))
REMINDERS = Slot("90", Channel.EMAIL, Purpose.REMINDERS)


class Clock:
    """Aware UTC time that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


def target(**options: Any) -> Target:
    given = {
        "token": "pat",
        "types": {"11": "news", "12": "offers"},
        "reminder_types": ["90"],
        **options,
    }
    return Target("hubspot", "rt", "hubspot", True, BASE, given, ("news", "offers"))


def run(
    job: Callable[[HubSpot], Awaitable[T]], clock: Callable[[], datetime] | None = None, **kw: Any
) -> T:
    async def inside() -> T:
        connector = HubSpot(target(**kw), TokenBudget(Limit(1000, 1.0)), clock or Clock())
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


def answer(*results: Mapping[str, Any], **more: Any) -> httpx.Response:
    times = {"startedAt": "2026-11-24T12:00:00Z", "completedAt": "2026-11-24T12:00:00Z"}
    return httpx.Response(200, json={"status": "COMPLETE", "results": results, **times, **more})


def status(type_id: int, word: str, source: str = "", **more: Any) -> dict[str, Any]:
    return {
        "channel": "EMAIL",
        "subscriberIdString": AMY.value,
        "subscriptionId": type_id,
        "status": word,
        "source": source,
        "timestamp": "2026-11-20T09:14:00.123Z",
        **more,
    }


def wide(word: str = "UNSUBSCRIBED", **more: Any) -> dict[str, Any]:
    return {
        "channel": "EMAIL",
        "subscriberIdString": AMY.value,
        "status": word,
        "wideStatusType": "PORTAL_WIDE",
        "timestamp": "2026-11-21T08:00:00Z",
        **more,
    }


def amy_holds(
    *statuses: Mapping[str, Any], wide: tuple[Mapping[str, Any], ...] = ()
) -> respx.Route:
    """Her statuses and unsubscribes from all; the route of the statuses."""
    route = respx.get(AMYS, params={"channel": "EMAIL"})
    route.mock(return_value=answer(*statuses))
    respx.get(f"{AMYS}/unsubscribe-all", params={"channel": "EMAIL"}).mock(
        return_value=answer(*wide)
    )
    return route


def read() -> Any:
    return run(lambda connector: connector.observe([AMY]))[AMY]


def values() -> Mapping[Slot, Seen]:
    found = read()
    assert isinstance(found, Observed)
    return found.values


# --- what a status says --------------------------------------------------------------------------


@respx.mock
@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("SOURCE_RECIPIENT", Source.VENDOR_PERSON),
        ("SOURCE_HUBSPOT_CUSTOMER", Source.VENDOR_ADMIN),
        ("Public status API, App ID:5848098", Source.VENDOR_API),
        ("Something new", None),
        ("", None),
    ],
)
def test_who_said_it_and_when(said: str, source: Source | None) -> None:
    amy_holds(status(11, "UNSUBSCRIBED", said), status(12, "SUBSCRIBED", said))
    at = datetime(2026, 11, 20, 9, 14, 0, 123000, tzinfo=UTC)
    seen = values()
    assert seen[NEWS] == Seen(Value.OFF, source, at)
    assert (seen[OFFERS].value, seen[OFFERS].source, seen[OFFERS].at) == (Value.ON, source, at)
    assert (seen[OFFERS].proof is not None) == (source is Source.VENDOR_PERSON)


@respx.mock
def test_an_address_may_hold_statuses_without_a_contact() -> None:
    amy_holds(status(11, "UNSUBSCRIBED"))
    found = read()
    assert found.identifiers == ((Kind.EMAIL, AMY.value),)
    assert found.vendor_id is None
    assert found.values[OFFERS] == Seen(Value.UNSET)


@respx.mock
@pytest.mark.parametrize("broken", ["PAUSED", None, 7, "unsubscribed"])
def test_an_unknown_status_is_refused(broken: Any) -> None:
    amy_holds(status(11, broken), status(12, "SUBSCRIBED"))
    found = read()
    assert isinstance(found, Refused)
    assert "unknown state" in str(found)


@respx.mock
def test_an_unknown_word_of_a_type_that_is_not_ours_is_nothing_to_us() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(77, "PAUSED"), status(90, "PAUSED"))
    assert values()[NEWS].value is Value.ON


@respx.mock
def test_a_partial_answer_is_no_read() -> None:
    partial = answer(status(11, "SUBSCRIBED"), errors=[{"message": "x"}])
    amy_holds().mock(return_value=partial)
    assert isinstance(read(), Temporary)


# --- unsubscribe-all -----------------------------------------------------------------------------


@respx.mock
def test_unsubscribe_all_is_off_everywhere_and_keeps_reminders_away() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(12, "NOT_SPECIFIED"), wide=(wide(),))
    seen = values()
    at = datetime(2026, 11, 21, 8, tzinfo=UTC)
    assert seen[NEWS] == Seen(Value.OFF, at=at, ever_on=True)
    assert seen[OFFERS] == Seen(Value.OFF, at=at)
    assert seen[REMINDERS] == Seen(Value.SILENT, fact="blocked")


@respx.mock
def test_who_left_a_type_is_told_beside_an_unsubscribe_all() -> None:
    amy_holds(status(11, "UNSUBSCRIBED", "SOURCE_RECIPIENT"), wide=(wide(),))
    assert values()[NEWS].source is Source.VENDOR_PERSON


@respx.mock
def test_without_unsubscribe_all_reminders_are_reachable_whatever_their_type_says() -> None:
    amy_holds(status(11, "SUBSCRIBED"), status(90, "UNSUBSCRIBED"), wide=(wide("SUBSCRIBED"),))
    assert values()[REMINDERS] == Seen(Value.SILENT)


@respx.mock
def test_leaving_one_brand_leaves_its_types_only() -> None:
    amy_holds(
        status(11, "SUBSCRIBED", businessUnitId=1),
        status(12, "SUBSCRIBED", businessUnitId=2),
        wide=(wide(wideStatusType="BUSINESS_UNIT_WIDE", businessUnitId=1),),
    )
    seen = values()
    assert (seen[NEWS].value, seen[OFFERS].value) == (Value.OFF, Value.ON)


@respx.mock
def test_no_on_goes_past_an_unsubscribe_all() -> None:
    amy_holds(status(11, "UNSUBSCRIBED"), wide=(wide(),))
    sent = respx.post(AMYS).mock(return_value=answer(status(11, "SUBSCRIBED")))
    change = Change(AMY, NEWS, Wish.ON, "consent")
    answers = run(lambda connector: connector.apply([change]))
    assert isinstance(answers[change], Refused)
    assert not sent.called


# --- writing -------------------------------------------------------------------------------------


@respx.mock
@pytest.mark.parametrize(
    ("basis", "legal"),
    [
        ("consent", "CONSENT_WITH_NOTICE"),
        ("soft_opt_in", "LEGITIMATE_INTEREST_CLIENT"),
        ("legitimate_interest", "LEGITIMATE_INTEREST_OTHER"),
    ],
)
def test_an_on_names_its_legal_basis(basis: str, legal: str) -> None:
    amy_holds(status(11, "NOT_SPECIFIED"))
    sent = respx.post(AMYS).mock(return_value=answer(status(11, "SUBSCRIBED")))
    change = Change(AMY, NEWS, Wish.ON, basis, "ticked on the sign-up form")
    run(lambda connector: connector.apply([change]))
    assert json.loads(sent.calls.last.request.content) == {
        "channel": "EMAIL",
        "statusState": "SUBSCRIBED",
        "subscriptionId": 11,
        "legalBasis": legal,
        "legalBasisExplanation": "ticked on the sign-up form",
    }


@respx.mock
@pytest.mark.parametrize("slot", [REMINDERS, Slot("90", Channel.EMAIL), Slot("5", Channel.EMAIL)])
def test_nothing_but_its_marketing_types_is_written(slot: Slot) -> None:
    change = Change(AMY, slot, Wish.OFF)
    answers = run(lambda connector: connector.apply([change]))
    assert isinstance(answers[change], Refused)
    assert not respx.calls


@respx.mock
def test_a_refusal_is_told_without_the_address() -> None:
    error = {
        "status": "error",
        "category": "VALIDATION_ERROR",
        "message": f"Contact <{AMY.value}> has opted out and cannot be resubscribed",
    }
    respx.post(AMYS).mock(return_value=httpx.Response(400, json=error))
    change = Change(AMY, NEWS, Wish.OFF)
    refusal = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(refusal, Refused)
    assert "has opted out" in str(refusal)
    assert "amy" not in str(refusal)


@respx.mock
@pytest.mark.parametrize(
    ("reply", "wait"),
    [
        (httpx.Response(423), 2.0),
        (httpx.Response(477, headers={"Retry-After": "300"}), 300.0),
        (httpx.Response(429, json={"policyName": "DAILY"}), 600.0),
        (httpx.Response(429, json={"policyName": "TEN_SECONDLY_ROLLING"}), 10.0),
        (httpx.Response(429, json={"policyName": "NEW"}), 10.0),
        (httpx.Response(429, headers={"Retry-After": "7"}, json={"policyName": "DAILY"}), 7.0),
        (httpx.Response(521, text="<html>"), None),
    ],
)
def test_how_long_to_wait(
    reply: httpx.Response, wait: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.http._wait", lambda state: 0.0)
    route = respx.post(AMYS).mock(return_value=reply)
    change = Change(AMY, NEWS, Wish.OFF)
    failure = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(failure, Temporary)
    assert failure.retry_after == wait
    assert route.call_count == (1 if wait and wait > 2 else 3)


# --- OAuth ---------------------------------------------------------------------------------------

OAUTH: dict[str, Any] = {
    "token": None,
    "client_id": "id",
    "client_secret": "s",
    "refresh_token": "r",
}


def tokens(*names: str, lasting: int = 1800) -> respx.Route:
    replies = [
        httpx.Response(200, json={"access_token": name, "expires_in": lasting}) for name in names
    ]
    return respx.post(f"{BASE}/oauth/v1/token").mock(side_effect=replies)


@respx.mock
def test_one_token_is_asked_for_and_renewed_ahead_of_its_end() -> None:
    route, clock = tokens("one", "two"), Clock()
    amy_holds(status(11, "SUBSCRIBED"))

    async def job(connector: HubSpot) -> None:
        await asyncio.gather(*(connector.observe([AMY]) for _ in range(5)))
        assert route.call_count == 1
        clock.move(minutes=27)
        await connector.observe([AMY])
        assert route.call_count == 1
        clock.move(minutes=1)
        await asyncio.gather(*(connector.observe([AMY]) for _ in range(5)))
        assert route.call_count == 2

    run(job, clock, **OAUTH)
    form = httpx.QueryParams(route.calls[0].request.content.decode())
    assert form == httpx.QueryParams(
        {"client_id": "id", "client_secret": "s", "refresh_token": "r"}
        | {"grant_type": "refresh_token"}
    )
    sent = [call.request.headers.get("authorization") for call in respx.calls]
    assert {one for one in sent if one} == {"Bearer one", "Bearer two"}


@respx.mock
def test_a_token_revoked_before_its_time_is_replaced() -> None:
    route, clock = tokens("one", "two"), Clock()
    amys = amy_holds(status(11, "SUBSCRIBED"))

    async def job(connector: HubSpot) -> None:
        assert isinstance((await connector.observe([AMY]))[AMY], Observed)
        clock.move(minutes=5)
        ok = answer(status(11, "SUBSCRIBED"))
        amys.mock(side_effect=[httpx.Response(401), ok])
        assert isinstance((await connector.observe([AMY]))[AMY], Observed)

    run(job, clock, **OAUTH)
    assert route.call_count == 2


@respx.mock
def test_a_fresh_token_that_is_refused_parks_the_target() -> None:
    tokens("one")
    respx.get(AMYS).mock(return_value=httpx.Response(401))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Unusable)


@respx.mock
@pytest.mark.parametrize("code", [400, 401, 403])
def test_a_revoked_refresh_token_parks_the_target(code: int) -> None:
    respx.post(f"{BASE}/oauth/v1/token").mock(return_value=httpx.Response(code, json={}))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Unusable)


@respx.mock
@pytest.mark.parametrize("body", ["<html>", "{}", '{"access_token":"x","expires_in":"soon"}', "[]"])
def test_a_token_answer_that_is_none_is_temporary(body: str) -> None:
    respx.post(f"{BASE}/oauth/v1/token").mock(return_value=httpx.Response(200, text=body))
    found = run(lambda connector: connector.observe([AMY]), **OAUTH)[AMY]
    assert isinstance(found, Temporary)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"token": None}, "set token"),
        ({"token": None, "client_id": "i", "client_secret": "s"}, "set token"),
        ({"reminder_types": ["11"]}, "cannot be marketing and a reminder type"),
        ({"types": {"newsletter": "news"}}, "is no number"),
        ({"properties": {"email": "x"}}, "properties can hold"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        run(lambda connector: connector.containers(), **options)


def test_slots_of_types_and_properties() -> None:
    async def job(connector: HubSpot) -> tuple[Slot, ...]:
        return connector.slots

    slots = run(job, types={"11": "news", "13": "*"}, properties={"sms": "marketing_sms"})
    assert slots == (
        NEWS,
        Slot("13", Channel.EMAIL),
        Slot("property:marketing_sms", Channel.SMS, enforced=False),
    )


# --- walks ---------------------------------------------------------------------------------------


def test_a_walk_goes_on_with_changes_and_again_with_all_after_a_day() -> None:
    clock = Clock()
    first = Walk.start(None, clock())
    assert first.since is None
    page = first.following("100", [])
    assert page is not None
    assert Walk.start(page.text, clock()) == page
    clock.move(hours=1)
    changes = Walk.start(page.rest().text, clock())
    assert changes.since == "2026-11-24T11:55:00+00:00"
    clock.move(hours=22)
    assert Walk.start(changes.rest().text, clock()).since == "2026-11-24T12:55:00+00:00"
    clock.move(hours=1)
    assert Walk.start(changes.rest().text, clock()).since is None


def test_a_search_goes_on_by_time_where_its_results_end() -> None:
    walk = Walk("2026-11-24T00:00:00+00:00", "2026-11-24T12:00:00+00:00", "2026-11-24T06:00:00Z")
    last = [{"updatedAt": "2026-11-24T07:00:00Z"}]
    assert walk.following("9900", last).after == "9900"  # type: ignore[union-attr]  # asserted
    onward = walk.following("10000", last)
    assert onward is not None
    assert (onward.since, onward.after) == ("2026-11-24T07:00:00Z", None)
    stuck = walk.following("10000", [{"updatedAt": walk.since}])
    assert stuck is not None
    assert stuck.since is None
    assert walk.following(None, last) is None
