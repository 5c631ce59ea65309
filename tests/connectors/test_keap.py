"""Keap: the contract, what a status means, tags, several addresses, walks, tokens, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import httpx
import pytest
import respx

from connectors.budget import TokenBudget
from connectors.keap import DEFAULT_TAGS, EMAIL, Keap, Walk
from connectors.keap_line import READS_BY_POST
from prefs.core.errors import Refused, SettingsError, Temporary, Unusable
from prefs.core.propagation import (
    URGENT,
    Absent,
    Applied,
    Change,
    Connector,
    Limit,
    Local,
    Memory,
    Observed,
    Page,
    Ref,
    Seen,
    Slot,
    Target,
    Value,
    Wish,
)
from prefs.core.words import Channel, Kind, Source
from tests.connectors.contract import ConnectorContract, now
from tests.twins.keap import MARKETABLE, KeapTwin

T = TypeVar("T")
ADDRESSES = "/crm/rest/v2/emailAddresses"
CONTACTS = "/crm/rest/v2/contacts"
TAGS = "/crm/rest/v2/tags"
NO_SMS, NO_PHONE = "No marketing - sms", "No marketing - phone"
SMS = Slot(f"tag:{NO_SMS}", Channel.SMS, enforced=False)
PHONE = Slot(f"tag:{NO_PHONE}", Channel.PHONE, enforced=False)
REMINDERS = "Appointment reminders"
NUMBER = "+447700900123"


class TestKeap(ConnectorContract):
    """A Keap account; everybody in it has a tag for reminders, which nobody may touch."""

    system = "keap"
    exempt: ClassVar[Mapping[str, str]] = {"bulk": "Keap sets email statuses one by one"}
    small_pages = ("connectors.keap_line.PAGE",)
    read_path = f"{ADDRESSES}/.+/status"
    write_path = f"{ADDRESSES}/.+/status"
    write_method = "PATCH"
    scan_path = f"({ADDRESSES}|{CONTACTS})$"

    def make_twin(self) -> KeapTwin:
        return KeapTwin()

    def furnish(self) -> None:
        """Each run has a budget of its own, so the twin counts no calls unless a test says so."""
        self.twin.configure(windows=[])

    def options(self) -> Mapping[str, Any]:
        return {"token": self.twin.token}

    def run(self, job: Callable[[Connector], Awaitable[T]]) -> T:
        async def inside() -> T:
            connector = Keap(self.target(), TokenBudget(Limit(1000, 1.0)), now)
            try:
                return await job(connector)
            finally:
                await connector.close()

        return asyncio.run(inside())

    def listen(self, url: str) -> Mapping[str, Any]:
        """Told of opt-outs, too, which Keap may do or not."""
        self.twin.configure(tells_opt_out=True)
        return super().listen(url)

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return READS_BY_POST

    def reminders_untouched(self) -> bool:
        return REMINDERS not in self.twin.changed_by_api()

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, status="CONFIRMED", tags=[REMINDERS])

    def unset(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value, tags=[REMINDERS])

    def held(self, ref: Ref) -> Value:
        return Value.ON if self.twin.status(ref.value) in MARKETABLE else Value.OFF

    def break_word(self, ref: Ref) -> None:
        self.twin.new_status(ref.value, "PAUSED")

    def walk(self, cursor: str | None = None) -> list[Page]:
        async def job(connector: Connector) -> list[Page]:
            return [page async for page in connector.scan(cursor)]

        return self.run(job)

    def write(self, *changes: Change) -> Mapping[Change, Any]:
        return self.run(lambda connector: connector.apply(changes))

    def read(self, ref: Ref) -> Observed:
        found = self.observe(ref)[ref]
        assert isinstance(found, Observed), found
        return found

    # --- getting in -------------------------------------------------------------------------------

    def test_a_public_app_gets_in_by_its_refresh_token(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each refresh token is good for one use: the next process takes the kept one."""
        given = {"client_id": "twin-client", "client_secret": "twin-client-secret"}
        options, vault = {**given, "refresh_token": "twin-refresh"}, Memory()
        target = Target("keap", "rt", "keap", True, self.url, options, (), vault=vault)
        monkeypatch.setattr(self, "target", lambda: target)
        self.put(self.ref(1))
        for _ in range(2):
            assert self.value(self.ref(1)) is Value.ON
        assert [call.path for call in self.twin.writes()] == ["/token", "/token"]

    def test_the_personal_token_goes_in_its_own_header(self) -> None:
        self.put(self.ref(1))
        self.value(self.ref(1))
        (call, *_) = self.twin.calls
        assert "x-keap-api-key" in call.headers
        assert "authorization" not in call.headers

    def test_a_personal_token_may_be_wanted_as_a_bearer_token(self) -> None:
        self.twin.configure(token_as_bearer=True)
        self.put(self.ref(1))
        assert self.value(self.ref(1)) is Value.ON
        assert [call.status for call in self.twin.calls].count(401) == 1

    def test_the_declared_limit_keeps_within_the_vendors(self) -> None:
        self.twin.configure(windows=[[10, 1.0], [240, 60.0]])
        refs = [self.ref(number) for number in range(8)]
        for ref in refs:
            self.put(ref)
        token = URGENT.set(True)
        found = ConnectorContract.run(self, lambda connector: connector.observe(refs))
        URGENT.reset(token)
        assert all(isinstance(found[ref], Observed) for ref in refs)
        assert self.twin.limits.refused == 0

    # --- the person's own opt-out -----------------------------------------------------------------

    @pytest.mark.parametrize("status", ["LIST_UNSUBSCRIBE", "FEEDBACK", "SPAM", "ADMIN", "SYSTEM"])
    def test_an_on_that_keap_leaves_out_is_refused(self, status: str) -> None:
        self.put(self.ref(1))
        self.twin.person_unsubscribes(self.ref(1).value, status)
        answer = self.apply(Wish.ON, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Refused)
        assert self.ref(1).value not in str(answer)
        assert self.twin.status(self.ref(1).value) == status

    def test_an_on_takes_back_a_manual_opt_out(self) -> None:
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert self.twin.status(self.ref(1).value) == "MANUAL"
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Applied)
        assert self.held(self.ref(1)) is Value.ON

    def test_an_api_opt_out_that_shows_as_staffs_cannot_be_taken_back(self) -> None:
        """Keap does not say which of the two it is."""
        self.twin.configure(opt_out_as="ADMIN")
        self.put(self.ref(1))
        self.apply(Wish.OFF, self.ref(1))
        assert self.read(self.ref(1)).values[EMAIL] == Seen(Value.OFF, Source.VENDOR_ADMIN)
        assert isinstance(self.apply(Wish.ON, self.ref(1))[self.ref(1)], Refused)
        assert self.held(self.ref(1)) is Value.OFF

    @pytest.mark.parametrize("status", ["NON_MARKETABLE", "UNENGAGED_NON_MARKETABLE"])
    def test_an_opt_out_that_keap_needs_not_to_note_is_no_endless_work(self, status: str) -> None:
        """It mails nobody who never agreed, and may leave such a status as it is."""
        self.twin.configure(keeps_unpermitted=True)
        self.twin.new_contact(self.ref(1).value, status=status)
        answer = self.apply(Wish.OFF, self.ref(1))[self.ref(1)]
        assert isinstance(answer, Local)
        assert "not opted in" in answer.reason
        assert self.twin.status(self.ref(1).value) == status

    def test_no_opt_in_reason_is_ever_sent(self) -> None:
        self.put(self.ref(1))
        self.unset(self.ref(2))
        self.apply(Wish.OFF, self.ref(1))
        self.apply(Wish.ON, self.ref(2))
        bodies = [call.json() for call in self.twin.writes()]
        assert [set(body) for body in bodies] == [{"opted_in", "reason"}] * 2
        assert "consent" in bodies[1]["reason"]

    def test_an_address_that_keap_does_not_know_is_refused(self) -> None:
        assert isinstance(self.apply(Wish.OFF, self.ref(1))[self.ref(1)], Refused)
        assert self.twin.state.statuses == {}
        assert self.twin.state.contacts == {}

    # --- what a record is -------------------------------------------------------------------------

    def test_an_address_without_a_contact_is_known_by_its_status(self) -> None:
        self.twin.new_status(self.ref(1).value, "LIST_UNSUBSCRIBE")
        found = self.read(self.ref(1))
        assert found.values == {EMAIL: Seen(Value.OFF, Source.VENDOR_PERSON)}
        assert found.vendor_id is None

    def test_a_contact_without_a_status_is_known_by_its_tags(self) -> None:
        number = self.twin.new_contact(self.ref(1).value)
        self.twin.forget_status(self.ref(1).value)
        found = self.read(self.ref(1))
        assert found.vendor_id == str(number)
        assert EMAIL not in found.values
        assert found.values[SMS] == Seen(Value.UNMARKED)

    def test_a_contact_by_its_id_shows_its_addresses_and_numbers(self) -> None:
        number = self.twin.new_contact("a@example.com b@example.com", "07700 900123", "CONFIRMED")
        ref, gone = Ref(None, "", str(number)), Ref(Kind.EMAIL, "", "999")
        found = self.observe(ref, gone)
        assert found[ref].identifiers == (
            (Kind.EMAIL, "a@example.com"),
            (Kind.EMAIL, "b@example.com"),
            (Kind.PHONE, "07700 900123"),
        )
        assert isinstance(found[gone], Absent)

    @pytest.mark.parametrize(
        ("statuses", "value"),
        [
            (("MANUAL", "CONFIRMED"), Value.ON),
            (("MANUAL", "NON_MARKETABLE"), Value.UNSET),
            (("ADMIN", "MANUAL"), Value.OFF),
            (("ADMIN", "HARD_BOUNCE"), Value.OFF),
            (("INVALID", "HARD_BOUNCE"), Value.SILENT),
        ],
    )
    def test_several_addresses_of_one_contact(
        self, statuses: tuple[str, str], value: Value
    ) -> None:
        number = self.twin.new_contact("a@example.com b@example.com")
        for name, status in zip("ab", statuses, strict=True):
            self.twin.new_status(f"{name}@example.com", status)
        seen = self.read(Ref(None, "", str(number))).values[EMAIL]
        assert (seen.value, seen.fact) == (value, None)

    # --- proof of an opt-in -----------------------------------------------------------------------

    def proof(self, ref: Ref) -> Mapping[str, str] | None:
        """What a read shows; a scan must show the same."""
        seen = self.read(ref).values[EMAIL]
        scanned = [record for page in self.walk() for record in page.records]
        assert [read.values[EMAIL] for one, read in scanned if one == ref] == [seen]
        return seen.proof

    def test_a_confirmation_by_the_person_proves(self) -> None:
        self.twin.new_contact(self.ref(1).value, status="SINGLE_OPT_IN")
        assert self.proof(self.ref(1)) is None
        self.twin.person_confirms(self.ref(1).value)
        began = self.twin.state.statuses[self.ref(1).value].created
        assert self.proof(self.ref(1)) == {
            "at": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "how": "double opt-in, confirmed at this time or later",
        }

    @pytest.mark.parametrize("status", ["SINGLE_OPT_IN", "UNENGAGED_MARKETABLE"])
    def test_what_imports_and_staff_get_proves_nothing(self, status: str) -> None:
        self.twin.new_contact(self.ref(1).value, status=status)
        assert self.value(self.ref(1)) is Value.ON
        assert self.proof(self.ref(1)) is None

    def test_our_own_opt_in_proves_nothing(self) -> None:
        self.twin.new_contact(self.ref(1).value)
        self.apply(Wish.ON, self.ref(1))
        assert self.value(self.ref(1)) is Value.ON
        assert self.proof(self.ref(1)) is None

    def test_one_confirmed_address_proves_nothing_for_another(self) -> None:
        number = self.twin.new_contact("a@example.com b@example.com", status="SINGLE_OPT_IN")
        self.twin.person_confirms("a@example.com")
        assert self.read(Ref(None, "", str(number))).values[EMAIL] == Seen(Value.ON)

    def test_an_off_by_id_is_written_to_every_address_that_keap_knows(self) -> None:
        number = self.twin.new_contact("a@example.com b@example.com c@example.com", "", "CONFIRMED")
        self.twin.forget_status("c@example.com")
        change = Change(Ref(None, "", str(number)), EMAIL, Wish.OFF)
        assert isinstance(self.write(change)[change], Applied)
        assert [self.twin.status(f"{name}@example.com") for name in "ab"] == ["MANUAL"] * 2

    @pytest.mark.parametrize("stored", [NUMBER, "07700900123", "07700 900123"])
    def test_people_are_found_by_their_number(self, stored: str) -> None:
        number = self.twin.new_contact("amy@example.com", stored, "CONFIRMED")
        other = Ref(Kind.PHONE, "+447700900999")
        found = self.observe(Ref(Kind.PHONE, NUMBER), other)
        assert found[Ref(Kind.PHONE, NUMBER)].vendor_id == str(number)
        assert found[Ref(Kind.PHONE, NUMBER)].values[EMAIL].value is Value.ON
        assert isinstance(found[other], Absent)

    def test_a_wildcard_finds_nobody_else(self) -> None:
        self.put(self.ref(1))
        star = Ref(Kind.EMAIL, "p*")
        assert isinstance(self.observe(star)[star], Absent)

    def test_what_would_change_the_question_is_not_asked(self) -> None:
        odd = Ref(Kind.EMAIL, '"a;email==b"@example.com')
        assert isinstance(self.observe(odd)[odd], Refused)
        other = Ref(Kind.MESSENGER, "123")
        assert isinstance(self.observe(other)[other], Refused)

    def test_a_bounce_is_shown_of_its_address_alone(self) -> None:
        """What is shown beside it would count as undeliverable too."""
        number = self.twin.new_contact("amy@example.com", NUMBER, "HARD_BOUNCE")
        found = self.read(Ref(Kind.EMAIL, "amy@example.com"))
        assert found.values[EMAIL] == Seen(Value.SILENT, fact="hard_bounce")
        assert found.identifiers == ((Kind.EMAIL, "amy@example.com"),)
        assert self.read(Ref(None, "", str(number))).values[EMAIL] == Seen(Value.SILENT)

    def test_a_proxys_404_is_not_an_absence(self) -> None:
        self.put(self.ref(1))
        self.twin.faults.add("status", path=ADDRESSES, status=404, body="<html>", times=None)
        assert isinstance(self.observe(self.ref(1))[self.ref(1)], Refused)

    # --- tags, for the channels that Keap does not know -------------------------------------------

    def people(self, count: int) -> list[Ref]:
        ids = [self.twin.new_contact(f"p{n}@example.com", tags=[REMINDERS]) for n in range(count)]
        return [Ref(None, "", str(number)) for number in ids]

    def tagged(self, ref: Ref) -> set[str]:
        return set(self.twin.tags_of(int(ref.vendor_id or 0)))

    def test_a_missing_tag_is_made_at_the_first_write_only(self) -> None:
        (ref,) = self.people(1)
        assert self.read(ref).values[SMS] == Seen(Value.UNMARKED)
        assert self.twin.writes() == []
        change = Change(ref, SMS, Wish.OFF)
        for _ in range(2):
            assert isinstance(self.write(change)[change], Applied)
        assert self.tagged(ref) == {REMINDERS, NO_SMS}
        assert [call.path for call in self.twin.writes()].count(TAGS) == 1
        assert self.read(ref).values[SMS] == Seen(Value.OFF)
        assert self.read(ref).values[PHONE] == Seen(Value.UNMARKED)

    def test_an_on_takes_the_tag_away_and_makes_none(self) -> None:
        (ref,) = self.people(1)
        change = Change(ref, SMS, Wish.ON)
        assert isinstance(self.write(change)[change], Applied)
        assert self.twin.writes() == []
        self.twin.admin_tags(ref.vendor_id or "", NO_SMS)
        assert isinstance(self.write(change)[change], Applied)
        assert self.tagged(ref) == {REMINDERS}
        assert len(self.twin.writes()) == 1

    def test_an_on_is_sent_once_and_an_off_a_few_times(self) -> None:
        (ref,) = self.people(1)
        self.twin.admin_tags(ref.vendor_id or "", NO_SMS)
        self.twin.faults.add("status", method="POST", path=TAGS, status=503, times=None)
        for to, most in ((Wish.ON, 1), (Wish.OFF, 3)):
            before = len(self.twin.writes())
            change = Change(ref, SMS, to)
            assert isinstance(self.write(change)[change], Temporary)
            assert len(self.twin.writes()) - before == most

    def test_many_are_tagged_by_hundreds(self) -> None:
        refs = self.people(150)
        answers = self.write(*(Change(ref, SMS, Wish.OFF) for ref in refs))
        assert {type(answer) for answer in answers.values()} == {Applied}
        assert len(answers) == 150
        sizes = [len(c.json()["contact_ids"]) for c in self.twin.writes() if "apply" in c.path]
        assert sizes == [100, 50]

    def test_one_that_fails_fails_alone_and_one_left_out_is_unknown(self) -> None:
        refs = self.people(4)
        self.twin.faults.add("bad_item", key=f"^{refs[1].vendor_id}$")
        self.twin.faults.add("omit_item", key=f"^{refs[2].vendor_id}$")
        changes = [Change(ref, SMS, Wish.OFF) for ref in refs]
        answers = self.write(*changes)
        assert isinstance(answers[changes[0]], Applied)
        assert isinstance(answers[changes[1]], Refused)
        assert changes[2] not in answers
        assert self.tagged(refs[3]) == {REMINDERS, NO_SMS}

    @pytest.mark.parametrize("to", [Wish.OFF, Wish.ON])
    def test_one_contact_that_is_gone_keeps_no_other_from_its_tag(self, to: Wish) -> None:
        """Keap may refuse the whole call for it, with the same 404 that a missing tag gets."""
        refs = self.people(8)
        for ref in refs:
            self.twin.admin_tags(ref.vendor_id or "", NO_SMS if to is Wish.ON else NO_PHONE)
        self.twin.admin_tags(refs[0].vendor_id or "", NO_SMS)
        self.twin.configure(knows_all=True)
        self.twin.redact(refs[5].vendor_id or "")
        changes = [Change(ref, SMS, to) for ref in refs]
        answers = self.write(*changes)
        assert [type(answers[change]) for change in changes].count(Applied) == 7
        assert isinstance(answers[changes[5]], Refused)
        rest = [ref for ref in refs if ref != refs[5]]
        assert {NO_SMS in self.tagged(ref) for ref in rest} == {to is Wish.OFF}

    def test_all_contacts_with_the_address_are_tagged_and_off_only_together(self) -> None:
        ids = [self.twin.new_contact("home@example.com") for _ in range(2)]
        home = Ref(Kind.EMAIL, "home@example.com")
        self.twin.admin_tags(ids[0], NO_SMS)
        assert self.read(home).values[SMS] == Seen(Value.UNMARKED)
        change = Change(home, SMS, Wish.OFF)
        assert isinstance(self.write(change)[change], Applied)
        assert all(NO_SMS in self.twin.tags_of(number) for number in ids)
        assert self.read(home).vendor_id is None
        assert self.read(home).values[SMS] == Seen(Value.OFF)

    def test_several_people_show_only_what_they_share(self) -> None:
        """What one of them has alone is no address or number of the other."""
        self.twin.new_contact("home@example.com ann@example.com", NUMBER)
        self.twin.new_contact("home@example.com", "+447700900999")
        home = Ref(Kind.EMAIL, "home@example.com")
        assert self.read(home).identifiers == ((Kind.EMAIL, "home@example.com"),)

    def test_doubles_of_one_person_show_all_that_they_have(self) -> None:
        for number in (NUMBER, "07700 900123"):
            self.twin.new_contact("amy@example.com", number)
        shown = self.read(Ref(Kind.EMAIL, "amy@example.com")).identifiers
        assert [kind for kind, _ in shown] == [Kind.EMAIL, Kind.PHONE]

    def test_several_people_are_not_switched_on_together(self) -> None:
        """One of them may be out by an address or number that the others do not have."""
        ids = [
            self.twin.new_contact(f"home@example.com {name}@example.com", NUMBER, tags=[NO_SMS])
            for name in ("ann", "bob")
        ]
        self.twin.new_status("bob@example.com", "MANUAL")
        home, number = Ref(Kind.EMAIL, "home@example.com"), Ref(Kind.PHONE, NUMBER)
        changes = [Change(home, SMS, Wish.ON), Change(number, EMAIL, Wish.ON)]
        answers = self.write(*changes)
        assert {type(answers[change]) for change in changes} == {Refused}
        assert self.twin.status("bob@example.com") == "MANUAL"
        assert all(NO_SMS in self.twin.tags_of(one) for one in ids)
        alone = Change(home, EMAIL, Wish.ON)
        assert isinstance(self.write(alone)[alone], Applied)

    def test_who_has_no_contact_is_left_to_our_own_check(self) -> None:
        change = Change(Ref(Kind.PHONE, NUMBER), SMS, Wish.OFF)
        assert isinstance(self.write(change)[change], Local)
        assert self.twin.writes() == []

    def test_an_answer_without_tags_is_not_one_of_no_tags(self) -> None:
        (ref,) = self.people(1)
        self.twin.admin_tags(ref.vendor_id or "", NO_SMS)
        self.twin.configure(hide_tags=True)
        assert self.read(ref).values[SMS] == Seen(Value.OFF)

    def test_tags_are_asked_for_once_a_batch_until_all_are_there(self) -> None:
        refs = self.people(3)
        self.observe(*refs)
        assert [call.path for call in self.twin.calls].count(TAGS) == 1

    def test_a_deleted_tag_is_looked_up_again(self) -> None:
        (ref,) = self.people(1)
        self.twin.new_contact("all@example.com", tags=DEFAULT_TAGS.values())
        self.twin.admin_tags(ref.vendor_id or "", NO_SMS)

        async def job(connector: Connector) -> list[Any]:
            await connector.observe([ref])
            self.twin.admin_deletes_tag(NO_SMS)
            change = Change(ref, SMS, Wish.OFF)
            return [(await connector.apply([change]))[change] for _ in range(2)]

        first, second = self.run(job)
        assert isinstance(first, Temporary)
        assert isinstance(second, Applied)
        assert self.tagged(ref) == {REMINDERS, NO_SMS}

    def test_a_slot_that_is_not_configured_is_refused(self) -> None:
        (ref,) = self.people(1)
        change = Change(ref, Slot(f"tag:{REMINDERS}", Channel.SMS), Wish.OFF)
        assert isinstance(self.write(change)[change], Refused)
        assert self.twin.writes() == []

    # --- walks ------------------------------------------------------------------------------------

    def test_a_walk_sees_addresses_then_contacts(self) -> None:
        number = self.twin.new_contact("amy@example.com", NUMBER, "CONFIRMED", tags=[NO_SMS])
        statuses, contacts = self.walk()
        assert statuses.records[0][0] == Ref(Kind.EMAIL, "amy@example.com")
        assert statuses.records[0][1].values[EMAIL].value is Value.ON
        ((ref, read),) = contacts.records
        assert ref == Ref(None, "", str(number))
        assert (read.values[SMS].value, read.values[PHONE].value) == (Value.OFF, Value.UNMARKED)
        assert read.identifiers == ((Kind.EMAIL, "amy@example.com"), (Kind.PHONE, NUMBER))
        assert contacts.complete

    def test_a_walk_of_changes_sees_who_is_out_and_contacts_changed(self) -> None:
        self.twin.clock.move(-3600)
        for number in range(1, 4):
            self.put(self.ref(number))
        self.twin.clock.reset()
        first = self.walk()
        assert sum(len(page.records) for page in first) == 6
        self.twin.person_unsubscribes(self.ref(2).value)
        changed = self.twin.new_contact("new@example.com", status="CONFIRMED")
        statuses, contacts = self.walk(first[-1].next_cursor)
        assert [ref.value for ref, _ in statuses.records] == [self.ref(2).value]
        assert [ref.vendor_id for ref, _ in contacts.records] == [str(changed)]
        assert not contacts.complete
        assert contacts.next_cursor

    @pytest.mark.parametrize(
        ("statuses", "value"),
        [
            (("CONFIRMED",), Value.ON),
            (("MANUAL", "CONFIRMED"), Value.ON),
            (("MANUAL", "ADMIN"), Value.OFF),
            (("HARD_BOUNCE",), Value.SILENT),
            (("PAUSED", "CONFIRMED"), None),
        ],
    )
    def test_a_walk_of_changes_shows_the_addresses_of_a_changed_contact(
        self, statuses: tuple[str, ...], value: Value | None
    ) -> None:
        """Nothing else would tell before the next day that a new one may get marketing."""
        cursor = self.walk()[-1].next_cursor
        addresses = [f"p{number}@example.com" for number in range(len(statuses))]
        self.twin.new_contact(" ".join(addresses))
        for address, status in zip(addresses, statuses, strict=True):
            self.twin.new_status(address, status)
        ((_, read),) = self.walk(cursor)[-1].records
        seen = read.values.get(EMAIL)
        assert (seen.value if seen else None) is value
        assert seen is None or seen.fact is None

    def test_a_contact_that_does_not_show_statuses_says_nothing_of_them(self) -> None:
        self.twin.configure(hide_statuses=True)
        cursor = self.walk()[-1].next_cursor
        self.put(self.ref(1))
        ((_, read),) = self.walk(cursor)[-1].records
        assert EMAIL not in read.values

    def test_pages_follow_each_other_and_a_broken_walk_goes_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("connectors.keap_line.PAGE", 2)
        for number in range(5):
            self.put(self.ref(number))
        self.twin.faults.add("status", path=f"{CONTACTS}$", status=500, skip=1, times=None)
        seen: list[Page] = []

        async def kept(connector: Connector) -> None:
            async for page in connector.scan(None):
                seen.append(page)

        with pytest.raises(Temporary):
            self.run(kept)
        assert len(seen) == 4
        self.twin.faults.clear()
        rest = self.walk(seen[-1].next_cursor)
        assert [page.complete for page in (*seen, *rest)] == [False] * 5 + [True]
        ids = {ref.vendor_id for page in (*seen, *rest) for ref, _ in page.records}
        assert len(ids - {None}) == 5

    def test_a_page_that_keap_no_longer_knows_is_begun_again(self) -> None:
        self.put(self.ref(1))
        cursor = Walk("2026-11-24T12:00:00+00:00", token="stale").text
        pages = self.walk(cursor)
        assert sum(len(page.records) for page in pages) == 2

    def test_an_address_in_unknown_words_makes_a_walk_incomplete(self) -> None:
        self.put(self.ref(1))
        self.put(self.ref(2))
        self.break_word(self.ref(2))
        statuses, contacts = self.walk()
        assert [ref.value for ref, _ in statuses.records] == [self.ref(1).value]
        assert not contacts.complete


