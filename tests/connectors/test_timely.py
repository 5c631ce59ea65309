"""Timely: tasks for staff instead of calls, and an export that is read strictly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from connectors.timely import Export, Timely
from prefs.core import identity
from prefs.core.errors import BadInput
from prefs.core.propagation import Assisted, Change, Memory, Ref, Target, Value, Wish
from prefs.core.words import Channel, Kind
from tests.connectors.contract import ConnectorContract
from tests.twins.timely import COLUMNS, TimelyTwin

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class Nothing:
    async def acquire(self) -> None:
        raise AssertionError("Timely has nothing to call")

    def release(self) -> None: ...

    def pause(self, seconds: float) -> None: ...


def timely(columns: Mapping[str, str] | None = None) -> Timely:
    options: dict[str, Any] = {"columns": COLUMNS if columns is None else columns}
    target = Target("timely", "rt", "timely", True, None, options, ("news",), vault=Memory())
    return Timely(target, Nothing(), lambda: NOW)


def read(text: str | bytes, columns: Mapping[str, str] | None = None) -> Export:
    data = text.encode() if isinstance(text, str) else text
    return timely(columns).read_export(data)


def values(export: Export) -> list[dict[Channel, Value]]:
    return [
        {slot.channel: seen.value for slot, seen in read.values.items()}
        for _, read in export.page.records
    ]


class TestTimely(ConnectorContract):
    """Exempt from every rule about calls: there is no interface to call."""

    system = "timely"
    exempt: ClassVar[Mapping[str, str]] = {
        "calls": "Timely has no interface to call; staff carry the changes"
    }

    def make_twin(self) -> TimelyTwin:
        return TimelyTwin()

    def options(self) -> Mapping[str, Any]:
        return {"columns": COLUMNS}

    def reminders_untouched(self) -> bool:
        return bool(self.twin.reminders_on()) and not self.twin.calls


# --- changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "word"), [(Wish.OFF, "off"), (Wish.ON, "on")])
def test_a_change_is_work_for_staff_that_leaves_reminders_alone(to: Wish, word: str) -> None:
    connector = timely()
    change = Change(Ref(Kind.EMAIL, "amy@example.com"), connector.slots[0], to)
    (answer,) = asyncio.run(connector.apply([change])).values()
    assert isinstance(answer, Assisted)
    assert f"Turn {word} marketing only." in answer.instruction
    assert "Leave appointment notifications and reminders as they are." in answer.instruction
    assert "amy" not in answer.instruction


# --- the export -----------------------------------------------------------------------------------


def test_its_own_export_is_read() -> None:
    twin = TimelyTwin()
    twin.new_customer("7", "Amy", "Pond", "amy@example.com", "7700900101")
    twin.new_customer("8", "Rory", "Williams", "", "7700900102", marketing=False)
    export = read(twin.export())
    assert (export.rows, export.bad, export.page.complete) == (2, 0, True)
    assert values(export) == [
        {Channel.EMAIL: Value.ON, Channel.SMS: Value.ON},
        {Channel.EMAIL: Value.OFF, Channel.SMS: Value.OFF},
    ]
    first, second = export.page.records
    assert first[0].vendor_id == "7"
    assert first[1].identifiers == ((Kind.EMAIL, "amy@example.com"), (Kind.PHONE, "+447700900101"))
    assert second[1].identifiers == ((Kind.PHONE, "+447700900102"),)


@pytest.mark.parametrize("word", ["No", "no", "FALSE", "0", "Off", " n "])
def test_words_of_off(word: str) -> None:
    text = f"email,mobile,sms_marketing,email_marketing\namy@example.com,,{word},Yes\n"
    assert values(read(text, {})) == [{Channel.EMAIL: Value.ON, Channel.SMS: Value.OFF}]


def test_an_empty_cell_says_nothing() -> None:
    text = "email,mobile,sms_marketing,email_marketing\namy@example.com,,,Yes\n"
    assert values(read(text, {}))[0][Channel.SMS] is Value.UNSET


def test_a_word_that_nobody_knows_is_not_guessed() -> None:
    """What the other column says still counts: an off in it is somebody's opt-out."""
    text = "email,mobile,sms_marketing,email_marketing\namy@example.com,,maybe,No\n"
    export = read(text, {})
    assert (export.rows, export.bad) == (1, 1)
    assert values(export) == [{Channel.EMAIL: Value.OFF}]


