"""A refresh token that a vendor replaced survives its process, and nobody reads it in the file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefs.store.vault import StoreVault
from tests.kit import Clinic, clinic


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Clinic]:
    made = clinic(tmp_path)
    yield made
    made.database.close()


def vault(rt: Clinic, target: str = "rt/keap") -> StoreVault:
    return StoreVault(rt.database, rt.keys, target, rt.clock)


def test_what_was_put_is_there_for_the_next_process(rt: Clinic) -> None:
    asyncio.run(vault(rt).put("refresh_token", "first"))
    asyncio.run(vault(rt).put("refresh_token", "second"))
    assert asyncio.run(vault(rt).get("refresh_token")) == "second"


def test_a_target_sees_its_own_alone(rt: Clinic) -> None:
    asyncio.run(vault(rt).put("refresh_token", "mine"))
    assert asyncio.run(vault(rt, "rt/xero").get("refresh_token")) is None


def test_nothing_of_it_can_be_read_in_the_file(rt: Clinic, tmp_path: Path) -> None:
    asyncio.run(vault(rt).put("refresh_token", "a-secret-to-be-found"))
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("prefs.db*"))
    assert b"a-secret-to-be-found" not in kept