# --- what a status says --------------------------------------------------------------------------

BASE = "http://127.0.0.1:9"
AMY = Ref(Kind.EMAIL, "amy+1@example.com")
AMYS = f"{BASE}{ADDRESSES}/amy%2B1%40example.com/status"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def target(**options: Any) -> Target:
    given = {"token": "pat", "tags": {"sms": NO_SMS}, **options}
    return Target("keap", "rt", "keap", True, BASE, given, ("news",))


def run(job: Callable[[Keap], Awaitable[T]], **options: Any) -> T:
    async def inside() -> T:
        connector = Keap(target(**options), TokenBudget(Limit(1000, 1.0)), lambda: NOW)
        try:
            return await job(connector)
        finally:
            await connector.close()

    return asyncio.run(inside())


def amy_holds(status: object, opted_in: object, **more: object) -> respx.Route:
    respx.get(f"{BASE}{TAGS}").mock(return_value=httpx.Response(200, json={"tags": []}))
    respx.get(f"{BASE}{CONTACTS}").mock(return_value=httpx.Response(200, json={"contacts": []}))
    shown = {"email": AMY.value, "status": status, "opted_in": opted_in, **more}
    return respx.get(AMYS).mock(return_value=httpx.Response(200, json=shown))


def read() -> Any:
    return run(lambda connector: connector.observe([AMY]))[AMY]


