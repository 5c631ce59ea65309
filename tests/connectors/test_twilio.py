"""The Twilio connector against its twin: consents, block list news, and what it must never do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar, TypeVar

import pytest

from connectors import http, twilio
from connectors.twilio import NOT_USED, SHARED, Cursor, Twilio, Wire
from prefs.core.errors import PropagationError, Refused, Temporary, Unusable
from prefs.core.identity import signed_phone
from prefs.core.propagation import (
    Applied,
    Change,
    Container,
    Local,
    Page,
    Ref,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind, Purpose, Source
from tests.connectors.contract import ConnectorContract
from tests.twins.kit import running
from tests.twins.twilio import TwilioTwin

T = TypeVar("T")

MARKETING, REMINDERS, SHARED_SERVICE = ("MG" + str(n) * 32 for n in (1, 2, 3))
NUMBER, REMINDER_NUMBER, OWN_NUMBER = "+447700900001", "+447700900002", "+447700900003"
AMY, BEN = "+447700900101", "+447700900102"
SENDERS = {
    "marketing": (MARKETING, OWN_NUMBER, SHARED_SERVICE),
    "reminders": (REMINDERS, REMINDER_NUMBER, SHARED_SERVICE),
}
CONSENTS = "/v1/Consents"
MESSAGES = ".*/Messages.json"


class TestTwilio(ConnectorContract):
    """Exempt from all reading: the block list has no reading call. "Off" is a block, "on" none."""

    system = "twilio"
    exempt: ClassVar[Mapping[str, str]] = {"reading": "the block list has no reading call"}
    echoes = False  # consents are not told
    small_pages = ("connectors.twilio.PAGE",)
    read_path = scan_path = MESSAGES
    write_path = CONSENTS

    def make_twin(self) -> TwilioTwin:
        return TwilioTwin()

    def furnish(self) -> None:
        furnish(self.twin)

    def options(self) -> Mapping[str, Any]:
        return credentials(self.twin)

    def senders(self) -> Mapping[str, tuple[str, ...]]:
        return SENDERS

    def ref(self, number: int) -> Ref:
        return Ref(Kind.PHONE, f"+44770090010{number}")

    def put(self, ref: Ref) -> None:
        self.twin.state.block.discard((ref.value, MARKETING))

    def put_walked(self, ref: Ref) -> None:
        self.twin.failed_send(number=ref.value, sender=MARKETING)

    def unset(self, ref: Ref) -> None:
        self.twin.state.block.add((ref.value, MARKETING))

    def held(self, ref: Ref) -> Value:
        return Value.OFF if self.twin.blocked(ref.value, MARKETING) else Value.ON

    def reminders_untouched(self) -> bool:
        return not self.twin.consents_of(REMINDERS) + self.twin.consents_of(REMINDER_NUMBER)


class Purse:
    """A budget that lets everything through and notes what it was told."""

    def __init__(self) -> None:
        self.taken = self.returned = 0
        self.pauses: list[float] = []

    async def acquire(self) -> None:
        self.taken += 1

    def release(self) -> None:
        self.returned += 1

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def furnish(twin: TwilioTwin) -> None:
    twin.new_service(sid=MARKETING, numbers=[NUMBER], purpose="marketing")
    twin.new_service(sid=REMINDERS, numbers=[REMINDER_NUMBER], purpose="reminders")
    twin.new_service(sid=SHARED_SERVICE, numbers=[], purpose="marketing")
    twin.new_number(number=OWN_NUMBER)


def credentials(twin: TwilioTwin) -> dict[str, Any]:
    return {"account_sid": twin.account_sid, "auth_token": twin.auth_token, "consents": True}


@pytest.fixture(scope="module")
def served() -> Iterator[TwilioTwin]:
    with running(TwilioTwin()) as (twin, _):
        yield twin


@pytest.fixture
def vendor(served: TwilioTwin, hold_to_specs: object) -> Iterator[TwilioTwin]:
    twin = served
    twin.reset()
    furnish(twin)
    yield twin
    assert twin.unknown() == []
    assert {(call.method, call.path) for call in twin.writes()} <= {("POST", "/v1/Consents/Bulk")}
    assert twin.consents_of(REMINDERS) == []
    assert twin.consents_of(REMINDER_NUMBER) == []


def target(vendor: TwilioTwin, **options: Any) -> Target:
    return Target(
        name="sms",
        brand="rt",
        system="twilio",
        live=True,
        base_url=vendor.url,
        options={**credentials(vendor), **options},
        topics=("offers",),
        senders=SENDERS,
    )


def made(vendor: TwilioTwin, purse: Purse | None = None, **options: Any) -> Twilio:
    return Twilio(target(vendor, **options), purse or Purse(), vendor.clock)


def run(connector: Twilio, work: Coroutine[Any, Any, T]) -> T:
    async def closing() -> T:
        try:
            return await work
        finally:
            await connector.close()

    return asyncio.run(closing())


def slot(place: str, purpose: Purpose = Purpose.MARKETING) -> Slot:
    return Slot(place, Channel.SMS, purpose)


def change(to: Wish, number: str = AMY, place: str = MARKETING) -> Change:
    return Change(Ref(Kind.PHONE, number), slot(place), to)


OFF, ON = change(Wish.OFF), change(Wish.ON)


def applied(connector: Twilio, *changes: Change) -> dict[Change, Any]:
    return dict(run(connector, connector.apply(changes)))


def consent_calls(vendor: TwilioTwin) -> int:
    return len(vendor.writes())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CALL_LIMIT", 0.3)


# --- consents ------------------------------------------------------------------------------------


def test_each_marketing_sender_is_a_slot(vendor: TwilioTwin) -> None:
    places = [one.place for one in made(vendor).slots]
    assert places == [MARKETING, OWN_NUMBER, SHARED_SERVICE]
    assert {one.purpose for one in made(vendor).slots} == {Purpose.MARKETING}


def test_an_off_blocks_and_an_on_lifts_the_block(vendor: TwilioTwin) -> None:
    assert applied(made(vendor), OFF) == {OFF: Applied()}
    assert vendor.blocked(AMY, MARKETING)
    assert applied(made(vendor), ON) == {ON: Applied()}
    assert not vendor.blocked(AMY, MARKETING)


def test_a_repeat_is_safe_and_each_item_has_an_id_of_its_own(vendor: TwilioTwin) -> None:
    number = change(Wish.OFF, place=OWN_NUMBER)
    for _ in range(2):
        assert applied(made(vendor), OFF, number) == {OFF: Applied(), number: Applied()}
    assert vendor.blocked(AMY, OWN_NUMBER)
    assert len(vendor.state.correlations) == 4


def test_many_changes_go_in_calls_of_25_the_outs_first(vendor: TwilioTwin) -> None:
    numbers = [f"+4477009{n:05}" for n in range(60)]
    ons = [change(Wish.ON, number) for number in numbers[:3]]
    offs = [change(Wish.OFF, number, OWN_NUMBER) for number in numbers]
    purse = Purse()
    answers = applied(made(vendor, purse), *ons, *offs)
    assert answers == dict.fromkeys([*ons, *offs], Applied())
    items = [call.form() for call in vendor.writes()]
    assert [len(form) for form in items] == [25, 25, 10, 3]
    assert "opt-in" not in str(items[:3])
    assert "opt-out" not in str(items[3])
    assert (purse.taken, purse.returned) == (4, 4)


def test_an_item_fails_alone(vendor: TwilioTwin) -> None:
    vendor.faults.add("bad_item", key=BEN[1:])
    other = change(Wish.OFF, BEN)
    answers = applied(made(vendor), OFF, other)
    assert answers[OFF] == Applied()
    assert isinstance(answers[other], Refused)
    assert str(answers[other]) == "the gateway does not take this number"


def test_an_item_that_the_gateway_failed_on_may_be_tried_again(vendor: TwilioTwin) -> None:
    vendor.faults.add("bad_item", body="INTERNAL_SERVER_ERROR")
    answer = applied(made(vendor), OFF)[OFF]
    assert isinstance(answer, Temporary)


def test_a_reason_that_is_not_in_the_table_is_a_refusal_without_its_text(
    vendor: TwilioTwin,
) -> None:
    vendor.faults.add("bad_item", body=f"SOMETHING_ABOUT {AMY}")
    answer = applied(made(vendor), OFF)[OFF]
    assert isinstance(answer, Refused)
    assert str(answer) == "the gateway refused this number (code 30646)"


def test_an_item_that_the_reply_does_not_name_is_left_out(vendor: TwilioTwin) -> None:
    vendor.faults.add("omit_item", key=BEN[1:])
    assert applied(made(vendor), OFF, change(Wish.OFF, BEN)) == {OFF: Applied()}


def test_a_sender_that_the_gateway_does_not_know_is_refused(vendor: TwilioTwin) -> None:
    del vendor.state.services[MARKETING]
    answer = applied(made(vendor), OFF)[OFF]
    assert str(answer) == "the gateway does not know this sender"


@pytest.mark.parametrize("status", [403, 404])
def test_without_the_vendors_consents_only_our_check_guards(
    vendor: TwilioTwin, status: int
) -> None:
    vendor.configure(consents=False, consents_refusal=status)
    reason = f"the gateway has not enabled consents (HTTP {status})"
    assert applied(made(vendor), OFF, ON) == dict.fromkeys([OFF, ON], Local(reason))


def test_without_consents_in_the_configuration_nothing_is_called(vendor: TwilioTwin) -> None:
    assert applied(made(vendor, consents=False), OFF, ON) == dict.fromkeys(
        [OFF, ON], Local(NOT_USED)
    )
    assert vendor.calls == []


def test_a_sender_that_also_carries_reminders_is_never_written(vendor: TwilioTwin) -> None:
    shared = change(Wish.OFF, place=SHARED_SERVICE)
    assert applied(made(vendor), shared) == {shared: Local(SHARED)}
    assert vendor.calls == []


@pytest.mark.parametrize(
    "other",
    [
        slot(REMINDERS),
        slot(REMINDERS, Purpose.REMINDERS),
        slot(REMINDER_NUMBER, Purpose.REMINDERS),
        slot(MARKETING, Purpose.REMINDERS),
    ],
)
def test_reminder_senders_are_never_written(vendor: TwilioTwin, other: Slot) -> None:
    planted = OFF._replace(slot=other)
    assert isinstance(applied(made(vendor), planted)[planted], Refused)
    assert vendor.calls == []


def test_a_record_without_a_number_is_refused(vendor: TwilioTwin) -> None:
    nameless = OFF._replace(ref=Ref(None, "", "x"))
    assert isinstance(applied(made(vendor), nameless)[nameless], Refused)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "status", "status": 401}, Unusable),
        (
            {"kind": "status", "status": 400, "body": f'{{"code": 20001, "message": "{AMY}"}}'},
            Refused,
        ),
        ({"kind": "status", "status": 500}, Temporary),
        ({"kind": "status", "status": 503, "body": ""}, Temporary),
        ({"kind": "status", "status": 429}, Temporary),
        ({"kind": "html"}, Temporary),
        ({"kind": "cut_json"}, Temporary),
        ({"kind": "down"}, Temporary),
    ],
)
@pytest.mark.parametrize("to", [Wish.OFF, Wish.ON])
def test_a_failed_call_is_an_answer_for_each_change(
    vendor: TwilioTwin, fault: dict[str, Any], kind: type[PropagationError], to: Wish
) -> None:
    vendor.faults.add(fault["kind"], times=None, path=CONSENTS, **_rest(fault))
    changes = [change(to), change(to, BEN)]
    answers = applied(made(vendor), *changes)
    assert list(answers) == changes
    assert {type(answer) for answer in answers.values()} == {kind}
    assert not any(AMY[1:] in str(answer) for answer in answers.values())
    retried = kind is Temporary and to is Wish.OFF
    assert consent_calls(vendor) == (http.ATTEMPTS if retried else 1)


def _rest(fault: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fault.items() if name != "kind"}


def test_an_off_outlives_a_short_fault(vendor: TwilioTwin) -> None:
    vendor.faults.add("status", status=503, path=CONSENTS)
    assert applied(made(vendor), OFF) == {OFF: Applied()}


def test_an_account_that_is_not_active_is_unusable(vendor: TwilioTwin) -> None:
    body = '{"code": 20005, "message": "Account not active", "status": 403}'
    vendor.faults.add("status", status=403, body=body, path=CONSENTS)
    assert isinstance(applied(made(vendor), OFF)[OFF], Unusable)


LATER = format_datetime(datetime.now(UTC) + timedelta(minutes=40), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (None, 0.5, 2.0),
        ("-5", 0.5, 2.0),
        ("soon", 0.5, 2.0),
        ("7", 7.0, 7.0),
        (LATER, 600.0, 2400.0),
        ("999999999", 3600.0, 3600.0),
    ],
    ids=["none", "negative", "word", "seconds", "date", "huge"],
)
def test_too_many_calls_pause_the_budget(
    vendor: TwilioTwin, header: str | None, least: float, most: float
) -> None:
    headers = {"Retry-After": header} if header else {}
    vendor.faults.add("status", status=429, headers=headers, path=CONSENTS)
    purse = Purse()
    assert isinstance(applied(made(vendor, purse), ON)[ON], Temporary)
    assert len(purse.pauses) == 1
    assert least <= purse.pauses[0] <= most


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("to", [Wish.OFF, Wish.ON])
def test_a_time_out_after_the_work_is_unclear(vendor: TwilioTwin, to: Wish) -> None:
    vendor.faults.add("timeout_after_work", seconds=0.6, times=None, path=CONSENTS)
    answer = applied(made(vendor), change(to))[change(to)]
    assert isinstance(answer, Temporary)
    assert answer.unclear


def test_a_broken_connection_is_unclear_and_none_at_all_is_not(vendor: TwilioTwin) -> None:
    vendor.faults.add("down", path=CONSENTS)
    broken = applied(made(vendor), ON)[ON]
    assert isinstance(broken, Temporary)
    assert broken.unclear
    away = replace(target(vendor), base_url="http://127.0.0.1:9")
    connector = Twilio(away, Purse(), vendor.clock)
    unsent = applied(connector, ON)[ON]
    assert isinstance(unsent, Temporary)
    assert not unsent.unclear


def test_what_is_not_declared_is_refused_before_it_is_sent(vendor: TwilioTwin) -> None:
    connector = made(vendor)

    async def send() -> None:
        await connector._line._call(
            "POST",
            "/v1/Consents/Bulk",
            lambda sdk: sdk.messages.create(to=AMY, from_=NUMBER, body="hello"),
        )

    with pytest.raises(http.Undeclared):
        run(connector, send())
    assert vendor.calls == []


@pytest.mark.parametrize("method", ["DELETE", "delete", "PUT", "POST"])
def test_the_wire_writes_consents_only(method: str) -> None:
    with pytest.raises(http.Undeclared):
        Wire().request(method, "https://api.twilio.com/2010-04-01/Accounts/AC1/Messages.json")


def test_numbers_reach_no_log(vendor: TwilioTwin, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    vendor.failed_send(number=AMY, sender=MARKETING)
    applied(made(vendor), OFF)
    assert len(pages(made(vendor))) == 1
    assert AMY[1:] not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("twilio")]


def test_an_api_key_and_no_surroundings(
    vendor: TwilioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_REGION", "au1")
    monkeypatch.setenv("TWILIO_EDGE", "sydney")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    keys: dict[str, Any] = {
        "api_key": vendor.api_key,
        "api_secret": vendor.api_secret,
        "auth_token": "other",
    }
    assert applied(made(vendor, **keys), OFF) == {OFF: Applied()}


def test_without_a_base_url_the_vendors_own_hosts_are_called(vendor: TwilioTwin) -> None:
    client = twilio._client(replace(target(vendor), base_url=None), "unused")
    hosts = [getattr(client, domain).base_url for domain in twilio.DOMAINS]
    assert hosts == [
        "https://api.twilio.com",
        "https://accounts.twilio.com",
        "https://messaging.twilio.com",
    ]


# --- the block list and the message list ---------------------------------------------------------


def test_the_block_list_cannot_be_read(vendor: TwilioTwin) -> None:
    connector = made(vendor)
    ref = Ref(Kind.PHONE, AMY)
    answers = run(connector, connector.observe([ref]))
    assert isinstance(answers[ref], Refused)
    assert vendor.calls == []


def pages(connector: Twilio, cursor: str | None = None) -> list[Page]:
    async def walk() -> list[Page]:
        return [page async for page in connector.scan(cursor)]

    return run(connector, walk())


def blocked(found: list[Page]) -> dict[str, set[str]]:
    return {
        ref.value: {one.place for one in read.values}
        for page in found
        for ref, read in page.records
    }


def test_a_send_that_the_block_list_stopped_is_an_off(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    vendor.failed_send(number=AMY, sender=MARKETING)
    vendor.failed_send(number=AMY, sender=OWN_NUMBER)
    vendor.failed_send(number=BEN, sender=REMINDERS)
    vendor.clock.move(60)
    [page] = pages(made(vendor))
    [(ref, read)] = page.records
    assert ref == Ref(Kind.PHONE, AMY)
    assert read.identifiers == ((Kind.PHONE, AMY),)
    assert read.read_began == vendor.clock()
    assert set(read.values) == {slot(MARKETING), slot(OWN_NUMBER)}
    seen = read.values[slot(MARKETING)]
    assert (seen.value, seen.source) == (Value.OFF, Source.VENDOR_PERSON)
    assert seen.at == datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert page.complete


def test_a_message_that_arrived_later_ends_it(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    vendor.failed_send(number=AMY, sender=MARKETING)
    vendor.failed_send(number=BEN, sender=MARKETING)
    vendor.clock.move(60)
    vendor._message("outbound-api", MARKETING, AMY, "Offer", "delivered")
    vendor._message("outbound-api", MARKETING, BEN, "Offer", "queued")
    assert blocked(pages(made(vendor))) == {BEN: {MARKETING}}


@pytest.fixture
def long_list(vendor: TwilioTwin, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five messages on pages of two."""
    monkeypatch.setattr(twilio, "PAGE", 2)
    numbers = [f"+44770090020{n}" for n in range(5)]
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    for number in numbers:
        vendor.clock.move(1)
        vendor.failed_send(number=number, sender=MARKETING)
    return numbers