@pytest.mark.parametrize("row", ["amy@example.com,,maybe,Yes", "amy at home,none,No,No"])
def test_an_export_with_a_row_that_cannot_be_read_is_no_complete_one(row: str) -> None:
    """Who stands in that row must not pass for gone."""
    export = read(f"email,mobile,sms_marketing,email_marketing\n{row}\n", {})
    assert (export.rows, export.bad, export.page.complete) == (1, 1, False)


def test_a_customer_without_any_address_is_passed_over() -> None:
    """Nothing can be sent to them, and nobody is looked for there."""
    export = read("email,mobile,sms_marketing,email_marketing\n,,Yes,Yes\n", {})
    assert (export.rows, export.bad, values(export)) == (1, 0, [])
    assert export.page.complete


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffEmail;Mobile;SMS_marketing;Email_Marketing;Other\namy@example.com;;No;Yes;x\n",
        "Other,EMAIL_MARKETING,sms_marketing,mobile,email\nx,Yes,No,,amy@example.com\n",
        "email,mobile,sms_marketing,email_marketing\r\namy@example.com,,No,Yes\r\n",
    ],
)
def test_headings_in_any_case_order_and_delimiter(text: str) -> None:
    assert values(read(text, {})) == [{Channel.EMAIL: Value.ON, Channel.SMS: Value.OFF}]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadInput, match="receive sms marketing"):
        read("Email,Mobile\namy@example.com,\n")


def test_an_empty_file_is_no_empty_clinic() -> None:
    with pytest.raises(BadInput, match="lacks the column"):
        read("")


@pytest.mark.parametrize(
    "shown",
    [
        "7700900101",
        "07700900101",
        "+447700900101",
        "7700 900 101",
        "447700900101",
        "7700-900-101",
        "07700-900-101",
    ],
)
def test_mobiles_without_their_zero_or_plus(shown: str) -> None:
    text = f"email,mobile,sms_marketing,email_marketing\n,{shown},No,No\n"
    export = read(text, {})
    assert export.bad == 0
    ((_, read_),) = export.page.records
    ((kind, number),) = read_.identifiers
    assert (kind, identity.phone(number).key) == (Kind.PHONE, "+447700900101")


def test_a_mapped_column_that_is_missing_stops_the_import() -> None:
    """Also one that could be done without: whoever names it counts on it."""
    text = "Email,Mobile,Receive SMS marketing,Receive email marketing\namy@example.com,,No,No\n"
    with pytest.raises(BadInput, match="customer id"):
        read(text)


def test_without_ids_a_customer_has_one_that_names_nobody() -> None:
    """Ids stay when an address is erased."""
    text = "email,mobile,sms_marketing,email_marketing\nAmy@Example.com,,No,Yes\n"
    ids = [read(one, {}).page.records[0][1].vendor_id for one in (text, text.lower())]
    assert ids[0] == ids[1]
    assert ids[0]
    assert "amy" not in ids[0].lower()


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_lines_may_end_in_any_way(end: str) -> None:
    lines = [
        "email,mobile,sms_marketing,email_marketing,note",
        'amy@example.com,,No,Yes,"a\nb"',
        "",
    ]
    assert values(read(end.join(lines), {})) == [{Channel.EMAIL: Value.ON, Channel.SMS: Value.OFF}]


def test_what_is_no_table_is_said_plainly() -> None:
    with pytest.raises(BadInput, match="no CSV"):
        read('email,mobile,sms_marketing,email_marketing\n"' + "x" * 140_000 + '",,No,No\n', {})


def test_a_spreadsheet_of_windows_is_read() -> None:
    text = "email,mobile,sms_marketing,email_marketing,name\namy@example.com,,No,No,Zoë\n"
    assert values(read(text.encode("cp1252"), {}))[0][Channel.SMS] is Value.OFF