@respx.mock
@pytest.mark.parametrize(
    ("status", "opted_in", "seen"),
    [
        ("MANUAL", False, Seen(Value.OFF, Source.VENDOR_PERSON)),
        ("LIST_UNSUBSCRIBE", False, Seen(Value.OFF, Source.VENDOR_PERSON)),
        ("FEEDBACK", False, Seen(Value.OFF, Source.VENDOR_PERSON)),
        ("SPAM", False, Seen(Value.OFF, Source.VENDOR_PERSON)),
        ("ADMIN", False, Seen(Value.OFF, Source.VENDOR_ADMIN)),
        ("SYSTEM", False, Seen(Value.OFF, Source.VENDOR_API)),
        ("CONFIRMED", True, Seen(Value.ON)),
        ("DOUBLE_OPT_IN", True, Seen(Value.ON)),
        ("SINGLE_OPT_IN", True, Seen(Value.ON)),
        ("UNENGAGED_MARKETABLE", True, Seen(Value.ON)),
        ("UNENGAGED_MARKETABLE", False, Seen(Value.UNSET)),
        ("NON_MARKETABLE", False, Seen(Value.UNSET)),
        ("UNENGAGED_NON_MARKETABLE", False, Seen(Value.UNSET)),
        ("HARD_BOUNCE", False, Seen(Value.SILENT, fact="hard_bounce")),
        ("INVALID", False, Seen(Value.SILENT, fact="invalid")),
        ("BOUNCE", False, Seen(Value.SILENT)),
        ("BOUNCE", True, Seen(Value.ON)),
        ("LOCKDOWN", False, Seen(Value.SILENT)),
        ("DEACTIVATED", False, Seen(Value.SILENT)),
    ],
)
def test_what_a_status_means(status: str, opted_in: bool, seen: Seen) -> None:
    amy_holds(status, opted_in)
    assert read().values[EMAIL] == seen