def test_the_walk_goes_on_page_by_page(vendor: TwilioTwin, long_list: list[str]) -> None:
    found = pages(made(vendor))
    assert [len(page.records) for page in found] == [2, 2, 1]
    assert [page.complete for page in found] == [False, False, True]
    assert set(blocked(found)) == set(long_list)


def test_a_walk_that_breaks_off_goes_on_where_it_stopped(
    vendor: TwilioTwin, long_list: list[str]
) -> None:
    vendor.faults.add("status", status=503, path=MESSAGES, skip=1, times=None)
    connector, found = made(vendor), []

    async def walk() -> None:
        async for page in connector.scan(None):
            found.append(page)

    with pytest.raises(Temporary):
        run(connector, walk())
    assert set(blocked(found)) == set(long_list[3:])
    assert not found[-1].complete
    vendor.faults.clear()
    rest = pages(made(vendor), found[-1].next_cursor)
    assert set(blocked(rest)) == set(long_list[:3])
    assert rest[-1].complete


def test_a_page_that_is_gone_starts_the_walk_again(
    vendor: TwilioTwin, long_list: list[str]
) -> None:
    first = pages(made(vendor))[0]
    vendor.faults.add("status", status=400, path=MESSAGES)
    assert set(blocked(pages(made(vendor), first.next_cursor))) == set(long_list)


