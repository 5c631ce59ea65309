"""Refresh tokens that are good for one use: kept before they are used, spent by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors import http
from connectors.budget import TokenBudget
from connectors.keap import Keap
from prefs.core.errors import Temporary, Unavailable, Unusable
from prefs.core.propagation import Limit, Memory, Observed, Ref, Target, Vault
from prefs.core.words import Kind
from prefs.store import vault as stored
from prefs.store.database import Database
from prefs.store.vault import StoreVault
from tests import empty
from tests.connectors.contract import now
from tests.kit import Clinic, clinic
from tests.twins.keap import KeapTwin
from tests.twins.kit import running

AMY = Ref(Kind.EMAIL, "amy@example.com")


@pytest.fixture
def keap() -> Iterator[KeapTwin]:
    with running(KeapTwin()) as (twin, _):
        twin.configure(windows=[])
        twin.new_contact(AMY.value, status="CONFIRMED")
        yield twin


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def connector(keap: KeapTwin, vault: Vault) -> Keap:
    options = {
        "client_id": "twin-client",
        "client_secret": "twin-client-secret",
        "refresh_token": "twin-refresh",
    }
    target = Target("keap", "rt", "keap", True, keap.url, options, (), vault=vault)
    return Keap(target, TokenBudget(Limit(1000, 1.0)), now)


async def read(*made: Keap) -> list[Any]:
    try:
        found = await asyncio.gather(*(one.observe([AMY]) for one in made))
        return [one[AMY] for one in found]
    finally:
        for one in made:
            await one.close()


def asked(keap: KeapTwin) -> list[int | None]:
    """The statuses of all requests for a token."""
    return [call.status for call in keap.calls if call.path == "/token"]


def test_two_processes_spend_one_token_after_the_other(
    keap: KeapTwin, rt: Clinic, tmp_path: Path
) -> None:
    """`prefs sync` beside `prefs serve`: a token spent twice may cost the whole connection."""
    keap.latency = 0.2
    with ExitStack() as stack:
        bases = [stack.enter_context(Database(empty.database(tmp_path))) for _ in range(2)]
        vaults = [StoreVault(base, rt.keys, "rt/keap", rt.clock) for base in bases]
        found = asyncio.run(read(*(connector(keap, vault) for vault in vaults)))
        kept = asyncio.run(vaults[0].get("refresh_token"))
    assert all(isinstance(one, Observed) for one in found)
    assert asked(keap) == [200, 200]
    assert kept == keap.state.refresh_token


def test_two_in_one_process_do_so_too(keap: KeapTwin) -> None:
    keap.latency = 0.2
    vault = Memory()
    found = asyncio.run(read(connector(keap, vault), connector(keap, vault)))
    assert all(isinstance(one, Observed) for one in found)
    assert asked(keap) == [200, 200]


class Locked(Memory):
    """A store that is away for the first few writes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def put(self, name: str, value: str) -> None:
        if self.left:
            self.left -= 1
            raise Unavailable("the store does not answer")
        await super().put(name, value)


def test_a_token_that_could_not_be_kept_is_not_used_and_not_lost(keap: KeapTwin) -> None:
    vault = Locked(1)

    async def job() -> tuple[Any, Any]:
        made = connector(keap, vault)
        try:
            with pytest.raises(Unavailable):
                await made.observe([AMY])
            before = [call.path for call in keap.calls]
            return before, (await made.observe([AMY]))[AMY]
        finally:
            await made.close()

    before, found = asyncio.run(job())
    assert before == ["/token"]
    assert isinstance(found, Observed)
    assert asked(keap) == [200, 200]


def test_a_process_that_died_with_the_token_in_hand_blocks_nobody_for_long(
    rt: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PATIENCE", 0.3)
    vault = StoreVault(rt.database, rt.keys, "rt/keap", rt.clock)

    async def take() -> bool:
        async with vault.alone("refresh_token"):
            return True

    with monkeypatch.context() as dying:
        dying.setattr(stored, "_leave", lambda conn, row: None)
        asyncio.run(take())
    with pytest.raises(Temporary):
        asyncio.run(take())
    rt.clock.forward(stored.HELD + 1)
    assert asyncio.run(take())
    assert asyncio.run(take())


def test_a_revoked_token_parks_the_target(keap: KeapTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    keap.state.refresh_token = "another"
    (found,) = asyncio.run(read(connector(keap, Memory())))
    assert isinstance(found, Unusable)