@respx.mock
@pytest.mark.parametrize(
    ("status", "opted_in", "at", "proves"),
    [
        ("CONFIRMED", True, "2024-05-21T14:30:00Z", True),
        ("DOUBLE_OPT_IN", True, "2024-05-21T14:30:00.123+01:00", True),
        ("CONFIRMED", False, "2024-05-21T14:30:00Z", False),
        ("CONFIRMED", True, "2024-05-21T14:30:00", False),
        ("CONFIRMED", True, "1970-01-01T00:00:00Z", False),
        ("CONFIRMED", True, None, False),
        ("SINGLE_OPT_IN", True, "2024-05-21T14:30:00Z", False),
    ],
)
def test_only_a_confirmation_with_a_time_proves(
    status: str, opted_in: bool, at: str | None, proves: bool
) -> None:
    amy_holds(status, opted_in, create_time=at)
    assert bool(read().values[EMAIL].proof) == proves


@respx.mock
@pytest.mark.parametrize(
    ("status", "opted_in"),
    [
        ("PAUSED", False),
        ("Opt-Out", False),
        ("manual", False),
        (None, False),
        ("CONFIRMED", None),
        ("CONFIRMED", "true"),
        ("LIST_UNSUBSCRIBE", True),
    ],
)
def test_what_is_unknown_or_says_both_is_refused(status: object, opted_in: object) -> None:
    amy_holds(status, opted_in)
    assert isinstance(read(), Refused)


