"""What every connector that tends its webhooks must do: one suite, a few lines for each system.

Webhooks lead to a mailbox on loopback, so that handshakes really take place.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast
from urllib.parse import quote

import pytest

from connectors import http, load
from connectors.budget import TokenBudget
from prefs.core.errors import Temporary
from prefs.core.propagation import Connector, Limit, Memory, Target, Tended, Unheard
from tests.twins.kit import Call, Twin, running
from tests.twins.mailbox import Mailbox, mailbox

KEY = "a key & secret"


class TendedContract:
    """Subclass per system. Methods named `test_*` run for each."""

    system: ClassVar[str]
    list_path: ClassVar[str]
    """Regular expression of the call that lists webhooks."""
    mend_path: ClassVar[str]
    mend_method: ClassVar[str] = "POST"
    needed: ClassVar[frozenset[str]]
    """Names of all that must be registered."""
    mends: ClassVar[bool] = True
    by_url: ClassVar[bool] = True
    """Whether the vendor shows where a webhook leads."""

    twin: Any
    url: str
    box: Mailbox
    vault: Memory
    shift: timedelta

    # --- what a subclass gives ------------------------------------------------------------------

    def make_twin(self) -> Twin[Any]:
        raise NotImplementedError

    def options(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def register(self) -> None:
        """As the operator does it, for all that is needed."""
        raise NotImplementedError

    def vanish(self) -> None:
        """All of it is gone at the vendor."""
        raise NotImplementedError

    def delivers(self) -> bool:
        """Whether the twin would deliver all that is needed to us."""
        raise NotImplementedError

    def furnish(self) -> None:
        """Set the vendor's account up."""

    def bare(self, path: str) -> str:
        """The path as the connector declares it."""
        return path

    # --- plumbing -------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _served(self, monkeypatch: pytest.MonkeyPatch, hold_to_specs: object) -> Iterator[None]:
        monkeypatch.setattr(http, "CALL_LIMIT", 2.0)
        with ExitStack() as stack:
            self.box = stack.enter_context(mailbox())
            self.box.echoes = "X-Hook-Secret"
            self.twin, self.url = stack.enter_context(running(self.make_twin()))
            self.vault, self.shift = Memory(), timedelta()
            self.furnish()
            yield
            self._only_declared_writes()

    def _only_declared_writes(self) -> None:
        declared = load(self.system).facts.writes
        for call in self.written():
            path = self.bare(call.path)
            assert any(
                call.method == method and re.fullmatch(pattern, path)
                for method, pattern in declared
            ), f"{call.method} {path} is not declared"

    def written(self) -> list[Call]:
        found: list[Call] = self.twin.writes()
        return found

    def target(self, *, live: bool = True) -> Target:
        return Target(
            name=self.system,
            brand="rt",
            system=self.system,
            live=live,
            base_url=self.url,
            options={**self.options(), "webhook_key": KEY},
            topics=("news",),
            public_url=self.box.url.removesuffix("/hook"),
            vault=self.vault,
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def look(self, *, live: bool = True) -> Unheard | None:
        """One look of a new process."""

        async def inside() -> Unheard | None:
            made = load(self.system)(self.target(live=live), TokenBudget(Limit(99)), self.now)
            assert isinstance(made, Tended)
            try:
                return await made.tend()
            finally:
                await cast(Connector, made).close()

        return asyncio.run(inside())

    def told(self, *, live: bool = True) -> Unheard:
        found = self.look(live=live)
        assert found is not None
        assert KEY not in found.todo
        assert quote(KEY) not in found.todo
        return found

    def during(self, act: Callable[[], object]) -> list[Call]:
        """What was written meanwhile."""
        before = len(self.written())
        act()
        return self.written()[before:]

    def needs_mending(self) -> None:
        if not self.mends:
            pytest.skip(f"exempt: webhooks of {self.system} are made by hand only")

    # --- the operator's will --------------------------------------------------------------------

    def test_it_says_how_often_it_wants_to_look(self) -> None:
        assert load(self.system).tend_every in (3600.0, 86400.0)

    @pytest.mark.parametrize("live", [True, False])
    def test_what_was_never_registered_is_said_and_not_made(self, live: bool) -> None:
        self.vanish()
        for _ in range(2):
            found = self.told(live=live)
            assert found.once
            assert all(name in found.todo for name in self.needed)
        assert self.written() == []

    def test_what_is_well_is_left_alone(self) -> None:
        self.register()
        for live in (True, False, True):
            assert self.look(live=live) is None
        assert self.written() == []

    def test_another_services_webhook_is_not_ours(self) -> None:
        if not self.by_url:
            pytest.skip(f"exempt: {self.system} does not show where its webhooks lead")
        self.register()
        self.box.url = self.box.url.replace("127.0.0.1", "localhost")
        assert self.told().once
        assert self.written() == []

    # --- what the vendor ended ------------------------------------------------------------------

    def test_what_was_there_before_is_brought_back(self) -> None:
        self.needs_mending()
        self.register()
        assert self.look() is None
        self.vanish()
        assert not self.delivers()
        assert self.during(self.look) != []
        assert self.delivers()
        assert self.during(self.look) == []

    def test_in_observe_mode_it_is_only_said(self) -> None:
        self.register()
        assert self.look(live=False) is None
        self.vanish()
        found = self.told(live=False)
        assert not found.once
        assert "observe" in found.todo
        assert self.written() == []

    def test_what_ends_again_and_again_is_for_a_person(self) -> None:
        self.needs_mending()
        self.register()
        self.look()
        for _ in range(2):
            self.vanish()
            assert self.look() is None
        self.vanish()
        found = self.told()
        assert self.delivers()
        assert "find out why" in found.todo
        assert self.look() == found
        self.shift = timedelta(days=8)
        assert self.look() is None

    @pytest.mark.parametrize("status", [400, 403])
    def test_a_vendor_that_refuses_is_told_to_a_person(self, status: int) -> None:
        self.needs_mending()
        self.register()
        self.look()
        self.vanish()
        self.twin.faults.add(
            "status", method=self.mend_method, path=self.mend_path, status=status, times=None
        )
        found = self.told()
        assert not found.once
        assert any(name in found.todo for name in self.needed)
        self.twin.faults.clear()
        assert self.look() is None

    @pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "html"}])
    def test_a_list_that_cannot_be_read_says_nothing(self, fault: dict[str, Any]) -> None:
        self.register()
        self.look()
        self.vanish()
        self.twin.faults.add(**fault, path=self.list_path, times=None)
        with pytest.raises(Temporary):
            self.look()
        assert self.written() == []

    def test_a_mending_that_breaks_off_is_taken_up_again(self) -> None:
        self.needs_mending()
        self.register()
        self.look()
        self.vanish()
        self.twin.faults.add(
            "status", method=self.mend_method, path=self.mend_path, status=503, times=None
        )
        with pytest.raises(Temporary):
            self.look()
        assert not self.delivers()
        self.twin.faults.clear()
        assert self.look() is None
        assert self.delivers()

    def test_an_answer_of_success_that_did_nothing_is_not_believed(self) -> None:
        self.needs_mending()
        self.register()
        self.look()
        self.vanish()
        self.twin.faults.add("lie", method=self.mend_method, path=self.mend_path, times=None)
        assert not self.told().once
