"""Xero: the contract, contact groups, archived contacts, pages, dates, and what is never called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from prefs.core.propagation import (
    Connector,
    Ref,
    Slot,
    Value,
)
from prefs.core.words import Channel
from tests.connectors.contract import ConnectorContract
from tests.twins.xero import CONTACTS, GROUPS, XeroTwin

GROUP = "No marketing - email"
OURS = {f"No marketing - {channel.value}" for channel in Channel}


class TestXero(ConnectorContract):
    system = "xero"
    has_words = False
    gets = Value.UNMARKED
    read_path = f"{CONTACTS}/"
    write_path = f"{GROUPS}/[^/]+/Contacts"
    scan_path = f"{CONTACTS}$"

    def make_twin(self) -> XeroTwin:
        return XeroTwin()

    def furnish(self) -> None:
        self.twin.configure(page_cap=2)
        for name in sorted(OURS):
            self.twin.new_group(name)
        self.twin.new_group("Suppliers")

    def options(self) -> Mapping[str, Any]:
        return {key: getattr(self.twin, key) for key in ("client_id", "client_secret", "tenant")}

    def reads_by_post(self) -> Sequence[tuple[str, str]]:
        return (("POST", "/connect/token"),)

    def slot(self, connector: Connector) -> Slot:
        return next(slot for slot in connector.slots if slot.channel is Channel.EMAIL)

    def put(self, ref: Ref) -> None:
        self.twin.new_contact(ref.value)
        self.twin.staff_adds(ref.value, "Suppliers")

    def unset(self, ref: Ref) -> None:
        self.put(ref)
        self.twin.staff_adds(ref.value, GROUP)

    def held(self, ref: Ref) -> Value:
        return Value.OFF if GROUP in self.twin.groups_of(ref.value) else Value.UNMARKED

    def reminders_untouched(self) -> bool:
        """No other group was changed, and none was emptied or deleted."""
        return not (self.twin.touched() - OURS or self.twin.dangers)

    def test_a_time_out_after_the_work_is_unclear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The calls that hang take their places among the five."""
        self.twin.configure(at_once=None)
        super().test_a_time_out_after_the_work_is_unclear(monkeypatch)