@respx.mock
@pytest.mark.parametrize("body", [[], {"tags": "none"}, {"tags": [{}]}, {"tags": ["a"]}])
def test_an_odd_listing_is_no_read(body: object) -> None:
    amy_holds("CONFIRMED", True)
    respx.get(f"{BASE}{TAGS}").mock(return_value=httpx.Response(200, json=body))
    assert isinstance(read(), Temporary)


@respx.mock
@pytest.mark.parametrize(
    "contact",
    [
        "a",
        {},
        {"id": "1", "email_addresses": "a"},
        {"id": "1", "email_addresses": ["a"]},
        {"id": "1", "phone_numbers": {}},
    ],
)
def test_an_odd_contact_is_no_read(contact: object) -> None:
    amy_holds("CONFIRMED", True)
    respx.get(f"{BASE}{CONTACTS}").mock(
        return_value=httpx.Response(200, json={"contacts": [contact]})
    )
    assert isinstance(read(), Temporary)


@respx.mock
def test_an_answer_about_another_address_confirms_nothing() -> None:
    shown = {"email": "eve@example.com", "status": "MANUAL", "opted_in": False}
    respx.patch(AMYS).mock(return_value=httpx.Response(200, json=shown))
    change = Change(AMY, EMAIL, Wish.OFF)
    answer = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(answer, Temporary)
    assert answer.unclear
    assert "eve" not in str(answer)