def test_the_next_walk_reads_only_what_is_new(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    vendor.failed_send(number=AMY, sender=MARKETING)
    cursor = pages(made(vendor))[-1].next_cursor
    vendor.clock.move(3 * 3600)
    vendor.failed_send(number=BEN, sender=MARKETING)
    cursor = pages(made(vendor), cursor)[-1].next_cursor
    vendor.clock.move(1)
    assert blocked(pages(made(vendor), cursor)) == {BEN: {MARKETING}}
    vendor.clock.move(24 * 3600)
    cursor = pages(made(vendor), cursor)[-1].next_cursor
    assert blocked(pages(made(vendor), cursor)) == {}


def test_the_next_walk_sees_what_showed_late(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    cursor = pages(made(vendor))[-1].next_cursor
    vendor.clock.move(-1800)
    vendor.failed_send(number=AMY, sender=MARKETING)
    vendor.clock.move(3600)
    assert blocked(pages(made(vendor), cursor)) == {AMY: {MARKETING}}


@pytest.mark.parametrize("kind", ["html", "cut_json"])
def test_a_page_that_cannot_be_read_ends_the_walk(vendor: TwilioTwin, kind: Any) -> None:
    vendor.failed_send(number=AMY, sender=MARKETING)
    vendor.faults.add(kind, path=MESSAGES, times=None)
    with pytest.raises(Temporary):
        pages(made(vendor))


def test_a_list_of_another_shape_is_temporary(vendor: TwilioTwin) -> None:
    vendor.faults.add("status", status=200, body='{"a": 1, "b": 2}', path=MESSAGES, times=None)
    with pytest.raises(Temporary):
        pages(made(vendor))


def test_cursors_survive_being_written_down() -> None:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    for cursor in (
        Cursor(),
        Cursor(at),
        Cursor(None, at, "/a?b=|c"),
        Cursor(at, at + timedelta(1), "/p?q"),
    ):
        assert Cursor.read(str(cursor)) == cursor
    assert Cursor.read(None) == Cursor()


# --- inbound messages ----------------------------------------------------------------------------


def test_inbound_messages_come_oldest_first(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    first = vendor.text(sender=AMY, to=NUMBER, body="STOP")
    vendor.clock.move(60)
    second = vendor.text(sender=BEN, to=OWN_NUMBER, body="take me off")
    third = vendor.text(sender=BEN, to=REMINDER_NUMBER, body="yes")
    vendor.failed_send(number=AMY, sender=MARKETING)
    connector = made(vendor)
    texts, cursor = run(connector, connector.inbound(None))
    assert {text.message_id for text in texts} == {first, second, third}
    assert texts[0].message_id == first
    assert texts[0].number == signed_phone(AMY)
    assert (texts[0].sender, texts[0].other_sender) == (MARKETING, NUMBER)
    assert (texts[0].body, texts[0].flag) == ("STOP", None)
    own = next(text for text in texts if text.message_id == second)
    assert (own.sender, own.other_sender) == (OWN_NUMBER, None)
    vendor.clock.move(2 * 3600)
    fourth = vendor.text(sender=AMY, to=NUMBER, body="START")
    again = made(vendor)
    vendor.clock.move(2 * 3600)
    texts, cursor = run(again, again.inbound(cursor))
    assert [text.message_id for text in texts][-1] == fourth
    last = made(vendor)
    assert run(last, last.inbound(cursor))[0] == []


def test_the_time_of_a_message(vendor: TwilioTwin) -> None:
    vendor.clock.stop(datetime(2026, 5, 4, 12, tzinfo=UTC))
    sid = vendor.text(sender=AMY, to=NUMBER, body="START")
    connector = made(vendor)
    assert run(connector, connector.message_time(sid)) == datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize("sid", ["SM" + "0" * 32, "../Messages", ""])
def test_the_time_of_an_unknown_message_is_refused(vendor: TwilioTwin, sid: str) -> None:
    connector = made(vendor)
    with pytest.raises(Refused):
        run(connector, connector.message_time(sid))


def test_the_time_of_a_message_while_the_vendor_is_away(vendor: TwilioTwin) -> None:
    vendor.faults.add("status", status=503, times=None)
    connector = made(vendor)
    with pytest.raises(Temporary):
        run(connector, connector.message_time("SM" + "0" * 32))


def test_containers_are_services_and_numbers_outside_them(vendor: TwilioTwin) -> None:
    vendor.new_number(number="+447700900009")
    connector = made(vendor)
    found = {one.id: one for one in run(connector, connector.containers())}
    assert set(found) == {
        MARKETING,
        REMINDERS,
        SHARED_SERVICE,
        OWN_NUMBER,
        REMINDER_NUMBER,
        "+447700900009",
    }
    assert found[MARKETING] == Container(MARKETING, "marketing", sends=True)