@respx.mock
def test_an_off_that_is_still_shown_as_on_is_refused() -> None:
    shown = {"email": AMY.value.upper(), "status": "CONFIRMED", "opted_in": True}
    respx.patch(AMYS).mock(return_value=httpx.Response(200, json=shown))
    change = Change(AMY, EMAIL, Wish.OFF)
    assert isinstance(run(lambda connector: connector.apply([change]))[change], Refused)


# --- errors --------------------------------------------------------------------------------------


@respx.mock
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, 10.0),
        ({"Retry-After": "30"}, 30.0),
        ({"x-keap-product-quota-available": "7"}, 10.0),
        ({"x-keap-product-quota-available": "0"}, 3600.0),
    ],
)
def test_how_long_a_limit_is_waited_for(headers: dict[str, str], wait: float) -> None:
    body = {"code": "429", "message": "Quota Exceeded", "status": "Request Throttled"}
    amy_holds("CONFIRMED", True)
    route = respx.get(AMYS).mock(return_value=httpx.Response(429, headers=headers, json=body))
    found = read()
    assert isinstance(found, Temporary)
    assert found.retry_after == wait
    assert route.call_count == 1


@respx.mock
@pytest.mark.parametrize("code", [401, 403])
def test_the_gateways_refusal_parks_the_target(code: int) -> None:
    amy_holds("CONFIRMED", True)
    fault = {"faultstring": "Invalid", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}
    respx.get(AMYS).mock(return_value=httpx.Response(code, json={"fault": fault}))
    assert isinstance(read(), Unusable)


@respx.mock
def test_a_refusal_names_nobody() -> None:
    body = {"code": 400, "message": f"{AMY.value} is bad", "status": AMY.value, "details": []}
    respx.patch(AMYS).mock(return_value=httpx.Response(400, json=body))
    change = Change(AMY, EMAIL, Wish.OFF)
    answer = run(lambda connector: connector.apply([change]))[change]
    assert isinstance(answer, Refused)
    assert "amy" not in str(answer)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"token": None}, "set token"),
        ({"token": None, "client_id": "i", "client_secret": "s"}, "set token"),
        ({"tags": {"email": "No mail"}}, "tags can stand for"),
        ({"tags": {"sms": "No", "phone": "no "}}, "a tag of its own"),
        ({"tags": {"sms": " "}}, "a tag of its own"),
        ({"tags": {"sms": "no marketing - Phone"}}, "a tag of its own"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        run(lambda connector: connector.containers(), **options)


def test_slots_are_known_without_a_call() -> None:
    """A channel that the configuration does not name keeps its default tag."""

    async def job(connector: Keap) -> list[str]:
        assert connector.slots[0] == EMAIL
        return [slot.place for slot in connector.slots[1:]]

    defaults = [f"tag:No marketing - {name}" for name in ("sms", "phone", "post", "messenger")]
    assert run(job, tags={}) == defaults
    assert run(job, tags={"sms": "No texts"}) == ["tag:No texts", *defaults[1:]]


def test_the_default_tags_stand_for_every_channel_but_email() -> None:
    given = Target("keap", "rt", "keap", True, BASE, {"token": "pat"}, ())
    slots = Keap(given, TokenBudget(Limit(1)), lambda: NOW).slots
    assert {slot.channel for slot in slots} == set(Channel)
    assert {slot.enforced for slot in slots[1:]} == {False}


def test_the_next_walk_begins_a_little_before_this_one_did() -> None:
    walk = Walk.start(None, NOW)
    assert walk.following("t") == Walk(walk.began, token="t")
    contacts = walk.following(None)
    assert contacts is not None
    assert contacts.contacts
    assert contacts.following(None) is None
    later = Walk.start(contacts.rest().text, NOW + timedelta(hours=1))
    assert later.since == "2026-11-24T11:55:00.000Z"
    assert later.began == "2026-11-24T13:00:00+00:00"
